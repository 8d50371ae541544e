#include "lmxlab/kernels/wkv_scan.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "lmxlab/kernels/dense.h"
#include "lmxlab/kernels/op.h"
#include "lmxlab/kernels/reduce.h"
#include "lmxlab/kernels/thread_pool.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lmxlab/kernels/wkv_scan.cpp"
#include <hwy/foreach_target.h>
// Highway's headers come after foreach_target.h.
#include "lmxlab/kernels/loop-inl.h"
#include "lmxlab/kernels/math-inl.h"

#ifndef LMXLAB_KERNELS_WKV_SCAN
#define LMXLAB_KERNELS_WKV_SCAN
namespace lmxlab::kernels {

inline constexpr int64_t kWkvSlice = 64;  // channels of a part: whole vectors, and lines of memory

// Some channels of one row: positions, and a state's three numbers, lie `width` apart.
struct WkvRow {
  int64_t length, width, count;
  int64_t blocks() const { return (length + kWkvBlock - 1) / kWkvBlock; }
};
struct WkvForward {
  const float *k, *v, *w, *u, *sums, *most;
  float *out, *after, *after_most, *starts;  // starts: a, b, most before each block
};
struct WkvBackward {
  const float *k, *v, *w, *u, *starts, *out, *gout;
  float *gk, *gv, *gw, *gu, *gmost,
      *gsums;  // gsums: the gradient of the last state, then of the first
};

}  // namespace lmxlab::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace lmxlab::kernels::HWY_NAMESPACE {

// Weights exp(x) and exp(y) as multiples of the larger: one of them is 1.
struct Pair {
  VF x, y, most;
};
HWY_INLINE Pair pair_of(VF x, VF y) {
  const DF d;
  const VF small = fast_exp(d, hn::Neg(hn::Abs(hn::Sub(x, y)))), one = hn::Set(d, 1.0f);
  const auto less = hn::Lt(x, y);
  return {hn::IfThenElse(less, small, one), hn::IfThenElse(less, one, small),
          hn::IfThenElse(less, y, x)};
}
// a, b and most after a position.
HWY_INLINE void step(VF k, VF v, VF w, VF& a, VF& b, VF& most) {
  const auto [old, now, next] = pair_of(hn::Sub(most, w), k);
  a = hn::MulAdd(old, a, hn::Mul(now, v)), b = hn::MulAdd(old, b, now), most = next;
}

void wkv_forward(const WkvRow& s, const WkvForward& p) {
  const int64_t W = s.width, size = lanes();
  for (int64_t c = 0; c < s.count; c += size) {
    const auto some = [&](auto lanes) {
      const VF w = read(p.w + c, lanes), u = read(p.u + c, lanes);
      VF a = read(p.sums + c, lanes), b = read(p.sums + W + c, lanes);
      VF most = read(p.most + c, lanes);
      for (int64_t t = 0; t < s.length; t++) {
        if (t % kWkvBlock == 0) {
          float* const start = p.starts + t / kWkvBlock * 3 * W + c;
          write(a, start, lanes), write(b, start + W, lanes), write(most, start + 2 * W, lanes);
        }
        const int64_t at = t * W + c;
        const VF k = read(p.k + at, lanes), v = read(p.v + at, lanes);
        const auto [old, own, top] = pair_of(most, hn::Add(u, k));
        write(hn::Div(hn::MulAdd(old, a, hn::Mul(own, v)), hn::MulAdd(old, b, own)), p.out + at,
              lanes);
        step(k, v, w, a, b, most);
      }
      write(a, p.after + c, lanes), write(b, p.after + W + c, lanes);
      write(most, p.after_most + c, lanes);
    };
    if (c + size <= s.count)
      some(Whole{});
    else
      some(First{s.count - c});
  }
}

