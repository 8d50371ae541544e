#include "lmxlab/kernels/mix.h"

#include "lmxlab/base/error.h"
#include "lmxlab/kernels/fused.h"
#include "lmxlab/kernels/thread_pool.h"
#include "tests/kernels/reference.h"

namespace mx = mlx::core;
using mx::array;

namespace lmxlab::kernels {
namespace {

using Arrays = std::vector<array>;

Arrays mixed(const Arrays& in) {
  return mix(in[0], in[1], Arrays(in.begin() + 2, in.end()));
}
// x, before, and so many m.
Arrays problem(const mx::Shape& shape, mx::Dtype dtype, int count) {
  Arrays in{noise(shape, 1, dtype), noise(shape, 2, dtype)};
  for (int i = 0; i < count; i++)
    in.push_back(mx::random::uniform({shape.back()}, mx::float32, mx::random::key(3 + i)));
  mx::eval(in);
  return in;
}

TEST(Mix, AgreesWithFloat64) {
  on_every_isa([](const std::string& isa) {
    for (const auto dtype : kFloats)
      for (const auto& shape : {mx::Shape{1}, mx::Shape{2, 3, 5}, mx::Shape{3, 50, 67}})
        for (const int count : {1, 3}) {
          const auto in = problem(shape, dtype, count);
          Arrays given;
          for (int i = 0; i < count; i++) given.push_back(noise(shape, 20 + i, dtype));
          const auto x = values(in[0]), before = values(in[1]);
          const size_t W = shape.back();
          const double eps = unit(dtype) * 2 + 4 * 0x1p-24;
          Doubles gx(x.size()), gb = gx, terms = gx;
          const auto got = mixed(in), gradients = mx::vjp(mixed, in, given).second;
          for (size_t k = 0; k < static_cast<size_t>(count); k++) {
            const auto m = values(in[2 + k]), g = values(given[k]);
            Doubles want(x.size()), gm(W), gm_terms(W);
            for (size_t i = 0; i < x.size(); i++) {
              const double share = m[i % W], change = x[i] - before[i];
              want[i] = before[i] + change * share;
              gx[i] += g[i] * share, gb[i] += g[i] * (1 - share), terms[i] += std::abs(g[i]);
              gm[i % W] += g[i] * change;
              gm_terms[i % W] += std::abs(g[i]) * (std::abs(x[i]) + std::abs(before[i]));
            }
            const auto what = isa + " " + name(dtype) + " " + std::to_string(k);
            expect_near(
                got[k], want,
                [&](size_t i) { return eps * (std::abs(x[i]) + std::abs(before[i])) + 1e-7; },
                what);
            const double rows = static_cast<double>(x.size() / W);
            expect_near(
                gradients[2 + k], gm,
                [&](size_t i) { return 0x1p-24 * (rows + 8) * gm_terms[i] + 1e-30; },
                what + " gradient of m");
          }
          const auto bound = [&](size_t i) { return eps * terms[i] + 1e-7; };
          expect_near(gradients[0], gx, bound, isa + " " + name(dtype) + " gradient of x");
          expect_near(gradients[1], gb, bound, isa + " " + name(dtype) + " gradient of before");
        }
  });
}

TEST(Mix, OrdinaryOpsAreTheSame) {
  for (const auto dtype : kFloats) {
    const auto in = problem({2, 9, 21}, dtype, 2);
    const Arrays given{noise({2, 9, 21}, 8, dtype), noise({2, 9, 21}, 9, dtype)};
    const auto fused = mx::vjp(mixed, in, given).second;
    set_fused(false);
    const auto plain = mx::vjp(mixed, in, given).second;
    set_fused(true);
    for (size_t i = 0; i < fused.size(); i++) {
      EXPECT_EQ(fused[i].dtype(), plain[i].dtype());
      const double bound = 16 * unit(dtype);
      expect_near(
          fused[i], values(plain[i]), [=](size_t) { return bound; }, std::to_string(i));
    }
  }
}

TEST(Mix, DoesNotDependOnStridesNorOnThreads) {
  for (const auto dtype : kFloats) {
    const auto in = problem({3, 70, 130}, dtype, 3);
    const auto run = [&](const Arrays& of) {
      auto [out, gradients] = mx::vjp(mixed, of, {of[0], of[1], of[0]});
      out.insert(out.end(), gradients.begin(), gradients.end());
      mx::eval(out);
      return out;
    };
    Arrays strided;
    for (const auto& a : in) strided.push_back(gappy(a));
    const auto want = run(in), other = run(strided);
    set_threads(1);
    const auto one = run(in);
    set_threads(0);
    for (size_t i = 0; i < want.size(); i++) {
      EXPECT_TRUE(same_bits(want[i], other[i])) << i;
      EXPECT_TRUE(same_bits(want[i], one[i])) << i;
    }
  }
}

TEST(Mix, TakesNothingAndRefusesOtherShapes) {
  const auto none = mx::zeros({2, 0, 5});
  EXPECT_EQ(mix(none, none, {mx::zeros({5})})[0].shape(), none.shape());
  const auto in = problem({2, 4, 6}, mx::float32, 1);
  EXPECT_THROW(mix(in[0], in[1], {}), Error);
  EXPECT_THROW(mix(in[0], in[1], {mx::zeros({5})}), Error);
  EXPECT_THROW(mix(in[0], in[2], {in[2]}), Error);
  EXPECT_THROW(mix(in[0], mx::astype(in[1], mx::float16), {in[2]}), Error);
}

}  // namespace
}  // namespace lmxlab::kernels
