// The one choice between our kernels and ordinary ops.
#pragma once

#include <mlx/dtype.h>

namespace lmxlab::kernels {

/// Whether our kernel runs, for arrays of this dtype (float32, bfloat16, float16) on the default
/// device: on the CPU, unless switched off.
bool fused(mlx::core::Dtype dtype);

/// Off: graphs built from now on, on every thread, are of ordinary ops alone, as on other devices.
/// For comparisons.
void set_fused(bool on);

}  // namespace lmxlab::kernels
