// Mamba (arXiv:2312.00752), as in mamba, falcon_mamba and jamba.
#pragma once

#include "lmxlab/core/linear.h"
#include "lmxlab/core/norm.h"
#include "lmxlab/core/recurrent.h"

namespace lmxlab::core {

class Mamba : public Mixer {
 public:
  Mamba(const config::Mamba& config, const Build& build);
  mx::array operator()(const mx::array& x, Pass& pass) const override {
    return finish(mix(project(x, pass), pass), pass);
  }
  Arrays project(const mx::array& x, Pass&) const override { return {in_proj(x)}; }
  mx::array mix(const Arrays& projected, Pass& pass) const override;
  mx::array finish(const mx::array& mixed, Pass&) const override { return out_proj(mixed); }
  void visit(Visitor& v) override {
    v("in_proj", in_proj), v("conv1d", conv1d);
    v("x_proj", x_proj), v("dt_proj", dt_proj);
    v("A_log", A_log), v("D", D), v("out_proj", out_proj);
    v("dt_layernorm", dt_norm), v("b_layernorm", b_norm), v("c_layernorm", c_norm);
  }
  void visit_part(Visitor& v, bool first) override {
    first ? v("in_proj", in_proj) : v("out_proj", out_proj);
  }
  std::unique_ptr<LayerCache> make_cache(const CacheOptions&) const override;

  Linear in_proj;  // x, z
  CausalConv conv1d;
  Linear x_proj;  // what dt is made of, B, C
  Linear dt_proj;
  Param A_log;  // [I, N]
  Param D;      // [I]
  std::optional<Norm> dt_norm, b_norm, c_norm;
  Linear out_proj;

 private:
  config::Mamba config_;
};

}  // namespace lmxlab::core
