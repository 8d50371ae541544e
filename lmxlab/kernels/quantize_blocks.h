// Numbers into ggml's blocks (quant_formats.h has the way back).
#pragma once

#include <mlx/array.h>

#include <cstdint>

namespace lmxlab::kernels {

/// Weights and bytes of a block of a GGUF tensor type that can be made here: Q4_0, Q4_1, Q5_0,
/// Q5_1, Q8_0, Q2_K to Q6_K, MXFP4, TQ1_0, TQ2_0; {0, 0} for others.
struct BlockSize {
  int weights = 0, bytes = 0;
};
BlockSize quantizable_blocks(uint32_t ggml_type);

/// The legacy, MXFP4 and ternary types give the bytes of ggml's own quantizers (quants.py of the
/// Python package gguf). The K-quants have no reference but their error: scales and minima of a
/// group minimize the squared error, weighted by |w| + rms(w), by alternating least squares from
/// several starts.
/// @param weights  [..., whole blocks] of any float type; evaluated here
/// @return  uint8 [..., bytes of a row], evaluated
/// @throws Error(usage) for another type or rows of no whole blocks, Error(bad_data) naming the
///   first weight that is no finite number or whose block no float16 scale fits.
/// @cost  all threads of the pool; K-quants 5 to 10 million weights a second on each
mlx::core::array quantize_blocks(uint32_t ggml_type, const mlx::core::array& weights);

}  // namespace lmxlab::kernels
