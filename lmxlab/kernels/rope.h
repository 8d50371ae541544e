// Rotary position embedding, fused on the CPU; mx::fast::rope elsewhere.
#pragma once

#include <mlx/array.h>

#include <optional>

namespace lmxlab::kernels {

struct Rope {
  int dims = 0;              // how many elements of a head turn, even; 0: all of them
  bool interleaved = false;  // pairs (2i, 2i + 1); otherwise (i, i + dims / 2)
  float theta = 10000;       // pair i turns by theta^(-2i / dims) a position
  float scale = 1;           // positions are multiplied by it
  std::optional<mlx::core::array> frequencies = {};  // float32 [dims / 2], instead of theta
  float magnitude = 1;                               // what is turned is also multiplied by it
};

/// Turns pair i of the row at position p by the angle p scale frequency_i (arXiv:2104.09864,
/// equation 34). Angles are float64 on the CPU: right at any position, where float32 angles are off
/// by p scale frequency_i eps.
/// @param x  [B, H, L, Dh] float, any strides; the dtype is kept, and so is the order of axes in
/// memory: a transposed view of [B, L, H * Dh] stays one.
/// @param offset  the position of the first row.
/// @throws Error(usage) if shapes do not fit.
mlx::core::array rope(const mlx::core::array& x, const Rope& rope, int offset = 0);
/// @param offsets  int32 [B], one for each sequence.
mlx::core::array rope(const mlx::core::array& x, const Rope& rope, const mlx::core::array& offsets);

}  // namespace lmxlab::kernels
