// Products of many small batches, each with a matrix of its own: the experts of a mixture. Whose
// row is whose is data, not shape: nothing is read back while the graph is built.
#pragma once

#include <mlx/array.h>

#include "lmxlab/kernels/quantized.h"

namespace lmxlab::kernels {

/// y_i = w[ids_i] x_i, and its gradients by x and w. Rows of one matrix next to each other are one
/// product, so sort them where there are many. On the CPU by the engine of gemm.h, with its types:
/// x of bfloat16 may meet float32 weights, whose gradient is then float32. Elsewhere mx::gather_mm.
/// @param x  [n, in] float;  @param w  [E, out, in] float;  @param ids  uint32 [n], below E
/// @param sorted  whether ids ascend
/// @param absent  whether ids may be E too: rows of no matrix, which give zeros and, on the CPU,
/// cost nothing else.
/// @return  [n, out], dtype of x
/// @throws Error(usage) if the sizes do not fit. An id beyond E fails the evaluation on the CPU,
/// and is undefined elsewhere.
/// @cost  the gradient by w writes all of w's elements once, experts without rows as zeros.
mlx::core::array grouped_linear(const mlx::core::array& x, const mlx::core::array& w,
                                const mlx::core::array& ids, bool sorted, bool absent = false);

/// The same with packed matrices, one after another: w [E * out, in]. Its arrays may have the shape
/// [E, out, ...]. Gradients flow to x alone; rounding is that of quantized_linear. Elsewhere
/// mx::gather_qmm; GGUF blocks become numbers there.
/// @throws Error(usage) also for interleaved weights.
mlx::core::array grouped_linear(const mlx::core::array& x, const QuantizedWeight& w, int experts,
                                const mlx::core::array& ids, bool sorted,
                                Activations activations = default_activations(),
                                bool absent = false);

}  // namespace lmxlab::kernels
