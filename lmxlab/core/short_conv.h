// LFM2's short convolution: it remembers a few inputs and nothing else.
#pragma once

#include "lmxlab/core/linear.h"
#include "lmxlab/core/recurrent.h"

namespace lmxlab::core {

class ShortConv : public Mixer {
 public:
  ShortConv(const config::ShortConv& config, const Build& build);
  mx::array operator()(const mx::array& x, Pass& pass) const override {
    return finish(mix(project(x, pass), pass), pass);
  }
  Arrays project(const mx::array& x, Pass&) const override { return {in_proj(x)}; }
  mx::array mix(const Arrays& projected, Pass& pass) const override;
  mx::array finish(const mx::array& mixed, Pass&) const override { return out_proj(mixed); }
  void visit(Visitor& v) override {
    v("in_proj", in_proj), v("conv", conv), v("out_proj", out_proj);
  }
  void visit_part(Visitor& v, bool first) override {
    first ? v("in_proj", in_proj) : v("out_proj", out_proj);
  }
  std::unique_ptr<LayerCache> make_cache(const CacheOptions&) const override;

  Linear in_proj;  // B, C, x
  CausalConv conv;
  Linear out_proj;
};

}  // namespace lmxlab::core
