#include "lmxlab/core/mla.h"

#include "lmxlab/core/attention.h"
#include "lmxlab/kernels/elementwise.h"

#include <mlx/fast.h>
#include <mlx/ops.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace lmxlab::core {
namespace {

// [..., from:to]
mx::array part(const mx::array& x, int from, int to) {
  auto start = mx::Shape(x.ndim(), 0), stop = x.shape();
  start.back() = from, stop.back() = to;
  return mx::slice(x, start, stop);
}
// [B, L, H D] -> [B, H, L, D]
mx::array heads_of(const mx::array& x, int heads) {
  return mx::transpose(mx::reshape(x, {x.shape(0), x.shape(1), heads, -1}), {0, 2, 1, 3});
}

mx::array f32(const mx::array& a) {
  return kernels::cast(a, mx::float32);
}
// Rows that queries chose take no more numbers than this at a time.
constexpr int64_t kGathered = int64_t{1} << 24;
// A score that no softmax sees.
mx::array hidden() {
  return mx::array(std::numeric_limits<float>::lowest());
}

}  // namespace

Mla::Mla(const config::Mla& c, const Build& b)
    : kv_a_proj_with_mqa(b.dim, c.kv_rank + c.rope_dim, c.bias, b.std, b.init),
      kv_a_layernorm(c.latent_norm, c.kv_rank),
      kv_b_proj(c.kv_rank, c.heads * (c.nope_dim + c.v_dim), false, b.std, b.init),
      o_proj(c.heads * c.v_dim, b.dim, c.bias, b.residual_std, b.init),
      config_(c) {
  const int width = c.heads * (c.nope_dim + c.rope_dim);
  if (c.q_rank) {
    q_a_proj.emplace(b.dim, *c.q_rank, c.bias, b.std, b.init);
    q_a_layernorm.emplace(c.latent_norm, *c.q_rank);
    q_b_proj.emplace(*c.q_rank, width, false, b.std, b.init);
  } else {
    q_proj.emplace(b.dim, width, false, b.std, b.init);
  }
  if (c.gate) gate_proj.emplace(b.dim, c.heads, false, b.std, b.init);
  if (const auto* rope = std::get_if<config::Rope>(&c.position))
    rotation_.emplace(*rope, c.rope_dim);
  if (c.indexer && !c.indexer->shared) indexer.emplace(c, b);
}

float Mla::scale() const {
  return config_.scale.value_or(1 /
                                std::sqrt(static_cast<float>(config_.nope_dim + config_.rope_dim)));
}
std::optional<int> Mla::window(const Pass& pass) {
  return pass.max_kv() > 0 ? std::optional(pass.max_kv()) : std::nullopt;
}

std::unique_ptr<LayerCache> Mla::make_cache(const CacheOptions& options) const {
  const auto make = [&](Holds holds) {
    return options.max_kv > 0 ? rotating_cache(options.max_kv, options, holds)
                              : plain_cache(options, holds);
  };
  if (!indexer) return make(Holds::keys_and_values);
  std::vector<std::unique_ptr<LayerCache>> parts;
  parts.push_back(make(Holds::keys_and_values)), parts.push_back(make(Holds::keys));
  return std::make_unique<CompositeCache>(std::move(parts));
}

Arrays Mla::project(const mx::array& x, Pass& pass) const {
  const auto& c = config_;
  std::vector<const Linear*> layers{q_proj ? &*q_proj : &*q_a_proj, &kv_a_proj_with_mqa};
  if (gate_proj) layers.push_back(&*gate_proj);
  const std::vector<const Linear*> own =
      indexer ? std::vector{&indexer->wk, &indexer->weights_proj} : std::vector<const Linear*>{};
  const bool learns = indexer && indexer->learns(pass);
  if (!learns) layers.insert(layers.end(), own.begin(), own.end());
  const auto first = core::project(x, layers);
  const auto query = q_proj ? first[0] : (*q_a_layernorm)(first[0]);
  auto q = q_proj ? query : (*q_b_proj)(query);
  if (c.q_scale != 1) q = kernels::scale(q, c.q_scale);
  auto latent = kv_a_layernorm(part(first[1], 0, c.kv_rank));
  if (c.kv_scale != 1) latent = kernels::scale(latent, c.kv_scale);
  Arrays out{q, mx::concatenate({latent, part(first[1], c.kv_rank, c.kv_rank + c.rope_dim)}, -1)};
  if (gate_proj) out.push_back(first[2]);
  if (!indexer) return out;
  const auto seen = learns ? core::project(mx::stop_gradient(x), own)
                           : Arrays{first[layers.size() - 2], first.back()};
  for (const auto& a : indexer->project(query, seen[0], seen[1], pass)) out.push_back(a);
  return out;
}

