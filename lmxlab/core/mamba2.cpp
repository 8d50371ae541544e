#include "lmxlab/core/mamba2.h"

#include "lmxlab/core/scan.h"
#include "lmxlab/kernels/elementwise.h"

#include <mlx/ops.h>

#include <limits>

namespace lmxlab::core {
namespace {

int inner(const config::Mamba2& c) {
  return c.heads * c.head_dim;
}
int channels(const config::Mamba2& c) {
  return inner(c) + 2 * c.groups * c.state;
}

}  // namespace

Mamba2::Mamba2(const config::Mamba2& c, const Build& b)
    : in_proj(b.dim, inner(c) + channels(c) + c.heads, c.in_bias, b.std, b.init),
      conv1d(channels(c), c.conv, c.conv_bias, b.init),
      dt_bias(new_step_biases(c.heads, b.init)),
      A_log(new_log_rates(c.heads, 1, 16, b.init)),
      D{ones({c.heads})},
      out_proj(inner(c), b.dim, c.out_bias, b.residual_std, b.init),
      config_(c) {
  if (!c.scales.empty()) {
    const int widths[] = {inner(c), inner(c), c.groups * c.state, c.groups * c.state, c.heads};
    std::vector<float> all;
    for (size_t i = 0; i < c.scales.size(); ++i)
      all.insert(all.end(), static_cast<size_t>(widths[i]), c.scales[i]);
    scales_ = mx::array(all.data(), {static_cast<int>(all.size())}, mx::float32);
  }
  if (!c.norm) return;
  norm.emplace(inner(c), c.norm_eps);
  norm->groups = c.groups, norm->gate_first = !c.norm_before_gate;
}

std::unique_ptr<LayerCache> Mamba2::make_cache(const CacheOptions&) const {
  const auto& c = config_;
  return std::make_unique<StateCache>(std::vector<StateArray>{
      {"conv", {c.conv - 1, channels(c)}}, {"state", {c.heads, c.state, c.head_dim}}});
}

Arrays Mamba2::project(const mx::array& x, Pass&) const {
  const auto all = in_proj(x);
  return {scales_ ? mx::multiply(all, kernels::cast(*scales_, all.dtype())) : all};
}

mx::array Mamba2::mix(const Arrays& projected, Pass& pass) const {
  const auto& c = config_;
  const auto& all = projected[0];
  const int B = all.shape(0), L = all.shape(1), I = inner(c), N = c.groups * c.state;
  const auto f32 = [](const Param& p) { return kernels::cast(p.value, mx::float32); };
  auto* kept = pass.states();
  auto window = kept ? kept->state(0) : std::nullopt;

  const auto z = last_columns(all, 0, I);
  const auto xBC = conv1d(last_columns(all, I, I + channels(c)), pass, true, window);
  const auto x = heads_of(xBC, 0, c.heads, c.head_dim);
  const auto k = heads_of(xBC, I, c.groups, c.state), q = heads_of(xBC, I + N, c.groups, c.state);

  const auto raw =
      kernels::cast(last_columns(all, I + channels(c), I + channels(c) + c.heads), mx::float32);
  auto dt = softplus(kernels::add(raw, f32(dt_bias)));
  if (c.dt_min > 0 || c.dt_max)
    dt = mx::clip(dt, mx::array(c.dt_min),
                  mx::array(c.dt_max.value_or(std::numeric_limits<float>::infinity())));
  const auto by_head = [](const mx::array& a) { return mx::swapaxes(a, 1, 2); };
  const auto g = by_head(mx::multiply(dt, mx::negative(mx::exp(f32(A_log)))));
  const auto v = mx::multiply(x, mx::expand_dims(by_head(dt), -1));

  const auto scanned = linear_scan(q, k, v, g, kept ? kept->state(1) : std::nullopt);
  if (kept) kept->put({*window, scanned.state}, L);
  const auto skip = mx::multiply(x, mx::reshape(f32(D), {c.heads, 1, 1}));
  const auto y = mx::reshape(by_head(mx::add(scanned.out, skip)), {B, L, I});
  if (norm) return (*norm)(y, z);
  return kernels::cast(kernels::gated(kernels::Activation::silu, kernels::cast(z, mx::float32), y),
                       z.dtype());
}

}  // namespace lmxlab::core
