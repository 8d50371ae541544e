#include "lmxlab/kernels/causal_conv.h"

#include <algorithm>
#include <string>
#include <vector>

#include "lmxlab/kernels/activation.h"
#include "lmxlab/kernels/dense.h"
#include "lmxlab/kernels/elementwise.h"
#include "lmxlab/kernels/op.h"
#include "lmxlab/kernels/reduce.h"
#include "lmxlab/kernels/thread_pool.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lmxlab/kernels/causal_conv.cpp"
#include <hwy/foreach_target.h>
// Highway's headers come after foreach_target.h.
#include "lmxlab/kernels/logistic-inl.h"
#include "lmxlab/kernels/loop-inl.h"

#ifndef LMXLAB_KERNELS_CAUSAL_CONV
#define LMXLAB_KERNELS_CAUSAL_CONV
namespace lmxlab::kernels {

// Rows [C], side by side in memory: row t of batch row b lies at b `batch` + t `step` elements.
struct ConvRows {
  const char* data;
  int64_t batch, step;
};
struct Conv {
  Type type;  // of x and before
  int64_t length, channels, taps;
  bool silu;
  ConvRows x, before;
  const float *w, *bias;  // w [taps, channels]; bias: null where there is none

  // Row s of what batch row b sees: those before count from 0 to taps - 2.
  template <class T>
  const T* seen(int64_t b, int64_t s) const {
    const bool early = s < taps - 1;
    const ConvRows& r = early ? before : x;
    return reinterpret_cast<const T*>(r.data) + b * r.batch + (early ? s : s - taps + 1) * r.step;
  }
};
struct ConvGrad {
  const float* g;     // [B, L, C]
  char *dx, *before;  // dense, of the type of x
  float* sums;        // [taps + 1, C]: of w, of the bias; added to
  float* ring;        // the last `taps` rows of the sums' gradients
};

}  // namespace lmxlab::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace lmxlab::kernels::HWY_NAMESPACE {

// The sum at channels i, before the activation; from[k] is the row that tap k reads.
template <class T, class Lanes>
HWY_INLINE VF conv_sum(const Conv& c, const T* const* from, int64_t i, Lanes lanes) {
  VF y = c.bias ? read(c.bias + i, lanes) : hn::Zero(DF());
  for (int64_t k = 0; k < c.taps; k++)
    y = hn::MulAdd(read(c.w + k * c.channels + i, lanes), read(from[k] + i, lanes), y);
  return y;
}

// Rows [first, last) of all batch rows' together; y [B, L, C].
void conv_forward(const Conv& c, float* y, int64_t first, int64_t last) {
  with_type(c.type, [&](auto t) {
    using T = decltype(t);
    std::vector<const T*> rows(static_cast<size_t>(c.taps));
    const T** const from = rows.data();
    for (int64_t r = first; r < last; r++) {
      for (int64_t k = 0; k < c.taps; k++) from[k] = c.seen<T>(r / c.length, r % c.length + k);
      float* const to = y + r * c.channels;
      if (c.silu) {
        each(c.channels, [=, &c](int64_t i, auto lanes) {
          const VF v = conv_sum(c, from, i, lanes);
          write(hn::Mul(v, logistic(DF(), v).yes), to + i, lanes);
        });
      } else {
        each(c.channels,
             [=, &c](int64_t i, auto lanes) { write(conv_sum(c, from, i, lanes), to + i, lanes); });
      }
    }
  });
}

// Of batch row b the rows [first, last): their gradients of x (and of `before`, with the first of
// them) and their share of the sums. A row of x has to do with the sums of taps - 1 rows after it,
// whose gradients are computed here once more where they are another part's.
template <class T>
void conv_backward_rows(const Conv& c, const ConvGrad& k, int64_t b, int64_t first, int64_t last,
                        const T** from, const float** past) {
  const DF d;
  const int64_t C = c.channels, K = c.taps;
  float* const db = k.sums + K * C;
  if (first == 0) std::fill(k.ring, k.ring + K * C, 0.0f);
  for (int64_t t = first; t < last + K - 1; t++) {
    float* const now = k.ring + t % K * C;
    if (t >= c.length) {
      std::fill(now, now + C, 0.0f);
    } else {
      for (int64_t j = 0; j < K; j++) from[j] = c.seen<T>(b, t + j);
      const float* const g = k.g + (b * c.length + t) * C;
      const bool own = t < last;
      each(C, [=, &c](int64_t i, auto lanes) {
        VF v = read(g + i, lanes);
        if (c.silu) {
          const VF u = conv_sum(c, from, i, lanes);
          const auto [yes, no] = logistic(d, u);
          v = hn::Mul(v, hn::MulAdd(hn::Mul(u, yes), no, yes));
        }
        write(v, now + i, lanes);
        if (!own) return;
        write(hn::Add(v, read(db + i, lanes)), db + i, lanes);
        for (int64_t j = 0; j < K; j++) {
          float* const dw = k.sums + j * C + i;
          write(hn::MulAdd(v, read(from[j] + i, lanes), read(dw, lanes)), dw, lanes);
        }
      });
    }
    const int64_t at = t - (K - 1);         // what every sum it is part of is known of now
    if (at < first && first > 0) continue;  // the part's before this one
    T* const dx = at < 0 ? reinterpret_cast<T*>(k.before) + (b * (K - 1) + at + K - 1) * C
                         : reinterpret_cast<T*>(k.dx) + (b * c.length + at) * C;
    for (int64_t j = 0; j < K; j++) past[j] = k.ring + (t - j + K) % K * C;
    each(C, [=, &c](int64_t i, auto lanes) {
      VF v = hn::Zero(d);
      for (int64_t j = 0; j < K; j++)  // tap j of the sum at t - j
        v = hn::MulAdd(read(c.w + j * C + i, lanes), read(past[j] + i, lanes), v);
      write(v, dx + i, lanes);
    });
  }
}

