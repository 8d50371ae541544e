#include "lmxlab/inference/rehearse.h"

#include "lmxlab/config/presets.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/core/tree.h"
#include "lmxlab/kernels/memory.h"
#include "lmxlab/kernels/rehearsal.h"
#include "lmxlab/models/quantize.h"

#include <gtest/gtest.h>
#include <mlx/transforms.h>

#include <algorithm>

namespace lmxlab {
namespace {

struct Case {
  std::string preset;
  int rows, length, bits;
  bool one_prompt = false;
};

LanguageModel made(const Case& c) {
  LanguageModel model(config::preset(c.preset));
  if (c.bits) quantize_model(model, {.bits = c.bits, .group_size = 32}), interleave_model(model);
  const Enter enter(model.runtime());
  mx::eval(core::values(core::collect(model.transformer())));
  return model;
}

TEST(RehearseGeneration, IsWhatItTakes) {
  for (const Case& c :
       {Case{"gpt-shakespeare-small", 1, 2, 0}, Case{"gpt-shakespeare-small", 1, 2, 4},
        Case{"llama-tiny", 16, 2, 0}, Case{"llama-10m", 2, 200, 0},
        Case{"llama-10m", 4, 200, 0, true}, Case{"gpt-shakespeare", 3, 100, 4}}) {
    GenerateOptions options;
    options.sampling.temperature = 0, options.max_tokens = 40, options.ignore_eos = true;
    size_t rehearsed = 0, before = 0;
    {
      const kernels::Rehearsal rehearsal;
      const auto model = made(c);
      before = kernels::active_bytes();
      kernels::reset_peak();
      const int each = c.one_prompt ? c.rows : 1;
      rehearsed = rehearse_generation(model, c.rows, c.length, options, each).peak - before;
    }
    const auto model = made(c);
    before = kernels::active_bytes();
    std::vector<std::vector<int>> prompts(size_t(c.rows), std::vector<int>(size_t(c.length), 0));
    for (int r = 0; r < c.rows && !c.one_prompt; ++r) prompts[size_t(r)][0] = r;
    TokenStream stream(model, prompts, options);
    while (stream.next()) {
    }
    const auto measured = static_cast<size_t>(stream.stats().peak_bytes) - before;
    // Small blocks that a queued reader holds are not written over: a matter of its timing. The
    // plan takes the slowest reader.
    EXPECT_GE(double(rehearsed), 0.97 * double(measured)) << c.preset;
    EXPECT_NEAR(double(rehearsed), double(measured),
                std::max(0.05 * double(measured), double(1 << 18)))
        << c.preset << " " << c.rows << " x " << c.length << ", " << c.bits << " bits";
  }
}

// A draft model's pass and the one over its drafts are in the plan.
TEST(RehearseGeneration, CountsADraft) {
  for (const char* name : {"gpt-shakespeare", "mamba2-tiny"}) {
    auto small = config::preset(name);
    small.layers.resize(1);
    GenerateOptions options;
    options.sampling.temperature = 0, options.max_tokens = 60, options.ignore_eos = true;
    options.num_draft_tokens = 5;
    const auto both = [&](auto&& use) {
      const auto model = made({name, 1, 1, 0});
      const LanguageModel other(small, 3);
      {
        const Enter enter(other.runtime());
        auto weights = core::collect(const_cast<LanguageModel&>(other).transformer());
        mx::eval(core::values(weights));
      }
      DraftModel draft(other, model);
      options.draft = &draft;
      const auto before = kernels::active_bytes();
      kernels::reset_peak();
      return use(model) - before;
    };
    size_t rehearsed = 0;
    {
      const kernels::Rehearsal rehearsal;
      rehearsed = both([&](const LanguageModel& model) {
        return rehearse_generation(model, 1, 40, options).peak;
      });
    }
    const auto measured = both([&](const LanguageModel& model) {
      TokenStream stream(model, {std::vector<int>(40, 0)}, options);
      while (stream.next()) {
      }
      EXPECT_GT(stream.stats().draft_tokens, 20);
      return size_t(stream.stats().peak_bytes);
    });
    EXPECT_GE(double(rehearsed), 0.97 * double(measured)) << name;
    EXPECT_NEAR(double(rehearsed), double(measured),
                std::max(0.05 * double(measured), double(1 << 18)))
        << name;
  }
}

}  // namespace
}  // namespace lmxlab