// Backwards: a block's states once more, then from its end to its start. With n and m the
// numerator and denominator of o: gn = go / m, gm = -gn o.
void wkv_backward(const WkvRow& s, const WkvBackward& p) {
  const DF d;
  const int64_t W = s.width, size = lanes();
  HWY_ALIGN float states[3 * kWkvBlock * HWY_MAX_BYTES / sizeof(float)];
  for (int64_t c = 0; c < s.count; c += size) {
    const auto some = [&](auto lanes) {
      const VF w = read(p.w + c, lanes), u = read(p.u + c, lanes);
      VF ga = read(p.gsums + c, lanes), gb = read(p.gsums + W + c, lanes);
      VF gw = hn::Zero(d), gu = gw, a = gw, b = gw, most = gw;
      for (int64_t block = s.blocks() - 1; block >= 0; block--) {
        const int64_t from = block * kWkvBlock;
        const int64_t count = std::min<int64_t>(kWkvBlock, s.length - from);
        const float* const start = p.starts + block * 3 * W + c;
        a = read(start, lanes), b = read(start + W, lanes), most = read(start + 2 * W, lanes);
        for (int64_t t = 0; t < count; t++) {
          float* const kept = states + 3 * t * size;
          hn::StoreU(a, d, kept), hn::StoreU(b, d, kept + size);
          hn::StoreU(most, d, kept + 2 * size);
          const int64_t at = (from + t) * W + c;
          if (t + 1 < count) step(read(p.k + at, lanes), read(p.v + at, lanes), w, a, b, most);
        }
        for (int64_t t = count - 1; t >= 0; t--) {
          const int64_t at = (from + t) * W + c;
          const VF k = read(p.k + at, lanes), v = read(p.v + at, lanes);
          const float* const kept = states + 3 * t * size;
          a = hn::LoadU(d, kept), b = hn::LoadU(d, kept + size);
          most = hn::LoadU(d, kept + 2 * size);
          const auto [old, own, top] = pair_of(most, hn::Add(u, k));
          const auto [stays, adds, next] = pair_of(hn::Sub(most, w), k);
          const VF gn = hn::Div(read(p.gout + at, lanes), hn::MulAdd(old, b, own));
          const VF o = read(p.out + at, lanes);
          const VF gown = hn::Mul(hn::Mul(own, gn), hn::Sub(v, o));  // of u + k
          gu = hn::Add(gu, gown);
          write(hn::MulAdd(adds, hn::MulAdd(ga, v, gb), gown), p.gk + at, lanes);
          write(hn::MulAdd(own, gn, hn::Mul(adds, ga)), p.gv + at, lanes);
          ga = hn::Mul(stays, ga), gb = hn::Mul(stays, gb);
          gw = hn::Sub(gw, hn::MulAdd(ga, a, hn::Mul(gb, b)));
          const VF gold = hn::Mul(old, gn);
          ga = hn::Add(ga, gold), gb = hn::NegMulAdd(gold, o, gb);
        }
      }
      write(ga, p.gsums + c, lanes), write(gb, p.gsums + W + c, lanes);
      write(gw, p.gw + c, lanes), write(gu, p.gu + c, lanes);
      // Of the first exponent, whose sums lie in a and b now: those after it are constants.
      write(hn::MulAdd(ga, a, hn::Mul(gb, b)), p.gmost + c, lanes);
    };
    if (c + size <= s.count)
      some(Whole{});
    else
      some(First{s.count - c});
  }
}

}  // namespace lmxlab::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lmxlab::kernels {
namespace {

namespace mx = mlx::core;
using mx::array;

HWY_EXPORT(wkv_forward);
HWY_EXPORT(wkv_backward);

int blocks_of(const array& k) {
  return (k.shape(1) + kWkvBlock - 1) / kWkvBlock;
}
mx::Shape starts_shape(const array& k) {
  return {k.shape(0), blocks_of(k), 3, k.shape(2)};
}
// Calls f(channels, row, first channel) for some channels of a row at a time.
template <class F>
void each_slice(const mx::Shape& shape, F&& f) {
  const int64_t L = shape[1], C = shape[2], slices = (C + kWkvSlice - 1) / kWkvSlice;
  // 1 to 4 us of exponentials, which is worth a thread.
  const int64_t numbers = L * std::min(kWkvSlice, C), least = (2048 + numbers - 1) / numbers;
  parallel_for(shape[0] * slices, least, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++) {
      const int64_t c = i % slices * kWkvSlice;
      f(WkvRow{L, C, std::min(kWkvSlice, C - c)}, i / slices, c);
    }
  });
}
const float* floats(const Dense& d) {
  return static_cast<const float*>(d.read());
}

