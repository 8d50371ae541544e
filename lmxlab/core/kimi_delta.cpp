#include "lmxlab/core/kimi_delta.h"

#include "lmxlab/core/scan.h"
#include "lmxlab/kernels/elementwise.h"

#include <mlx/ops.h>

#include <cmath>

namespace lmxlab::core {
namespace {

int inner(const config::KimiDelta& c) {
  return c.heads * c.head_dim;
}
Linear input(const Build& b, int width) {
  return Linear(b.dim, width, false, b.std, b.init);
}
KimiDelta::LowRank low_rank(const config::KimiDelta& c, const Build& b) {
  if (!c.low_rank) return {std::nullopt, input(b, inner(c))};
  return {input(b, c.head_dim), Linear(c.head_dim, inner(c), false, b.std, b.init)};
}

}  // namespace

KimiDelta::KimiDelta(const config::KimiDelta& c, const Build& b)
    : q_proj(input(b, inner(c))),
      k_proj(input(b, inner(c))),
      v_proj(input(b, inner(c))),
      b_proj(input(b, c.heads)),
      forget(low_rank(c, b)),
      gate(low_rank(c, b)),
      conv1d(3 * inner(c), c.conv, false, b.init),
      dt_bias(new_step_biases(inner(c), b.init)),
      A_log(new_log_rates(c.heads, 1, 16, b.init)),
      o_norm(c.head_dim, c.norm_eps),
      o_proj(inner(c), b.dim, false, b.residual_std, b.init),
      config_(c) {
  o_norm.sigmoid = true;
}

void KimiDelta::visit_low_rank(Visitor& v, const std::string& name, LowRank& part) const {
  if (part.down) v(name + "_a_proj", *part.down);
  v(name + (part.down ? "_b_proj" : "_proj"), part.up);
}

void KimiDelta::visit(Visitor& v) {
  struct Forget {
    KimiDelta& of;
    void visit(Visitor& w) {
      of.visit_low_rank(w, "f", of.forget);
      w("dt_bias", of.dt_bias), w("A_log", of.A_log);
    }
  } forget_gate{*this};
  v("q_proj", q_proj), v("k_proj", k_proj), v("v_proj", v_proj);
  v("conv1d", conv1d), v("forget_gate", forget_gate), v("b_proj", b_proj);
  visit_low_rank(v, "g", gate);
  v("o_norm", o_norm), v("o_proj", o_proj);
}

void KimiDelta::visit_part(Visitor& v, bool first) {
  if (!first) return v("o_proj", o_proj);
  v("q_proj", q_proj), v("k_proj", k_proj), v("v_proj", v_proj), v("b_proj", b_proj);
  visit_low_rank(v, "f", forget), visit_low_rank(v, "g", gate);
}

std::unique_ptr<LayerCache> KimiDelta::make_cache(const CacheOptions&) const {
  const auto& c = config_;
  return std::make_unique<StateCache>(std::vector<StateArray>{
      {"conv", {c.conv - 1, 3 * inner(c)}}, {"state", {c.heads, c.head_dim, c.head_dim}}});
}

Arrays KimiDelta::project(const mx::array& x, Pass&) const {
  const auto in = core::project(x, {&q_proj, &k_proj, &v_proj, &b_proj});
  return {mx::concatenate({in[0], in[1], in[2]}, -1), in[3], forget(x), gate(x)};
}

mx::array KimiDelta::mix(const Arrays& projected, Pass& pass) const {
  const auto& c = config_;
  const int B = projected[0].shape(0), L = projected[0].shape(1), I = inner(c);
  auto* kept = pass.states();
  auto window = kept ? kept->state(0) : std::nullopt;
  const auto qkv = conv1d(projected[0], pass, true, window);
  const auto heads = [&](int part) { return heads_of(qkv, part * I, c.heads, c.head_dim); };
  const auto q = unit_length(heads(0), 1 / std::sqrt(static_cast<float>(c.head_dim)));

  const auto f32 = [](const mx::array& a) { return kernels::cast(a, mx::float32); };
  const auto moved = kernels::add(f32(projected[2]), f32(dt_bias.value));
  const auto by_head = heads_of(moved, 0, c.heads, c.head_dim);
  const auto rate = mx::reshape(mx::exp(f32(A_log.value)), {c.heads, 1, 1});
  const auto g =
      c.lower_bound ? mx::multiply(logistic(mx::multiply(rate, by_head)), mx::array(*c.lower_bound))
                    : mx::multiply(softplus(by_head), mx::negative(rate));
  const auto beta = mx::swapaxes(logistic(projected[1]), 1, 2);

  const auto scanned =
      delta_scan(q, unit_length(heads(1)), heads(2), g, beta, kept ? kept->state(1) : std::nullopt);
  if (kept) kept->put({*window, scanned.state}, L);
  const auto z = mx::reshape(projected[3], {B, L, c.heads, c.head_dim});
  return mx::reshape(o_norm(mx::swapaxes(scanned.out, 1, 2), z), {B, L, I});
}

}  // namespace lmxlab::core
