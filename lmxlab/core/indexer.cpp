#include "lmxlab/core/indexer.h"

#include "lmxlab/core/mask.h"
#include "lmxlab/kernels/elementwise.h"

#include <mlx/ops.h>

#include <algorithm>
#include <limits>

namespace lmxlab::core {
namespace {

// Scores of so many heads at a time that they take no more numbers than this.
constexpr int64_t kScores = int64_t{1} << 26;

config::Rope turned(const config::Mla& m) {
  auto rope = std::get<config::Rope>(m.position);
  rope.dims = rope.dims > 0 ? rope.dims : m.rope_dim;
  rope.interleaved = m.indexer->interleaved;
  return rope;
}

}  // namespace

Indexer::Indexer(const config::Mla& m, const Build& b)
    : wq_b(m.q_rank.value_or(0), m.indexer->heads * m.indexer->head_dim, false, b.std, b.init),
      wk(b.dim, m.indexer->head_dim, false, b.std, b.init),
      weights_proj(b.dim, m.indexer->heads, false, b.std, b.init),
      k_norm(m.indexer->norm, m.indexer->head_dim),
      config_(*m.indexer) {
  if (std::holds_alternative<config::Rope>(m.position))
    rotation_.emplace(turned(m), config_.head_dim);
  for (const auto& e : collect(*this)) e.param->trainable = false;
}

Arrays Indexer::project(const mx::array& latent, const mx::array& keys,
                        const mx::array& weights) const {
  Arrays out{wq_b(latent), k_norm(keys), weights};
  for (auto& a : out) a = mx::stop_gradient(a);
  return out;
}

std::optional<mx::array> Indexer::choose(const Arrays& projected, KeyCache* cache,
                                         std::optional<int> reach, const Pass& pass) const {
  const int B = projected[0].shape(0), L = projected[0].shape(1);
  auto k = mx::expand_dims(projected[1], 1);
  if (rotation_) k = rotate(*rotation_, k, pass);
  const Keys keys = cache ? cache->append(k, k) : Keys{k, k, pass.offset, false};
  const int S = keys.k.shape(2), most = config_.top_k;
  if (S <= most) return std::nullopt;

  auto q = mx::transpose(mx::reshape(projected[0], {B, L, config_.heads, config_.head_dim}),
                         {0, 2, 1, 3});
  if (rotation_) q = rotate(*rotation_, q, pass);
  auto all = scores(q, keys.k, projected[2]);
  auto allowed = mask_array(pass, L, keys, reach);
  if (allowed.ndim() == 4) allowed = mx::squeeze(allowed, 1);
  all = mx::where(allowed, all, mx::array(std::numeric_limits<float>::lowest()));
  const auto order = mx::argpartition(mx::negative(mx::stop_gradient(all)), most - 1, -1);
  return mx::slice(order, {0, 0, 0}, {B, L, most});
}

mx::array Indexer::scores(const mx::array& q, const mx::array& k, const mx::array& weights) const {
  const int B = q.shape(0), H = q.shape(1), L = q.shape(2), S = k.shape(2), D = q.shape(3);
  const auto turned = mx::swapaxes(kernels::cast(k, mx::float32), -1, -2);  // [B, 1, D, S]
  const auto by_head =
      mx::expand_dims(mx::swapaxes(kernels::cast(weights, mx::float32), 1, 2), -1);  // [B, H, L, 1]
  const int lot = static_cast<int>(std::clamp<int64_t>(kScores / (int64_t{B} * L * S), 1, H));
  std::optional<mx::array> sum;
  for (int h = 0; h < H; h += lot) {
    const int n = std::min(H, h + lot) - h;
    const auto some = [&](const mx::array& a) {
      return mx::slice(a, {0, h, 0, 0}, {B, h + n, L, a.shape(3)});
    };
    const auto rows = mx::reshape(kernels::cast(some(q), mx::float32), {B, 1, n * L, D});
    const auto met = mx::reshape(mx::matmul(rows, turned), {B, n, L, S});
    const auto part = mx::sum(mx::multiply(mx::maximum(met, mx::array(0.0f)), some(by_head)), 1);
    sum = sum ? mx::add(*sum, part) : part;
  }
  return *sum;
}

mx::array chosen_mask(const mx::array& chosen, int columns) {
  const auto none = mx::zeros({chosen.shape(0), chosen.shape(1), columns}, mx::bool_);
  return mx::expand_dims(mx::put_along_axis(none, chosen, mx::array(true), -1), 1);
}

mx::array chosen_rows(const Keys& keys, bool values, const mx::array& chosen) {
  const int B = chosen.shape(0), L = chosen.shape(1), k = chosen.shape(2);
  // By whole rows: along an axis MLX would look up every number.
  const auto at = kernels::cast(mx::reshape(chosen, {B, L * k}), mx::int32);
  const auto batch = mx::reshape(mx::arange(B, mx::int32), {B, 1});
  const auto rows = [&](const mx::array& all) {
    const auto some = mx::gather(all, {batch, at}, {0, 2}, {1, 1, 1, all.shape(3)});
    return mx::reshape(some, {B, L, k, all.shape(3)});
  };
  if (!keys.packed) return rows(values ? keys.v : keys.k);
  const auto& p = values ? keys.packed->v : keys.packed->k;
  return mx::dequantize(rows(p.packed), rows(p.scales), rows(p.biases), p.group, p.bits);
}

}  // namespace lmxlab::core
