// Pairs of answers, of which the first is better: batches of them, and the objectives that learn
// from them.
#pragma once

#include "lmxlab/data/rows.h"
#include "lmxlab/models/language_model.h"
#include "lmxlab/training/objective.h"
#include "lmxlab/training/recipe.h"

#include <memory>
#include <vector>

namespace lmxlab {

/// A preference as tokens, and what a reference makes of it: log p of both answers, in nats.
struct TokenPair {
  data::TokenSample chosen, rejected;
  float reference_chosen = 0, reference_rejected = 0;
};

/// Sequences of preferences, chosen and rejected by turns, as data::SampleTokenizer gives them.
std::vector<TokenPair> pairs_of(data::TokenSamples samples);

/// `pairs` pairs as a batch of 2 * pairs rows of `context` tokens: the chosen ones, then the
/// rejected ones. Beside them, if asked for, the reference's log p of each row: float32 [2 pairs].
data::Batch pair_batch(const std::vector<const TokenPair*>& pairs, int context, bool reference);

/// Pairs as rows: a batch of n has 2 n of them.
data::Rows pair_rows(std::vector<TokenPair> pairs, int context, bool reference);

/// Fills in the reference's numbers: the model as it is now, without dropout. Evaluates.
/// @param batch  pairs at a time
/// @cost  one forward pass over all pairs
void measure_reference(LanguageModel& model, std::vector<TokenPair>& pairs, int batch, int context,
                       mx::Dtype compute);

/// dpo, simpo, orpo. Counted by pairs. Metrics: accuracy (the chosen answer's reward is higher),
/// margin (of the rewards), reward_chosen, reward_rejected.
/// @throws Error(usage) for another kind
std::shared_ptr<const Objective> preference_objective(const ObjectiveConfig& config);

}  // namespace lmxlab
