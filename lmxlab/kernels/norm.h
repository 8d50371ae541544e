// LayerNorm and RMSNorm over the last axis, alone and together with the residual stream, fused on
// the CPU (forward and gradient one pass over memory each); MLX's own ops elsewhere.
#pragma once

#include <mlx/array.h>

#include <optional>

namespace lmxlab::kernels {

/// What the norm multiplies by and adds.
struct NormWeights {
  mlx::core::array weight;                    // [D]
  std::optional<mlx::core::array> bias = {};  // [D]
  float offset = 0;                           // added to the weight; 1 in Gemma
};

enum class NormKind {
  layer,  // (x - mean) / sqrt(variance + eps) * weight + bias (arXiv:1607.06450)
  rms,    // x / sqrt(mean(x^2) + eps) * weight (arXiv:1910.07467); no bias
};

/// @param x  [..., D] float, dtype kept. Statistics and products are float32; weights may have a
/// float dtype of their own, in which their gradients come. Nothing but x is kept for the gradient.
/// @throws Error(usage) if weight or bias is not [D], or a bias comes to an RMSNorm.
mlx::core::array norm(NormKind kind, const mlx::core::array& x, const NormWeights& w, float eps);

/// residual + norm(x), of one shape and dtype: one pass.
mlx::core::array norm_onto(NormKind kind, const mlx::core::array& residual,
                           const mlx::core::array& x, const NormWeights& w, float eps);

struct AddedNorm {
  mlx::core::array sum, normed;
};
/// sum = x + branch, of one shape and dtype, and its norm: one pass forward, one backward.
AddedNorm add_norm(NormKind kind, const mlx::core::array& x, const mlx::core::array& branch,
                   const NormWeights& w, float eps);

/// x as it is and its norm: one pass backward, which adds x's own gradient.
AddedNorm norm_passing(NormKind kind, const mlx::core::array& x, const NormWeights& w, float eps);

inline mlx::core::array layer_norm(const mlx::core::array& x, const mlx::core::array& weight,
                                   const std::optional<mlx::core::array>& bias, float eps) {
  return norm(NormKind::layer, x, {weight, bias}, eps);
}
inline mlx::core::array rms_norm(const mlx::core::array& x, const mlx::core::array& weight,
                                 float eps) {
  return norm(NormKind::rms, x, {weight}, eps);
}

}  // namespace lmxlab::kernels