void conv_backward(const Conv& c, const ConvGrad& k, int64_t first, int64_t last) {
  with_type(c.type, [&](auto t) {
    using T = decltype(t);
    std::vector<const T*> rows(static_cast<size_t>(c.taps));
    std::vector<const float*> past(rows.size());
    while (first < last) {
      const int64_t b = first / c.length, end = std::min(last, (b + 1) * c.length);
      conv_backward_rows<T>(c, k, b, first - b * c.length, end - b * c.length, rows.data(),
                            past.data());
      first = end;
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

HWY_EXPORT(conv_forward);
HWY_EXPORT(conv_backward);

// [B, rows, C] as rows: where it lies, if channels are side by side there, or a copy.
class RowView {
 public:
  explicit RowView(const array& x) : rows_{x.data<char>(), x.strides(0), x.strides(1)} {
    if (x.strides(2) == 1 || x.shape(2) == 1) return;
    copy_.emplace_back(x);
    rows_.step = x.shape(2), rows_.batch = rows_.step * x.shape(1);
  }
  /// Once, in the task.
  ConvRows read() const {
    auto rows = rows_;
    if (!copy_.empty()) rows.data = static_cast<const char*>(copy_[0].read());
    return rows;
  }

 private:
  ConvRows rows_;
  std::vector<Dense> copy_;
};

// What both directions read: x, before, w, bias where there is one.
class ConvInputs {
 public:
  ConvInputs(const Arrays& in, bool bias, bool silu)
      : x_(in[0]),
        before_(in[1]),
        w_(in[2]),
        bias_(in[bias ? 3 : 2]),
        has_bias_(bias),
        conv_{type_of(in[0].dtype()),
              in[0].shape(1),
              in[0].shape(2),
              in[2].shape(1),
              silu,
              {},
              {},
              nullptr,
              nullptr},
        turned_(conv_.channels * conv_.taps) {}
  /// Once, in the task.
  Conv read() const {
    auto c = conv_;
    c.x = x_.read(), c.before = before_.read();
    const auto* const w = static_cast<const float*>(w_.read());
    for (int64_t i = 0; i < c.channels; i++)
      for (int64_t k = 0; k < c.taps; k++) turned_.get()[k * c.channels + i] = w[i * c.taps + k];
    c.w = turned_.get();
    if (has_bias_) c.bias = static_cast<const float*>(bias_.read());
    return c;
  }

 private:
  RowView x_, before_;
  Dense w_, bias_;
  bool has_bias_;
  Conv conv_;
  Scratch<float> turned_;
};

class CausalConvBase : public Op {
 public:
  CausalConvBase(bool bias, bool silu) : bias_(bias), silu_(silu) {}
  bool same(const Op& other) const override {
    const auto& o = static_cast<const CausalConvBase&>(other);
    return bias_ == o.bias_ && silu_ == o.silu_;
  }

 protected:
  array plain_of(const Arrays& in) const {
    return plain::causal_conv(in[0], in[1], in[2],
                              bias_ ? std::optional<array>(in[3]) : std::nullopt, silu_);
  }
  bool bias_, silu_;
};

class CausalConvGrad : public CausalConvBase {  // x, before, w, bias?, g -> one for each but g
 public:
  using CausalConvBase::CausalConvBase;
  const char* name() const override { return "lmxlab::CausalConvGrad"; }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    std::vector<mx::Shape> out;
    for (size_t i = 0; i + 1 < in.size(); i++) out.push_back(in[i].shape());
    return out;
  }
  Arrays plain(const Arrays& in) const override {
    const auto f = [this](const Arrays& v) -> Arrays { return {plain_of(v)}; };
    return mx::vjp(f, Arrays(in.begin(), in.end() - 1), {in.back()}).second;
  }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    for (auto& o : out) give(o);
    const int64_t C = in[0].shape(2), K = in[2].shape(1), stride = (K + 1) * C;
    const RowBlocks blocks(static_cast<int64_t>(in[0].shape(0)) * in[0].shape(1));
    // Several blocks of rows a part, so that short rows are worth a thread.
    const int64_t least = std::max<int64_t>(1, 4096 / std::max<int64_t>(1, C * blocks.block));
    task([from = ConvInputs(in, bias_, silu_), g = Dense(in.back()), blocks, least, C, K, stride,
          sums = Scratch<float>(blocks.count * (stride + K * C)), all = Scratch<float>(K * C),
          dx = out[0].data<char>(), before = out[1].data<char>(), before_bytes = out[1].nbytes(),
          dw = out[2].data<float>(), db = bias_ ? out[3].data<float>() : nullptr] {
      const Conv c = from.read();
      const auto* const pg = static_cast<const float*>(g.read());
      if (blocks.count == 0 || C == 0) std::fill(before, before + before_bytes, char{0});
      parallel_for(C == 0 ? 0 : blocks.count, least, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; i++) {
          float* const sum = sums.get() + i * stride;
          std::fill(sum, sum + stride, 0.0f);
          const ConvGrad k{pg, dx, before, sum, sums.get() + blocks.count * stride + i * K * C};
          HWY_DYNAMIC_DISPATCH(conv_backward)
          (c, k, blocks.begin(i), blocks.begin(i) + blocks.size(i));
        }
      });
      sum_parts(sums.get(), blocks.count, stride, K * C, Type::f32, all.get());
      for (int64_t i = 0; i < C; i++)
        for (int64_t k = 0; k < K; k++) dw[i * K + k] = all.get()[k * C + i];
      if (db) sum_parts(sums.get() + K * C, blocks.count, stride, C, Type::f32, db);
    });
  }
};

