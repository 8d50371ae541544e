#include "lmxlab/kernels/sample.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <string>

#include "lmxlab/base/error.h"
#include "tests/kernels/reference.h"

namespace mx = mlx::core;
using mx::array;

namespace lmxlab::kernels {
namespace {

std::vector<int32_t> ints(array x) {
  x.eval();
  return {x.data<int32_t>(), x.data<int32_t>() + x.size()};
}
array keys(int rows, int seed = 1) {
  return mx::random::bits({rows, 2}, 4, mx::random::key(static_cast<uint64_t>(seed)));
}
array same_rows(const array& row, int rows) {
  return mx::broadcast_to(mx::expand_dims(row, 0), {rows, row.shape(0)});
}

// With the generator and the noise of MLX, so the same tokens as the ordinary ops.
TEST(Sample, TokensOfTheOrdinaryOps) {
  const std::vector<std::pair<std::string, Sampling>> cases{
      {"plain", {}},
      {"greedy", {.temperature = 0}},
      {"hot", {.temperature = 3}},
      {"defaults", {.temperature = 0.8f, .top_p = 0.95f}},
      {"top_k", {.top_k = 7}},
      {"top_k of most", {.top_k = 900}},
      {"top_p", {.top_p = 0.6f}},
      {"top_p of most", {.temperature = 4, .top_p = 0.999f}},
      {"min_p", {.min_p = 0.05f}},
      {"all", {.temperature = 1.5f, .top_k = 200, .top_p = 0.9f, .min_p = 0.01f}},
  };
  on_every_isa([&](const std::string& isa) {
    for (const auto& [what, s] : cases) {
      for (const int vocabulary : {1, 2, 3, 16, 17, 65, 1000, 4097}) {
        SCOPED_TRACE(isa + ", " + what + ", V " + std::to_string(vocabulary));
        const auto logits = noise({64, vocabulary}, vocabulary) * array(2.0f);
        EXPECT_EQ(ints(sample(logits, keys(64), s)), ints(plain::sample(logits, keys(64), s)));
      }
    }
  });
  const auto large = noise({4, 50257}, 3) * array(2.0f);
  for (const auto& [what, s] : cases)
    EXPECT_EQ(ints(sample(large, keys(4), s)), ints(plain::sample(large, keys(4), s))) << what;
}

TEST(Sample, EveryFloatTypeAndAnyLayout) {
  const Sampling s{.temperature = 0.9f, .top_k = 40, .top_p = 0.9f};
  for (const auto dtype : kFloats) {
    const auto logits = noise({33, 257}, 5, dtype);
    const auto want = ints(plain::sample(logits, keys(33), s));
    EXPECT_EQ(ints(sample(logits, keys(33), s)), want) << name(dtype);
    EXPECT_EQ(ints(sample(gappy(logits), keys(33), s)), want) << name(dtype);
    EXPECT_EQ(ints(sample(shifted(logits), gappy(keys(33)), s)), want) << name(dtype);
    const auto columns = mx::transpose(mx::contiguous(mx::transpose(logits)));
    EXPECT_EQ(ints(sample(columns, keys(33), s)), want) << name(dtype);
  }
}

// The words that may come, by definition, in double.
std::set<int32_t> support(const Doubles& x, const Sampling& s) {
  std::vector<int32_t> order(x.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return x[a] > x[b]; });
  if (s.top_k > 0 && s.top_k < static_cast<int>(x.size())) order.resize(s.top_k);
  double all = 0, before = 0;
  const auto weight = [&](int id) { return std::exp((x[id] - x[order[0]]) / s.temperature); };
  for (const int id : order) all += weight(id);
  std::set<int32_t> out;
  for (const int id : order) {
    if (!out.empty() && s.top_p < 1 && before >= s.top_p * all) break;
    before += weight(id);
    if (weight(id) >= s.min_p) out.insert(id);
  }
  return out;
}

// Many equal words, forbidden ones, outliers: what is drawn is exactly what may come.
TEST(Sample, DrawsAllThatMayComeAndNothingElse) {
  const auto ramp = mx::astype(mx::arange(3000), mx::float32);
  const std::vector<std::pair<std::string, array>> rows{
      {"equal", mx::zeros({3000})},
      {"steps", mx::floor(ramp * array(0.01f)) * array(0.5f)},
      {"two values", mx::where(mx::less(ramp, array(2990.0f)), array(-1.0f), array(1.0f))},
      {"forbidden", mx::where(mx::less(ramp, array(2995.0f)), array(-INFINITY), ramp)},
      {"masked", mx::where(mx::less(ramp, array(2960.0f)), array(-1e9f), ramp * array(0.02f))},
      {"outlier", mx::where(mx::equal(ramp, array(1234.0f)), array(50.0f), array(0.0f))},
      {"ramp", ramp * array(-0.25f)},
  };
  const std::vector<Sampling> cases{
      {.top_k = 12},
      {.top_k = 100, .top_p = 0.15f},
      {.top_p = 0.0031f},
      {.top_p = 0},
      {.top_k = 30, .min_p = 0.5f},
      {.temperature = 0.5f, .top_k = 20, .top_p = 0.7f},
  };
  const int draws = 4000;
  for (const auto& [what, row] : rows) {
    for (const auto& s : cases) {
      const auto may = support(values(row), s);
      if (may.size() > 60) continue;  // too many to see them all
      SCOPED_TRACE(what + ", top_k " + std::to_string(s.top_k) + ", top_p " +
                   std::to_string(s.top_p));
      const auto got = ints(sample(same_rows(row, draws), keys(draws), s));
      const std::set<int32_t> came(got.begin(), got.end());
      for (const int id : came) EXPECT_TRUE(may.count(id)) << id << " may not come";
      const auto x = values(row);
      const double best = *std::max_element(x.begin(), x.end());
      double all = 0;
      for (const int id : may) all += std::exp((x[id] - best) / s.temperature);
      for (const int id : may) {
        const double expected = std::exp((x[id] - best) / s.temperature) / all * draws;
        const bool surely = expected > 20;  // it stays away with probability e^-20
        EXPECT_TRUE(!surely || came.count(id)) << id << " never came";
      }
    }
  }
}

TEST(Sample, RowsDoNotKnowOfEachOther) {
  const Sampling s{.temperature = 0.8f, .top_p = 0.95f};
  const auto logits = noise({5, 700}, 8), all = keys(5);
  const auto together = ints(sample(logits, all, s));
  for (int r = 0; r < 5; r++) {
    const auto row = mx::slice(logits, {r, 0}, {r + 1, 700}),
               key = mx::slice(all, {r, 0}, {r + 1, 2});
    EXPECT_EQ(ints(sample(row, key, s))[0], together[static_cast<size_t>(r)]);
  }
}

TEST(Sample, GreedyTakesTheFirstOfEqualOnes) {
  for (const int vocabulary : {3, 40, 1000}) {
    auto row = mx::zeros({vocabulary});
    EXPECT_EQ(ints(sample(same_rows(row, 1), keys(1), {.temperature = 0}))[0], 0);
    row = mx::where(mx::greater_equal(mx::arange(vocabulary), array(vocabulary / 2)), array(1.0f),
                    row);
    EXPECT_EQ(ints(sample(same_rows(row, 1), keys(1), {.temperature = 0}))[0], vocabulary / 2);
  }
}

TEST(Sample, NumbersThatAreNoneGiveSomeWord) {
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    for (const Sampling& s : {Sampling{}, Sampling{.temperature = 0}, Sampling{.top_k = 5},
                              Sampling{.top_p = 0.5f}, Sampling{.min_p = 0.5f}}) {
      for (const auto& row :
           {mx::full({200}, bad), mx::concatenate({mx::zeros({199}), array({bad})})}) {
        const int token = ints(sample(same_rows(row, 1), keys(1), s))[0];
        EXPECT_TRUE(0 <= token && token < 200) << token;
      }
    }
  }
}

