// Attention that never holds the scores of all queries and keys on the CPU; MLX's own elsewhere.
// Keys and values are numbers, or quantized and read as they lie.
#pragma once

#include <mlx/array.h>

#include <optional>

namespace lmxlab::kernels {

/// Which keys a query sees, and how scores are bent. The last query stands at the last key.
struct AttentionMask {
  bool causal = false;  ///< query i of L sees keys 0 ... S - L + i
  int window = 0;       ///< and of those the last so many, itself included; 0: all. Causal only
  float softcap = 0;    ///< scores become softcap tanh(score / softcap); 0: they stay
  /// int32 [B]: so many keys at the left of a row are padding that nobody sees. Or [B, L], of each
  /// query: a row then holds several texts, and a query sees none before its own.
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
/// than 4 times the threads (2 times, where dq is large), dq in float32 for each of up to as many
/// pieces of the keys as that makes. Gradients are written over q, k and v that nobody else reads.
/// Methods: FlashAttention-2 (Dao 2023, arXiv:2307.08691).
mlx::core::array attention(const mlx::core::array& q, const mlx::core::array& k,
                           const mlx::core::array& v, float scale, const AttentionMask& mask = {});

/// Keys or values in MLX's affine format: what mx::quantize(x, group, bits) gives of x [B, K, S,
/// D]. Slices of a longer buffer, which grows in place, are read as they lie.
struct QuantizedKeys {
  mlx::core::array packed;          // uint32 [B, K, S, D * bits / 32]
  mlx::core::array scales, biases;  // [B, K, S, D / group], float32, bfloat16 or float16
  int group, bits;                  // 32, 64 or 128; what mx::quantize takes
};

/// The same over quantized keys and values, whose formats may differ.
/// @return  [B, H, L, Dv] of q's dtype. Gradients flow to q.
/// @throws Error(usage) also if the parts of k or of v do not fit one another.
/// @cost  8 or 4 bits and at most 64 queries for each key/value head (H / K L of them): on the CPU
/// the packed bytes are read once for every few queries, and nothing as large is held beside them.
/// Otherwise keys and values are dequantized to q's dtype first. Few queries compute with the
/// numbers in float32.
mlx::core::array quantized_attention(const mlx::core::array& q, const QuantizedKeys& k,
                                     const QuantizedKeys& v, float scale,
                                     const AttentionMask& mask = {});

}  // namespace lmxlab::kernels
