#include "lmxlab/kernels/selective_scan.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <cmath>
#include <string>
#include <vector>

#include "lmxlab/base/error.h"
#include "lmxlab/kernels/thread_pool.h"
#include "tests/kernels/reference.h"

namespace mx = mlx::core;
using mx::array;

namespace lmxlab::kernels {
namespace {

using Arrays = std::vector<array>;

struct Sizes {
  int batch, length, inner, state;
};
// x, dt, a, b, c, h0: states of order one, decays from slow to fast.
Arrays problem(const Sizes& s) {
  const auto normal = [](mx::Shape shape, uint64_t key) {
    return mx::random::normal(shape, mx::random::key(key));
  };
  const auto uniform = [](float low, float high, mx::Shape shape, uint64_t key) {
    return mx::random::uniform(array(low), array(high), shape, mx::float32, mx::random::key(key));
  };
  Arrays in{normal({s.batch, s.length, s.inner}, 1),
            uniform(0.01f, 0.5f, {s.batch, s.length, s.inner}, 2),
            mx::negative(uniform(0.1f, 8, {s.inner, s.state}, 3)),
            normal({s.batch, s.length, s.state}, 4),
            normal({s.batch, s.length, s.state}, 5),
            normal({s.batch, s.inner, s.state}, 6)};
  mx::eval(in);
  return in;
}

// In float64, with the sizes of the terms that each number is a sum of.
struct Reference {
  Doubles y, h, y_terms, h_terms;
};
Reference reference(const Sizes& s, const std::vector<Doubles>& in) {
  Reference r;
  r.y.assign(size_t(s.batch) * s.length * s.inner, 0), r.y_terms = r.y;
  r.h = in[5], r.h_terms = in[5];
  for (auto& v : r.h_terms) v = std::abs(v);
  for (int row = 0; row < s.batch; row++)
    for (int t = 0; t < s.length; t++)
      for (int i = 0; i < s.inner; i++) {
        const size_t at = (size_t(row) * s.length + t) * s.inner + i;
        for (int n = 0; n < s.state; n++) {
          const size_t state = (size_t(row) * s.inner + i) * s.state + n;
          const size_t bc = (size_t(row) * s.length + t) * s.state + n;
          const double decay = std::exp(in[1][at] * in[2][size_t(i) * s.state + n]);
          const double term = in[1][at] * in[0][at] * in[3][bc];
          r.h[state] = decay * r.h[state] + term;
          r.h_terms[state] = decay * r.h_terms[state] + std::abs(term);
          r.y[at] += r.h[state] * in[4][bc];
          r.y_terms[at] += r.h_terms[state] * std::abs(in[4][bc]);
        }
      }
  return r;
}

void expect_within(const array& got, const Doubles& want, const Doubles& bounds,
                   const std::string& what) {
  const auto g = values(got);
  ASSERT_EQ(g.size(), want.size()) << what;
  size_t worst = 0;
  double off = -1;
  for (size_t i = 0; i < g.size(); i++) {
    const double share = std::abs(g[i] - want[i]) / (bounds[i] + 1e-30);
    if (!(share <= off)) off = share, worst = i;
  }
  EXPECT_LE(off, 1) << what << ", element " << worst << ": " << g[worst] << " and " << want[worst];
}

class SelectiveScanTest : public testing::TestWithParam<Sizes> {};

TEST_P(SelectiveScanTest, AgreesWithFloat64) {
  const auto& s = GetParam();
  const auto in = problem(s);
  std::vector<Doubles> d;
  for (const auto& a : in) d.push_back(values(a));
  const auto want = reference(s, d);
  const auto got = selective_scan(in[0], in[1], in[2], in[3], in[4], in[5]);
  // An exponential is good to 4 units in its last place, and is taken once a position on the way of
  // a term; a few roundings more, and one a number of the state.
  const double eps = std::ldexp(1.0, -24);
  auto y = want.y_terms, h = want.h_terms;
  for (auto& v : y) v *= eps * (6.0 * s.length + s.state + 4);
  for (auto& v : h) v *= eps * (6.0 * s.length + 4);
  expect_within(got.y, want.y, y, "y");
  expect_within(got.state, want.h, h, "state");
}

// Every gradient, beside that of the ordinary ops, whose sums are in other orders.
TEST_P(SelectiveScanTest, GradientsAreThoseOfOrdinaryOps) {
  const auto& s = GetParam();
  const auto in = problem(s);
  const auto gy = mx::random::normal({s.batch, s.length, s.inner}, mx::random::key(8));
  const auto gh = mx::random::normal({s.batch, s.inner, s.state}, mx::random::key(9));
  const auto gradients = [&](auto f) {
    return mx::vjp(
               [&](const Arrays& v) -> Arrays {
                 const auto o = f(v[0], v[1], v[2], v[3], v[4], v[5]);
                 return {o.y, o.state};
               },
               in, {gy, gh})
        .second;
  };
  const auto fused = gradients(selective_scan), ordinary = gradients(plain::selective_scan);
  const char* names[] = {"x", "dt", "a", "b", "c", "state"};
  for (size_t i = 0; i < fused.size(); i++) {
    auto largest = mx::max(mx::abs(ordinary[i]));
    const double bound = 1e-5 * double(largest.item<float>());
    const auto want = values(ordinary[i]);
    expect_within(fused[i], want, Doubles(want.size(), bound), names[i]);
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, SelectiveScanTest,
                         testing::Values(Sizes{1, 1, 1, 1}, Sizes{2, 31, 5, 3},
                                         Sizes{1, 32, 16, 16}, Sizes{2, 33, 37, 4},
                                         Sizes{1, 100, 64, 16}, Sizes{3, 65, 20, 5}),
                         [](const auto& test) {
                           const auto& s = test.param;
                           return std::to_string(s.batch) + "x" + std::to_string(s.length) + "x" +
                                  std::to_string(s.inner) + "x" + std::to_string(s.state);
                         });

TEST(SelectiveScan, DoesNotDependOnThePass) {
  const Sizes s{2, 70, 48, 16};
  const auto in = problem(s);
  const auto part = [&](const array& a, int from, int to) {
    return mx::slice(a, {0, from, 0}, {a.shape(0), to, a.shape(2)});
  };
  const auto whole = selective_scan(in[0], in[1], in[2], in[3], in[4], in[5]);
  auto h = in[5];
  Arrays y;
  for (const auto& [from, to] : {std::pair(0, 1), std::pair(1, 40), std::pair(40, 70)}) {
    const auto some = selective_scan(part(in[0], from, to), part(in[1], from, to), in[2],
                                     part(in[3], from, to), part(in[4], from, to), h);
    y.push_back(some.y), h = some.state;
  }
  EXPECT_TRUE(mx::array_equal(mx::concatenate(y, 1), whole.y).item<bool>());
  EXPECT_TRUE(mx::array_equal(h, whole.state).item<bool>());
}

TEST(SelectiveScan, RefusesOtherShapes) {
  const auto in = problem({1, 4, 6, 3});
  EXPECT_THROW(selective_scan(in[0], in[1], mx::transpose(in[2]), in[3], in[4], in[5]), Error);
  EXPECT_THROW(selective_scan(in[0], in[1], in[2], in[3], in[4], mx::expand_dims(in[5], 1)), Error);
  EXPECT_THROW(selective_scan(mx::astype(in[0], mx::float16), in[1], in[2], in[3], in[4], in[5]),
               Error);
}

}  // namespace
}  // namespace lmxlab::kernels
