// New keys or values into a packed cache as one step of the graph, where quantizing them and
// writing the three parts would be four, each some microseconds of the host's work a token and
// layer.
#pragma once

#include <mlx/array.h>

#include "lmxlab/kernels/attention.h"

namespace lmxlab::kernels {

/// Packs x as mx::quantize does (affine: the same words, scales and biases) and writes it into
/// columns of buffers, in place if nobody else holds them.
/// @param x  [B, K, L, D] float32, bfloat16 or float16.
/// @param buffers  as QuantizedKeys of C columns, scales and biases of x's dtype; moved in.
/// @param at  the column of the first new row, at + L <= C.
/// @return  the buffers, written.
/// @throws Error(usage) if the shapes or types do not fit.
QuantizedKeys append_quantized(const mlx::core::array& x, QuantizedKeys buffers, int at);

}  // namespace lmxlab::kernels
