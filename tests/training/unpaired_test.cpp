// Reward models and unpaired preferences by recipe: they learn, go on bit for bit, and refuse what
// does not fit.
#include "lmxlab/base/files.h"
#include "lmxlab/base/random.h"
#include "lmxlab/config/count.h"
#include "lmxlab/config/presets.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/inference/generate.h"
#include "lmxlab/inference/reward_model.h"
#include "lmxlab/kernels/memory.h"
#include "lmxlab/models/adapters.h"
#include "lmxlab/training/checkpoint.h"
#include "lmxlab/training/pair_objectives.h"
#include "lmxlab/training/pairs.h"
#include "lmxlab/training/run.h"
#include "lmxlab/training/step.h"
#include "tests/support/error_of.h"
#include "tests/training/finetune.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <cmath>
#include <map>
#include <set>

namespace lmxlab {
namespace {

// Good answers are of the letters a to d, bad ones of w to z.
std::string answers(uint64_t seed, bool pairs, int lines) {
  HostRandom random(seed);
  const auto word = [&](char first) {
    std::string out;
    for (uint64_t n = 2 + random.below(4); n > 0; --n) out += char(first + char(random.below(4)));
    return out;
  };
  std::string out;
  for (int i = 0; i < lines; ++i) {
    const auto prompt = "{\"prompt\": \"" + word('k') + "=\", ";
    if (pairs)
      out += prompt + "\"chosen\": \"" + word('a') + "\", \"rejected\": \"" + word('w') +
             "\", \"margin\": 0.5}\n";
    else
      out += prompt + "\"completion\": \"" + word(i % 3 ? 'w' : 'a') +
             "\", \"label\": " + (i % 3 ? "false" : "true") + "}\n";
  }
  return out;
}

class Judged : public FineTune {
 protected:
  void SetUp() override {
    FineTune::SetUp();
    defaults_ = {"run.batch=8", "run.context=16"};
    write_file_atomic(folder_ / "pairs.jsonl", answers(2, true, 120));
    write_file_atomic(folder_ / "unpaired.jsonl", answers(3, false, 120));
  }
  data::Sample answer(const std::string& prompt, const std::string& text) const {
    data::Sample s;
    s.kind = data::SampleKind::unpaired;
    s.prompt = Json(prompt), s.response = Json(text);
    return s;
  }
};

// A trained reward model prefers answers that it has not seen, whole or as an adapter.
TEST_F(Judged, ARewardModelPrefersWhatWasRewarded) {
  for (const bool adapter : {false, true}) {
    std::vector<std::string> more{file("pairs.jsonl"), "objective.kind=reward", "run.steps=40",
                                  "objective.center_rewards_coefficient=0.01"};
    if (adapter) more.push_back("adapter.rank=4");
    std::map<std::string, double> last;
    RunHooks hooks;
    hooks.step = [&](const StepMetrics& m, int64_t) {
      if (m.val_loss) last = m.more;
    };
    const auto out = train_run(recipe(adapter ? "adapter" : "whole", more), hooks).out;
    EXPECT_EQ(last.at("val_accuracy"), 1);
    EXPECT_GT(last.at("val_margin"), 1);
    EXPECT_NEAR(last.at("val_reward"),
                (last.at("val_reward_chosen") + last.at("val_reward_rejected")) / 2, 1e-5);
    EXPECT_EQ(fs::exists(out / "model.safetensors"), !adapter);
    const auto judge = RewardModel::load(out);
    EXPECT_TRUE(judge.model.config().score);
    const auto got = judge(
        {answer("kl=", "wxy"), answer("kl=", "abca"), answer("nn=", "zz"), answer("m=", "d")});
    EXPECT_LT(got[0], got[1]);
    EXPECT_LT(got[2], got[1]);
    EXPECT_LT(got[2], got[3]);
    // Side by side or alone, padded or not, a text has one score.
    EXPECT_NEAR(judge({answer("m=", "d")})[0], got[3], 1e-5);
  }
}

TEST_F(Judged, RewardModelsResume) {
  const std::vector<std::string> more{file("pairs.jsonl"), "objective.kind=reward"};
  expect_resumes(more, "-reward");
  auto adapted = more;
  adapted.insert(adapted.end(), {"adapter.rank=4", "adapter.dropout=0.1"});
  expect_resumes(adapted, "-reward-adapter");
  // From a reward model a run goes on with its head.
  auto again = more;
  again.insert(again.end(), {"model.preset=" + Json((folder_ / "whole-reward").string()).dump(),
                             "run.steps=1", "optimizer.lr=1e-12", "optimizer.weight_decay=0"});
  const auto before = LanguageModel::load(folder_ / "whole-reward");
  const auto after = LanguageModel::load(train_run(recipe("again", again), {}).out);
  EXPECT_LT(mx::max(mx::abs(mx::subtract(before.transformer().score->weight.w.value,
                                         after.transformer().score->weight.w.value)))
                .item<float>(),
            1e-6f);
}

// Without an adapter's additions the base is what it was: one folder is policy, reference and base.
TEST_F(Judged, ARewardAdapterLeavesItsBase) {
  const auto out =
      train_run(recipe("adapter", {file("pairs.jsonl"), "objective.kind=reward", "adapter.rank=4"}),
                {})
          .out;
  auto model = load_with_adapter(out);
  const auto plain = LanguageModel::load(base_);
  use_adapters(model, {});
  const auto tokens = mx::array({1, 5, 9, 12}, {1, 4}, mx::int32);
  const auto hidden = [&](const LanguageModel& m) {
    const Enter enter(m.runtime());
    auto pass = m.make_pass();
    auto h = m.transformer().hidden(tokens, pass);
    h.eval();
    return to_vector<float>(h);
  };
  EXPECT_EQ(hidden(model), hidden(plain));
  use_adapters(model, {"default"});
  EXPECT_NE(hidden(model), hidden(plain));
  const auto config = read_file(out / "adapter_config.json");
  EXPECT_NE(config.find("SEQ_CLS"), std::string::npos);
}

TEST_F(Judged, ARewardModelIsAModelFolder) {
  LanguageModel model(LanguageModel::load(base_).config(), 3);
  model.put_score(7);
  model.save(folder_ / "reward");
  const auto text = read_file(folder_ / "reward" / "config.json");
  EXPECT_NE(text.find("\"LlamaForSequenceClassification\""), std::string::npos);
  const auto loaded = LanguageModel::load(folder_ / "reward");
  EXPECT_TRUE(loaded.config().score);
  EXPECT_EQ(loaded.parameter_count(), model.parameter_count());
  EXPECT_EQ(config::count(loaded.config()).total, model.parameter_count());
  const std::vector<std::vector<int>> texts{{1, 2, 3}, {4, 5, 6, 7, 8}};
  EXPECT_EQ(scores(loaded, texts), scores(model, texts));
  // Forward is the same head at every position.
  const auto all = to_vector<float>(loaded.forward(mx::array({4, 5, 6, 7, 8}, mx::int32)));
  ASSERT_EQ(all.size(), 5u);
  EXPECT_NEAR(static_cast<double>(all[4]), scores(loaded, texts)[1], 1e-6);
  const std::vector<int> prompt{1, 2};
  EXPECT_EQ(test::error_of([&] { generate(loaded, prompt); }).kind(), Kind::usage);
  const auto plain = LanguageModel::load(base_);
  EXPECT_EQ(test::error_of([&] { scores(plain, texts); }).kind(), Kind::usage);
  EXPECT_EQ(test::error_of([&] { scores(loaded, {{1, 400}}); }).kind(), Kind::usage);
  EXPECT_EQ(test::error_of([&] { scores(loaded, {{}}); }).kind(), Kind::usage);
}

// Held-out desirable answers get more reward than the others.
TEST_F(Judged, KtoTellsDesirableFromUndesirable) {
  const std::vector<std::string> more{file("unpaired.jsonl"), "objective.kind=kto",
                                      "objective.beta=0.5", "objective.desirable_weight=2",
                                      "objective.undesirable_weight=1"};
  expect_resumes(more, "-kto");
  auto adapted = more;
  adapted.push_back("adapter.rank=4");
  expect_resumes(adapted, "-kto-adapter");
  auto longer = more;
  longer.push_back("run.steps=40");
  std::map<std::string, double> last;
  RunHooks hooks;
  hooks.step = [&](const StepMetrics& m, int64_t) {
    if (m.val_loss) last = m.more;
  };
  train_run(recipe("longer", longer), hooks);
  EXPECT_GT(last.at("val_reward_chosen"), last.at("val_reward_rejected") + 0.5);
  EXPECT_TRUE(std::isfinite(last.at("val_kl")));
}

// Metrics of two kinds of answers are means over each, also where batches have few of one.
TEST_F(Judged, MetricsHaveUnitsOfTheirOwn) {
  const auto r = recipe("unused", {file("unpaired.jsonl"), "objective.kind=kto"});
  auto data = load_data(r);
  const auto pairs = pairs_of(std::move(*data.samples), 1);
  LanguageModel model(LanguageModel::load(base_).config(), 1);
  const Enter enter(model.runtime());
  OptimizerConfig sgd;
  sgd.name = OptimizerName::sgd;
  TrainStep step(model.transformer(), sgd, {.objective = pair_objective(r.objective)});
  auto state = step.initial(1);
  std::vector<data::Batch> batches;  // references of 0: rewards are beta log p
  double sums[2] = {0, 0}, counts[2] = {0, 0};
  for (size_t i = 0; i < 6; i += 2) {
    batches.push_back(pair_batch({&pairs[i], &pairs[i + 1]}, 16, PairLayout::unpaired));
    core::Pass pass;
    auto rows = row_logprobs(model.transformer(), batches.back(), pass).logprobs;
    rows.eval();
    for (size_t j = 0; j < 2; ++j) {
      const bool good = pairs[i + j].first.value > 0;
      sums[!good] += 0.1 * double(rows.data<float>()[j]), counts[!good] += 1;
    }
  }
  ASSERT_NE(counts[0], counts[1]);
  const auto done = step(state, batches, 1e-3f, 1);
  for (size_t k = 0; k < 2; ++k)
    EXPECT_NEAR(double(done.metrics[k].item<float>()), sums[k] / counts[k],
                1e-5 * std::abs(sums[k]));
}

// A batch's losses, from log-probabilities and scores of each row by itself, in double precision:
// arXiv:2402.01306 eq. 8 as TRL's KTOTrainer has it, and TRL's RewardTrainer.
TEST_F(Judged, LossesOfBatchesAreTheirFormulas) {
  const auto value_of = [](const Objective::Value& v) {
    auto loss = mx::divide(v.loss, v.units);
    loss.eval();
    return static_cast<double>(loss.item<float>());
  };
  LanguageModel model(LanguageModel::load(base_).config(), 1);
  model.put_score(3);
  const LanguageModel language = LanguageModel::load(base_);
  const auto sigmoid = [](double x) { return 1 / (1 + std::exp(-x)); };
  {
    const auto r = recipe("unused", {file("unpaired.jsonl"), "objective.kind=kto",
                                     "objective.beta=0.3", "objective.desirable_weight=1.5"});
    auto pairs = pairs_of(std::move(*load_data(r).samples), 1);
    pairs.resize(7);
    const Enter enter(language.runtime());
    const auto log_p = [&](const data::TokenSample& s) {
      const TokenPair one{s, {}};
      core::Pass pass;
      auto p =
          row_logprobs(language.transformer(), pair_batch({&one}, 16, PairLayout::unpaired), pass)
              .logprobs;
      p.eval();
      return static_cast<double>(p.item<float>());
    };
    std::vector<const TokenPair*> some;
    double kl = 0, want = 0;
    std::vector<double> ratios;
    for (size_t i = 0; i < pairs.size(); ++i) {
      auto& p = pairs[i];
      const double own = log_p(p.first), other = log_p(p.second);
      p.reference_first = static_cast<float>(own + 0.3 * double(i) - 1);
      p.reference_second = static_cast<float>(other - 0.2 * double(i));
      ratios.push_back(own - double(p.reference_first));
      kl += (other - double(p.reference_second)) / double(pairs.size());
      some.push_back(&p);
    }
    ASSERT_GT(kl, 0.1);
    for (size_t i = 0; i < pairs.size(); ++i)
      want += (pairs[i].first.value > 0 ? 1.5 * (1 - sigmoid(0.3 * (ratios[i] - kl)))
                                        : 1 - sigmoid(0.3 * (kl - ratios[i]))) /
              double(pairs.size());
    core::Pass pass;
    const auto got = (*pair_objective(r.objective))(
        language.transformer(), pair_batch(some, 16, PairLayout::unpaired), pass);
    EXPECT_NEAR(value_of(got), want, 1e-5);  // of log-probabilities up to 50, to 7 digits
  }
  {
    const auto r = recipe("unused", {file("pairs.jsonl"), "objective.kind=reward",
                                     "objective.center_rewards_coefficient=0.2"});
    auto pairs = pairs_of(std::move(*load_data(r).samples), 1);
    pairs.resize(5);
    std::vector<const TokenPair*> some;
    double want = 0;
    for (auto& p : pairs) {
      EXPECT_EQ(p.first.value, 0.5f);  // the margin of the file
      const double c = scores(model, {p.first.ids})[0], b = scores(model, {p.second.ids})[0];
      want += (std::log1p(std::exp(-(c - b - 0.5))) + 0.2 * (c + b) * (c + b)) / 5;
      some.push_back(&p);
    }
    const Enter enter(model.runtime());
    core::Pass pass;
    const auto got = (*pair_objective(r.objective))(model.transformer(),
                                                    pair_batch(some, 16, PairLayout::scored), pass);
    EXPECT_NEAR(value_of(got), want, 1e-5);
  }
}

// Every prompt has another sample's answer, and every answer is lent once.
TEST_F(Judged, MismatchedAnswersAreOneCycle) {
  const auto r = recipe("unused", {file("unpaired.jsonl"), "objective.kind=kto"});
  auto samples = std::move(*load_data(r).samples);
  const auto text = [](const data::TokenSample& s, bool learned) {
    std::vector<int> out;
    for (size_t i = 0; i < s.ids.size(); ++i)
      if ((s.loss[i] != 0) == learned) out.push_back(s.ids[i]);
    return out;
  };
  std::multiset<std::vector<int>> own, lent;
  const auto pairs = pairs_of(samples, 5);
  size_t same = 0;
  for (const auto& p : pairs) {
    EXPECT_EQ(text(p.first, false), text(p.second, false));
    own.insert(text(p.first, true)), lent.insert(text(p.second, true));
    same += text(p.first, true) == text(p.second, true);
  }
  EXPECT_EQ(own, lent);
  EXPECT_LT(same, pairs.size() / 10);  // by chance, words of two letters
  const auto again = pairs_of(samples, 5), other = pairs_of(samples, 6);
  size_t moved = 0;
  for (size_t i = 0; i < pairs.size(); ++i) {
    EXPECT_EQ(pairs[i].second.ids, again[i].second.ids);
    moved += pairs[i].second.ids != other[i].second.ids;
  }
  EXPECT_GT(moved, pairs.size() / 2);
}

TEST_F(Judged, RefusesWhatDoesNotFitTogether) {
  const auto kind = [&](const std::vector<std::string>& more) {
    return test::error_of([&] { train_run(recipe("refused", more), {}); }).kind();
  };
  EXPECT_EQ(kind({file("pairs.jsonl"), "objective.kind=kto"}), Kind::usage);
  EXPECT_EQ(kind({file("unpaired.jsonl"), "objective.kind=reward"}), Kind::usage);
  EXPECT_EQ(kind({file("unpaired.jsonl"), "objective.kind=sft"}), Kind::usage);
  EXPECT_EQ(kind({file("unpaired.jsonl"), "objective.kind=kto", "run.batch=1"}), Kind::usage);
  EXPECT_EQ(kind({file("pairs.jsonl"), "objective.kind=reward", "run.sample_every=2"}),
            Kind::usage);
  EXPECT_EQ(kind({file("pairs.jsonl"), "objective.kind=reward", "objective.beta=1"}), Kind::usage);
  EXPECT_EQ(kind({file("pairs.jsonl"), "objective.kind=dpo", "objective.desirable_weight=1"}),
            Kind::usage);
  EXPECT_FALSE(fs::exists(folder_ / "refused"));
  // The labels may be left out.
  train_run(recipe("sft", {file("unpaired.jsonl"), "objective.kind=sft", "data.samples=completion",
                           "run.steps=1"}),
            {});
  // A reward model predicts no tokens.
  LanguageModel model(LanguageModel::load(base_).config(), 3);
  model.put_score(7);
  model.save(folder_ / "reward");
  data::Tokenizer::bytes().save(folder_ / "reward");
  EXPECT_EQ(kind({"model.preset=" + Json((folder_ / "reward").string()).dump()}), Kind::usage);
}

// The plan of a run knows the head and the mismatched answers.
TEST_F(Judged, PlansAreOfItsBatches) {
  for (const char* what : {"dpo", "reward", "kto"}) {
    const auto r =
        recipe("unused", {file(what == std::string("kto") ? "unpaired.jsonl" : "pairs.jsonl"),
                          "model.preset=llama-tiny", "data.tokenizer=byte",
                          std::string("objective.kind=") + what});
    const auto parts = resolve_run(r);
    const auto batch = parts.subject.batch(r.run);
    EXPECT_EQ(batch.beside.size(), parts.subject.objective->beside());
    auto data = load_data(r);
    const auto pairs = pairs_of(std::move(*data.samples), 1);
    std::vector<const TokenPair*> some;
    for (size_t i = 0; i < 8; ++i) some.push_back(&pairs[i]);
    const auto real = pair_batch(some, 16, pair_layout(r.objective.kind));
    EXPECT_EQ(batch.inputs.shape(), real.inputs.shape());
    for (size_t i = 0; i < real.beside.size(); ++i) {
      EXPECT_EQ(batch.beside[i].shape(), real.beside[i].shape());
      EXPECT_EQ(batch.beside[i].dtype(), real.beside[i].dtype());
    }
    const auto planned =
        rehearse_training(parts.config, train_options(r, parts), mx::int32, parts.subject);
    double peak = 0;
    const auto before = double(kernels::active_bytes());  // that other tests left
    RunHooks hooks;
    hooks.step = [&](const StepMetrics& m, int64_t) { peak = double(m.peak_bytes) - before; };
    train_run(recipe(what, {file(what == std::string("kto") ? "unpaired.jsonl" : "pairs.jsonl"),
                            "model.preset=llama-tiny", "data.tokenizer=byte",
                            std::string("objective.kind=") + what, "run.eval_every=0",
                            "data.validation=0", "run.steps=3"}),
              hooks);
    EXPECT_NEAR(double(planned.peak), peak, 0.01 * peak) << what;
  }
}

}  // namespace
}  // namespace lmxlab
