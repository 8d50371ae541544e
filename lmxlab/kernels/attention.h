// Attention that never holds the scores of all queries and keys on the CPU; MLX's own elsewhere.
#pragma once

#include <mlx/array.h>

#include <optional>

namespace lmxlab::kernels {

/// Which keys a query sees, and how scores are bent. The last query stands at the last key.
struct AttentionMask {
  bool causal = false;  ///< query i of L sees keys 0 ... S - L + i
  int window = 0;       ///< and of those the last so many, itself included; 0: all. Causal only
  float softcap = 0;    ///< scores become softcap tanh(score / softcap); 0: they stay
  /// int32 [B]: so many keys at the left of a row are padding that nobody sees.
  std::optional<mlx::core::array> padding = {};
};

/// softmax(mask(scale q k^T)) v. A query that sees nothing gets zeros, and gives no gradient.
/// @param q  [B, H, L, Dh] float32, bfloat16 or float16; softmax and sums are float32. The products
/// of bfloat16 are made as gemm.h says. Views (of a projection [B, L, H Dh], of a cache) are read
/// as they lie if the elements of a head are adjacent.
/// @param k, v  [B, K, S, Dh] and [B, K, S, Dv], H a multiple of K.
/// @return  [B, H, L, Dv]. On the CPU it lies in memory as [B, L, H, Dv], and gradients likewise,
/// so that a transpose back and a reshape to [B, L, H Dv] copy nothing.
/// @throws Error(usage) if the shapes do not fit, causal and L > S, or a window is not causal.
/// @cost  O(B H L S (Dh + Dv)), what the mask hides left out in blocks; the gradient 2.5 times
/// that. Working memory on the CPU, for each thread: forward, the keys and values of one head;
/// backward, 8 S (Dh + Dv) bytes and about 30 KB times Dh + Dv, and where the B K heads are fewer
/// than 4 times the threads, dq in float32 for each of up to 4 times as many pieces of the keys.
/// Methods: FlashAttention-2 (Dao 2023, arXiv:2307.08691).
mlx::core::array attention(const mlx::core::array& q, const mlx::core::array& k,
                           const mlx::core::array& v, float scale, const AttentionMask& mask = {});

}  // namespace lmxlab::kernels
