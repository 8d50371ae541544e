#include "lmxlab/kernels/quantized.h"

#include <mlx/allocator.h>
#include <mlx/backend/cuda/cuda.h>
#include <mlx/mlx.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "lmxlab/kernels/dense.h"
#include "lmxlab/kernels/one_order.h"
#include "lmxlab/kernels/op.h"
#include "lmxlab/kernels/quantized_operand.h"
#include "lmxlab/kernels/quantized_parts.h"
#include "lmxlab/kernels/rehearsal.h"
#include "lmxlab/kernels/thread_pool.h"

namespace lmxlab::kernels {
namespace {

namespace mx = mlx::core;
using mx::array;

thread_local Activations chosen_activations = Activations::int16;

// Whether x [..., in] meets no tracer but x, so that a mapped axis is one more row axis.
bool only_first(const std::vector<int>& axes) {
  for (size_t i = 1; i < axes.size(); i++) {
    if (axes[i] >= 0) return false;
  }
  return true;
}

// [out, n] with rows interleaved in tiles, or apart again.
array laid_out(const array& a, bool interleaved) {
  const int rows = interleaved ? kTileRows : a.shape(1),
            columns = interleaved ? a.shape(1) : kTileRows;
  const auto tiles = mx::reshape(a, {a.shape(0) / kTileRows, rows, columns});
  return mx::reshape(mx::contiguous(mx::swapaxes(tiles, 1, 2)), a.shape());
}
// Those that a symmetric weight leaves out.
array biases_of(const array& scales, int bits) {
  return mx::multiply(scales, array(symmetric_bias(bits), scales.dtype()));
}
// Each block of 32 weights of 5 bits in another order of its bits.
array recoded(array from, void (*recode)(const uint32_t*, uint32_t*)) {
  from = mx::contiguous(from);
  from.eval();
  array to(mx::allocator::malloc(from.nbytes()), from.shape(), mx::uint32);
  const auto* const a = from.data<uint32_t>();
  auto* const b = to.data<uint32_t>();
  if (rehearsing()) return to;
  constexpr int64_t words = FiveBits::kWords;
  parallel_for(static_cast<int64_t>(from.size()) / words, 1024, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++) recode(a + words * i, b + words * i);
  });
  return to;
}
QuantizedWeight laid_out(const QuantizedWeight& w, bool interleaved) {
  if (w.interleaved == interleaved || w.floats != FloatFormat::none) return w;
  auto to = w;
  to.packed = interleaved
                  ? laid_out(w.bits == 5 ? recoded(w.packed, FiveBits::cut) : w.packed, true)
                  : laid_out(w.packed, false);
  if (!interleaved && w.bits == 5) to.packed = recoded(to.packed, FiveBits::join);
  to.scales = laid_out(*w.scales, interleaved);
  to.biases = laid_out(w.biases ? *w.biases : biases_of(*w.scales, w.bits), interleaved);
  to.interleaved = interleaved;
  return to;
}

// Whether ordinary ops can read it; the others become numbers first.
bool is_plain(const QuantSpec& spec) {
  return spec.format == QuantFormat::affine && !(spec.interleaved && spec.bits == 5);
}
// A weight's arrays for ordinary ops.
Arrays plain_arrays(const QuantSpec& spec, const Arrays& in, size_t first) {
  auto all = spec.arrays(in, first);
  for (auto& a : all) {
    if (spec.interleaved) a = laid_out(a, false);
  }
  if (all.size() == 2) all.push_back(biases_of(all[1], spec.bits));
  return all;
}

class DequantizeRows : public Op {  // ids int32 [...], weight -> [..., in]
 public:
  DequantizeRows(const QuantSpec& spec, mx::Dtype dtype) : spec_(spec), dtype_(dtype) {}
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

  static array of(const QuantSpec& spec, Arrays in, mx::Dtype dtype) {
    auto op = std::make_shared<DequantizeRows>(spec, dtype);
    auto shape = op->output_shapes(in)[0];
    return array(std::move(shape), dtype, std::move(op), std::move(in));
  }

