#include "lmxlab/core/norm.h"

#include "lmxlab/core/custom.h"
#include "lmxlab/core/init.h"
#include "lmxlab/kernels/elementwise.h"

#include <mlx/ops.h>

namespace lmxlab::core {

Norm::Norm(const config::Norm& config, int dim) {
  if (const auto* c = std::get_if<config::Custom>(&config)) {
    custom_ = make_custom_norm(*c, dim);
    return;
  }
  const auto scale = [&](float offset, bool learned) {
    weight_offset_ = offset;
    auto weight = offset == 0 ? ones({dim}) : mx::full({dim}, 1 - offset, mx::float32);
    learned ? void(weight_ = Param{std::move(weight)}) : void(fixed_ = std::move(weight));
  };
  if (const auto* rms = std::get_if<config::RmsNorm>(&config)) {
    eps_ = rms->eps;
    scale(rms->weight_offset, rms->weight);
  } else {
    const auto& layer = std::get<config::LayerNorm>(config);
    kind_ = kernels::NormKind::layer, eps_ = layer.eps;
    scale(layer.weight_offset, layer.weight);
    if (layer.bias) bias_ = Param{zeros({dim})};
  }
}

kernels::NormWeights Norm::weights() const {
  std::optional<mx::array> bias;
  if (bias_) bias = bias_->value;
  return {weight_ ? weight_->value : *fixed_, bias, weight_offset_};
}

mx::array Norm::operator()(const mx::array& x) const {
  return custom_ ? (*custom_)(x) : kernels::norm(kind_, x, weights(), eps_);
}

mx::array Norm::onto(const mx::array& residual, const mx::array& x) const {
  if (custom_) return kernels::add(residual, (*custom_)(x));
  return kernels::norm_onto(kind_, residual, x, weights(), eps_);
}

kernels::AddedNorm Norm::of_sum(const mx::array& x, const mx::array& branch) const {
  if (!custom_) return kernels::add_norm(kind_, x, branch, weights(), eps_);
  const auto sum = kernels::add(x, branch);
  return {sum, (*custom_)(sum)};
}

kernels::AddedNorm Norm::passing(const mx::array& x) const {
  if (custom_) return {x, (*custom_)(x)};
  return kernels::norm_passing(kind_, x, weights(), eps_);
}

}  // namespace lmxlab::core
