// Kimi Delta Attention (arXiv:2510.26692), as in kimi_linear and bailing_hybrid.
#pragma once

#include "lmxlab/core/linear.h"
#include "lmxlab/core/recurrent.h"

namespace lmxlab::core {

class KimiDelta : public Mixer {
 public:
  KimiDelta(const config::KimiDelta& config, const Build& build);
  mx::array operator()(const mx::array& x, Pass& pass) const override {
    return finish(mix(project(x, pass), pass), pass);
  }
  /// q, k and v beside each other, beta's logits, the decays' and the gate's.
  Arrays project(const mx::array& x, Pass& pass) const override;
  mx::array mix(const Arrays& projected, Pass& pass) const override;
  mx::array finish(const mx::array& mixed, Pass&) const override { return o_proj(mixed); }
  void visit(Visitor& v) override;
  void visit_part(Visitor& v, bool first) override;
  std::unique_ptr<LayerCache> make_cache(const CacheOptions&) const override;

  /// up(down(x)), or one matrix.
  struct LowRank {
    std::optional<Linear> down;
    Linear up;
    mx::array operator()(const mx::array& x) const { return up(down ? (*down)(x) : x); }
  };

  Linear q_proj, k_proj, v_proj, b_proj;
  LowRank forget, gate;
  CausalConv conv1d;
  Param dt_bias;  // [H Dh]
  Param A_log;    // [H]
  GatedNorm o_norm;
  Linear o_proj;

 private:
  void visit_low_rank(Visitor& v, const std::string& name, LowRank& part) const;

  config::KimiDelta config_;
};

}  // namespace lmxlab::core
