// Casts, sums and multiples of arrays between float32, bfloat16 and float16: vectors and all
// threads on the CPU, MLX's own ops elsewhere.
#pragma once

#include <mlx/array.h>

#include <cstdint>

#include "lmxlab/kernels/types.h"

namespace lmxlab::kernels {

/// x as `dtype`, rounded to nearest even. As mx::astype, whatever the dtypes; float types gain.
/// @cost  one pass; none if x has the dtype already.
mlx::core::array cast(const mlx::core::array& x, mlx::core::Dtype dtype);

/// a + b, as mx::add. Arrays of one float dtype gain where both have one shape, or one has the
/// shape of the other's last axes.
mlx::core::array add(const mlx::core::array& a, const mlx::core::array& b);

/// factor x; the factor is rounded to the dtype of x first, which is kept.
mlx::core::array scale(const mlx::core::array& x, float factor);

/// On memory, on the caller's thread: n elements from one type to another. x and y may be the same
/// memory where the types are of one size.
void convert(Type from, const void* x, Type to, void* y, int64_t n);

}  // namespace lmxlab::kernels
