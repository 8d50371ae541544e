#include "lmxlab/core/mlp.h"

#include "lmxlab/kernels/activation.h"
#include "lmxlab/kernels/elementwise.h"
#include "lmxlab/kernels/quantized_mlp.h"

#include <mlx/ops.h>

#include <cmath>
#include <numbers>

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
      config_(c) {
  if (c.norm) norm.emplace(*c.norm, c.hidden);
  if (c.act == config::Act::xielu) xielu.emplace();
}

mx::array Mlp::gated_by(const mx::array& gate, const mx::array& up) const {
  const auto& c = config_;
  auto open = c.gate_scale == 1 ? gate : kernels::scale(gate, c.gate_scale);
  if (c.sparsity > 0) {
    const auto wide = kernels::cast(open, mx::float32);
    const auto deviations = mx::multiply(mx::erfinv(mx::array(2 * c.sparsity - 1)),
                                         mx::array(std::numbers::sqrt2_v<float>));
    const auto bound = mx::add(mx::mean(wide, -1, true),
                               mx::multiply(mx::sqrt(mx::var(wide, -1, true)), deviations));
    open = kernels::cast(mx::maximum(mx::subtract(wide, bound), mx::array(0.0f)), open.dtype());
  }
  return gated(c.act, open, up);
}

mx::array Mlp::operator()(const mx::array& x, Pass&) const {
  const auto act = config_.act;
  const auto packed = [](const Linear& l) {
    return l.weight.quantized() && !l.bias && !l.is_adapted();
  };
  const bool plain = !norm && !xielu && config_.gate_scale == 1 && config_.sparsity == 0;
  if (plain && packed(up_proj) && packed(down_proj) && (!gate_proj || packed(*gate_proj)))
    return kernels::quantized_mlp(
        x, gate_proj ? std::optional(gate_proj->weight.at_hand()) : std::nullopt,
        up_proj.weight.at_hand(), down_proj.weight.at_hand(), kind(act));
  const auto inner = [&] {
    if (xielu) return (*xielu)(up_proj(x));
    if (!gate_proj) return activate(act, up_proj(x));
    const auto both = project(x, {&*gate_proj, &up_proj});
    return gated_by(both[0], both[1]);
  }();
  return down_proj(norm ? (*norm)(inner) : inner);
}

}  // namespace lmxlab::core
