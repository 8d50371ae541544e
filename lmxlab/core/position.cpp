#include "lmxlab/core/position.h"

#include "lmxlab/config/rope.h"
#include "lmxlab/core/mask.h"

#include <mlx/ops.h>

#include <algorithm>
#include <cmath>

namespace lmxlab::core {

Rotation::Rotation(const config::Rope& rope, int head_dim)
    : rope_(rope), dims_(rope.dims > 0 ? rope.dims : head_dim) {
  if (!config::depends_on_length(rope)) fixed_ = made(0);
}

kernels::Rope Rotation::made(int length) const {
  const auto table = config::rope_table(rope_, dims_, length);
  kernels::Rope out{dims_, rope_.interleaved, rope_.theta, rope_.scale};
  out.magnitude = table.magnitude;
  if (!table.frequencies.empty())
    out.frequencies = mx::array(table.frequencies.data(), {dims_ / 2}, mx::float32);
  return out;
}

kernels::Rope Rotation::at(const Pass& pass, int tokens) const {
  if (fixed_) return *fixed_;
  const int known = pass.cache ? pass.cache->text_length : 0;
  return made(std::max(known, pass.offset + tokens));
}

mx::array rotate(const Rotation& rotation, const mx::array& x, const Pass& pass) {
  const auto rope = rotation.at(pass, x.shape(2));
  if (!pass.pads) return kernels::rope(x, rope, pass.offset);
  return kernels::rope(x, rope, mx::subtract(mx::array(pass.offset), *pass.pads));
}

std::vector<float> alibi_slopes(int heads) {
  const auto powers = [](int n) {
    std::vector<float> out;
    for (int h = 1; h <= n; ++h) out.push_back(static_cast<float>(std::exp2(-8.0 * h / n)));
    return out;
  };
  int below = 1;
  while (below * 2 <= heads) below *= 2;
  auto slopes = powers(below);
  const auto finer = powers(2 * below);
  for (int i = 0; static_cast<int>(slopes.size()) < heads; i += 2)
    slopes.push_back(finer[static_cast<size_t>(i)]);
  return slopes;
}

mx::array alibi_bias(int heads, const Pass& pass, int length, const Keys& keys) {
  const int next = pass.offset + length;
  const auto q = mx::expand_dims(mx::arange(pass.offset, next, mx::int32), 1);
  const auto k = mx::expand_dims(key_positions(keys, next), 0);
  const auto distance = mx::astype(mx::subtract(q, k), mx::float32);  // [L, S]
  const auto slopes = alibi_slopes(heads);
  const mx::array s(slopes.data(), {heads, 1, 1}, mx::float32);
  return mx::negative(mx::multiply(s, distance));
}

mx::array sinusoids(const mx::array& positions, int dim) {
  const int half = dim / 2;
  const auto step = mx::array(static_cast<float>(-std::log(10000.0) / half));
  const auto frequency = mx::exp(mx::multiply(mx::arange(half, mx::float32), step));
  const auto angle =
      mx::multiply(mx::expand_dims(mx::astype(positions, mx::float32), -1), frequency);
  return mx::concatenate({mx::sin(angle), mx::cos(angle)}, -1);
}

}  // namespace lmxlab::core