class WkvScanGrad : public Op {  // k, v, w, u, sums, most, starts, out, gout, gsums -> of each of 6
 public:
  const char* name() const override { return "lmxlab::WkvScanGrad"; }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    return {in[0].shape(), in[1].shape(), in[2].shape(),
            in[3].shape(), in[4].shape(), in[5].shape()};
  }
  Arrays plain(const Arrays& in) const override {
    const auto f = [&](const Arrays& v) -> Arrays {
      const auto s = plain::wkv_scan(v[0], v[1], v[2], v[3], v[4], v[5]);
      return {s.out, s.sums};
    };
    return mx::vjp(f, Arrays(in.begin(), in.begin() + 6), {in[8], in[9]}).second;
  }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    release_inputs(in, out);
    give(out[0], in[0]);
    give(out[1], in[1].is_donatable() ? in[1] : in[8]);
    give(out[2]), give(out[3]);
    give(out[4], in[9]);
    give(out[5]);
    const auto shape = in[0].shape();
    task([shape, k = Dense(in[0]), v = Dense(in[1]), w = Dense(in[2]), u = Dense(in[3]),
          starts = Dense(in[6]), o = Dense(in[7]), go = Dense(in[8]),
          gafter = Renewed(in[9], out[4]), gk = out[0].data<float>(), gv = out[1].data<float>(),
          gw = out[2].data<float>(), gu = out[3].data<float>(), gmost = out[5].data<float>(),
          parts = Scratch<float>(int64_t{2} * shape[0] * shape[2])] {
      const WkvBackward all{floats(k), floats(v),  floats(w), floats(u), floats(starts),
                            floats(o), floats(go), gk,        gv,        nullptr,
                            nullptr,   nullptr,    nullptr};
      gafter.keep();
      auto* const gsums = reinterpret_cast<float*>(gafter.data());
      const int64_t B = shape[0], C = shape[2];
      each_slice(shape, [&](const WkvRow& s, int64_t r, int64_t c) {
        const int64_t at = r * s.length * C + c;
        auto p = all;
        p.k += at, p.v += at, p.w += c, p.u += c, p.starts += r * s.blocks() * 3 * C + c;
        p.out += at, p.gout += at, p.gk += at, p.gv += at;
        p.gw = parts.get() + 2 * r * C + c, p.gu = p.gw + C, p.gsums = gsums + 2 * r * C + c;
        p.gmost = gmost + r * C + c;
        HWY_DYNAMIC_DISPATCH(wkv_backward)(s, p);
      });
      sum_parts(parts.get(), B, 2 * C, C, Type::f32, gw);
      sum_parts(parts.get() + C, B, 2 * C, C, Type::f32, gu);
    });
  }
};

