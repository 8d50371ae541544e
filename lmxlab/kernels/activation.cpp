#include "lmxlab/kernels/activation.h"

#include <type_traits>

#include "lmxlab/kernels/dense.h"
#include "lmxlab/kernels/op.h"
#include "lmxlab/kernels/thread_pool.h"

#ifndef LMXLAB_KERNELS_WITH_ACTIVATION
#define LMXLAB_KERNELS_WITH_ACTIVATION
namespace lmxlab::kernels {
template <Activation kind>
using ActivationIs = std::integral_constant<Activation, kind>;

/// Calls f with the kind as a constant.
template <class F>
void with_activation(Activation kind, F&& f) {
  switch (kind) {
    case Activation::silu: return f(ActivationIs<Activation::silu>{});
    case Activation::gelu: return f(ActivationIs<Activation::gelu>{});
    case Activation::gelu_tanh: return f(ActivationIs<Activation::gelu_tanh>{});
    case Activation::relu: return f(ActivationIs<Activation::relu>{});
    case Activation::relu2: return f(ActivationIs<Activation::relu2>{});
    case Activation::sigmoid: return f(ActivationIs<Activation::sigmoid>{});
    case Activation::softplus: return f(ActivationIs<Activation::softplus>{});
  }
}
}  // namespace lmxlab::kernels
#endif

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lmxlab/kernels/activation.cpp"
#include <hwy/foreach_target.h>
// Highway's headers come after foreach_target.h.
#include "lmxlab/kernels/logistic-inl.h"
#include "lmxlab/kernels/loop-inl.h"
#include "lmxlab/kernels/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lmxlab::kernels::HWY_NAMESPACE {

HWY_INLINE VF constant(float v) {
  return hn::Set(DF(), v);
}

// a a = square + lost: what rounding took off counts in the tail of exp(-a^2 / 2).
struct ExactSquare {
  VF square, lost;
};
HWY_INLINE ExactSquare exact_square(VF a) {
  const VF square = hn::Mul(a, a);
#if HWY_NATIVE_FMA
  return {square, hn::MulSub(a, a, square)};
#else
  const hn::RebindToUnsigned<DF> du;  // halves of 12 bits, whose products are exact
  const VF high = hn::BitCast(DF(), hn::And(hn::BitCast(du, a), hn::Set(du, 0xfffff000u)));
  const VF low = hn::Sub(a, high), cross = hn::Mul(hn::Add(high, high), low);
  return {square, hn::MulAdd(low, low, hn::Add(hn::MulSub(high, high, square), cross))};
#endif
}

// The normal distribution function and its density. With a = |x|, Phi(-a) = exp(-a^2 / 2) Q(a),
// where Q(a) = erfcx(a / sqrt 2) / 2 falls slowly: t P(t) with t = 1 / (1 + 0.265 a), by iterated
// least squares on the relative error (4e-8).
struct Normal {
  VF cdf, pdf;
};
HWY_INLINE Normal normal(VF x) {
  const VF a = hn::Min(hn::Abs(x), constant(14.0f));  // exp(-14^2 / 2) is zero in float32
  const auto [square, lost] = exact_square(a);
  VF e = exp_not_large(DF(), hn::Mul(constant(-0.5f), square));
  e = hn::NegMulAdd(hn::Mul(constant(0.5f), lost), e, e);
  const VF t = reciprocal(DF(), hn::MulAdd(constant(0.265f), a, constant(1.0f)));
  VF p = hn::MulAdd(constant(0.03091280721127987f), t, constant(-0.14466309547424316f));
  p = hn::MulAdd(p, t, constant(0.21868844330310822f));
  p = hn::MulAdd(p, t, constant(-0.11733657866716385f));
  p = hn::MulAdd(p, t, constant(0.13861051201820374f));
  p = hn::MulAdd(p, t, constant(0.06003859266638756f));
  p = hn::MulAdd(p, t, constant(0.1027701124548912f));
  p = hn::MulAdd(p, t, constant(0.10523708164691925f));
  p = hn::MulAdd(p, t, constant(0.10574212670326233f));
  const VF tail = hn::Mul(e, hn::Mul(t, p));
  const VF cdf = hn::IfThenElse(hn::Lt(x, hn::Zero(DF())), tail, hn::Sub(constant(1.0f), tail));
  return {cdf, hn::Mul(e, constant(0.3989422804014327f))};
}

