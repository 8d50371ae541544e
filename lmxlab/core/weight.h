// The slot that changes representation: a layer keeps its weight here and does not know whether it
// is float or packed.
#pragma once

#include "lmxlab/core/tree.h"
#include "lmxlab/kernels/quantized.h"

namespace lmxlab::core {

/// A matrix [out, in], dense or quantized along `in`: in one of MLX's layouts, or in blocks of a
/// GGUF file. Or a stack of them, [E, out, in]: the experts of a mixture, of which each row of x
/// meets one.
struct Weight {
  /// Numbers that are packed into small floats at a time: MLX compares each with all that there
  /// are, sixteen times its bytes.
  static constexpr int kAtATime = 1 << 18;

  Param w;  // [out, in] float; affine: packed uint32; blocks: uint8 [out, bytes of a row]
  std::optional<Param> scales = {}, biases = {};  // [out, in / group]
  int group = 0, bits = 0;
  bool interleaved = false;  // as kernels::QuantView says
  kernels::QuantFormat format = kernels::QuantFormat::affine;
  kernels::FloatFormat floats = kernels::FloatFormat::none;  // small floats, in MLX's layout

  bool blocks() const { return format != kernels::QuantFormat::affine; }
  bool quantized() const { return scales.has_value() || blocks(); }
  /// Of its numbers; none of packed ones that do not say.
  std::optional<mx::Dtype> dtype() const;
  /// As kernels take it; where quantized.
  kernels::QuantizedWeight packed() const;
  /// The same for a step, kept from one to the next while the arrays are evaluated and the same.
  kernels::QuantizedWeight at_hand() const;
  /// x W^T + bias: [..., in] -> [..., out], dtype of x.
  mx::array matmul(const mx::array& x, const std::optional<Param>& bias = std::nullopt) const;
  /// Of a stack: w[ids_i] x_i. x [n, in], uint32 ids [n] -> [n, out], as kernels::grouped_linear.
  mx::array grouped(const mx::array& x, const mx::array& ids, bool sorted,
                    bool absent = false) const;
  bool stacked() const { return w.value.ndim() == 3; }
  /// Rows as floats, those of a stack counted through: int ids [...] -> [..., in], of `dtype` or
  /// the weight's own.
  mx::array rows(const mx::array& ids, std::optional<mx::Dtype> dtype = {}) const;
  /// Packs it in place; the result is frozen.
  /// @throws Error(usage) if `in` is no multiple of the group.
  void quantize(int group_size, int bit_width);
  void quantize(kernels::FloatFormat to);

  /// Shapes and types of a packed weight, for what is loaded next.
  void expect_packed(int group_size, int bit_width);
  void expect_packed(kernels::FloatFormat of);
  void expect_blocks(kernels::QuantFormat block_format);
  /// Lays a quantized weight as this machine's kernels read it fastest, or affine ones as MLX does:
  /// the same numbers either way; stacks stay. Leaves are named after the layout, so that no file
  /// mixes them up.
  void interleave();
  void separate();
  /// Holds the same matrix as kernels gave it, in its layout.
  void hold(const kernels::QuantizedWeight& to);

  mutable std::optional<kernels::QuantizedWeight> ready = {};  // of at_hand

  void visit(Visitor& v) {
    v(interleaved ? "weight_tiles" : "weight", w);
    v(interleaved ? "scales_tiles" : "scales", scales);
    v(interleaved ? "biases_tiles" : "biases", biases);
  }
};

}  // namespace lmxlab::core
