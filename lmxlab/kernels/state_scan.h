// Recurrences of a matrix state and their gradients, a position after the other with the state of a
// head in the caches: linear attention with decays, the gated delta rule, and decays with a
// low-rank removal.
#pragma once

#include <mlx/array.h>

namespace lmxlab::kernels {

struct StateScan {
  mlx::core::array out;    // [B, H, L, P]
  mlx::core::array state;  // [B, H, N, P], after the last position
};

// All in float32. Fused on the CPU, as their gradients by everything; ordinary ops, a position
// after the other, elsewhere.
//   q, k   [B, G, L, N] float32, H a multiple of G: consecutive heads share them
//   v      [B, H, L, P] float32
//   g      [B, H, L, 1] or [B, H, L, N] float32, at most 0: of the whole state, or of its rows
//   state  S_0 [B, H, N, P] float32
// They throw Error(usage) if the shapes do not fit. Cost: O(B H L N P), the state once read and
// written a position, twice read with a removal, and about three times as much for the gradient.
// Memory: a state for every kStateBlock positions, kept for the gradient, which has a block's for
// each thread.

/// S_t = exp(g_t) S_(t-1) + k_t v_t^T,  o_t = S_t^T q_t    (arXiv:2405.21060, section 6)
StateScan linear_scan(const mlx::core::array& q, const mlx::core::array& k,
                      const mlx::core::array& v, const mlx::core::array& g,
                      const mlx::core::array& state);

/// S'_t = exp(g_t) S_(t-1),  S_t = S'_t + k_t (beta_t (v_t - S'_t^T k_t))^T,  o_t = S_t^T q_t
/// (arXiv:2412.06464, section 3.3; with decays by rows arXiv:2510.26692)
/// @param beta  [B, H, L] float32
StateScan delta_scan(const mlx::core::array& q, const mlx::core::array& k,
                     const mlx::core::array& v, const mlx::core::array& g,
                     const mlx::core::array& beta, const mlx::core::array& state);

/// S_t = (diag(exp(g_t)) - b_t c_t^T) S_(t-1) + k_t v_t^T,  o_t = S_t^T q_t    (arXiv:2503.14456)
/// @param b, c  [B, H, L, N] float32
StateScan dplr_scan(const mlx::core::array& q, const mlx::core::array& k, const mlx::core::array& v,
                    const mlx::core::array& g, const mlx::core::array& b, const mlx::core::array& c,
                    const mlx::core::array& state);

inline constexpr int kStateBlock = 32;

namespace plain {
StateScan linear_scan(const mlx::core::array& q, const mlx::core::array& k,
                      const mlx::core::array& v, const mlx::core::array& g,
                      const mlx::core::array& state);
StateScan delta_scan(const mlx::core::array& q, const mlx::core::array& k,
                     const mlx::core::array& v, const mlx::core::array& g,
                     const mlx::core::array& beta, const mlx::core::array& state);
StateScan dplr_scan(const mlx::core::array& q, const mlx::core::array& k, const mlx::core::array& v,
                    const mlx::core::array& g, const mlx::core::array& b, const mlx::core::array& c,
                    const mlx::core::array& state);
}  // namespace plain

}  // namespace lmxlab::kernels
