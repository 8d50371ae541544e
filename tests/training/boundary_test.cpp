// A training step is a boundary: behind it nothing is left of the graph, whatever the optimizer and
// however many batches an update has.
#include "lmxlab/config/presets.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/kernels/memory.h"
#include "lmxlab/training/trainer.h"
#include "tests/support/graph.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

namespace lmxlab {
namespace {

constexpr int kSteps = 12;

config::Model tiny() {
  auto m = config::preset("llama-tiny",
                          {.dim = 16, .heads = 2, .kv_heads = 1, .hidden = 24, .vocab = 11});
  m.dropout = 0.1f;
  return m;
}

mx::array tokens(int n) {
  std::vector<int32_t> ids(static_cast<size_t>(n));
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i * i % 11);
  return mx::array(ids.data(), {n}, mx::int32);
}

// Everything that lives on from step to step: parameters, what the optimizer keeps, the key.
core::Arrays kept(Trainer& trainer) {
  core::Arrays out;
  for (const auto& e : core::collect(trainer.model().transformer())) out.push_back(e.param->value);
  for (const auto& [name, a] : trainer.state_arrays()) out.push_back(a);
  return out;
}

class Boundary : public ::testing::TestWithParam<std::tuple<OptimizerName, int>> {};

TEST_P(Boundary, OfAStepLeavesNothingOfTheGraph) {
  const auto [optimizer, accumulate] = GetParam();
  TrainOptions o;
  o.optimizer.name = optimizer;
  o.run.steps = kSteps, o.run.batch = 2, o.run.context = 8, o.run.accumulate = accumulate;
  o.run.eval_every = 5;
  LanguageModel model(tiny(), 1);
  Trainer trainer(model, tokens(600), tokens(100), o);
  int steps = 0;
  int64_t bytes = 0;
  trainer.add(every(1, [&](Trainer& t, StepMetrics& m) {
    const auto arrays = kept(t);
    for (const auto& a : arrays) {
      EXPECT_TRUE(test::is_leaf(a)) << "step " << m.step;
      EXPECT_NE(a.status(), mx::array::Status::unscheduled) << "step " << m.step;
    }
    EXPECT_EQ(test::graph_nodes(arrays), arrays.size()) << "step " << m.step;
    if (m.step <= 6) bytes = m.active_bytes;  // a validation was among them, with its constants
    EXPECT_EQ(m.active_bytes, bytes) << "step " << m.step;
    ++steps;
  }));
  trainer.run();
  EXPECT_EQ(steps, kSteps);
}

INSTANTIATE_TEST_SUITE_P(
    EveryOptimizer, Boundary,
    ::testing::Combine(::testing::Values(OptimizerName::adamw, OptimizerName::sgd,
                                         OptimizerName::lion, OptimizerName::adafactor,
                                         OptimizerName::muon),
                       ::testing::Values(1, 3)));

// That the count counts: without a boundary it grows by the same number each step.
TEST(Boundary, LeftOutTheGraphGrows) {
  auto w = mx::zeros({4, 1});
  const auto x = mx::ones({8, 4});
  mx::eval(w, x);
  std::vector<size_t> nodes;
  for (int i = 0; i < 4; ++i) {
    w = w - mx::array(0.1f) * mx::matmul(mx::transpose(x), mx::matmul(x, w));
    nodes.push_back(test::graph_nodes({w}));
  }
  EXPECT_GT(nodes[1], nodes[0]);
  EXPECT_EQ(nodes[3] - nodes[2], nodes[2] - nodes[1]);
  mx::eval(w);
  EXPECT_EQ(test::graph_nodes({w}), 1u);
}

}  // namespace
}  // namespace lmxlab
