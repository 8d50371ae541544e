// A lightning indexer in training: its loss falls and nothing else learns from it, however a step
// is computed.
#include "lmxlab/core/indexer.h"

#include "lmxlab/base/random.h"
#include "lmxlab/config/presets.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/training/step.h"
#include "lmxlab/training/trainer.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <cmath>

namespace lmxlab {
namespace {

constexpr int kVocab = 19;

config::Model model_of(float loss, int top_k = 8) {
  auto c = config::preset("llama-tiny",
                          {.depth = 2, .dim = 16, .heads = 2, .hidden = 24, .vocab = kVocab});
  config::Mla mixer{
      .heads = 2, .q_rank = 12, .kv_rank = 10, .nope_dim = 6, .rope_dim = 4, .v_dim = 6};
  mixer.indexer = config::Indexer{.heads = 4, .head_dim = 8, .top_k = top_k, .loss = loss};
  for (auto& l : c.layers) l.mixer = mixer;
  c.layers[1].ffn = config::Moe{.experts = 4, .hidden = 12, .aux_loss = 0.01f};
  c.init_std = 0.3f;
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

TEST(IndexerTraining, TheDivergenceFalls) {
  for (const int top_k : {8, 32}) {  // of 32 keys
    core::Transformer model(model_of(1, top_k), 1);
    TrainStep step(model, {}, {});
    auto state = step.initial(5);
    std::vector<double> seen;
    for (int i = 1; i <= 60; ++i) {
      const auto done = step(state, {batch_of(4, 32, static_cast<uint32_t>(i))}, 1e-2f, i);
      ASSERT_TRUE(done.divergence);
      seen.push_back(done.divergence->item<float>());
    }
    const auto mean = [&](size_t from) {
      return (seen[from] + seen[from + 1] + seen[from + 2] + seen[from + 3]) / 4;
    };
    RecordProperty("from_" + std::to_string(top_k), std::to_string(mean(0)));
    RecordProperty("to_" + std::to_string(top_k), std::to_string(mean(56)));
    EXPECT_GT(mean(56), 0);
    EXPECT_LT(mean(56), 0.5 * mean(0)) << mean(0) << " to " << mean(56) << ", top " << top_k;
  }
}

// Of a first step without clipping: other weights go where they would go if indexers were frozen.
TEST(IndexerTraining, OtherWeightsLearnFromTheTextAlone) {
  std::map<std::string, std::vector<float>> moved[2];
  for (const bool learns : {false, true}) {
    core::Transformer model(model_of(learns ? 1 : 0), 1);
    std::vector<std::vector<float>> before;
    const auto entries = core::collect_trainable(model);
    for (const auto& e : entries) before.push_back(to_vector<float>(e.param->value));
    TrainStep step(model, {}, {.clip = 0});
    auto state = step.initial(5);
    EXPECT_EQ(step(state, {batch_of(4, 32, 1)}, 1e-2f, 1).divergence.has_value(), learns);
    for (size_t i = 0; i < entries.size(); ++i) {
      moved[learns][entries[i].path] = to_vector<float>(state.params[i]);
      EXPECT_NE(to_vector<float>(state.params[i]), before[i]) << entries[i].path;
    }
  }
  EXPECT_EQ(moved[1].size(), moved[0].size() + 2 * 5);
  for (const auto& [path, weights] : moved[0]) EXPECT_EQ(moved[1].at(path), weights) << path;
}

// Of groups of one batch and of three, whose divergences are one mean.
TEST(IndexerTraining, HoweverAStepIsComputed) {
  std::vector<std::vector<float>> runs[4];
  for (const bool checkpointing : {false, true})
    for (const bool compiled : {false, true}) {
      auto& run = runs[2 * checkpointing + compiled];
      core::Transformer model(model_of(1), 1);
      TrainStep step(model, {}, {.compiled = compiled, .gradient_checkpointing = checkpointing});
      auto state = step.initial(5);
      for (int i = 1; i <= 4; ++i) {
        std::vector<data::Batch> group;
        for (int b = 0; b < (i % 2 ? 1 : 3); ++b)
          group.push_back(batch_of(2, 24, static_cast<uint32_t>(i * 10 + b)));
        const auto done = step(state, group, 1e-2f, i);
        ASSERT_EQ(done.loads.size(), 1u);
        EXPECT_LT(done.divergence->item<float>(), 5);
        run.push_back(to_vector<float>(*done.divergence));
        run.push_back(to_vector<float>(done.loss)), run.push_back(to_vector<float>(done.loads[0]));
      }
      for (const auto& p : state.params) run.push_back(to_vector<float>(p));
    }
  for (int i = 1; i < 4; ++i) EXPECT_EQ(runs[i], runs[0]) << i;
}

TEST(IndexerTraining, TheTrainerTellsTheDivergence) {
  LanguageModel model(model_of(1), 1);
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
    EXPECT_GT(m.more.at("indexer_divergence"), 0);
  }));
  trainer.run();
  EXPECT_EQ(seen, 3);
}

}  // namespace
}  // namespace lmxlab
