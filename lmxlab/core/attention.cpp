#include "lmxlab/core/attention.h"

#include "lmxlab/kernels/attention.h"
#include "lmxlab/kernels/cached_attention.h"
#include "lmxlab/kernels/elementwise.h"
#include "lmxlab/kernels/one_order.h"

#include <mlx/fast.h>
#include <mlx/ops.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace lmxlab::core {
namespace {

// [B, L, H * Dh] -> [B, H, L, Dh]
mx::array split_heads(const mx::array& x, int heads, int head_dim) {
  return mx::transpose(mx::reshape(x, {x.shape(0), x.shape(1), heads, head_dim}), {0, 2, 1, 3});
}

// Of keys or values, where the layer has its own.
std::optional<Linear> projection(bool own, int width, const config::Attention& c, const Build& b) {
  if (!own) return std::nullopt;
  return Linear(b.dim, width, c.qkv_bias, b.std, b.init);
}

// Of weights by head the norm itself has none.
config::Norm inner_norm(const config::Attention& c) {
  auto norm = *c.qk_norm;
  if (c.qk_norm_by_head)
    std::visit(
        [](auto& n) {
          if constexpr (requires { n.weight; }) n.weight = false;
        },
        norm);
  return norm;
}

}  // namespace

HeadNorm::HeadNorm(const config::Attention& c, int heads)
    : norm_(inner_norm(c), c.qk_norm_joint ? heads * c.head_dim : c.head_dim),
      head_dim_(c.head_dim),
      joint_(c.qk_norm_joint) {
  if (c.qk_norm_by_head) weight_ = Param{ones({heads, c.head_dim})};
}

mx::array HeadNorm::flat(const mx::array& x) const {
  if (joint_) return norm_(x);
  auto heads = norm_(mx::reshape(x, {x.shape(0), x.shape(1), -1, head_dim_}));
  if (weight_) heads = mx::multiply(heads, mx::astype(weight_->value, x.dtype()));
  return mx::reshape(heads, x.shape());
}
mx::array HeadNorm::split(const mx::array& x) const {
  const auto heads = norm_(x);
  if (!weight_) return heads;
  return mx::multiply(heads, mx::expand_dims(mx::astype(weight_->value, x.dtype()), 1));
}

Attention::Attention(const config::Attention& c, const Build& b)
    : q_proj(b.dim, c.heads * c.head_dim, c.qkv_bias, b.std, b.init),
      k_proj(projection(!c.kv_from, c.kv_heads * c.head_dim, c, b)),
      v_proj(projection(!c.kv_from && !c.v_of_k, c.kv_heads * c.value_dim(), c, b)),
      o_proj(c.heads * c.value_dim(), b.out ? b.out : b.dim, c.out_bias, b.residual_std, b.init),
      config_(c),
      lends_(b.lends_keys) {
  if (c.qk_norm) q_norm.emplace(c, c.heads);
  if (c.qk_norm && own_keys()) k_norm.emplace(c, c.kv_heads);
  if (c.v_norm && own_keys()) v_norm.emplace(*c.v_norm, c.value_dim());
  if (c.gate) gate_proj.emplace(b.dim, c.gate_width(), c.gate_bias, b.std, b.init);
  if (c.sinks) sinks = Param{zeros({c.heads})};
  if (c.out_norm) out_norm.emplace(*c.out_norm, c.heads * c.value_dim());
  if (const auto* rope = std::get_if<config::Rope>(&c.position))
    rotation_.emplace(*rope, c.head_dim);
}

float Attention::scale() const {
  return config_.scale.value_or(1 / std::sqrt(static_cast<float>(config_.head_dim)));
}

std::optional<int> Attention::window(int max_kv) const {
  if (max_kv == 0) return config_.window;
  return std::min(config_.window.value_or(max_kv), max_kv);
}

std::unique_ptr<LayerCache> Attention::make_cache(const CacheOptions& options) const {
  if (!own_keys()) return nullptr;
  const auto most = window(options.max_kv);
  // A ring is read in another order than the text's: the mask alone makes the window then.
  if (kernels::one_order() && options.max_kv == 0) return plain_cache(options);
  return most ? rotating_cache(*most, options) : plain_cache(options);
}

