#include "lmxlab/kernels/activation.h"

#include <cfloat>

#include "lmxlab/base/error.h"
#include "tests/kernels/reference.h"

namespace mx = mlx::core;
using mx::array;
using Arrays = std::vector<array>;

namespace lmxlab::kernels {
namespace {

struct Case {
  Activation kind;
  const char* name;
};
const std::vector<Case> kCases{
    {Activation::silu, "silu"},           {Activation::gelu, "gelu"},
    {Activation::gelu_tanh, "gelu_tanh"}, {Activation::relu, "relu"},
    {Activation::relu2, "relu2"},         {Activation::sigmoid, "sigmoid"},
    {Activation::softplus, "softplus"}};

struct Exact {
  double value, slope;
  double size;  // of the terms that the slope is the sum of
};
Exact exact(Activation kind, double x) {
  switch (kind) {
    case Activation::silu: {
      const double s = 1 / (1 + std::exp(-x)), no = 1 / (1 + std::exp(x));
      return {x * s, s + x * s * no, s + std::abs(x * s * no)};
    }
    case Activation::gelu: {
      const double cdf = std::erfc(-x / std::sqrt(2.0)) / 2;
      const double pdf = std::exp(-x * x / 2) / std::sqrt(2 * M_PI);
      return {x * cdf, cdf + x * pdf, cdf + std::abs(x * pdf)};
    }
    case Activation::gelu_tanh: {
      const double c = 2 * std::sqrt(2 / M_PI), u = c * (x + 0.044715 * x * x * x);
      const double s = 1 / (1 + std::exp(-u)), no = 1 / (1 + std::exp(u));
      const double bend = x * s * no * c * (1 + 3 * 0.044715 * x * x);
      return {x * s, s + bend, s + std::abs(bend)};
    }
    case Activation::relu: return {std::max(x, 0.0), x > 0 ? 1.0 : 0.0, 1};
    case Activation::relu2: return {x > 0 ? x * x : 0, 2 * std::max(x, 0.0), 2 * std::max(x, 0.0)};
    case Activation::sigmoid: {
      const double s = 1 / (1 + std::exp(-x)), no = 1 / (1 + std::exp(x));
      return {s, s * no, s * no};
    }
    case Activation::softplus: {
      const double s = 1 / (1 + std::exp(-x));
      return {std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x))), s, s};
    }
  }
  return {};
}

// From far in one tail to far in the other, and zero.
array samples(mx::Dtype dtype) {
  return mx::astype(mx::concatenate({mx::linspace(-30, 20, 5003), mx::linspace(-1e-3, 1e-3, 101),
                                     array({0.0f, -100.0f, -200.0f, 100.0f, 200.0f})}),
                    dtype);
}

// An exponential is off, relatively, by what its argument u is off: five roundings of u where u is
// a polynomial. The rest: the functions' own coefficients and steps.
double condition(Activation kind, double x) {
  if (kind == Activation::gelu_tanh) return 8 + 5 * std::abs(1.6 * x * (1 + 0.045 * x * x));
  return 10;
}

TEST(Activation, AgreesWithDouble) {
  on_every_isa([](const std::string& isa) {
    for (const auto& c : kCases) {
      for (const auto dtype : kFloats) {
        const auto x = samples(dtype);
        const auto v = values(x);
        Doubles expected(v.size()), slope(v.size()), bound(v.size()), slope_bound(v.size());
        for (size_t i = 0; i < v.size(); i++) {
          const auto e = exact(c.kind, v[i]);
          const double lost = 0x1p-24 * condition(c.kind, v[i]);
          // Below the normal numbers of float32, where exp is cut off, and those of float16.
          const double least = (dtype == mx::float16 ? 0x1p-24 : 0) + 400 * double{FLT_MIN};
          expected[i] = e.value, slope[i] = e.slope;
          bound[i] = (unit(dtype) + lost) * std::abs(e.value) + least;
          slope_bound[i] = unit(dtype) * std::abs(e.slope) + 2 * lost * e.size + least;
        }
        const auto what = isa + " " + c.name + " " + name(dtype);
        expect_near(
            activate(c.kind, x), expected, [&](size_t i) { return bound[i]; }, what);
        const auto f = [&](const Arrays& in) -> Arrays { return {activate(c.kind, in[0])}; };
        expect_near(
            mx::vjp(f, {x}, {mx::ones_like(x)}).second[0], slope,
            [&](size_t i) { return slope_bound[i]; }, what + " slope");
      }
    }
  });
}

