#include "lmxlab/kernels/wkv_scan.h"

#include "lmxlab/base/error.h"
#include "lmxlab/kernels/fused.h"
#include "lmxlab/kernels/thread_pool.h"
#include "tests/kernels/reference.h"

namespace mx = mlx::core;
using mx::array;

namespace lmxlab::kernels {
namespace {

using Arrays = std::vector<array>;

struct Sizes {
  int batch, length, width;
};
const std::vector<Sizes> kSizes{{1, 1, 1},   {2, 1, 64},  {2, 31, 5},   {1, 32, 64},
                                {3, 33, 65}, {2, 70, 40}, {4, 100, 130}};

// k, v, w, u, sums, most.
Arrays problem(const Sizes& s) {
  const mx::Shape shape{s.batch, s.length, s.width};
  Arrays in{mx::multiply(noise(shape, 1), array(3.0f)),
            noise(shape, 2),
            mx::exp(noise({s.width}, 3)),
            noise({s.width}, 4),
            mx::stack({noise({s.batch, s.width}, 5), mx::abs(noise({s.batch, s.width}, 6))}, 1),
            noise({s.batch, s.width}, 7)};
  mx::eval(in);
  return in;
}
Arrays none_before(Arrays in) {
  in[4] = mx::zeros_like(in[4]), in[5] = mx::full(in[5].shape(), -1e30f);
  return in;
}
Arrays scanned(const Arrays& in) {
  const auto s = wkv_scan(in[0], in[1], in[2], in[3], in[4], in[5]);
  return {s.out, s.sums, s.most};
}

TEST(WkvScan, AgreesWithFloat64) {
  on_every_isa([](const std::string& isa) {
    for (const auto& s : kSizes)
      for (const bool with_state : {false, true}) {
        const auto in = with_state ? problem(s) : none_before(problem(s));
        std::vector<Doubles> d;
        for (const auto& a : in) d.push_back(values(a));
        const auto got = scanned(in);
        const auto most = values(got[2]);
        const size_t W = s.width;
        Doubles out(d[0].size()), bounds = out, sums(d[4].size()), sum_bounds = sums;
        const double eps = 0x1p-24 * (8.0 * s.length + 32);
        for (size_t b = 0; b < static_cast<size_t>(s.batch); b++)
          for (size_t c = 0; c < W; c++) {
            // a, the same of absolute terms, b.
            const double scale = std::exp(d[5][b * W + c]);
            double sum = d[4][2 * b * W + c] * scale, terms = std::abs(sum);
            double weights = d[4][(2 * b + 1) * W + c] * scale;
            for (int t = 0; t < s.length; t++) {
              const size_t at = (b * s.length + t) * W + c;
              const double own = std::exp(d[3][c] + d[0][at]), now = std::exp(d[0][at]);
              const double all = weights + own, v = d[1][at], kept = std::exp(-d[2][c]);
              out[at] = (sum + own * v) / all;
              // An exponent is rounded too: its error is that of a number up to its size.
              bounds[at] = 4 * eps * ((terms + own * std::abs(v)) / all) + 1e-30;
              sum = kept * sum + now * v, terms = kept * terms + now * std::abs(v);
              weights = kept * weights + now;
            }
            const double unit = std::exp(-most[b * W + c]);
            sums[2 * b * W + c] = sum * unit, sum_bounds[2 * b * W + c] = 4 * eps * terms * unit;
            sums[(2 * b + 1) * W + c] = weights * unit;
            sum_bounds[(2 * b + 1) * W + c] = 4 * eps * weights * unit;
          }
        expect_near(
            got[0], out, [&](size_t i) { return bounds[i]; }, isa + " out");
        expect_near(
            got[1], sums, [&](size_t i) { return sum_bounds[i]; }, isa + " sums");
      }
  });
}

TEST(WkvScan, GradientsAreThoseOfOrdinaryOps) {
  on_every_isa([](const std::string& isa) {
    for (const auto& s : kSizes)
      for (const bool with_state : {false, true}) {
        const auto in = with_state ? problem(s) : none_before(problem(s));
        const Arrays given{noise(in[0].shape(), 8), noise(in[4].shape(), 9),
                           noise(in[5].shape(), 10)};
        const auto fused = mx::vjp(scanned, in, given).second;
        set_fused(false);
        const auto plain = mx::vjp(scanned, in, given).second;
        set_fused(true);
        for (size_t i = 0; i < fused.size(); i++) {
          const double bound = 4e-6 * (1 + mx::max(mx::abs(plain[i])).item<float>());
          expect_near(
              fused[i], values(plain[i]), [=](size_t) { return bound; },
              isa + " gradient " + std::to_string(i));
        }
      }
  });
}

TEST(WkvScan, NothingOverflows) {
  auto in = none_before(problem({2, 40, 20}));
  in[0] = mx::multiply(in[0], array(200.0f));
  for (const auto& o : scanned(in)) EXPECT_TRUE(mx::all(mx::isfinite(o)).item<bool>());
  for (const auto& g : mx::vjp(scanned, in, scanned(in)).second)
    EXPECT_TRUE(mx::all(mx::isfinite(g)).item<bool>());
}

TEST(WkvScan, PositionsThatAreAbsentLeaveNothing) {
  const auto in = none_before(problem({2, 40, 20}));
  const auto behind = [&](const array& a, float fill) {
    return mx::concatenate({mx::full({2, 7, 20}, fill), a}, 1);
  };
  const auto alone = scanned(in);
  const auto padded =
      scanned({behind(in[0], -1e30f), behind(in[1], 3), in[2], in[3], in[4], in[5]});
  EXPECT_TRUE(same_bits(mx::slice(padded[0], {0, 7, 0}, {2, 47, 20}), alone[0]));
  EXPECT_TRUE(same_bits(padded[1], alone[1]));
}

TEST(WkvScan, DoesNotDependOnThePassNorOnStridesNorOnThreads) {
  const auto in = problem({2, 70, 200});
  const auto whole = scanned(in);
  Arrays state{in[4], in[5]}, all;
  for (const auto& [from, to] : {std::pair(0, 1), std::pair(1, 40), std::pair(40, 70)}) {
    const auto part = [from = from, to = to](const array& a) {
      return mx::slice(a, {0, from, 0}, {2, to, 200});
    };
    const auto some = scanned({part(in[0]), part(in[1]), in[2], in[3], state[0], state[1]});
    all.push_back(some[0]), state = {some[1], some[2]};
  }
  EXPECT_TRUE(same_bits(mx::concatenate(all, 1), whole[0]));
  EXPECT_TRUE(same_bits(state[0], whole[1]));
  EXPECT_TRUE(same_bits(state[1], whole[2]));
  const auto gradients = [&](const Arrays& of) {
    auto out = mx::vjp(scanned, of, whole).second;
    mx::eval(out);
    return out;
  };
  Arrays strided;
  for (const auto& a : in) strided.push_back(gappy(a));
  const auto want = gradients(in), other = gradients(strided);
  set_threads(1);
  const auto one = gradients(in);
  set_threads(0);
  for (size_t i = 0; i < want.size(); i++) {
    EXPECT_TRUE(same_bits(want[i], other[i])) << i;
    EXPECT_TRUE(same_bits(want[i], one[i])) << i;
  }
}

TEST(WkvScan, NothingLeavesTheState) {
  auto in = problem({2, 1, 5});
  in[0] = in[1] = mx::zeros({2, 0, 5}, mx::float32);
  const auto s = scanned(in);
  EXPECT_EQ(s[0].shape(), in[0].shape());
  EXPECT_TRUE(same_bits(s[1], in[4]));
  EXPECT_TRUE(same_bits(s[2], in[5]));
}

TEST(WkvScan, RefusesOtherShapes) {
  const auto in = problem({2, 4, 6});
  EXPECT_THROW(wkv_scan(in[0], in[1], in[2], in[3], in[5], in[5]), Error);
  EXPECT_THROW(wkv_scan(in[0], in[1], in[5], in[3], in[4], in[5]), Error);
  EXPECT_THROW(wkv_scan(mx::astype(in[0], mx::float16), in[1], in[2], in[3], in[4], in[5]), Error);
}

}  // namespace
}  // namespace lmxlab::kernels
