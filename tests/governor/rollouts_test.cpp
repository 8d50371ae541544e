// What is planned of GRPO: steps and, between them, the texts of a rollout.
#include "lmxlab/align/grpo_run.h"
#include "lmxlab/base/files.h"
#include "lmxlab/config/presets.h"
#include "lmxlab/governor/govern.h"
#include "lmxlab/kernels/memory.h"
#include "lmxlab/training/run.h"
#include "tests/support/bases.h"
#include "tests/support/error_of.h"
#include "tests/support/temp_folder.h"

#include <gtest/gtest.h>

namespace lmxlab {
namespace {

// Steps that take less than texts do: two of them a rollout.
const std::string kSmall[] = {"run.batch=1", "run.accumulate=16"};

class Rollouts : public testing::Test {
 protected:
  void SetUp() override {
    const auto config = config::llama({.depth = 3,
                                       .dim = 128,
                                       .heads = 4,
                                       .kv_heads = 2,
                                       .hidden = 320,
                                       .vocab = 1000,
                                       .context = 256});
    test::save_bases(folder_.path(), config);
    std::string questions;
    for (int i = 0; i < 20; ++i)
      questions +=
          R"({"prompt": ")" + std::string(size_t(20 + 2 * i), 'a') + R"(", "answer": "b"})" + "\n";
    write_file_atomic(folder_ / "questions.jsonl", questions);
  }
  Recipe recipe(const std::string& base, const std::vector<std::string>& more) {
    std::vector<std::string> all{
        "model.preset=" + Json((folder_ / base).string()).dump(),
        "run.out=" + Json((folder_ / ("run" + std::to_string(runs_++))).string()).dump(),
        "data.file=" + Json((folder_ / "questions.jsonl").string()).dump(),
        "objective.kind=grpo",
        "rewards=[{\"reward\":\"exact\"}]",
        "grpo.prompts=4",
        "grpo.group_size=8",
        "grpo.max_completion_length=32",
        "run.steps=3",  // into the second rollout
        "run.eval_every=0",
        "data.validation=0"};
    all.insert(all.end(), more.begin(), more.end());
    return read_recipe("", "recipe", all);
  }
  test::TemporaryFolder folder_;
  int runs_ = 0;
};

// Rollouts that take more than a step and others, in parts and whole, with a reference.
TEST_F(Rollouts, ArePlannedAsARunTakesThem) {
  struct Case {
    std::string name, base;
    std::vector<std::string> settings;
  };
  for (const auto& c : std::vector<Case>{
           {"lora, texts", "dense", {"adapter.rank=8", kSmall[0], kSmall[1]}},
           {"qlora, texts", "packed", {"adapter.rank=8", kSmall[0], kSmall[1]}},
           {"qlora, parts",
            "packed",
            {"adapter.rank=8", kSmall[0], kSmall[1], "grpo.rows_at_once=3"}},
           {"qlora, steps", "packed", {"adapter.rank=8", "run.batch=16", "grpo.rows_at_once=4"}},
           {"a reference", "dense", {kSmall[0], kSmall[1], "grpo.beta=0.04"}},
           {"two orders",
            "packed",
            {"adapter.rank=8", kSmall[0], kSmall[1], "grpo.one_order=false"}}}) {
    plan::Parts planned;
    RunHooks hooks;
    hooks.method = align::grpo_method;
    hooks.plan = [&](const RunParts& parts, Recipe& r, bool) {
      Subject subject{.config = parts.config, .training = {r.optimizer, r.schedule, r.run}};
      subject.trains = align::grpo_subject(parts, r);
      planned = measure(subject, training_settings(subject.training));
      return planned.peak();
    };
    kernels::clear_cache();
    const auto held = int64_t(kernels::active_bytes());
    const auto result = train_run(recipe(c.base, c.settings), hooks);
    const auto measured = double(result.train.peak_bytes - held);
    EXPECT_NEAR(double(planned.arrays()), measured, 0.03 * measured) << c.name;
    if (c.name.ends_with("texts") || c.name.ends_with("steps")) {
      EXPECT_EQ(planned.gradients == 0, c.name.ends_with("texts")) << c.name;
    }
  }
}

TEST_F(Rollouts, ThatAreTooLargeAreOfferedInParts) {
  const auto r = recipe("packed", {"adapter.rank=8", kSmall[0], kSmall[1]});
  const auto parts = resolve_run(r);
  const auto subject = align::grpo_subject(parts, r);
  TrainOptions training{r.optimizer, r.schedule, r.run};
  const Subject all{.config = parts.config, .training = training, .trains = subject};
  const auto peak = measure(all, training_settings(training)).peak();
  GovernOptions govern;
  govern.budget = {peak - 1000, "of a test"};
  const auto e =
      test::error_of([&] { govern_training(parts.config, training, 0, govern, nullptr, subject); });
  EXPECT_EQ(e.kind(), Kind::resource);
  EXPECT_NE(
      std::string(e.what()).find("1) fewer completions at a time, --set grpo.rows_at_once=16"),
      std::string::npos)
      << e.what();
}

}  // namespace
}  // namespace lmxlab
