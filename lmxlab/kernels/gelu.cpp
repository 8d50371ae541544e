#include "lmxlab/kernels/gelu.h"

#include <cmath>
#include <cstdint>

#include "lmxlab/kernels/op.h"
#include "lmxlab/kernels/thread_pool.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lmxlab/kernels/gelu.cpp"
#include <hwy/foreach_target.h>
// Highway's headers come after foreach_target.h.
#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace lmxlab::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

// Phi(x) and its density. With a = |x|, Phi(-a) = exp(-a^2 / 2) Q(a), where Q(a) = erfcx(a / sqrt
// 2) / 2 falls slowly: t P(t) with t = 1 / (1 + 0.26 a), the coefficients by iterated least squares
// on the relative error (5e-10).
struct Normal {
  V cdf, pdf;
};
HWY_INLINE Normal normal(D d, V x) {
  const V a = hn::Min(hn::Abs(x), hn::Set(d, 15.0f));  // exp(-15^2 / 2) is zero in float
  const V square = hn::Mul(a, a);
  const V lost =
      hn::MulSub(a, a, square);  // what rounding took off the square: it counts in the tail
  const V half = hn::Set(d, 0.5f), one = hn::Set(d, 1.0f);
  V e = hn::Exp(d, hn::Neg(hn::Mul(half, square)));
  e = hn::NegMulAdd(hn::Mul(half, lost), e, e);
  const V t = hn::Div(one, hn::MulAdd(hn::Set(d, 0.26f), a, one));
  V p = hn::Set(d, -0.015585695393383503f);
  p = hn::MulAdd(p, t, hn::Set(d, 0.09835349023342133f));
  p = hn::MulAdd(p, t, hn::Set(d, -0.24133697152137756f));
  p = hn::MulAdd(p, t, hn::Set(d, 0.2798055410385132f));
  p = hn::MulAdd(p, t, hn::Set(d, -0.1868024617433548f));
  p = hn::MulAdd(p, t, hn::Set(d, 0.1438826620578766f));
  p = hn::MulAdd(p, t, hn::Set(d, 0.027801085263490677f));
  p = hn::MulAdd(p, t, hn::Set(d, 0.09083035588264465f));
  p = hn::MulAdd(p, t, hn::Set(d, 0.09550102055072784f));
  p = hn::MulAdd(p, t, hn::Set(d, 0.1038300022482872f));
  p = hn::MulAdd(p, t, hn::Set(d, 0.10372097790241241f));
  const V tail = hn::Mul(e, hn::Mul(t, p));
  const V cdf = hn::IfThenElse(hn::Lt(x, hn::Zero(d)), tail, hn::Sub(one, tail));
  return {cdf, hn::Mul(e, hn::Set(d, 0.3989422804014327f))};
}

// The tanh form is x s(u) with the logistic s and u = 2 sqrt(2/pi) (x + 0.044715 x^3).
struct Logistic {
  V value, slope;  // s(u(x)) and its derivative by x
};
HWY_INLINE Logistic logistic(D d, V x) {
  const V one = hn::Set(d, 1.0f), c = hn::Set(d, 1.5957691216057308f);
  const V square = hn::Mul(x, x);
  const V u = hn::Mul(hn::Mul(c, x), hn::MulAdd(hn::Set(d, 0.044715f), square, one));
  const V s = hn::Div(one, hn::Add(one, hn::Exp(d, hn::Min(hn::Neg(u), hn::Set(d, 88.0f)))));
  const V du = hn::Mul(c, hn::MulAdd(hn::Set(d, 3 * 0.044715f), square, one));
  return {s, hn::Mul(hn::Mul(s, hn::Sub(one, s)), du)};
}

template <class F>
HWY_INLINE void each(int64_t n, F f) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    f(d, i, lanes);
  }
  for (; i < n; i++) {
    f(d, i, 1);
  }
}
HWY_INLINE V load(D d, const float* p, int64_t n) {
  return n > 1 ? hn::LoadU(d, p) : hn::Set(d, *p);
}
HWY_INLINE void store(D d, V v, float* p, int64_t n) {
  if (n > 1) {
    hn::StoreU(v, d, p);
  } else {
    *p = hn::GetLane(v);
  }
}

