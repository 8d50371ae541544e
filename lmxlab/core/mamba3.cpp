#include "lmxlab/core/mamba3.h"

#include "lmxlab/core/chunks.h"
#include "lmxlab/core/mask.h"
#include "lmxlab/core/scan.h"
#include "lmxlab/kernels/elementwise.h"
#include "lmxlab/kernels/norm.h"

#include <mlx/ops.h>

#include <numbers>

namespace lmxlab::core {
namespace {

int inner(const config::Mamba3& c) {
  return c.heads * c.head_dim;
}
mx::array f32(const mx::array& x) {
  return kernels::cast(x, mx::float32);
}
mx::array column(const mx::array& x) {
  return mx::expand_dims(x, -1);
}
mx::array by_head(const mx::array& x) {  // [B, L, H] -> [B, H, L]
  return mx::swapaxes(x, 1, 2);
}

// Less whole turns. A turn in two parts: products with the first, of few bits, are exact.
mx::array within_turn(const mx::array& angle) {
  constexpr float kHigh = 6.28125f;
  constexpr float kLow = static_cast<float>(2 * std::numbers::pi - 6.28125);
  const mx::array per_radian(static_cast<float>(1 / (2 * std::numbers::pi)));
  const auto turns = mx::stop_gradient(mx::round(mx::multiply(angle, per_radian)));
  return mx::subtract(mx::subtract(angle, mx::multiply(turns, mx::array(kHigh))),
                      mx::multiply(turns, mx::array(kLow)));
}

// Pairs (2 i, 2 i + 1) of x [B, H, L, N] by angles [B, H, L, A]; the rest stays.
mx::array turned(const mx::array& x, const mx::array& cos, const mx::array& sin) {
  const int A = cos.shape(-1), N = x.shape(-1);
  auto shape = cos.shape();
  shape.push_back(2);
  const auto pairs = mx::split(mx::reshape(last_columns(x, 0, 2 * A), shape), 2, -1);
  const auto c = column(cos), s = column(sin);
  const auto rotated =
      mx::concatenate({mx::subtract(mx::multiply(pairs[0], c), mx::multiply(pairs[1], s)),
                       mx::add(mx::multiply(pairs[0], s), mx::multiply(pairs[1], c))},
                      -1);
  shape.pop_back(), shape.back() = 2 * A;
  const auto flat = mx::reshape(rotated, shape);
  return 2 * A == N ? flat : mx::concatenate({flat, last_columns(x, 2 * A, N)}, -1);
}

// The last of L positions [B, H, L, X] -> [B, H, X]. A copy, or the whole pass would be kept.
mx::array last_position(const mx::array& x) {
  return mx::contiguous(mx::take(x, x.shape(2) - 1, 2));
}

}  // namespace

Angles cumulative_angles(const mx::array& steps, const std::optional<mx::array>& start) {
  const Cut cut(steps.shape(2), kScanChunk);
  const auto within = mx::cumsum(cut(steps, 2), 3);  // [B, H, C, Q, A]
  auto last = start ? f32(*start)
                    : mx::zeros({steps.shape(0), steps.shape(1), steps.shape(3)}, mx::float32);
  std::vector<mx::array> starts;
  for (const auto& total : apart(mx::take(within, cut.size - 1, 3), 2)) {
    starts.push_back(last);
    last = within_turn(mx::add(last, total));
  }
  const auto from = mx::expand_dims(mx::stack(starts, 2), 3);
  return {cut.joined(mx::add(within, from), 2), last};
}

Mamba3::Mamba3(const config::Mamba3& c, const Build& b)
    : in_proj(b.dim, 2 * inner(c) + 2 * c.groups * c.state + 3 * c.heads + c.angles, false, b.std,
              b.init),
      dt_bias(new_step_biases(c.heads, b.init)),
      D{ones({c.heads})},
      B_bias{ones({c.heads, c.state})},
      C_bias{ones({c.heads, c.state})},
      B_norm{ones({c.state})},
      C_norm{ones({c.state})},
      out_proj(inner(c), b.dim, false, b.residual_std, b.init),
      config_(c) {
  if (!c.norm) return;
  norm.emplace(inner(c), c.norm_eps);
  norm->groups = c.heads;
}

std::unique_ptr<LayerCache> Mamba3::make_cache(const CacheOptions&) const {
  const auto& c = config_;
  return std::make_unique<StateCache>(
      std::vector<StateArray>{{"state", {c.heads, c.state, c.head_dim}},
                              {"key", {c.heads, c.state}},
                              {"value", {c.heads, c.head_dim}},
                              {"angle", {c.heads, c.angles}}});
}

mx::array Mamba3::mix(const Arrays& projected, Pass& pass) const {
  const auto& c = config_;
  const auto& all = projected[0];
  const int B = all.shape(0), L = all.shape(1), I = inner(c), N = c.groups * c.state;
  auto* kept = pass.states();
  const bool goes_on = kept && kept->state(0);

  const auto z = last_columns(all, 0, I);
  auto x = f32(heads_of(all, I, c.heads, c.head_dim));
  const int of_steps = 2 * I + 2 * N;
  const auto rest =
      f32(last_columns(all, of_steps, of_steps + 3 * c.heads + c.angles));  // dt, a, l, r
  const auto part = [&](int i) {
    return by_head(last_columns(rest, i * c.heads, (i + 1) * c.heads));
  };
  auto dt = softplus(mx::add(part(0), mx::reshape(f32(dt_bias.value), {c.heads, 1})));
  // Padding: no time passes, and nothing is there to be written.
  if (const auto tokens = token_columns(pass, L)) {
    dt = mx::where(by_head(*tokens), dt, mx::array(0.0f));
    x = mx::where(mx::expand_dims(*tokens, 1), x, mx::array(0.0f));
  }
  const auto g =
      mx::multiply(dt, mx::negative(mx::maximum(softplus(part(1)), mx::array(c.decay_min))));
  const auto share = logistic(part(2));
  const auto now = mx::multiply(share, dt);
  const auto before = mx::multiply(mx::subtract(mx::array(1.0f), share), dt);

  const auto rates = mx::multiply(mx::tanh(last_columns(rest, 3 * c.heads, 3 * c.heads + c.angles)),
                                  mx::array(std::numbers::pi_v<float>));
  const auto angles = cumulative_angles(mx::multiply(column(dt), mx::expand_dims(rates, 1)),
                                        goes_on ? kept->state(3) : std::nullopt);
  const auto cos = mx::cos(angles.at), sin = mx::sin(angles.at);
  // [B, L, G N] -> [B, H, L, N], each head with a bias of its own.
  const auto keys = [&](int from, const Param& weight, const Param& bias) {
    const auto normed = kernels::rms_norm(f32(heads_of(all, from, c.groups, c.state)),
                                          f32(weight.value), c.norm_eps);
    const auto of_group =
        mx::reshape(f32(bias.value), {1, c.groups, c.heads / c.groups, 1, c.state});
    const auto by_heads =
        mx::reshape(mx::add(mx::expand_dims(normed, 2), of_group), {B, c.heads, L, c.state});
    return turned(by_heads, cos, sin);
  };
  const auto k = keys(2 * I, B_norm, B_bias), q = keys(2 * I + N, C_norm, C_bias);

  std::optional<mx::array> state;
  if (goes_on) {  // with what the last position writes into the first
    const auto weight = mx::reshape(mx::take(before, 0, 2), {B, c.heads, 1, 1});
    const auto written =
        mx::multiply(column(f32(*kept->state(1))), mx::expand_dims(f32(*kept->state(2)), -2));
    state = mx::add(f32(*kept->state(0)), mx::multiply(written, weight));
  }
  const auto scanned = trapezoid_scan(q, k, x, g, now, before, state);
  if (kept) kept->put({scanned.state, last_position(k), last_position(x), angles.last}, L);
  const auto skip = mx::multiply(x, mx::reshape(f32(D.value), {c.heads, 1, 1}));
  const auto y = mx::reshape(mx::swapaxes(mx::add(scanned.out, skip), 1, 2), {B, L, I});
  if (norm) return (*norm)(y, z);
  return kernels::cast(kernels::gated(kernels::Activation::silu, f32(z), y), z.dtype());
}

}  // namespace lmxlab::core