mx::array Mla::mix(const Arrays& projected, Pass& pass) const {
  const auto& c = config_;
  auto q = heads_of(projected[0], c.heads);
  const auto both = mx::expand_dims(projected[1], 1);  // [B, 1, L, kv_rank + rope]
  const auto latent = part(both, 0, c.kv_rank);
  auto key = part(both, c.kv_rank, c.kv_rank + c.rope_dim);
  if (rotation_) {
    const auto turned = rotate(*rotation_, part(q, c.nope_dim, c.nope_dim + c.rope_dim), pass);
    q = mx::concatenate({part(q, 0, c.nope_dim), turned}, -1);
    key = rotate(*rotation_, key, pass);
  }
  auto* slot = pass.keys();
  const Keys keys = slot ? slot->append(latent, key) : Keys{latent, key, pass.offset, false};
  Indexer::Choice choice;
  if (indexer) {
    choice = indexer->choose({projected.end() - 3, projected.end()}, slot ? pass.keys(1) : nullptr,
                             window(pass), pass);
    pass.chosen = choice.columns;
  }
  const auto chosen = c.indexer ? pass.chosen : std::nullopt;
  // Products of one more query, and of making keys and values of all positions.
  const double L = q.shape(2), S = keys.k.shape(2), wide = c.nope_dim + c.v_dim, r = c.kv_rank;
  const bool few = slot && L * (r * wide + S * (2 * r - wide)) < S * r * wide;
  // Rows that are chosen: read by few queries, or met by many in fewer products than all of them.
  const double k = chosen ? chosen->shape(2) : 0;
  const bool less =
      slot && chosen &&
      (L * k < S || k * (2 * r + c.rope_dim) < S * (c.nope_dim + c.rope_dim + c.v_dim));
  const auto mixed = [&] {
    if (less) return gathered(q, keys, *chosen, pass);
    if (few) return absorbed(q, keys, chosen, pass);
    const Keys all = expand(keys, q.dtype());
    if (choice.scores) {
      const auto seen = allowed(q.shape(2), all, chosen, pass);
      const auto off = indexer->divergence(attention(q, all.k, seen), *choice.scores, seen, pass);
      pass.sums->push_back({Sums::Of::indexer, pass.layer, {off}});
    }
    return expanded(q, all, chosen, pass);
  };
  auto out = mx::transpose(mixed(), {0, 2, 1, 3});
  if (gate_proj) {
    const auto gate = mx::sigmoid(kernels::cast(projected[2], mx::float32));
    out = mx::multiply(out, mx::expand_dims(kernels::cast(gate, out.dtype()), -1));
  }
  return mx::reshape(out, {out.shape(0), out.shape(1), c.heads * c.v_dim});
}

mx::array Mla::allowed(int length, const Keys& keys, const Chosen& chosen, const Pass& pass) const {
  const auto mask = mask_array(pass, length, keys, window(pass));
  return chosen ? mx::logical_and(mask, chosen_mask(*chosen, keys.k.shape(2))) : mask;
}

Keys Mla::expand(const Keys& keys, mx::Dtype dtype) const {
  const auto& c = config_;
  const int B = keys.k.shape(0), S = keys.k.shape(2);
  const auto latent = kernels::cast(mx::squeeze(keys.k, 1), dtype);  // [B, S, kv_rank]
  const auto both = heads_of(kv_b_proj(latent), c.heads);            // [B, H, S, nope + v]
  const auto shared = mx::broadcast_to(kernels::cast(keys.v, dtype), {B, c.heads, S, c.rope_dim});
  return {mx::concatenate({part(both, 0, c.nope_dim), shared}, -1),
          part(both, c.nope_dim, c.nope_dim + c.v_dim), keys.start, keys.ring};
}

mx::array Mla::expanded(const mx::array& q, const Keys& all, const Chosen& chosen,
                        Pass& pass) const {
  if (!chosen) return attend(q, all, scale(), pass, window(pass));
  return mx::fast::scaled_dot_product_attention(q, all.k, all.v, scale(), "array",
                                                allowed(q.shape(2), all, chosen, pass));
}

mx::array Mla::attention(const mx::array& q, const mx::array& k, const mx::array& seen) const {
  const int B = q.shape(0), H = q.shape(1), L = q.shape(2), S = k.shape(2);
  const int lot = heads_at_a_time(H, B, L, S, true);
  std::optional<mx::array> sum;
  for (int h = 0; h < H; h += lot) {
    const auto some = [&](const mx::array& a) {
      const auto heads =
          mx::slice(a, {0, h, 0, 0}, {B, std::min(H, h + lot), a.shape(2), a.shape(3)});
      return f32(mx::stop_gradient(heads));
    };
    const auto met =
        mx::matmul(mx::multiply(some(q), mx::array(scale())), mx::swapaxes(some(k), -1, -2));
    const auto given = mx::sum(mx::softmax(mx::where(seen, met, hidden()), -1, true), 1);
    sum = sum ? mx::add(*sum, given) : given;
  }
  return mx::multiply(*sum, mx::array(1 / static_cast<float>(H)));
}

