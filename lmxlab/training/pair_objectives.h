// What is learned of pairs, unpaired answers among them.
#pragma once

#include "lmxlab/training/objective.h"
#include "lmxlab/training/objectives/logprobs.h"
#include "lmxlab/training/recipe.h"

#include <memory>

namespace lmxlab {

/// log p of what is learned in each row. Lazy.
objectives::Sequences row_logprobs(const core::Transformer& model, const data::Batch& batch,
                                   core::Pass& pass);

/// Of a batch as pair_batch makes it for the objective (PairLayout).
///   dpo, simpo, orpo  counted by pairs; orpo has a second term, counted by tokens. Metrics:
///                     accuracy (the chosen answer's reward is higher), margin (of the rewards),
///                     reward_chosen, reward_rejected
///   reward            counted by pairs, of a model with a head of one number. The same metrics,
///                     and reward, the mean of both
///   kto               counted by answers. The divergence is estimated for each batch, in a
///                     forward pass over mismatched answers that has no gradient. Metrics:
///                     reward_chosen and reward_rejected (means over desirable and other answers),
///                     kl
/// @throws Error(usage) for another kind
std::shared_ptr<const Objective> pair_objective(const ObjectiveConfig& config);

}  // namespace lmxlab
