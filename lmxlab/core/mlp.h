// Dense FFNs: plain, gated (SwiGLU, GeGLU), squared ReLU.
#pragma once

#include "lmxlab/config/model.h"
#include "lmxlab/core/linear.h"
#include "lmxlab/core/mixer.h"

namespace lmxlab::core {

/// Elementwise; dtype kept. gelu: x (1 + erf(x / sqrt 2)) / 2; gelu_tanh: its usual tanh form
/// (arXiv:1606.08415); relu2: max(x, 0)^2 (arXiv:2109.08668).
mx::array activate(config::Act act, const mx::array& x);
/// act(gate) up, elementwise.
mx::array gated(config::Act act, const mx::array& gate, const mx::array& up);

class Mlp : public Ffn {
 public:
  Mlp(const config::Mlp& config, const Build& build);
  mx::array operator()(const mx::array& x, Pass& pass) const override;
  void visit(Visitor& v) override {
    v("gate_proj", gate_proj), v("up_proj", up_proj), v("down_proj", down_proj);
  }

  std::optional<Linear> gate_proj;
  Linear up_proj, down_proj;

 private:
  config::Act act_;
};

}  // namespace lmxlab::core
