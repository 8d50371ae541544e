// GRPO by a recipe: it learns, resumes bit for bit, and refuses what does not fit together.
#include "lmxlab/align/grpo_run.h"

#include "lmxlab/base/files.h"
#include "lmxlab/training/checkpoint.h"
#include "tests/support/error_of.h"
#include "tests/support/temp_folder.h"

#include <gtest/gtest.h>

#include <numeric>

namespace lmxlab::align {
namespace {

class GrpoRun : public testing::Test {
 protected:
  void SetUp() override {
    std::string lines;  // the answer is the letter of the prompt
    for (int i = 0; i < 40; ++i) {
      const char c = static_cast<char>('a' + i % 4);
      lines += std::string(R"({"prompt": ")") + c + "=\", \"answer\": \"" + c + "\"}\n";
    }
    write_file_atomic(folder_ / "questions.jsonl", lines);
  }
  Recipe recipe(const std::string& out, const std::vector<std::string>& more = {}) const {
    std::vector<std::string> all{"run.out=" + Json((folder_ / out).string()).dump(),
                                 "data.file=" + Json((folder_ / "questions.jsonl").string()).dump(),
                                 "run.steps=8"};
    all.insert(all.end(), more.begin(), more.end());
    return read_recipe(R"(
[model]
preset = "llama-tiny"
dim = 32
heads = 4
kv_heads = 2
hidden = 64
[data]
tokenizer = "byte"
validation = 0.1
[optimizer]
name = "adamw"
lr = 5e-3
[objective]
kind = "grpo"
[grpo]
prompts = 4
group_size = 8
max_completion_length = 2
iterations = 2
[[rewards]]
reward = { kind = "regex", pattern = "[a-d]" }
weight = 0.5
[[rewards]]
reward = "exact"
[run]
batch = 16
context = 16
log_every = 1
checkpoint_every = 4
eval_every = 4
)",
                       "recipe", all);
  }
  void expect_resumes(const std::string& name, const std::vector<std::string>& more) const;
  test::TemporaryFolder folder_;
};

RunHooks hooks_with(std::function<void(const StepMetrics&, int64_t)> step = {}) {
  RunHooks hooks;
  hooks.method = grpo_method;
  hooks.step = std::move(step);
  return hooks;
}

// Eight steps, whole and interrupted behind the fifth.
void GrpoRun::expect_resumes(const std::string& name, const std::vector<std::string>& more) const {
  const auto whole = train_run(recipe("whole-" + name, more), hooks_with()).out;
  std::stop_source source;
  const auto parts =
      train_run(recipe("parts-" + name, more), hooks_with([&](const StepMetrics& m, int64_t) {
                  if (m.step == 5) source.request_stop();
                }),
                source.get_token())
          .out;
  EXPECT_EQ(RunFolder(parts).checkpoints().back().step, 5);
  resume_run(parts, {}, hooks_with());
  const auto state = fs::path("checkpoints") / "step-8" / "state.safetensors";
  EXPECT_EQ(read_file(whole / state), read_file(parts / state)) << name;
}

TEST_F(GrpoRun, LearnsWhatIsRewarded) {
  std::vector<double> rewards, held_out;
  const auto r = train_run(recipe("run", {"run.steps=120", "run.checkpoint_every=0"}),
                           hooks_with([&](const StepMetrics& m, int64_t) {
                             rewards.push_back(m.more.at("reward"));
                             EXPECT_EQ(m.more.at("mismatch"), 0) << m.step;
                             if (m.more.count("val_reward"))
                               held_out.push_back(m.more.at("val_reward"));
                           }));
  EXPECT_EQ(r.train.steps, 120);
  EXPECT_GT(rewards.back(), rewards.front() + 0.25);
  EXPECT_EQ(held_out.size(), 30u);
  EXPECT_TRUE(fs::exists(r.out / "model.safetensors"));
}

TEST_F(GrpoRun, ResumesBitForBit) {
  expect_resumes("plain", {});
  expect_resumes("adapter", {"adapter.rank=4", "grpo.beta=0.05"});
  expect_resumes("reference", {"grpo.beta=0.05"});
}

TEST_F(GrpoRun, PlansAreOfItsBatches) {
  const auto r = recipe("plan");
  const auto parts = resolve_run(r);
  const auto subject = grpo_subject(parts, r);
  EXPECT_EQ(subject.writes->rows, 32);
  EXPECT_EQ(subject.writes->each, 8);
  EXPECT_EQ(subject.writes->completion, 2);
  const auto parted = grpo_subject(parts, recipe("parted", {"grpo.rows_at_once=3"}));
  EXPECT_EQ(parted.writes->rows, 3);
  EXPECT_EQ(parted.writes->each, 8);
  const auto batch = subject.batch(r.run);
  EXPECT_EQ(batch.inputs.shape(0), 16);
  EXPECT_EQ(batch.inputs.shape(1), 16);
  EXPECT_GT(rehearse_training(parts.config, {.run = r.run}, mx::int32, subject).peak,
            size_t{100'000});
}

// A reward model that was trained on pairs, as an adapter of the policy's base, rewards what it
// preferred there.
TEST_F(GrpoRun, LearnsWhatARewardModelPrefers) {
  const auto base = (folder_ / "base").string();
  train_run(
      read_recipe("", "base",
                  {"run.out=" + Json(base).dump(), "run.steps=1", "run.batch=2", "run.context=16",
                   "model.preset=llama-tiny", "model.dim=32", "model.heads=4", "model.kv_heads=2",
                   "model.hidden=64", "data.tokenizer=byte", "data.validation=0"}),
      {});
  std::string lines;
  for (int i = 0; i < 64; ++i) {
    const char c = static_cast<char>('a' + i % 4), d = static_cast<char>('a' + i % 26);
    const char bad = static_cast<char>(' ' + (7 * i) % 60);
    lines += std::string(R"({"prompt": ")") + c + "=\", \"chosen\": \"" + d +
             static_cast<char>('a' + (5 * i) % 26) + "\", \"rejected\": " +
             Json(std::string({bad, static_cast<char>(' ' + (11 * i) % 60)})).dump() + "}\n";
  }
  write_file_atomic(folder_ / "pairs.jsonl", lines);
  const auto judge = (folder_ / "judge").string();
  train_run(read_recipe("", "judge",
                        {"run.out=" + Json(judge).dump(), "run.steps=40", "run.batch=8",
                         "run.context=16", "model.preset=" + Json(base).dump(),
                         "data.file=" + Json((folder_ / "pairs.jsonl").string()).dump(),
                         "data.validation=0", "objective.kind=reward", "optimizer.lr=0.01",
                         "adapter.rank=8"}),
            {});
  const std::vector<std::string> more{
      "model={\"preset\":" + Json(base).dump() + "}", "run.steps=120", "optimizer.lr=0.01",
      "run.checkpoint_every=0",
      "rewards=[{\"reward\":{\"kind\":\"model\",\"model\":" + Json(judge).dump() + "}}]"};
  std::vector<double> rewards;
  train_run(recipe("policy", more), hooks_with([&](const StepMetrics& m, int64_t) {
              rewards.push_back(m.more.at("reward"));
            }));
  // Where the policy adapts the judge's base, the plan has the adapter and the head, and not the
  // base once more.
  auto adapted = more;
  adapted.push_back("adapter.rank=8");
  const auto asked = recipe("planned", adapted);
  const auto memory = grpo_subject(resolve_run(asked), asked).judges;
  EXPECT_GT(memory.reading, 0);
  EXPECT_GT(memory.mapped, 0);
  EXPECT_LT(memory.mapped, LanguageModel::load(base).parameter_bytes());
  adapted.insert(adapted.end(), {"run.steps=8", "run.checkpoint_every=4"});
  expect_resumes("judged", adapted);
  const auto mean = [&](size_t from) {
    return std::accumulate(rewards.begin() + long(from), rewards.begin() + long(from) + 20, 0.0) /
           20;
  };
  EXPECT_GT(mean(100), mean(0) + 1);
  const std::vector<std::string> wrong{
      "rewards=[{\"reward\":{\"kind\":\"model\",\"model\":" + Json(base).dump() + "}}]"};
  EXPECT_EQ(test::error_of([&] { train_run(recipe("wrong", wrong), hooks_with()); }).kind(),
            Kind::usage);
}

TEST_F(GrpoRun, RefusesWhatDoesNotFitTogether) {
  const auto kind = [&](const std::vector<std::string>& more, bool method = true) {
    return test::error_of(
               [&] { train_run(recipe("refused", more), method ? hooks_with() : RunHooks{}); })
        .kind();
  };
  EXPECT_EQ(kind({}, false), Kind::unsupported);
  EXPECT_EQ(kind({"rewards=[]"}), Kind::usage);
  EXPECT_EQ(kind({"grpo.group_sizes=4"}), Kind::usage);
  EXPECT_EQ(kind({"rewards=[{\"reward\":\"exacts\"}]"}), Kind::usage);
  EXPECT_EQ(kind({"objective.kind=sft"}), Kind::usage);
  EXPECT_EQ(kind({"run.batch=5"}), Kind::usage);
  write_file_atomic(folder_ / "texts.jsonl", "{\"text\": \"a\"}\n");
  EXPECT_EQ(kind({"data.file=" + Json((folder_ / "texts.jsonl").string()).dump()}), Kind::usage);
}

}  // namespace
}  // namespace lmxlab::align
