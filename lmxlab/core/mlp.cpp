#include "lmxlab/core/mlp.h"

#include "lmxlab/kernels/activation.h"
#include "lmxlab/kernels/quantized_mlp.h"

namespace lmxlab::core {

namespace {

kernels::Activation kind(config::Act act) {
  switch (act) {
    case config::Act::silu: return kernels::Activation::silu;
    case config::Act::gelu: return kernels::Activation::gelu;
    case config::Act::gelu_tanh: return kernels::Activation::gelu_tanh;
    case config::Act::relu: return kernels::Activation::relu;
    case config::Act::relu2: return kernels::Activation::relu2;
  }
  throw Error(Kind::internal, "[mlp] unknown activation");
}

}  // namespace

mx::array activate(config::Act act, const mx::array& x) {
  return kernels::activate(kind(act), x);
}

mx::array gated(config::Act act, const mx::array& gate, const mx::array& up) {
  return kernels::gated(kind(act), gate, up);
}

Mlp::Mlp(const config::Mlp& c, const Build& b)
    : gate_proj(c.gated
                    ? std::optional<Linear>(std::in_place, b.dim, c.hidden, c.bias, b.std, b.init)
                    : std::nullopt),
      up_proj(b.dim, c.hidden, c.bias, b.std, b.init),
      down_proj(c.hidden, b.dim, c.bias, b.residual_std, b.init),
      act_(c.act) {}

mx::array Mlp::operator()(const mx::array& x, Pass&) const {
  const auto packed = [](const Linear& l) { return l.weight.quantized() && !l.bias; };
  if (packed(up_proj) && packed(down_proj) && (!gate_proj || packed(*gate_proj)))
    return kernels::quantized_mlp(
        x, gate_proj ? std::optional(gate_proj->weight.at_hand()) : std::nullopt,
        up_proj.weight.at_hand(), down_proj.weight.at_hand(), kind(act_));
  if (!gate_proj) return down_proj(activate(act_, up_proj(x)));
  const auto both = project(x, {&*gate_proj, &up_proj});
  return down_proj(gated(act_, both[0], both[1]));
}

}  // namespace lmxlab::core
