// Dropout whose mask is computed again in the gradient instead of kept.
#pragma once

#include <mlx/array.h>

namespace lmxlab::kernels {

/// Zeroes each element with probability `rate`, scales the others by 1 / (1 - rate)
/// (arXiv:1207.0580). On the CPU element i is dropped by word i of a counter-based generator
/// (Philox 4x32-10, Salmon et al., SC 2011) keyed by `key`: the mask depends on the key and on i
/// alone, not on threads, instruction set or dtype. Elsewhere the mask is mx::random::bernoulli's.
/// @param key  uint32 [2], as mx::random::key gives
/// @throws Error(usage) if rate is outside [0, 1) or key is no key.
mlx::core::array dropout(const mlx::core::array& x, float rate, const mlx::core::array& key);

}  // namespace lmxlab::kernels
