#include "lmxlab/kernels/diagonal_scan.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "lmxlab/kernels/dense.h"
#include "lmxlab/kernels/op.h"
#include "lmxlab/kernels/thread_pool.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lmxlab/kernels/diagonal_scan.cpp"
#include <hwy/foreach_target.h>
// Highway's headers come after foreach_target.h.
#include "lmxlab/kernels/loop-inl.h"
#include "lmxlab/kernels/math-inl.h"

#ifndef LMXLAB_KERNELS_DIAGONAL_SCAN
#define LMXLAB_KERNELS_DIAGONAL_SCAN
namespace lmxlab::kernels {

// Some channels of one row: positions lie `width` apart.
struct DiagonalRow {
  int64_t length, width, count;
};

}  // namespace lmxlab::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace lmxlab::kernels::HWY_NAMESPACE {

// h may lie where x lies: each number is read before its place is written.
void diagonal_forward(const DiagonalRow& s, const float* g, const float* x, const float* before,
                      float* h, float* after) {
  for (int64_t t = 0; t < s.length; t++) {
    const int64_t at = t * s.width;
    each(s.count, [=](int64_t i, auto lanes) {
      const VF decay = fast_exp(DF(), read(g + at + i, lanes));
      write(hn::MulAdd(decay, read(before + i, lanes), read(x + at + i, lanes)), h + at + i, lanes);
    });
    before = h + at;
  }
  std::memcpy(after, before, static_cast<size_t>(s.count) * sizeof(float));
}

// `carried` holds the gradient of the last state, and that of the first in the end. gx may lie
// where gh lies, gg where g lies.
void diagonal_backward(const DiagonalRow& s, const float* g, const float* h, const float* before,
                       const float* gh, float* gg, float* gx, float* carried) {
  for (int64_t t = s.length - 1; t >= 0; t--) {
    const int64_t at = t * s.width;
    const float* const last = t > 0 ? h + at - s.width : before;
    each(s.count, [=](int64_t i, auto lanes) {
      const VF all = hn::Add(read(gh + at + i, lanes), read(carried + i, lanes));
      const VF passed = hn::Mul(all, fast_exp(DF(), read(g + at + i, lanes)));
      write(all, gx + at + i, lanes);
      write(hn::Mul(passed, read(last + i, lanes)), gg + at + i, lanes);
      write(passed, carried + i, lanes);
    });
  }
}

// 1 - exp(2 g) = 2 s / (1 + s) with s = tanh(-g): no difference of numbers near 1.
HWY_INLINE VF kept_share(VF g) {
  const DF d;
  const VF s = fast_tanh(d, hn::Neg(g));
  return hn::Div(hn::Add(s, s), hn::Add(s, hn::Set(d, 1.0f)));
}

// A row: `whole` says that the root counts as 1.
void input_forward(bool whole, int64_t n, const float* g, const float* gate, const float* x,
                   float* y) {
  each(n, [=](int64_t i, auto lanes) {
    const VF in = hn::Mul(read(gate + i, lanes), read(x + i, lanes));
    write(whole ? in : hn::Mul(in, hn::Sqrt(kept_share(read(g + i, lanes)))), y + i, lanes);
  });
}
void input_backward(bool whole, int64_t n, const float* g, const float* gate, const float* x,
                    const float* gy, float* gg, float* ggate, float* gx) {
  const DF d;
  if (whole) std::fill(gg, gg + n, 0.0f);
  each(n, [=](int64_t i, auto lanes) {
    const VF a = read(gate + i, lanes), b = read(x + i, lanes);
    VF from = read(gy + i, lanes);
    if (!whole) {
      const VF log = read(g + i, lanes), root = hn::Sqrt(kept_share(log));
      const VF slope = hn::Min(hn::Div(hn::Set(d, 0.5f), root), hn::Set(d, 1000.0f));
      const VF change = hn::Mul(hn::Set(d, -2.0f), fast_exp(d, hn::Add(log, log)));
      write(hn::Mul(hn::Mul(from, hn::Mul(a, b)), hn::Mul(slope, change)), gg + i, lanes);
      from = hn::Mul(from, root);
    }
    write(hn::Mul(from, b), ggate + i, lanes);
    write(hn::Mul(from, a), gx + i, lanes);
  });
}

}  // namespace lmxlab::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lmxlab::kernels {
namespace {

namespace mx = mlx::core;
using mx::array;

HWY_EXPORT(diagonal_forward);
HWY_EXPORT(diagonal_backward);
HWY_EXPORT(input_forward);
HWY_EXPORT(input_backward);

constexpr int64_t kSlice = 64;      // channels of a part: whole vectors, and lines of memory
constexpr int64_t kNumbers = 4096;  // of a part: 1 to 4 us of exponentials, worth a thread

// Calls f(row, position of the first number, of the first state) for some channels of a row at a
// time.
template <class F>
void each_slice(const mx::Shape& shape, F&& f) {
  const int64_t B = shape[0], L = shape[1], W = shape[2], slices = (W + kSlice - 1) / kSlice;
  const int64_t numbers = L * std::min(kSlice, W) + 1;
  parallel_for(B * slices, (kNumbers + numbers - 1) / numbers, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++) {
      const int64_t r = i / slices, c = i % slices * kSlice;
      f(DiagonalRow{L, W, std::min(kSlice, W - c)}, r * L * W + c, r * W + c);
    }
  });
}
const float* floats(const Dense& d) {
  return static_cast<const float*>(d.read());
}

