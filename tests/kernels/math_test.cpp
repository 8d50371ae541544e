#include <gtest/gtest.h>

#include <cfloat>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "lmxlab/kernels/isa.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/kernels/math_test.cpp"
#include <hwy/foreach_target.h>
// Highway's headers come after foreach_target.h.
#include <hwy/highway.h>

#include "lmxlab/kernels/math-inl.h"

#ifndef LMXLAB_MATH_TEST_FUNCTION
#define LMXLAB_MATH_TEST_FUNCTION
namespace lmxlab::kernels {
enum class Function { exp, exp2, tanh };
}  // namespace lmxlab::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace lmxlab::kernels::HWY_NAMESPACE {

void apply(Function f, float* x, int64_t n) {
  const DF d;
  for (int64_t i = 0; i < n; i += lanes()) {
    const VF v = load_n(d, x + i, std::min(lanes(), n - i));
    const VF y = f == Function::exp    ? fast_exp(d, v)
                 : f == Function::exp2 ? fast_exp2(d, v)
                                       : fast_tanh(d, v);
    store_n(y, d, x + i, std::min(lanes(), n - i));
  }
}

}  // namespace lmxlab::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lmxlab::kernels {
namespace {

HWY_EXPORT(apply);

double exact(Function f, double x) {
  return f == Function::exp ? std::exp(x) : f == Function::exp2 ? std::exp2(x) : std::tanh(x);
}

std::vector<float> results(Function f, std::vector<float> x) {
  HWY_DYNAMIC_DISPATCH(apply)(f, x.data(), static_cast<int64_t>(x.size()));
  return x;
}

// Every 997th float between two, in the order of their bits.
std::vector<float> floats(float low, float high) {
  std::vector<float> found;
  for (float x : {low, high}) {
    uint32_t bits, last;
    const float limit = x < 0 ? -FLT_MIN : FLT_MIN;
    std::memcpy(&bits, &limit, 4);
    std::memcpy(&last, &x, 4);
    for (; bits <= last; bits += 997) {
      float value;
      std::memcpy(&value, &bits, 4);
      found.push_back(value);
    }
  }
  return found;
}

class Math : public ::testing::Test {
 protected:
  void TearDown() override { set_isa(isas().back()); }
};

TEST_F(Math, GoodToTwoUnitsInTheLastPlace) {
  struct Case {
    Function f;
    float low, high;
    const char* name;
  };
  for (const Isa isa : isas()) {
    set_isa(isa);
    for (const auto& c :
         {Case{Function::exp, -87.3f, 88.3f, "exp"}, Case{Function::exp2, -125.9f, 127.4f, "exp2"},
          Case{Function::tanh, -20.0f, 20.0f, "tanh"}}) {
      const auto x = floats(c.low, c.high), y = results(c.f, x);
      double worst = -1;
      size_t at = 0;
      for (size_t i = 0; i < x.size(); i++) {
        const double e = exact(c.f, x[i]);
        const double unit = std::ldexp(FLT_EPSILON, std::ilogb(e));
        const double error = std::abs(y[i] - e) / unit;
        if (!(error <= worst)) worst = error, at = i;
      }
      EXPECT_LE(worst, 2) << c.name << ", " << name(isa) << ": of " << x[at] << " expected "
                          << exact(c.f, x[at]) << ", got " << y[at];
    }
  }
}

TEST_F(Math, EdgesAndNotANumber) {
  const float inf = INFINITY, nan = NAN;
  for (const Isa isa : isas()) {
    set_isa(isa);
    const std::string what(name(isa));
    EXPECT_EQ(results(Function::exp, {0, -0.0f, -90, -1e30f, -inf, 89, inf}),
              (std::vector<float>{1, 1, 0, 0, 0, inf, inf}))
        << what;
    EXPECT_EQ(results(Function::exp2, {0, 1, -3, -127, -1e30f, -inf, 128, inf}),
              (std::vector<float>{1, 2, 0.125f, 0, 0, 0, inf, inf}))
        << what;
    EXPECT_EQ(results(Function::tanh, {0, 30, -30, inf, -inf}),
              (std::vector<float>{0, 1, -1, 1, -1}))
        << what;
    for (const Function f : {Function::exp, Function::exp2, Function::tanh}) {
      for (const float y : results(f, std::vector<float>(17, nan))) {
        EXPECT_TRUE(std::isnan(y)) << what;
      }
    }
  }
}

}  // namespace
}  // namespace lmxlab::kernels
#endif
