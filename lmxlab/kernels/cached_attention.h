// What attention does with a key/value cache in one pass, as one step of the graph: rotates the new
// queries and keys, writes keys and values behind the ones before, and attends to all of them. A
// token of decode is then a handful of steps a layer, whose host work (1 to 3 us each) counts.
#pragma once

#include <mlx/array.h>

#include <optional>

#include "lmxlab/kernels/attention.h"
#include "lmxlab/kernels/rope.h"

namespace lmxlab::kernels {

struct CachedAttention {
  mlx::core::array out;   // [B, L, H Dv]
  mlx::core::array k, v;  // the buffers, written: in place if nobody else holds them
};

/// The mask is causal with what AttentionMask adds to it.
/// @param q  [B, L, H Dh] float32, bfloat16 or float16: a projection, heads side by side.
/// @param k, v  [B, L, K Dh] and [B, L, K Dv] of the same type.
/// @param keys, values  buffers [B, K, C, Dh] and [B, K, C, Dv] of the same type, or of float16
///   where that is float32, whose first `at` columns are filled; moved in.
/// @param at  the column of the first new key, at + L <= C; its position too, less the padding.
/// @param rope  as for `rope`; none: nothing turns.
/// @throws Error(usage) if the shapes do not fit.
/// @cost  as `attention` over at + L keys, without its gradient.
CachedAttention cached_attention(const mlx::core::array& q, const mlx::core::array& k,
                                 const mlx::core::array& v, mlx::core::array keys,
                                 mlx::core::array values, int at, const std::optional<Rope>& rope,
                                 float scale, const AttentionMask& mask);

}  // namespace lmxlab::kernels
