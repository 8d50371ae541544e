// What a few runs of one setting say: means, Student's t, effect sizes. Samples are small, so t
// quantiles are exact (the incomplete beta function), never a normal approximation. What the data
// cannot tell is absent, never 0: the spread of one value, an interval around equal ones.
#pragma once

#include <optional>
#include <span>

namespace lmxlab {

/// I_x(a, b), the regularized incomplete beta function (DLMF 8.17); relative error about 1e-12 for
/// a and b up to 1e5. @param y  1 - x, which the caller often knows more exactly.
/// @throws Error(usage) unless a, b > 0 and 0 <= x, y <= 1.
double incomplete_beta(double a, double b, double x, double y);

/// P(T > t) of Student's t with `dof` degrees of freedom (any real above 0).
double t_tail(double t, double dof);
/// The t with P(T <= t) = p. @throws Error(usage) unless 0 < p < 1 and dof > 0.
double t_quantile(double p, double dof);

struct Summary {
  int n = 0;
  double mean = 0;
  std::optional<double> sd = {};              // of a sample, n - 1; none for one value
  std::optional<double> low = {}, high = {};  // of the mean; none for one value, or for equal ones
};
/// @param confidence  of the interval, in (0, 1).
/// @throws Error(usage) for no values, or one that is not finite.
Summary summarize(std::span<const double> values, double confidence = 0.95);

/// How b differs from a, two independent samples of possibly different variances.
struct Difference {
  double mean = 0;                            // of b less that of a
  std::optional<double> low = {}, high = {};  // of it, Welch's; 95 %
  std::optional<double> p = {};               // two-sided, Welch's test (1947)
  std::optional<double> d = {};               // Cohen's: over the pooled deviation
  std::optional<double> g = {};               // Hedges' (1981): d without its bias, exact factor
};
/// Absent: p and the interval if a sample has one value or neither varies; d and g likewise, but
/// they need no more than two values in one of them.
/// @throws Error(usage) as summarize
Difference compare_means(std::span<const double> a, std::span<const double> b);

/// Slope of the least-squares line through (x, y). @throws Error(usage) for fewer than two
/// different x.
double slope(std::span<const double> x, std::span<const double> y);

}  // namespace lmxlab