class CausalConv : public CausalConvBase {  // x, before, w, bias? -> y
 public:
  using CausalConvBase::CausalConvBase;
  const char* name() const override { return "lmxlab::CausalConv"; }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override { return {in[0].shape()}; }
  Arrays plain(const Arrays& in) const override { return {plain_of(in)}; }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    give(out[0]);
    if (out[0].size() == 0) return task([] {});
    const int64_t rows = static_cast<int64_t>(in[0].shape(0)) * in[0].shape(1);
    task([from = ConvInputs(in, bias_, silu_), y = out[0].data<float>(), rows] {
      const Conv c = from.read();
      parallel_for(rows, std::max<int64_t>(1, 4096 / c.channels), [&](int64_t a, int64_t b) {
        HWY_DYNAMIC_DISPATCH(conv_forward)(c, y, a, b);
      });
    });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays&) override {
    auto in = primals;
    in.push_back(cotangents[0]);
    const auto op = std::make_shared<CausalConvGrad>(bias_, silu_);
    std::vector<mx::Dtype> dtypes;
    for (const auto& a : primals) dtypes.push_back(a.dtype());
    auto shapes = op->output_shapes(in);
    const auto all = array::make_arrays(std::move(shapes), dtypes, op, in);
    Arrays out;
    for (const int i : argnums) out.push_back(all[static_cast<size_t>(i)]);
    return out;
  }
};

}  // namespace

array causal_conv(const array& x, const array& before, const array& w,
                  const std::optional<array>& bias, bool silu) {
  const bool fits = x.ndim() == 3 && w.ndim() == 2 && w.shape(1) > 0 && w.shape(0) == x.shape(2) &&
                    before.shape() == mx::Shape{x.shape(0), w.shape(1) - 1, x.shape(2)} &&
                    (!bias || bias->shape() == mx::Shape{x.shape(2)});
  if (!fits)
    throw Error(Kind::usage,
                "[causal_conv] expected x [B, L, C], before [B, K - 1, C], w [C, K] and a bias "
                "[C]");
  if (!fused(x.dtype())) return plain::causal_conv(x, before, w, bias, silu);
  Arrays in{x, cast(before, x.dtype()), cast(w, mx::float32)};
  if (bias) in.push_back(cast(*bias, mx::float32));
  return array(x.shape(), mx::float32, std::make_shared<CausalConv>(bias.has_value(), silu), in);
}

array plain::causal_conv(const array& x, const array& before, const array& w,
                         const std::optional<array>& bias, bool silu) {
  const int L = x.shape(1), K = w.shape(1);
  const auto f32 = [](const array& a) { return mx::astype(a, mx::float32); };
  const auto seen = f32(mx::concatenate({mx::astype(before, x.dtype()), x}, 1));
  const auto taps = mx::transpose(f32(w));
  std::optional<array> y;
  for (int k = 0; k < K; ++k) {
    const auto shifted = mx::slice(seen, {0, k, 0}, {x.shape(0), k + L, x.shape(2)});
    const auto part = mx::multiply(shifted, mx::take(taps, k, 0));
    y = y ? mx::add(*y, part) : part;
  }
  if (bias) y = mx::add(*y, f32(*bias));
  return silu ? kernels::activate(Activation::silu, *y) : *y;
}

}  // namespace lmxlab::kernels
#endif
