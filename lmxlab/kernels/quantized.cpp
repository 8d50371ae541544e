#include "lmxlab/kernels/quantized.h"

#include <mlx/mlx.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "lmxlab/kernels/dense.h"
#include "lmxlab/kernels/op.h"
#include "lmxlab/kernels/quantized_parts.h"
#include "lmxlab/kernels/thread_pool.h"

namespace lmxlab::kernels {
namespace {

namespace mx = mlx::core;
using mx::array;

constexpr int64_t kFewRows = 8;

// What an op keeps of a weight; its arrays are inputs.
struct Spec {
  QuantFormat format;
  int out, in, group, bits;

  explicit Spec(const QuantizedWeight& w)
      : format(w.format), out(w.out), in(w.in), group(w.group), bits(w.bits) {}
  bool operator==(const Spec&) const = default;
  /// Without its memory.
  QuantView view() const {
    QuantView v{format, out, in, nullptr};
    v.bits = bits, v.group = group;
    return v;
  }
};

Arrays arrays_of(const QuantizedWeight& w) {
  Arrays all{w.packed};
  if (w.format == QuantFormat::affine) all.insert(all.end(), {*w.scales, *w.biases});
  return all;
}

// The weight among an op's inputs, from the second on.
class Operand {
 public:
  Operand(const Spec& spec, const Arrays& in) : spec_(spec) {
    for (size_t i = 1; i < in.size(); i++) parts_.emplace_back(in[i]);
    if (in.size() > 2) scale_type_ = type_of(in[2].dtype());
  }
  /// Once, in the task.
  QuantView view() const {
    auto v = spec_.view();
    v.bytes = static_cast<const uint8_t*>(parts_[0].read());
    if (v.format == QuantFormat::affine) {
      v.scale_type = scale_type_, v.scales = parts_[1].read(), v.biases = parts_[2].read();
    }
    return v;
  }

 private:
  Spec spec_;
  std::vector<Dense> parts_;
  Type scale_type_ = Type::f32;
};

// Whether x [..., in] meets no tracer but x, so that a mapped axis is one more row axis.
bool only_first(const std::vector<int>& axes) {
  for (size_t i = 1; i < axes.size(); i++) {
    if (axes[i] >= 0) return false;
  }
  return true;
}

class DequantizeRows : public Op {  // ids int32 [...], weight -> [..., in]
 public:
  DequantizeRows(const Spec& spec, mx::Dtype dtype) : spec_(spec), dtype_(dtype) {}
  const char* name() const override { return "lmxlab::DequantizeRows"; }
  bool same(const Op& other) const override {
    const auto& op = static_cast<const DequantizeRows&>(other);
    return spec_ == op.spec_ && dtype_ == op.dtype_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    auto shape = in[0].shape();
    shape.push_back(spec_.in);
    return {shape};
  }

  static array of(const Spec& spec, Arrays in, mx::Dtype dtype) {
    auto op = std::make_shared<DequantizeRows>(spec, dtype);
    auto shape = op->output_shapes(in)[0];
    return array(std::move(shape), dtype, std::move(op), std::move(in));
  }

  Arrays plain(const Arrays& in) const override {
    if (spec_.format != QuantFormat::affine) return {of(spec_, in, dtype_)};
    const auto take = [&](int i) { return mx::take(in[i], in[0], 0); };
    const auto rows = mx::dequantize(take(1), mx::astype(take(2), dtype_),
                                     mx::astype(take(3), dtype_), spec_.group, spec_.bits);
    return {mx::astype(rows, dtype_)};
  }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    give(out[0]);
    const auto count = static_cast<int64_t>(in[0].size());
    task([ids = Dense(in[0]), w = Operand(spec_, in), type = type_of(dtype_),
          y = out[0].data<char>(), count, rows = spec_.out] {
      const auto view = w.view();
      const auto* id = static_cast<const int32_t*>(ids.read());
      for (int64_t i = 0; i < count; i++) {
        if (id[i] < -rows || id[i] >= rows) {
          throw Error(Kind::usage, "[dequantize_rows] row " + std::to_string(id[i]) +
                                       " of a matrix of " + std::to_string(rows) + ".");
        }
      }
      const int64_t bytes = view.in * size_of(type);
      parallel_for(count, std::max<int64_t>(1, 8192 / std::max<int64_t>(1, view.in)),
                   [&](int64_t a, int64_t b) {
                     for (int64_t i = a; i < b; i++) {
                       const int64_t r = id[i] < 0 ? id[i] + rows : id[i];
                       rows_to_numbers(view, r, r + 1, 0, view.in, type, y + i * bytes);
                     }
                   });
    });
  }

