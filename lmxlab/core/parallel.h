// Attention and Mamba-2 over one input, added, as in falcon_h1 (arXiv:2507.22448, section 2.1).
#pragma once

#include "lmxlab/core/attention.h"
#include "lmxlab/core/mamba2.h"

namespace lmxlab::core {

class Parallel : public Mixer {
 public:
  Parallel(const config::Parallel& config, const Build& build);
  mx::array operator()(const mx::array& x, Pass& pass) const override {
    return finish(mix(project(x, pass), pass), pass);
  }
  /// What attention projects, then what Mamba-2 does.
  Arrays project(const mx::array& x, Pass& pass) const override;
  /// Both, side by side along the last axis.
  mx::array mix(const Arrays& projected, Pass& pass) const override;
  mx::array finish(const mx::array& mixed, Pass& pass) const override;
  void visit(Visitor& v) override { v("attention", attention), v("mamba", mamba); }
  void visit_part(Visitor& v, bool first) override {
    attention.visit_part(v, first), mamba.visit_part(v, first);
  }
  std::unique_ptr<LayerCache> make_cache(const CacheOptions& options) const override;

  Attention attention;
  Mamba2 mamba;

 private:
  config::Parallel config_;
};

}  // namespace lmxlab::core
