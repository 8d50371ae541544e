// Linear recurrences over positions, a chunk of them at a time: matrix products within a chunk, a
// state from one chunk to the next; on the CPU kernels of their own, a position after the other,
// with the state in the caches (kernels/state_scan.h). All in float32.
#pragma once

#include <mlx/array.h>

#include <optional>

namespace lmxlab::core {
namespace mx = mlx::core;

inline constexpr int kScanChunk = 64;

struct Scanned {
  mx::array out;    // [B, H, L, P], or as a scan says
  mx::array state;  // [B, H, N, P], after the last position
};

/// S_t = exp(g_t) S_(t-1) + k_t v_t^T,  o_t = S_t^T q_t      (arXiv:2405.21060, section 6)
/// @param q, k  [B, G, L, N], H a multiple of G: consecutive heads share them.
/// @param v  [B, H, L, P].
/// @param g  [B, H, L], at most 0.
/// @param state  S_0 [B, H, N, P]; none: zero.
/// @cost  O(B H L N P) on the CPU; elsewhere O(B H L (N + Q) P) for chunks of Q, which holds the
///   L x Q scores. L = 1 is the recurrence itself.
Scanned linear_scan(const mx::array& q, const mx::array& k, const mx::array& v, const mx::array& g,
                    const std::optional<mx::array>& state = {});

/// S'_t = exp(g_t) S_(t-1),  S_t = S'_t + k_t (beta_t (v_t - S'_t^T k_t))^T,  o_t = S_t^T q_t
///                                                          (arXiv:2412.06464, section 3.3)
/// @param q, k  [B, G, L, N], k of length 1 at most (beta below 2 / |k|^2 keeps S bounded).
/// @param v  [B, H, L, P].
/// @param g  [B, H, L], at most 0; or [B, H, L, N] with G = H, for each row of S its own
///   (arXiv:2510.26692).
/// @param beta  [B, H, L].
/// @cost  as above, and elsewhere than on the CPU log2(Q) products of Q x Q matrices a chunk.
Scanned delta_scan(const mx::array& q, const mx::array& k, const mx::array& v, const mx::array& g,
                   const mx::array& beta, const std::optional<mx::array>& state = {});

/// S_t = exp(g_t) (S_(t-1) + before_t k_(t-1) v_(t-1)^T) + now_t k_t v_t^T,  o_t = S_t^T q_t
/// The trapezoidal rule of Mamba-3, as one scan: what position j writes counts for later ones
/// now_j + before_(j+1) times, for itself now_j times.
/// @param q, k, v, g  as of linear_scan.
/// @param now, before  [B, H, L]; before_1 has no use: what stood before the first position belongs
///   into `state`.
/// @cost  as linear_scan.
Scanned trapezoid_scan(const mx::array& q, const mx::array& k, const mx::array& v,
                       const mx::array& g, const mx::array& now, const mx::array& before,
                       const std::optional<mx::array>& state = {});

/// S_t = (diag(exp(g_t)) - b_t c_t^T) S_(t-1) + k_t v_t^T,  o_t = S_t^T q_t     (arXiv:2503.14456)
/// What is removed is read before the decay, unlike in delta_scan, and its direction is no key.
/// @param q, k, b, c  [B, H, L, N]; S stays bounded where b = a c, 0 <= a <= 1 and |c| = 1.
/// @param v  [B, H, L, P].
/// @param g  [B, H, L, N], at most 0.
/// @cost  as delta_scan with decays by rows, twice the products within a chunk.
Scanned dplr_scan(const mx::array& q, const mx::array& k, const mx::array& v, const mx::array& g,
                  const mx::array& b, const mx::array& c,
                  const std::optional<mx::array>& state = {});

/// h_t = exp(dt_t a) h_(t-1) + dt_t x_t b_t^T,  y_t = h_t c_t    (arXiv:2312.00752, algorithm 2)
/// Decays differ for every number of the state, so no matrix product does it: on the CPU by a
/// kernel of its own (kernels/selective_scan.h); elsewhere chunks side by side, the positions of a
/// chunk one after the other.
/// @param x, dt  [B, L, I], dt at least 0.
/// @param a  [I, N], at most 0.
/// @param b, c  [B, L, N].
/// @param state  h_0 [B, 1, I, N]; none: zero.
/// @return  y [B, L, I], h_L [B, 1, I, N].
/// @cost  O(B L I N) twice; the graph has a node a chunk and one a position of a chunk.
Scanned selective_scan(const mx::array& x, const mx::array& dt, const mx::array& a,
                       const mx::array& b, const mx::array& c,
                       const std::optional<mx::array>& state = {});

/// h_t = exp(g_t) h_(t-1) + x_t, each number by itself    (arXiv:2402.19427, equation 4)
/// On the CPU by a kernel of its own (kernels/diagonal_scan.h); elsewhere every factor is the
/// exponential of a sum of log decays, so that none is above 1.
/// @param g, x  [B, L, W], g at most 0.
/// @param state  h_0 [B, W]; none: zero.
/// @return  h [B, L, W], h_L [B, W].
/// @cost  O(B L W); without the kernel the graph has a node a chunk and one a position of a chunk.
Scanned elementwise_scan(const mx::array& g, const mx::array& x,
                         const std::optional<mx::array>& state = {});

}  // namespace lmxlab::core
