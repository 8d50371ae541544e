// Losses.
#pragma once

#include <mlx/array.h>

namespace lmxlab {
namespace mx = mlx::core;

/// -log p(target) at every position, in float32.
/// @param logits  [..., V] any float type;  @param targets  int [...]
/// @return  [...]
mx::array token_nll(const mx::array& logits, const mx::array& targets);

}  // namespace lmxlab
