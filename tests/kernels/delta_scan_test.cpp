#include "lmxlab/kernels/delta_scan.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <cmath>
#include <string>
#include <vector>

#include "lmxlab/base/error.h"
#include "tests/kernels/reference.h"

namespace mx = mlx::core;
using mx::array;

namespace lmxlab::kernels {
namespace {

using Arrays = std::vector<array>;

struct Sizes {
  int batch, groups, heads, length, rows, columns;
  bool by_row;
};
// q, k, v, g, beta, S0: keys of length 1, states of order one.
Arrays problem(const Sizes& s) {
  const auto normal = [](mx::Shape shape, uint64_t key) {
    return mx::random::normal(shape, mx::random::key(key));
  };
  const auto uniform = [](float low, float high, mx::Shape shape, uint64_t key) {
    return mx::random::uniform(array(low), array(high), shape, mx::float32, mx::random::key(key));
  };
  const auto unit = [](const array& a) {
    return mx::divide(a, mx::sqrt(mx::sum(mx::square(a), -1, true)));
  };
  Arrays in{normal({s.batch, s.groups, s.length, s.rows}, 1),
            unit(normal({s.batch, s.groups, s.length, s.rows}, 2)),
            normal({s.batch, s.heads, s.length, s.columns}, 3),
            uniform(-0.5f, 0, {s.batch, s.heads, s.length, s.by_row ? s.rows : 1}, 4),
            uniform(0, 1.9f, {s.batch, s.heads, s.length}, 5),
            normal({s.batch, s.heads, s.rows, s.columns}, 6)};
  mx::eval(in);
  return in;
}

// In float64, position after position.
struct Reference {
  Doubles out, state;
};
Reference reference(const Sizes& s, const std::vector<Doubles>& in) {
  const size_t N = size_t(s.rows), P = size_t(s.columns), L = size_t(s.length);
  const size_t decays = s.by_row ? N : 1;
  Reference r{Doubles(in[2].size()), in[5]};
  for (int head = 0; head < s.batch * s.heads; head++) {
    const size_t row = size_t(head / s.heads), share = size_t(s.heads / s.groups);
    const size_t group = row * size_t(s.groups) + size_t(head % s.heads) / share, h = size_t(head);
    double* const S = r.state.data() + h * N * P;
    for (size_t t = 0; t < L; t++) {
      const double *const q = &in[0][(group * L + t) * N], *const k = &in[1][(group * L + t) * N];
      for (size_t n = 0; n < N; n++)
        for (size_t p = 0; p < P; p++)
          S[n * P + p] *= std::exp(in[3][(h * L + t) * decays + (s.by_row ? n : 0)]);
      for (size_t p = 0; p < P; p++) {
        double error = in[2][(h * L + t) * P + p], out = 0;
        for (size_t n = 0; n < N; n++) error -= S[n * P + p] * k[n];
        for (size_t n = 0; n < N; n++) {
          S[n * P + p] += k[n] * in[4][h * L + t] * error;
          out += S[n * P + p] * q[n];
        }
        r.out[(h * L + t) * P + p] = out;
      }
    }
  }
  return r;
}
double largest(const Doubles& v) {
  double most = 0;
  for (const double x : v) most = std::max(most, std::abs(x));
  return most;
}

class DeltaScanTest : public testing::TestWithParam<Sizes> {};

TEST_P(DeltaScanTest, AgreesWithFloat64) {
  const auto& s = GetParam();
  const auto in = problem(s);
  std::vector<Doubles> d;
  for (const auto& a : in) d.push_back(values(a));
  const auto want = reference(s, d);
  const auto got = delta_scan(in[0], in[1], in[2], in[3], in[4], in[5]);
  // Sums of N terms a position; the state is contracted, so that errors of positions do not add up
  // to more than a few of them.
  const double unit = std::ldexp(1.0, -24) * 8 * (std::sqrt(double(s.rows)) + 4);
  expect_near(
      got.out, want.out, [&](size_t) { return unit * largest(want.out); }, "out");
  expect_near(
      got.state, want.state, [&](size_t) { return unit * largest(want.state); }, "state");
}

// Every gradient, beside that of the ordinary ops, whose sums are in other orders.
TEST_P(DeltaScanTest, GradientsAreThoseOfOrdinaryOps) {
  const auto& s = GetParam();
  const auto in = problem(s);
  const auto go = mx::random::normal(in[2].shape(), mx::random::key(8));
  const auto gs = mx::random::normal(in[5].shape(), mx::random::key(9));
  const auto gradients = [&](auto f) {
    return mx::vjp(
               [&](const Arrays& v) -> Arrays {
                 const auto o = f(v[0], v[1], v[2], v[3], v[4], v[5]);
                 return {o.out, o.state};
               },
               in, {go, gs})
        .second;
  };
  const auto fused = gradients(delta_scan), ordinary = gradients(plain::delta_scan);
  const char* names[] = {"q", "k", "v", "g", "beta", "state"};
  for (size_t i = 0; i < fused.size(); i++) {
    const auto want = values(ordinary[i]);
    expect_near(
        fused[i], want, [&](size_t) { return 1e-5 * largest(want); }, names[i]);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Sizes, DeltaScanTest,
    testing::Values(Sizes{1, 1, 1, 1, 1, 1, false}, Sizes{2, 1, 2, 33, 5, 7, false},
                    Sizes{1, 2, 4, 32, 16, 64, false}, Sizes{2, 2, 2, 70, 12, 20, true},
                    Sizes{1, 1, 1, 100, 64, 64, true}, Sizes{1, 1, 3, 31, 8, 130, false}),
    [](const auto& test) {
      const auto& s = test.param;
      return std::to_string(s.heads) + "of" + std::to_string(s.groups) + "x" +
             std::to_string(s.length) + "x" + std::to_string(s.rows) + "x" +
             std::to_string(s.columns) + (s.by_row ? "rows" : "");
    });

TEST(DeltaScan, DoesNotDependOnThePass) {
  const auto in = problem({2, 1, 2, 70, 16, 16, false});
  const auto part = [&](const array& a, int from, int to) {
    auto start = mx::Shape(a.ndim(), 0), stop = a.shape();
    start[2] = from, stop[2] = to;
    return mx::slice(a, start, stop);
  };
  const auto whole = delta_scan(in[0], in[1], in[2], in[3], in[4], in[5]);
  auto s = in[5];
  Arrays out;
  for (const auto& [from, to] : {std::pair(0, 1), std::pair(1, 40), std::pair(40, 70)}) {
    const auto some =
        delta_scan(part(in[0], from, to), part(in[1], from, to), part(in[2], from, to),
                   part(in[3], from, to), part(in[4], from, to), s);
    out.push_back(some.out), s = some.state;
  }
  EXPECT_TRUE(mx::array_equal(mx::concatenate(out, 2), whole.out).item<bool>());
  EXPECT_TRUE(mx::array_equal(s, whole.state).item<bool>());
}

TEST(DeltaScan, RefusesOtherShapes) {
  const auto in = problem({1, 2, 4, 4, 6, 3, false});
  EXPECT_THROW(delta_scan(in[0], in[1], in[2], mx::squeeze(in[3], -1), in[4], in[5]), Error);
  EXPECT_THROW(delta_scan(in[2], in[1], in[2], in[3], in[4], in[5]), Error);
  EXPECT_THROW(delta_scan(in[0], in[1], in[2], in[3], in[4], mx::astype(in[5], mx::float16)),
               Error);
}

}  // namespace
}  // namespace lmxlab::kernels
