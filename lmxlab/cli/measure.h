// What the machine can do, measured, for fractions of it.
#pragma once

#include "lmxlab/models/language_model.h"

#include <mlx/dtype.h>

#include <string>

namespace lmxlab::cli {

/// "Intel(R) Xeon(R) ...", "Apple M2", ... or "unknown".
std::string chip_name();

/// Whether MLX computes on the CPU, with our kernels.
bool on_cpu();

/// On a CPU from loops that do nothing else (lmxlab/kernels/peaks.h); on a GPU from a sum over
/// memory and from large matrix products of MLX.
struct Rates {
  double read = 0;                     // bytes a second from memory
  double f32 = 0, bf16 = 0, int8 = 0;  // operations a second; 0: no such instruction

  /// The rate that products of this type can reach: on a CPU those of 16 bits may be computed as
  /// float32 instead.
  double flops(DType dtype) const;
};
/// About a second.
Rates measure_rates();

/// FLOP/s of a large matrix product: the best of a few, about half a second.
double product_flops(mlx::core::Dtype dtype);
/// Bytes a second, read and written, of a kernel that streams: RMSNorm over 64 MB of float32.
double streaming_rate();

}  // namespace lmxlab::cli
