// Fine-tuning by recipe: adapters and whole models on texts, samples and pairs; resumed bit for
// bit.
#include "tests/training/finetune.h"
#include "lmxlab/base/files.h"
#include "lmxlab/base/random.h"
#include "lmxlab/config/presets.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/models/quantize.h"
#include "lmxlab/training/checkpoint.h"
#include "lmxlab/training/pair_objectives.h"
#include "lmxlab/training/pairs.h"
#include "lmxlab/training/run.h"
#include "lmxlab/training/step.h"
#include "tests/support/error_of.h"
#include "tests/support/temp_folder.h"

#include <gtest/gtest.h>

#include <mlx/mlx.h>

#include <numeric>

namespace lmxlab {
namespace {

TEST_F(FineTune, AnAdapterOfATextResumes) {
  expect_resumes({"adapter.rank=4", "adapter.dropout=0.1"});
  const auto out = folder_ / "whole";
  EXPECT_FALSE(fs::exists(out / "model.safetensors"));
  auto model = LanguageModel::load(base_of_adapter(out));
  load_adapter(model, out);
  EXPECT_EQ(adapters_of(model).size(), 1u);
}

TEST_F(FineTune, SamplesResume) {
  expect_resumes({file("sft.jsonl"), "objective.kind=sft", "objective.label_smoothing=0.1",
                  "objective.z_loss=1e-4"});
}

TEST_F(FineTune, PairsResumeAndTheirMarginGrows) {
  const std::vector<std::string> more{file("pairs.jsonl"), "objective.kind=dpo", "adapter.rank=8",
                                      "run.batch=8", "objective.beta=1"};
  expect_resumes(more);
  auto longer = more;
  longer.push_back("run.steps=100");
  std::vector<double> margins, accuracies;
  RunHooks hooks;
  hooks.step = [&](const StepMetrics& m, int64_t) {
    if (!m.val_loss) return;
    margins.push_back(m.more.at("val_margin")), accuracies.push_back(m.more.at("val_accuracy"));
  };
  const auto r = train_run(recipe("longer", longer), hooks);
  EXPECT_GT(margins.back(), margins.front() + 0.5);
  EXPECT_GE(accuracies.back(), 0.9);
  EXPECT_LT(*r.train.val_loss, 0.6);  // it begins at log 2
}

TEST_F(FineTune, OtherObjectivesOfPairs) {
  for (const char* kind : {"simpo", "orpo"}) {
    std::vector<double> losses;
    RunHooks hooks;
    hooks.step = [&](const StepMetrics& m, int64_t) {
      if (m.val_loss) losses.push_back(*m.val_loss);
    };
    train_run(
        recipe(kind, {file("pairs.jsonl"), std::string("objective.kind=") + kind, "run.steps=24"}),
        hooks);
    EXPECT_LT(losses.back(), losses.front()) << kind;
  }
}

// The teacher is the base before it was packed: what packing lost comes back, in part.
TEST_F(FineTune, DistilsFromItself) {
  const auto teacher = train_run(recipe("teacher", {"run.steps=60", "data.validation=0"}), {}).out;
  auto model = LanguageModel::load(teacher);
  quantize_model(model, {.bits = 2, .group_size = 32});
  model.save(folder_ / "packed");
  data::Tokenizer::bytes().save(folder_ / "packed");
  const std::vector<std::string> more{"model.preset=" + Json((folder_ / "packed").string()).dump(),
                                      "adapter.rank=16",
                                      "objective.kind=distill",
                                      "objective.teacher=" + Json(teacher.string()).dump(),
                                      "data.validation=0",
                                      "optimizer.lr=0.003"};
  expect_resumes(more);
  auto longer = more;
  longer.insert(longer.end(), {"run.steps=50", "objective.beta=0.5", "objective.temperature=2",
                               "objective.hard_labels=0.1"});
  std::vector<double> divergence;
  RunHooks hooks;
  hooks.step = [&](const StepMetrics& m, int64_t) {
    divergence.push_back(m.more.at("divergence"));
  };
  train_run(recipe("longer", longer), hooks);
  EXPECT_LT(divergence.back(), 0.5 * divergence.front());
  const auto odd = test::error_of([&] {
    LanguageModel other(config::preset("llama-tiny"), 1);
    other.save(folder_ / "other");
    auto wrong = more;
    wrong[3] = "objective.teacher=" + Json((folder_ / "other").string()).dump();
    train_run(recipe("wrong", wrong), {});
  });
  EXPECT_EQ(odd.kind(), Kind::mismatch);
}

TEST_F(FineTune, OnlyWhatIsNamedTrains) {
  const auto before = LanguageModel::load(base_);
  const auto out = train_run(recipe("only", {"optimizer.only=[\"model.layers.1.*\"]"}), {}).out;
  auto a = LanguageModel::load(base_), b = LanguageModel::load(out);
  const auto was = core::collect(a.transformer()), is = core::collect(b.transformer());
  size_t moved = 0;
  for (size_t i = 0; i < was.size(); ++i) {
    const bool same = mx::array_equal(was[i].param->value, is[i].param->value).item<bool>();
    EXPECT_EQ(same, !was[i].path.starts_with("model.layers.1.")) << was[i].path;
    moved += !same;
  }
  EXPECT_GT(moved, 5u);
}

// What one step of SGD from the same weights makes of batches.
struct Stepped {
  double loss = 0;
  std::vector<float> weights;
};
Stepped stepped(const config::Model& config, const std::vector<data::Batch>& batches,
                bool checkpointing = false,
                std::shared_ptr<const Objective> objective = next_token()) {
  LanguageModel model(config, 1);
  const Enter enter(model.runtime());
  OptimizerConfig sgd;
  sgd.name = OptimizerName::sgd;
  TrainStep step(
      model.transformer(), sgd,
      {.clip = 0, .gradient_checkpointing = checkpointing, .objective = std::move(objective)});
  auto state = step.initial(1);
  Stepped out{double(step(state, batches, 1.0f, 1).loss.item<float>()), {}};
  for (const auto& p : state.params) {
    const auto v = to_vector<float>(p);
    out.weights.insert(out.weights.end(), v.begin(), v.end());
  }
  return out;
}
// Weights up to 1 that a rate of 1 has moved.
void expect_same(const Stepped& a, const Stepped& b, double bound) {
  EXPECT_NEAR(a.loss, b.loss, 1e-6 * b.loss);
  double worst = 0;
  for (size_t i = 0; i < a.weights.size(); ++i)
    worst = std::max(worst, std::abs(double(a.weights[i]) - double(b.weights[i])));
  EXPECT_LE(worst, bound);
}

// The loss and the gradient of samples that share rows are those of samples that do not.
TEST_F(FineTune, PackedAsUnpacked) {
  const auto config = LanguageModel::load(base_).config();
  const auto r = recipe("unused", {file("sft.jsonl"), "objective.kind=sft", "data.validation=0"});
  const auto samples = load_data(r).samples->sequences;
  for (const bool checkpointing : {false, true}) {
    std::vector<Stepped> got;
    for (const bool packing : {true, false}) {
      const auto pieces = data::pack(samples, 32, {.together = packing});
      std::vector<data::Batch> batches;
      for (size_t i = 0; i < pieces.rows.size(); ++i)
        batches.push_back(data::packed_batch(samples, pieces, std::vector<uint32_t>{uint32_t(i)}));
      EXPECT_EQ(pieces.rows.size() < 60, packing);
      got.push_back(stepped(config, batches, checkpointing));
    }
    expect_same(got[0], got[1], 2e-6);
  }
}

// Batches with few and with many learned tokens add up to what the large batch gives.
TEST_F(FineTune, AccumulationWeighsTokens) {
  const auto config = LanguageModel::load(base_).config();
  const auto r = recipe("unused", {file("sft.jsonl"), "objective.kind=sft", "data.validation=0"});
  const auto samples = load_data(r).samples->sequences;
  const auto packing = data::pack(samples, 32, {});
  std::vector<Stepped> got;
  for (const int rows : {8, 1}) {
    std::vector<data::Batch> batches;
    for (uint32_t i = 0; i < 8; i += uint32_t(rows)) {
      std::vector<uint32_t> some(size_t(rows), i);
      std::iota(some.begin(), some.end(), i);
      batches.push_back(data::packed_batch(samples, packing, some));
    }
    got.push_back(stepped(config, batches));
  }
  expect_same(got[0], got[1], 1e-6);
}

// ORPO divides by tokens and by pairs: batches of one pair each, whose answers are of different
// lengths, add up to the large batch.
TEST_F(FineTune, AccumulationWeighsTokensAndPairs) {
  const auto config = LanguageModel::load(base_).config();
  const auto r = recipe("unused", {file("pairs.jsonl"), "objective.kind=orpo", "data.validation=0",
                                   "objective.lambda=0.5"});
  const auto pairs = pairs_of(std::move(*load_data(r).samples), 1);
  const auto objective = pair_objective(r.objective);
  std::vector<Stepped> got;
  for (const int each : {8, 2, 1}) {
    std::vector<data::Batch> batches;
    for (size_t i = 0; i < 8; i += static_cast<size_t>(each)) {
      std::vector<const TokenPair*> some;
      for (size_t j = i; j < i + static_cast<size_t>(each); ++j) some.push_back(&pairs[j]);
      batches.push_back(pair_batch(some, 32, PairLayout::plain));
    }
    got.push_back(stepped(config, batches, false, objective));
  }
  expect_same(got[0], got[1], 1e-6);
  expect_same(got[0], got[2], 1e-6);
  // A test of the test: pairs alone as units are not the same.
  struct ByPairs : Objective {
    std::shared_ptr<const Objective> of;
    Value operator()(const core::Transformer& m, const data::Batch& b,
                     core::Pass& p) const override {
      auto v = (*of)(m, b, p);
      const auto nll = mx::divide(v.more[0].loss, v.more[0].units);
      return {mx::add(v.loss, mx::multiply(nll, v.units)), v.units};
    }
  };
  const auto naive = std::make_shared<ByPairs>();
  naive->of = objective;
  std::vector<data::Batch> batches;
  for (size_t i = 0; i < 8; ++i) batches.push_back(pair_batch({&pairs[i]}, 32, PairLayout::plain));
  EXPECT_GT(std::abs(stepped(config, batches, false, naive).loss - got[0].loss),
            1e-4 * got[0].loss);
}

TEST_F(FineTune, RefusesWhatDoesNotFitTogether) {
  const auto kind = [&](const std::vector<std::string>& more) {
    return test::error_of([&] { train_run(recipe("refused", more), {}); }).kind();
  };
  EXPECT_EQ(kind({file("sft.jsonl")}), Kind::usage);     // no objective of samples
  EXPECT_EQ(kind({"objective.kind=sft"}), Kind::usage);  // of a text
  EXPECT_EQ(kind({file("sft.jsonl"), "objective.kind=dpo"}), Kind::usage);    // no pairs
  EXPECT_EQ(kind({file("pairs.jsonl"), "objective.kind=sft"}), Kind::usage);  // pairs
  EXPECT_EQ(kind({"objective.beta=0.1"}), Kind::usage);                       // unused option
  EXPECT_EQ(kind({"optimizer.only=[\"nothing\"]"}), Kind::usage);             // fits nothing
  EXPECT_EQ(kind({"adapter.rank=4", "optimizer.only=[\"lm_head\"]"}), Kind::usage);
  EXPECT_EQ(kind({"adapter.targets=[\"nothing\"]"}), Kind::usage);
  EXPECT_FALSE(fs::exists(folder_ / "refused"));
  auto model = LanguageModel::load(base_);
  quantize_model(model, {.bits = 8, .group_size = 32});
  model.save(folder_ / "packed");
  data::Tokenizer::bytes().save(folder_ / "packed");
  const auto packed = "model.preset=" + Json((folder_ / "packed").string()).dump();
  EXPECT_EQ(kind({packed}), Kind::usage);
  EXPECT_EQ(train_run(recipe("qlora", {packed, "adapter.rank=4"}), {}).train.steps, 12);
}

}  // namespace
}  // namespace lmxlab
