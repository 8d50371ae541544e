// How scans cut positions into chunks of one size. Private to core.
#pragma once

#include <mlx/ops.h>

#include <algorithm>
#include <vector>

namespace lmxlab::core {
namespace mx = mlx::core;

struct Cut {
  int length, size, count;
  Cut(int positions, int most)
      : length(positions), size(std::min(positions, most)), count((positions + size - 1) / size) {}
  /// Positions of the last chunk that are there.
  int rest() const { return length - (count - 1) * size; }

  /// [..., L, ...] -> [..., C, Q, ...] float32, `fill` behind the last position.
  mx::array operator()(const mx::array& x, int axis, float fill = 0) const {
    auto in = mx::astype(x, mx::float32);
    if (const int more = count * size - length; more > 0)
      in = mx::pad(in, std::vector<int>{axis}, mx::Shape{0}, mx::Shape{more}, mx::array(fill));
    auto shape = x.shape();
    shape[static_cast<size_t>(axis)] = count;
    shape.insert(shape.begin() + axis + 1, size);
    return mx::reshape(in, shape);
  }
  /// The way back.
  mx::array joined(const mx::array& x, int axis) const {
    auto shape = x.shape();
    shape.erase(shape.begin() + axis);
    shape[static_cast<size_t>(axis)] = count * size;
    const auto all = mx::reshape(x, shape);
    if (count * size == length) return all;
    shape[static_cast<size_t>(axis)] = length;
    return mx::slice(all, mx::Shape(shape.size(), 0), shape);
  }
};

/// One array an index of an axis, without it.
inline std::vector<mx::array> apart(const mx::array& x, int axis) {
  auto out = x.shape(axis) == 1 ? std::vector{x} : mx::split(x, x.shape(axis), axis);
  for (auto& part : out) part = mx::squeeze(part, axis);
  return out;
}

/// Positions that a scan without matrix products takes one after the other, in all chunks at once.
inline constexpr int kScanPositions = 16;

}  // namespace lmxlab::core