Mla::Matrices Mla::matrices(mx::Dtype dtype) const {
  const auto& c = config_;
  const auto matrix =
      mx::reshape(kv_b_proj.matrix(dtype), {c.heads, c.nope_dim + c.v_dim, c.kv_rank});
  return {mx::slice(matrix, {0, 0, 0}, {c.heads, c.nope_dim, c.kv_rank}),
          mx::slice(matrix, {0, c.nope_dim, 0}, {c.heads, c.nope_dim + c.v_dim, c.kv_rank})};
}

mx::array Mla::absorbed(const mx::array& q, const Keys& keys, const Chosen& chosen,
                        Pass& pass) const {
  const auto& c = config_;
  const int B = q.shape(0), H = c.heads, L = q.shape(2), S = keys.k.shape(2);
  const auto [of_keys, of_values] = matrices(q.dtype());
  // All heads meet the same rows: [B, 1, H L, kv_rank] and [B, 1, S, kv_rank].
  const auto flat = [&](const mx::array& a) { return mx::reshape(a, {B, 1, H * L, a.shape(3)}); };
  const auto meet = [&](const mx::array& a, const mx::array& b) {
    return mx::matmul(f32(flat(a)), mx::swapaxes(f32(b), -1, -2));
  };
  const auto moved = mx::matmul(part(q, 0, c.nope_dim), of_keys);
  auto scores =
      mx::add(meet(moved, keys.k), meet(part(q, c.nope_dim, c.nope_dim + c.rope_dim), keys.v));
  scores = mx::multiply(mx::reshape(scores, {B, H, L, S}), mx::array(scale()));
  scores = mx::where(allowed(L, keys, chosen, pass), scores, hidden());
  const auto weights = mx::softmax(scores, -1, true);
  const auto mixed = mx::reshape(mx::matmul(flat(weights), f32(keys.k)), {B, H, L, c.kv_rank});
  return mx::matmul(kernels::cast(mixed, q.dtype()), mx::swapaxes(of_values, -1, -2));
}

mx::array Mla::gathered(const mx::array& q, const Keys& keys, const mx::array& chosen,
                        Pass& pass) const {
  const auto& c = config_;
  const int B = q.shape(0), L = q.shape(2), k = chosen.shape(2);
  const auto [of_keys, of_values] = matrices(q.dtype());
  const auto moved = mx::matmul(part(q, 0, c.nope_dim), of_keys);
  const auto turned = part(q, c.nope_dim, c.nope_dim + c.rope_dim);
  const auto seen = mx::expand_dims(mask_at(pass, keys, window(pass), chosen), 2);
  // Some queries at a time, each with rows of its own: [B, n, H, kv_rank] and [B, n, k, kv_rank].
  const int64_t each = int64_t{B} * k * (c.kv_rank + c.rope_dim);
  const int lot = static_cast<int>(std::clamp<int64_t>(kGathered / each, 1, L));
  Arrays parts;
  for (int from = 0; from < L; from += lot) {
    const int n = std::min(L, from + lot) - from;
    const auto some = mx::slice(chosen, {0, from, 0}, {B, from + n, k});
    const auto latent = f32(chosen_rows(keys, false, some));
    const auto shared = f32(chosen_rows(keys, true, some));
    const auto meet = [&](const mx::array& a, const mx::array& b) {
      const auto rows = mx::slice(a, {0, 0, from, 0}, {B, c.heads, from + n, a.shape(3)});
      return mx::matmul(f32(mx::swapaxes(rows, 1, 2)), mx::swapaxes(b, -1, -2));
    };
    const auto scores =
        mx::multiply(mx::add(meet(moved, latent), meet(turned, shared)), mx::array(scale()));
    const auto allowed = mx::slice(seen, {0, from, 0, 0}, {B, from + n, 1, k});
    const auto weights = mx::softmax(mx::where(allowed, scores, hidden()), -1, true);
    parts.push_back(mx::swapaxes(mx::matmul(weights, latent), 1, 2));
  }
  const auto mixed = parts.size() == 1 ? parts[0] : mx::concatenate(parts, 2);
  return mx::matmul(kernels::cast(mixed, q.dtype()), mx::swapaxes(of_values, -1, -2));
}

}  // namespace lmxlab::core
