#include "lmxlab/kernels/gelu.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <cfloat>
#include <cmath>

namespace mx = mlx::core;
using mx::array;

namespace lmxlab::kernels {
namespace {

using Function = double (*)(double);

double exact(double x) {
  return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
}
double exact_slope(double x) {
  return 0.5 * std::erfc(-x / std::sqrt(2.0)) + x * std::exp(-x * x / 2) / std::sqrt(2 * M_PI);
}
double tanh_form(double x) {
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}
double tanh_slope(double x) {
  const double c = std::sqrt(2 / M_PI), t = std::tanh(c * (x + 0.044715 * x * x * x));
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * 0.044715 * x * x);
}

// @param scale_of  the size of what was added up, which the rounding is relative to.
void compare(const array& x, const array& y, Function expected, Function scale_of, double eps) {
  mx::eval(x, y);
  double worst = 0;
  size_t at = 0;
  for (size_t i = 0; i < x.size(); i++) {
    const double v = x.data<float>()[i];
    const double error = std::abs(y.data<float>()[i] - expected(v));
    const double ratio = error / (eps * FLT_EPSILON * std::abs(scale_of(v)) + FLT_MIN);
    if (!(ratio <= worst)) {
      worst = ratio;
      at = i;
    }
  }
  EXPECT_LE(worst, 1) << "worst at x = " << x.data<float>()[at] << ": expected "
                      << expected(x.data<float>()[at]) << ", got " << y.data<float>()[at];
}

array points() {
  return mx::linspace(-14, 14, 100003);
}

TEST(Gelu, WithinFourEpsOfTheExactValueAlsoInTheTail) {
  compare(points(), gelu(points()), exact, exact, 4);
}

TEST(Gelu, Gradient) {
  auto grad = mx::grad([](const array& x) { return mx::sum(gelu(x)); });
  // The slope crosses zero, so the error is relative to its two terms.
  compare(
      points(), grad(points()), exact_slope,
      [](double x) {
        return 0.5 * std::erfc(-x / std::sqrt(2.0)) +
               std::abs(x) * std::exp(-x * x / 2) / std::sqrt(2 * M_PI);
      },
      6);
}

TEST(GeluTanh, ValueAndGradient) {
  auto x = mx::linspace(-6, 6, 50001);
  // The argument of the logistic goes up to 26: its rounding is amplified by as much.
  auto scale = [](double v) { return std::abs(v) * 0.5 + 1e-3; };
  compare(x, gelu_tanh(x), tanh_form, scale, 8);
  auto grad = mx::grad([](const array& v) { return mx::sum(gelu_tanh(v)); });
  compare(
      x, grad(x), tanh_slope, [](double v) { return 1 + std::abs(v); }, 16);
}

TEST(Gelu, SpecialValues) {
  auto y = gelu(array({0.0f, 100.0f, -100.0f, INFINITY, NAN}));
  mx::eval(y);
  EXPECT_EQ(y.data<float>()[0], 0.0f);
  EXPECT_EQ(y.data<float>()[1], 100.0f);
  EXPECT_EQ(y.data<float>()[2], 0.0f);
  EXPECT_EQ(y.data<float>()[3], INFINITY);
  EXPECT_TRUE(std::isnan(y.data<float>()[4]));
  auto z = gelu_tanh(array({100.0f, -100.0f}));
  mx::eval(z);
  EXPECT_EQ(z.data<float>()[0], 100.0f);
  EXPECT_LE(std::abs(z.data<float>()[1]), 101 * std::exp(-88.0f));  // where exp is cut off
}

float largest_difference(const array& a, const array& b) {
  return mx::max(mx::abs(a - b)).item<float>();
}

// Views, vmap, jvp, second derivatives and compile all agree with the ordinary ops.
TEST(Gelu, WorksInEveryTransformation) {
  auto plain = [](const array& v) {
    return v * array(0.5f) * (array(1.0f) + mx::erf(v * array(0.70710678f)));
  };
  auto x = mx::random::normal({37, 53}, mx::random::key(3));
  const float bound = 16 * FLT_EPSILON * mx::max(mx::abs(x)).item<float>();
  EXPECT_LE(largest_difference(gelu(mx::transpose(x)), plain(mx::transpose(x))), bound);
  EXPECT_LE(largest_difference(gelu(mx::slice(x, {1, 2}, {30, 50}, {2, 3})),
                               plain(mx::slice(x, {1, 2}, {30, 50}, {2, 3}))),
            bound);
  EXPECT_LE(largest_difference(mx::vmap([](const array& v) { return gelu(v); }, 1)(x),
                               plain(mx::transpose(x))),
            bound);
  using Arrays = std::vector<array>;
  auto own = [](const Arrays& v) -> Arrays { return {gelu(v[0])}; };
  auto ref = [&](const Arrays& v) -> Arrays { return {plain(v[0])}; };
  auto t = mx::random::normal({37, 53}, mx::random::key(4));
  EXPECT_LE(largest_difference(mx::jvp(own, {x}, {t}).second[0], mx::jvp(ref, {x}, {t}).second[0]),
            2 * bound);
  auto twice = [](auto f, const array& v) {
    return mx::grad([f](const array& u) {
      return mx::sum(mx::square(mx::grad([f](const array& w) { return mx::sum(f(w)); })(u)));
    })(v);
  };
  auto f = [](const array& v) { return gelu(v); };
  EXPECT_LE(largest_difference(twice(f, x), twice(plain, x)), 4 * bound);
  auto compiled = mx::compile(own);
  EXPECT_EQ(largest_difference(compiled({x})[0], gelu(x)), 0.0f);
  EXPECT_EQ(gelu(mx::astype(x, mx::bfloat16)).dtype(), mx::bfloat16);
}

TEST(Gelu, DoesNotWriteOverWhatIsStillRead) {
  auto x = mx::random::normal({1000}, mx::random::key(5));
  mx::eval(x);
  auto copy = mx::array(x.data<float>(), x.shape());
  auto y = gelu(x);
  mx::eval(y);
  EXPECT_EQ(largest_difference(x, copy), 0.0f);
}

}  // namespace
}  // namespace lmxlab::kernels
