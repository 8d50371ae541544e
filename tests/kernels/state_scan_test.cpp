#include "lmxlab/kernels/state_scan.h"

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

enum class Rule { linear, delta, dplr };
struct Sizes {
  Rule rule;
  int batch, groups, heads, length, rows, columns;
  bool by_row;
};
// q, k, v, g, S0, then beta, or b and c: keys of length 1, states of order one.
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
            normal({s.batch, s.heads, s.rows, s.columns}, 6)};
  if (s.rule == Rule::delta) in.push_back(uniform(0, 1.9f, {s.batch, s.heads, s.length}, 5));
  if (s.rule == Rule::dplr) {
    const auto c = unit(normal({s.batch, s.heads, s.length, s.rows}, 7));
    in.push_back(mx::multiply(c, uniform(0, 1, c.shape(), 8)));
    in.push_back(c);
  }
  mx::eval(in);
  return in;
}
StateScan run(Rule rule, const Arrays& v, bool ordinary = false) {
  switch (rule) {
    case Rule::linear:
      return (ordinary ? plain::linear_scan : linear_scan)(v[0], v[1], v[2], v[3], v[4]);
    case Rule::delta:
      return (ordinary ? plain::delta_scan : delta_scan)(v[0], v[1], v[2], v[3], v[5], v[4]);
    default:
      return (ordinary ? plain::dplr_scan : dplr_scan)(v[0], v[1], v[2], v[3], v[5], v[6], v[4]);
  }
}

