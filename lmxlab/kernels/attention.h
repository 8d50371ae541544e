// Attention whose softmax (scale, causal mask and gradient included) is one pass on the CPU; MLX's
// own elsewhere.
#pragma once

#include <mlx/array.h>

namespace lmxlab::kernels {

/// softmax(scale x) over the last axis.
/// @param x  [..., L, S] float (or [S] if not causal), dtype kept; the sums are made in float32.
/// @param causal  query i of L sees keys 0 ... S - L + i, the last query all of them. The others
/// weigh exactly 0.
/// @throws Error(usage) if causal and L > S.
mlx::core::array scaled_softmax(const mlx::core::array& x, float scale, bool causal);

/// softmax(scale q k^T) v, causal or without a mask.
/// @param q  [B, H, L, Dh] float.
/// @param k, v  [B, K, S, Dh] and [B, K, S, Dv], H a multiple of K; may be views of a cache.
/// @return  [B, H, L, Dv], dtype of q.
/// @throws Error(usage) if H is no multiple of K, or causal and L > S.
/// @cost  O(B H L S Dh); float32 on the CPU keeps the weights [B, H, L, S] for the gradient.
mlx::core::array attention(const mlx::core::array& q, const mlx::core::array& k,
                           const mlx::core::array& v, float scale, bool causal);

}  // namespace lmxlab::kernels
