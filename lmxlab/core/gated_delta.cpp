#include "lmxlab/core/gated_delta.h"

#include "lmxlab/core/scan.h"
#include "lmxlab/kernels/elementwise.h"

#include <mlx/ops.h>

#include <cmath>

namespace lmxlab::core {
namespace {

using config::DeltaProjections;

int keys(const config::GatedDelta& c) {
  return c.key_heads * c.key_dim;
}
int values(const config::GatedDelta& c) {
  return c.heads * c.value_dim;
}

std::vector<GatedDelta::Named> input_projections(const config::GatedDelta& c, const Build& b) {
  std::vector<GatedDelta::Named> out;
  const auto add = [&](const char* name, int width) {
    out.push_back({name, Linear(b.dim, width, false, b.std, b.init)});
  };
  const int K = keys(c), V = values(c), H = c.heads;
  switch (c.projections) {
    case DeltaProjections::joint:
      add("in_proj_qkvz", 2 * K + 2 * V), add("in_proj_ba", 2 * H);
      break;
    case DeltaProjections::parts:
      add("in_proj_qkv", 2 * K + V), add("in_proj_z", V);
      add("in_proj_b", H), add("in_proj_a", H);
      break;
    case DeltaProjections::separate:
      add("q_proj", K), add("k_proj", K), add("v_proj", V), add("g_proj", V);
      add("b_proj", H), add("a_proj", H);
      break;
  }
  return out;
}

}  // namespace

GatedDelta::GatedDelta(const config::GatedDelta& c, const Build& b)
    : inputs(input_projections(c, b)),
      conv1d(2 * keys(c) + values(c), c.conv, false, b.init),
      dt_bias(new_step_biases(c.heads, b.init)),
      A_log(new_log_rates(c.heads, 0.01f, 16, b.init)),
      norm(c.value_dim, c.norm_eps),
      output(values(c), b.dim, false, b.residual_std, b.init),
      config_(c) {}

void GatedDelta::visit(Visitor& v) {
  for (auto& p : inputs) v(p.name, p.linear);
  v("conv1d", conv1d), v("dt_bias", dt_bias), v("A_log", A_log);
  v(separate() ? "o_norm" : "norm", norm);
  v(separate() ? "o_proj" : "out_proj", output);
}

void GatedDelta::visit_part(Visitor& v, bool first) {
  if (!first) return v("output", output);
  for (auto& p : inputs) v(p.name, p.linear);
}

std::unique_ptr<LayerCache> GatedDelta::make_cache(const CacheOptions&) const {
  const auto& c = config_;
  return std::make_unique<StateCache>(
      std::vector<StateArray>{{"conv", {c.conv - 1, 2 * keys(c) + values(c)}},
                              {"state", {c.heads, c.key_dim, c.value_dim}}});
}

// q, k and v beside each other, z, b, a.
Arrays GatedDelta::project(const mx::array& x, Pass&) const {
  const auto& c = config_;
  std::vector<const Linear*> layers;
  for (const auto& p : inputs) layers.push_back(&p.linear);
  const auto out = core::project(x, layers);
  if (c.projections == DeltaProjections::parts) return out;
  if (separate()) return {mx::concatenate({out[0], out[1], out[2]}, -1), out[3], out[4], out[5]};
  const int B = x.shape(0), L = x.shape(1), G = c.key_heads, R = c.heads / G;
  const int N = c.key_dim, P = R * c.value_dim;
  const auto qkvz = mx::reshape(out[0], {B, L, G, 2 * N + 2 * P});
  const auto ba = mx::reshape(out[1], {B, L, G, 2 * R});
  const auto part = [&](const mx::array& of, int from, int width) {
    return mx::reshape(last_columns(of, from, from + width), {B, L, G * width});
  };
  return {mx::concatenate({part(qkvz, 0, N), part(qkvz, N, N), part(qkvz, 2 * N, P)}, -1),
          part(qkvz, 2 * N + P, P), part(ba, 0, R), part(ba, R, R)};
}

mx::array GatedDelta::mix(const Arrays& projected, Pass& pass) const {
  const auto& c = config_;
  const auto &z = projected[1], &b = projected[2], &a = projected[3];
  const int B = z.shape(0), L = z.shape(1), K = keys(c);
  auto* kept = pass.states();
  auto window = kept ? kept->state(0) : std::nullopt;
  const auto qkv = conv1d(projected[0], pass, true, window);
  const auto q = unit_length(heads_of(qkv, 0, c.key_heads, c.key_dim),
                             1 / std::sqrt(static_cast<float>(c.key_dim)));
  const auto k = unit_length(heads_of(qkv, K, c.key_heads, c.key_dim));
  const auto v = heads_of(qkv, 2 * K, c.heads, c.value_dim);
  const auto by_head = [](const mx::array& x) { return mx::swapaxes(x, 1, 2); };
  auto beta = logistic(b);
  if (c.allow_neg_eigval) beta = kernels::scale(beta, 2);

  const auto scanned = delta_scan(q, k, v, by_head(log_decay(a, A_log, dt_bias)), by_head(beta),
                                  kept ? kept->state(1) : std::nullopt);
  if (kept) kept->put({*window, scanned.state}, L);
  const auto gate = mx::reshape(z, {B, L, c.heads, c.value_dim});
  return mx::reshape(norm(by_head(scanned.out), gate), {B, L, values(c)});
}

}  // namespace lmxlab::core