TEST(Sample, CompiledAndEmpty) {
  const Sampling s{.top_p = 0.9f};
  using Arrays = std::vector<array>;
  const auto compiled = mx::compile(std::function<Arrays(const Arrays&)>(
      [&](const Arrays& v) -> Arrays { return {sample(v[0], v[1], s)}; }));
  const auto logits = noise({3, 99}, 4);
  EXPECT_EQ(ints(compiled({logits, keys(3)})[0]), ints(sample(logits, keys(3), s)));
  EXPECT_EQ(ints(sample(mx::zeros({0, 9}), mx::zeros({0, 2}, mx::uint32), s)).size(), 0u);
}

TEST(Sample, RefusesWhatDoesNotFit) {
  const auto x = mx::zeros({2, 9});
  EXPECT_THROW(sample(x, keys(3), {}), Error);
  EXPECT_THROW(sample(x, mx::zeros({2, 2}), {}), Error);
  EXPECT_THROW(sample(mx::zeros({9}), keys(1), {}), Error);
  EXPECT_THROW(sample(x, keys(2), {.temperature = -1}), Error);
  EXPECT_THROW(sample(x, keys(2), {.top_k = -1}), Error);
  EXPECT_THROW(sample(x, keys(2), {.top_p = NAN}), Error);
}

}  // namespace
}  // namespace lmxlab::kernels