TEST(Activation, InFloatWithinSixUnits) {
  on_every_isa([](const std::string& isa) {
    for (const auto& c : kCases) {
      const auto x = mx::linspace(-9, 9, 20011);
      const auto v = values(x), y = values(activate(c.kind, x));
      for (size_t i = 0; i < v.size(); i++) {
        const double e = exact(c.kind, v[i]).value;
        const double units = c.kind == Activation::gelu_tanh ? condition(c.kind, v[i]) / 2 : 6;
        ASSERT_NEAR(y[i], e, units * double{FLT_EPSILON} * std::abs(e) + double{FLT_MIN} * 10)
            << isa << " " << c.name << " at " << v[i];
      }
    }
  });
}

TEST(Activation, Gated) {
  on_every_isa([](const std::string& isa) {
    for (const auto& c : kCases) {
      for (const auto dtype : kFloats) {
        for (int n : {1, 17, 9001}) {
          const auto gate = noise({n}, 1, dtype), up = noise({n}, 2, dtype);
          const auto g = noise({n}, 3, dtype);
          const auto a = values(gate), b = values(up), t = values(g);
          Doubles y(a.size()), dgate(y), dup(y), size(y);
          for (size_t i = 0; i < a.size(); i++) {
            const auto e = exact(c.kind, a[i]);
            y[i] = e.value * b[i], dup[i] = e.value * t[i], dgate[i] = t[i] * b[i] * e.slope;
            size[i] = std::abs(t[i] * b[i]) * e.size;
          }
          const double lost = 64 * 0x1p-24;  // |noise| < 5.5: condition() is below 30, and products
          const double least = dtype == mx::float16 ? 0x1p-24 : 1e-30;
          const auto near = [&](const Doubles& v) {
            return [&](size_t i) { return (unit(dtype) + lost) * std::abs(v[i]) + least; };
          };
          const auto what = isa + " " + c.name + " " + name(dtype) + " " + std::to_string(n);
          expect_near(gated(c.kind, gate, up), y, near(y), what);
          const auto f = [&](const Arrays& in) -> Arrays { return {gated(c.kind, in[0], in[1])}; };
          const auto got = mx::vjp(f, {gate, up}, {g}).second;
          expect_near(
              got[0], dgate,
              [&](size_t i) {
                return unit(dtype) * std::abs(dgate[i]) + 2 * lost * size[i] + least;
              },
              what + " dgate");
          expect_near(got[1], dup, near(dup), what + " dup");
        }
      }
    }
  });
}

TEST(Activation, NotANumberAndInfinity) {
  const float inf = std::numeric_limits<float>::infinity();
  on_every_isa([&](const std::string& isa) {
    for (const auto& c : kCases) {
      const auto y = values(activate(c.kind, array({NAN, inf, 3e38f, -3e38f})));
      EXPECT_TRUE(std::isnan(y[0])) << isa << " " << c.name;
      const bool bounded = c.kind == Activation::sigmoid;
      EXPECT_EQ(y[1], bounded ? 1 : inf) << isa << " " << c.name;
      EXPECT_GE(y[2], bounded ? 1 : 1e38) << isa << " " << c.name;
      EXPECT_EQ(y[3], 0) << isa << " " << c.name;
      const auto slopes = values(mx::grad(
          [&](const array& x) { return mx::sum(activate(c.kind, x)); })(array({3e38f, -3e38f})));
      EXPECT_GE(slopes[0], bounded ? 0 : 1) << isa << " " << c.name;
      EXPECT_EQ(slopes[1], 0) << isa << " " << c.name;
    }
  });
}

