#include "lmxlab/core/rg_lru.h"

#include "lmxlab/core/mask.h"
#include "lmxlab/core/mlp.h"
#include "lmxlab/core/scan.h"
#include "lmxlab/kernels/diagonal_scan.h"
#include "lmxlab/kernels/elementwise.h"

#include <mlx/ops.h>
#include <mlx/random.h>

namespace lmxlab::core {
namespace {

mx::array f32(const mx::array& x) {
  return kernels::cast(x, mx::float32);
}

RgLru::Gate new_gate(const config::RgLru& c, const Build& b) {
  const int width = c.width / c.heads;
  return {{b.init.normal({c.heads, width, width}, b.std)}, {zeros({c.heads, width})}};
}

// Decays between 0.9^8 and 0.999^8 where the gate is open, spread as the paper has it
// (section 2.4).
Param new_decays(int width, Init& init) {
  const auto square = mx::random::uniform(mx::array(0.9f * 0.9f), mx::array(0.999f * 0.999f),
                                          {width}, mx::float32, init.key());
  return {mx::log(mx::expm1(mx::multiply(mx::log(square), mx::array(-0.5f))))};
}

}  // namespace

RgLru::RgLru(const config::RgLru& c, const Build& b)
    : linear_x(b.dim, c.width, true, b.std, b.init),
      linear_y(b.dim, c.width, true, b.std, b.init),
      conv_1d(c.width, c.conv, true, b.init),
      unit{new_gate(c, b), new_gate(c, b), new_decays(c.width, b.init)},
      linear_out(c.width, b.dim, true, b.residual_std, b.init),
      config_(c) {}

std::unique_ptr<LayerCache> RgLru::make_cache(const CacheOptions&) const {
  const auto& c = config_;
  return std::make_unique<StateCache>(
      std::vector<StateArray>{{"conv", {c.conv - 1, c.width}}, {"state", {c.width}}});
}

mx::array RgLru::Gate::operator()(const mx::array& x) const {
  const int H = bias.value.shape(0), width = bias.value.shape(1);
  const auto y = mx::matmul(heads_of(x, 0, H, width), f32(weight.value));
  const auto moved = mx::add(y, mx::expand_dims(f32(bias.value), 1));
  return logistic(mx::reshape(mx::swapaxes(moved, 1, 2), x.shape()));
}

mx::array RgLru::mix(const Arrays& projected, Pass& pass) const {
  const auto type = projected[0].dtype();
  const int B = projected[0].shape(0), L = projected[0].shape(1);
  auto* kept = pass.states();
  auto window = kept ? kept->state(0) : std::nullopt;
  const auto x = conv_1d(projected[0], pass, false, window);
  const auto rate = mx::multiply(softplus(unit.recurrent_param.value), mx::array(-8.0f));
  const auto g = mx::multiply(unit.recurrent(x), rate);
  // A row's first position enters the state whole.
  auto whole = mx::zeros({B, L}, mx::float32);
  if (pass.pads || pass.offset == 0)
    whole = mx::broadcast_to(f32(mx::equal(query_positions(pass, L), mx::array(0))), {B, L});
  const auto scanned =
      elementwise_scan(g, kernels::scan_input(f32(g), f32(unit.input(x)), f32(x), whole),
                       kept ? kept->state(1) : std::nullopt);
  if (kept) kept->put({*window, scanned.state}, L);
  return kernels::cast(gated(config_.act, f32(projected[1]), scanned.out), type);
}

}  // namespace lmxlab::core
