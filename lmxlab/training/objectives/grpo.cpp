#include "lmxlab/training/objectives/grpo.h"

#include "lmxlab/training/objectives/check.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

namespace lmxlab::objectives {
namespace {

constexpr float kDeviationFloor = 1e-4f;

/// Standard deviation of samples along the last axis, which stays.
mx::array deviation(const mx::array& x) {
  if (x.shape(-1) < 2) return mx::zeros({x.shape(0), 1});
  return mx::std(x, -1, true, 1);
}

}  // namespace

mx::array group_advantages(const mx::array& rewards, int group_size, AdvantageScale scale) {
  expect_axes("group_advantages", "rewards", rewards, 1, "[N]");
  const int n = rewards.shape(0);
  if (group_size < 1 || n % group_size != 0) {
    refuse("group_advantages", "rewards: expected a multiple of group_size " +
                                   std::to_string(group_size) + ", got " + std::to_string(n));
  }
  if (n == 0) return float32(rewards);
  const auto grouped =
      mx::reshape(mx::stop_gradient(float32(rewards)), {n / group_size, group_size});
  // Counted from the group's first reward, so that equal ones differ from their mean by exactly 0.
  const auto from_first = mx::subtract(grouped, mx::slice(grouped, {0, 0}, {n / group_size, 1}));
  auto a = mx::subtract(from_first, mx::mean(from_first, -1, true));
  if (scale != AdvantageScale::none) {
    const auto spread = scale == AdvantageScale::group ? deviation(grouped)
                                                       : deviation(mx::reshape(grouped, {1, n}));
    a = mx::divide(a, mx::add(spread, scalar(kDeviationFloor)));
  }
  return mx::flatten(a);
}

GrpoLoss grpo(const mx::array& logprobs, const mx::array& advantages, const mx::array& mask,
              const std::optional<mx::array>& old_logprobs,
              const std::optional<mx::array>& ref_logprobs, const GrpoOptions& o) {
  expect_axes("grpo", "logprobs", logprobs, 2, "[B, L]");
  const auto shape = logprobs.shape();
  const int rows = shape[0];
  expect("grpo", "advantages", advantages, {rows});
  expect("grpo", "mask", mask, shape);
  if (old_logprobs) expect("grpo", "old_logprobs", *old_logprobs, shape);
  if (ref_logprobs) expect("grpo", "ref_logprobs", *ref_logprobs, shape);
  if (o.beta != 0 && !ref_logprobs) refuse("grpo", "ref_logprobs: a beta needs them");
  const float high = o.epsilon_high.value_or(o.epsilon);
  if (!(o.epsilon >= 0 && high >= 0)) refuse("grpo", "epsilon: expected a number of at least 0");
  if (o.loss_type == GrpoLossType::dr_grpo && o.max_completion_length < 1)
    refuse("grpo", "max_completion_length: dr_grpo divides by it, expected at least 1");

  const auto counted = mx::astype(mask, mx::bool_);
  const auto lp = only(counted, logprobs);
  const auto old = mx::stop_gradient(old_logprobs ? only(counted, *old_logprobs) : lp);
  const auto a = mx::expand_dims(mx::stop_gradient(float32(advantages)), 1);
  const auto in_row = mx::sum(float32(counted), 1, true);
  const auto by_row = [&](const mx::array& x) {  // [B, 1]: the mean over a row's tokens
    return mx::divide(mx::sum(only(counted, x), 1, true), mx::maximum(in_row, scalar(1)));
  };

  auto log_ratio = mx::subtract(lp, old);
  if (o.importance_sampling_level == ImportanceSampling::sequence) log_ratio = by_row(log_ratio);
  const auto w = mx::exp(log_ratio);  // [B, L] or [B, 1]
  const auto clipped = mx::clip(w, scalar(1 - o.epsilon), scalar(1 + high));
  auto losses = mx::negative(mx::minimum(mx::multiply(w, a), mx::multiply(clipped, a)));

  const auto tokens = mx::stop_gradient(how_many(counted));
  const auto over = [&](const mx::array& x) {
    return Mean{mx::stop_gradient(mx::sum(only(counted, x))), tokens};
  };
  auto kl = mx::zeros(shape);
  if (o.beta != 0) {
    const auto d = mx::subtract(mx::stop_gradient(only(counted, *ref_logprobs)), lp);
    kl = mx::subtract(mx::expm1(d), d);
    losses = mx::add(losses, mx::multiply(scalar(o.beta), kl));
  }
  const auto loss = [&]() -> Mean {
    switch (o.loss_type) {
      case GrpoLossType::grpo: return {mx::sum(by_row(losses)), scalar(static_cast<float>(rows))};
      case GrpoLossType::dr_grpo:
        return {mx::sum(only(counted, losses)),
                scalar(static_cast<float>(rows) * static_cast<float>(o.max_completion_length))};
      case GrpoLossType::dapo: break;
    }
    return {mx::sum(only(counted, losses)), tokens};
  }();
  const auto zero = scalar(0);
  const auto low = mx::logical_and(mx::less(w, scalar(1 - o.epsilon)), mx::less(a, zero));
  const auto above = mx::logical_and(mx::greater(w, scalar(1 + high)), mx::greater(a, zero));
  return {loss, over(kl), over(low), over(above)};
}

}  // namespace lmxlab::objectives
