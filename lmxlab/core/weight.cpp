#include "lmxlab/core/weight.h"

#include "lmxlab/kernels/embedding.h"
#include "lmxlab/kernels/grouped.h"
#include "lmxlab/kernels/linear.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <vector>

namespace lmxlab::core {
namespace {

// With another last axis.
mx::Shape with_columns(const mx::array& w, int columns) {
  auto shape = w.shape();
  shape.back() = columns;
  return shape;
}
mx::array flat(const mx::array& w) {
  return w.ndim() == 2 ? w : mx::reshape(w, {-1, w.shape(-1)});
}

}  // namespace

std::optional<mx::Dtype> Weight::dtype() const {
  if (blocks() || floats != kernels::FloatFormat::none) return std::nullopt;
  return (scales ? scales->value : w.value).dtype();
}

kernels::QuantizedWeight Weight::packed() const {
  if (blocks()) return kernels::block_weight(format, flat(w.value));
  if (floats != kernels::FloatFormat::none)
    return kernels::float_weight(floats, flat(w.value), flat(scales->value));
  return kernels::affine_weight(flat(w.value), flat(scales->value),
                                biases ? std::optional(flat(biases->value)) : std::nullopt, group,
                                bits, interleaved);
}

kernels::QuantizedWeight Weight::at_hand() const {
  const auto is = [](const std::optional<mx::array>& a, const std::optional<Param>& now) {
    return a ? now && a->id() == now->value.id() : !now;
  };
  if (ready && ready->packed.id() == w.value.id() && is(ready->scales, scales) &&
      is(ready->biases, biases))
    return *ready;
  ready.reset();
  auto made = packed();
  if (stacked()) {  // kernels read memory: its arrays as they are, not views to be computed
    made.packed = w.value;
    if (scales) made.scales = scales->value;
    if (biases) made.biases = biases->value;
  }
  made = kernels::at_hand(made);
  if (made.resident) ready = made;
  return made;
}

void Weight::expect_packed(int group_size, int bit_width) {
  const int in = w.value.shape(-1);
  const auto some = mx::zeros(with_columns(w.value, in / group_size), w.value.dtype());
  w = {mx::zeros(with_columns(w.value, in * bit_width / 32), mx::uint32), false};
  scales = Param{some, false}, biases = Param{some, false};
  group = group_size, bits = bit_width;
}

void Weight::expect_packed(kernels::FloatFormat of) {
  const auto [name, group_size, bit_width] = kernels::float_groups(of);
  const int in = w.value.shape(-1);
  scales = Param{mx::zeros(with_columns(w.value, in / group_size), mx::uint8), false};
  w = {mx::zeros(with_columns(w.value, in * bit_width / 32), mx::uint32), false};
  group = group_size, bits = bit_width, floats = of;
}

void Weight::expect_blocks(kernels::QuantFormat block_format) {
  const auto& block = kernels::block_format(block_format);
  const int bytes = w.value.shape(-1) / block.weights * block.bytes;
  w = {mx::zeros(with_columns(w.value, bytes), mx::uint8), false};
  format = block_format;
}

void Weight::interleave() {
  if (quantized() && !stacked() && kernels::faster_interleaved(packed()))
    hold(kernels::interleave(packed()));
}
void Weight::separate() {
  if (quantized() && !stacked() && !blocks()) hold(kernels::separate(packed()));
}
void Weight::hold(const kernels::QuantizedWeight& to) {
  ready.reset();
  w.value = to.packed, format = to.format, interleaved = to.interleaved;
  group = to.group, bits = to.bits, floats = to.floats;
  scales.reset(), biases.reset();
  if (to.scales) scales = Param{*to.scales, false};
  if (to.biases) biases = Param{*to.biases, false};
}

mx::array Weight::matmul(const mx::array& x, const std::optional<Param>& bias) const {
  if (!quantized())
    return kernels::linear(x, w.value, bias ? std::optional(bias->value) : std::nullopt);
  if (bias) return mx::add(matmul(x), mx::astype(bias->value, x.dtype()));
  return kernels::quantized_linear(x, at_hand());
}

mx::array Weight::grouped(const mx::array& x, const mx::array& ids, bool sorted,
                          bool absent) const {
  if (!quantized()) return kernels::grouped_linear(x, w.value, ids, sorted, absent);
  return kernels::grouped_linear(x, at_hand(), w.value.shape(0), ids, sorted,
                                 kernels::default_activations(), absent);
}

mx::array Weight::rows(const mx::array& ids, std::optional<mx::Dtype> dtype) const {
  if (!quantized()) return kernels::embedding(flat(w.value), ids, dtype.value_or(w.value.dtype()));
  return kernels::dequantize_rows(stacked() ? packed() : at_hand(), ids,
                                  dtype.value_or(this->dtype().value_or(mx::float32)));
}

namespace {

void can_be_packed(const Weight& w, int group_size) {
  const int in = w.w.value.shape(-1);
  if (w.quantized()) throw Error(Kind::usage, "[quantize] the weight is quantized already");
  if (in % group_size != 0)
    throw Error(Kind::usage, "[quantize] " + std::to_string(in) +
                                 " columns are no multiple of the group size " +
                                 std::to_string(group_size));
}

}  // namespace

void Weight::quantize(kernels::FloatFormat to) {
  const auto [name, group_size, bit_width] = kernels::float_groups(to);
  can_be_packed(*this, group_size);
  const auto matrix = flat(w.value);
  const int rows = matrix.shape(0), columns = matrix.shape(1);
  const int step = std::max(1, kAtATime / columns);
  std::vector<mx::array> packed, all_scales;
  for (int from = 0; from < rows; from += step) {
    const auto some = mx::slice(matrix, {from, 0}, {std::min(rows, from + step), columns});
    auto parts = mx::quantize(some, group_size, bit_width, name);
    mx::eval(parts);
    packed.push_back(std::move(parts[0])), all_scales.push_back(std::move(parts[1]));
  }
  const auto joined = [&](const std::vector<mx::array>& parts) {
    const auto all = parts.size() == 1 ? parts[0] : mx::concatenate(parts, 0);
    return stacked() ? mx::reshape(all, with_columns(w.value, all.shape(-1))) : all;
  };
  scales = Param{joined(all_scales), false};
  w = {joined(packed), false};
  group = group_size, bits = bit_width, floats = to;
}

void Weight::quantize(int group_size, int bit_width) {
  can_be_packed(*this, group_size);
  const auto parts = mx::quantize(w.value, group_size, bit_width);
  w = {parts[0], false};
  scales = Param{parts[1], false}, biases = Param{parts[2], false};
  group = group_size, bits = bit_width;
}

}  // namespace lmxlab::core
