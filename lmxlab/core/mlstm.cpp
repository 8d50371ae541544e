#include "lmxlab/core/mlstm.h"

#include "lmxlab/core/mask.h"
#include "lmxlab/core/stable_scan.h"
#include "lmxlab/kernels/elementwise.h"
#include "lmxlab/kernels/norm.h"

#include <mlx/ops.h>

#include <cmath>

namespace lmxlab::core {
namespace {

mx::array f32(const mx::array& x) {
  return kernels::cast(x, mx::float32);
}

Linear input(const Build& b, int width) {
  return Linear(b.dim, width, false, b.std, b.init);
}
// A gate that begins the same at every position (arXiv:2503.13427, section 3).
Linear gate(const Build& b, int heads, float first, float last) {
  Linear out(b.dim, heads, true, 0, b.init);
  out.bias = Param{mx::linspace(first, last, heads)};
  return out;
}

}  // namespace

Mlstm::Mlstm(const config::Mlstm& c, const Build& b)
    : q(input(b, c.heads * c.key_dim)),
      k(input(b, c.heads * c.key_dim)),
      v(input(b, c.heads * c.value_dim)),
      output_gate(input(b, c.heads * c.value_dim)),
      input_gate(gate(b, c.heads, -10, -10)),
      forget_gate(gate(b, c.heads, 3, 6)),
      norm{ones({c.heads * c.value_dim})},
      out_proj(c.heads * c.value_dim, b.dim, false, b.residual_std, b.init),
      config_(c) {}

std::unique_ptr<LayerCache> Mlstm::make_cache(const CacheOptions&) const {
  const auto& c = config_;
  return std::make_unique<StateCache>(std::vector<StateArray>{
      {"state", {c.heads, c.key_dim, c.value_dim + 1}}, {"most", {c.heads}}});
}

mx::array Mlstm::mix(const Arrays& projected, Pass& pass) const {
  const auto& c = config_;
  const auto type = projected[0].dtype();
  const int B = projected[0].shape(0), L = projected[0].shape(1), inner = c.heads * c.value_dim;
  const auto heads = [&](const mx::array& x, int width) {
    return f32(heads_of(x, 0, c.heads, width));
  };
  const auto capped = [&](const mx::array& x) {
    const mx::array cap(c.gate_cap);
    return mx::multiply(mx::tanh(mx::divide(f32(x), cap)), cap);
  };
  auto i = capped(projected[4]);
  auto f = mx::negative(softplus(mx::negative(capped(projected[5]))));  // log sigmoid
  if (const auto tokens = token_columns(pass, L)) {
    i = mx::where(*tokens, i, mx::array(kNever));
    f = mx::where(*tokens, f, mx::array(0.0f));
  }
  auto* kept = pass.states();
  std::optional<LogState> state;
  if (kept && kept->state(0)) state = LogState{*kept->state(0), *kept->state(1)};
  const auto query =
      kernels::scale(heads(projected[0], c.key_dim), 1 / std::sqrt(static_cast<float>(c.key_dim)));
  const auto scanned =
      mlstm_scan(query, heads(projected[1], c.key_dim), heads(projected[2], c.value_dim),
                 mx::swapaxes(i, 1, 2), mx::swapaxes(f, 1, 2), c.eps, state);
  if (kept) kept->put({scanned.state.sums, scanned.state.most}, L);

  const auto by_head = kernels::layer_norm(mx::swapaxes(scanned.out, 1, 2), ones({c.value_dim}),
                                           std::nullopt, c.norm_eps);
  const auto y = mx::multiply(mx::reshape(by_head, {B, L, inner}), f32(norm.value));
  return kernels::cast(kernels::gated(kernels::Activation::sigmoid, f32(projected[3]), y), type);
}

}  // namespace lmxlab::core
