// The product of a linear layer.
#pragma once

#include <mlx/array.h>

#include <optional>

namespace lmxlab::kernels {

/// x w^T + bias, and its three gradients, by the engine of gemm.h. The types may differ: bfloat16 x
/// with a float32 weight is multiplied as bfloat16 with float32 sums, and the weight's gradient
/// comes in float32 without ever having been rounded: float32 masters need no cast in the graph. A
/// float32 x is not rounded: a 16-bit weight is widened as it is read.
/// @param x  [..., in] float;  @param w  [out, in] float, any strides;  @param bias  [out]
/// @return  [..., out], dtype of x
/// @throws Error(usage) if the sizes do not fit.
mlx::core::array linear(const mlx::core::array& x, const mlx::core::array& w,
                        const std::optional<mlx::core::array>& bias = std::nullopt);

/// a b for matrices, batched where they have more axes (the leading ones equal): mx::matmul with
/// the engine for every float type. Transposed views are read as they lie.
mlx::core::array matmul(const mlx::core::array& a, const mlx::core::array& b);

}  // namespace lmxlab::kernels
