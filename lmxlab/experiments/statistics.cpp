#include "lmxlab/experiments/statistics.h"

#include "lmxlab/base/error.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

namespace lmxlab {
namespace {

using Real = long double;  // logarithms of large gammas cancel

Real log_beta(Real a, Real b) {
  return std::lgamma(a) + std::lgamma(b) - std::lgamma(a + b);
}

// The continued fraction of DLMF 8.17.22, by Lentz's method. Converges fast for x < (a + 1) / (a +
// b + 2).
Real fraction(Real a, Real b, Real x) {
  constexpr Real tiny = 1e-300L, close = 1e-18L;
  constexpr int most = 1'000'000;  // about the root of a and b are needed
  const auto away = [](Real v) { return std::abs(v) < tiny ? tiny : v; };
  Real c = 1, d = 1 / away(1 - (a + b) * x / (a + 1)), h = d;
  for (int i = 1; i < most; ++i) {
    const Real m = i;
    for (const Real k : {m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
                         -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))}) {
      d = 1 / away(1 + k * d), c = away(1 + k / c);
      h *= d * c;
    }
    if (std::abs(d * c - 1) < close) return h;
  }
  throw Error(Kind::internal, "[statistics] the incomplete beta function did not converge");
}

double mean_of(std::span<const double> values) {
  double sum = 0;
  for (const double v : values) sum += v;
  return sum / static_cast<double>(values.size());
}

// Of the squares of the distances from the mean; exactly 0 for equal values, whose mean may be
// rounded.
double squares(std::span<const double> values, double mean) {
  if (std::all_of(values.begin(), values.end(), [&](double v) { return v == values[0]; })) return 0;
  double sum = 0;
  for (const double v : values) sum += (v - mean) * (v - mean);
  return sum;
}

void require(bool ok, const std::string& message) {
  if (!ok) throw Error(Kind::usage, "[statistics] " + message);
}

}  // namespace

double incomplete_beta(double a, double b, double x, double y) {
  require(a > 0 && b > 0 && x >= 0 && x <= 1 && y >= 0 && y <= 1,
          "incomplete_beta: expected a, b > 0 and x in [0, 1]");
  if (x == 0) return 0;
  if (y == 0) return 1;
  const Real la = a, lb = b, lx = x, ly = y;
  const Real front = std::exp(la * std::log(lx) + lb * std::log(ly) - log_beta(la, lb));
  if (lx < (la + 1) / (la + lb + 2)) return static_cast<double>(front * fraction(la, lb, lx) / la);
  return static_cast<double>(1 - front * fraction(lb, la, ly) / lb);
}

double t_tail(double t, double dof) {
  require(dof > 0 && !std::isnan(t), "t_tail: expected degrees of freedom above 0 and a number");
  if (std::isinf(t)) return t > 0 ? 0 : 1;
  const double squared = t * t, whole = dof + squared;
  const double half = incomplete_beta(dof / 2, 0.5, dof / whole, squared / whole) / 2;
  return t >= 0 ? half : 1 - half;
}

double t_quantile(double p, double dof) {
  require(p > 0 && p < 1 && dof > 0,
          "t_quantile: expected a probability in (0, 1) and degrees of freedom above 0");
  if (p == 0.5) return 0;
  if (p < 0.5) return -t_quantile(1 - p, dof);
  const double tail = 1 - p;
  double low = 0, high = 1;
  while (t_tail(high, dof) > tail && high < 1e300) low = high, high *= 2;
  while (true) {  // the tail falls strictly
    const double middle = low + (high - low) / 2;
    if (middle <= low || middle >= high) return middle;
    (t_tail(middle, dof) > tail ? low : high) = middle;
  }
}

Summary summarize(std::span<const double> values, double confidence) {
  require(!values.empty(), "expected at least one value");
  require(std::all_of(values.begin(), values.end(), [](double v) { return std::isfinite(v); }),
          "expected finite values");
  require(confidence > 0 && confidence < 1, "expected a confidence in (0, 1)");
  Summary out{static_cast<int>(values.size()), mean_of(values), {}, {}, {}};
  if (out.n < 2) return out;
  out.sd = std::sqrt(squares(values, out.mean) / (out.n - 1));
  if (*out.sd == 0) return out;
  const double half = t_quantile((1 + confidence) / 2, out.n - 1) * *out.sd / std::sqrt(out.n);
  out.low = out.mean - half, out.high = out.mean + half;
  return out;
}

Difference compare_means(std::span<const double> a, std::span<const double> b) {
  const auto sa = summarize(a), sb = summarize(b);
  Difference out{sb.mean - sa.mean, {}, {}, {}, {}, {}};
  const double na = sa.n, nb = sb.n, shared = na + nb - 2;
  const double pooled =
      shared > 0 ? std::sqrt((squares(a, sa.mean) + squares(b, sb.mean)) / shared) : 0;
  if (pooled > 0) {
    out.d = out.mean / pooled;
    // For one degree of freedom the factor is 0: the unbiased estimate does not exist.
    if (shared > 1)
      out.g = *out.d * std::exp(std::lgamma(shared / 2) - std::lgamma((shared - 1) / 2)) /
              std::sqrt(shared / 2);
  }
  if (!sa.sd || !sb.sd || pooled == 0) return out;
  const double va = *sa.sd * *sa.sd / na, vb = *sb.sd * *sb.sd / nb, v = va + vb;
  const double dof = v * v / (va * va / (na - 1) + vb * vb / (nb - 1));
  out.p = 2 * t_tail(std::abs(out.mean) / std::sqrt(v), dof);
  const double half = t_quantile(0.975, dof) * std::sqrt(v);
  out.low = out.mean - half, out.high = out.mean + half;
  return out;
}

double slope(std::span<const double> x, std::span<const double> y) {
  require(x.size() == y.size() && x.size() >= 2, "slope: expected two points or more");
  const double mx = mean_of(x), my = mean_of(y);
  double both = 0, own = 0;
  for (size_t i = 0; i < x.size(); ++i)
    both += (x[i] - mx) * (y[i] - my), own += (x[i] - mx) * (x[i] - mx);
  require(own > 0, "slope: expected two different x");
  return both / own;
}

}  // namespace lmxlab
