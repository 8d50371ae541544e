// A token is a boundary: behind it nothing is left of the graph in the cache.
#include "lmxlab/inference/generate.h"
#include "tests/inference/models.h"
#include "tests/support/graph.h"

#include <gtest/gtest.h>
#include <mlx/ops.h>

#include <tuple>

namespace lmxlab {
namespace {

mx::array next_of(const mx::array& logits) {
  return mx::argmax(mx::take(logits, logits.shape(1) - 1, 1), -1, true);
}

void expect_leaves(const std::vector<mx::array>& arrays, int step) {
  for (const auto& a : arrays) EXPECT_TRUE(test::is_leaf(a)) << "token " << step;
  EXPECT_EQ(test::graph_nodes(arrays), arrays.size()) << "token " << step;
}

TEST(Boundary, OfATokenLeavesNothingOfTheGraphInTheLiteralLoop) {
  for (const auto& [name, config] : testing_models::all()) {
    SCOPED_TRACE(name);
    const LanguageModel model(config, 1);
    auto [logits, cache] = model(mx::array({1, 2, 3}));
    eval(logits, cache);
    for (int step = 0; step < 20; ++step) {
      std::tie(logits, cache) = model(next_of(logits), std::move(cache));
      eval(logits, cache);
      auto arrays = cache.arrays();
      arrays.push_back(logits);
      expect_leaves(arrays, step);
    }
  }
}

TEST(Boundary, OfATokenLeavesNothingOfTheGraphInAStream) {
  for (const auto& [name, config] : testing_models::all()) {
    SCOPED_TRACE(name);
    const LanguageModel model(config, 1);
    TokenStream stream(model, {{1, 2, 3}, {4, 5, 6}}, {.max_tokens = 20});
    int step = 0;
    // The step ahead is started, not finished: its arrays are already cut from their graph.
    while (stream.next()) expect_leaves(stream.cache()->arrays(), step++);
    EXPECT_EQ(step, 40);
  }
}

TEST(Boundary, LeftOutTheGraphGrows) {
  const LanguageModel model(testing_models::all()[0].config, 1);
  auto [logits, cache] = model(mx::array({1, 2, 3}));
  eval(logits, cache);
  std::vector<size_t> nodes;
  for (int step = 0; step < 4; ++step) {
    std::tie(logits, cache) = model(next_of(logits), std::move(cache));
    nodes.push_back(test::graph_nodes({logits}));
  }
  EXPECT_GT(nodes[1], nodes[0] + 10);
  EXPECT_GT(nodes[3], nodes[2] + 10);
  eval(logits, cache);
  EXPECT_EQ(test::graph_nodes({logits}), 1u);
}

}  // namespace
}  // namespace lmxlab
