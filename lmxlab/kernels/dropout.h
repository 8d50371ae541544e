// Dropout whose mask is computed again in the gradient instead of kept.
#pragma once

#include <mlx/array.h>

#include <cstdint>

namespace lmxlab::kernels {

/// Zeroes each element with probability `rate`, scales the others by 1 / (1 - rate)
/// (arXiv:1207.0580). On the CPU the rate is rounded to a multiple of 2^-16, and half words of a
/// counter-based generator (Philox 4x32-10, Salmon et al., SC 2011) decide: whether an element is
/// dropped depends on `key` and its row-major number alone, not on threads, instruction set or
/// dtype. Elsewhere the mask is mx::random::bernoulli's.
/// @param key  uint32 [2], as mx::random::key gives
/// @param first  the number of x's first element, where x is a part of something; a multiple of
/// 128. Not elsewhere.
/// @throws Error(usage) if rate is outside [0, 1 - 2^-16], key is no key, or first no such number.
mlx::core::array dropout(const mlx::core::array& x, float rate, const mlx::core::array& key,
                         int64_t first = 0);

}  // namespace lmxlab::kernels
