// Rows that were sorted, each with some others, back where they belong: of experts' tokens.
#pragma once

#include <mlx/array.h>

namespace lmxlab::kernels {

/// out_t = sum over j < k of weights[t, j] y[place[t k + j]]. Sums are float32. Fused on the CPU,
/// as its gradients; ordinary ops elsewhere. Nothing is scattered.
/// @param y  [T k, D] float;  @param weights  [T, k] float32
/// @param place  uint32 [T k], a permutation;  @param order  its inverse
/// @return  [T, D], dtype of y
/// @throws Error(usage) if the sizes do not fit.
mlx::core::array combine_rows(const mlx::core::array& y, const mlx::core::array& weights,
                              const mlx::core::array& place, const mlx::core::array& order);

/// The row of each: x [T, D], order [T k] -> row i is x's row order[i] / k. The gradient by x is
/// that of `combine_rows` with weights of one.
/// @param place  order's inverse
mlx::core::array spread_rows(const mlx::core::array& x, const mlx::core::array& place,
                             const mlx::core::array& order);

}  // namespace lmxlab::kernels
