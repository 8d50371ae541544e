// Group relative policy optimization, and what later work changed in it. All functions throw
// Error(usage) if shapes do not fit or an option is out of its range, and cost nothing beside the
// model.
#pragma once

#include "lmxlab/base/fields.h"
#include "lmxlab/training/objectives/logprobs.h"

namespace lmxlab::objectives {

/// What advantages are divided by.
///   group  the standard deviation of the group's rewards: GRPO, arXiv:2402.03300 section 4.1.2
///   batch  that of all rewards, arXiv:2508.08221
///   none   nothing: Dr. GRPO, arXiv:2503.20783
enum class AdvantageScale { group, batch, none };

/// A reward less its group's mean, by (standard deviation + 1e-4). Deviations are those of samples
/// (n - 1); equal rewards have advantages of exactly 0, and so has a group of one.
/// @param rewards  [N], group_size completions of a prompt after each other
/// @return  [N] float32, no gradient. With `batch` all rewards of a step must come together.
mx::array group_advantages(const mx::array& rewards, int group_size,
                           AdvantageScale scale = AdvantageScale::group);

/// What the tokens' losses are divided by.
///   grpo     a completion's tokens, then the number of completions, empty ones too
///   dapo     the tokens of all completions: arXiv:2503.14476 eq. 8. (BNPO is the same for the
///            tokens of each part of an accumulated batch: take each part's value().)
///   dr_grpo  completions times max_completion_length, a constant: arXiv:2503.20783
enum class GrpoLossType { grpo, dapo, dr_grpo };

/// What the ratio w of the policy's probability to that of the sampling policy is taken of.
///   token     each token
///   sequence  the completion, by token (geometric mean): GSPO, arXiv:2507.18071 eq. 7
enum class ImportanceSampling { token, sequence };

struct GrpoOptions {
  GrpoLossType loss_type = GrpoLossType::dapo;
  ImportanceSampling importance_sampling_level = ImportanceSampling::token;
  float epsilon = 0.2f;                    // ratios are clipped to [1 - epsilon,
  std::optional<float> epsilon_high = {};  // 1 + epsilon_high]; epsilon unless given. DAPO: 0.28
  float beta = 0;                          // of the KL divergence from the reference
  int max_completion_length = 0;           // of dr_grpo
};

struct GrpoLoss {
  Mean loss;                 // divided as loss_type says
  Mean kl;                   // the estimate by token, 0 if beta is; no gradient
  Mean clip_low, clip_high;  // the share of tokens whose ratio was clipped; no gradient
};

/// -min(w A, clip(w) A) + beta k at every token, with w = p / p_old and the estimate
/// k = exp(log p_ref - log p) - (log p_ref - log p) - 1 of KL(p || p_ref): arXiv:2402.03300 eq. 3
/// and 4.
/// @param logprobs  [B, L] of token_logprobs, of completions only
/// @param advantages  [B], no gradient;  @param mask  [B, L], true where a token counts
/// @param old_logprobs  [B, L] of the policy that sampled; none: the same policy, ratios are 1
/// @param ref_logprobs  [B, L]; may be none if beta is 0
GrpoLoss grpo(const mx::array& logprobs, const mx::array& advantages, const mx::array& mask,
              const std::optional<mx::array>& old_logprobs,
              const std::optional<mx::array>& ref_logprobs, const GrpoOptions& options = {});

}  // namespace lmxlab::objectives

template <>
struct lmxlab::EnumNames<lmxlab::objectives::AdvantageScale> {
  using E = objectives::AdvantageScale;
  static constexpr std::pair<E, const char*> table[] = {
      {E::group, "group"}, {E::batch, "batch"}, {E::none, "none"}};
};
template <>
struct lmxlab::EnumNames<lmxlab::objectives::GrpoLossType> {
  using E = objectives::GrpoLossType;
  static constexpr std::pair<E, const char*> table[] = {
      {E::grpo, "grpo"}, {E::dapo, "dapo"}, {E::dr_grpo, "dr_grpo"}};
};
template <>
struct lmxlab::EnumNames<lmxlab::objectives::ImportanceSampling> {
  using E = objectives::ImportanceSampling;
  static constexpr std::pair<E, const char*> table[] = {{E::token, "token"},
                                                        {E::sequence, "sequence"}};
};
