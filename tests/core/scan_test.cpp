// The chunked scans against their recurrences, written out in double precision, with states of
// order one.
#include "lmxlab/core/scan.h"

#include "lmxlab/kernels/fused.h"
#include "tests/core/support.h"

#include <mlx/compile.h>

#include <array>

namespace lmxlab::core {
namespace {

using test::doubles;
using test::some;

struct Sizes {
  int B = 2, G = 2, H = 4, L = 1, N = 6, P = 5;
};
enum class Rule { linear, delta, delta_by_row };

struct Problem {
  Rule rule;
  Sizes n;
  mx::array q, k, v, g, beta, state;

  Scanned scan(bool with_state) const {
    const auto s = with_state ? std::optional(state) : std::nullopt;
    return rule == Rule::linear ? linear_scan(q, k, v, g, s) : delta_scan(q, k, v, g, beta, s);
  }
};

mx::array unit(const mx::array& x) {
  return mx::divide(x, mx::sqrt(mx::sum(mx::square(x), -1, true)));
}

// @param rate  log decays lie in (-rate, 0).
Problem problem(Rule rule, Sizes n, double rate) {
  if (rule == Rule::delta_by_row) n.G = n.H;
  mx::Shape g{n.B, n.H, n.L};
  if (rule == Rule::delta_by_row) g.push_back(n.N);
  const auto up = [](const mx::array& x) {
    return mx::multiply(mx::add(x, mx::array(1.0f)), mx::array(0.5f));
  };
  return {
      rule,
      n,
      some({n.B, n.G, n.L, n.N}, 1),
      rule == Rule::linear ? some({n.B, n.G, n.L, n.N}, 2) : unit(some({n.B, n.G, n.L, n.N}, 2)),
      some({n.B, n.H, n.L, n.P}, 3),
      mx::multiply(up(some(g, 4)), mx::array(static_cast<float>(-rate))),
      mx::multiply(up(some({n.B, n.H, n.L}, 5)), mx::array(1.9f)),
      some({n.B, n.H, n.N, n.P}, 6)};
}

struct Direct {
  std::vector<double> out, state;
};
Direct direct(const Problem& p, bool with_state) {
  const auto [B, G, H, L, N, P] = p.n;
  const auto q = doubles(p.q), k = doubles(p.k), v = doubles(p.v), g = doubles(p.g),
             beta = doubles(p.beta), start = doubles(p.state);
  Direct d{std::vector<double>(v.size()), std::vector<double>(start.size())};
  for (int b = 0; b < B; ++b)
    for (int h = 0; h < H; ++h) {
      const int row = b * H + h, group = b * G + h / (H / G);
      double* s = &d.state[static_cast<size_t>(row * N * P)];
      for (int i = 0; i < N * P; ++i)
        s[i] = with_state ? start[static_cast<size_t>(row * N * P + i)] : 0;
      for (int t = 0; t < L; ++t) {
        const double* kt = &k[static_cast<size_t>((group * L + t) * N)];
        const double* qt = &q[static_cast<size_t>((group * L + t) * N)];
        const double* vt = &v[static_cast<size_t>((row * L + t) * P)];
        for (int n = 0; n < N; ++n) {
          const int at = p.rule == Rule::delta_by_row ? (row * L + t) * N + n : row * L + t;
          for (int j = 0; j < P; ++j) s[n * P + j] *= std::exp(g[static_cast<size_t>(at)]);
        }
        for (int j = 0; j < P; ++j) {
          double change = vt[j];
          if (p.rule != Rule::linear) {
            for (int n = 0; n < N; ++n) change -= kt[n] * s[n * P + j];
            change *= beta[static_cast<size_t>(row * L + t)];
          }
          double out = 0;
          for (int n = 0; n < N; ++n) s[n * P + j] += kt[n] * change, out += qt[n] * s[n * P + j];
          d.out[static_cast<size_t>((row * L + t) * P + j)] = out;
        }
      }
    }
  return d;
}

double largest(const std::vector<double>& x) {
  double m = 0;
  for (const double e : x) m = std::max(m, std::abs(e));
  return m;
}

// Both forms: the kernels' and that of ordinary ops, in chunks.
struct Form {
  Rule rule;
  bool fused;
  operator Rule() const { return rule; }
};
class Scan : public testing::TestWithParam<Form> {
 protected:
  void SetUp() override { kernels::set_fused(GetParam().fused); }
  void TearDown() override { kernels::set_fused(true); }
};

TEST_P(Scan, EqualsTheRecurrence) {
  for (const double rate : {0.05, 1.0, 300.0})
    for (const int L : {1, 2, 3, 5, 17, 63, 64, 65, 128, 130, 200})
      for (const bool with_state : {false, true}) {
        const auto p = problem(GetParam(), {.L = L}, rate);
        const auto got = p.scan(with_state);
        const auto want = direct(p, with_state);
        const std::string what = "length " + std::to_string(L) + ", rate " + std::to_string(rate) +
                                 (with_state ? ", from a state" : "");
        // Rounding of sums of up to a chunk's terms; the delta rule feeds them back.
        const double terms = std::min(L, kScanChunk) + p.n.N;
        const double bound = (GetParam() == Rule::linear ? 4 : 16) * test::kEps * std::sqrt(terms) *
                             std::max(largest(want.out), largest(want.state));
        test::expect_close(got.out, want.out, bound, what);
        test::expect_close(got.state, want.state, bound, what + ", the state");
        EXPECT_EQ(got.out.dtype(), mx::float32);
        if (with_state) {
          EXPECT_GT(largest(want.state), 0.3) << what;
        }
      }
}

TEST_P(Scan, OneHeadOneGroupOneRow) {
  const auto p = problem(GetParam(), {.B = 1, .G = 1, .H = 1, .L = 70, .N = 1, .P = 1}, 0.3);
  test::expect_close(p.scan(true).out, direct(p, true).out, 1e-5);
}

TEST_P(Scan, PiecesContinueEachOther) {
  const auto p = problem(GetParam(), {.L = 150}, 0.2);
  const auto whole = p.scan(true);
  std::vector<mx::array> parts;
  auto state = p.state;
  int at = 0;
  for (const int n : {1, 64, 3, 65, 17}) {
    const auto cut = [&](const mx::array& x) {
      mx::Shape from(x.ndim(), 0), to = x.shape();
      from[2] = at, to[2] = at + n;
      return mx::slice(x, from, to);
    };
    const auto next = p.rule == Rule::linear
                          ? linear_scan(cut(p.q), cut(p.k), cut(p.v), cut(p.g), state)
                          : delta_scan(cut(p.q), cut(p.k), cut(p.v), cut(p.g), cut(p.beta), state);
    parts.push_back(next.out), state = next.state, at += n;
  }
  ASSERT_EQ(at, 150);
  const double bound = 1e-5;
  test::expect_close(mx::concatenate(parts, 2), doubles(whole.out), bound);
  test::expect_close(state, doubles(whole.state), bound);
}

TEST_P(Scan, GradientsAreThoseOfTheRecurrence) {
  for (const int L : {1, 7, 66}) {
    auto p = problem(GetParam(), {.B = 1, .G = 1, .H = 2, .L = L, .N = 3, .P = 2}, 0.4);
    const auto weigh = [&](const std::vector<double>& out, const std::vector<double>& state) {
      double sum = 0;
      for (size_t i = 0; i < out.size(); ++i) sum += out[i] * std::sin(0.3 * double(i) + 1);
      for (size_t i = 0; i < state.size(); ++i) sum += state[i] * std::cos(0.7 * double(i));
      return sum;
    };
    const auto loss = [&](const std::vector<mx::array>& in) -> std::vector<mx::array> {
      auto with = p;
      with.q = in[0], with.k = in[1], with.v = in[2], with.g = in[3], with.state = in[4],
      with.beta = in[5];
      const auto s = with.scan(true);
      const auto wave = [](const mx::array& x, float step, float phase) {
        const auto at = mx::arange(static_cast<int>(x.size()));
        return mx::reshape(
            mx::add(mx::multiply(mx::astype(at, mx::float32), mx::array(step)), mx::array(phase)),
            x.shape());
      };
      return {mx::add(mx::sum(mx::multiply(s.out, mx::sin(wave(s.out, 0.3f, 1)))),
                      mx::sum(mx::multiply(s.state, mx::cos(wave(s.state, 0.7f, 0)))))};
    };
    const int n = GetParam() == Rule::linear ? 5 : 6;
    std::vector<int> all(static_cast<size_t>(n));
    for (int i = 0; i < n; ++i) all[static_cast<size_t>(i)] = i;
    const auto grads = mx::value_and_grad(loss, all)({p.q, p.k, p.v, p.g, p.state, p.beta}).second;
    const std::array<mx::array Problem::*, 6> parts{&Problem::q, &Problem::k,     &Problem::v,
                                                    &Problem::g, &Problem::state, &Problem::beta};
    for (size_t i = 0; i < static_cast<size_t>(n); ++i) {
      const auto shape = (p.*parts[i]).shape();
      const auto direction = some(shape, 50 + i);
      const auto towards = doubles(direction), grad = doubles(grads[i]);
      double analytic = 0;
      for (size_t j = 0; j < grad.size(); ++j) analytic += grad[j] * towards[j];
      // The recurrence in doubles, a step to both sides; its inputs are rounded to float32.
      const double h = 1.0 / 64;
      const auto at = [&](double step) {
        auto moved = p;
        moved.*parts[i] =
            mx::add(p.*parts[i], mx::multiply(direction, mx::array(static_cast<float>(step))));
        const auto d = direct(moved, true);
        return weigh(d.out, d.state);
      };
      const double numeric = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h);
      EXPECT_NEAR(analytic, numeric, 1e-3 * std::max(1.0, std::abs(numeric)))
          << "length " << L << ", input " << i;
    }
  }
}

TEST_P(Scan, CompiledEqualsEager) {
  const auto p = problem(GetParam(), {.L = 100}, 0.4);
  const auto run = [&](const std::vector<mx::array>& in) -> std::vector<mx::array> {
    auto with = p;
    with.q = in[0], with.k = in[1], with.v = in[2];
    const auto s = with.scan(true);
    return {s.out, s.state};
  };
  const auto eager = run({p.q, p.k, p.v}), compiled = mx::compile(run)({p.q, p.k, p.v});
  for (size_t i = 0; i < 2; ++i) test::expect_close(compiled[i], doubles(eager[i]), 1e-6);
}

// A step that forgets everything must not blur the small ones after it.
TEST_P(Scan, StrongDecayKeepsWhatFollows) {
  auto p = problem(GetParam(), {.L = 64}, 0.01);
  const auto g = mx::where(mx::less(mx::remainder(mx::arange(64), mx::array(9)), mx::array(2)),
                           mx::array(-30000.0f), mx::array(-0.001f));
  p.g = mx::broadcast_to(p.rule == Rule::delta_by_row ? mx::expand_dims(g, -1) : g, p.g.shape());
  test::expect_close(p.scan(true).out, direct(p, true).out, 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Rules, Scan,
                         testing::Values(Form{Rule::linear, true}, Form{Rule::linear, false},
                                         Form{Rule::delta, true}, Form{Rule::delta, false},
                                         Form{Rule::delta_by_row, true},
                                         Form{Rule::delta_by_row, false}),
                         [](const auto& test) {
                           const Rule rule = test.param;
                           return std::string(rule == Rule::linear  ? "linear"
                                              : rule == Rule::delta ? "delta"
                                                                    : "delta_by_row") +
                                  (test.param.fused ? "" : "_in_ops");
                         });

// The selective scan has operands of its own.
struct Selective {
  mx::array x, dt, a, b, c, state;
  explicit Selective(int L, int B = 2, int I = 6, int N = 5)
      : x(some({B, L, I}, 1)),
        dt(mx::abs(some({B, L, I}, 2))),
        a(mx::negative(mx::exp(some({I, N}, 3, 2)))),
        b(some({B, L, N}, 4)),
        c(some({B, L, N}, 5)),
        state(some({B, 1, I, N}, 6)) {}
  std::vector<mx::array> operands() const { return {x, dt, a, b, c, state}; }
  static std::vector<mx::array> scan(const std::vector<mx::array>& in) {
    const auto s = selective_scan(in[0], in[1], in[2], in[3], in[4], in[5]);
    return {s.out, s.state};
  }
};

Direct direct(const std::vector<mx::array>& in, bool with_state) {
  const int B = in[0].shape(0), L = in[0].shape(1), I = in[0].shape(2), N = in[2].shape(1);
  const auto x = doubles(in[0]), dt = doubles(in[1]), a = doubles(in[2]), b = doubles(in[3]),
             c = doubles(in[4]);
  Direct d{std::vector<double>(x.size()), doubles(in[5])};
  if (!with_state) std::fill(d.state.begin(), d.state.end(), 0);
  for (int r = 0; r < B; ++r)
    for (int t = 0; t < L; ++t)
      for (int i = 0; i < I; ++i)
        for (int n = 0; n < N; ++n) {
          const auto at = static_cast<size_t>((r * L + t) * I + i);
          const auto beside = static_cast<size_t>((r * L + t) * N + n);
          auto& h = d.state[static_cast<size_t>((r * I + i) * N + n)];
          h = std::exp(dt[at] * a[static_cast<size_t>(i * N + n)]) * h + dt[at] * x[at] * b[beside];
          d.out[at] += h * c[beside];
        }
  return d;
}

class SelectiveScan : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override { kernels::set_fused(GetParam()); }
  void TearDown() override { kernels::set_fused(true); }
};

TEST_P(SelectiveScan, EqualsTheRecurrence) {
  for (const int L : {1, 2, 15, 16, 17, 32, 33, 100})
    for (const bool with_state : {false, true}) {
      const Selective p(L);
      const auto got = selective_scan(p.x, p.dt, p.a, p.b, p.c,
                                      with_state ? std::optional(p.state) : std::nullopt);
      const auto want = direct(p.operands(), with_state);
      const double bound =
          16 * test::kEps * 5 * std::max({1.0, largest(want.out), largest(want.state)});
      const std::string what = "length " + std::to_string(L);
      test::expect_close(got.out, want.out, bound, what);
      test::expect_close(got.state, want.state, bound, what + ", the state");
    }
}

TEST_P(SelectiveScan, GradientsAreThoseOfTheRecurrence) {
  for (const int L : {1, 9, 37}) {
    const auto in = Selective(L, 1, 3, 2).operands();
    const auto loss = [](const std::vector<mx::array>& with) -> std::vector<mx::array> {
      const auto s = Selective::scan(with);
      return {mx::add(mx::sum(mx::square(s[0])), mx::sum(s[1]))};
    };
    const auto grads = mx::value_and_grad(loss, {0, 1, 2, 3, 4, 5})(in).second;
    for (size_t i = 0; i < in.size(); ++i) {
      const auto direction = some(in[i].shape(), 60 + i, 0.5);
      const auto towards = doubles(direction), grad = doubles(grads[i]);
      double analytic = 0;
      for (size_t j = 0; j < grad.size(); ++j) analytic += grad[j] * towards[j];
      const auto at = [&](double step) {
        auto moved = in;
        moved[i] = mx::add(in[i], mx::multiply(direction, mx::array(static_cast<float>(step))));
        const auto d = direct(moved, true);
        double sum = 0;
        for (const double y : d.out) sum += y * y;
        for (const double h : d.state) sum += h;
        return sum;
      };
      const double h = 1.0 / 64;
      const double numeric = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h);
      EXPECT_NEAR(analytic, numeric, 1e-3 * std::max(1.0, std::abs(numeric)))
          << "length " << L << ", input " << i;
    }
  }
}

TEST_P(SelectiveScan, CompiledEqualsEager) {
  const auto in = Selective(50).operands();
  const auto eager = Selective::scan(in), compiled = mx::compile(Selective::scan)(in);
  for (size_t i = 0; i < 2; ++i) test::expect_close(compiled[i], doubles(eager[i]), 1e-6);
}

INSTANTIATE_TEST_SUITE_P(Forms, SelectiveScan, testing::Bool(), [](const auto& test) {
  return std::string(test.param ? "kernel" : "in_ops");
});

}  // namespace
}  // namespace lmxlab::core