Arrays Attention::project(const mx::array& x, Pass&) const {
  const auto& c = config_;
  std::vector<const Linear*> layers{&q_proj};
  for (const auto* l : {&k_proj, &v_proj, &gate_proj})
    if (*l) layers.push_back(&**l);
  auto parts = core::project(x, layers);
  if (own_keys() && c.v_of_k) parts.insert(parts.begin() + 2, parts[1]);
  if (c.clip)
    for (auto& a : parts)  // no class has a gate and a clip
      a = mx::clip(a, mx::array(-*c.clip, a.dtype()), mx::array(*c.clip, a.dtype()));
  if (q_norm && !c.qk_norm_late) parts[0] = q_norm->flat(parts[0]);
  if (!own_keys()) return parts;
  auto &k = parts[1], &v = parts[2];
  if (k_norm && !c.qk_norm_late) k = k_norm->flat(k);
  if (c.k_scale != 1) k = kernels::scale(k, c.k_scale);
  if (v_norm)
    v = mx::reshape((*v_norm)(mx::reshape(v, {v.shape(0), v.shape(1), -1, c.value_dim()})),
                    v.shape());
  if (c.v_scale != 1) v = kernels::scale(v, c.v_scale);
  return parts;
}

mx::array Attention::mix(const Arrays& parts, Pass& pass) const {
  const auto& c = config_;
  const auto mixed = ungated(parts, pass);
  if (!gate_proj) return mixed;
  const auto& open = parts.back();
  const auto gate =
      c.gate_softplus
          ? kernels::cast(mx::logaddexp(kernels::cast(open, mx::float32), mx::array(0.0f)),
                          open.dtype())
          : mx::sigmoid(open);
  if (!c.gate_by_head) return mx::multiply(mixed, gate);
  const auto heads = mx::reshape(mixed, {mixed.shape(0), mixed.shape(1), c.heads, c.value_dim()});
  return mx::reshape(mx::multiply(heads, mx::expand_dims(gate, -1)), mixed.shape());
}

mx::array Attention::ungated(const Arrays& qkv, Pass& pass) const {
  const bool alone = own_keys() && !lends_;
  const auto in_place = alone ? attend_in_place(qkv[0], qkv[1], qkv[2], pass) : std::nullopt;
  return in_place ? *in_place : attend(qkv, pass);
}

// Where the cache's buffers can be written directly.
std::optional<mx::array> Attention::attend_in_place(const mx::array& q, const mx::array& k,
                                                    const mx::array& v, Pass& pass) const {
  const auto& c = config_;
  auto* slot = pass.keys();
  if (!slot || std::holds_alternative<config::Alibi>(c.position)) return std::nullopt;
  if (sinks || c.chunked) return std::nullopt;
  if (c.temperature || (q_norm && c.qk_norm_late)) return std::nullopt;  // behind the rotation
  const CacheRow row{k.shape(0), c.kv_heads, c.head_dim, k.dtype()};
  const CacheRow value_row{v.shape(0), c.kv_heads, c.value_dim(), v.dtype()};
  auto loan = slot->lend(k.shape(1), row, value_row);
  if (!loan) return std::nullopt;
  const auto rope = rotation_ ? std::optional(rotation_->at(pass, k.shape(1))) : std::nullopt;
  auto done =
      kernels::cached_attention(q, k, v, std::move(loan->k), std::move(loan->v), loan->at, rope,
                                scale(), causal_mask(pass, window(pass.max_kv()), c.softcap));
  slot->give_back(std::move(done.k), std::move(done.v), k.shape(1));
  return done.out;
}

mx::array Attention::placed_queries(const mx::array& flat, Pass& pass) const {
  const auto& c = config_;
  auto q = split_heads(flat, c.heads, c.head_dim);
  if (rotation_) q = rotate(*rotation_, q, pass);
  if (q_norm && c.qk_norm_late) q = q_norm->split(q);
  if (!c.temperature) return q;
  const auto at = mx::maximum(
      mx::add(query_positions(pass, q.shape(2)), mx::array(c.temperature->first)), mx::array(0));
  const auto steps = mx::astype(mx::floor_divide(at, mx::array(c.temperature->every)), mx::float32);
  auto growth =
      mx::add(mx::array(1.0f), mx::multiply(mx::array(c.temperature->scale), mx::log1p(steps)));
  growth = mx::expand_dims(growth, -1);  // [L, 1] or [B, L, 1]
  if (growth.ndim() == 3) growth = mx::expand_dims(growth, 1);
  return mx::multiply(q, mx::astype(growth, q.dtype()));
}

Keys Attention::keys_of(const mx::array& flat_k, const mx::array& flat_v, Pass& pass) const {
  const auto& c = config_;
  auto k = split_heads(flat_k, c.kv_heads, c.head_dim);
  const auto v = split_heads(flat_v, c.kv_heads, c.value_dim());
  if (rotation_) k = rotate(*rotation_, k, pass);
  if (k_norm && c.qk_norm_late) k = k_norm->split(k);
  auto* slot = pass.keys();
  return slot ? slot->append(k, v) : Keys{k, v, pass.offset, false};
}

