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
};

LanguageModel made(const Case& c) {
  LanguageModel model(config::preset(c.preset));
  if (c.bits) quantize_model(model, {.bits = c.bits, .group_size = 32}), interleave_model(model);
  const Enter enter(model.runtime());
  mx::eval(core::values(core::collect(model.transformer())));
  return model;
}

TEST(RehearseGeneration, IsWhatItTakes) {
  for (const Case& c : {Case{"gpt-shakespeare-small", 1, 2, 0},
                        Case{"gpt-shakespeare-small", 1, 2, 4}, Case{"llama-tiny", 16, 2, 0},
                        Case{"llama-10m", 2, 200, 0}, Case{"gpt-shakespeare", 3, 100, 4}}) {
    GenerateOptions options;
    options.sampling.temperature = 0, options.max_tokens = 40, options.ignore_eos = true;
    size_t rehearsed = 0, before = 0;
    {
      const kernels::Rehearsal rehearsal;
      const auto model = made(c);
      before = kernels::active_bytes();
      kernels::reset_peak();
      rehearsed = rehearse_generation(model, c.rows, c.length, options, true).peak - before;
    }
    const auto model = made(c);
    before = kernels::active_bytes();
    TokenStream stream(
        model, std::vector<std::vector<int>>(size_t(c.rows), std::vector<int>(size_t(c.length), 0)),
        options);
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

}  // namespace
}  // namespace lmxlab
