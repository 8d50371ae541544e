// The gated delta rule (arXiv:2412.06464, section 3.3; with decays by rows arXiv:2510.26692) and
// its gradient, a position after the other with the state of a head in the caches.
#pragma once

#include <mlx/array.h>

namespace lmxlab::kernels {

struct DeltaScan {
  mlx::core::array out;    // [B, H, L, P]
  mlx::core::array state;  // [B, H, N, P], after the last position
};

/// S'_t = exp(g_t) S_(t-1),  S_t = S'_t + k_t (beta_t (v_t - S'_t^T k_t))^T,  o_t = S_t^T q_t, in
/// float32. Fused on the CPU, as its gradient by everything; ordinary ops, a position after the
/// other, elsewhere.
/// @param q, k  [B, G, L, N] float32, H a multiple of G: consecutive heads share them
/// @param v  [B, H, L, P] float32
/// @param g  [B, H, L, 1] or [B, H, L, N] float32, at most 0: of the whole state, or of its rows
/// @param beta  [B, H, L] float32
/// @param state  S_0 [B, H, N, P] float32
/// @throws Error(usage) if the shapes do not fit.
/// @cost  O(B H L N P), three products with the state, and seven for the gradient. Memory: a state
///   for every kDeltaBlock positions, kept for the gradient, which has a block's for each thread.
DeltaScan delta_scan(const mlx::core::array& q, const mlx::core::array& k,
                     const mlx::core::array& v, const mlx::core::array& g,
                     const mlx::core::array& beta, const mlx::core::array& state);

inline constexpr int kDeltaBlock = 32;

namespace plain {
DeltaScan delta_scan(const mlx::core::array& q, const mlx::core::array& k,
                     const mlx::core::array& v, const mlx::core::array& g,
                     const mlx::core::array& beta, const mlx::core::array& state);
}  // namespace plain

}  // namespace lmxlab::kernels
