#include "lmxlab/kernels/append_quantized.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <utility>

#include "lmxlab/kernels/dense.h"
#include "lmxlab/kernels/op.h"
#include "lmxlab/kernels/thread_pool.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lmxlab/kernels/append_quantized.cpp"
#include <hwy/foreach_target.h>
// Highway's headers come after foreach_target.h.
#include "lmxlab/kernels/loop-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lmxlab::kernels::HWY_NAMESPACE {

constexpr int64_t kLargestGroup = 128;

// One group of x: its numbers as bytes of 0 .. levels, and the scale and bias that MLX chooses: the
// end of the range that is larger in size is met exactly.
template <class T>
HWY_INLINE void pack_group(const T* x, int64_t group, float levels, uint8_t* to, T* scale_to,
                           T* bias_to) {
  const DF d;
  const hn::RebindToSigned<DF> di;
  const hn::Rebind<uint8_t, DF> d8;
  VF low = hn::Set(d, std::numeric_limits<float>::infinity()), high = hn::Neg(low);
  for (int64_t i = 0; i < group; i += lanes()) {
    const VF v = load(d, x + i);
    low = hn::Min(low, v), high = hn::Max(high, v);
  }
  const float least = hn::GetLane(hn::MinOfLanes(d, low));
  const float most = hn::GetLane(hn::MaxOfLanes(d, high));
  const bool from_least = std::abs(least) > std::abs(most);
  float scale = std::max((most - least) / levels, 1e-7f), bias = 0;
  if (!from_least) scale = -scale;
  const float edge = from_least ? least : most, steps = std::rint(edge / scale);
  if (steps != 0) scale = edge / steps, bias = edge;
  const VF offset = hn::Set(d, bias), by = hn::Set(d, scale);
  for (int64_t i = 0; i < group; i += lanes()) {
    const VF level = hn::Round(hn::Div(hn::Sub(load(d, x + i), offset), by));
    const VF inside = hn::Min(hn::Max(level, hn::Zero(d)), hn::Set(d, levels));
    hn::StoreU(hn::DemoteTo(d8, hn::ConvertTo(di, inside)), d8, to + i);
  }
  store_n(by, d, scale_to, 1), store_n(offset, d, bias_to, 1);
}

