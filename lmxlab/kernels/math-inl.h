// Elementary functions of vectors of float32, quicker than Highway's and good to 2 ulp. Included by
// kernels after foreach_target.h, once an instruction set.
//
// NaN stays NaN. Results below the smallest normal number may be 0. The polynomials are minimax in
// the relative error, by iteratively reweighted least squares.

#if defined(LMXLAB_KERNELS_MATH_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef LMXLAB_KERNELS_MATH_INL
#undef LMXLAB_KERNELS_MATH_INL
#else
#define LMXLAB_KERNELS_MATH_INL
#endif

#include "lmxlab/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lmxlab::kernels::HWY_NAMESPACE {

// max(x, low), but NaN where x is.
HWY_INLINE VF at_least(DF d, VF x, float low) {
  const VF limit = hn::Set(d, low);
#if HWY_ARCH_X86 && HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_EMU128
  return hn::Max(limit, x);  // x86 answers the second operand if one is NaN
#else
  return hn::IfThenElse(hn::Lt(x, limit), limit, x);
#endif
}
HWY_INLINE VF at_most(DF d, VF x, float high) {
  return hn::Neg(at_least(d, hn::Neg(x), -high));
}

// 2^r by a polynomial, r in [-1/2, 1/2]: relative error 2e-9 before rounding.
HWY_INLINE VF exp2_near_zero(DF d, VF r) {
  VF p = hn::Set(d, 0.0001535336195302979f);
  p = hn::MulAdd(p, r, hn::Set(d, 0.0013398874404212176f));
  p = hn::MulAdd(p, r, hn::Set(d, 0.009618437357426124f));
  p = hn::MulAdd(p, r, hn::Set(d, 0.05550332471157479f));
  p = hn::MulAdd(p, r, hn::Set(d, 0.24022647913632073f));
  p = hn::MulAdd(p, r, hn::Set(d, 0.6931472028550462f));
  return hn::MulAdd(p, r, hn::Set(d, 1.0f));
}

// Adding it to a number rounds that to an integer n and leaves n + 127, the exponent of 2^n, in the
// lowest bits.
inline constexpr float kRounder = 12582912.0f + 127.0f;

// 2^x for x <= 128; 0 from x = -126.5 down, inf from x = 127.5 up.
HWY_INLINE VF exp2_not_large(DF d, VF x) {
  const hn::RebindToUnsigned<DF> d32;
  x = at_least(d, x, -127.0f);
  const VF shifted = hn::Add(x, hn::Set(d, kRounder));
  const VF r = hn::Sub(x, hn::Sub(shifted, hn::Set(d, kRounder)));
  const VF power = hn::BitCast(d, hn::ShiftLeft<23>(hn::BitCast(d32, shifted)));
  return hn::Mul(exp2_near_zero(d, r), power);
}

HWY_INLINE VF fast_exp2(DF d, VF x) {
  return exp2_not_large(d, at_most(d, x, 128.0f));
}

// e^x for x <= 88.72; 0 from x = -87.7 down, inf from x = 88.4 up.
HWY_INLINE VF exp_not_large(DF d, VF x) {
  const hn::RebindToUnsigned<DF> d32;
  x = at_least(d, x, -88.02f);  // n from -127 to 128
  const VF shifted = hn::MulAdd(x, hn::Set(d, 1.44269504088896341f), hn::Set(d, kRounder));
  const VF n = hn::Sub(shifted, hn::Set(d, kRounder));
  // x - n ln 2, with ln 2 in two parts, the first so short that the product is exact.
  VF r = hn::NegMulAdd(n, hn::Set(d, 0.693145751953125f), x);
  r = hn::NegMulAdd(n, hn::Set(d, 1.42860682030941723e-6f), r);
  VF p = hn::Set(d, 0.0013843644173788317f);
  p = hn::MulAdd(p, r, hn::Set(d, 0.008374163365818305f));
  p = hn::MulAdd(p, r, hn::Set(d, 0.04166800257259966f));
  p = hn::MulAdd(p, r, hn::Set(d, 0.16666431170304138f));
  p = hn::MulAdd(p, r, hn::Set(d, 0.49999994205576104f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0000000321837275f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f));
  const VF power = hn::BitCast(d, hn::ShiftLeft<23>(hn::BitCast(d32, shifted)));
  return hn::Mul(p, power);
}

HWY_INLINE VF fast_exp(DF d, VF x) {
  return exp_not_large(d, at_most(d, x, 88.72f));
}

// 1 - 2 / (e^2|x| + 1), and a polynomial where that would lose the leading digits.
HWY_INLINE VF fast_tanh(DF d, VF x) {
  const VF a = hn::Abs(x), one = hn::Set(d, 1.0f);
  const VF e = fast_exp(d, hn::Add(a, a));
  const VF far = hn::Sub(one, hn::Div(hn::Set(d, 2.0f), hn::Add(e, one)));
  const VF square = hn::Mul(x, x);
  VF p = hn::Set(d, -0.005704987126373716f);
  p = hn::MulAdd(p, square, hn::Set(d, 0.020639087354485882f));
  p = hn::MulAdd(p, square, hn::Set(d, -0.05373971511598138f));
  p = hn::MulAdd(p, square, hn::Set(d, 0.13331442198488408f));
  p = hn::MulAdd(p, square, hn::Set(d, -0.3333328194202174f));
  const VF near = hn::MulAdd(hn::Mul(p, square), x, x);
  return hn::IfThenElse(hn::Lt(a, hn::Set(d, 0.625f)), near, hn::CopySignToAbs(far, x));
}

}  // namespace lmxlab::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
