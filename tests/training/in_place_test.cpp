// A step writes where the weights and the optimizer's state lie: no buffer of them is ever copied.
#include "lmxlab/base/random.h"
#include "lmxlab/config/presets.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/models/language_model.h"
#include "lmxlab/training/step.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <algorithm>

namespace lmxlab {
namespace {

data::Batch batch_of(int rows, int length, uint64_t seed) {
  HostRandom random(seed);
  std::vector<int32_t> ids;
  for (int i = 0; i <= rows * length; ++i) ids.push_back(static_cast<int32_t>(random.below(61)));
  const auto view = [&](int from) {
    return mx::array(ids.data() + from, {rows, length}, mx::int32);
  };
  return {view(0), view(1)};
}

OptimizerConfig optimizer(OptimizerName name, int bits = 32) {
  OptimizerConfig o;
  o.name = name, o.state_bits = bits;
  if (name == OptimizerName::sgd) o.momentum = 0.9;
  return o;
}

// Where the large arrays lie, in the order of their addresses: one may take over another's buffer.
// (Smaller ones are taken without waiting for the stream: whether an old one could be written in
// place is a matter of timing, and nothing is copied either way.)
std::vector<const void*> addresses(const TrainStep::State& state) {
  std::vector<const void*> out;
  for (const auto* all : {&state.params, &state.optimizer})
    for (const auto& a : *all)
      if (a.nbytes() >= size_t{64} << 10) out.push_back(a.data<void>());
  std::sort(out.begin(), out.end());
  return out;
}

class InPlace : public testing::TestWithParam<OptimizerConfig> {};

TEST_P(InPlace, NoBufferMovesInTwentySteps) {
  auto config = config::preset(
      "gpt-tiny", {.depth = 1, .dim = 256, .heads = 2, .hidden = 512, .vocab = 301, .context = 32});
  for (const bool compiled : {true, false})
    for (const bool recompute : {false, true})
      for (const int batches : {1, 2}) {
        SCOPED_TRACE(std::string(compiled ? "compiled" : "not compiled") +
                     (recompute ? ", blocks computed again, " : ", ") + std::to_string(batches) +
                     " batches");
        LanguageModel model(config, 1);
        const Enter enter(model.runtime());
        TrainStep step(model.transformer(), GetParam(),
                       {.compiled = compiled, .gradient_checkpointing = recompute});
        auto state = step.initial(1);
        // The model keeps other arrays: what it held is the step's now.
        for (auto& e : core::collect(model.transformer()))
          e.param->value = mx::zeros(e.param->value.shape(), e.param->value.dtype());
        std::vector<const void*> before;
        int moves = 0;
        for (int i = 1; i <= 20; ++i) {
          std::vector<data::Batch> group;
          for (int b = 0; b < batches; ++b)
            group.push_back(batch_of(2, 24, static_cast<uint64_t>(i * 2 + b)));
          step(state, group, 1e-3f, i);
          auto now = addresses(state);
          EXPECT_EQ(std::adjacent_find(now.begin(), now.end()), now.end())
              << "two arrays share a buffer";
          EXPECT_GE(now.size(), 7u);  // weights at least
          moves += i > 1 && now != before;
          before = std::move(now);
        }
        EXPECT_EQ(moves, 0);
      }
}

INSTANTIATE_TEST_SUITE_P(
    Optimizers, InPlace,
    testing::Values(optimizer(OptimizerName::adamw), optimizer(OptimizerName::adamw, 8),
                    optimizer(OptimizerName::lion), optimizer(OptimizerName::lion, 8),
                    optimizer(OptimizerName::sgd), optimizer(OptimizerName::muon),
                    optimizer(OptimizerName::muon, 8), optimizer(OptimizerName::adafactor)),
    [](const auto& it) {
      return std::string(enum_name(it.param.name)) + std::to_string(it.param.state_bits);
    });

}  // namespace
}  // namespace lmxlab
