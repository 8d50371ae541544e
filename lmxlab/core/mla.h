// Multi-head latent attention.
#pragma once

#include "lmxlab/config/mla.h"
#include "lmxlab/core/indexer.h"
#include "lmxlab/core/linear.h"
#include "lmxlab/core/mixer.h"
#include "lmxlab/core/norm.h"
#include "lmxlab/core/position.h"

namespace lmxlab::core {

/// Caches the latent vector and the shared key of a position: kv_rank + rope_dim numbers, whatever
/// the heads. Many queries meet keys and values made of them; few meet the latent vectors
/// themselves, with the matrices that would make keys and values moved over to the queries and the
/// result (DeepSeek-V2, arXiv:2405.04434, section 2.1.2). With an indexer its keys are cached too,
/// and queries read nothing but what they chose, where they are few or the keys are many.
class Mla : public Mixer {
 public:
  Mla(const config::Mla& config, const Build& build);
  mx::array operator()(const mx::array& x, Pass& pass) const override {
    return finish(mix(project(x, pass), pass), pass);
  }
  /// Queries [B, L, H (nope + rope)]; the latent vector and the shared key [B, L, kv_rank + rope];
  /// gates [B, L, H]; then what the indexer has.
  Arrays project(const mx::array& x, Pass& pass) const override;
  mx::array mix(const Arrays& projected, Pass& pass) const override;
  mx::array finish(const mx::array& mixed, Pass&) const override { return o_proj(mixed); }
  void visit(Visitor& v) override {
    visit_part(v, true);
    v("kv_b_proj", kv_b_proj);
    visit_part(v, false);
  }
  void visit_part(Visitor& v, bool first) override {
    if (!first) return v("o_proj", o_proj);
    v("gate_proj", gate_proj), v("q_proj", q_proj), v("q_a_proj", q_a_proj),
        v("q_a_layernorm", q_a_layernorm);
    v("q_b_proj", q_b_proj);
    v("kv_a_proj_with_mqa", kv_a_proj_with_mqa), v("kv_a_layernorm", kv_a_layernorm);
    v("indexer", indexer);
  }
  std::unique_ptr<LayerCache> make_cache(const CacheOptions& options) const override;

  std::optional<Linear> q_proj, q_a_proj, q_b_proj;
  std::optional<Linear> gate_proj;  // [H, D]
  std::optional<Norm> q_a_layernorm;
  Linear kv_a_proj_with_mqa;
  Norm kv_a_layernorm;
  Linear kv_b_proj;  // [H (nope + v), kv_rank]
  Linear o_proj;
  std::optional<Indexer> indexer;

 private:
  using Chosen = std::optional<mx::array>;  // as Pass::chosen

  // Keys and values of all heads, made of what `absorbed` takes.
  Keys expand(const Keys& keys, mx::Dtype dtype) const;
  mx::array expanded(const mx::array& q, const Keys& all, const Chosen& chosen, Pass& pass) const;
  // q [B, H, L, nope + rope]; keys.k the latent vectors [B, 1, S, kv_rank], keys.v the shared keys
  mx::array absorbed(const mx::array& q, const Keys& keys, const Chosen& chosen, Pass& pass) const;
  // The same of the chosen rows alone.
  mx::array gathered(const mx::array& q, const Keys& keys, const mx::array& chosen,
                     Pass& pass) const;
  // What makes keys and values of a latent vector: [H, nope, kv_rank] and [H, v, kv_rank].
  struct Matrices {
    mx::array of_keys, of_values;
  };
  Matrices matrices(mx::Dtype dtype) const;
  // What a query gives each key, the mean over heads, without a gradient: float32 [B, L, S].
  // @param k  of all heads: [B, H, S, nope + rope];  @param seen  as allowed()
  mx::array attention(const mx::array& q, const mx::array& k, const mx::array& seen) const;
  // bool [L, S] or [B, 1, L, S]
  mx::array allowed(int length, const Keys& keys, const Chosen& chosen, const Pass& pass) const;

  float scale() const;
  static std::optional<int> window(const Pass& pass);

  config::Mla config_;
  std::optional<Rotation> rotation_;
};

}  // namespace lmxlab::core
