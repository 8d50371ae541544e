// Statistics against SciPy, and what small samples cannot say.
#include "lmxlab/experiments/statistics.h"

#include "lmxlab/base/error.h"
#include "tests/experiments/statistics_golden.h"

#include <gtest/gtest.h>

#include <cmath>

namespace lmxlab {
namespace {

void expect_near(double got, double expected, double relative, const std::string& what) {
  EXPECT_NEAR(got, expected, relative * std::abs(expected)) << what;
}
std::string text(double a, double b) {
  return std::to_string(a) + ", " + std::to_string(b);
}

TEST(Statistics, IncompleteBetaAsSciPy) {
  for (const auto& g : golden::betas)
    expect_near(incomplete_beta(g.a, g.b, g.x, 1 - g.x), g.value, 2e-11, text(g.a, g.b));
}

TEST(Statistics, StudentsTAsSciPy) {
  for (const auto& g : golden::quantiles)
    expect_near(t_quantile(g.p, g.dof), g.t, 1e-10, text(g.p, g.dof));
  for (const auto& g : golden::tails) expect_near(t_tail(g.t, g.dof), g.p, 1e-10, text(g.t, g.dof));
}

TEST(Statistics, QuantilesAreTheInverse) {
  for (const double dof : {0.7, 1.0, 3.5, 40.0})
    for (const double p : {0.001, 0.3, 0.5, 0.8, 0.999999})
      EXPECT_NEAR(1 - t_tail(t_quantile(p, dof), dof), p, 1e-12) << text(p, dof);
  // One degree of freedom is Cauchy's distribution, two have a closed form.
  EXPECT_NEAR(t_quantile(0.975, 1), std::tan(3.14159265358979324 * 0.475), 1e-9);
  EXPECT_NEAR(t_quantile(0.975, 2), 0.95 * std::sqrt(2 / (1 - 0.95 * 0.95)), 1e-12);
}

TEST(Statistics, IntervalsAsSciPy) {
  for (const auto& g : golden::means) {
    const auto s = summarize(g.values, g.confidence);
    EXPECT_EQ(s.n, static_cast<int>(g.values.size()));
    expect_near(s.mean, g.mean, 1e-14, "mean");
    expect_near(s.sd.value(), g.sd, 1e-11, "sd");
    expect_near(s.low.value(), g.low, 1e-10, "low");
    expect_near(s.high.value(), g.high, 1e-10, "high");
  }
}

TEST(Statistics, DifferencesAsSciPy) {
  for (const auto& g : golden::pairs) {
    const auto c = compare_means(g.a, g.b);
    expect_near(c.p.value(), g.p, 1e-9, "p");
    expect_near(c.low.value(), g.low, 1e-8, "low");
    expect_near(c.high.value(), g.high, 1e-8, "high");
    expect_near(c.d.value(), g.d, 1e-9, "d");
    expect_near(c.g.value(), g.g, 1e-9, "g");
    EXPECT_LT(std::abs(*c.g), std::abs(*c.d)) << "small samples exaggerate";
  }
}

TEST(Statistics, OneValueHasNoSpread) {
  const auto s = summarize(std::vector{1.5});
  EXPECT_EQ(s.mean, 1.5);
  EXPECT_FALSE(s.sd || s.low || s.high);
  const auto c = compare_means(std::vector{1.5}, std::vector{1.0, 1.1});
  EXPECT_FALSE(c.p || c.low || c.high);
  EXPECT_TRUE(c.d) << "the other sample's deviation is the pooled one";
  EXPECT_FALSE(c.g) << "with one degree of freedom there is no unbiased estimate";
  const auto alone = compare_means(std::vector{1.5}, std::vector{1.0});
  EXPECT_DOUBLE_EQ(alone.mean, -0.5);
  EXPECT_FALSE(alone.p || alone.d || alone.g);
}

TEST(Statistics, EqualValuesGiveNoIntervalOfNoWidth) {
  // 0.1 three times has a mean that is not 0.1: rounding is no spread.
  const auto s = summarize(std::vector{0.1, 0.1, 0.1});
  EXPECT_EQ(s.sd, 0.0);
  EXPECT_FALSE(s.low || s.high);
  const auto c = compare_means(std::vector{0.1, 0.1, 0.1}, std::vector{0.2, 0.2});
  EXPECT_FALSE(c.p || c.d || c.g || c.low);
  // If one of both varies the test is defined.
  EXPECT_TRUE(compare_means(std::vector{0.1, 0.1}, std::vector{0.2, 0.3}).p);
}

TEST(Statistics, RefusesWhatIsNoSample) {
  EXPECT_THROW(summarize(std::vector<double>{}), Error);
  EXPECT_THROW(summarize(std::vector{1.0, std::nan("")}), Error);
  EXPECT_THROW(t_quantile(1, 3), Error);
  EXPECT_THROW(t_quantile(0.5, 0), Error);
  EXPECT_THROW(slope(std::vector{1.0, 1.0}, std::vector{1.0, 2.0}), Error);
}

TEST(Statistics, SlopeOfALine) {
  EXPECT_NEAR(slope(std::vector{1.0, 2.0, 4.0}, std::vector{5.0, 3.0, -1.0}), -2, 1e-14);
}

}  // namespace
}  // namespace lmxlab
