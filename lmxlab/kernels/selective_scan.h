// The selective scan of Mamba (arXiv:2312.00752, algorithm 2) and its gradient, without an array of
// all states.
#pragma once

#include <mlx/array.h>

namespace lmxlab::kernels {

struct SelectiveScan {
  mlx::core::array y;      // [B, L, I]
  mlx::core::array state;  // [B, I, N], after the last position
};

/// h_t = exp(dt_t a) h_(t-1) + dt_t x_t b_t^T,  y_t = h_t c_t, in float32. Fused on the CPU, as its
/// gradient by everything; ordinary ops, a position after the other, elsewhere.
/// @param x, dt  [B, L, I] float32, dt at least 0
/// @param a  [I, N] float32, at most 0
/// @param b, c  [B, L, N] float32
/// @param state  h_0 [B, I, N] float32
/// @throws Error(usage) if the shapes do not fit.
/// @cost  O(B L I N), an exponential each, and twice as many for the gradient. Memory: a state for
///   every kScanBlock positions, kept for the gradient, which has four times a block's states and
///   two sums [B, L, N] for each thread.
SelectiveScan selective_scan(const mlx::core::array& x, const mlx::core::array& dt,
                             const mlx::core::array& a, const mlx::core::array& b,
                             const mlx::core::array& c, const mlx::core::array& state);

inline constexpr int kScanBlock = 32;

namespace plain {
SelectiveScan selective_scan(const mlx::core::array& x, const mlx::core::array& dt,
                             const mlx::core::array& a, const mlx::core::array& b,
                             const mlx::core::array& c, const mlx::core::array& state);
}  // namespace plain

}  // namespace lmxlab::kernels
