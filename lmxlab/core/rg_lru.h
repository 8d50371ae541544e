// Griffin's recurrent block (arXiv:2402.19427), as in recurrent_gemma.
#pragma once

#include "lmxlab/core/linear.h"
#include "lmxlab/core/recurrent.h"

namespace lmxlab::core {

class RgLru : public Mixer {
 public:
  RgLru(const config::RgLru& config, const Build& build);
  mx::array operator()(const mx::array& x, Pass& pass) const override {
    return finish(mix(project(x, pass), pass), pass);
  }
  Arrays project(const mx::array& x, Pass&) const override {
    return core::project(x, {&linear_x, &linear_y});
  }
  mx::array mix(const Arrays& projected, Pass& pass) const override;
  mx::array finish(const mx::array& mixed, Pass&) const override { return linear_out(mixed); }
  void visit(Visitor& v) override {
    v("linear_x", linear_x), v("linear_y", linear_y);
    v("conv_1d", conv_1d), v("rg_lru", unit), v("linear_out", linear_out);
  }
  void visit_part(Visitor& v, bool first) override {
    if (!first) return v("linear_out", linear_out);
    v("linear_x", linear_x), v("linear_y", linear_y);
  }
  std::unique_ptr<LayerCache> make_cache(const CacheOptions&) const override;

  /// sigmoid(x W + b), each head by itself.
  struct Gate {
    Param weight;  // [H, W / H, W / H]: in, out
    Param bias;    // [H, W / H]
    /// [B, L, W] -> [B, L, W], float32.
    mx::array operator()(const mx::array& x) const;
  };
  struct Unit {
    Gate input, recurrent;
    Param recurrent_param;  // [W]
    void visit(Visitor& v) {
      v("input_gate_weight", input.weight), v("input_gate_bias", input.bias);
      v("recurrent_gate_weight", recurrent.weight), v("recurrent_gate_bias", recurrent.bias);
      v("recurrent_param", recurrent_param);
    }
  };

  Linear linear_x, linear_y;
  CausalConv conv_1d;
  Unit unit;
  Linear linear_out;

 private:
  config::RgLru config_;
};

}  // namespace lmxlab::core