mx::array Attention::attend(const Arrays& qkv, Pass& pass) const {
  const auto& c = config_;
  const int batch = qkv[0].shape(0), length = qkv[0].shape(1);
  const auto q = placed_queries(qkv[0], pass);
  const Keys keys = own_keys() ? keys_of(qkv[1], qkv[2], pass) : pass.lent_keys(*c.kv_from);
  if (lends_) pass.lent.insert_or_assign(pass.layer, keys);
  const auto* alibi = std::get_if<config::Alibi>(&c.position);
  const auto bias = alibi ? std::optional(alibi_bias(c.heads, *alibi, scale(), pass, length, keys))
                          : std::nullopt;
  const auto sink = sinks ? std::optional(sinks->value) : std::nullopt;
  const auto mixed =
      core::attend(q, keys, scale(), pass, reach(pass.max_kv()), c.softcap, bias, sink);
  const auto out = mx::transpose(mixed, {0, 2, 1, 3});
  return mx::reshape(out, {batch, length, c.heads * c.value_dim()});
}

mx::array attend(const mx::array& q, const Keys& keys, float scale, const Pass& pass,
                 const Reach& reach, std::optional<float> softcap,
                 const std::optional<mx::array>& bias, const std::optional<mx::array>& sinks) {
  const int length = q.shape(2);
  const bool plain = bias || sinks;
  const auto mask = attention_mask(pass, length, keys, reach);
  if (!plain && !mask.allowed) {
    const kernels::AttentionMask seen{.causal = mask.kind == Mask::Kind::causal,
                                      .window = mask.window,
                                      .softcap = softcap.value_or(0),
                                      .padding = mask.padding};
    if (const auto& p = keys.packed)
      return kernels::quantized_attention(q, p->k, p->v, scale, seen);
    return kernels::attention(q, keys.k, keys.v, scale, seen);
  }
  if (!plain && !softcap)
    return mx::fast::scaled_dot_product_attention(q, kernels::cast(keys.k, q.dtype()),
                                                  kernels::cast(keys.v, q.dtype()), scale, "array",
                                                  mask.allowed);
  return plain_attention(q, keys, scale, mask_array(pass, length, keys, reach), softcap, bias,
                         sinks);
}

mx::array plain_attention(const mx::array& q, const Keys& keys, float scale,
                          const std::optional<mx::array>& allowed, std::optional<float> softcap,
                          const std::optional<mx::array>& bias,
                          const std::optional<mx::array>& sinks) {
  const int B = q.shape(0), H = q.shape(1), L = q.shape(2), D = q.shape(3);
  const int K = keys.k.shape(1), S = keys.k.shape(2), Dv = keys.v.shape(3);
  if (H % K != 0)
    throw Error(Kind::usage, "[attention] " + std::to_string(H) + " heads are no multiple of " +
                                 std::to_string(K) + " key/value heads");
  const auto f32 = [](const mx::array& a) { return mx::astype(a, mx::float32); };
  const auto grouped = mx::reshape(mx::multiply(f32(q), mx::array(scale)), {B, K, H / K, L, D});
  const auto k = mx::expand_dims(f32(keys.k), 2), v = mx::expand_dims(f32(keys.v), 2);
  auto scores = mx::reshape(mx::matmul(grouped, mx::swapaxes(k, -1, -2)), {B, H, L, S});
  if (softcap) {
    const mx::array cap(*softcap);
    scores = mx::multiply(mx::tanh(mx::divide(scores, cap)), cap);
  }
  if (bias) scores = mx::add(scores, *bias);
  if (allowed)
    scores = mx::where(*allowed, scores, mx::array(std::numeric_limits<float>::lowest()));
  if (sinks)
    scores = mx::concatenate(
        {scores, mx::broadcast_to(mx::reshape(f32(*sinks), {1, H, 1, 1}), {B, H, L, 1})}, -1);
  auto shares = mx::softmax(scores, -1, true);
  if (sinks) shares = mx::slice(shares, {0, 0, 0, 0}, {B, H, L, S});
  const auto weights = mx::reshape(shares, {B, K, H / K, L, S});
  return mx::astype(mx::reshape(mx::matmul(weights, v), {B, H, L, Dv}), q.dtype());
}

}  // namespace lmxlab::core
