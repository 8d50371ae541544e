// Mixtures of experts in training: losses of routers, loads, and biases that move against them.
#include "lmxlab/core/moe.h"

#include "lmxlab/base/random.h"
#include "lmxlab/config/presets.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/training/loss.h"
#include "lmxlab/training/step.h"
#include "lmxlab/training/trainer.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <cmath>
#include <numeric>

namespace lmxlab {
namespace {

constexpr int kVocab = 19;

config::Moe experts() {
  return {.experts = 6,
          .top_k = 2,
          .hidden = 12,
          .scoring = config::Scoring::sigmoid,
          .selection_bias = true,
          .normalize = 1,
          .shared = 8,
          .aux_loss = 0.02f,
          .z_loss = 0.01f,
          .bias_rate = 0.01f};
}
config::Model model_of(const config::Moe& moe, int depth = 3) {
  auto c = config::preset("llama-tiny",
                          {.depth = depth, .dim = 16, .heads = 2, .hidden = 24, .vocab = kVocab});
  for (size_t i = 1; i < c.layers.size(); ++i) c.layers[i].ffn = moe;  // the first stays dense
  return c;
}
data::Batch batch_of(int rows, int length, uint32_t seed) {
  HostRandom random(seed);
  std::vector<int32_t> ids;
  for (int i = 0; i <= rows * length; ++i)
    ids.push_back(static_cast<int32_t>(random.below(kVocab)));
  const auto view = [&](int from) {
    return mx::array(ids.data() + from, {rows, length}, mx::int32);
  };
  return {view(0), view(1)};
}
core::Param& bias_of(core::Transformer& model, int layer) {
  const auto path = "model.layers." + std::to_string(layer) + ".mlp.gate.e_score_correction_bias";
  for (const auto& e : core::collect(model))
    if (e.path == path) return *e.param;
  throw std::runtime_error(path);
}

// Loss, loads and gradients of one pass.
core::Arrays pass_of(core::Transformer& model, const data::Batch& batch, bool recompute,
                     bool compiled) {
  const auto entries = core::collect_trainable(model);
  std::vector<int> all(entries.size());
  std::iota(all.begin(), all.end(), 0);
  const std::function<core::Arrays(const core::Arrays&)> both = [&](const core::Arrays& in) {
    const auto loss = [&](const core::Arrays& p) -> core::Arrays {
      const core::Lend lend(entries, p);
      std::vector<core::Sums> sums;
      core::Pass pass;
      pass.key = mx::random::key(7), pass.recompute = recompute, pass.sums = &sums;
      const auto nll = mx::mean(token_nll(model, batch.inputs, batch.targets, pass));
      const auto more = core::router_loss(model.config(), sums, batch.inputs.size());
      core::Arrays out{mx::add(nll, more), more};
      for (const auto& s : sums) out.push_back(s.arrays[0]);
      return out;
    };
    auto [value, grads] = mx::value_and_grad(loss, all)(in);
    value.insert(value.end(), grads.begin(), grads.end());
    return value;
  };
  auto out = compiled ? mx::compile(both)(core::values(entries)) : both(core::values(entries));
  mx::eval(out);
  return out;
}

TEST(MoeTraining, CheckpointingNeitherLosesNorDoubles) {
  core::Transformer model(model_of(experts(), 4), 1);
  for (const auto& e : core::collect(model))
    if (e.path.ends_with("gate.weight"))
      e.param->value = mx::multiply(e.param->value, mx::array(20.0f));
  struct Size {
    int rows, length;
  };
  // At once; positions in lots; and with every other block's input computed again.
  for (const auto& [rows, length] : {Size{3, 20}, Size{2, 700}, Size{17, 1000}}) {
    const auto batch = batch_of(rows, length, 3);
    const auto want = pass_of(model, batch, false, false);
    for (const bool compiled : {false, true}) {
      const auto got = pass_of(model, batch, true, compiled);
      ASSERT_EQ(got.size(), want.size());
      EXPECT_GT(got[1].item<float>(), 0.02f * 3 * 0.9f);
      for (size_t i = 0; i < got.size(); ++i) {
        const auto a = to_vector<float>(got[i]), b = to_vector<float>(want[i]);
        double worst = 0, most = 0;
        for (size_t j = 0; j < a.size(); ++j)
          worst = std::max(worst, std::abs(double(a[j]) - double(b[j]))),
          most = std::max(most, std::abs(double(b[j])));
        // Loads are exact; sums over positions are rounded once a lot.
        EXPECT_LE(worst, i >= 2 && i < 5 ? 0 : 2e-5 * most) << "array " << i << " of " << length;
      }
    }
  }
}

TEST(MoeTraining, StepsMoveTheBiasesAndTellTheLoads) {
  for (const bool checkpointing : {false, true}) {
    std::vector<std::vector<float>> runs[2];
    for (const bool compiled : {false, true}) {
      core::Transformer model(model_of(experts()), 1);
      TrainStep step(model, {}, {.compiled = compiled, .gradient_checkpointing = checkpointing});
      auto state = step.initial(5);
      for (int i = 1; i <= 4; ++i) {
        std::vector<std::vector<float>> before;
        for (const int layer : {1, 2})
          before.push_back(to_vector<float>(bias_of(model, layer).value));
        std::vector<data::Batch> group;  // one, or three whose loads add up
        for (int b = 0; b < (i % 2 ? 1 : 3); ++b)
          group.push_back(batch_of(2, 24, static_cast<uint32_t>(i * 10 + b)));
        const auto done = step(state, group, 1e-2f, i);
        ASSERT_EQ(done.loads.size(), 2u);
        for (size_t l = 0; l < 2; ++l) {
          const auto load = to_vector<float>(done.loads[l]);
          const float all = std::accumulate(load.begin(), load.end(), 0.0f);
          EXPECT_EQ(all, 2 * 48 * static_cast<float>(group.size()));
          const auto after = to_vector<float>(bias_of(model, static_cast<int>(l) + 1).value);
          for (size_t e = 0; e < load.size(); ++e) {
            const float mean = all / 6, sign = load[e] < mean   ? 1.0f
                                               : load[e] > mean ? -1.0f
                                                                : 0.0f;
            EXPECT_FLOAT_EQ(after[e], before[l][e] + 0.01f * sign);
          }
          runs[compiled].push_back(load), runs[compiled].push_back(after);
        }
        runs[compiled].push_back(to_vector<float>(done.loss));
      }
      for (const auto& p : state.params) runs[compiled].push_back(to_vector<float>(p));
    }
    EXPECT_EQ(runs[0], runs[1]) << "compiled and not";
  }
}

TEST(MoeTraining, ANumberThatIsNotFiniteMovesNothing) {
  core::Transformer model(model_of(experts()), 1);
  TrainStep step(model, {}, {});
  auto state = step.initial(5);
  state.params[0] = mx::multiply(state.params[0], mx::array(NAN));
  step(state, {batch_of(2, 24, 1)}, 1e-2f, 1);
  for (const float b : to_vector<float>(bias_of(model, 1).value)) EXPECT_EQ(b, 0);
}

// Some hundred steps against a router that prefers two experts; without the rate it stays as it is.
TEST(MoeTraining, BiasesEvenOutTheLoad) {
  std::map<bool, double> largest;
  for (const bool balance : {false, true}) {
    auto moe = experts();
    moe.aux_loss = moe.z_loss = 0, moe.bias_rate = balance ? 0.01f : 0;
    core::Transformer model(model_of(moe, 2), 1);
    bias_of(model, 1).value = mx::array({0.3f, 0.2f, 0, 0, 0, 0});
    TrainStep step(model, {}, {});
    auto state = step.initial(5);
    std::vector<float> sum(6, 0);
    for (int i = 1; i <= 200; ++i) {
      const auto done = step(state, {batch_of(4, 32, static_cast<uint32_t>(i))}, 1e-3f, i);
      const auto load = to_vector<float>(done.loads[0]);
      for (size_t e = 0; e < 6 && i > 150; ++e) sum[e] += load[e];
    }
    largest[balance] = core::load_statistics(sum).largest;
  }
  RecordProperty("without", std::to_string(largest[false]));
  RecordProperty("with", std::to_string(largest[true]));
  EXPECT_GT(largest[false], 2.5);
  EXPECT_LT(largest[true], 1.3);
}

TEST(MoeTraining, TheBalanceLossEvensOutTheLoad) {
  std::map<bool, double> entropy;
  for (const bool balance : {false, true}) {
    config::Moe moe{.experts = 6, .top_k = 1, .hidden = 12, .aux_loss = balance ? 0.5f : 0};
    core::Transformer model(model_of(moe, 2), 1);
    for (const auto& e : core::collect(model))
      if (e.path.ends_with("gate.weight"))
        e.param->value = mx::multiply(e.param->value, mx::array(20.0f));
    TrainStep step(model, {}, {});
    auto state = step.initial(5);
    std::vector<float> sum(6, 0);
    for (int i = 1; i <= 200; ++i) {
      const auto done = step(state, {batch_of(4, 32, static_cast<uint32_t>(i))}, 5e-3f, i);
      const auto load = to_vector<float>(done.loads[0]);
      for (size_t e = 0; e < 6 && i > 150; ++e) sum[e] += load[e];
    }
    entropy[balance] = core::load_statistics(sum).entropy;
  }
  RecordProperty("without", std::to_string(entropy[false]));
  RecordProperty("with", std::to_string(entropy[true]));
  EXPECT_GT(entropy[true], entropy[false]);
  EXPECT_GT(entropy[true], 0.9);
}

TEST(MoeTraining, TheTrainerSaysHowEvenTheLoadIs) {
  LanguageModel model(model_of(experts()), 1);
  const Enter enter(model.runtime());
  TrainOptions options;
  options.run.steps = 3, options.run.batch = 2, options.run.context = 16;
  options.run.eval_every = 0;
  std::vector<int32_t> ids;
  for (int i = 0; i < 400; ++i) ids.push_back(i * i % kVocab);
  const mx::array tokens(ids.data(), {400}, mx::int32);
  Trainer trainer(model, tokens, mx::slice(tokens, {0}, {100}), options);
  int seen = 0;
  trainer.add(every(1, [&](Trainer&, StepMetrics& m) {
    ++seen;
    EXPECT_GE(m.more.at("router_load_max"), 1);
    EXPECT_LE(m.more.at("router_load_max"), 6);
    EXPECT_GT(m.more.at("router_load_entropy"), 0);
    EXPECT_LE(m.more.at("router_load_entropy"), 1);
  }));
  trainer.run();
  EXPECT_EQ(seen, 3);
  float most = 0;
  for (const float b : to_vector<float>(bias_of(model.transformer(), 2).value))
    most = std::max(most, std::abs(b));
  EXPECT_GT(most, 0) << "the model holds the biases that the steps have moved";
}

}  // namespace
}  // namespace lmxlab
