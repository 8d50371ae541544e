// What a recipe does before and around the steps: what comes first, a teacher that has run, a
// moving average of the weights; all resumed bit for bit.
#include "lmxlab/io/safetensors.h"
#include "lmxlab/models/language_model.h"
#include "lmxlab/training/average.h"
#include "lmxlab/training/objectives/distill.h"
#include "tests/support/error_of.h"
#include "tests/training/finetune.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <cmath>

namespace lmxlab {
namespace {

TEST_F(FineTune, ACurriculumOfRowsThatGrowResumes) {
  expect_resumes({"curriculum.by=context", "curriculum.from=8", "curriculum.stages=2",
                  "curriculum.steps=8", "run.accumulate=2"});
}

TEST_F(FineTune, ACurriculumOfSamplesResumes) {
  expect_resumes({file("sft.jsonl"), "objective.kind=sft", "curriculum.by=rarity"});
}

// Batches of the first steps are of easy samples, whether they share rows or not.
TEST_F(FineTune, EasySamplesComeFirst) {
  std::string lines;
  for (int i = 0; i < 200; ++i)  // by turns easy and hard: a and z
    lines += "{\"prompt\": \"" + std::string(i % 2 ? "zz" : "aa") + "\", \"completion\": \"" +
             std::string(i % 2 ? "zzz" : "aaa") + "\", \"difficulty\": " + std::to_string(i % 2) +
             "}\n";
  write_file_atomic(folder_ / "graded.jsonl", lines);
  for (const bool packing : {true, false}) {
    const auto r =
        recipe("graded", {file("graded.jsonl"), "objective.kind=sft", "curriculum.by=difficulty",
                          "curriculum.start=0.3", "curriculum.stages=2", "run.steps=40",
                          "run.context=16", packing ? "data.packing=true" : "data.packing=false"});
    auto data = load_data(r);
    auto source = train_data(run_batches(data, r, true), r);
    const auto hard = [&](int batches) {
      int n = 0;
      for (int i = 0; i < batches; ++i) {
        auto ids = mx::astype(source.train->next().inputs, mx::int32);
        n += mx::sum(mx::equal(ids, mx::array(int('z')))).item<int>();
      }
      return n;
    };
    EXPECT_EQ(hard(3), 0) << packing;
    source.train->restore({0, 20});
    EXPECT_GT(hard(5), 10) << packing;
  }
  const auto missing = test::error_of([&] {
    train_run(recipe("none", {file("sft.jsonl"), "objective.kind=sft", "curriculum.by=difficulty"}),
              {});
  });
  EXPECT_EQ(missing.kind(), Kind::bad_data);
  EXPECT_NE(std::string(missing.what()).find("sample 1 "), std::string::npos);
}

TEST_F(FineTune, RefusesCurriculaThatCannotBe) {
  const auto kind = [&](const std::vector<std::string>& more) {
    return test::error_of([&] { recipe("refused", more); }).kind();
  };
  for (const std::vector<std::string>& more : std::vector<std::vector<std::string>>{
           {"curriculum.by=length"},                         // of a text
           {"curriculum.by=context"},                        // from where?
           {"curriculum.by=context", "curriculum.from=32"},  // the whole length
           {"curriculum.by=rarity", "curriculum.from=8"},    // not its option
           {"curriculum.by=context", "curriculum.from=8", "curriculum.start=0.5"},
           {"curriculum.by=context", "curriculum.from=8", "curriculum.stages=7"},  // of 6 steps
           {file("sft.jsonl"), "objective.kind=sft", "curriculum.by=context", "curriculum.from=8"},
           {file("pairs.jsonl"), "objective.kind=dpo", "curriculum.by=length"},
           {"curriculum.by=rarity", "curriculum.start=0"},
           {"optimizer.ema=1"},
           {"objective.top_k=4"}})
    EXPECT_EQ(kind(more), Kind::usage) << more.back();
}

// What the teacher kept of all tokens is the teacher; of few, a lower bound.
TEST_F(FineTune, ATeacherThatRanIsTheOneThatRuns) {
  const auto teacher = train_run(recipe("teacher", {"run.steps=60", "data.validation=0"}), {}).out;
  const auto first_loss = [&](const char* out, const std::vector<std::string>& more) {
    std::vector<std::string> all{file("sft.jsonl"), "objective.kind=distill",
                                 "objective.teacher=" + Json(teacher.string()).dump(),
                                 "objective.temperature=2", "run.steps=2"};
    all.insert(all.end(), more.begin(), more.end());
    double loss = 0;
    RunHooks hooks;
    hooks.step = [&](const StepMetrics& m, int64_t) {
      if (m.step == 1) loss = m.more.at("divergence");
    };
    const auto r = train_run(recipe(out, all), hooks);
    return std::pair(loss, *r.train.val_loss);
  };
  const auto online = first_loss("online", {});
  const auto whole = first_loss("all", {"objective.top_k=258"});
  const auto few = first_loss("few", {"objective.top_k=8"});
  EXPECT_NEAR(whole.first, online.first, 2e-3 * online.first);  // log p is kept as float16
  EXPECT_NEAR(whole.second, online.second, 2e-3 * online.second);
  EXPECT_LE(few.first, online.first * 1.001);
  EXPECT_GT(few.first, 0.3 * online.first);
  // Another run takes the file, and needs no teacher; of other data it is refused.
  const auto file_of = [&](const char* out) {
    return "objective.teacher=" + Json((folder_ / out / "teacher.safetensors").string()).dump();
  };
  const auto again = first_loss("again", {file_of("few")});
  EXPECT_EQ(again, few);
  const auto wrong = [&](const std::vector<std::string>& more) {
    return test::error_of([&] { first_loss("wrong", more); }).kind();
  };
  EXPECT_EQ(wrong({file_of("few"), "run.context=24"}), Kind::mismatch);
  EXPECT_EQ(wrong({file_of("few"), "objective.temperature=1"}), Kind::mismatch);
  EXPECT_EQ(wrong({file_of("few"), "objective.top_k=9"}), Kind::mismatch);
  EXPECT_EQ(wrong({"objective.teacher=" + Json((teacher / "model.safetensors").string()).dump()}),
            Kind::bad_data);
}

TEST_F(FineTune, AKeptTeacherResumes) {
  expect_resumes({"objective.kind=distill", "objective.teacher=" + Json(base_).dump(),
                  "objective.top_k=16", "objective.hard_labels=0.5", "optimizer.ema=0.5"});
}

TEST_F(FineTune, AnAverageResumes) {
  expect_resumes({"optimizer.ema=0.9"});
}
TEST_F(FineTune, AnAverageOfAnAdapterResumes) {
  expect_resumes({"optimizer.ema=0.9", "adapter.rank=4", file("sft.jsonl"), "objective.kind=sft"});
}

// Rows that do not reach a model's last positions leave these untrained: it is said.
TEST_F(FineTune, PositionsThatNoRowReachesAreToldOf) {
  for (const int context : {64, 128}) {
    std::vector<std::string> warnings;
    RunHooks hooks;
    hooks.warn = [&](const std::string& text) { warnings.push_back(text); };
    train_run(recipe("warned" + std::to_string(context),
                     {"model.preset=gpt-tiny", "run.steps=1", "run.batch=1",
                      "run.context=" + std::to_string(context), "data.validation=0"}),
              hooks);
    ASSERT_EQ(warnings.size(), context == 64 ? 1u : 0u);
    if (context == 64) {
      EXPECT_NE(warnings[0].find("model.context=64"), std::string::npos);
    }
  }
}

// The saved weights are the average of those that the same run has without it.
TEST_F(FineTune, TheAverageIsWhatIsSaved) {
  const double decay = 0.6;
  std::vector<core::Tensors> weights;
  const auto read = [](const fs::path& folder) {
    return io::SafeTensors(folder / "model.safetensors").all();
  };
  const std::vector<std::string> more{"run.steps=6", "run.checkpoint_every=1", "run.keep=10"};
  const auto plain = train_run(recipe("plain", more), {}).out;
  auto with = more;
  with.push_back("optimizer.ema=" + std::to_string(decay));
  std::vector<double> losses;
  RunHooks hooks;
  const auto averaged = train_run(recipe("averaged", with), hooks);
  auto expected = read(base_);
  for (int t = 1; t <= 6; ++t) {
    const auto now = read(plain / "checkpoints" / ("step-" + std::to_string(t)));
    const double d = std::min(decay, (1.0 + t) / (10.0 + t));
    for (auto& [name, a] : expected)
      a = mx::add(mx::multiply(a, mx::array(float(d))),
                  mx::multiply(now.at(name), mx::array(float(1 - d))));
  }
  const auto saved = read(averaged.out);
  ASSERT_EQ(saved.size(), expected.size());
  for (const auto& [name, a] : expected) {
    const auto worst = mx::max(mx::abs(mx::subtract(a, saved.at(name)))).item<float>();
    EXPECT_LE(worst, 2e-6f) << name;
  }
  // And what is validated.
  const auto r = recipe("unused", more);
  auto model = LanguageModel::load(averaged.out);
  auto data = load_data(r);
  Trainer trainer(model, train_data(run_batches(data, r, true), r), {.run = r.run});
  EXPECT_NEAR(*trainer.validate(), *averaged.train.val_loss, 1e-6);
}

}  // namespace
}  // namespace lmxlab
