#include "lmxlab/core/indexer.h"

#include "lmxlab/core/mask.h"
#include "lmxlab/kernels/elementwise.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

namespace lmxlab::core {
namespace {

// Scores of so many heads at a time that they take no more numbers than this.
constexpr int64_t kScores = int64_t{1} << 26, kScoresThatLearn = int64_t{1} << 24;

// A query's score of what it never meets.
mx::array hidden() {
  return mx::array(std::numeric_limits<float>::lowest());
}

// f, of which the backward pass keeps nothing but its inputs. It gives all gradients at once:
// otherwise each lot would wait, with all that it needs, for the last of them.
std::function<Arrays(const Arrays&)> again(std::function<Arrays(const Arrays&)> f) {
  return mx::custom_vjp(f, [f](const Arrays& in, const Arrays& cotangents, const Arrays&) {
    const auto inputs = mx::depends(in, cotangents);
    const auto gradients = mx::vjp(f, inputs, cotangents).second;
    return mx::depends(gradients, gradients);
  });
}

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
  for (const auto& e : collect(*this)) e.param->trainable = config_.loss > 0;
}

Arrays Indexer::project(const mx::array& latent, const mx::array& keys, const mx::array& weights,
                        const Pass& pass) const {
  Arrays out{wq_b(mx::stop_gradient(latent)), k_norm(keys), weights};
  if (learns(pass)) return out;
  for (auto& a : out) a = mx::stop_gradient(a);
  return out;
}

Indexer::Choice Indexer::choose(const Arrays& projected, KeyCache* cache, std::optional<int> reach,
                                const Pass& pass) const {
  const int B = projected[0].shape(0), L = projected[0].shape(1);
  auto k = mx::expand_dims(projected[1], 1);
  if (rotation_) k = rotate(*rotation_, k, pass);
  const Keys keys = cache ? cache->append(k, k) : Keys{k, k, pass.offset, false};
  const int S = keys.k.shape(2), most = config_.top_k;
  if (S <= most && !learns(pass)) return {};

  auto q = mx::transpose(mx::reshape(projected[0], {B, L, config_.heads, config_.head_dim}),
                         {0, 2, 1, 3});
  if (rotation_) q = rotate(*rotation_, q, pass);
  Choice out;
  const auto all = scores(q, keys.k, projected[2], learns(pass));
  if (learns(pass)) out.scores = all;
  if (S <= most) return out;
  auto allowed = mask_array(pass, L, keys, reach);
  if (allowed.ndim() == 4) allowed = mx::squeeze(allowed, 1);
  const auto visible = mx::where(allowed, mx::stop_gradient(all), hidden());
  const auto order = mx::argpartition(mx::negative(visible), most - 1, -1);
  out.columns = mx::slice(order, {0, 0, 0}, {B, L, most});
  return out;
}

mx::array Indexer::divergence(const mx::array& attention, const mx::array& scores,
                              const mx::array& seen, const Pass& pass) const {
  const auto p = mx::stop_gradient(attention);
  // A softmax does not forget the factors of the authors' code.
  const float factor = 1 / std::sqrt(static_cast<float>(config_.heads * config_.head_dim));
  const auto own = mx::multiply(scores, mx::array(factor));
  const auto visible = mx::where(seen.ndim() == 4 ? mx::squeeze(seen, 1) : seen, own, hidden());
  const auto entropy =
      mx::where(mx::greater(p, mx::array(0.0f)), mx::multiply(p, mx::log(p)), mx::array(0.0f));
  auto each = mx::subtract(mx::add(mx::sum(entropy, -1), mx::logsumexp(visible, -1)),
                           mx::sum(mx::multiply(p, own), -1));
  if (const auto tokens = token_columns(pass, each.shape(1)))
    each = mx::where(mx::squeeze(*tokens, -1), each, mx::array(0.0f));
  return mx::sum(each);
}

mx::array indexer_loss(const config::Model& model, std::span<const Sums> sums, int64_t tokens) {
  mx::array loss(0.0f);
  for (const auto& s : sums) {
    if (s.of != Sums::Of::indexer) continue;
    const auto& mla = std::get<config::Mla>(model.layers.at(static_cast<size_t>(s.layer)).mixer);
    const mx::array weight(mla.indexer->loss / static_cast<float>(tokens));
    loss = mx::add(loss, mx::multiply(s.arrays[0], weight));
  }
  return loss;
}

int heads_at_a_time(int heads, int rows, int queries, int keys, bool learns) {
  const int64_t each = std::max<int64_t>(1, int64_t{rows} * queries * keys);
  return static_cast<int>(
      std::clamp<int64_t>((learns ? kScoresThatLearn : kScores) / each, 1, heads));
}

mx::array Indexer::scores(const mx::array& q, const mx::array& k, const mx::array& weights,
                          bool learns) const {
  const int B = q.shape(0), H = q.shape(1), L = q.shape(2), S = k.shape(2);
  const auto turned = mx::swapaxes(kernels::cast(k, mx::float32), -1, -2);  // [B, 1, D, S]
  const auto by_head =
      mx::expand_dims(mx::swapaxes(kernels::cast(weights, mx::float32), 1, 2), -1);  // [B, H, L, 1]
  const int lot = heads_at_a_time(H, B, L, S, learns);
  const std::function<Arrays(const Arrays&)> summed = [](const Arrays& in) -> Arrays {
    const auto &some = in[0], &keys = in[1];  // [B, n, L, D], [B, 1, D, S]
    const int rows = some.shape(0), n = some.shape(1), length = some.shape(2);
    const auto flat = mx::reshape(kernels::cast(some, mx::float32), {rows, 1, -1, some.shape(3)});
    const auto met = mx::reshape(mx::matmul(flat, keys), {rows, n, length, -1});
    return {mx::sum(mx::multiply(mx::maximum(met, mx::array(0.0f)), in[2]), 1)};
  };
  const auto sum_of = learns ? again(summed) : summed;
  std::optional<mx::array> sum;
  for (int h = 0; h < H; h += lot) {
    const int n = std::min(H, h + lot) - h;
    const auto some = [&](const mx::array& a) {
      return mx::slice(a, {0, h, 0, 0}, {B, h + n, L, a.shape(3)});
    };
    const auto part = sum_of({some(q), turned, some(by_head)})[0];
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
