#include "lmxlab/core/mamba.h"

#include "lmxlab/core/scan.h"
#include "lmxlab/kernels/elementwise.h"

#include <mlx/ops.h>
#include <mlx/random.h>

#include <cmath>

namespace lmxlab::core {

Mamba::Mamba(const config::Mamba& c, const Build& b)
    : in_proj(b.dim, 2 * c.inner, c.bias, b.std, b.init),
      conv1d(c.inner, c.conv, c.conv_bias, b.init),
      x_proj(c.inner, c.dt_rank + 2 * c.state, false, b.std, b.init),
      dt_proj(c.dt_rank, c.inner, true, b.std, b.init),
      A_log{mx::contiguous(
          mx::broadcast_to(mx::log(mx::arange(1, c.state + 1, mx::float32)), {c.inner, c.state}))},
      D{ones({c.inner})},
      out_proj(c.inner, b.dim, c.bias, b.residual_std, b.init),
      config_(c) {
  // So that dt keeps its spread through the projection (section 3.6 of the paper).
  const float bound = 1 / std::sqrt(static_cast<float>(c.dt_rank));
  dt_proj.weight.w.value = mx::random::uniform(mx::array(-bound), mx::array(bound),
                                               {c.inner, c.dt_rank}, mx::float32, b.init.key());
  dt_proj.bias = new_step_biases(c.inner, b.init);
  if (c.norms != config::MambaNorms::learned) return;
  const config::RmsNorm norm{.eps = c.norm_eps};
  dt_norm.emplace(norm, c.dt_rank), b_norm.emplace(norm, c.state), c_norm.emplace(norm, c.state);
}

std::unique_ptr<LayerCache> Mamba::make_cache(const CacheOptions&) const {
  const auto& c = config_;
  return std::make_unique<StateCache>(
      std::vector<StateArray>{{"conv", {c.conv - 1, c.inner}}, {"state", {1, c.inner, c.state}}});
}

mx::array Mamba::mix(const Arrays& projected, Pass& pass) const {
  const auto& c = config_;
  const auto& all = projected[0];
  const auto type = all.dtype();
  const auto f32 = [](const mx::array& a) { return kernels::cast(a, mx::float32); };
  auto* kept = pass.states();
  auto window = kept ? kept->state(0) : std::nullopt;
  const auto x = conv1d(last_columns(all, 0, c.inner), pass, true, window);
  const auto z = last_columns(all, c.inner, 2 * c.inner);

  const auto made = x_proj(kernels::cast(x, type));
  const auto part = [&](int from, int width, const std::optional<Norm>& norm) {
    const auto p = last_columns(made, from, from + width);
    if (norm) return (*norm)(p);
    return c.norms == config::MambaNorms::plain ? kernels::rms_norm(p, ones({width}), c.norm_eps)
                                                : p;
  };
  const auto low = part(0, c.dt_rank, dt_norm);
  const auto b = part(c.dt_rank, c.state, b_norm);
  const auto read = part(c.dt_rank + c.state, c.state, c_norm);
  const auto dt = softplus(kernels::add(f32(dt_proj.without_bias(low)), f32(dt_proj.bias->value)));
  const auto a = mx::negative(mx::exp(f32(A_log.value)));

  const auto scanned = selective_scan(x, dt, a, b, read, kept ? kept->state(1) : std::nullopt);
  if (kept) kept->put({*window, scanned.state}, all.shape(1));
  const auto y = mx::add(scanned.out, mx::multiply(x, f32(D.value)));
  return kernels::cast(kernels::gated(kernels::Activation::silu, f32(z), y), type);
}

}  // namespace lmxlab::core
