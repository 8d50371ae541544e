#include "lmxlab/core/weight.h"

#include "lmxlab/kernels/embedding.h"
#include "lmxlab/kernels/linear.h"
#include "lmxlab/kernels/quantized.h"

#include <mlx/ops.h>

namespace lmxlab::core {
namespace {

kernels::QuantizedWeight packed(const Weight& w) {
  return kernels::affine_weight(w.w.value, w.scales->value, w.biases->value, w.group, w.bits);
}

}  // namespace

mx::array Weight::matmul(const mx::array& x, const std::optional<Param>& bias) const {
  if (!quantized())
    return kernels::linear(x, w.value, bias ? std::optional(bias->value) : std::nullopt);
  if (bias) return mx::add(matmul(x), mx::astype(bias->value, x.dtype()));
  return kernels::quantized_linear(x, packed(*this));
}

mx::array Weight::rows(const mx::array& ids, std::optional<mx::Dtype> dtype) const {
  if (!quantized()) return kernels::embedding(w.value, ids, dtype.value_or(w.value.dtype()));
  return kernels::dequantize_rows(packed(*this), ids, dtype.value_or(scales->value.dtype()));
}

void Weight::quantize(int group_size, int bit_width) {
  const int in = w.value.shape(-1);
  if (quantized()) throw Error(Kind::usage, "[quantize] the weight is quantized already");
  if (in % group_size != 0)
    throw Error(Kind::usage, "[quantize] " + std::to_string(in) +
                                 " columns are no multiple of the group size " +
                                 std::to_string(group_size));
  const auto packed = mx::quantize(w.value, group_size, bit_width);
  w = {packed[0], false};
  scales = Param{packed[1], false}, biases = Param{packed[2], false};
  group = group_size, bits = bit_width;
}

}  // namespace lmxlab::core