void pack_row(Type type, const void* x, int64_t width, int64_t group, int bits, uint8_t* to,
              void* scales, void* biases) {
  with_type(type, [=](auto t) {
    using T = decltype(t);
    HWY_ALIGN uint8_t bytes[kLargestGroup];
    for (int64_t g = 0; g < width / group; g++) {
      pack_group(static_cast<const T*>(x) + g * group, group, bits == 8 ? 255.0f : 15.0f, bytes,
                 static_cast<T*>(scales) + g, static_cast<T*>(biases) + g);
      uint8_t* const out = to + g * group * bits / 8;
      if (bits == 8) {
        std::memcpy(out, bytes, static_cast<size_t>(group));
      } else {
        for (int64_t i = 0; i < group / 2; i++) {
          out[i] = static_cast<uint8_t>(bytes[2 * i] | bytes[2 * i + 1] << 4);
        }
      }
    }
  });
}

}  // namespace lmxlab::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lmxlab::kernels {
namespace {

namespace mx = mlx::core;
using mx::array;

HWY_EXPORT(pack_row);

class AppendQuantized : public Op {  // x, packed, scales, biases -> the last three
 public:
  AppendQuantized(int at, int group, int bits) : at_(at), group_(group), bits_(bits) {}
  const char* name() const override { return "lmxlab::AppendQuantized"; }
  bool same(const Op& other) const override {
    const auto& op = static_cast<const AppendQuantized&>(other);
    return at_ == op.at_ && group_ == op.group_ && bits_ == op.bits_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    return {in[1].shape(), in[2].shape(), in[3].shape()};
  }
  Arrays plain(const Arrays& in) const override {
    if (in[0].size() == 0) return {in[1], in[2], in[3]};  // which mx::quantize refuses
    auto out = mx::quantize(in[0], group_, bits_);
    for (size_t i = 0; i < 3; i++) {
      const auto& p = out[i];
      out[i] = mx::slice_update(in[i + 1], p, mx::Shape{0, 0, at_, 0},
                                mx::Shape{p.shape(0), p.shape(1), at_ + p.shape(2), p.shape(3)});
    }
    return out;
  }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    release_inputs(in, out);
    struct Part {
      Renewed buffer;
      int64_t row;  // bytes of a column of a head
    };
    std::vector<Part> to;
    for (size_t i = 0; i < 3; i++) {
      const auto& x = in[i + 1];
      give(out[i], x);
      to.push_back({Renewed(x, out[i]), static_cast<int64_t>(x.shape(3) * x.itemsize())});
    }
    const auto& x = in[0];
    task([=, from = Dense(x), type = type_of(x.dtype()), heads = int64_t{x.shape(0)} * x.shape(1),
          length = int64_t{x.shape(2)}, width = int64_t{x.shape(3)},
          capacity = int64_t{in[1].shape(2)}, at = at_, group = group_, bits = bits_] {
      for (const auto& part : to) part.buffer.keep();
      const auto* const rows = static_cast<const char*>(from.read());
      parallel_for(heads * length, 8192 / width + 1, [=](int64_t a, int64_t b) {
        for (int64_t r = a; r < b; r++) {
          const int64_t column = r / length * capacity + at + r % length;
          const auto part = [&](size_t i) { return to[i].buffer.data() + column * to[i].row; };
          HWY_DYNAMIC_DISPATCH(pack_row)
          (type, rows + r * width * size_of(type), width, group, bits,
           reinterpret_cast<uint8_t*>(part(0)), part(1), part(2));
        }
      });
    });
  }

 private:
  int at_, group_, bits_;
};

}  // namespace

QuantizedKeys append_quantized(const array& x, QuantizedKeys b, int at) {
  const auto columns = [&](const array& part, int64_t width) {
    return part.ndim() == 4 && part.shape(0) == x.shape(0) && part.shape(1) == x.shape(1) &&
           part.shape(3) == width && part.shape(2) == b.packed.shape(2);
  };
  const bool format =
      (b.bits == 4 || b.bits == 8) && (b.group == 32 || b.group == 64 || b.group == 128);
  const bool fits = format && x.ndim() == 4 && has_type(x.dtype()) && x.shape(3) > 0 &&
                    x.shape(3) % b.group == 0 && b.packed.dtype() == mx::uint32 &&
                    b.scales.dtype() == x.dtype() && b.biases.dtype() == x.dtype() &&
                    columns(b.packed, int64_t{x.shape(3)} * b.bits / 32) &&
                    columns(b.scales, x.shape(3) / b.group) &&
                    columns(b.biases, x.shape(3) / b.group) && at >= 0 &&
                    at + x.shape(2) <= b.packed.shape(2);
  if (!fits) {
    throw Error(Kind::usage,
                "[append_quantized] the shapes or types do not fit: expected x [B, K, L, D] and "
                "buffers [B, K, C, *] of 4 or 8 bits in groups of 32, 64 or 128, scales and biases "
                "of x's type, with room for L columns from " +
                    std::to_string(at) + " on.");
  }
  const auto op = std::make_shared<AppendQuantized>(at, b.group, b.bits);
  Arrays in{x, std::move(b.packed), std::move(b.scales), std::move(b.biases)};
  if (!fused(x.dtype())) {
    const auto all = op->plain(in);
    return {all[0], all[1], all[2], b.group, b.bits};
  }
  auto shapes = op->output_shapes(in);
  const auto all =
      array::make_arrays(std::move(shapes), {mx::uint32, x.dtype(), x.dtype()}, op, std::move(in));
  return {all[0], all[1], all[2], b.group, b.bits};
}

}  // namespace lmxlab::kernels
#endif
