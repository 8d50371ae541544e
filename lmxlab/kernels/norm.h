// LayerNorm and RMSNorm over the last axis, fused on the CPU (forward and gradient one pass each);
// MLX's own elsewhere.
#pragma once

#include <mlx/array.h>

namespace lmxlab::kernels {

/// (x - mean) / sqrt(variance + eps) * weight + bias (arXiv:1607.06450).
/// @param x  [..., D] float; weight, bias [D], cast to the dtype of x, which is kept.
/// @throws Error(usage) if weight or bias is not [D].
mlx::core::array layer_norm(const mlx::core::array& x, const mlx::core::array& weight,
                            const mlx::core::array& bias, float eps);

/// x / sqrt(mean(x^2) + eps) * weight (arXiv:1910.07467). Shapes as above.
mlx::core::array rms_norm(const mlx::core::array& x, const mlx::core::array& weight, float eps);

}  // namespace lmxlab::kernels
