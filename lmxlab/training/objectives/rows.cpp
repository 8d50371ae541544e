#include "lmxlab/training/objectives/rows.h"

#include "lmxlab/kernels/linear.h"
#include "lmxlab/kernels/put_rows.h"
#include "lmxlab/training/objectives/check.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>
#include <mlx/utils.h>

#include <algorithm>

namespace lmxlab::objectives {
namespace {

mx::array after(const mx::array& x, const Arrays& others) {
  return others.empty() ? x : mx::depends({x}, others)[0];
}

}  // namespace

mx::array flat_rows(const mx::array& x) {
  const int n = x.shape(0) * x.shape(1);
  return mx::reshape(x, {n, x.ndim() == 2 ? 1 : x.shape(2)});
}

mx::array made(const Logits& rows) {
  if (!rows.weight) return float32(rows.x);
  auto z = float32(kernels::linear(rows.x, *rows.weight, rows.bias));
  if (rows.head.scale != 1) z = mx::multiply(z, scalar(rows.head.scale));
  if (const auto cap = scalar(rows.head.softcap); rows.head.softcap > 0)
    z = mx::multiply(mx::tanh(mx::divide(z, cap)), cap);
  return z;
}

mx::array cut(const mx::array& x, int first, int last) {
  return mx::slice(x, {first, 0}, {last, x.shape(1)});
}

Logits cut(const Logits& logits, int first, int last) {
  return {cut(logits.x, first, last), logits.weight, logits.bias, logits.head};
}

mx::array sum_by_rows(const Logits& student, int rows, RowLoss loss) {
  const int all = student.x.shape(0);
  if (all == 0) return scalar(0);
  Arrays in{student.x};
  if (student.weight) in.push_back(*student.weight);
  if (student.bias) in.push_back(*student.bias);
  const auto z_of = [weight = student.weight.has_value(), bias = student.bias.has_value(),
                     head = student.head](const Arrays& v) {
    Logits part{v[0], {}, {}, head};
    if (weight) part.weight = v[1];
    if (bias) part.bias = v[2];
    return made(part);
  };
  const auto forward = [=](Arrays v) -> Arrays {
    const auto whole = v[0];
    Arrays sum;
    for (int first = 0; first < all; first += rows) {
      const int last = std::min(all, first + rows);
      v[0] = after(cut(whole, first, last), sum);
      const auto next = loss.sum(z_of(v), first, last);
      sum = {sum.empty() ? next : mx::add(sum[0], next)};
    }
    return sum;
  };
  const auto backward = [=](Arrays v, const Arrays& slopes, const Arrays&) {
    const auto whole = v[0];
    Arrays sums;
    for (int first = 0; first < all; first += rows) {
      const int last = std::min(all, first + rows);
      v[0] = after(cut(whole, first, last), sums);
      const auto slope = mx::multiply(loss.slope(z_of(v), first, last), slopes[0]);
      const auto part =
          mx::vjp([&](const Arrays& a) -> Arrays { return {z_of(a)}; }, v, {slope}).second;
      const auto to = sums.empty() ? std::nullopt : std::optional(sums[0]);
      Arrays next{kernels::put_rows(to, part[0], first, all)};
      for (size_t i = 1; i < part.size(); ++i)
        next.push_back(sums.empty() ? part[i] : mx::add(sums[i], part[i]));
      sums = std::move(next);
    }
    return sums;
  };
  return mx::custom_vjp(forward, backward)(in)[0];
}

}  // namespace lmxlab::objectives
