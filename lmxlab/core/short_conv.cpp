#include "lmxlab/core/short_conv.h"

#include "lmxlab/kernels/elementwise.h"

#include <mlx/ops.h>

namespace lmxlab::core {

ShortConv::ShortConv(const config::ShortConv& c, const Build& b)
    : in_proj(b.dim, 3 * b.dim, c.bias, b.std, b.init),
      conv(b.dim, c.conv, c.bias, b.init),
      out_proj(b.dim, b.dim, c.bias, b.residual_std, b.init) {}

std::unique_ptr<LayerCache> ShortConv::make_cache(const CacheOptions&) const {
  const auto& w = conv.weight.value;
  return std::make_unique<StateCache>(
      std::vector<StateArray>{{"conv", {w.shape(1) - 1, w.shape(0)}}});
}

mx::array ShortConv::mix(const Arrays& projected, Pass& pass) const {
  const auto parts = mx::split(projected[0], 3, -1);
  auto* kept = pass.states();
  auto window = kept ? kept->state(0) : std::nullopt;
  const auto y = conv(mx::multiply(parts[0], parts[2]), pass, false, window);
  if (kept) kept->put({*window}, y.shape(1));
  return mx::multiply(parts[1], kernels::cast(y, parts[1].dtype()));
}

}  // namespace lmxlab::core
