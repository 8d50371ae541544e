#include "lmxlab/core/mlp.h"

#include "lmxlab/kernels/activation.h"
#include "lmxlab/kernels/elementwise.h"
#include "lmxlab/kernels/quantized_mlp.h"

#include <mlx/ops.h>

#include <cmath>

namespace lmxlab::core {

namespace {

kernels::Activation kind(config::Act act) {
  switch (act) {
    case config::Act::silu: return kernels::Activation::silu;
    case config::Act::gelu: return kernels::Activation::gelu;
    case config::Act::gelu_tanh: return kernels::Activation::gelu_tanh;
    case config::Act::relu: return kernels::Activation::relu;
    case config::Act::relu2: return kernels::Activation::relu2;
    case config::Act::xielu: break;  // it has weights
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

namespace {

constexpr float kBeta = 0.5f, kEps = -1e-6f, kFirst = 0.8f;

Param softplus_of(float value) {
  return {mx::full({1}, std::log(std::expm1(value)), mx::float32)};
}

}  // namespace

Xielu::Xielu() : alpha_p(softplus_of(kFirst)), alpha_n(softplus_of(kFirst - kBeta)) {}

mx::array Xielu::operator()(const mx::array& x) const {
  const auto softplus = [](const Param& p) {
    return mx::logaddexp(mx::astype(p.value, mx::float32), mx::array(0.0f));
  };
  const auto wide = kernels::cast(x, mx::float32), beta = mx::array(kBeta);
  const auto square = mx::multiply(softplus(alpha_p), mx::square(wide));
  const auto below = mx::subtract(mx::expm1(mx::minimum(wide, mx::array(kEps))), wide);
  const auto bent = mx::where(mx::greater(wide, mx::array(0.0f)), square,
                              mx::multiply(mx::add(beta, softplus(alpha_n)), below));
  return kernels::cast(mx::add(bent, mx::multiply(beta, wide)), x.dtype());
}

Mlp::Mlp(const config::Mlp& c, const Build& b)
    : gate_proj(c.gated
                    ? std::optional<Linear>(std::in_place, b.dim, c.hidden, c.bias, b.std, b.init)
                    : std::nullopt),
      up_proj(b.dim, c.hidden, c.bias, b.std, b.init),
      down_proj(c.hidden, b.dim, c.bias, b.residual_std, b.init),
      act_(c.act) {
  if (c.norm) norm.emplace(*c.norm, c.hidden);
  if (c.act == config::Act::xielu) xielu.emplace();
}

mx::array Mlp::operator()(const mx::array& x, Pass&) const {
  const auto packed = [](const Linear& l) { return l.weight.quantized() && !l.bias; };
  if (!norm && !xielu && packed(up_proj) && packed(down_proj) && (!gate_proj || packed(*gate_proj)))
    return kernels::quantized_mlp(
        x, gate_proj ? std::optional(gate_proj->weight.at_hand()) : std::nullopt,
        up_proj.weight.at_hand(), down_proj.weight.at_hand(), kind(act_));
  const auto inner = [&] {
    if (xielu) return (*xielu)(up_proj(x));
    if (!gate_proj) return activate(act_, up_proj(x));
    const auto both = project(x, {&*gate_proj, &up_proj});
    return gated(act_, both[0], both[1]);
  }();
  return down_proj(norm ? (*norm)(inner) : inner);
}

}  // namespace lmxlab::core
