// Log-probabilities of labels, which every objective of fine-tuning is made of, and the sums that
// objectives come as. All are pure functions of arrays, lazy, and reduce in float32.
#pragma once

#include "lmxlab/kernels/cross_entropy.h"

#include <mlx/array.h>

#include <optional>

namespace lmxlab::objectives {

namespace mx = mlx::core;

/// A mean before its division, so that accumulated batches can be exact: the loss of a large batch
/// is the sum of its parts' sums by the sum of their counts, and its gradient likewise that of the
/// sums. Both 0-d float32; the count has no gradient.
struct Mean {
  mx::array sum, count;
  /// 0 where nothing was counted.
  mx::array value() const;
};

/// Logits, or what an output head makes them of: then they are never whole in memory.
struct Logits {
  mx::array x;                           // [B, L, V]; with a weight the hidden states [B, L, D]
  std::optional<mx::array> weight = {};  // [V, D], not quantized
  std::optional<mx::array> bias = {};    // [V]
  kernels::HeadOptions head = {};        // of a weight only
};

inline constexpr int kIgnoreIndex = -100;

/// Which positions count: those with a label, and true in the mask.
/// @param labels  int [B, L], kIgnoreIndex: none;  @param mask  [B, L] bool, or 0 and 1 of any type
/// @return  bool [B, L]
mx::array token_mask(const mx::array& labels, const std::optional<mx::array>& mask = {});

/// log p(label) at every position; 0 where token_mask is false, with a gradient of 0 whatever the
/// finite logits there.
/// @param labels  int [B, L], what each position predicts: shifted already
/// @param temperature  the logits are divided by it, as those that were sampled from
/// @return  [B, L] float32
/// @throws Error(usage) if the shapes do not fit, or the temperature is not above 0.
/// @cost  that of kernels::cross_entropy or, with a weight, kernels::linear_cross_entropy
mx::array token_logprobs(const Logits& logits, const mx::array& labels,
                         const std::optional<mx::array>& mask = {}, float temperature = 1);

/// How many labels are the most likely token of their position (of equals the first), 0-d float32
/// without a gradient. @param rows  positions whose logits are there at a time
mx::array greedy_hits(const Logits& logits, const mx::array& labels, int rows = 256);

/// Responses, one a row.
struct Sequences {
  mx::array logprobs;  // [B] float32: log p(response), the sum over its tokens
  mx::array tokens;    // [B] float32: how many were counted
  /// [B], 0 for an empty response.
  mx::array mean() const;
};

/// @param logprobs  [B, L] of token_logprobs;  @param mask  [B, L], true where a token counts
/// @throws Error(usage) if the shapes do not fit.
Sequences sequence_logprobs(const mx::array& logprobs, const mx::array& mask);

/// The loss of supervised fine-tuning: -log p of the counted tokens, counted by tokens.
Mean nll(const Sequences& responses);

}  // namespace lmxlab::objectives
