#include "lmxlab/core/norm.h"

#include "lmxlab/core/custom.h"
#include "lmxlab/core/init.h"
#include "lmxlab/kernels/norm.h"

#include <mlx/fast.h>
#include <mlx/ops.h>

namespace lmxlab::core {

Norm::Norm(const config::Norm& config, int dim) : config_(config) {
  if (const auto* c = std::get_if<config::Custom>(&config)) {
    custom_ = make_custom_norm(*c, dim);
  } else if (const auto* rms = std::get_if<config::RmsNorm>(&config)) {
    weight_ = Param{rms->weight_offset == 0 ? ones({dim})
                                            : mx::full({dim}, 1 - rms->weight_offset, mx::float32)};
  } else {
    weight_ = Param{ones({dim})};
    if (std::get<config::LayerNorm>(config).bias) bias_ = Param{zeros({dim})};
  }
}

mx::array Norm::operator()(const mx::array& x) const {
  if (custom_) return (*custom_)(x);
  const auto weight = mx::astype(weight_->value, x.dtype());
  if (const auto* rms = std::get_if<config::RmsNorm>(&config_)) {
    if (rms->weight_offset == 0) return kernels::rms_norm(x, weight, rms->eps);
    const auto shifted = mx::add(weight, mx::array(rms->weight_offset, x.dtype()));
    return kernels::rms_norm(x, shifted, rms->eps);
  }
  const float eps = std::get<config::LayerNorm>(config_).eps;
  if (!bias_) return mx::fast::layer_norm(x, weight, std::nullopt, eps);
  return kernels::layer_norm(x, weight, mx::astype(bias_->value, x.dtype()), eps);
}

}  // namespace lmxlab::core