  std::pair<Arrays, std::vector<int>> vmap(const Arrays& in,
                                           const std::vector<int>& axes) override {
    if (!only_first(axes)) return Op::vmap(in, axes);
    auto all = in;
    all[0] = mx::moveaxis(in[0], axes[0], 0);
    return {{of(spec_, std::move(all), dtype_)}, {0}};
  }

 private:
  Spec spec_;
  mx::Dtype dtype_;
};

class QuantizedProduct : public Op {  // x, weight -> x W^T, or with `across` x W
 public:
  QuantizedProduct(const Spec& spec, bool across, Activations activations)
      : spec_(spec), across_(across), activations_(activations) {}
  const char* name() const override { return "lmxlab::QuantizedProduct"; }
  bool same(const Op& other) const override {
    const auto& op = static_cast<const QuantizedProduct&>(other);
    return spec_ == op.spec_ && across_ == op.across_ && activations_ == op.activations_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    auto shape = in[0].shape();
    shape.back() = across_ ? spec_.in : spec_.out;
    return {shape};
  }

  static array of(const Spec& spec, bool across, Activations activations, Arrays in) {
    auto op = std::make_shared<QuantizedProduct>(spec, across, activations);
    auto shape = op->output_shapes(in)[0];
    const auto dtype = in[0].dtype();
    return array(std::move(shape), dtype, std::move(op), std::move(in));
  }

  Arrays plain(const Arrays& in) const override {
    if (spec_.format == QuantFormat::affine) {
      const auto y =
          mx::quantized_matmul(in[0], in[1], in[2], in[3], !across_, spec_.group, spec_.bits);
      return {mx::astype(y, in[0].dtype())};
    }
    const auto w =
        DequantizeRows::of(spec_, {mx::arange(spec_.out, mx::int32), in[1]}, in[0].dtype());
    return {mx::matmul(in[0], across_ ? w : mx::transpose(w))};
  }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& y = out[0];
    give(y);
    if (y.size() == 0) return;
    const Type type = type_of(y.dtype());
    const int64_t n = y.shape(-1), m = static_cast<int64_t>(y.size()) / n;
    const MatrixOut to{y.data<char>(), type, n};
    const auto activations = activations_;
    const bool across = across_;
    if (in[0].size() == 0) {
      return task([to = y.data<char>(), bytes = y.nbytes()] { std::memset(to, 0, bytes); });
    }
    if (across || m > kFewRows) {
      // Rounding to bfloat16 is no loss where x came so, and where int8 would do.
      const bool coarse = type == Type::bf16 || activations == Activations::int8;
      const auto format = panels::format(coarse ? Type::bf16 : Type::f32);
      return task([=, x = Dense(in[0]), w = Operand(spec_, in)] {
        multiply_many(w.view(), across, format, m, type, x.read(), to);
      });
    }
    const auto kernel = dot_kernel(spec_.view(), activations);
    task([=, x = Dense(in[0]), w = Operand(spec_, in),
          room = Scratch<char>(few_room(spec_.view(), m, kernel.layout))] {
      multiply_few(w.view(), kernel, m, type, x.read(), to, room.get());
    });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override {
    if (argnums.size() != 1 || argnums[0] != 0) {
      return Op::vjp(primals, cotangents, argnums, outputs);
    }
    auto in = primals;
    in[0] = cotangents[0];
    return {of(spec_, !across_, activations_, std::move(in))};
  }
  Arrays jvp(const Arrays& primals, const Arrays& tangents,
             const std::vector<int>& argnums) override {
    if (argnums.size() != 1 || argnums[0] != 0) return Op::jvp(primals, tangents, argnums);
    auto in = primals;
    in[0] = tangents[0];
    return {of(spec_, across_, activations_, std::move(in))};
  }
  std::pair<Arrays, std::vector<int>> vmap(const Arrays& in,
                                           const std::vector<int>& axes) override {
    if (!only_first(axes)) return Op::vmap(in, axes);
    auto all = in;
    all[0] = mx::moveaxis(in[0], axes[0], 0);
    return {{of(spec_, across_, activations_, std::move(all))}, {0}};
  }

