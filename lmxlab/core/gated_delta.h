// Gated DeltaNet (arXiv:2412.06464), as in qwen3_next, qwen3_5 and olmo_hybrid.
#pragma once

#include "lmxlab/core/linear.h"
#include "lmxlab/core/recurrent.h"

namespace lmxlab::core {

class GatedDelta : public Mixer {
 public:
  GatedDelta(const config::GatedDelta& config, const Build& build);
  mx::array operator()(const mx::array& x, Pass& pass) const override {
    return finish(mix(project(x, pass), pass), pass);
  }
  Arrays project(const mx::array& x, Pass& pass) const override;
  mx::array mix(const Arrays& projected, Pass& pass) const override;
  mx::array finish(const mx::array& mixed, Pass&) const override { return output(mixed); }
  void visit(Visitor& v) override;
  void visit_part(Visitor& v, bool first) override;
  std::unique_ptr<LayerCache> make_cache(const CacheOptions&) const override;

  struct Named {
    const char* name;
    Linear linear;
  };
  std::vector<Named> inputs;  // in the order of DeltaProjections' text
  CausalConv conv1d;
  Param dt_bias, A_log;  // [H]
  GatedNorm norm;
  Linear output;

 private:
  bool separate() const { return config_.projections == config::DeltaProjections::separate; }

  config::GatedDelta config_;
};

}  // namespace lmxlab::core
