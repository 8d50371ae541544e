// Closed forms against rehearsals: what a machine is told that cannot rehearse.
#include "lmxlab/plan/closed.h"

#include "lmxlab/base/files.h"
#include "lmxlab/config/presets.h"
#include "lmxlab/governor/measure.h"
#include "lmxlab/training/run.h"

#include "tests/support/bases.h"
#include "tests/support/temp_folder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>

namespace lmxlab {
namespace {

struct Off {
  double by;  // estimated / rehearsed - 1
  std::string name;
};

// @return  ascending. A use that cannot be, of widths that are no whole groups, is left out.
std::vector<Off> compare(const std::vector<std::string>& presets, const std::string& use) {
  std::vector<Off> all;
  for (const auto& name : presets) {
    Subject subject{.config = config::preset(name)};
    plan::Settings s;
    const bool decode = use == "decode", generate = decode || use == "prefill";
    s.mode = generate         ? plan::Mode::generate
             : use == "lora"  ? plan::Mode::lora
             : use == "qlora" ? plan::Mode::qlora
                              : plan::Mode::train;
    s.batch = decode ? 3 : generate ? 2 : 4;
    s.context = decode ? 8 : std::min(128, usual_length(subject.config, !generate));
    s.checkpointing = use == "checkpointing", s.bf16 = use == "bf16";
    subject.new_tokens = decode ? 64 : 1;
    try {
      const auto rehearsed = double(measure(subject, s).peak());
      all.push_back({double(estimate(subject, s, 4).peak()) / rehearsed - 1, name});
    } catch (const Error& e) {
      EXPECT_EQ(use, "qlora") << name << ": " << e.what();
    }
  }
  std::sort(all.begin(), all.end(), [](const Off& a, const Off& b) { return a.by < b.by; });
  return all;
}

// An estimate decides what is refused: it may be above what is needed, and hardly below. Tiny
// models are its worst: what else takes some bytes is nothing beside a real one's weights.
TEST(Closed, NoPresetTakesMuchMoreThanIsEstimated) {
  struct Bound {
    const char* use;
    double below, above;            // of the tiny ones
    double real_below, real_above;  // of real sizes
  };
  std::vector<std::string> tiny;
  for (const auto& p : config::presets())
    if (std::string(p.name).ends_with("-tiny")) tiny.push_back(p.name);
  ASSERT_GT(tiny.size(), 90u);
  const std::vector<std::string> real{"gpt-10m",      "gpt-small",  "llama-30m",
                                      "smollm2-135m", "qwen3-0.6b", "mamba-130m"};
  for (const Bound& b : {Bound{"train", 0.05, 0.22, 0.01, 0.01},
                         {"checkpointing", 0.05, 0.35, 0.01, 0.01},
                         {"bf16", 0.10, 0.35, 0.01, 0.01},
                         {"lora", 0.05, 0.45, 0.01, 0.01},
                         {"qlora", 0.05, 0.50, 0.02, 0.01},
                         {"prefill", 0.02, 0.45, 0.05, 0.07},
                         {"decode", 0.02, 0.26, 0.02, 0.10}}) {
    const auto off = compare(tiny, b.use);
    ASSERT_GT(off.size(), 50u) << b.use;
    std::printf("%-14s", b.use);
    for (size_t i = 0; i < 3; ++i)
      std::printf(" %s %+.1f %%,", off[i].name.c_str(), 100 * off[i].by);
    for (size_t i = off.size() - 3; i < off.size(); ++i)
      std::printf(" %s %+.1f %%,", off[i].name.c_str(), 100 * off[i].by);
    EXPECT_GE(off.front().by, -b.below) << b.use << ", " << off.front().name;
    EXPECT_LE(off.back().by, b.above) << b.use << ", " << off.back().name;
    const auto larger = compare(real, b.use);
    for (const auto& o : larger) {
      std::printf(" %s %+.1f %%", o.name.c_str(), 100 * o.by);
      EXPECT_GE(o.by, -b.real_below) << b.use << ", " << o.name;
      EXPECT_LE(o.by, b.real_above) << b.use << ", " << o.name;
    }
    std::printf("\n");
  }
}

// Runs with adapters, as a recipe has them. Weights, gradients and optimizer are counted: exact.
// What a step makes is estimated as if every layer had an adapter, so that few targets are
// over-estimated.
TEST(Closed, RunsWithAdaptersAreNoFullTraining) {
  const test::TemporaryFolder folder;
  const auto config = config::llama({.depth = 4,
                                     .dim = 256,
                                     .heads = 4,
                                     .kv_heads = 2,
                                     .hidden = 640,
                                     .vocab = 2000,
                                     .context = 128});
  test::save_bases(folder.path(), config);
  std::string pairs;
  for (int i = 0; i < 60; ++i)
    pairs += R"({"prompt": "x", "chosen": ")" + std::string(size_t(5 + i % 40), 'a') +
             R"(", "rejected": "b"})" + "\n";
  write_file_atomic(folder / "pairs.jsonl", pairs);
  struct Case {
    std::string base;
    std::vector<std::string> settings;
    double below, above;
  };
  const auto full = estimate(
      {.config = config},
      [] {
        plan::Settings s;
        s.mode = plan::Mode::train, s.batch = 4, s.context = 128;
        return s;
      }(),
      4);
  for (const auto& c : std::vector<Case>{
           {"dense", {"adapter.rank=8"}, 0.03, 0.10},
           {"dense", {"adapter.rank=4", "adapter.targets=[\"q_proj\", \"v_proj\"]"}, 0.03, 0.25},
           {"packed", {"adapter.rank=8"}, 0.05, 0.10},
           {"packed", {"adapter.rank=32", "run.gradient_checkpointing=true"}, 0.05, 0.10},
           {"dense",
            {"data.file=" + (folder / "pairs.jsonl").string(), "objective.kind=dpo",
             "adapter.rank=4"},
            0.05,
            0.10}}) {
    std::vector<std::string> all{"model.preset=" + (folder / c.base).string(),
                                 "run.out=" + (folder / "run").string(),
                                 "run.steps=3",
                                 "run.batch=4",
                                 "run.context=128",
                                 "run.eval_every=0",
                                 "data.validation=0"};
    all.insert(all.end(), c.settings.begin(), c.settings.end());
    const auto recipe = read_recipe("", "recipe", all);
    const auto parts = resolve_run(recipe);
    Subject subject{.config = parts.config,
                    .training = {recipe.optimizer, recipe.schedule, recipe.run}};
    subject.trains = parts.subject;
    const auto s = training_settings(subject.training, subject.trains);
    const auto what = c.base + ", " + c.settings[0] + ", " + c.settings.back();
    EXPECT_EQ(s.mode, plan::Mode::lora) << what;
    EXPECT_EQ(s.rank, recipe.adapter->rank) << what;
    const auto rehearsed = measure(subject, s), estimated = estimate(subject, s, 4);
    EXPECT_EQ(estimated.weights, rehearsed.weights) << what;
    EXPECT_EQ(estimated.gradients, rehearsed.gradients) << what;
    EXPECT_EQ(estimated.optimizer, rehearsed.optimizer) << what;
    const double off = double(estimated.peak()) / double(rehearsed.peak()) - 1;
    EXPECT_GE(off, -c.below) << what;
    EXPECT_LE(off, c.above) << what;
    EXPECT_LT(estimated.optimizer, full.optimizer / 5) << what;
  }
}

}  // namespace
}  // namespace lmxlab
