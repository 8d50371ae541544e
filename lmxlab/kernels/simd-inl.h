// Vectors of float32 from memory of any element type, and back. Included by kernels after
// foreach_target.h, once an instruction set; every function is HWY_INLINE in its namespace.

#if defined(LMXLAB_KERNELS_SIMD_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef LMXLAB_KERNELS_SIMD_INL
#undef LMXLAB_KERNELS_SIMD_INL
#else
#define LMXLAB_KERNELS_SIMD_INL
#endif

#include <hwy/highway.h>

#include <cstring>

#include "lmxlab/kernels/types.h"

HWY_BEFORE_NAMESPACE();
namespace lmxlab::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::ScalableTag<float>;
using VF = hn::Vec<DF>;

HWY_INLINE int64_t lanes() {
  return static_cast<int64_t>(hn::Lanes(DF()));
}

HWY_INLINE VF load(DF d, const float* p) {
  return hn::LoadU(d, p);
}
HWY_INLINE VF load(DF d, const Bf16* p) {
  const hn::Rebind<uint16_t, DF> d16;
  const hn::RebindToUnsigned<DF> d32;
  const auto bits = hn::LoadU(d16, reinterpret_cast<const uint16_t*>(p));
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(d32, bits)));
}
HWY_INLINE VF load(DF d, const F16* p) {
  const hn::Rebind<hwy::float16_t, DF> d16;
  return hn::PromoteTo(d, hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(p)));
}

HWY_INLINE void store(VF v, DF d, float* p) {
  hn::StoreU(v, d, p);
}
// Rounds to nearest, ties to even; NaN stays NaN.
HWY_INLINE void store(VF v, DF d, Bf16* p) {
  const hn::RebindToUnsigned<DF> d32;
  const hn::RebindToSigned<DF> di;
  const hn::Rebind<uint16_t, DF> d16;
  const auto bits = hn::BitCast(d32, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d32, 1u));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(d32, 0x7fffu)));
  const auto quiet = hn::Or(bits, hn::Set(d32, 0x400000u));
  const auto kept =
      hn::IfThenElse(hn::RebindMask(d32, hn::Eq(v, v)), rounded, quiet);
  const auto high = hn::BitCast(di, hn::ShiftRight<16>(kept));
  hn::StoreU(hn::DemoteTo(d16, high), d16, reinterpret_cast<uint16_t*>(p));
  (void)d;
}
HWY_INLINE void store(VF v, DF, F16* p) {
  const hn::Rebind<hwy::float16_t, DF> d16;
  hn::StoreU(hn::DemoteTo(d16, v), d16, reinterpret_cast<hwy::float16_t*>(p));
}

// The first n < lanes elements; what lies behind them reads as 0 and is not written.
template <class T>
HWY_INLINE VF load_n(DF d, const T* p, int64_t n) {
  HWY_ALIGN T all[HWY_MAX_BYTES / 4] = {};
  std::memcpy(all, p, static_cast<size_t>(n) * sizeof(T));
  return load(d, all);
}
template <class T>
HWY_INLINE void store_n(VF v, DF d, T* p, int64_t n) {
  HWY_ALIGN T all[HWY_MAX_BYTES / 4];
  store(v, d, all);
  std::memcpy(p, all, static_cast<size_t>(n) * sizeof(T));
}

HWY_INLINE float sum_of(DF d, VF v) {
  return hn::GetLane(hn::SumOfLanes(d, v));
}

}  // namespace lmxlab::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