struct Both {
  VF value, slope;
};
template <Activation kind>
HWY_INLINE Both both(VF x, ActivationIs<kind>) {
  const DF d;
  const VF one = constant(1.0f);
  if constexpr (kind == Activation::silu) {
    const auto [yes, no] = logistic(d, x);
    const VF value = hn::Mul(x, yes);
    return {value, hn::MulAdd(value, no, yes)};
  } else if constexpr (kind == Activation::gelu) {
    const auto [cdf, pdf] = normal(x);
    return {hn::Mul(x, cdf), hn::MulAdd(x, pdf, cdf)};
  } else if constexpr (kind == Activation::gelu_tanh) {
    // x logistic(u) with u = 2 sqrt(2 / pi) (x + 0.044715 x^3); the square is kept finite.
    const VF square = hn::Min(hn::Mul(x, x), constant(1e6f)), c = constant(1.5957691216057308f);
    const auto [yes, no] =
        logistic(d, hn::Mul(hn::Mul(c, x), hn::MulAdd(square, constant(0.044715f), one)));
    const VF du = hn::Mul(c, hn::MulAdd(square, constant(3 * 0.044715f), one));
    const VF value = hn::Mul(x, yes);
    return {value, hn::MulAdd(hn::Mul(value, no), du, yes)};
  } else if constexpr (kind == Activation::sigmoid) {
    const auto [yes, no] = logistic(d, x);
    return {yes, hn::Mul(yes, no)};
  } else if constexpr (kind == Activation::softplus) {
    // max(x, 0) + log(1 + exp(-|x|)), whose terms have one sign; one exponential serves both.
    const auto negative = hn::Lt(x, hn::Zero(d));
    const VF e = exp_not_large(d, hn::Neg(hn::Abs(x))), large = reciprocal(d, hn::Add(one, e));
    const VF value = hn::Add(hn::IfThenZeroElse(negative, x), log1p_to_one(d, e));
    return {value, hn::IfThenElse(negative, hn::Mul(e, large), large)};
  } else if constexpr (kind == Activation::relu) {
    const auto negative = hn::Lt(x, hn::Zero(d));  // NaN is not, and stays
    const VF value = hn::IfThenZeroElse(negative, x);
    return {value, hn::IfThenElseZero(hn::Gt(x, hn::Zero(d)), one)};
  } else {
    const VF value = hn::IfThenZeroElse(hn::Lt(x, hn::Zero(d)), x);
    return {hn::Mul(value, value), hn::Add(value, value)};
  }
}

// y = act(x), times up where that is given.
void activate_run(Activation kind, Type type, const void* x_, const void* up_, void* y_,
                  int64_t n) {
  with_activation(kind, [=](auto k) {
    with_type(type, [=](auto t) {
      using T = decltype(t);
      const auto *const x = static_cast<const T*>(x_), *const up = static_cast<const T*>(up_);
      auto* const y = static_cast<T*>(y_);
      if (up) {
        each(n, [=](int64_t i, auto lanes) {
          write(hn::Mul(both(read(x + i, lanes), k).value, read(up + i, lanes)), y + i, lanes);
        });
      } else {
        each(n, [=](int64_t i, auto lanes) {
          write(both(read(x + i, lanes), k).value, y + i, lanes);
        });
      }
    });
  });
}

// dx = g act'(x); with up, dx = g up act'(x) and dup = g act(x). dx, dup may lie where inputs lie.
void activate_grad_run(Activation kind, Type type, const void* x_, const void* up_, const void* g_,
                       void* dx_, void* dup_, int64_t n) {
  with_activation(kind, [=](auto k) {
    with_type(type, [=](auto t) {
      using T = decltype(t);
      const auto *const x = static_cast<const T*>(x_), *const up = static_cast<const T*>(up_);
      const auto* const g = static_cast<const T*>(g_);
      auto *const dx = static_cast<T*>(dx_), *const dup = static_cast<T*>(dup_);
      if (up) {
        each(n, [=](int64_t i, auto lanes) {
          const auto [value, slope] = both(read(x + i, lanes), k);
          const VF gi = read(g + i, lanes), ui = read(up + i, lanes);
          write(hn::Mul(hn::Mul(gi, ui), slope), dx + i, lanes);
          write(hn::Mul(gi, value), dup + i, lanes);
        });
      } else {
        each(n, [=](int64_t i, auto lanes) {
          write(hn::Mul(read(g + i, lanes), both(read(x + i, lanes), k).slope), dx + i, lanes);
        });
      }
    });
  });
}

}  // namespace lmxlab::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lmxlab::kernels {
namespace {

namespace mx = mlx::core;
using mx::array;

HWY_EXPORT(activate_run);
HWY_EXPORT(activate_grad_run);

// Elements of a part: 1 to 4 us of exponentials, 4 to 10 us of the rest, which is worth a thread.
int64_t grain(Activation kind) {
  return kind == Activation::relu || kind == Activation::relu2 ? 32768 : 4096;
}

array plain_activation(Activation kind, const array& x) {
  const auto c = [&](double v) { return array(static_cast<float>(v), x.dtype()); };
  switch (kind) {
    case Activation::silu: return x * mx::sigmoid(x);
    case Activation::gelu: return x * c(0.5) * (c(1) + mx::erf(x * c(0.7071067811865476)));
    case Activation::gelu_tanh: {
      const auto inner = x + c(0.044715) * x * x * x;
      return c(0.5) * x * (c(1) + mx::tanh(c(0.7978845608028654) * inner));
    }
    case Activation::relu: return mx::maximum(x, c(0));
    case Activation::relu2: return mx::square(mx::maximum(x, c(0)));
    case Activation::sigmoid: return mx::sigmoid(x);
    case Activation::softplus: return mx::logaddexp(x, c(0));
  }
  throw Error(Kind::internal, "[activate] unknown kind");
}

class ActivateGrad : public Op {  // x, up?, g -> dx, dup?
 public:
  explicit ActivateGrad(Activation kind) : kind_(kind) {}
  const char* name() const override { return "lmxlab::ActivateGrad"; }
  bool same(const Op& other) const override {
    return kind_ == static_cast<const ActivateGrad&>(other).kind_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    return std::vector<mx::Shape>(in.size() - 1, in[0].shape());
  }
  Arrays plain(const Arrays& in) const override {
    auto f = [this](const Arrays& v) -> Arrays {
      const auto y = plain_activation(kind_, v[0]);
      return {v.size() > 1 ? mx::multiply(y, v[1]) : y};
    };
    return mx::vjp(f, Arrays(in.begin(), in.end() - 1), {in.back()}).second;
  }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    release_inputs(in, out);
    const bool gated = in.size() > 2;
    give(out[0], in.back().is_donatable() ? in.back() : in[0]);
    if (gated) give(out[1], in[0].is_donatable() ? in[0] : in[1]);
    task([kind = kind_, type = type_of(in[0].dtype()), n = static_cast<int64_t>(in[0].size()),
          x = Dense(in[0]), u = Dense(in[1]), g = Dense(in.back()), gated, dx = out[0].data<char>(),
          dup = gated ? out[1].data<char>() : nullptr] {
      const auto* const px = static_cast<const char*>(x.read());
      const auto* const pu = gated ? static_cast<const char*>(u.read()) : nullptr;
      const auto* const pg = static_cast<const char*>(g.read());
      parallel_for(n, grain(kind), [=](int64_t a, int64_t b) {
        const int64_t skip = a * size_of(type);
        HWY_DYNAMIC_DISPATCH(activate_grad_run)
        (kind, type, px + skip, gated ? pu + skip : nullptr, pg + skip, dx + skip,
         gated ? dup + skip : nullptr, b - a);
      });
    });
  }

