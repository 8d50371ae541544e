// xLSTM's matrix memory (arXiv:2405.04517), as in xlstm.
#pragma once

#include "lmxlab/core/linear.h"
#include "lmxlab/core/recurrent.h"

namespace lmxlab::core {

class Mlstm : public Mixer {
 public:
  Mlstm(const config::Mlstm& config, const Build& build);
  mx::array operator()(const mx::array& x, Pass& pass) const override {
    return finish(mix(project(x, pass), pass), pass);
  }
  /// q, k, v, then what the output, input and forget gates are made of.
  Arrays project(const mx::array& x, Pass&) const override {
    return core::project(x, {&q, &k, &v, &output_gate, &input_gate, &forget_gate});
  }
  mx::array mix(const Arrays& projected, Pass& pass) const override;
  mx::array finish(const mx::array& mixed, Pass&) const override { return out_proj(mixed); }
  void visit(Visitor& visitor) override {
    visit_part(visitor, true);
    visitor("multihead_norm.weight", norm), visitor("out_proj", out_proj);
  }
  void visit_part(Visitor& visitor, bool first) override {
    if (!first) return visitor("out_proj", out_proj);
    visitor("q", q), visitor("k", k), visitor("v", v);
    visitor("ogate_preact", output_gate);
    visitor("igate_preact", input_gate), visitor("fgate_preact", forget_gate);
  }
  std::unique_ptr<LayerCache> make_cache(const CacheOptions&) const override;

  Linear q, k, v, output_gate;
  Linear input_gate, forget_gate;  // a number a head
  Param norm;                      // [H P]
  Linear out_proj;

 private:
  config::Mlstm config_;
};

}  // namespace lmxlab::core
