#include "lmxlab/training/objectives/distill.h"

#include "lmxlab/training/objectives/check.h"
#include "lmxlab/training/objectives/rows.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <cmath>

namespace lmxlab::objectives {
namespace {

int vocabulary(const Logits& l) {
  return l.weight ? l.weight->shape(0) : l.x.shape(2);
}

void check(const char* where, const char* name, const Logits& l) {
  expect_axes(where, name, l.x, 3, l.weight ? "[B, L, D]" : "[B, L, V]");
  if (l.weight) {
    expect_axes(where, "weight", *l.weight, 2, "[V, D]");
    expect(where, "weight", *l.weight, {l.weight->shape(0), l.x.shape(2)});
    if (l.bias) expect(where, "bias", *l.bias, {l.weight->shape(0)});
  } else if (l.bias) {
    refuse(where, "bias: a bias is that of a weight");
  }
}

void check(const char* where, float temperature, int rows) {
  if (!(temperature > 0)) refuse(where, "temperature: expected a number above 0");
  if (rows < 1) refuse(where, "rows: expected at least 1, got " + std::to_string(rows));
}

Logits flat(const Logits& l) {
  return {flat_rows(l.x), l.weight, l.bias, l.head};
}

Logits fixed(Logits l) {
  l.x = mx::stop_gradient(l.x);
  if (l.weight) l.weight = mx::stop_gradient(*l.weight);
  if (l.bias) l.bias = mx::stop_gradient(*l.bias);
  return l;
}

/// Logits [n, V] float32 at a temperature; rows that do not count are 0.
mx::array tempered(const mx::array& z, const mx::array& counted, float temperature) {
  // Words that a head excludes with -inf have a probability of 0, and 0 times infinity no value.
  const auto finite = mx::maximum(only(counted, z), scalar(-1e30f));
  return temperature == 1 ? finite : mx::divide(finite, scalar(temperature));
}

mx::array log_softmax(const mx::array& z) {
  return mx::subtract(z, mx::logsumexp(z, -1, true));
}

/// KL(p || q) by rows, of log-probabilities: [n]
mx::array kl(const mx::array& p, const mx::array& q) {
  return mx::sum(mx::multiply(mx::exp(p), mx::subtract(p, q)), -1);
}

/// beta p_t + (1 - beta) p_s, as its logarithm
mx::array mixture(const mx::array& s, const mx::array& t, float beta) {
  return mx::logaddexp(mx::add(s, scalar(std::log1p(-beta))), mx::add(t, scalar(std::log(beta))));
}

mx::array divergence(const mx::array& s, const mx::array& t, float beta) {
  if (beta == 0) return kl(t, s);
  if (beta == 1) return kl(s, t);
  const auto m = mixture(s, t, beta);
  return mx::add(mx::multiply(scalar(beta), kl(t, m)), mx::multiply(scalar(1 - beta), kl(s, m)));
}

/// Its gradient by the student's logits, of which s is the logarithm of the softmax.
mx::array divergence_slope(const mx::array& s, const mx::array& t, float beta) {
  if (beta == 0) return mx::subtract(mx::exp(s), mx::exp(t));
  // For both others it is p_s (u - sum(p_s u)), with u the student's distance to what it meets.
  auto u = mx::subtract(s, beta == 1 ? t : mixture(s, t, beta));
  const auto p = mx::exp(s);
  u = mx::subtract(u, mx::sum(mx::multiply(p, u), -1, true));
  return mx::multiply(scalar(beta == 1 ? 1 : 1 - beta), mx::multiply(p, u));
}

/// Log-probabilities [n, K] of some words, completed or made to sum to 1.
mx::array with_rest(const mx::array& logp, Rest rest) {
  const auto lse = mx::logsumexp(logp, -1, true);
  if (rest == Rest::renormalize) return mx::subtract(logp, lse);
  // Rounding may leave the others nothing, or less.
  const auto others = mx::log(mx::negative(mx::expm1(mx::minimum(lse, scalar(-1e-7f)))));
  return mx::concatenate({logp, others}, -1);
}

/// The slope by the student's logits, from that by the tempered ones.
mx::array slope_of(const mx::array& counted, const mx::array& tempered_slope, float temperature) {
  const auto slope = only(counted, tempered_slope);
  return temperature == 1 ? slope : mx::divide(slope, scalar(temperature));
}

Mean over(const mx::array& mask, mx::array sum) {
  return {std::move(sum), mx::stop_gradient(how_many(mx::astype(mask, mx::bool_)))};
}

}  // namespace

Mean distill(const Logits& student, const Logits& teacher, const mx::array& mask,
             const DistillOptions& o) {
  const char* where = "distill";
  check(where, "student", student);
  check(where, "teacher", teacher);
  expect(where, "mask", mask, {student.x.shape(0), student.x.shape(1)});
  expect(where, "teacher", teacher.x, {mask.shape(0), mask.shape(1), teacher.x.shape(2)});
  if (vocabulary(student) != vocabulary(teacher)) {
    refuse(where, "vocabulary: the student has " + std::to_string(vocabulary(student)) +
                      " words, the teacher " + std::to_string(vocabulary(teacher)));
  }
  if (!(o.beta >= 0 && o.beta <= 1)) refuse(where, "beta: expected a number in [0, 1]");
  check(where, o.temperature, o.rows);
  const auto counted = flat_rows(mx::astype(mask, mx::bool_));
  struct Lot {
    mx::array which, s, t;  // [n, 1], [n, V] log-probabilities
  };
  const auto lot = [=, teacher = flat(fixed(teacher))](const mx::array& z, int first, int last) {
    const auto which = cut(counted, first, last);
    return Lot{which, log_softmax(tempered(z, which, o.temperature)),
               log_softmax(tempered(made(cut(teacher, first, last)), which, o.temperature))};
  };
  const RowLoss loss{[=](const mx::array& z, int first, int last) {
                       const auto l = lot(z, first, last);
                       return mx::sum(only(mx::squeeze(l.which, 1), divergence(l.s, l.t, o.beta)));
                     },
                     [=](const mx::array& z, int first, int last) {
                       const auto l = lot(z, first, last);
                       return slope_of(l.which, divergence_slope(l.s, l.t, o.beta), o.temperature);
                     }};
  return over(mask, sum_by_rows(flat(student), o.rows, loss));
}

TopK teacher_top_k(const Logits& teacher, int k, float temperature, int rows) {
  const char* where = "teacher_top_k";
  check(where, "teacher", teacher);
  check(where, temperature, rows);
  const int v = vocabulary(teacher);
  if (k < 1 || k > v)
    refuse(where, "k: expected 1 to " + std::to_string(v) + ", got " + std::to_string(k));
  const mx::Shape shape{teacher.x.shape(0), teacher.x.shape(1), k};
  const auto t = flat(fixed(teacher));
  const int all = t.x.shape(0);
  if (all == 0) return {mx::zeros(shape, mx::int32), mx::zeros(shape)};
  Arrays ids, logprobs;
  for (int first = 0; first < all; first += rows) {
    const int last = std::min(all, first + rows);
    auto part = cut(t, first, last);
    if (!ids.empty()) part.x = mx::depends({part.x}, {ids.back(), logprobs.back()})[0];
    const auto logp = log_softmax(mx::divide(made(part), scalar(temperature)));
    const auto order = mx::argpartition(logp, v - k, -1);
    // Copied: a view would keep the whole of its lot.
    ids.push_back(
        mx::contiguous(mx::astype(mx::slice(order, {0, v - k}, {last - first, v}), mx::int32)));
    logprobs.push_back(mx::take_along_axis(logp, ids.back(), -1));
  }
  return {mx::reshape(mx::concatenate(ids), shape), mx::reshape(mx::concatenate(logprobs), shape)};
}

Mean distill_top_k(const Logits& student, const TopK& teacher, const mx::array& mask,
                   const TopKOptions& o) {
  const char* where = "distill_top_k";
  check(where, "student", student);
  expect(where, "mask", mask, {student.x.shape(0), student.x.shape(1)});
  expect_axes(where, "ids", teacher.ids, 3, "[B, L, K]");
  expect(where, "ids", teacher.ids, {mask.shape(0), mask.shape(1), teacher.ids.shape(2)});
  expect(where, "logprobs", teacher.logprobs, teacher.ids.shape());
  if (const int k = teacher.ids.shape(2); k < 1 || k > vocabulary(student)) {
    refuse(where, "ids: expected 1 to " + std::to_string(vocabulary(student)) + " a position");
  }
  check(where, o.temperature, o.rows);
  const auto counted = flat_rows(mx::astype(mask, mx::bool_));
  struct Lot {
    mx::array which, ids, s, kept, p;  // [n, 1], [n, K], [n, V] and twice [n, K] log-probabilities
  };
  const auto lot = [=, ids = flat_rows(mx::astype(teacher.ids, mx::int32)),
                    logprobs = flat_rows(mx::stop_gradient(float32(teacher.logprobs)))](
                       const mx::array& z, int first, int last) {
    const auto which = cut(counted, first, last), at = cut(ids, first, last);
    const auto s = log_softmax(tempered(z, which, o.temperature));
    // Where nothing counts the logits are 0, so these are the student's there.
    const auto uniform = scalar(-std::log(static_cast<float>(z.shape(1))));
    const auto p = mx::where(which, cut(logprobs, first, last), uniform);
    return Lot{which, at, s, mx::take_along_axis(s, at, -1), p};
  };
  const auto kept_loss = [=](const Lot& l, const mx::array& kept) {
    return mx::sum(
        only(mx::squeeze(l.which, 1), kl(with_rest(l.p, o.rest), with_rest(kept, o.rest))));
  };
  const RowLoss loss{
      [=](const mx::array& z, int first, int last) {
        const auto l = lot(z, first, last);
        return kept_loss(l, l.kept);
      },
      [=](const mx::array& z, int first, int last) {
        const auto l = lot(z, first, last);
        const auto g = mx::grad([&](const mx::array& kept) { return kept_loss(l, kept); })(l.kept);
        const auto all = mx::multiply(mx::exp(l.s), mx::negative(mx::sum(g, -1, true)));
        return slope_of(l.which, mx::scatter_add_axis(all, l.ids, g, -1), o.temperature);
      }};
  return over(mask, sum_by_rows(flat(student), o.rows, loss));
}

}  // namespace lmxlab::objectives
