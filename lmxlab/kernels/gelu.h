// GELU, fused on the CPU (forward and gradient one pass each); ordinary ops elsewhere.
#pragma once

#include <mlx/array.h>

namespace lmxlab::kernels {

/// x Phi(x), Phi the normal distribution function (arXiv:1606.08415).
/// @param x  any shape and float dtype, kept. float32 is within 4 eps of the exact value, relative,
/// also in the tail.
mlx::core::array gelu(const mlx::core::array& x);

/// x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2, section 2 of the same paper.
mlx::core::array gelu_tanh(const mlx::core::array& x);

}  // namespace lmxlab::kernels