class DiagonalScanGrad : public Op {  // g, h, state, gh, gstate -> gg, gx, gstate
 public:
  const char* name() const override { return "lmxlab::DiagonalScanGrad"; }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    return {in[0].shape(), in[0].shape(), in[2].shape()};
  }
  Arrays plain(const Arrays& in) const override {
    const auto before = mx::concatenate(
        {mx::expand_dims(in[2], 1),
         mx::slice(in[1], {0, 0, 0}, {in[1].shape(0), in[1].shape(1) - 1, in[1].shape(2)})},
        1);
    auto carried = in[4];
    const auto decays = mx::exp(in[0]);
    Arrays all;
    for (int t = in[0].shape(1) - 1; t >= 0; t--) {
      all.insert(all.begin(), mx::add(mx::take(in[3], t, 1), carried));
      carried = mx::multiply(all.front(), mx::take(decays, t, 1));
    }
    const auto gx = mx::stack(all, 1);
    return {mx::multiply(mx::multiply(gx, decays), before), gx, carried};
  }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    release_inputs(in, out);
    give(out[0], in[0]);
    give(out[1], in[3]);
    give(out[2], in[4]);
    task([shape = in[0].shape(), g = Dense(in[0]), h = Dense(in[1]), before = Dense(in[2]),
          gh = Dense(in[3]), gafter = Renewed(in[4], out[2]), gg = out[0].data<float>(),
          gx = out[1].data<float>()] {
      const float *const pg = floats(g), *const ph = floats(h);
      const float *const pb = floats(before), *const pgh = floats(gh);
      gafter.keep();
      auto* const carried = reinterpret_cast<float*>(gafter.data());
      each_slice(shape, [&](const DiagonalRow& s, int64_t at, int64_t state) {
        HWY_DYNAMIC_DISPATCH(diagonal_backward)
        (s, pg + at, ph + at, pb + state, pgh + at, gg + at, gx + at, carried + state);
      });
    });
  }
};

class DiagonalScanOp : public Op {  // g, x, h0 -> h, state
 public:
  const char* name() const override { return "lmxlab::DiagonalScan"; }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    return {in[0].shape(), in[2].shape()};
  }
  Arrays plain(const Arrays& in) const override {
    const auto s = plain::diagonal_scan(in[0], in[1], in[2]);
    return {s.h, s.state};
  }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    release_inputs(in, out);
    give(out[0], in[1]);
    give(out[1]);
    task([shape = in[0].shape(), g = Dense(in[0]), x = Dense(in[1]), before = Dense(in[2]),
          h = out[0].data<float>(), after = out[1].data<float>()] {
      const float *const pg = floats(g), *const px = floats(x), *const pb = floats(before);
      each_slice(shape, [&](const DiagonalRow& s, int64_t at, int64_t state) {
        HWY_DYNAMIC_DISPATCH(diagonal_forward)
        (s, pg + at, px + at, pb + state, h + at, after + state);
      });
    });
  }

  Arrays vjp(const Arrays& in, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override {
    const auto all = array::make_arrays({in[0].shape(), in[1].shape(), in[2].shape()},
                                        std::vector<mx::Dtype>(3, mx::float32),
                                        std::make_shared<DiagonalScanGrad>(),
                                        {in[0], outputs[0], in[2], cotangents[0], cotangents[1]});
    Arrays out;
    for (const int i : argnums) out.push_back(all[static_cast<size_t>(i)]);
    return out;
  }
};

// Calls f(row, position of its first number) for all rows of [B, L, W].
template <class F>
void each_row(const mx::Shape& shape, F&& f) {
  const int64_t W = shape[2];
  parallel_for(int64_t{shape[0]} * shape[1], kNumbers / W + 1, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; r++) f(r, r * W);
  });
}