 private:
  Spec spec_;
  bool across_;
  Activations activations_;
};

std::string shape_text(const array& a) {
  std::string text = "[";
  for (int i = 0; i < static_cast<int>(a.ndim()); i++) {
    text += (i ? ", " : "") + std::to_string(a.shape(i));
  }
  return text + "]";
}

void require(bool holds, const std::string& message) {
  if (!holds) throw Error(Kind::usage, message);
}

}  // namespace

QuantizedWeight affine_weight(array packed, array scales, array biases, int group, int bits) {
  require(bits >= 2 && bits <= 8 && bits != 7,
          "[quantized] bits must be 2, 3, 4, 5, 6 or 8, got " + std::to_string(bits) + ".");
  require(group == 32 || group == 64 || group == 128,
          "[quantized] the group must be 32, 64 or 128, got " + std::to_string(group) + ".");
  require(packed.dtype() == mx::uint32 && packed.ndim() == 2,
          "[quantized] packed weights must be uint32 with 2 axes.");
  require(scales.shape() == biases.shape() && scales.dtype() == biases.dtype() &&
              has_type(scales.dtype()),
          "[quantized] scales and biases must agree in shape and in a float dtype: got " +
              shape_text(scales) + " and " + shape_text(biases) + ".");
  const int in = packed.shape(1) * 32 / bits;
  require(scales.ndim() == 2 && scales.shape(0) == packed.shape(0) && in % group == 0 &&
              scales.shape(1) == in / group && in * bits == packed.shape(1) * 32,
          "[quantized] packed weights " + shape_text(packed) + " of " + std::to_string(bits) +
              " bits do not fit scales " + shape_text(scales) + " of groups of " +
              std::to_string(group) + ".");
  const int out = packed.shape(0);
  return {QuantFormat::affine, out,   in,  std::move(packed), std::move(scales),
          std::move(biases),   group, bits};
}

QuantizedWeight block_weight(QuantFormat format, array bytes) {
  require(format != QuantFormat::affine, "[quantized] affine weights are three arrays.");
  const auto& block = block_format(format);
  require(bytes.dtype() == mx::uint8 && bytes.ndim() == 2 && bytes.shape(1) % block.bytes == 0,
          "[quantized] " + std::string(block.name) + " weights must be uint8 [out, a multiple of " +
              std::to_string(block.bytes) + "], got " + shape_text(bytes) + ".");
  const int out = bytes.shape(0), in = bytes.shape(1) / block.bytes * block.weights;
  return {format, out, in, std::move(bytes)};
}

array quantized_linear(const array& x, const QuantizedWeight& w, Activations activations) {
  require(x.ndim() > 0 && x.shape(-1) == w.in, "[quantized_linear] the last axis of x must be " +
                                                   std::to_string(w.in) + ", got " + shape_text(x) +
                                                   ".");
  Arrays in{x};
  for (auto& a : arrays_of(w)) in.push_back(std::move(a));
  if (!fused(x.dtype())) {
    return QuantizedProduct(Spec(w), false, activations).plain(in)[0];
  }
  return QuantizedProduct::of(Spec(w), false, activations, std::move(in));
}

array dequantize_rows(const QuantizedWeight& w, const array& ids, mx::Dtype dtype) {
  require(has_type(dtype), "[dequantize_rows] the dtype must be float32, bfloat16 or float16.");
  Arrays in{mx::astype(ids, mx::int32)};
  for (auto& a : arrays_of(w)) in.push_back(std::move(a));
  if (w.format == QuantFormat::affine && !fused(dtype)) {
    return DequantizeRows(Spec(w), dtype).plain(in)[0];
  }
  return DequantizeRows::of(Spec(w), std::move(in), dtype);
}

}  // namespace lmxlab::kernels
