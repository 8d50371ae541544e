// A feed-forward layer on quantized weights. For few rows (a token of decode) it is one step of the
// graph, whose hidden values never leave the caches.
#pragma once

#include <mlx/array.h>

#include <optional>

#include "lmxlab/kernels/activation.h"
#include "lmxlab/kernels/quantized.h"

namespace lmxlab::kernels {

/// down(act(gate x) * (up x)), without a gate down(act(up x)): the same numbers as by
/// quantized_linears, `gated` or `activate`, and quantized_linear.
/// @param x  [..., in] float32, bfloat16 or float16 -> [..., down's out] of the same dtype.
/// @throws Error(usage) if the sizes do not fit.
/// @cost  up to 8 rows: the weights' bytes at memory speed.
mlx::core::array quantized_mlp(const mlx::core::array& x,
                               const std::optional<QuantizedWeight>& gate,
                               const QuantizedWeight& up, const QuantizedWeight& down,
                               Activation activation);

}  // namespace lmxlab::kernels
