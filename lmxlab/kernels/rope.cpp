#include "lmxlab/kernels/rope.h"

#include <mlx/fast.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "lmxlab/kernels/dense.h"
#include "lmxlab/kernels/op.h"
#include "lmxlab/kernels/rope_parts.h"
#include "lmxlab/kernels/thread_pool.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lmxlab/kernels/rope.cpp"
#include <hwy/foreach_target.h>
// Highway's headers come after foreach_target.h.
#include "lmxlab/kernels/loop-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lmxlab::kernels::HWY_NAMESPACE {

// cosine and sine of frequencies[i] * position, n of them, as float32; whole vectors are read and
// written. The quarter turns are taken off in float64 (right to 1e-9 up to 2^31 of them), and what
// is left, at most pi / 4, goes into Taylor's series.
void turn(const double* frequencies, double position, int64_t n, float* cosines, float* sines) {
  const hn::ScalableTag<double> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  const hn::Rebind<float, decltype(d)> df;
  const auto c = [&](double v) { return hn::Set(d, v); };
  const auto p = c(position);
  const auto magic = c(6755399441055744.0);  // 1.5 * 2^52: rounds what it is added to
  for (int64_t i = 0; i < n; i += static_cast<int64_t>(hn::Lanes(d))) {
    const auto angle = hn::Mul(hn::LoadU(d, frequencies + i), p);
    const auto shifted = hn::MulAdd(angle, c(0.6366197723675814), magic);
    const auto quarters = hn::Sub(shifted, magic);
    auto r = hn::NegMulAdd(quarters, c(1.5707963267341256), angle);
    r = hn::NegMulAdd(quarters, c(6.077100506506192e-11), r);
    const auto s = hn::Mul(r, r);
    auto sine = hn::MulAdd(s, c(1.0 / 362880), c(-1.0 / 5040));
    sine = hn::MulAdd(sine, s, c(1.0 / 120));
    sine = hn::MulAdd(sine, s, c(-1.0 / 6));
    sine = hn::MulAdd(hn::Mul(sine, s), r, r);
    auto cosine = hn::MulAdd(s, c(-1.0 / 3628800), c(1.0 / 40320));
    cosine = hn::MulAdd(cosine, s, c(-1.0 / 720));
    cosine = hn::MulAdd(cosine, s, c(1.0 / 24));
    cosine = hn::MulAdd(cosine, s, c(-0.5));
    cosine = hn::MulAdd(cosine, s, c(1.0));
    // Quarter turns swap the two and change signs: the last two bits of their number.
    const auto bits = hn::BitCast(du, shifted), one = hn::Set(du, uint64_t{1});
    const auto odd = hn::RebindMask(d, hn::Eq(hn::And(bits, one), one));
    const auto flip_sine =
        hn::BitCast(d, hn::ShiftLeft<62>(hn::And(bits, hn::Set(du, uint64_t{2}))));
    const auto flip_cosine =
        hn::BitCast(d, hn::ShiftLeft<62>(hn::And(hn::Add(bits, one), hn::Set(du, uint64_t{2}))));
    const auto to_sine = hn::Xor(hn::IfThenElse(odd, cosine, sine), flip_sine);
    const auto to_cosine = hn::Xor(hn::IfThenElse(odd, sine, cosine), flip_cosine);
    hn::StoreU(hn::DemoteTo(df, to_sine), df, sines + i);
    hn::StoreU(hn::DemoteTo(df, to_cosine), df, cosines + i);
  }
}

// y = x turned, a row of one head; they may be the same memory. Interleaved: each cosine and sine
// stands twice, the first sine of a pair negative.
template <class T>
HWY_INLINE void turn_row(const RopeHeads& s, const T* x, const float* cosines, const float* sines,
                         T* y) {
  const int64_t half = s.dims / 2;
  if (!s.interleaved) {
    each(half, [=](int64_t i, auto lanes) {
      const VF a = read(x + i, lanes), b = read(x + half + i, lanes);
      const VF c = read(cosines + i, lanes), e = read(sines + i, lanes);
      write(hn::NegMulAdd(b, e, hn::Mul(a, c)), y + i, lanes);
      write(hn::MulAdd(a, e, hn::Mul(b, c)), y + half + i, lanes);
    });
  } else {
#if HWY_TARGET == HWY_SCALAR
    for (int64_t i = 0; i < s.dims; i += 2) {
      const VF a = load(DF(), x + i), b = load(DF(), x + i + 1);
      const VF c = load(DF(), cosines + i), e = load(DF(), sines + i + 1);
      store(hn::NegMulAdd(b, e, hn::Mul(a, c)), DF(), y + i);
      store(hn::MulAdd(a, e, hn::Mul(b, c)), DF(), y + i + 1);
    }
#else
    each(s.dims, [=](int64_t i, auto lanes) {
      const VF v = read(x + i, lanes), other = hn::Shuffle2301(v);
      write(hn::MulAdd(other, read(sines + i, lanes), hn::Mul(v, read(cosines + i, lanes))), y + i,
            lanes);
    });
#endif
  }
  if (x != y)
    std::memcpy(y + s.dims, x + s.dims, sizeof(T) * static_cast<size_t>(s.head_dim - s.dims));
}

