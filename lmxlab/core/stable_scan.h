// Recurrences whose inputs are weighted by exponentials without a bound: every sum is kept as a
// number and the exponent that it is a multiple of. All in float32.
#pragma once

#include <mlx/array.h>

#include <optional>

namespace lmxlab::core {
namespace mx = mlx::core;

/// An exponent of what is not there: its exponential beside any other is 0, and differences of two
/// are finite.
inline constexpr float kNever = -1e30f;

/// Sums over the past, `sums` times exp(most).
struct LogState {
  mx::array sums, most;
};
struct LogScanned {
  mx::array out;
  LogState state;
};

/// RWKV-4's weighted mean (arXiv:2305.13048, section 3.1): for each channel
///   o_t = (a_(t-1) + exp(u + k_t) v_t) / (b_(t-1) + exp(u + k_t))
///   a_t = exp(-w) a_(t-1) + exp(k_t) v_t,  b_t = exp(-w) b_(t-1) + exp(k_t)
/// @param k, v  [B, L, C]; where k is kNever, the position counts as absent if it stands before the
///   first that is not.
/// @param w  [C], above 0.
/// @param u  [C].
/// @param state  sums (a, b) [B, 2, C], most [B, C]; none: zero.
/// @return  o [B, L, C], and the state after the last position. The exponents have no gradient:
///   nothing depends on them.
/// @cost  O(B L C), on the CPU by a kernel of its own (kernels/wkv_scan.h); elsewhere the graph has
///   a node a chunk and one a position of a chunk.
LogScanned wkv_scan(const mx::array& k, const mx::array& v, const mx::array& w, const mx::array& u,
                    const std::optional<LogState>& state = {});

/// The matrix memory of xLSTM (arXiv:2405.04517, equations 19 to 27):
///   m_t = max(f_t + m_(t-1), i_t),  S_t = exp(f_t + m_(t-1) - m_t) S_(t-1) + exp(i_t - m_t) k_t
///   (v_t, 1)^T (h, n) = S_t^T q_t,  o_t = h / (max(|n|, exp(-m_t)) + eps)
/// by chunks: matrix products within one, S and m from one to the next.
/// @param q, k  [B, H, L, N], q scaled already.
/// @param v  [B, H, L, P].
/// @param i, f  [B, H, L], f at most 0; i kNever and f 0: the position counts as absent.
/// @param state  S [B, H, N, P + 1], m [B, H]; none: zero, m too.
/// @return  o [B, H, L, P], and the state after the last position.
/// @cost  as linear_scan; L = 1 is the recurrence itself.
LogScanned mlstm_scan(const mx::array& q, const mx::array& k, const mx::array& v,
                      const mx::array& i, const mx::array& f, float eps,
                      const std::optional<LogState>& state = {});

}  // namespace lmxlab::core