  Arrays plain(const Arrays& in) const override {
    if (!is_plain(spec_)) return {of(spec_, in, dtype_)};
    const auto w = plain_arrays(spec_, in, 1);
    const auto take = [&](size_t i) { return mx::take(w[i], in[0], 0); };
    const auto rows = mx::dequantize(take(0), mx::astype(take(1), dtype_),
                                     mx::astype(take(2), dtype_), spec_.group, spec_.bits);
    return {mx::astype(rows, dtype_)};
  }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    give(out[0]);
    const auto count = static_cast<int64_t>(in[0].size());
    task([ids = Dense(in[0]), w = Operand(spec_, in, 1), type = type_of(dtype_),
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
  QuantSpec spec_;
  mx::Dtype dtype_;
};

// x, weights -> x W^T for each; or with `across` and one weight x W.
class QuantizedProducts : public Op {
 public:
  QuantizedProducts(std::vector<QuantSpec> specs, bool across, Activations activations)
      : specs_(std::move(specs)), across_(across), activations_(activations) {}
  const char* name() const override { return "lmxlab::QuantizedProducts"; }
  bool same(const Op& other) const override {
    const auto& op = static_cast<const QuantizedProducts&>(other);
    return specs_ == op.specs_ && across_ == op.across_ && activations_ == op.activations_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    std::vector<mx::Shape> shapes;
    for (const auto& spec : specs_) {
      shapes.push_back(in[0].shape());
      shapes.back().back() = across_ ? spec.in : spec.out;
    }
    return shapes;
  }

  static Arrays of(std::vector<QuantSpec> specs, bool across, Activations activations, Arrays in) {
    auto op = std::make_shared<QuantizedProducts>(std::move(specs), across, activations);
    auto shapes = op->output_shapes(in);
    const std::vector<mx::Dtype> dtypes(shapes.size(), in[0].dtype());
    if (shapes.size() == 1) return {array(shapes[0], dtypes[0], std::move(op), std::move(in))};
    return array::make_arrays(std::move(shapes), dtypes, std::move(op), std::move(in));
  }

  // Tiles of more rows and such groups want more than the 48 KB that a block of a CUDA kernel has
  // unless it asks, which MLX 0.32 does not.
  static bool beyond_card(const QuantSpec& spec, const array& x) {
    return spec.group == 128 && x.dtype() == mx::float32 &&
           static_cast<int64_t>(x.size()) > int64_t{32} * x.shape(-1) && mx::cu::is_available();
  }

  Arrays plain(const Arrays& in) const override {
    Arrays out;
    const auto dtype = in[0].dtype();
    size_t at = 1;
    for (const auto& spec : specs_) {
      if (is_plain(spec)) {
        const auto parts = plain_arrays(spec, in, at);
        if (beyond_card(spec, in[0])) {
          const auto w = mx::dequantize(parts[0], parts[1], parts[2], spec.group, spec.bits);
          out.push_back(mx::matmul(in[0], across_ ? w : mx::transpose(w)));
        } else {
          const auto y = mx::quantized_matmul(in[0], parts[0], parts[1], parts[2], !across_,
                                              spec.group, spec.bits);
          out.push_back(mx::astype(y, dtype));
        }
      } else {
        Arrays rows{mx::arange(spec.out, mx::int32)};
        for (size_t i = 0; i < spec.inputs(); i++) rows.push_back(in[at + i]);
        const auto w = DequantizeRows::of(spec, std::move(rows), dtype);
        out.push_back(mx::matmul(in[0], across_ ? w : mx::transpose(w)));
      }
      at += spec.inputs();
    }
    return out;
  }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    for (auto& y : out) give(y);
    const auto& x = in[0];
    const Type type = type_of(x.dtype());
    if (x.size() == 0) {  // no rows, or rows of nothing
      for (auto& y : out) {
        task([to = y.data<char>(), bytes = y.nbytes()] { std::memset(to, 0, bytes); });
      }
      return;
    }
    const int64_t m = static_cast<int64_t>(x.size()) / x.shape(-1);
    std::vector<Operand> weights;
    std::vector<FewProduct> products;
    size_t at = 1;
    for (size_t i = 0; i < specs_.size(); i++) {
      weights.emplace_back(specs_[i], in, at);
      at += specs_[i].inputs();
      products.push_back(
          {specs_[i].view(), {}, {out[i].data<char>(), type, int64_t{out[i].shape(-1)}}});
    }
    if (across_ || m > kFewRows || one_order()) {
      const auto format = panels::format(many_rows_type(type, activations_));
      const Dense dense(x);  // its copy is there before the task's workspace
      for (size_t i = 0; rehearsing() && i < products.size(); i++) {
        expect_workspace(many_room(specs_[i].view(), across_, format, m, type));
      }
      return task([=, across = across_] {
        const void* const from = dense.read();
        for (size_t i = 0; i < products.size(); i++) {
          if (products[i].y.ld == 0) continue;
          multiply_many(weights[i].view(), across, format, m, type, from, products[i].y);
        }
      });
    }
    for (auto& p : products) p.kernel = dot_kernel(p.w, activations_);
    task([=, x = Dense(x), room = Scratch<char>(few_room(products, m))]() mutable {
      for (size_t i = 0; i < products.size(); i++) products[i].w = weights[i].view();
      multiply_few(products, m, type, x.read(), room.get());
    });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override {
    if (argnums.size() != 1 || argnums[0] != 0) {
      return Op::vjp(primals, cotangents, argnums, outputs);
    }
    Arrays terms;
    size_t at = 1;
    for (size_t i = 0; i < specs_.size(); i++) {
      Arrays in{cotangents[i]};
      const auto from = primals.begin() + static_cast<int64_t>(at);
      const auto count = static_cast<int64_t>(specs_[i].inputs());
      in.insert(in.end(), from, from + count);
      terms.push_back(of({specs_[i]}, !across_, activations_, std::move(in))[0]);
      at += static_cast<size_t>(count);
    }
    for (size_t i = 1; i < terms.size(); i++) terms[0] = mx::add(terms[0], terms[i]);
    return {terms[0]};
  }
  Arrays jvp(const Arrays& primals, const Arrays& tangents,
             const std::vector<int>& argnums) override {
    if (argnums.size() != 1 || argnums[0] != 0) return Op::jvp(primals, tangents, argnums);
    auto in = primals;
    in[0] = tangents[0];
    return of(specs_, across_, activations_, std::move(in));
  }
  std::pair<Arrays, std::vector<int>> vmap(const Arrays& in,
                                           const std::vector<int>& axes) override {
    if (!only_first(axes)) return Op::vmap(in, axes);
    auto all = in;
    all[0] = mx::moveaxis(in[0], axes[0], 0);
    return {of(specs_, across_, activations_, std::move(all)), std::vector<int>(specs_.size(), 0)};
  }

 private:
  std::vector<QuantSpec> specs_;
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

std::string no_tiles(int out) {
  return "[quantized] rows are interleaved by " + std::to_string(kTileRows) + ": " +
         std::to_string(out) + " rows cannot be.";
}

// The words are put together only where they are needed: this runs for every product of a token.
template <class Message>
void require(bool holds, Message message) {
  if (!holds) throw Error(Kind::usage, message());
}

// MLX's own, in the type of x.
array float_product(const array& x, const QuantizedWeight& w) {
  require(x.ndim() > 0 && x.shape(-1) == w.in, [&] {
    return "[quantized_linear] the last axis of x must be " + std::to_string(w.in) + ", got " +
           shape_text(x) + ".";
  });
  const auto [name, group, bits] = float_groups(w.floats);
  return mx::quantized_matmul(x, w.packed, *w.scales, std::nullopt, true, group, bits, name);
}

}  // namespace

Activations default_activations() {
  return chosen_activations;
}
WithActivations::WithActivations(Activations activations)
    : before_(std::exchange(chosen_activations, activations)) {}
WithActivations::~WithActivations() {
  chosen_activations = before_;
}

QuantizedWeight affine_weight(array packed, array scales, std::optional<array> biases, int group,
                              int bits, bool interleaved) {
  require(bits >= 2 && bits <= 8 && bits != 7, [&] {
    return "[quantized] bits must be 2, 3, 4, 5, 6 or 8, got " + std::to_string(bits) + ".";
  });
  require(group == 32 || group == 64 || group == 128, [&] {
    return "[quantized] the group must be 32, 64 or 128, got " + std::to_string(group) + ".";
  });
  require(packed.dtype() == mx::uint32 && packed.ndim() == 2,
          [&] { return "[quantized] packed weights must be uint32 with 2 axes."; });
  require(biases || interleaved, [&] { return "[quantized] affine weights need their biases."; });
  const array& other = biases ? *biases : scales;
  require(scales.shape() == other.shape() && scales.dtype() == other.dtype() &&
              has_type(scales.dtype()),
          [&] {
            return "[quantized] scales and biases must agree in shape and in a float dtype: got " +
                   shape_text(scales) + " and " + shape_text(other) + ".";
          });
  const int in = packed.shape(1) * 32 / bits;
  require(scales.ndim() == 2 && scales.shape(0) == packed.shape(0) && in % group == 0 &&
              scales.shape(1) == in / group && in * bits == packed.shape(1) * 32,
          [&] {
            return "[quantized] packed weights " + shape_text(packed) + " of " +
                   std::to_string(bits) + " bits do not fit scales " + shape_text(scales) +
                   " of groups of " + std::to_string(group) + ".";
          });
  const int out = packed.shape(0);
  require(!interleaved || out % kTileRows == 0, [&] { return no_tiles(out); });
  return {QuantFormat::affine, out,   in,   std::move(packed), std::move(scales),
          std::move(biases),   group, bits, interleaved};
}

FloatGroups float_groups(FloatFormat format) {
  switch (format) {
    case FloatFormat::mxfp4: return {"mxfp4", 32, 4};
    case FloatFormat::nvfp4: return {"nvfp4", 16, 4};
    case FloatFormat::mxfp8: return {"mxfp8", 32, 8};
    case FloatFormat::none: break;
  }
  throw Error(Kind::internal, "[quantized] no format of floats");
}

QuantizedWeight float_weight(FloatFormat format, array packed, array scales) {
  const auto [name, group, bits] = float_groups(format);
  const bool fits = packed.ndim() == 2 && scales.ndim() == 2 && packed.dtype() == mx::uint32 &&
                    scales.dtype() == mx::uint8 && packed.shape(0) == scales.shape(0) &&
                    int64_t{packed.shape(1)} * 32 / bits == int64_t{scales.shape(1)} * group;
  require(fits, [&] {
    return "[quantized] expected uint32 weights and a uint8 scale for each " +
           std::to_string(group) + " of " + std::to_string(bits) + " bits, got " +
           shape_text(packed) + " and " + shape_text(scales) + ".";
  });
  const int out = packed.shape(0), in = packed.shape(1) * 32 / bits;
  QuantizedWeight w{QuantFormat::affine, out, in, std::move(packed), std::move(scales)};
  w.group = group, w.bits = bits, w.floats = format;
  return w;
}

QuantizedWeight interleave(const QuantizedWeight& w) {
  require(w.out % kTileRows == 0, [&] { return no_tiles(w.out); });
  auto to = laid_out(to_affine(w), true);
  if (is_symmetric(w.format)) to.biases.reset();
  return to;
}

QuantizedWeight separate(const QuantizedWeight& w) {
  return laid_out(w, false);
}

bool faster_interleaved(const QuantizedWeight& w) {
  const auto form = affine_form(w);
  if (form.bits == 0 || w.out % kTileRows != 0) return false;
  QuantView view{QuantFormat::affine, w.out, w.in, nullptr};
  view.bits = form.bits, view.group = form.group, view.interleaved = true;
  return dot_kernel(view, Activations::int16).in_place;
}

QuantizedWeight block_weight(QuantFormat format, array bytes) {
  require(format != QuantFormat::affine,
          [&] { return "[quantized] affine weights are three arrays."; });
  const auto& block = block_format(format);
  require(bytes.dtype() == mx::uint8 && bytes.ndim() == 2 && bytes.shape(1) % block.bytes == 0,
          [&] {
            return "[quantized] " + std::string(block.name) +
                   " weights must be uint8 [out, a multiple of " + std::to_string(block.bytes) +
                   "], got " + shape_text(bytes) + ".";
          });
  const int out = bytes.shape(0), in = bytes.shape(1) / block.bytes * block.weights;
  return {format, out, in, std::move(bytes)};
}

std::vector<array> quantized_linears(const array& x, const std::vector<QuantizedWeight>& weights,
                                     Activations activations) {
  Arrays in{x};
  std::vector<QuantSpec> specs;
  const auto of_floats = [](const QuantizedWeight& w) { return w.floats != FloatFormat::none; };
  if (std::any_of(weights.begin(), weights.end(), of_floats)) {
    Arrays out;
    for (const auto& w : weights)
      out.push_back(of_floats(w) ? float_product(x, w) : quantized_linear(x, w, activations));
    return out;
  }
  for (const auto& w : weights) {
    require(x.ndim() > 0 && x.shape(-1) == w.in, [&] {
      return "[quantized_linear] the last axis of x must be " + std::to_string(w.in) + ", got " +
             shape_text(x) + ".";
    });
    specs.emplace_back(w, fused(x.dtype()));
    specs.back().append_to(in, w);
  }
  if (weights.empty()) return {};
  if (!fused(x.dtype())) {
    return QuantizedProducts(std::move(specs), false, activations).plain(in);
  }
  return QuantizedProducts::of(std::move(specs), false, activations, std::move(in));
}

array quantized_linear(const array& x, const QuantizedWeight& w, Activations activations) {
  return quantized_linears(x, {w}, activations)[0];
}

QuantizedWeight at_hand(QuantizedWeight w) {
  if (w.floats == FloatFormat::none) w.resident = QuantSpec(w, true).resident;
  return w;
}

array dequantize_rows(const QuantizedWeight& w, const array& ids, mx::Dtype dtype) {
  require(has_type(dtype),
          [&] { return "[dequantize_rows] the dtype must be float32, bfloat16 or float16."; });
  if (w.floats != FloatFormat::none) {
    const auto [name, group, bits] = float_groups(w.floats);
    return mx::dequantize(mx::take(w.packed, ids, 0), mx::take(*w.scales, ids, 0), std::nullopt,
                          group, bits, name, std::nullopt, dtype);
  }
  Arrays in{mx::astype(ids, mx::int32)};
  const QuantSpec spec(w, fused(dtype));
  spec.append_to(in, w);
  if (w.format == QuantFormat::affine && !fused(dtype)) {
    return DequantizeRows(spec, dtype).plain(in)[0];
  }
  return DequantizeRows::of(spec, std::move(in), dtype);
}

}  // namespace lmxlab::kernels