 private:
  Activation kind_;
};

class Activate : public Op {  // x, up? -> y
 public:
  explicit Activate(Activation kind) : kind_(kind) {}
  const char* name() const override { return "lmxlab::Activate"; }
  bool same(const Op& other) const override {
    return kind_ == static_cast<const Activate&>(other).kind_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override { return {in[0].shape()}; }
  Arrays plain(const Arrays& in) const override {
    const auto y = plain_activation(kind_, in[0]);
    return {in.size() > 1 ? mx::multiply(y, in[1]) : y};
  }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    const bool gated = in.size() > 1;
    give(out[0], in[0].is_donatable() ? in[0] : in.back());
    task([kind = kind_, type = type_of(in[0].dtype()), n = static_cast<int64_t>(in[0].size()),
          x = Dense(in[0]), u = Dense(in.back()), gated, y = out[0].data<char>()] {
      const auto* const px = static_cast<const char*>(x.read());
      const auto* const pu = gated ? static_cast<const char*>(u.read()) : nullptr;
      parallel_for(n, grain(kind), [=](int64_t a, int64_t b) {
        const int64_t skip = a * size_of(type);
        HWY_DYNAMIC_DISPATCH(activate_run)
        (kind, type, px + skip, gated ? pu + skip : nullptr, y + skip, b - a);
      });
    });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays&) override {
    auto in = primals;
    in.push_back(cotangents[0]);
    const auto gradients =
        array::make_arrays(std::vector<mx::Shape>(primals.size(), primals[0].shape()),
                           std::vector<mx::Dtype>(primals.size(), primals[0].dtype()),
                           std::make_shared<ActivateGrad>(kind_), in);
    Arrays out;
    for (const int i : argnums) out.push_back(gradients[i]);
    return out;
  }

 private:
  Activation kind_;
};

array make(Activation kind, const Arrays& in) {
  auto op = std::make_shared<Activate>(kind);
  return fused(in[0].dtype()) ? output_like(in[0], op, in) : op->plain(in)[0];
}

}  // namespace

void activate_values(Activation kind, Type type, const void* gate, const void* up, void* to,
                     int64_t n) {
  HWY_DYNAMIC_DISPATCH(activate_run)(kind, type, gate, up, to, n);
}

array activate(Activation kind, const array& x) {
  return make(kind, {x});
}

array gated(Activation kind, const array& gate, const array& up) {
  if (gate.shape() != up.shape()) {
    throw Error(Kind::usage, "[gated] gate and up must have one shape, got " +
                                 std::to_string(gate.size()) + " and " + std::to_string(up.size()) +
                                 " elements.");
  }
  const auto dtype = mx::promote_types(gate.dtype(), up.dtype());
  return make(kind, {mx::astype(gate, dtype), mx::astype(up, dtype)});
}

}  // namespace lmxlab::kernels
#endif
