// Softmax attention: MHA, GQA, MQA, with windows, norms, biases, caps, rotary positions or ALiBi.
#pragma once

#include "lmxlab/config/model.h"
#include "lmxlab/core/linear.h"
#include "lmxlab/core/mask.h"
#include "lmxlab/core/mixer.h"
#include "lmxlab/core/norm.h"
#include "lmxlab/core/position.h"

namespace lmxlab::core {

/// Of queries or keys: over each head, with weights that all share or each its own, or over all
/// heads.
class HeadNorm {
 public:
  HeadNorm(const config::Attention& config, int heads);
  /// [B, L, H Dh]
  mx::array flat(const mx::array& x) const;
  /// [B, H, L, Dh]; not over all heads.
  mx::array split(const mx::array& x) const;
  void visit(Visitor& v) { v("", norm_), v("weight", weight_); }

 private:
  Norm norm_;
  std::optional<Param> weight_;  // [H, Dh], by head
  int head_dim_;
  bool joint_;
};

class Attention : public Mixer {
 public:
  Attention(const config::Attention& config, const Build& build);
  mx::array operator()(const mx::array& x, Pass& pass) const override {
    return finish(mix(project(x, pass), pass), pass);
  }
  Arrays project(const mx::array& x, Pass& pass) const override;
  mx::array mix(const Arrays& qkv, Pass& pass) const override;
  mx::array finish(const mx::array& mixed, Pass&) const override {
    return o_proj(out_norm ? (*out_norm)(mixed) : mixed);
  }
  void visit(Visitor& v) override {
    v("q_proj", q_proj), v("k_proj", k_proj), v("v_proj", v_proj), v("gate_proj", gate_proj);
    v("o_proj", o_proj);
    v("q_norm", q_norm), v("k_norm", k_norm), v("v_norm", v_norm);
    v("out_norm", out_norm), v("sinks", sinks);
  }
  void visit_part(Visitor& v, bool first) override {
    if (!first) return v("o_proj", o_proj), v("out_norm", out_norm);
    v("q_proj", q_proj), v("k_proj", k_proj), v("v_proj", v_proj), v("gate_proj", gate_proj);
    if (!config_.qk_norm_late) v("q_norm", q_norm), v("k_norm", k_norm);
    v("v_norm", v_norm);
  }
  std::unique_ptr<LayerCache> make_cache(const CacheOptions& options) const override;

  Linear q_proj;
  std::optional<Linear> k_proj, v_proj;
  Linear o_proj;
  std::optional<Linear> gate_proj;
  std::optional<HeadNorm> q_norm, k_norm;
  std::optional<Norm> v_norm;  // over a head
  std::optional<Norm> out_norm;
  std::optional<Param> sinks;  // [H]

 private:
  float scale() const;
  // Of a query: the config's, or that of the cache if it is less.
  std::optional<int> window(int max_kv) const;
  Reach reach(int max_kv) const { return {window(max_kv), config_.chunked}; }
  bool own_keys() const { return !config_.kv_from; }
  // q [B, L, H Dh], k [B, L, K Dh], v [B, L, K Dv] -> [B, L, H Dv]; q alone over another's keys
  mx::array ungated(const Arrays& qkv, Pass& pass) const;
  std::optional<mx::array> attend_in_place(const mx::array& q, const mx::array& k,
                                           const mx::array& v, Pass& pass) const;
  mx::array attend(const Arrays& qkv, Pass& pass) const;
  // [B, H, L, Dh], turned to their positions, and what comes then.
  mx::array placed_queries(const mx::array& q, Pass& pass) const;
  Keys keys_of(const mx::array& k, const mx::array& v, Pass& pass) const;

  config::Attention config_;
  bool lends_;  // later layers have its keys and values
  std::optional<Rotation> rotation_;
};

/// Queries of this pass over keys and values, by the fused kernel where it can.
/// @param q  [B, H, L, Dh], at their positions.
/// @param bias, sinks  see plain_attention.
/// @return  [B, H, L, Dv]
mx::array attend(const mx::array& q, const Keys& keys, float scale, const Pass& pass,
                 const Reach& reach, std::optional<float> softcap = {},
                 const std::optional<mx::array>& bias = {},
                 const std::optional<mx::array>& sinks = {});

/// Attention written out in ordinary ops, in float32: what MLX's fused form is checked against, and
/// what serves soft caps and additive biases.
/// @param q  [B, H, L, Dh], rotated already.
/// @param keys  k, v [B, K, S, Dh], H a multiple of K.
/// @param allowed  bool [L, S] or [B, 1, L, S]; true means "may look". A row of false gives the
///                 mean of v.
/// @param bias  float32 [H, L, S], added to the scaled and capped scores.
/// @param sinks  [H], a score more in each softmax, whose value is zero.
/// @return  [B, H, L, Dh], dtype of q.
/// @cost  O(B H L S Dh); holds the L x S scores.
mx::array plain_attention(const mx::array& q, const Keys& keys, float scale,
                          const std::optional<mx::array>& allowed, std::optional<float> softcap,
                          const std::optional<mx::array>& bias,
                          const std::optional<mx::array>& sinks = {});

}  // namespace lmxlab::core