// In float64, position after position, as the equations stand.
struct Reference {
  Doubles out, state;
};
Reference reference(const Sizes& s, const std::vector<Doubles>& in) {
  const size_t N = size_t(s.rows), P = size_t(s.columns), L = size_t(s.length);
  const size_t decays = s.by_row ? N : 1;
  Reference r{Doubles(in[2].size()), in[4]};
  for (int head = 0; head < s.batch * s.heads; head++) {
    const size_t row = size_t(head / s.heads), share = size_t(s.heads / s.groups);
    const size_t group = row * size_t(s.groups) + size_t(head % s.heads) / share, h = size_t(head);
    double* const S = r.state.data() + h * N * P;
    for (size_t t = 0; t < L; t++) {
      const double *const q = &in[0][(group * L + t) * N], *const k = &in[1][(group * L + t) * N];
      const size_t at = (h * L + t) * N;
      for (size_t p = 0; p < P; p++) {
        double found = 0, out = 0;
        const auto decay = [&](size_t n) {
          return std::exp(in[3][(h * L + t) * decays + (s.by_row ? n : 0)]);
        };
        for (size_t n = 0; n < N; n++) {
          if (s.rule == Rule::delta) found += decay(n) * S[n * P + p] * k[n];
          if (s.rule == Rule::dplr) found += S[n * P + p] * in[6][at + n];
        }
        const double v = in[2][(h * L + t) * P + p];
        for (size_t n = 0; n < N; n++) {
          S[n * P + p] *= decay(n);
          if (s.rule == Rule::linear) S[n * P + p] += k[n] * v;
          if (s.rule == Rule::delta) S[n * P + p] += k[n] * in[5][h * L + t] * (v - found);
          if (s.rule == Rule::dplr) S[n * P + p] += k[n] * v - in[5][at + n] * found;
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

class StateScanTest : public testing::TestWithParam<Sizes> {};

TEST_P(StateScanTest, AgreesWithFloat64) {
  const auto& s = GetParam();
  const auto in = problem(s);
  std::vector<Doubles> d;
  for (const auto& a : in) d.push_back(values(a));
  const auto want = reference(s, d);
  const auto got = run(s.rule, in);
  // Sums of N terms a position; the state is contracted, so that errors of positions do not add up
  // to more than a few of them.
  const double unit = std::ldexp(1.0, -24) * 8 * (std::sqrt(double(s.rows)) + 4);
  expect_near(
      got.out, want.out, [&](size_t) { return unit * largest(want.out); }, "out");
  expect_near(
      got.state, want.state, [&](size_t) { return unit * largest(want.state); }, "state");
}

// Every gradient, beside that of the ordinary ops, whose sums are in other orders.
TEST_P(StateScanTest, GradientsAreThoseOfOrdinaryOps) {
  const auto& s = GetParam();
  const auto in = problem(s);
  const auto go = mx::random::normal(in[2].shape(), mx::random::key(18));
  const auto gs = mx::random::normal(in[4].shape(), mx::random::key(19));
  const auto gradients = [&](bool ordinary) {
    return mx::vjp(
               [&](const Arrays& v) -> Arrays {
                 const auto o = run(s.rule, v, ordinary);
                 return {o.out, o.state};
               },
               in, {go, gs})
        .second;
  };
  const auto fused = gradients(false), ordinary = gradients(true);
  const std::vector<const char*> names = s.rule == Rule::dplr
                                             ? std::vector{"q", "k", "v", "g", "state", "b", "c"}
                                             : std::vector{"q", "k", "v", "g", "state", "beta"};
  ASSERT_EQ(fused.size(), in.size());
  for (size_t i = 0; i < fused.size(); i++) {
    const auto want = values(ordinary[i]);
    expect_near(
        fused[i], want, [&](size_t) { return 1e-5 * largest(want); }, names[i]);
  }
}

std::vector<Sizes> sizes() {
  std::vector<Sizes> all;
  for (const auto rule : {Rule::linear, Rule::delta, Rule::dplr}) {
    all.push_back({rule, 1, 1, 1, 1, 1, 1, false});
    all.push_back({rule, 2, 1, 2, 33, 5, 7, false});
    all.push_back({rule, 1, 2, 4, 32, 16, 64, false});
    all.push_back({rule, 2, 2, 2, 70, 12, 20, true});
    all.push_back({rule, 1, 1, 1, 100, 64, 64, true});
    all.push_back({rule, 1, 1, 3, 31, 8, 130, false});
  }
  return all;
}
std::string name_of(const testing::TestParamInfo<Sizes>& test) {
  const auto& s = test.param;
  const char* const rules[] = {"linear", "delta", "dplr"};
  return rules[size_t(s.rule)] + std::to_string(s.heads) + "of" + std::to_string(s.groups) + "x" +
         std::to_string(s.length) + "x" + std::to_string(s.rows) + "x" + std::to_string(s.columns) +
         (s.by_row ? "rows" : "");
}
INSTANTIATE_TEST_SUITE_P(Sizes, StateScanTest, testing::ValuesIn(sizes()), name_of);

TEST(StateScan, DoesNotDependOnThePass) {
  for (const auto rule : {Rule::linear, Rule::delta, Rule::dplr}) {
    const auto in = problem({rule, 2, 1, 2, 70, 16, 16, false});
    const auto part = [&](int from, int to, const array& state) {
      auto some = in;
      for (size_t i = 0; i < some.size(); i++) {
        auto start = mx::Shape(some[i].ndim(), 0), stop = some[i].shape();
        start[2] = from, stop[2] = to;
        some[i] = i == 4 ? state : mx::slice(some[i], start, stop);
      }
      return run(rule, some);
    };
    const auto whole = run(rule, in);
    auto s = in[4];
    Arrays out;
    for (const auto& [from, to] : {std::pair(0, 1), std::pair(1, 40), std::pair(40, 70)}) {
      const auto some = part(from, to, s);
      out.push_back(some.out), s = some.state;
    }
    EXPECT_TRUE(mx::array_equal(mx::concatenate(out, 2), whole.out).item<bool>());
    EXPECT_TRUE(mx::array_equal(s, whole.state).item<bool>());
  }
}

TEST(StateScan, NoPositionsLeaveTheState) {
  for (const auto rule : {Rule::linear, Rule::delta, Rule::dplr}) {
    const auto in = problem({rule, 1, 1, 2, 0, 4, 5, false});
    const auto got = run(rule, in);
    EXPECT_EQ(got.out.size(), 0u);
    EXPECT_TRUE(mx::array_equal(got.state, in[4]).item<bool>());
    const auto g = mx::vjp(
        [&](const Arrays& v) -> Arrays {
          auto all = in;
          all[4] = v[0];
          return {run(rule, all).state};
        },
        {in[4]}, {in[4]});
    EXPECT_TRUE(mx::array_equal(g.second[0], in[4]).item<bool>());
  }
}

TEST(StateScan, RefusesOtherShapes) {
  const auto in = problem({Rule::delta, 1, 2, 4, 4, 6, 3, false});
  EXPECT_THROW(linear_scan(in[0], in[1], in[2], mx::squeeze(in[3], -1), in[4]), Error);
  EXPECT_THROW(linear_scan(in[2], in[1], in[2], in[3], in[4]), Error);
  EXPECT_THROW(delta_scan(in[0], in[1], in[2], in[3], in[3], in[4]), Error);
  EXPECT_THROW(dplr_scan(in[0], in[1], in[2], in[3], in[0], in[0], in[4]), Error);
  EXPECT_THROW(delta_scan(in[0], in[1], in[2], in[3], in[5], mx::astype(in[4], mx::float16)),
               Error);
}

}  // namespace
}  // namespace lmxlab::kernels
