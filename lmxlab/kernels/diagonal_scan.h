// The recurrence of RG-LRU (arXiv:2402.19427, equation 4), each number by itself, and its gradient.
#pragma once

#include <mlx/array.h>

namespace lmxlab::kernels {

struct DiagonalScan {
  mlx::core::array h;      // [B, L, W]
  mlx::core::array state;  // [B, W], after the last position
};

/// h_t = exp(g_t) h_(t-1) + x_t, in float32. Fused on the CPU, as its gradient by everything;
/// ordinary ops, a position after the other, elsewhere.
/// @param g, x  [B, L, W] float32, g (log decays) at most 0
/// @param state  h_0 [B, W] float32
/// @throws Error(usage) if the shapes or types do not fit.
/// @cost  O(B L W), an exponential each, and one more for the gradient, which reads h and holds
///   nothing else: h_(t-1) is the output before.
DiagonalScan diagonal_scan(const mlx::core::array& g, const mlx::core::array& x,
                           const mlx::core::array& state);

/// gate x sqrt(1 - exp(2 g)): what RG-LRU adds to its state, of a size that keeps the state's
/// (equation 4 of the same paper). The root's slope, without end at g = 0, stops at 1000, so that a
/// decay of 1 leaves no NaN (as in recurrent_gemma). In float32, within 8 eps, relative, however
/// near 0 g is.
/// @param g, gate, x  of one shape [B, L, W], float32, g at most 0
/// @param whole  [B, L] float32 without a gradient: where it is not 0 the root counts as 1
/// @throws Error(usage) if the shapes or types do not fit.
/// @cost  one pass; one for the gradients, which computes the root again.
mlx::core::array scan_input(const mlx::core::array& g, const mlx::core::array& gate,
                            const mlx::core::array& x, const mlx::core::array& whole);

namespace plain {
DiagonalScan diagonal_scan(const mlx::core::array& g, const mlx::core::array& x,
                           const mlx::core::array& state);
mlx::core::array scan_input(const mlx::core::array& g, const mlx::core::array& gate,
                            const mlx::core::array& x, const mlx::core::array& whole);
}  // namespace plain

}  // namespace lmxlab::kernels
