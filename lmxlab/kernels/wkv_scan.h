// The weighted mean over the past of RWKV-4 (arXiv:2305.13048, section 3.1 and appendix D) and its
// gradient, without an array of all states.
#pragma once

#include <mlx/array.h>

namespace lmxlab::kernels {

struct WkvScan {
  mlx::core::array out;   // [B, L, C]
  mlx::core::array sums;  // a, b [B, 2, C], after the last position, as multiples of exp(most)
  mlx::core::array most;  // [B, C]
};

/// o_t = (a + exp(u + k_t) v_t) / (b + exp(u + k_t)) with a and b from before t,
/// a_t = exp(-w) a_(t-1) + exp(k_t) v_t,  b_t = exp(-w) b_(t-1) + exp(k_t), in float32, both kept
/// as multiples of the largest weight so far, so that nothing overflows. Fused on the CPU, as its
/// gradient by everything; ordinary ops, a position after the other, elsewhere.
/// @param k, v  [B, L, C] float32
/// @param w, u  [C] float32, w above 0
/// @param sums, most  the state before, [B, 2, C] and [B, C] float32. The exponents after it are
///   constants to gradients: nothing depends on what a sum is a multiple of
/// @throws Error(usage) if the shapes or types do not fit.
/// @cost  O(B L C), two exponentials each, three for the gradient. Memory: a state for every
///   kWkvBlock positions, kept for the gradient.
WkvScan wkv_scan(const mlx::core::array& k, const mlx::core::array& v, const mlx::core::array& w,
                 const mlx::core::array& u, const mlx::core::array& sums,
                 const mlx::core::array& most);

inline constexpr int kWkvBlock = 32;

namespace plain {
WkvScan wkv_scan(const mlx::core::array& k, const mlx::core::array& v, const mlx::core::array& w,
                 const mlx::core::array& u, const mlx::core::array& sums,
                 const mlx::core::array& most);
}  // namespace plain

}  // namespace lmxlab::kernels
