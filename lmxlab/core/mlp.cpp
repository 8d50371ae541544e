#include "lmxlab/core/mlp.h"

#include "lmxlab/kernels/gelu.h"

#include <mlx/ops.h>

namespace lmxlab::core {

mx::array activate(config::Act act, const mx::array& x) {
  const auto c = [&](double v) { return mx::array(static_cast<float>(v), x.dtype()); };
  switch (act) {
    case config::Act::silu: return mx::multiply(x, mx::sigmoid(x));
    case config::Act::gelu: return kernels::gelu(x);
    case config::Act::gelu_tanh: return kernels::gelu_tanh(x);
    case config::Act::relu: return mx::maximum(x, c(0));
    case config::Act::relu2: {
      const auto positive = mx::maximum(x, c(0));
      return mx::multiply(positive, positive);
    }
  }
  throw Error(Kind::internal, "[mlp] unknown activation");
}

Mlp::Mlp(const config::Mlp& c, const Build& b)
    : gate_proj(c.gated
                    ? std::optional<Linear>(std::in_place, b.dim, c.hidden, c.bias, b.std, b.init)
                    : std::nullopt),
      up_proj(b.dim, c.hidden, c.bias, b.std, b.init),
      down_proj(c.hidden, b.dim, c.bias, b.residual_std, b.init),
      act_(c.act) {}

mx::array Mlp::operator()(const mx::array& x, Pass&) const {
  const auto up = up_proj(x);
  return down_proj(gate_proj ? mx::multiply(activate(act_, (*gate_proj)(x)), up)
                             : activate(act_, up));
}

}  // namespace lmxlab::core