class WkvScanOp : public Op {  // k, v, w, u, sums, most -> out, sums, most, states before blocks
 public:
  const char* name() const override { return "lmxlab::WkvScan"; }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    return {in[0].shape(), in[4].shape(), in[5].shape(), starts_shape(in[0])};
  }
  Arrays plain(const Arrays& in) const override {
    const auto s = plain::wkv_scan(in[0], in[1], in[2], in[3], in[4], in[5]);
    // Nobody reads them but the fused gradient, which is not taken of ordinary ops.
    return {s.out, s.sums, s.most, mx::zeros(starts_shape(in[0]), mx::float32)};
  }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    release_inputs(in, out);
    give(out[0], in[0].is_donatable() ? in[0] : in[1]);
    for (size_t i = 1; i < out.size(); i++) give(out[i]);
    task([shape = in[0].shape(), k = Dense(in[0]), v = Dense(in[1]), w = Dense(in[2]),
          u = Dense(in[3]), sums = Dense(in[4]), most = Dense(in[5]), o = out[0].data<float>(),
          after = out[1].data<float>(), after_most = out[2].data<float>(),
          starts = out[3].data<float>()] {
      const WkvForward all{floats(k),    floats(v), floats(w), floats(u),  floats(sums),
                           floats(most), o,         after,     after_most, starts};
      each_slice(shape, [&](const WkvRow& s, int64_t r, int64_t c) {
        const int64_t C = s.width, at = r * s.length * C + c;
        auto p = all;
        p.k += at, p.v += at, p.w += c, p.u += c, p.sums += 2 * r * C + c, p.most += r * C + c;
        p.out += at, p.after += 2 * r * C + c, p.after_most += r * C + c;
        p.starts += r * s.blocks() * 3 * C + c;
        HWY_DYNAMIC_DISPATCH(wkv_forward)(s, p);
      });
    });
  }

  Arrays vjp(const Arrays& in, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override {
    Arrays from = in;
    from.insert(from.end(), {outputs[3], outputs[0], cotangents[0], cotangents[1]});
    const auto op = std::make_shared<WkvScanGrad>();
    const auto all = array::make_arrays(op->output_shapes(from),
                                        std::vector<mx::Dtype>(6, mx::float32), op, from);
    Arrays out;
    for (const int i : argnums) out.push_back(all[static_cast<size_t>(i)]);
    return out;
  }
};

}  // namespace

WkvScan wkv_scan(const array& k, const array& v, const array& w, const array& u, const array& sums,
                 const array& most) {
  const Arrays in{k, v, w, u, sums, most};
  const bool shapes = k.ndim() == 3 && v.shape() == k.shape() &&
                      w.shape() == mx::Shape{k.shape(2)} && u.shape() == w.shape() &&
                      sums.shape() == mx::Shape{k.shape(0), 2, k.shape(2)} &&
                      most.shape() == mx::Shape{k.shape(0), k.shape(2)};
  const bool types =
      std::all_of(in.begin(), in.end(), [](const array& i) { return i.dtype() == mx::float32; });
  if (!shapes || !types)
    throw Error(Kind::usage,
                "[wkv_scan] expected float32 k and v [B, L, C], w and u [C], sums [B, 2, C] and "
                "most [B, C]");
  if (!fused(mx::float32) || k.size() == 0) return plain::wkv_scan(k, v, w, u, sums, most);
  const auto op = std::make_shared<WkvScanOp>();
  const auto out =
      array::make_arrays(op->output_shapes(in), std::vector<mx::Dtype>(4, mx::float32), op, in);
  return {out[0], out[1], out[2]};
}

WkvScan plain::wkv_scan(const array& k, const array& v, const array& w, const array& u,
                        const array& sums, const array& most) {
  // x exp(at) + y exp(key), as a multiple of the larger.
  struct Mean {
    array a, b, most;
  };
  const auto with = [](const Mean& x, const array& at, const array& key, const array& value) {
    const auto top = mx::stop_gradient(mx::maximum(at, key));
    const auto old = mx::exp(mx::subtract(at, top)), now = mx::exp(mx::subtract(key, top));
    return Mean{mx::add(mx::multiply(old, x.a), mx::multiply(now, value)),
                mx::add(mx::multiply(old, x.b), now), top};
  };
  Mean s{mx::take(sums, 0, 1), mx::take(sums, 1, 1), most};
  Arrays out;
  for (int t = 0; t < k.shape(1); t++) {
    const auto key = mx::take(k, t, 1), value = mx::take(v, t, 1);
    const auto mean = with(s, s.most, mx::add(u, key), value);
    out.push_back(mx::divide(mean.a, mean.b));
    s = with(s, mx::subtract(s.most, w), key, value);
  }
  return {out.empty() ? mx::zeros_like(k) : mx::stack(out, 1), mx::stack({s.a, s.b}, 1), s.most};
}

}  // namespace lmxlab::kernels
#endif
