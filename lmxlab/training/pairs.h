// Sequences two by two: preferences, or answers beside mismatched ones; batches of them, and what a
// reference makes of them.
#pragma once

#include "lmxlab/data/rows.h"
#include "lmxlab/models/language_model.h"
#include "lmxlab/training/recipe.h"

#include <memory>
#include <vector>

namespace lmxlab {

/// Two sequences, and what a reference makes of them: log p of what is learned, in nats.
///   preference  the chosen answer and the rejected one; first.value is the margin
///   unpaired    an answer, and its prompt with another sample's answer, for the estimate of the
///               divergence (arXiv:2402.01306, 4.1); first.value is 1 if the answer is desirable
struct TokenPair {
  data::TokenSample first, second;
  float reference_first = 0, reference_second = 0;
};

/// Of samples as data::SampleTokenizer gives them. Of unpaired ones, who lends whom an answer is
/// one cycle through all of them, drawn from the seed: a reference can measure it once.
/// @throws Error(usage) for fewer than two unpaired samples.
std::vector<TokenPair> pairs_of(data::TokenSamples samples, uint64_t seed);

/// What stands in Batch::beside of a batch of pairs.
///   plain      nothing: simpo, orpo
///   reference  [2 pairs] float32: the reference's log p of each row: dpo
///   scored     [2 pairs] int32: where each row's last token stands; [pairs] float32: margins:
///              reward
///   unpaired   [pairs] float32: the reference's log p, 1 where desirable; then of the mismatched
///              answers inputs, targets [pairs, L] int32, what counts [pairs, L] bool, and [pairs]
///              float32 the reference's log p: kto
enum class PairLayout { plain, reference, scored, unpaired };
PairLayout pair_layout(ObjectiveKind kind);
size_t beside_of(PairLayout layout);

/// A batch of 2 * pairs rows of `context` tokens: the first ones, then the second ones; `unpaired`
/// has the first ones alone.
data::Batch pair_batch(const std::vector<const TokenPair*>& pairs, int context, PairLayout layout);

/// Such a batch of zeros: for plans.
data::Batch pair_batch_like(int pairs, int context, PairLayout layout);

/// Pairs as rows: of n pairs a batch as above.
data::Rows pair_rows(std::vector<TokenPair> pairs, int context, PairLayout layout);

/// Fills in the reference's numbers: the model as it is now, without dropout. Evaluates.
/// @param batch  pairs at a time
/// @cost  one forward pass over all pairs
void measure_reference(LanguageModel& model, std::vector<TokenPair>& pairs, int batch, int context,
                       mx::Dtype compute);

}  // namespace lmxlab
