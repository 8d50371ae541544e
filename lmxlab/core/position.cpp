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

std::vector<float> alibi_slopes(int heads, const config::Alibi& alibi) {
  const auto powers = [&](int n) {
    std::vector<float> out;
    for (int h = 1; h <= n; ++h)
      out.push_back(static_cast<float>(std::exp2(-double(alibi.max) * h / n)));
    return out;
  };
  const auto every_second = [](const std::vector<float>& from, size_t first, size_t most) {
    std::vector<float> out;
    for (size_t i = first; i < from.size() && out.size() < most; i += 2) out.push_back(from[i]);
    return out;
  };
  int below = 1;
  while (below * 2 <= heads) below *= 2;
  auto slopes = powers(below);
  if (below == heads) return slopes;
  const auto finer = powers(2 * below);
  if (alibi.strided) slopes = every_second(finer, 1, finer.size());
  const auto rest = every_second(finer, 0, static_cast<size_t>(heads) - slopes.size());
  slopes.insert(slopes.end(), rest.begin(), rest.end());
  return slopes;
}

mx::array alibi_bias(int heads, const config::Alibi& alibi, float scale, const Pass& pass,
                     int length, const Keys& keys) {
  const int next = pass.offset + length;
  const auto slopes = alibi_slopes(heads, alibi);
  const mx::array s(slopes.data(), {heads, 1, 1}, mx::float32);
  const auto k = mx::expand_dims(key_positions(keys, next), 0);
  if (alibi.rounded) {
    // Of the position itself, from which a distance differs by the same in all of a row's scores.
    auto at = k;
    if (pass.pads)
      at = mx::maximum(mx::subtract(at, mx::reshape(*pass.pads, {-1, 1, 1, 1})), mx::array(0));
    const auto bias = mx::multiply(mx::astype(s, mx::bfloat16), mx::astype(at, mx::bfloat16));
    return mx::multiply(mx::astype(bias, mx::float32), mx::array(scale));
  }
  const auto q = mx::expand_dims(mx::arange(pass.offset, next, mx::int32), 1);
  const auto distance = mx::astype(mx::subtract(q, k), mx::float32);  // [L, S]
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
