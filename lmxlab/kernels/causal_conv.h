// The short causal convolution of recurrent mixers, each channel by itself, with its bias and SiLU:
// one pass over memory forward, one for the gradient.
#pragma once

#include <mlx/array.h>

#include <optional>

namespace lmxlab::kernels {

/// y[b, t, c] = act(bias[c] + sum over k of w[c, k] seen[b, t + k, c]), where `seen` is `before`
/// followed by x. Sums and y are float32. Fused on the CPU, as its gradient; ordinary ops
/// elsewhere.
/// @param x  [B, L, C] float; columns of a wider array are read where they are
/// @param before  [B, K - 1, C] float, taken in the dtype of x
/// @param w  [C, K], and bias [C] or none, float, taken in float32; K at least 1
/// @param silu  act: x / (1 + exp(-x)); without it, none
/// @return  [B, L, C] float32
/// @throws Error(usage) if the shapes do not fit.
/// @cost  O(B L C K). Only the inputs are kept for the gradient, which computes the sums again, and
///   has up to 32 partial results of [2 K + 1, C]. Nothing depends on the number of threads.
mlx::core::array causal_conv(const mlx::core::array& x, const mlx::core::array& before,
                             const mlx::core::array& w, const std::optional<mlx::core::array>& bias,
                             bool silu);

namespace plain {
mlx::core::array causal_conv(const mlx::core::array& x, const mlx::core::array& before,
                             const mlx::core::array& w, const std::optional<mlx::core::array>& bias,
                             bool silu);
}  // namespace plain

}  // namespace lmxlab::kernels
