#include "lmxlab/core/lightning.h"

#include "lmxlab/core/mask.h"
#include "lmxlab/core/scan.h"
#include "lmxlab/kernels/elementwise.h"

#include <mlx/ops.h>

#include <cmath>

namespace lmxlab::core {
namespace {

int inner(const config::Lightning& c) {
  return c.heads * c.head_dim;
}

// Later layers look further back.
std::vector<float> slopes(int heads, int layer, int layers) {
  const double share = 1 - layer / (layers - 1 + 1e-5) + 1e-5;
  std::vector<float> out;
  for (int h = 1; h <= heads; ++h)
    out.push_back(static_cast<float>(std::exp2(-8.0 * h / heads) * share));
  return out;
}

}  // namespace

Lightning::Lightning(const config::Lightning& c, const Build& b)
    : qkv_proj(b.dim, 3 * inner(c), false, b.std, b.init),
      output_gate(b.dim, inner(c), false, b.std, b.init),
      norm(config::RmsNorm{.eps = c.norm_eps}, inner(c)),
      out_proj(inner(c), b.dim, false, b.residual_std, b.init),
      config_(c),
      slopes_(slopes(c.heads, b.layer, b.layers)) {}

std::unique_ptr<LayerCache> Lightning::make_cache(const CacheOptions&) const {
  const auto& c = config_;
  return std::make_unique<StateCache>(
      std::vector<StateArray>{{"state", {c.heads, c.head_dim, c.head_dim}}});
}

mx::array Lightning::mix(const Arrays& projected, Pass& pass) const {
  const auto& c = config_;
  const auto type = projected[0].dtype();
  const int B = projected[0].shape(0), L = projected[0].shape(1), D = c.head_dim;
  auto qkv = kernels::activate(kernels::Activation::silu, kernels::cast(projected[0], mx::float32));
  if (const auto tokens = token_columns(pass, L)) qkv = mx::where(*tokens, qkv, mx::array(0.0f));
  const auto parts = mx::split(heads_of(qkv, 0, c.heads, 3 * D), 3, -1);
  const auto g = mx::broadcast_to(
      mx::reshape(mx::negative(mx::array(slopes_.data(), {c.heads}, mx::float32)), {c.heads, 1}),
      {B, c.heads, L});
  auto* kept = pass.states();
  const auto scanned =
      linear_scan(parts[0], parts[1], parts[2], g, kept ? kept->state(0) : std::nullopt);
  if (kept) kept->put({scanned.state}, L);
  const auto y = norm(mx::reshape(mx::swapaxes(scanned.out, 1, 2), {B, L, inner(c)}));
  const auto gate = kernels::cast(projected[1], mx::float32);
  return kernels::cast(kernels::gated(kernels::Activation::sigmoid, gate, y), type);
}

}  // namespace lmxlab::core
