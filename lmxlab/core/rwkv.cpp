#include "lmxlab/core/rwkv.h"

#include "lmxlab/core/mask.h"
#include "lmxlab/core/stable_scan.h"
#include "lmxlab/kernels/elementwise.h"
#include "lmxlab/kernels/mix.h"

#include <mlx/ops.h>

#include <algorithm>
#include <cmath>

namespace lmxlab::core {
namespace {

mx::array f32(const mx::array& x) {
  return kernels::cast(x, mx::float32);
}

// Later layers look back less, first channels more (appendix E of the paper).
Param new_mix(const Build& b, double power, double more = 0) {
  return of_each(b.dim,
                 [&](int i) { return std::pow(static_cast<double>(i) / b.dim, power) + more; });
}
Param new_decay(int inner, const Build& b) {
  return of_each(inner, [&](int i) {
    return -5 +
           8 * std::pow(static_cast<double>(i) / std::max(1, inner - 1), 0.7 + 1.3 * depth_of(b));
  });
}

}  // namespace

double depth_of(const Build& b) {
  return static_cast<double>(b.layer) / std::max(1, b.layers - 1);
}
double height_of(const Build& b) {
  return 1 - static_cast<double>(b.layer) / std::max(1, b.layers);
}

mx::array token_shift(const mx::array& input, const Pass& pass, std::optional<mx::array>& last) {
  const int B = input.shape(0), L = input.shape(1), D = input.shape(2);
  const auto tokens = token_columns(pass, L);
  const auto x = tokens ? mx::where(*tokens, input, mx::array(0.0f, input.dtype())) : input;
  const auto before = last ? kernels::cast(*last, x.dtype()) : mx::zeros({B, 1, D}, x.dtype());
  // A copy, or the whole pass would be kept for its last position.
  last = mx::contiguous(mx::slice(x, {0, L - 1, 0}, {B, L, D}));
  if (L == 1) return before;
  return mx::concatenate({before, mx::slice(x, {0, 0, 0}, {B, L - 1, D})}, 1);
}

RwkvTime::RwkvTime(const config::RwkvTime& c, const Build& b)
    : time_decay(new_decay(c.inner, b)),
      time_first(of_each(c.inner, [](int i) { return std::log(0.3) + 0.5 * ((i + 1) % 3 - 1); })),
      mix_key(new_mix(b, height_of(b))),
      mix_value(new_mix(b, height_of(b), 0.3 * depth_of(b))),
      mix_receptance(new_mix(b, 0.5 * height_of(b))),
      key(b.dim, c.inner, false, b.std, b.init),
      value(b.dim, c.inner, false, b.std, b.init),
      receptance(b.dim, c.inner, false, b.std, b.init),
      output(c.inner, b.dim, false, b.residual_std, b.init),
      dim_(b.dim),
      config_(c) {}

std::unique_ptr<LayerCache> RwkvTime::make_cache(const CacheOptions&) const {
  return std::make_unique<StateCache>(std::vector<StateArray>{
      {"shift", {1, dim_}}, {"state", {2, config_.inner}}, {"most", {config_.inner}}});
}

mx::array RwkvTime::mix(const Arrays& projected, Pass& pass) const {
  const auto& x = projected[0];
  const int L = x.shape(1);
  auto* kept = pass.states();
  auto last = kept ? kept->state(0) : std::nullopt;
  const auto before = token_shift(x, pass, last);
  const auto mixed =
      kernels::mix(x, before, {mix_key.value, mix_value.value, mix_receptance.value});
  auto k = f32(key(mixed[0]));
  const auto v = f32(value(mixed[1]));
  const auto r = logistic(receptance(mixed[2]));
  if (const auto tokens = token_columns(pass, L)) k = mx::where(*tokens, k, mx::array(kNever));
  std::optional<LogState> state;
  if (kept && kept->state(1)) state = LogState{*kept->state(1), *kept->state(2)};
  const auto scanned = wkv_scan(k, v, mx::exp(f32(time_decay.value)), f32(time_first.value), state);
  if (kept) kept->put({*last, scanned.state.sums, scanned.state.most}, L);
  return kernels::cast(mx::multiply(r, scanned.out), x.dtype());
}

RwkvChannel::RwkvChannel(const config::RwkvChannel& c, const Build& b)
    : mix_key(new_mix(b, c.gate ? height_of(b) : std::pow(height_of(b), 4))),
      key(b.dim, c.hidden, false, b.std, b.init),
      value(c.hidden, b.dim, false, b.residual_std, b.init),
      dim_(b.dim) {
  if (!c.gate) return;
  mix_receptance = new_mix(b, height_of(b));
  receptance.emplace(b.dim, b.dim, false, b.std, b.init);
}

std::unique_ptr<LayerCache> RwkvChannel::make_cache(const CacheOptions&) const {
  return std::make_unique<StateCache>(std::vector<StateArray>{{"shift", {1, dim_}}});
}

mx::array RwkvChannel::mix(const Arrays& projected, Pass& pass) const {
  const auto& x = projected[0];
  auto* kept = pass.states();
  auto last = kept ? kept->state(0) : std::nullopt;
  const auto before = token_shift(x, pass, last);
  if (kept) kept->put({*last}, x.shape(1));
  if (!receptance) return kernels::mix(x, before, {mix_key.value})[0];
  return mx::concatenate(kernels::mix(x, before, {mix_key.value, mix_receptance->value}), -1);
}

mx::array RwkvChannel::finish(const mx::array& both, Pass&) const {
  const auto keys = receptance ? last_columns(both, 0, dim_) : both;
  const auto out = value(kernels::activate(kernels::Activation::relu2, key(keys)));
  if (!receptance) return out;
  const auto r = logistic((*receptance)(last_columns(both, dim_, 2 * dim_)));
  return kernels::cast(mx::multiply(r, f32(out)), both.dtype());
}

}  // namespace lmxlab::core