class ScanInputGrad : public Op {  // g, gate, x, whole, gy -> gg, ggate, gx
 public:
  const char* name() const override { return "lmxlab::ScanInputGrad"; }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    return std::vector<mx::Shape>(3, in[0].shape());
  }
  Arrays plain(const Arrays& in) const override {
    const auto f = [&](const Arrays& v) -> Arrays {
      return {plain::scan_input(v[0], v[1], v[2], in[3])};
    };
    return mx::vjp(f, {in[0], in[1], in[2]}, {in[4]}).second;
  }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    release_inputs(in, out);
    give(out[0], in[0]);
    give(out[1], in[1]);
    give(out[2], in[4]);
    task([shape = in[0].shape(), g = Dense(in[0]), gate = Dense(in[1]), x = Dense(in[2]),
          whole = Dense(in[3]), gy = Dense(in[4]), gg = out[0].data<float>(),
          ggate = out[1].data<float>(), gx = out[2].data<float>()] {
      const float *const pg = floats(g), *const pa = floats(gate), *const px = floats(x);
      const float *const pw = floats(whole), *const py = floats(gy);
      each_row(shape, [&](int64_t r, int64_t at) {
        HWY_DYNAMIC_DISPATCH(input_backward)
        (pw[r] != 0, shape[2], pg + at, pa + at, px + at, py + at, gg + at, ggate + at, gx + at);
      });
    });
  }
};

class ScanInput : public Op {  // g, gate, x, whole -> y
 public:
  const char* name() const override { return "lmxlab::ScanInput"; }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override { return {in[0].shape()}; }
  Arrays plain(const Arrays& in) const override {
    return {plain::scan_input(in[0], in[1], in[2], in[3])};
  }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    give(out[0], in[1]);
    task([shape = in[0].shape(), g = Dense(in[0]), gate = Dense(in[1]), x = Dense(in[2]),
          whole = Dense(in[3]), y = out[0].data<float>()] {
      const float *const pg = floats(g), *const pa = floats(gate), *const px = floats(x);
      const float* const pw = floats(whole);
      each_row(shape, [&](int64_t r, int64_t at) {
        HWY_DYNAMIC_DISPATCH(input_forward)
        (pw[r] != 0, shape[2], pg + at, pa + at, px + at, y + at);
      });
    });
  }

  Arrays vjp(const Arrays& in, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays&) override {
    auto all = array::make_arrays(
        std::vector<mx::Shape>(3, in[0].shape()), std::vector<mx::Dtype>(3, mx::float32),
        std::make_shared<ScanInputGrad>(), {in[0], in[1], in[2], in[3], cotangents[0]});
    all.push_back(mx::zeros_like(in[3]));
    Arrays out;
    for (const int i : argnums) out.push_back(all[static_cast<size_t>(i)]);
    return out;
  }
};

bool all_float32(const Arrays& in) {
  return std::all_of(in.begin(), in.end(), [](const array& a) { return a.dtype() == mx::float32; });
}

}  // namespace

DiagonalScan diagonal_scan(const array& g, const array& x, const array& state) {
  const bool shapes =
      g.ndim() == 3 && x.shape() == g.shape() && state.shape() == mx::Shape{g.shape(0), g.shape(2)};
  if (!shapes || !all_float32({g, x, state}))
    throw Error(Kind::usage,
                "[diagonal_scan] expected float32 g and x [B, L, W] and a state [B, W]");
  if (!fused(mx::float32) || g.size() == 0) return plain::diagonal_scan(g, x, state);
  const auto out = array::make_arrays({g.shape(), state.shape()}, {mx::float32, mx::float32},
                                      std::make_shared<DiagonalScanOp>(), {g, x, state});
  return {out[0], out[1]};
}

array scan_input(const array& g, const array& gate, const array& x, const array& whole) {
  const bool shapes = g.ndim() == 3 && gate.shape() == g.shape() && x.shape() == g.shape() &&
                      whole.shape() == mx::Shape{g.shape(0), g.shape(1)};
  if (!shapes || !all_float32({g, gate, x, whole}))
    throw Error(Kind::usage,
                "[scan_input] expected float32 g, gate and x [B, L, W] and whole [B, L]");
  if (!fused(mx::float32) || g.size() == 0) return plain::scan_input(g, gate, x, whole);
  return output_like(g, std::make_shared<ScanInput>(), {g, gate, x, whole});
}

DiagonalScan plain::diagonal_scan(const array& g, const array& x, const array& state) {
  auto h = state;
  Arrays all;
  const auto decays = mx::exp(g);
  for (int t = 0; t < g.shape(1); t++) {
    h = mx::add(mx::multiply(mx::take(decays, t, 1), h), mx::take(x, t, 1));
    all.push_back(h);
  }
  return {all.empty() ? mx::zeros_like(x) : mx::stack(all, 1), h};
}

array plain::scan_input(const array& g, const array& gate, const array& x, const array& whole) {
  const auto share = mx::negative(mx::expm1(mx::multiply(g, array(2.0f))));
  const auto root = mx::sqrt(share);
  const auto slope = mx::minimum(mx::divide(array(0.5f), root), array(1000.0f));
  const auto line = mx::multiply(mx::stop_gradient(slope), share);
  const auto bounded = mx::add(mx::stop_gradient(mx::subtract(root, line)), line);
  const auto counts = mx::expand_dims(mx::not_equal(whole, array(0.0f)), -1);
  return mx::multiply(mx::multiply(gate, x), mx::where(counts, array(1.0f), bounded));
}

}  // namespace lmxlab::kernels
#endif
