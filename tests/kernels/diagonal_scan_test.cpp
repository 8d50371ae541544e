#include "lmxlab/kernels/diagonal_scan.h"

#include "lmxlab/base/error.h"
#include "lmxlab/kernels/fused.h"
#include "tests/kernels/reference.h"

namespace mx = mlx::core;
using mx::array;

namespace lmxlab::kernels {
namespace {

using Arrays = std::vector<array>;

struct Sizes {
  int batch, length, width;
};
const std::vector<Sizes> kSizes{{1, 1, 1},  {2, 1, 64},  {2, 33, 5},
                                {1, 7, 64}, {3, 20, 65}, {4, 50, 200}};

array log_decays(mx::Shape shape, int key) {
  return mx::negative(mx::square(noise(std::move(shape), key)));  // from none to swift
}
Arrays problem(const Sizes& s) {
  const mx::Shape shape{s.batch, s.length, s.width};
  Arrays in{log_decays(shape, 1), noise(shape, 2), noise({s.batch, s.width}, 3)};
  mx::eval(in);
  return in;
}
Arrays scanned(const Arrays& in) {
  const auto s = diagonal_scan(in[0], in[1], in[2]);
  return {s.h, s.state};
}

TEST(DiagonalScan, AgreesWithFloat64) {
  on_every_isa([](const std::string& isa) {
    for (const auto& s : kSizes) {
      const auto in = problem(s);
      const auto g = values(in[0]), x = values(in[1]);
      auto h = values(in[2]), terms = h;
      for (auto& v : terms) v = std::abs(v);
      Doubles want(x.size()), bounds(x.size());
      const double eps = std::ldexp(1.0, -24);
      for (int b = 0; b < s.batch; b++)
        for (int t = 0; t < s.length; t++)
          for (int i = 0; i < s.width; i++) {
            const size_t at = (size_t(b) * s.length + t) * s.width + i;
            const size_t state = size_t(b) * s.width + i;
            h[state] = std::exp(g[at]) * h[state] + x[at];
            terms[state] = std::exp(g[at]) * terms[state] + std::abs(x[at]);
            want[at] = h[state], bounds[at] = eps * (6.0 * s.length + 4) * terms[state] + 1e-30;
          }
      const auto got = diagonal_scan(in[0], in[1], in[2]);
      expect_near(
          got.h, want, [&](size_t i) { return bounds[i]; }, isa + " h");
      EXPECT_TRUE(same_bits(got.state, mx::take(got.h, s.length - 1, 1)));
    }
  });
}

TEST(DiagonalScan, GradientsAreThoseOfOrdinaryOps) {
  on_every_isa([](const std::string& isa) {
    for (const auto& s : kSizes) {
      const auto in = problem(s);
      const Arrays given{noise({s.batch, s.length, s.width}, 4), noise({s.batch, s.width}, 5)};
      const auto fused = mx::vjp(scanned, in, given).second;
      set_fused(false);
      const auto plain = mx::vjp(scanned, in, given).second;
      set_fused(true);
      for (size_t i = 0; i < fused.size(); i++) {
        const double bound = 1e-6 * (1 + mx::max(mx::abs(plain[i])).item<float>());
        expect_near(
            fused[i], values(plain[i]), [=](size_t) { return bound; },
            isa + " gradient " + std::to_string(i));
      }
    }
  });
}

// Second derivatives and forward mode go through the ordinary ops.
TEST(DiagonalScan, HasSecondDerivatives) {
  const auto in = problem({2, 5, 6});
  const auto slopes = [&](const Arrays& v) -> Arrays {
    const auto sum = [](const Arrays& w) -> Arrays {
      const auto o = scanned(w);
      return {mx::add(mx::sum(mx::square(o[0])), mx::sum(o[1]))};
    };
    return mx::vjp(sum, v, {array(1.0f)}).second;
  };
  const auto second = [&] { return mx::vjp(slopes, in, in).second; };
  const auto fused = second();
  mx::eval(fused);
  set_fused(false);
  const auto plain = second();
  set_fused(true);
  for (size_t i = 0; i < fused.size(); i++)
    EXPECT_TRUE(mx::allclose(fused[i], plain[i], 1e-4, 1e-5).item<bool>()) << i;
  EXPECT_TRUE(mx::allclose(mx::jvp(scanned, in, in).second[0],
                           mx::jvp(
                               [](const Arrays& v) -> Arrays {
                                 return {plain::diagonal_scan(v[0], v[1], v[2]).h};
                               },
                               in, in)
                               .second[0])
                  .item<bool>());
}

TEST(DiagonalScan, DoesNotDependOnThePassNorOnStrides) {
  const auto in = problem({2, 70, 48});
  const auto whole = diagonal_scan(in[0], in[1], in[2]);
  auto h = in[2];
  Arrays all;
  for (const auto& [from, to] : {std::pair(0, 1), std::pair(1, 40), std::pair(40, 70)}) {
    const auto part = [from = from, to = to](const array& a) {
      return mx::slice(a, {0, from, 0}, {2, to, 48});
    };
    const auto some = diagonal_scan(part(in[0]), part(in[1]), h);
    all.push_back(some.h), h = some.state;
  }
  EXPECT_TRUE(same_bits(mx::concatenate(all, 1), whole.h));
  EXPECT_TRUE(same_bits(h, whole.state));
  const auto strided = diagonal_scan(gappy(in[0]), gappy(in[1]), gappy(in[2]));
  EXPECT_TRUE(same_bits(strided.h, whole.h));
}

TEST(DiagonalScan, NothingLeavesTheState) {
  const auto state = noise({2, 5}, 1);
  const auto none = mx::zeros({2, 0, 5}, mx::float32);
  const auto s = diagonal_scan(none, none, state);
  EXPECT_EQ(s.h.shape(), none.shape());
  EXPECT_TRUE(same_bits(s.state, state));
}

TEST(DiagonalScan, RefusesOtherShapes) {
  const auto in = problem({2, 4, 6});
  EXPECT_THROW(diagonal_scan(in[0], in[1], in[1]), Error);
  EXPECT_THROW(diagonal_scan(in[0], mx::slice(in[1], {0, 0, 0}, {2, 3, 6}), in[2]), Error);
  EXPECT_THROW(diagonal_scan(mx::astype(in[0], mx::float16), in[1], in[2]), Error);
}

// ---- scan_input ----

Arrays input_problem(const Sizes& s) {
  const mx::Shape shape{s.batch, s.length, s.width};
  // Down to where 1 - exp(2 g) loses all digits.
  const auto g = mx::negative(mx::exp(mx::multiply(noise(shape, 1), array(6.0f))));
  const auto whole = mx::astype(mx::equal(mx::arange(s.length), array(0)), mx::float32);
  Arrays in{g, noise(shape, 2), noise(shape, 3), mx::broadcast_to(whole, {s.batch, s.length})};
  mx::eval(in);
  return in;
}
Arrays entering(const Arrays& in) {
  return {scan_input(in[0], in[1], in[2], in[3])};
}

TEST(ScanInput, AgreesWithFloat64) {
  on_every_isa([](const std::string& isa) {
    for (const auto& s : kSizes) {
      const auto in = input_problem(s);
      const auto given = noise(in[0].shape(), 4);
      const auto g = values(in[0]), a = values(in[1]), x = values(in[2]), w = values(in[3]),
                 gy = values(given);
      Doubles y, gg, ga, gx;
      for (size_t i = 0; i < g.size(); i++) {
        const bool whole = w[i / static_cast<size_t>(s.width)] != 0;
        const double root = whole ? 1 : std::sqrt(-std::expm1(2 * g[i]));
        const double slope = whole ? 0 : std::min(0.5 / root, 1000.0) * -2 * std::exp(2 * g[i]);
        y.push_back(a[i] * x[i] * root), ga.push_back(gy[i] * x[i] * root);
        gx.push_back(gy[i] * a[i] * root), gg.push_back(gy[i] * a[i] * x[i] * slope);
      }
      const auto near = [&](const array& got, const Doubles& want, const char* what) {
        expect_near(
            got, want, [&](size_t i) { return 16 * 0x1p-24 * std::abs(want[i]) + 1e-36; },
            isa + " " + what);
      };
      near(entering(in)[0], y, "y");
      const auto got = mx::vjp(entering, in, {given}).second;
      near(got[0], gg, "gradient of g"), near(got[1], ga, "of gate"), near(got[2], gx, "of x");
    }
  });
}

TEST(ScanInput, ADecayOfOneLeavesNoNan) {
  const mx::Shape shape{1, 2, 19};
  const Arrays in{mx::zeros(shape), noise(shape, 1), noise(shape, 2), mx::zeros({1, 2})};
  const auto given = noise(shape, 3);
  const auto gg = mx::vjp(entering, in, {given}).second[0];
  const auto want = mx::multiply(mx::multiply(given, mx::multiply(in[1], in[2])), array(-2000.0f));
  EXPECT_TRUE(mx::allclose(gg, want, 1e-6).item<bool>());
  EXPECT_TRUE(mx::all(mx::equal(entering(in)[0], array(0.0f))).item<bool>());
}

TEST(ScanInput, TakesStridesAndNothing) {
  const auto in = input_problem({2, 9, 21});
  Arrays strided;
  for (const auto& a : in) strided.push_back(gappy(a));
  EXPECT_TRUE(same_bits(entering(strided)[0], entering(in)[0]));
  const auto none = mx::zeros({2, 0, 5}, mx::float32);
  EXPECT_EQ(scan_input(none, none, none, mx::zeros({2, 0})).shape(), none.shape());
  EXPECT_THROW(scan_input(in[0], in[1], in[2], in[2]), Error);
}

}  // namespace
}  // namespace lmxlab::kernels
