#include "lmxlab/training/objectives/preference.h"

#include "lmxlab/training/objectives/check.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <cmath>

namespace lmxlab::objectives {
namespace {

void check_beta(const char* where, float beta) {
  if (!(beta > 0)) refuse(where, "beta: expected a number above 0, got " + std::to_string(beta));
}

void check_smoothing(const char* where, float e) {
  if (!(e >= 0 && e < 0.5f)) {
    refuse(where, "label_smoothing: expected a number in [0, 0.5), got " + std::to_string(e));
  }
}

mx::Shape check(const char* where, const char* name, const Sequences& s) {
  expect_axes(where, name, s.logprobs, 1, "[B]");
  expect(where, (std::string(name) + ".tokens").c_str(), s.tokens, s.logprobs.shape());
  return s.logprobs.shape();
}

mx::Shape check_pair(const char* where, const Sequences& chosen, const Sequences& rejected) {
  const auto rows = check(where, "chosen", chosen);
  check(where, "rejected", rejected);
  expect(where, "rejected", rejected.logprobs, rows);
  return rows;
}

mx::array has_tokens(const Sequences& s) {
  return mx::greater(s.tokens, scalar(0));
}

mx::array times(const mx::array& a, float factor) {
  return mx::multiply(a, scalar(factor));
}

/// -log s(x)
mx::array log_loss(const mx::array& x) {
  return mx::logaddexp(scalar(0), mx::negative(x));
}

mx::array smoothed(const mx::array& x, float e) {
  if (e == 0) return log_loss(x);
  return mx::add(times(log_loss(x), 1 - e), times(log_loss(mx::negative(x)), e));
}

Mean over(const mx::array& counted, const mx::array& losses) {
  return {mx::sum(only(counted, losses)), mx::stop_gradient(how_many(counted))};
}

mx::array log_ratios(const mx::array& logprobs, const mx::array& ref, const mx::array& counted) {
  return only(counted, mx::subtract(logprobs, mx::stop_gradient(float32(ref))));
}

/// log(1 - exp(x)) for x below 0, each branch where it is exact (Maechler 2012).
mx::array log1mexp(const mx::array& x) {
  // Both branches are computed: each gets arguments at which its gradient is finite.
  const auto near = mx::greater(x, scalar(-std::log(2.0f)));
  const auto a = mx::where(near, x, scalar(-1)), b = mx::where(near, scalar(-1), x);
  return mx::where(near, mx::log(mx::negative(mx::expm1(a))), mx::log1p(mx::negative(mx::exp(b))));
}

}  // namespace

PreferenceLoss dpo(const Sequences& chosen, const Sequences& rejected, const mx::array& ref_chosen,
                   const mx::array& ref_rejected, const DpoOptions& o) {
  const auto rows = check_pair("dpo", chosen, rejected);
  expect("dpo", "ref_chosen", ref_chosen, rows);
  expect("dpo", "ref_rejected", ref_rejected, rows);
  check_beta("dpo", o.beta);
  check_smoothing("dpo", o.label_smoothing);
  const bool smooths = o.loss_type == DpoLoss::sigmoid || o.loss_type == DpoLoss::sigmoid_norm;
  if (o.label_smoothing != 0 && !smooths) {
    refuse("dpo", "label_smoothing: " + enum_name(o.loss_type) + " has none");
  }

  const auto counted = mx::logical_and(has_tokens(chosen), has_tokens(rejected));
  auto c = log_ratios(chosen.logprobs, ref_chosen, counted);
  auto r = log_ratios(rejected.logprobs, ref_rejected, counted);
  const auto chosen_rewards = mx::stop_gradient(times(c, o.beta));
  const auto rejected_rewards = mx::stop_gradient(times(r, o.beta));
  if (o.loss_type == DpoLoss::sigmoid_norm || o.loss_type == DpoLoss::ipo) {
    c = Sequences{c, chosen.tokens}.mean();
    r = Sequences{r, rejected.tokens}.mean();
  }
  const auto d = mx::subtract(c, r);
  const auto losses = [&] {
    switch (o.loss_type) {
      case DpoLoss::ipo: return mx::square(mx::subtract(d, scalar(0.5f / o.beta)));
      case DpoLoss::hinge: return mx::maximum(mx::subtract(scalar(1), times(d, o.beta)), scalar(0));
      case DpoLoss::sigmoid:
      case DpoLoss::sigmoid_norm: break;
    }
    return smoothed(times(d, o.beta), o.label_smoothing);
  }();
  return {over(counted, losses), chosen_rewards, rejected_rewards};
}

PreferenceLoss simpo(const Sequences& chosen, const Sequences& rejected, const SimpoOptions& o) {
  check_pair("simpo", chosen, rejected);
  check_beta("simpo", o.beta);
  check_smoothing("simpo", o.label_smoothing);
  const auto counted = mx::logical_and(has_tokens(chosen), has_tokens(rejected));
  const auto c = times(chosen.mean(), o.beta), r = times(rejected.mean(), o.beta);
  const auto d = mx::subtract(mx::subtract(c, r), scalar(o.gamma));
  return {over(counted, smoothed(d, o.label_smoothing)), mx::stop_gradient(c),
          mx::stop_gradient(r)};
}

OrpoLoss orpo(const Sequences& chosen, const Sequences& rejected, float lambda) {
  check_pair("orpo", chosen, rejected);
  const auto counted = mx::logical_and(has_tokens(chosen), has_tokens(rejected));
  const auto c = chosen.mean(), r = rejected.mean();
  const auto log_odds = [&](const mx::array& logp) {
    // A likelihood that rounds to 1 has no finite odds; nor has a response without tokens.
    const auto x = mx::minimum(mx::where(counted, logp, scalar(-1)), scalar(-1e-7f));
    return mx::subtract(x, log1mexp(x));
  };
  const auto losses = times(log_loss(mx::subtract(log_odds(c), log_odds(r))), lambda);
  return {nll(chosen), over(counted, losses), mx::stop_gradient(times(c, lambda)),
          mx::stop_gradient(times(r, lambda))};
}

Mean kto_kl(const Sequences& mismatched, const mx::array& ref_mismatched) {
  expect("kto_kl", "ref_mismatched", ref_mismatched, check("kto_kl", "mismatched", mismatched));
  const auto counted = has_tokens(mismatched);
  const auto r = log_ratios(mismatched.logprobs, ref_mismatched, counted);
  return {mx::stop_gradient(mx::sum(r)), mx::stop_gradient(how_many(counted))};
}

KtoLoss kto(const Sequences& policy, const mx::array& ref, const mx::array& desirable,
            const mx::array& kl, const KtoOptions& o) {
  const auto rows = check("kto", "policy", policy);
  expect("kto", "ref", ref, rows);
  expect("kto", "desirable", desirable, rows);
  expect("kto", "kl", kl, {});
  check_beta("kto", o.beta);
  const auto counted = has_tokens(policy);
  const auto r = log_ratios(policy.logprobs, ref, counted);
  const auto good = mx::astype(desirable, mx::bool_);
  const auto above =
      times(mx::subtract(r, mx::maximum(mx::stop_gradient(float32(kl)), scalar(0))), o.beta);
  const auto weight = mx::where(good, scalar(o.desirable_weight), scalar(o.undesirable_weight));
  const auto losses =
      mx::multiply(weight, mx::sigmoid(mx::where(good, mx::negative(above), above)));
  return {over(counted, losses), mx::stop_gradient(times(r, o.beta))};
}

Mean reward(const mx::array& chosen, const mx::array& rejected,
            const std::optional<mx::array>& margin, float center_coefficient) {
  expect_axes("reward", "chosen", chosen, 1, "[B]");
  expect("reward", "rejected", rejected, chosen.shape());
  if (margin) expect("reward", "margin", *margin, chosen.shape());
  const auto c = float32(chosen), r = float32(rejected);
  auto d = mx::subtract(c, r);
  if (margin) d = mx::subtract(d, mx::stop_gradient(float32(*margin)));
  auto losses = log_loss(d);
  if (center_coefficient != 0)
    losses = mx::add(losses, times(mx::square(mx::add(c, r)), center_coefficient));
  return {mx::sum(losses), scalar(static_cast<float>(chosen.size()))};
}

}  // namespace lmxlab::objectives
