// Losses.
#pragma once

#include "lmxlab/core/transformer.h"

#include <mlx/array.h>

namespace lmxlab {
namespace mx = mlx::core;

/// -log p(target) at every position, in float32; 0 where the target is -100. That of any other
/// target outside the vocabulary is NaN.
/// @param logits  [..., V] any float type;  @param targets  int [...]
/// @return  [...]
mx::array token_nll(const mx::array& logits, const mx::array& targets);

/// The same for the tokens of a pass, from the hidden states and the head's weight: neither the
/// logits [B, L, V] nor their gradient are ever whole in memory on the CPU. With a packed head,
/// which does not train, some rows at a time give their loss and its gradient by the hidden states,
/// [B, L, D], at once. With a tap the logits are made.
/// @param inputs, targets  int [B, L]
/// @return  [B, L]
mx::array token_nll(const core::Transformer& model, const mx::array& inputs,
                    const mx::array& targets, core::Pass& pass);

}  // namespace lmxlab
