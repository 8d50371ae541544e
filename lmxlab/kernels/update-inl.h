// The optimizers' formulas over vectors. Included by kernels after foreach_target.h, once an
// instruction set.

#if defined(LMXLAB_KERNELS_UPDATE_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef LMXLAB_KERNELS_UPDATE_INL
#undef LMXLAB_KERNELS_UPDATE_INL
#else
#define LMXLAB_KERNELS_UPDATE_INL
#endif

#include <type_traits>

#include "lmxlab/kernels/simd-inl.h"
#include "lmxlab/kernels/update_parts.h"

HWY_BEFORE_NAMESPACE();
namespace lmxlab::kernels::HWY_NAMESPACE {

template <class T>
HWY_INLINE VF load_upto(DF d, const T* p, int64_t n) {
  return n == lanes() ? load(d, p) : load_n(d, p, n);
}
template <class T>
HWY_INLINE void store_upto(VF v, DF d, T* p, int64_t n) {
  if (n == lanes()) {
    store(v, d, p);
  } else {
    store_n(v, d, p, n);
  }
}

// The branch on the type costs nothing beside the memory's time.
HWY_INLINE VF load_as(Type type, DF d, const void* p, int64_t i, int64_t n) {
  switch (type) {
    case Type::bf16: return load_upto(d, static_cast<const Bf16*>(p) + i, n);
    case Type::f16: return load_upto(d, static_cast<const F16*>(p) + i, n);
    default: return load_upto(d, static_cast<const float*>(p) + i, n);
  }
}
HWY_INLINE void store_as(Type type, VF v, DF d, void* p, int64_t i, int64_t n) {
  switch (type) {
    case Type::bf16: return store_upto(v, d, static_cast<Bf16*>(p) + i, n);
    case Type::f16: return store_upto(v, d, static_cast<F16*>(p) + i, n);
    default: return store_upto(v, d, static_cast<float*>(p) + i, n);
  }
}

// Calls f(number of states, formula), where formula(d, p, g, m, v) rewrites p, m and v.
template <class F>
HWY_INLINE void with_formula(const Constants& k, bool decays, F f) {
  const DF d0;
  const VF rate = hn::Set(d0, k.rate), shrink = hn::Set(d0, decays ? k.shrink : 1.0f);
  const VF decay = hn::Set(d0, decays ? k.decay : 0.0f);
  const VF b1 = hn::Set(d0, k.b1), c1 = hn::Set(d0, k.c1);
  const VF b2 = hn::Set(d0, k.b2), c2 = hn::Set(d0, k.c2);
  const std::integral_constant<int, 0> none;
  const std::integral_constant<int, 1> one;
  const std::integral_constant<int, 2> two;
  switch (k.formula) {
    case Formula::keep: break;
    case Formula::add: f(none, [](DF, VF& p, VF g, VF&, VF&) { p = hn::Add(p, g); }); break;
    case Formula::sgd:
      f(none,
        [=](DF, VF& p, VF g, VF&, VF&) { p = hn::NegMulAdd(rate, hn::MulAdd(decay, p, g), p); });
      break;
    case Formula::momentum:
    case Formula::nesterov: {
      const bool ahead = k.formula == Formula::nesterov;
      f(one, [=](DF, VF& p, VF g, VF& m, VF&) {
        g = hn::MulAdd(decay, p, g);
        m = hn::MulAdd(b1, m, g);
        p = hn::NegMulAdd(rate, ahead ? hn::MulAdd(b1, m, g) : m, p);
      });
      break;
    }
    case Formula::adamw: {
      const VF root = hn::Set(d0, k.root), eps = hn::Set(d0, k.eps);
      f(two, [=](DF, VF& p, VF g, VF& m, VF& v) {
        m = hn::MulAdd(b1, m, hn::Mul(c1, g));
        v = hn::MulAdd(b2, v, hn::Mul(c2, hn::Mul(g, g)));
        const VF size = hn::MulAdd(hn::Sqrt(v), root, eps);
        p = hn::NegMulAdd(rate, hn::Div(m, size), hn::Mul(p, shrink));
      });
      break;
    }
    case Formula::lion:
      f(one, [=](DF d, VF& p, VF g, VF& m, VF&) {
        const VF blend = hn::MulAdd(b1, m, hn::Mul(c1, g)), zero = hn::Zero(d);
        const VF sized = hn::CopySign(rate, blend);
        const VF turn = hn::IfThenElse(hn::Eq(blend, zero), zero, sized);
        p = hn::Sub(hn::Mul(p, shrink), turn);
        m = hn::MulAdd(b2, m, hn::Mul(c2, g));
      });
      break;
    case Formula::blend:
    case Formula::blend_ahead: {
      const bool ahead = k.formula == Formula::blend_ahead;
      f(one, [=](DF, VF& p, VF g, VF& m, VF&) {
        m = hn::MulAdd(b1, m, hn::Mul(c1, g));
        p = ahead ? hn::MulAdd(b1, m, hn::Mul(c1, g)) : m;
      });
      break;
    }
  }
}

}  // namespace lmxlab::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
