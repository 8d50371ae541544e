// RWKV-7's time mixing (arXiv:2503.14456). Its channel mixing is RwkvChannel without a gate.
#pragma once

#include "lmxlab/core/linear.h"
#include "lmxlab/core/recurrent.h"

namespace lmxlab::core {

class Rwkv7 : public Mixer {
 public:
  Rwkv7(const config::Rwkv7& config, const Build& build);
  mx::array operator()(const mx::array& x, Pass& pass) const override {
    return finish(mix({x}, pass), pass);
  }
  /// @param projected  x itself: every projection sees the position before.
  mx::array mix(const Arrays& projected, Pass& pass) const override;
  mx::array finish(const mx::array& mixed, Pass&) const override { return o_proj(mixed); }
  void visit(Visitor& v) override {
    v("x_r", x_r), v("x_w", x_w), v("x_k", x_k), v("x_v", x_v), v("x_a", x_a), v("x_g", x_g);
    v("k_k", k_k), v("k_a", k_a), v("r_k", r_k);
    v("r_proj", r_proj), v("k_proj", k_proj), v("v_proj", v_proj);
    v("w_lora", w_lora), v("a_lora", a_lora), v("v_lora", v_lora), v("g_lora", g_lora);
    v("g_norm", g_norm), v("o_proj", o_proj);
  }
  void visit_part(Visitor& v, bool first) override {
    if (!first) v("o_proj", o_proj);
  }
  std::unique_ptr<LayerCache> make_cache(const CacheOptions&) const override;

  struct LowRank {
    Linear down, up;
    void visit(Visitor& v) { v("lora.0", down), v("lora.2", up); }
  };
  struct Norm {
    Param weight, bias;  // [H N]
    void visit(Visitor& v) { v("weight", weight), v("bias", bias); }
  };

  Param x_r, x_w, x_k, x_v, x_a, x_g;  // [D]
  Param k_k, k_a;                      // [H N]
  Param r_k;                           // [H, N]
  Linear r_proj, k_proj, v_proj;
  LowRank w_lora, a_lora;
  std::optional<LowRank> v_lora;
  LowRank g_lora;
  Norm g_norm;
  Linear o_proj;

 private:
  int dim_;
  bool lends_;
  config::Rwkv7 config_;
};

}  // namespace lmxlab::core
