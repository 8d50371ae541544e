// Dense FFNs: plain, gated (SwiGLU, GeGLU), squared ReLU.
#pragma once

#include "lmxlab/config/model.h"
#include "lmxlab/core/linear.h"
#include "lmxlab/core/mixer.h"
#include "lmxlab/core/norm.h"

namespace lmxlab::core {

/// Elementwise; dtype kept. gelu: x (1 + erf(x / sqrt 2)) / 2; gelu_tanh: its usual tanh form
/// (arXiv:1606.08415); relu2: max(x, 0)^2 (arXiv:2109.08668).
mx::array activate(config::Act act, const mx::array& x);
/// act(gate) up, elementwise.
mx::array gated(config::Act act, const mx::array& gate, const mx::array& up);

/// arXiv:2411.13010, with its beta of 0.5 and eps of -1e-6:
///   x > 0: p x^2 + x / 2        else: n (exp(min(x, eps)) - 1 - x) + x / 2
/// p = softplus(alpha_p), n = 1/2 + softplus(alpha_n).
struct Xielu {
  Xielu();
  mx::array operator()(const mx::array& x) const;
  void visit(Visitor& v) { v("alpha_p", alpha_p), v("alpha_n", alpha_n); }

  Param alpha_p, alpha_n;  // [1]
};

class Mlp : public Ffn {
 public:
  Mlp(const config::Mlp& config, const Build& build);
  mx::array operator()(const mx::array& x, Pass& pass) const override;
  void visit(Visitor& v) override {
    v("gate_proj", gate_proj), v("up_proj", up_proj), v("down_proj", down_proj);
    v("norm", norm), v("act_fn", xielu);
  }

  std::optional<Linear> gate_proj;
  Linear up_proj, down_proj;
  std::optional<Norm> norm;
  std::optional<Xielu> xielu;

 private:
  mx::array gated_by(const mx::array& gate, const mx::array& up) const;
  config::Mlp config_;
};

}  // namespace lmxlab::core