// Sequences [b0, b1), rows [l0, l1), all heads.
void rope_block(const RopeHeads& s, const double* frequencies, const RopeAngles& a, const void* x,
                void* y, int64_t b0, int64_t b1, int64_t l0, int64_t l1) {
  const int64_t half = s.dims / 2, room = s.dims + HWY_MAX_BYTES / 4;
  std::vector<float> table(static_cast<size_t>(2 * room * RopeHeads::kRows));
  const auto fill = [&](int64_t offset, int64_t l, int64_t rows) {
    for (int64_t r = 0; r < rows; r++) {
      float* const cosines = table.data() + 2 * room * r;
      float* const sines = cosines + room;
      const auto position = a.scale * static_cast<double>(offset + l + r);
      turn(frequencies, position, half, cosines, sines);
      if (a.magnitude != 1) {
        for (int64_t i = 0; i < half; i++) cosines[i] *= a.magnitude, sines[i] *= a.magnitude;
      }
      if (s.interleaved) {
        for (int64_t i = half; i-- > 0;) {
          cosines[2 * i + 1] = cosines[2 * i] = cosines[i];
          sines[2 * i + 1] = sines[i];
          sines[2 * i] = -sines[2 * i + 1];
        }
      }
    }
  };
  with_type(s.type, [&](auto t) {
    using T = decltype(t);
    for (int64_t l = l0; l < l1; l += RopeHeads::kRows) {
      const int64_t rows = std::min(RopeHeads::kRows, l1 - l);
      if (!a.each_offset) fill(a.offsets[0], l, rows);
      for (int64_t b = b0; b < b1; b++) {
        if (a.each_offset) fill(a.offsets[b], l, rows);
        for (int64_t r = 0; r < rows; r++) {
          const T* in = static_cast<const T*>(x) + b * s.from[0] + (l + r) * s.from[2];
          T* out = static_cast<T*>(y) + b * s.to[0] + (l + r) * s.to[2];
          const float* const cosines = table.data() + 2 * room * r;
          for (int64_t h = 0; h < s.heads; h++, in += s.from[1], out += s.to[1]) {
            turn_row(s, in, cosines, cosines + room, out);
          }
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

HWY_EXPORT(rope_block);

class RopeOp : public Op {  // x, offsets (one or B), frequencies?
 public:
  // `back` turns by the opposite angles: scale < 0 would move the offset too.
  RopeOp(int dims, bool interleaved, float theta, float scale, float magnitude, bool back)
      : dims_(dims),
        interleaved_(interleaved),
        theta_(theta),
        scale_(scale),
        magnitude_(magnitude),
        back_(back) {}
  const char* name() const override { return "lmxlab::Rope"; }
  bool same(const Op& other) const override {
    const auto& op = static_cast<const RopeOp&>(other);
    return dims_ == op.dims_ && interleaved_ == op.interleaved_ && theta_ == op.theta_ &&
           scale_ == op.scale_ && magnitude_ == op.magnitude_ && back_ == op.back_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override { return {in[0].shape()}; }

  Arrays plain(const Arrays& in) const override {
    const bool given = in.size() > 2;
    const auto turned = mx::fast::rope(
        in[0], dims_, interleaved_, given ? std::nullopt : std::optional<float>(theta_),
        back_ ? -scale_ : scale_, in[1],
        given ? std::optional<array>(mx::reciprocal(in[2])) : std::nullopt);
    if (magnitude_ == 1) return {turned};
    const int width = turned.shape(3);
    auto larger = mx::full({width}, magnitude_, turned.dtype());
    if (dims_ < width) {
      larger = mx::concatenate({mx::full({dims_}, magnitude_, turned.dtype()),
                                mx::ones({width - dims_}, turned.dtype())});
    }
    return {mx::multiply(turned, larger)};
  }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    const auto& x = in[0];
    const bool rows = x.strides(3) == 1;  // otherwise x is copied first
    RopeHeads s{type_of(x.dtype()), interleaved_, x.shape(0), x.shape(1), x.shape(2),
                x.shape(3),         dims_,        {},         {}};
    lay_out(x, rows, s, out[0]);
    task([s, x = rows ? std::optional<Dense>() : Dense(x), view = x.data<void>(),
          offsets = Dense(in[1]), each_offset = in[1].size() > 1, given = Dense(in.back()),
          has_frequencies = in.size() > 2, theta = theta_, magnitude = magnitude_,
          scale = static_cast<double>(back_ ? -scale_ : scale_), y = out[0].data<void>()] {
      rotate_heads(s,
                   {scale, static_cast<const int32_t*>(offsets.read()), each_offset, theta,
                    has_frequencies ? static_cast<const float*>(given.read()) : nullptr, magnitude},
                   x ? x->read() : view, y);
    });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays&) override {
    Arrays out;
    for (const int i : argnums) {
      if (i == 0) {
        auto in = primals;
        in[0] = cotangents[0];
        out.push_back(output_like(
            in[0],
            std::make_shared<RopeOp>(dims_, interleaved_, theta_, scale_, magnitude_, !back_), in));
      } else {
        out.push_back(mx::zeros_like(primals[i]));
      }
    }
    return out;
  }

 private:
  // Memory for y, its axes in the order of x's, and the steps through both.
  static void lay_out(const array& x, bool rows, RopeHeads& s, array& y) {
    const int64_t H = s.heads, L = s.length, D = s.head_dim;
    const bool turned = rows && H > 1 && L > 1 && x.strides(2) > x.strides(1);  // [B, L, H, Dh]
    const mx::Strides strides =
        turned ? mx::Strides{L * H * D, D, H * D, 1} : mx::Strides{H * L * D, L * D, D, 1};
    const bool as_x = x.flags().row_contiguous || (x.flags().contiguous && x.strides() == strides);
    std::copy(strides.begin(), strides.begin() + 3, s.to);
    if (rows && !x.flags().row_contiguous) {
      std::copy(x.strides().begin(), x.strides().begin() + 3, s.from);
    } else {
      std::copy(strides.begin(), strides.begin() + 3, s.from);
    }
    if (as_x && x.is_donatable()) {
      y.copy_shared_buffer(x);
      return;
    }
    auto flags = y.flags();
    flags.contiguous = true;
    flags.row_contiguous = !turned;
    flags.col_contiguous = s.batch * H * L == 1;  // Dh is at least 2
    y.set_data(mx::allocator::malloc(y.nbytes()), y.size(), strides, flags);
  }

  int dims_;
  bool interleaved_;
  float theta_, scale_, magnitude_;
  bool back_;
};

array make(const array& x, const Rope& rope, const array& offsets) {
  const int dims = rope.dims > 0 || x.ndim() != 4 ? rope.dims : x.shape(3);
  if (x.ndim() != 4 || dims < 2 || dims % 2 != 0 || dims > x.shape(3)) {
    throw Error(Kind::usage,
                "[rope] expected [B, H, L, Dh] and an even number of at most Dh "
                "elements to turn, got " +
                    std::to_string(x.ndim()) + " axes and " + std::to_string(dims) + ".");
  }
  if (offsets.ndim() > 1 || (offsets.ndim() == 1 && offsets.shape(0) != x.shape(0))) {
    throw Error(Kind::usage, "[rope] expected one offset for each of " +
                                 std::to_string(x.shape(0)) + " sequences, got " +
                                 std::to_string(offsets.size()) + ".");
  }
  const auto op = std::make_shared<RopeOp>(dims, rope.interleaved, rope.theta, rope.scale,
                                           rope.magnitude, false);
  Arrays in{x, mx::astype(offsets, mx::int32)};
  if (rope.frequencies) {
    if (rope.frequencies->shape() != mx::Shape{dims / 2}) {
      throw Error(Kind::usage, "[rope] expected " + std::to_string(dims / 2) +
                                   " frequencies, got " + std::to_string(rope.frequencies->size()) +
                                   ".");
    }
    in.push_back(mx::astype(*rope.frequencies, mx::float32));
  }
  return fused(x.dtype()) ? output_like(x, op, in) : op->plain(in)[0];
}

}  // namespace

void rotate_heads(const RopeHeads& s, const RopeAngles& a, const void* x, void* y) {
  const int64_t half = s.dims / 2;
  constexpr size_t kMostLanes = 2048 / 64;  // of any set: HWY_MAX_BYTES here is the lowest's
  std::vector<double> frequencies(static_cast<size_t>(half) + kMostLanes);
  if (a.frequencies) {
    std::copy(a.frequencies, a.frequencies + half, frequencies.begin());
  } else {
    const double step = std::pow(static_cast<double>(a.theta), -2.0 / static_cast<double>(s.dims));
    double f = 1;
    for (int64_t i = 0; i < half; i++, f *= step) frequencies[static_cast<size_t>(i)] = f;
  }
  const auto block = [&](int64_t b0, int64_t b1, int64_t l0, int64_t l1) {
    HWY_DYNAMIC_DISPATCH(rope_block)
    (s, frequencies.data(), a, x, y, b0, b1, l0, l1);
  };
  // Angles are computed once a part, so cut the rows where there are many.
  const int64_t row = s.heads * s.head_dim, grain = 8192;
  if (s.length >= s.batch) {
    parallel_for(s.length, std::max<int64_t>(1, grain / std::max<int64_t>(1, row * s.batch)),
                 [&](int64_t first, int64_t last) { block(0, s.batch, first, last); });
  } else {
    parallel_for(s.batch, std::max<int64_t>(1, grain / std::max<int64_t>(1, row * s.length)),
                 [&](int64_t first, int64_t last) { block(first, last, 0, s.length); });
  }
}

array rope(const array& x, const Rope& rope, int offset) {
  return make(x, rope, array(offset));
}
array rope(const array& x, const Rope& rope, const array& offsets) {
  return make(x, rope, offsets);
}

}  // namespace lmxlab::kernels
#endif
