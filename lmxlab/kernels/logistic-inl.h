// The logistic function and log(1 + e) of vectors of float32, good to 3 ulp. Included by kernels
// after foreach_target.h, once an instruction set. NaN stays NaN.

#if defined(LMXLAB_KERNELS_LOGISTIC_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef LMXLAB_KERNELS_LOGISTIC_INL
#undef LMXLAB_KERNELS_LOGISTIC_INL
#else
#define LMXLAB_KERNELS_LOGISTIC_INL
#endif

#include "lmxlab/kernels/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lmxlab::kernels::HWY_NAMESPACE {

// 1 / v for v in [1, 8].
HWY_INLINE VF reciprocal(DF d, VF v) {
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
  const VF r = hn::ApproximateReciprocal(v);  // 14 bits, and a step of Newton's method
  return hn::MulAdd(hn::NegMulAdd(v, r, hn::Set(d, 1.0f)), r, r);
#else
  return hn::Div(hn::Set(d, 1.0f), v);
#endif
}

struct Odds {
  VF yes, no;  // p and 1 - p, both without cancellation
};
// The logistic function of u.
HWY_INLINE Odds logistic(DF d, VF u) {
  const VF e = exp_not_large(d, hn::Neg(hn::Abs(u)));
  const VF large = reciprocal(d, hn::Add(hn::Set(d, 1.0f), e)), small = hn::Mul(e, large);
  const auto negative = hn::Lt(u, hn::Zero(d));
  return {hn::IfThenElse(negative, small, large), hn::IfThenElse(negative, large, small)};
}

// log(1 + e) for e in [0, 1]: 2 atanh(s) with s = e / (2 + e), a polynomial in s^2 up to 1/9, good
// to 4e-9 before rounding.
HWY_INLINE VF log1p_to_one(DF d, VF e) {
  const VF s = hn::Mul(e, reciprocal(d, hn::Add(e, hn::Set(d, 2.0f)))), square = hn::Mul(s, s);
  VF p = hn::Set(d, 0.28178308747128816f);
  p = hn::MulAdd(p, square, hn::Set(d, 0.27960608811723553f));
  p = hn::MulAdd(p, square, hn::Set(d, 0.40024909836340694f));
  p = hn::MulAdd(p, square, hn::Set(d, 0.6666631469281173f));
  return hn::MulAdd(hn::Mul(p, square), s, hn::Add(s, s));
}

}  // namespace lmxlab::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
