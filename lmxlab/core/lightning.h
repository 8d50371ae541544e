// Lightning attention (arXiv:2501.08313, section 2.2), as in minimax.
#pragma once

#include "lmxlab/core/linear.h"
#include "lmxlab/core/norm.h"
#include "lmxlab/core/recurrent.h"

namespace lmxlab::core {

/// Of a layer's heads: how fast their states decay, in the arithmetic of transformers' class.
std::vector<float> decay_rates(int heads, int layer, int layers);
/// x as the config has its decays.
float rounded_decay(const config::Lightning& config, double x);
/// exp(-rate d) for d = 0 ... block, rounded: [H, block + 1].
std::vector<float> decay_table(const config::Lightning& config, const std::vector<float>& rates);

class Lightning : public Mixer {
 public:
  Lightning(const config::Lightning& config, const Build& build);
  mx::array operator()(const mx::array& x, Pass& pass) const override {
    return finish(mix(project(x, pass), pass), pass);
  }
  Arrays project(const mx::array& x, Pass&) const override {
    return core::project(x, {&qkv_proj, &output_gate});
  }
  mx::array mix(const Arrays& projected, Pass& pass) const override;
  mx::array finish(const mx::array& mixed, Pass&) const override { return out_proj(mixed); }
  void visit(Visitor& v) override {
    v("qkv_proj", qkv_proj), v("output_gate", output_gate);
    v("norm", norm), v("out_proj", out_proj);
  }
  void visit_part(Visitor& v, bool first) override {
    if (!first) return v("out_proj", out_proj);
    v("qkv_proj", qkv_proj), v("output_gate", output_gate);
  }
  std::unique_ptr<LayerCache> make_cache(const CacheOptions&) const override;

  Linear qkv_proj;  // q, k and v of a head, then of the next
  Linear output_gate;
  Norm norm;
  Linear out_proj;

 private:
  mx::array by_exact(const mx::array& qkv, Pass& pass) const;
  mx::array by_blocks(const mx::array& qkv, Pass& pass) const;

  config::Lightning config_;
  std::vector<float> rates_;
  std::vector<float> table_;  // of rounded decays
};

}  // namespace lmxlab::core