void forward(const float* x, float* y, int64_t n, bool tanh_form) {
  each(n, [&](D d, int64_t i, int64_t lanes) {
    const V v = load(d, x + i, lanes);
    store(d, hn::Mul(v, tanh_form ? logistic(d, v).value : normal(d, v).cdf), y + i, lanes);
  });
}

void backward(const float* x, const float* g, float* dx, int64_t n, bool tanh_form) {
  each(n, [&](D d, int64_t i, int64_t lanes) {
    const V v = load(d, x + i, lanes);
    V slope;
    if (tanh_form) {
      const auto s = logistic(d, v);
      slope = hn::MulAdd(v, s.slope, s.value);
    } else {
      const auto phi = normal(d, v);
      slope = hn::MulAdd(v, phi.pdf, phi.cdf);
    }
    store(d, hn::Mul(slope, load(d, g + i, lanes)), dx + i, lanes);
  });
}

}  // namespace lmxlab::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lmxlab::kernels {
namespace {

namespace mx = mlx::core;
using mx::array;

HWY_EXPORT(forward);
HWY_EXPORT(backward);

constexpr int64_t kGrain = 4096;

array constant(double value, const array& like) {
  return array(static_cast<float>(value), like.dtype());
}

array plain_gelu(const array& x, bool tanh_form) {
  const auto half = constant(0.5, x), one = constant(1, x);
  if (tanh_form) {
    const auto inner = x + constant(0.044715, x) * x * x * x;
    return half * x * (one + mx::tanh(constant(0.7978845608028654, x) * inner));
  }
  return x * half * (one + mx::erf(x * constant(0.7071067811865476, x)));
}

class GeluGrad : public Op {  // x, g -> dx
 public:
  explicit GeluGrad(bool tanh_form) : tanh_form_(tanh_form) {}
  const char* name() const override { return "lmxlab::GeluGrad"; }
  bool same(const Op& other) const override {
    return tanh_form_ == static_cast<const GeluGrad&>(other).tanh_form_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override { return {in[0].shape()}; }

  Arrays plain(const Arrays& in) const override {
    auto f = [this](const Arrays& v) -> Arrays { return {plain_gelu(v[0], tanh_form_)}; };
    return mx::vjp(f, {in[0]}, {in[1]}).second;
  }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    if (in[1].is_donatable()) {
      give(out[0], in[1]);
    } else {
      give(out[0], in[0]);
    }
    task([x = in[0].data<float>(), g = in[1].data<float>(), dx = out[0].data<float>(),
          n = static_cast<int64_t>(in[0].size()), form = tanh_form_] {
      parallel_for(n, kGrain, [=](int64_t a, int64_t b) {
        HWY_DYNAMIC_DISPATCH(backward)(x + a, g + a, dx + a, b - a, form);
      });
    });
  }

 private:
  bool tanh_form_;
};

class Gelu : public Op {
 public:
  explicit Gelu(bool tanh_form) : tanh_form_(tanh_form) {}
  const char* name() const override { return "lmxlab::Gelu"; }
  bool same(const Op& other) const override {
    return tanh_form_ == static_cast<const Gelu&>(other).tanh_form_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override { return {in[0].shape()}; }
  Arrays plain(const Arrays& in) const override { return {plain_gelu(in[0], tanh_form_)}; }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    give(out[0], in[0]);
    task([x = in[0].data<float>(), y = out[0].data<float>(), n = static_cast<int64_t>(in[0].size()),
          form = tanh_form_] {
      parallel_for(n, kGrain, [=](int64_t a, int64_t b) {
        HWY_DYNAMIC_DISPATCH(forward)(x + a, y + a, b - a, form);
      });
    });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>&,
             const Arrays&) override {
    return {output_like(primals[0], std::make_shared<GeluGrad>(tanh_form_),
                        {primals[0], dense(cotangents[0])})};
  }

 private:
  bool tanh_form_;
};

array make_gelu(const array& x, bool tanh_form) {
  if (x.dtype() != mx::float32 || !fused(x.dtype())) {
    return plain_gelu(x, tanh_form);
  }
  return output_like(x, std::make_shared<Gelu>(tanh_form), {dense(x)});
}

}  // namespace

array gelu(const array& x) {
  return make_gelu(x, false);
}
array gelu_tanh(const array& x) {
  return make_gelu(x, true);
}

}  // namespace lmxlab::kernels
#endif
