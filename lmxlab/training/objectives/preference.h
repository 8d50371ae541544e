// Losses of preferences: which of two responses is better (DPO and its kin, ORPO, SimPO, reward
// models), or whether one is good (KTO). Pairs and rows without a token count nothing: a pair
// counts if both of its responses have one. All functions throw Error(usage) if shapes do not fit
// or an option is out of its range, and cost nothing beside the model.
#pragma once

#include "lmxlab/base/fields.h"
#include "lmxlab/training/objectives/logprobs.h"

namespace lmxlab::objectives {

/// With r = log p(response) - log p_ref(response), d = r(chosen) - r(rejected), and e the label
/// smoothing (the share of pairs that are the wrong way round):
///   sigmoid       -(1 - e) log s(beta d) - e log s(-beta d): DPO, arXiv:2305.18290 eq. 7;
///                 with e above 0 conservative DPO (Mitchell 2023)
///   sigmoid_norm  the same with r by token: divided by the response's tokens
///   ipo           (d - 1 / (2 beta))^2, r by token as its authors do: arXiv:2310.12036 eq. 17
///   hinge         max(0, 1 - beta d): SLiC's, arXiv:2309.06657
enum class DpoLoss { sigmoid, sigmoid_norm, ipo, hinge };

struct DpoOptions {
  DpoLoss loss_type = DpoLoss::sigmoid;
  float beta = 0.1f;          // above 0
  float label_smoothing = 0;  // in [0, 0.5), of sigmoid and sigmoid_norm only
};

struct PreferenceLoss {
  Mean loss;                                   // counted by pairs
  mx::array chosen_rewards, rejected_rewards;  // [B], no gradient: for accuracies and margins
};

/// Rewards are beta r.
/// @param ref_chosen, ref_rejected  [B] log p_ref(response); they get no gradient
PreferenceLoss dpo(const Sequences& chosen, const Sequences& rejected, const mx::array& ref_chosen,
                   const mx::array& ref_rejected, const DpoOptions& options = {});

struct SimpoOptions {
  float beta = 2, gamma = 1;  // beta above 0
  float label_smoothing = 0;  // in [0, 0.5)
};

/// -log s(d - gamma) with rewards beta log p(response) / tokens and their difference d, without a
/// reference: arXiv:2405.14734 eq. 6. Smoothing as in DPO, of d - gamma.
PreferenceLoss simpo(const Sequences& chosen, const Sequences& rejected,
                     const SimpoOptions& options = {});

struct OrpoLoss {
  Mean nll;                                    // of the chosen responses, counted by tokens
  Mean odds;                                   // lambda times the odds ratio's, counted by pairs
  mx::array chosen_rewards, rejected_rewards;  // [B] lambda log p(response) / tokens, no gradient
};

/// The objective is nll + odds, each divided by its own count. With p the likelihood by token
/// (the geometric mean) and odds = p / (1 - p): odds = -lambda log s(log(odds(chosen) /
/// odds(rejected))), arXiv:2403.07691 eq. 6 and 7.
OrpoLoss orpo(const Sequences& chosen, const Sequences& rejected, float lambda = 0.1f);

struct KtoOptions {
  float beta = 0.1f;  // above 0
  float desirable_weight = 1, undesirable_weight = 1;
};

/// An estimate of KL(policy || reference), no gradient: the mean of log p - log p_ref over
/// responses to other rows' prompts (arXiv:2402.01306 section 4.1), counted by rows. KTO's loss is
/// exact under accumulation if all parts get the same estimate, that of the whole batch.
Mean kto_kl(const Sequences& mismatched, const mx::array& ref_mismatched);

struct KtoLoss {
  Mean loss;          // counted by rows
  mx::array rewards;  // [B] beta r, no gradient
};

/// weight (1 - s(beta (r - kl))) for desirable responses, weight (1 - s(beta (kl - r))) for others:
/// arXiv:2402.01306 section 4.1.
/// @param ref  [B];  @param desirable  [B] bool
/// @param kl  0-d: kto_kl's value; below 0 it is 0
KtoLoss kto(const Sequences& policy, const mx::array& ref, const mx::array& desirable,
            const mx::array& kl, const KtoOptions& options = {});

/// The loss of a reward model, Bradley and Terry's: -log s(chosen - rejected - margin), and
/// center_coefficient (chosen + rejected)^2, which keeps rewards around 0 (arXiv:2312.09244).
/// @param chosen, rejected  [B] rewards;  @param margin  [B], arXiv:2307.09288 eq. 2
/// @return  counted by pairs
Mean reward(const mx::array& chosen, const mx::array& rejected,
            const std::optional<mx::array>& margin = {}, float center_coefficient = 0);

}  // namespace lmxlab::objectives

template <>
struct lmxlab::EnumNames<lmxlab::objectives::DpoLoss> {
  using E = objectives::DpoLoss;
  static constexpr std::pair<E, const char*> table[] = {{E::sigmoid, "sigmoid"},
                                                        {E::sigmoid_norm, "sigmoid_norm"},
                                                        {E::ipo, "ipo"},
                                                        {E::hinge, "hinge"}};
};
