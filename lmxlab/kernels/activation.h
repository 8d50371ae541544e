// Activations and gated activations, fused on the CPU: one pass forward, one pass for the gradient,
// which computes them again from what they read; ordinary ops elsewhere.
#pragma once

#include <mlx/array.h>

#include <cstdint>

#include "lmxlab/kernels/types.h"

namespace lmxlab::kernels {

enum class Activation : uint8_t {
  silu,       // x / (1 + exp(-x)) (arXiv:1702.03118)
  gelu,       // x Phi(x), Phi the normal distribution function (arXiv:1606.08415)
  gelu_tanh,  // x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2, section 2 of the same paper
  relu,       // max(x, 0)
  relu2,      // max(x, 0)^2 (arXiv:2109.08668)
  sigmoid,    // 1 / (1 + exp(-x))
  softplus,   // log(1 + exp x)
};

/// @param x  any shape and float dtype, kept. Computed in float32, there within 6 eps of the exact
/// value, relative, also in the tails.
mlx::core::array activate(Activation kind, const mlx::core::array& x);

/// act(gate) up: SwiGLU, GeGLU and their kin (arXiv:2002.05202); with `sigmoid`, a gate on `up`.
/// @param gate, up  of one shape; mixed dtypes promote as in MLX.
mlx::core::array gated(Activation kind, const mlx::core::array& gate, const mlx::core::array& up);

/// The same for n values in memory, for kernels that have them at hand; no `up`: act(gate).
void activate_values(Activation kind, Type type, const void* gate, const void* up, void* to,
                     int64_t n);

}  // namespace lmxlab::kernels
