#include "lmxlab/core/linear.h"

#include "lmxlab/kernels/elementwise.h"
#include "lmxlab/kernels/embedding.h"
#include "lmxlab/kernels/quantized.h"

#include <mlx/ops.h>

#include <algorithm>

namespace lmxlab::core {

Linear::Linear(int in, int out, bool with_bias, float std, Init& init)
    : weight{{init.normal({out, in}, std)}} {
  if (with_bias) bias = Param{zeros({out})};
}

mx::array Linear::operator()(const mx::array& x) const {
  if (!is_adapted()) return weight.matmul(x, bias);
  const auto y = without_bias(x);
  return bias ? kernels::add(y, kernels::cast(bias->value, y.dtype())) : y;
}

bool Linear::is_adapted() const {
  return std::any_of(adapters.begin(), adapters.end(), [](const Adapter& a) { return a.on; });
}

mx::array Linear::adapted(const mx::array& x, mx::array y) const {
  for (const auto& a : adapters)
    if (a.on) y = core::adapted(a, weight, x, y);
  return y;
}

mx::array Linear::matrix(mx::Dtype dtype) const {
  const auto own = [&](mx::Dtype t) {
    return weight.quantized() ? weight.rows(mx::arange(weight.packed().out, mx::int32), t)
                              : kernels::cast(weight.w.value, t);
  };
  if (!is_adapted()) return own(dtype);
  auto all = own(mx::float32);
  for (const auto& a : adapters)
    if (a.on) all = adapted_matrix(a, all);
  return kernels::cast(all, dtype);
}

std::vector<mx::array> project(const mx::array& x, const std::vector<const Linear*>& layers) {
  std::vector<mx::array> out;
  if (!std::all_of(layers.begin(), layers.end(),
                   [](const Linear* l) { return l->weight.quantized(); })) {
    for (const auto* l : layers) out.push_back((*l)(x));
    return out;
  }
  std::vector<kernels::QuantizedWeight> weights;
  for (const auto* l : layers) weights.push_back(l->weight.at_hand());
  out = kernels::quantized_linears(x, weights);
  for (size_t i = 0; i < layers.size(); ++i) out[i] = layers[i]->adapted(x, out[i]);
  for (size_t i = 0; i < layers.size(); ++i)
    if (const auto& bias = layers[i]->bias)
      out[i] = mx::add(out[i], mx::astype(bias->value, x.dtype()));
  return out;
}

ExpertLinear::ExpertLinear(int experts, int in, int out, bool with_bias, float std, Init& init)
    : weight{{init.normal({experts, out, in}, std)}} {
  if (with_bias) bias = Param{zeros({experts, out})};
}

mx::array ExpertLinear::operator()(const mx::array& x, const mx::array& experts, bool sorted,
                                   bool absent) const {
  const auto y = weight.grouped(x, experts, sorted, absent);
  if (!bias) return y;
  return mx::add(y, kernels::embedding(bias->value, experts, x.dtype()));
}

Embedding::Embedding(int vocab, int dim, float std, Init& init)
    : weight{{init.normal({vocab, dim}, std)}} {}

}  // namespace lmxlab::core
