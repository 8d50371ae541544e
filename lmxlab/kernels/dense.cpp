#include "lmxlab/kernels/dense.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "lmxlab/kernels/thread_pool.h"

namespace lmxlab::kernels {
namespace {

struct Axis {
  int64_t extent, stride;
};

// Axes of one element dropped, neighbours that step like one merged. At least one.
std::vector<Axis> merged(const mlx::core::Shape& shape, const mlx::core::Strides& strides) {
  std::vector<Axis> axes;
  for (size_t i = 0; i < shape.size(); i++) {
    const Axis axis{shape[i], strides[i]};
    if (axis.extent == 1) continue;
    if (!axes.empty() && axes.back().stride == axis.stride * axis.extent) {
      axes.back() = {axes.back().extent * axis.extent, axis.stride};
    } else {
      axes.push_back(axis);
    }
  }
  if (axes.empty()) axes.push_back({1, 1});
  return axes;
}

template <class T>
void copy_row(const T* from, int64_t stride, T* to, int64_t n) {
  if (stride == 1) {
    std::memcpy(to, from, static_cast<size_t>(n) * sizeof(T));
  } else if (stride == 0) {
    std::fill(to, to + n, *from);
  } else {
    for (int64_t i = 0; i < n; i++) to[i] = from[i * stride];
  }
}

template <class T>
void copy(const T* from, const std::vector<Axis>& axes, T* to) {
  constexpr int64_t kGrain = 16384;
  const auto [width, step] = axes.back();
  int64_t rows = 1;
  for (size_t i = 0; i + 1 < axes.size(); i++) rows *= axes[i].extent;
  if (rows == 1) {
    parallel_for(width, kGrain,
                 [&, s = step](int64_t a, int64_t b) { copy_row(from + a * s, s, to + a, b - a); });
    return;
  }
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, width));
  parallel_for(rows, grain, [&, n = width, s = step](int64_t a, int64_t b) {
    for (int64_t r = a; r < b; r++) {
      int64_t offset = 0, left = r;
      for (size_t i = axes.size() - 1; i-- > 0; left /= axes[i].extent) {
        offset += left % axes[i].extent * axes[i].stride;
      }
      copy_row(from + offset, s, to + r * n, n);
    }
  });
}

}  // namespace

void copy_strided(const void* from, const mlx::core::Shape& shape,
                  const mlx::core::Strides& strides, int64_t element, void* to) {
  for (const auto extent : shape) {
    if (extent == 0) return;
  }
  const auto axes = merged(shape, strides);
  const auto as = [&](auto type) {
    using T = decltype(type);
    copy(static_cast<const T*>(from), axes, static_cast<T*>(to));
  };
  switch (element) {
    case 1: return as(uint8_t{});
    case 2: return as(uint16_t{});
    case 4: return as(uint32_t{});
    default: return as(uint64_t{});
  }
}

}  // namespace lmxlab::kernels
