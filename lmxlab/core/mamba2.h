// Mamba-2: state-space duality (arXiv:2405.21060), as in mamba2, bamba, falcon_h1,
// granitemoehybrid, nemotron_h and zamba2.
#pragma once

#include "lmxlab/core/linear.h"
#include "lmxlab/core/recurrent.h"

namespace lmxlab::core {

class Mamba2 : public Mixer {
 public:
  Mamba2(const config::Mamba2& config, const Build& build);
  mx::array operator()(const mx::array& x, Pass& pass) const override {
    return finish(mix(project(x, pass), pass), pass);
  }
  Arrays project(const mx::array& x, Pass&) const override;
  mx::array mix(const Arrays& projected, Pass& pass) const override;
  mx::array finish(const mx::array& mixed, Pass&) const override { return out_proj(mixed); }
  void visit(Visitor& v) override {
    v("in_proj", in_proj), v("conv1d", conv1d);
    v("dt_bias", dt_bias), v("A_log", A_log), v("D", D);
    v("norm", norm), v("out_proj", out_proj);
  }
  void visit_part(Visitor& v, bool first) override {
    first ? v("in_proj", in_proj) : v("out_proj", out_proj);
  }
  std::unique_ptr<LayerCache> make_cache(const CacheOptions&) const override;

  Linear in_proj;  // z, x, B, C, dt
  CausalConv conv1d;
  Param dt_bias, A_log, D;  // [H]
  std::optional<GatedNorm> norm;
  Linear out_proj;

 private:
  config::Mamba2 config_;
  std::optional<mx::array> scales_;  // of what in_proj gives
};

}  // namespace lmxlab::core
