// Sums over rows: the gradient of a bias, and of a norm's weight.
#pragma once

#include <mlx/array.h>

#include <algorithm>
#include <cstdint>

#include "lmxlab/kernels/types.h"

namespace lmxlab::kernels {

/// Over all axes but the last. Sums are float32 and do not depend on the number of threads.
/// @param x  [..., N] float
/// @return  [N] of `dtype`
/// @throws Error(usage) if x has no axis.
mlx::core::array sum_rows(const mlx::core::array& x, mlx::core::Dtype dtype);

/// How rows are cut into blocks whose sums are added afterwards: by their number alone, at most 32.
struct RowBlocks {
  int64_t rows, block, count;

  explicit RowBlocks(int64_t n)
      : rows(n), block(std::max<int64_t>(32, (n + 31) / 32)), count((n + block - 1) / block) {}
  int64_t begin(int64_t i) const { return i * block; }
  int64_t size(int64_t i) const { return std::min(block, rows - i * block); }
};

/// On memory, over the pool: out[c] = the sum of parts[i * stride + c] over i < count, in order.
void sum_parts(const float* parts, int64_t count, int64_t stride, int64_t width, Type type,
               void* out);

}  // namespace lmxlab::kernels
