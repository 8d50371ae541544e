// The scans of RG-LRU, RWKV-4 and xLSTM against their sums over the past, those of Mamba-3 and
// RWKV-7 against their recurrences, written out in double precision without any of the scans'
// exponents.
#include "lmxlab/core/stable_scan.h"

#include "lmxlab/core/scan.h"
#include "lmxlab/kernels/fused.h"
#include "tests/core/support.h"

#include <mlx/compile.h>

namespace lmxlab::core {
namespace {

using test::doubles;
using test::some;
using Arrays = std::vector<mx::array>;

constexpr float kEps = 1e-3f;  // of mLSTM: one that counts
constexpr int kRows = 2, kWidth = 5, kHeads = 3, kKeys = 4, kValues = 2;

mx::array scaled(const mx::array& x, float by, float more = 0) {
  return mx::add(mx::multiply(x, mx::array(by)), mx::array(more));
}
size_t at(int i) {
  return static_cast<size_t>(i);
}

// Outputs, and the state without exponents.
struct Direct {
  std::vector<double> out, state;
};
struct Case {
  const char* name;
  // Operands, the state last; `size` is that of the exponents.
  Arrays (*operands)(int length, double size);
  Arrays (*smooth)(int length, double size);  // where there is no bend nearby
  // @return  outputs, the state, and the state without exponents.
  struct Got {
    mx::array out;
    Arrays state;
    mx::array plain;
  };
  Got (*scan)(const Arrays& in, bool with_state);
  Direct (*direct)(const Arrays& in, bool with_state);
  std::vector<int> axes;  // of the positions, -1: none; of all but the state
  int states;
};

// ---- h_t = exp(g_t) h_(t-1) + x_t ----

Arrays elementwise_operands(int L, double size) {
  const mx::Shape shape{kRows, L, kWidth};
  return {scaled(mx::abs(some(shape, 1)), static_cast<float>(-size)), some(shape, 2),
          some({kRows, kWidth}, 3)};
}
Case::Got elementwise(const Arrays& in, bool with_state) {
  const auto s = elementwise_scan(in[0], in[1], with_state ? std::optional(in[2]) : std::nullopt);
  return {s.out, {s.state}, s.state};
}
Direct elementwise_sums(const Arrays& in, bool with_state) {
  const int L = in[0].shape(1);
  const auto g = doubles(in[0]), x = doubles(in[1]), start = doubles(in[2]);
  Direct d{std::vector<double>(x.size()), std::vector<double>(start.size())};
  for (int b = 0; b < in[0].shape(0); ++b)
    for (int c = 0; c < kWidth; ++c)
      for (int t = 0; t < L; ++t) {
        double sum = 0, passed = 0;
        for (int j = t; j >= 0; --j) {
          const size_t here = at((b * L + j) * kWidth + c);
          sum += std::exp(passed) * x[here];
          passed += g[here];
        }
        if (with_state) sum += std::exp(passed) * start[at(b * kWidth + c)];
        d.out[at((b * L + t) * kWidth + c)] = d.state[at(b * kWidth + c)] = sum;
      }
  return d;
}

// ---- RWKV-4: k, v, w, u, (a, b), most ----

Arrays wkv_operands(int L, double size) {
  const mx::Shape shape{kRows, L, kWidth};
  return {some(shape, 1, size),
          some(shape, 2),
          mx::exp(some({kWidth}, 3, 2)),
          some({kWidth}, 4, size),
          mx::stack({some({kRows, kWidth}, 5), scaled(some({kRows, kWidth}, 6), 0.5f, 0.6f)}, 1),
          some({kRows, kWidth}, 7, size)};
}
mx::array plain_wkv(const LogState& s) {
  return mx::multiply(s.sums, mx::expand_dims(mx::exp(s.most), 1));
}
Case::Got wkv(const Arrays& in, bool with_state) {
  const auto s = wkv_scan(in[0], in[1], in[2], in[3],
                          with_state ? std::optional(LogState{in[4], in[5]}) : std::nullopt);
  return {s.out, {s.state.sums, s.state.most}, plain_wkv(s.state)};
}
Direct wkv_sums(const Arrays& in, bool with_state) {
  const int L = in[0].shape(1);
  const auto k = doubles(in[0]), v = doubles(in[1]), w = doubles(in[2]), u = doubles(in[3]),
             sums = doubles(in[4]), most = doubles(in[5]);
  Direct d{std::vector<double>(v.size()), std::vector<double>(sums.size())};
  for (int b = 0; b < in[0].shape(0); ++b)
    for (int c = 0; c < kWidth; ++c) {
      const auto key = [&](int t) { return at((b * L + t) * kWidth + c); };
      // Both sums over what stands before position t.
      const auto past = [&](int t, int part) {
        double sum = 0;
        for (int j = 0; j < t; ++j)
          sum += std::exp(k[key(j)] - (t - 1 - j) * w[at(c)]) * (part == 0 ? v[key(j)] : 1);
        if (with_state)
          sum += std::exp(most[at(b * kWidth + c)] - t * w[at(c)]) *
                 sums[at((b * 2 + part) * kWidth + c)];
        return sum;
      };
      for (int t = 0; t < L; ++t) {
        const double own = std::exp(u[at(c)] + k[key(t)]);
        d.out[key(t)] = (past(t, 0) + own * v[key(t)]) / (past(t, 1) + own);
      }
      for (int part = 0; part < 2; ++part) d.state[at((b * 2 + part) * kWidth + c)] = past(L, part);
    }
  return d;
}

// ---- mLSTM: q, k, v, i, f, S, m ----

Arrays mlstm_operands(int L, double size) {
  return {some({kRows, kHeads, L, kKeys}, 1),
          some({kRows, kHeads, L, kKeys}, 2),
          some({kRows, kHeads, L, kValues}, 3),
          some({kRows, kHeads, L}, 4, size),
          scaled(mx::abs(some({kRows, kHeads, L}, 5)), static_cast<float>(-size)),
          some({kRows, kHeads, kKeys, kValues + 1}, 6),
          some({kRows, kHeads}, 7, size)};
}
// Far from where max(|n|, 1) bends: |n| is below 1 in the first head, and above it in the others.
Arrays smooth_mlstm_operands(int L, double size) {
  auto in = mlstm_operands(L, size);
  const mx::array factors({0.005f, 1.0f, 1.0f}, {1, kHeads, 1, 1});
  in[0] = mx::multiply(scaled(mx::abs(in[0]), 1, 1.5f), factors);
  in[1] = scaled(mx::abs(in[1]), 1, 0.5f);
  in[5] = scaled(in[5], 0.1f, 0.2f);
  return in;
}
mx::array plain_mlstm(const LogState& s) {
  return mx::multiply(s.sums, mx::expand_dims(mx::exp(s.most), {2, 3}));
}
Case::Got mlstm(const Arrays& in, bool with_state) {
  const auto s = mlstm_scan(in[0], in[1], in[2], in[3], in[4], kEps,
                            with_state ? std::optional(LogState{in[5], in[6]}) : std::nullopt);
  return {s.out, {s.state.sums, s.state.most}, plain_mlstm(s.state)};
}
Direct mlstm_sums(const Arrays& in, bool with_state) {
  const int L = in[0].shape(2), H = in[0].shape(1);
  const auto q = doubles(in[0]), k = doubles(in[1]), v = doubles(in[2]), i = doubles(in[3]),
             f = doubles(in[4]), sums = doubles(in[5]), most = doubles(in[6]);
  Direct d{std::vector<double>(v.size()), std::vector<double>(sums.size())};
  constexpr int kAll = kValues + 1;
  for (int row = 0; row < in[0].shape(0) * H; ++row)
    for (int t = 0; t < L; ++t) {
      // Without exponents exp(-m) is 1, and eps is as many times larger.
      std::vector<double> state(at(kKeys * kAll));
      double passed = 0, largest = -1e9;
      const auto add = [&](double exponent, const auto& term) {
        largest = std::max(largest, exponent);
        for (int n = 0; n < kKeys; ++n)
          for (int p = 0; p < kAll; ++p) state[at(n * kAll + p)] += std::exp(exponent) * term(n, p);
      };
      for (int j = t; j >= 0; --j) {
        const int here = row * L + j;
        add(passed + i[at(here)], [&](int n, int p) {
          return k[at(here * kKeys + n)] * (p == kValues ? 1 : v[at(here * kValues + p)]);
        });
        passed += f[at(here)];
      }
      if (with_state)
        add(passed + most[at(row)],
            [&](int n, int p) { return sums[at((row * kKeys + n) * kAll + p)]; });
      largest = std::max(largest, with_state ? largest : passed);  // m begins at zero
      std::vector<double> read(at(kAll));
      for (int n = 0; n < kKeys; ++n)
        for (int p = 0; p < kAll; ++p)
          read[at(p)] += q[at((row * L + t) * kKeys + n)] * state[at(n * kAll + p)];
      for (int p = 0; p < kValues; ++p)
        d.out[at((row * L + t) * kValues + p)] =
            read[at(p)] /
            (std::max(std::abs(read[at(kValues)]), 1.0) + double(kEps) * std::exp(largest));
      if (t == L - 1) std::copy(state.begin(), state.end(), d.state.begin() + row * kKeys * kAll);
    }
  return d;
}

// ---- trapezoid: q, k, v, g, now, before, S, the last k, the last v ----

mx::array up_to_one(const mx::array& x) {
  return scaled(x, 0.5f, 0.5f);
}
Arrays trapezoid_operands(int L, double size) {
  const mx::Shape by_head{kRows, kHeads, L};
  return {some({kRows, kHeads, L, kKeys}, 1),
          some({kRows, kHeads, L, kKeys}, 2),
          some({kRows, kHeads, L, kValues}, 3),
          scaled(mx::abs(some(by_head, 4)), static_cast<float>(-size)),
          up_to_one(some(by_head, 5)),
          up_to_one(some(by_head, 6)),
          some({kRows, kHeads, kKeys, kValues}, 7),
          some({kRows, kHeads, kKeys}, 8),
          some({kRows, kHeads, kValues}, 9)};
}
// As a cache goes on: what the last position writes into the first is part of the state.
Case::Got trapezoid(const Arrays& in, bool with_state) {
  std::optional<mx::array> state;
  if (with_state) {
    const auto written = mx::multiply(mx::expand_dims(in[7], -1), mx::expand_dims(in[8], -2));
    state = mx::add(in[6], mx::multiply(written, mx::expand_dims(mx::take(in[5], 0, 2), {2, 3})));
  }
  const auto s = trapezoid_scan(in[0], in[1], in[2], in[3], in[4], in[5], state);
  const auto last = [](const mx::array& x) { return mx::take(x, x.shape(2) - 1, 2); };
  return {s.out, {s.state, last(in[1]), last(in[2])}, s.state};
}
Direct trapezoid_steps(const Arrays& in, bool with_state) {
  const int L = in[0].shape(2), rows = in[0].shape(0) * in[0].shape(1);
  std::vector<std::vector<double>> x;
  for (const auto& a : in) x.push_back(doubles(a));
  Direct d{std::vector<double>(x[2].size()), std::vector<double>(x[6].size())};
  for (int row = 0; row < rows; ++row) {
    double* s = &d.state[at(row * kKeys * kValues)];
    const auto k = [&](int t, int n) {
      if (t >= 0) return x[1][at((row * L + t) * kKeys + n)];
      return with_state ? x[7][at(row * kKeys + n)] : 0;
    };
    const auto v = [&](int t, int p) {
      return t >= 0 ? x[2][at((row * L + t) * kValues + p)] : x[8][at(row * kValues + p)];
    };
    for (int i = 0; with_state && i < kKeys * kValues; ++i)
      s[i] = x[6][at(row * kKeys * kValues + i)];
    for (int t = 0; t < L; ++t) {
      const size_t here = at(row * L + t);
      const double alpha = std::exp(x[3][here]);
      for (int n = 0; n < kKeys; ++n)
        for (int p = 0; p < kValues; ++p) {
          auto& of = s[n * kValues + p];
          of = alpha * of + alpha * x[5][here] * k(t - 1, n) * v(t - 1, p) +
               x[4][here] * k(t, n) * v(t, p);
          d.out[here * kValues + at(p)] += x[0][here * kKeys + at(n)] * of;
        }
    }
  }
  return d;
}

// ---- RWKV-7: q, k, v, g, b, c, S ----

Arrays dplr_operands(int L, double size) {
  const mx::Shape keys{kRows, kHeads, L, kKeys};
  const auto c = some(keys, 6);
  const auto unit = mx::divide(c, mx::sqrt(mx::sum(mx::square(c), -1, true)));
  return {some(keys, 1),
          some(keys, 2),
          some({kRows, kHeads, L, kValues}, 3),
          scaled(mx::abs(some(keys, 4)), static_cast<float>(-size)),
          mx::multiply(unit, up_to_one(some(keys, 5))),
          unit,
          some({kRows, kHeads, kKeys, kValues}, 7)};
}
Case::Got dplr(const Arrays& in, bool with_state) {
  const auto s = dplr_scan(in[0], in[1], in[2], in[3], in[4], in[5],
                           with_state ? std::optional(in[6]) : std::nullopt);
  return {s.out, {s.state}, s.state};
}
Direct dplr_steps(const Arrays& in, bool with_state) {
  const int L = in[0].shape(2), rows = in[0].shape(0) * in[0].shape(1);
  std::vector<std::vector<double>> x;
  for (const auto& a : in) x.push_back(doubles(a));
  Direct d{std::vector<double>(x[2].size()), std::vector<double>(x[6].size())};
  if (with_state) d.state = x[6];
  for (int row = 0; row < rows; ++row)
    for (int t = 0; t < L; ++t) {
      double* s = &d.state[at(row * kKeys * kValues)];
      const std::vector<double> before(s, s + kKeys * kValues);
      const auto of = [&](size_t i, int n) { return x[i][at((row * L + t) * kKeys + n)]; };
      for (int p = 0; p < kValues; ++p) {
        const size_t here = at((row * L + t) * kValues + p);
        for (int n = 0; n < kKeys; ++n) {
          double sum = of(1, n) * x[2][here];
          for (int m = 0; m < kKeys; ++m)
            sum += ((m == n ? std::exp(of(3, n)) : 0) - of(4, n) * of(5, m)) *
                   before[at(m * kValues + p)];
          s[n * kValues + p] = sum;
          d.out[here] += of(0, n) * sum;
        }
      }
    }
  return d;
}

const std::vector<Case> kCases{
    {"elementwise",
     elementwise_operands,
     elementwise_operands,
     elementwise,
     elementwise_sums,
     {1, 1},
     1},
    {"wkv", wkv_operands, wkv_operands, wkv, wkv_sums, {1, 1, -1, -1}, 2},
    {"mlstm", mlstm_operands, smooth_mlstm_operands, mlstm, mlstm_sums, {2, 2, 2, 2, 2}, 2},
    {"trapezoid",
     trapezoid_operands,
     trapezoid_operands,
     trapezoid,
     trapezoid_steps,
     {2, 2, 2, 2, 2, 2},
     3},
    {"dplr", dplr_operands, dplr_operands, dplr, dplr_steps, {2, 2, 2, 2, 2, 2}, 1}};

double largest(const std::vector<double>& x) {
  double m = 0;
  for (const double e : x) m = std::max(m, std::abs(e));
  return m;
}

// Both forms: the kernels' and that of ordinary ops, in chunks.
class StableScan : public testing::TestWithParam<std::tuple<size_t, bool>> {
 protected:
  void SetUp() override { kernels::set_fused(std::get<1>(GetParam())); }
  void TearDown() override { kernels::set_fused(true); }
  const Case& of = kCases[std::get<0>(GetParam())];
};

TEST_P(StableScan, EqualsTheSums) {
  for (const double size : {0.1, 1.0, 5.0})
    for (const int L : {1, 2, 5, 15, 16, 17, 33, 63, 64, 65, 130})
      for (const bool with_state : {false, true}) {
        const auto in = of.operands(L, size);
        const auto got = of.scan(in, with_state);
        const auto want = of.direct(in, with_state);
        const std::string what = "length " + std::to_string(L) + ", size " + std::to_string(size) +
                                 (with_state ? ", from a state" : "");
        // Exponents of this size are rounded, and sums of a chunk's terms.
        const double relative = 16 * test::kEps * (8 + 2 * size);
        test::expect_close(got.out, want.out, relative * std::max(1.0, largest(want.out)), what);
        test::expect_close(got.plain, want.state, relative * largest(want.state),
                           what + ", the state");
        EXPECT_EQ(got.out.dtype(), mx::float32);
        EXPECT_GT(largest(want.out), 0.1) << what;
      }
}

TEST_P(StableScan, PiecesContinueEachOther) {
  const auto in = of.operands(150, 1);
  const auto whole = of.scan(in, true);
  Arrays parts, state(in.end() - of.states, in.end());
  int from = 0;
  for (const int n : {1, 64, 3, 65, 17}) {
    Arrays piece;
    for (size_t i = 0; i < of.axes.size(); ++i) {
      if (of.axes[i] < 0) {
        piece.push_back(in[i]);
        continue;
      }
      mx::Shape start(in[i].ndim(), 0), stop = in[i].shape();
      start[at(of.axes[i])] = from, stop[at(of.axes[i])] = from + n;
      piece.push_back(mx::slice(in[i], start, stop));
    }
    piece.insert(piece.end(), state.begin(), state.end());
    const auto next = of.scan(piece, true);
    parts.push_back(next.out), state = next.state, from += n;
  }
  ASSERT_EQ(from, 150);
  test::expect_close(mx::concatenate(parts, of.axes[0]), doubles(whole.out), 1e-5);
  for (size_t i = 0; i < state.size(); ++i)
    test::expect_close(state[i], doubles(whole.state[i]), 1e-5, "state " + std::to_string(i));
}

TEST_P(StableScan, GradientsAreThoseOfTheSums) {
  for (const int L : {1, 7, 66}) {
    const auto in = of.smooth(L, 0.7);
    const auto loss = [&](const Arrays& with) -> Arrays {
      const auto s = of.scan(with, true);
      return {mx::add(mx::sum(mx::square(s.out)), mx::sum(s.plain))};
    };
    std::vector<int> all;
    for (size_t i = 0; i < in.size(); ++i) all.push_back(static_cast<int>(i));
    const auto grads = mx::value_and_grad(loss, all)(in).second;
    for (size_t i = 0; i < in.size(); ++i) {
      const auto direction = some(in[i].shape(), 60 + i, 0.3);
      const auto towards = doubles(direction), grad = doubles(grads[i]);
      double analytic = 0;
      for (size_t j = 0; j < grad.size(); ++j) analytic += grad[j] * towards[j];
      const auto moved = [&](double step) {
        auto with = in;
        with[i] = mx::add(in[i], scaled(direction, static_cast<float>(step)));
        const auto d = of.direct(with, true);
        double sum = 0;
        for (const double y : d.out) sum += y * y;
        for (const double s : d.state) sum += s;
        return sum;
      };
      const double h = 1.0 / 64;
      const double numeric =
          (8 * (moved(h) - moved(-h)) - (moved(2 * h) - moved(-2 * h))) / (12 * h);
      EXPECT_NEAR(analytic, numeric, 1e-3 * std::max(1.0, std::abs(numeric)))
          << "length " << L << ", input " << i;
    }
  }
}

TEST_P(StableScan, CompiledEqualsEager) {
  const auto in = of.operands(100, 1);
  const auto run = [&](const Arrays& with) -> Arrays {
    const auto s = of.scan(with, true);
    return {s.out, s.plain};
  };
  const auto eager = run(in), compiled = mx::compile(run)(in);
  for (size_t i = 0; i < 2; ++i)
    test::expect_close(compiled[i], doubles(eager[i]), 1e-6 * largest(doubles(eager[i])));
}

// A step that forgets everything must not blur the small ones after it.
TEST(StableScans, StrongDecayKeepsWhatFollows) {
  const auto drops = mx::less(mx::remainder(mx::arange(64), mx::array(9)), mx::array(2));
  const auto g = mx::where(drops, mx::array(-30000.0f), mx::array(-0.001f));
  auto in = elementwise_operands(64, 1);
  in[0] = mx::broadcast_to(mx::expand_dims(g, -1), in[0].shape());
  test::expect_close(elementwise(in, true).out, elementwise_sums(in, true).out, 1e-5);
  in = mlstm_operands(64, 1);
  in[4] = mx::broadcast_to(g, in[4].shape());
  test::expect_close(mlstm(in, true).out, mlstm_sums(in, true).out, 1e-5);
  in = trapezoid_operands(64, 1);
  in[3] = mx::broadcast_to(g, in[3].shape());
  test::expect_close(trapezoid(in, true).out, trapezoid_steps(in, true).out, 1e-5);
  in = dplr_operands(64, 1);
  in[3] = mx::broadcast_to(mx::expand_dims(g, -1), in[3].shape());
  test::expect_close(dplr(in, true).out, dplr_steps(in, true).out, 1e-5);
  in = wkv_operands(64, 1);
  in[2] = mx::full({kWidth}, 3000.0f);
  test::expect_close(wkv(in, true).out, wkv_sums(in, true).out, 1e-5);
}

// exp(300) is no float32.
TEST(StableScans, KeysOfAnySizeStayFinite) {
  const auto in = wkv_operands(80, 300);
  test::expect_close(wkv(in, true).out, wkv_sums(in, true).out, 1e-4);
}

INSTANTIATE_TEST_SUITE_P(Scans, StableScan,
                         testing::Combine(testing::Values(0u, 1u, 2u, 3u, 4u), testing::Bool()),
                         [](const auto& test) {
                           return std::string(kCases[std::get<0>(test.param)].name) +
                                  (std::get<1>(test.param) ? "" : "_in_ops");
                         });

}  // namespace
}  // namespace lmxlab::core
