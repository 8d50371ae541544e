#include "lmxlab/core/rwkv7.h"

#include "lmxlab/core/mask.h"
#include "lmxlab/core/rwkv.h"
#include "lmxlab/core/scan.h"
#include "lmxlab/kernels/elementwise.h"
#include "lmxlab/kernels/mix.h"
#include "lmxlab/kernels/norm.h"

#include <mlx/ops.h>

#include <algorithm>
#include <cmath>

namespace lmxlab::core {
namespace {

mx::array f32(const mx::array& x) {
  return kernels::cast(x, mx::float32);
}
int inner(const config::Rwkv7& c) {
  return c.heads * c.head_dim;
}
Linear input(const config::Rwkv7& c, const Build& b) {
  return Linear(b.dim, inner(c), false, b.std, b.init);
}

// Where numbers begin (the authors' code). Later layers look back less.
Param new_mix(const Build& b, double power) {
  return of_each(b.dim, [&](int i) {
    return 1 - std::pow(static_cast<double>(i) / b.dim, power * height_of(b));
  });
}
double line(int i, int n) {
  return static_cast<double>(i) / std::max(1, n - 1) - 0.5;
}
// Within a head, from -1 to 1 with the sign kept by squaring.
double zigzag(int i, int head_dim) {
  const double z = 2 * line(i % head_dim, head_dim);
  return z * std::abs(z);
}
// Of length 1. What is added to the squares keeps zeros, padding's, finite and nothing else.
mx::array direction(const mx::array& x) {
  const auto square = mx::sum(mx::square(x), -1, true);
  return mx::multiply(x, mx::rsqrt(mx::add(square, mx::array(1e-12f))));
}
Rwkv7::LowRank low_rank(const Build& b, int rank, int width, std::optional<Param> bias = {}) {
  Rwkv7::LowRank out{Linear(b.dim, rank, false, b.std, b.init),
                     Linear(rank, width, bias.has_value(), b.std, b.init)};
  if (bias) out.up.bias = bias;
  return out;
}

}  // namespace

Rwkv7::Rwkv7(const config::Rwkv7& c, const Build& b)
    : x_r(new_mix(b, 0.2)),
      x_w(new_mix(b, 0.9)),
      x_k(new_mix(b, 0.7)),
      x_v(new_mix(b, 0.7)),
      x_a(new_mix(b, 0.9)),
      x_g(new_mix(b, 0.2)),
      k_k(of_each(inner(c), [&](int i) { return 0.71 - 0.1 * line(i, inner(c)); })),
      k_a{mx::full({inner(c)}, 1.02f)},
      r_k{mx::full({c.heads, c.head_dim}, -0.04f)},
      r_proj(input(c, b)),
      k_proj(input(c, b)),
      v_proj(input(c, b)),
      w_lora(low_rank(b, c.decay_rank, inner(c),
                      of_each(inner(c),
                              [&](int i) {
                                const double along = line(i, inner(c)) + 0.5;
                                return -5.5 + 6 * std::pow(along, 1 + std::pow(depth_of(b), 0.3)) +
                                       2.5 * zigzag(i, c.head_dim);
                              }))),
      a_lora(low_rank(b, c.rate_rank, inner(c),
                      of_each(inner(c),
                              [&](int i) {
                                return -0.19 + 0.3 * zigzag(i, c.head_dim) +
                                       0.4 * line(i, inner(c));
                              }))),
      g_lora(low_rank(b, c.gate_rank, inner(c))),
      g_norm{{ones({inner(c)})}, {zeros({inner(c)})}},
      o_proj(inner(c), b.dim, false, b.residual_std, b.init),
      dim_(b.dim),
      lends_(b.lends_values),
      config_(c) {
  if (!c.values_from) return;
  v_lora = low_rank(b, c.value_rank, inner(c),
                    of_each(inner(c), [&](int i) { return 0.73 - 0.4 * line(i, inner(c)); }));
}

std::unique_ptr<LayerCache> Rwkv7::make_cache(const CacheOptions&) const {
  const auto& c = config_;
  return std::make_unique<StateCache>(
      std::vector<StateArray>{{"shift", {1, dim_}}, {"state", {c.heads, c.head_dim, c.head_dim}}});
}

mx::array Rwkv7::mix(const Arrays& projected, Pass& pass) const {
  const auto& c = config_;
  const int B = projected[0].shape(0), L = projected[0].shape(1), I = inner(c);
  // Zeros write nothing: no projection but of gates, decays and rates has a bias.
  const auto tokens = token_columns(pass, L);
  const auto x = tokens ? mx::where(*tokens, projected[0], mx::array(0.0f, projected[0].dtype()))
                        : projected[0];
  auto* kept = pass.states();
  auto last = kept ? kept->state(0) : std::nullopt;
  // x + (before - x) m: the other way round than RWKV-4's.
  const auto before = token_shift(x, pass, last);
  const auto mixed =
      kernels::mix(before, x, {x_r.value, x_w.value, x_k.value, x_v.value, x_a.value, x_g.value});
  const auto r = f32(r_proj(mixed[0])), k = f32(k_proj(mixed[2]));
  const auto& of_values = mixed[3];
  auto v = f32(v_proj(of_values));
  if (lends_) pass.values.insert_or_assign(pass.layer, v);
  if (v_lora) {
    const auto share = logistic(v_lora->up(v_lora->down(of_values)));
    v = mx::add(v, mx::multiply(share, mx::subtract(pass.lent_values(*c.values_from), v)));
  }
  const auto w = f32(w_lora.up(mx::tanh(w_lora.down(mixed[1]))));
  const auto g = kernels::scale(logistic(w), -std::exp(-0.5f));
  const auto a = logistic(a_lora.up(a_lora.down(mixed[4])));
  const auto gate =
      f32(g_lora.up(kernels::activate(kernels::Activation::sigmoid, g_lora.down(mixed[5]))));

  const mx::array one(1.0f);
  const auto heads = [&](const mx::array& y) { return heads_of(y, 0, c.heads, c.head_dim); };
  const auto erased = direction(heads(mx::multiply(k, f32(k_k.value))));
  const auto key =
      heads(mx::multiply(k, mx::add(mx::multiply(mx::subtract(a, one), f32(k_a.value)), one)));
  const auto q = heads(r), value = heads(v);
  const auto scanned = dplr_scan(q, key, value, heads(g), mx::multiply(erased, heads(a)), erased,
                                 kept ? kept->state(1) : std::nullopt);
  if (kept) kept->put({*last, scanned.state}, L);

  // [B, H, L, N] -> [B, L, H, N]
  const auto by_position = [](const mx::array& y) { return mx::swapaxes(y, 1, 2); };
  const auto by_head =
      kernels::layer_norm(by_position(scanned.out), ones({c.head_dim}), std::nullopt, c.norm_eps);
  const auto normed =
      kernels::add(mx::multiply(mx::reshape(by_head, {B, L, I}), f32(g_norm.weight.value)),
                   f32(g_norm.bias.value));
  const auto bonus = mx::reshape(f32(r_k.value), {c.heads, 1, c.head_dim});
  const auto own =
      mx::multiply(mx::sum(mx::multiply(mx::multiply(q, key), bonus), -1, true), value);
  const auto y = mx::add(normed, mx::reshape(by_position(own), {B, L, I}));
  return kernels::cast(mx::multiply(y, gate), x.dtype());
}

}  // namespace lmxlab::core
