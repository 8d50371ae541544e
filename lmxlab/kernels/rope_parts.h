// Rotation on memory, for ops that rotate on the way to something else.
#pragma once

#include <cstdint>

#include "lmxlab/kernels/types.h"

namespace lmxlab::kernels {

struct RopeHeads {
  Type type;
  bool interleaved;
  int64_t batch, heads, length, head_dim, dims;
  int64_t from[3], to[3];  // elements from one sequence, head and row to the next

  static constexpr int64_t kRows = 16;  // positions whose angles are kept at a time
};

/// Pair i of row l of sequence b turns by scale (offset of b + l) frequency_i.
struct RopeAngles {
  double scale;
  const int32_t* offsets;
  bool each_offset;          // one a sequence; otherwise one for all
  float theta;               // frequency_i = theta^(-2i / dims)
  const float* frequencies;  // or these, if not null
  float magnitude = 1;       // of what is turned
};

/// From x to y, which may be the same memory if its steps are the same; on the pool.
void rotate_heads(const RopeHeads& heads, const RopeAngles& angles, const void* x, void* y);

}  // namespace lmxlab::kernels