TEST(Activation, StridesAndDonation) {
  const auto gate = noise({31, 45}, 1), up = noise({31, 45}, 2), g = noise({31, 45}, 3);
  const auto fresh = [](const array& a) { return mx::multiply(a, array(1.0f)); };
  for (const auto& c : kCases) {
    const auto one = [&](const Arrays& v) -> Arrays { return {activate(c.kind, v[0])}; };
    const auto two = [&](const Arrays& v) -> Arrays { return {gated(c.kind, v[0], v[1])}; };
    const auto expected = mx::vjp(two, {gate, up}, {g});
    const auto slope = mx::vjp(one, {gate}, {g}).second[0];
    for (const auto& change : {std::function(gappy), std::function(shifted),
                               std::function<array(const array&)>(fresh)}) {
      EXPECT_TRUE(same_bits(one({change(gate)})[0], one({gate})[0])) << c.name;
      EXPECT_TRUE(same_bits(two({change(gate), up})[0], expected.first[0])) << c.name;
      EXPECT_TRUE(same_bits(two({gate, change(up)})[0], expected.first[0])) << c.name;
      const auto got = mx::vjp(two, {change(gate), change(up)}, {change(g)}).second;
      EXPECT_TRUE(same_bits(got[0], expected.second[0])) << c.name;
      EXPECT_TRUE(same_bits(got[1], expected.second[1])) << c.name;
      EXPECT_TRUE(same_bits(mx::vjp(one, {gate}, {change(g)}).second[0], slope)) << c.name;
    }
    const auto sum = mx::grad([&](const array& v) { return mx::sum(one({v})[0]); })(gate);
    EXPECT_TRUE(same_bits(sum, mx::vjp(one, {gate}, {mx::ones({31, 45})}).second[0])) << c.name;
    EXPECT_EQ(one({mx::zeros({0, 3})})[0].size(), 0u);
  }
  EXPECT_EQ(gated(Activation::silu, gate, mx::astype(up, mx::bfloat16)).dtype(), mx::float32);
  EXPECT_THROW(gated(Activation::silu, gate, mx::zeros({45})), Error);
}

TEST(Activation, Transformations) {
  const auto gate = noise({8, 9}, 1), up = noise({8, 9}, 2), t = noise({8, 9}, 3);
  for (const auto& c : kCases) {
    const std::function<Arrays(const Arrays&)> own = [&](const Arrays& v) -> Arrays {
      return {gated(c.kind, v[0], v[1])};
    };
    const auto y = own({gate, up})[0];
    EXPECT_TRUE(same_bits(mx::compile(own)({gate, up})[0], y)) << c.name;
    const auto step = 1e-3f;
    const auto at = [&](float h) {
      return values(own({mx::add(gate, mx::multiply(t, array(h))), up})[0]);
    };
    const auto above = at(step), below = at(-step);
    Doubles slope(above.size());
    for (size_t i = 0; i < slope.size(); i++) slope[i] = (above[i] - below[i]) / (2 * step);
    // Third derivatives, and rounding over the step. relu2 bends at 0 within a step of it.
    const double bound = 50 * step * step + 16 * 0x1p-24 * 20 / step + step;
    expect_near(
        mx::jvp(own, {gate, up}, {t, mx::zeros_like(up)}).second[0], slope,
        [&](size_t) { return 16 * bound; }, std::string(c.name) + " jvp");
    const auto rows = mx::vmap(own)({gate, up})[0];
    expect_near(
        rows, values(y), [&](size_t) { return 64 * 0x1p-24 * 30; }, c.name);
    const auto again = mx::vjp(mx::checkpoint(own), {gate, up}, {t}).second;
    EXPECT_TRUE(same_bits(again[0], mx::vjp(own, {gate, up}, {t}).second[0])) << c.name;
    // The second derivative goes through the ordinary ops.
    const auto bend = [&](auto f) {
      return mx::grad([&, f](const array& x) {
        return mx::sum(
            mx::square(mx::grad([&, f](const array& v) { return mx::sum(mx::square(f(v))); })(x)));
      })(gate);
    };
    if (c.kind == Activation::silu) {
      const auto plain = bend([](const array& v) { return mx::multiply(v, mx::sigmoid(v)); });
      const auto size = mx::max(mx::abs(plain)).item<float>();
      expect_near(
          bend([&](const array& v) { return activate(c.kind, v); }), values(plain),
          [&](size_t) { return 64 * 0x1p-24 * (1 + size); }, "second derivative");
    }
  }
}

}  // namespace
}  // namespace lmxlab::kernels
