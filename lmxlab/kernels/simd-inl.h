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

#include "lmxlab/kernels/isa.h"
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

// Without an instruction for float16 Highway 1.0.3 truncates, and knows no infinity: by hand there.
#undef LMXLAB_F16_BY_HAND
#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128 || (HWY_ARCH_X86 && HWY_TARGET >= HWY_SSE4)
#define LMXLAB_F16_BY_HAND 1
#else
#define LMXLAB_F16_BY_HAND 0
#endif
HWY_INLINE VF load(DF d, const F16* p) {
#if LMXLAB_F16_BY_HAND
  const hn::Rebind<uint16_t, DF> d16;
  const hn::RebindToUnsigned<DF> d32;
  const auto bits = hn::PromoteTo(d32, hn::LoadU(d16, reinterpret_cast<const uint16_t*>(p)));
  const auto sign = hn::ShiftLeft<16>(hn::And(bits, hn::Set(d32, 0x8000u)));
  const auto size = hn::ShiftLeft<13>(hn::And(bits, hn::Set(d32, 0x7fffu)));
  // The exponent's bias goes from 15 to 127; as a product, for subnormal numbers too.
  const VF scaled = hn::Mul(hn::BitCast(d, size), hn::Set(d, 0x1p112f));
  const auto endless = hn::Or(size, hn::Set(d32, 0x7f800000u));  // infinity or NaN
  const auto is_endless = hn::Ge(hn::BitCast(d, size), hn::BitCast(d, hn::Set(d32, 0x0f800000u)));
  const VF value = hn::IfThenElse(is_endless, hn::BitCast(d, endless), scaled);
  return hn::Or(value, hn::BitCast(d, sign));
#else
  const hn::Rebind<hwy::float16_t, DF> d16;
  return hn::PromoteTo(d, hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(p)));
#endif
}

HWY_INLINE void store(VF v, DF d, float* p) {
  hn::StoreU(v, d, p);
}
// Rounds to nearest, ties to even; NaN stays NaN. Subnormal numbers may become 0.
HWY_INLINE void store(VF v, DF d, Bf16* p) {
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
  if (detail::rounds_bf16) {  // Highway 1.0.3 has no set with this instruction
    __m256i rounded;
    asm("vcvtneps2bf16 %1, %0" : "=v"(rounded) : "v"(v.raw));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), rounded);
    return;
  }
#endif
  const hn::RebindToUnsigned<DF> d32;
  const hn::RebindToSigned<DF> di;
  const hn::Rebind<uint16_t, DF> d16;
  const auto bits = hn::BitCast(d32, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d32, 1u));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(d32, 0x7fffu)));
  const auto quiet = hn::Or(bits, hn::Set(d32, 0x400000u));
  const auto kept = hn::IfThenElse(hn::RebindMask(d32, hn::Eq(v, v)), rounded, quiet);
  const auto high = hn::BitCast(di, hn::ShiftRight<16>(kept));
  hn::StoreU(hn::DemoteTo(d16, high), d16, reinterpret_cast<uint16_t*>(p));
  (void)d;
}
HWY_INLINE void store(VF v, DF d, F16* p) {
#if LMXLAB_F16_BY_HAND
  const hn::Rebind<uint16_t, DF> d16;
  const hn::RebindToUnsigned<DF> d32;
  const hn::RebindToSigned<DF> di;
  const VF a = hn::Abs(v);
  const auto size = hn::BitCast(d32, a);
  const auto odd = hn::And(hn::ShiftRight<13>(size), hn::Set(d32, 1u));
  const auto rebiased =
      hn::Sub(hn::Add(size, hn::Add(odd, hn::Set(d32, 0xfffu))), hn::Set(d32, 112u << 23));
  // Below 2^-14 steps are 2^-24: those of float32 numbers between 1/2 and 1.
  const VF half = hn::Set(d, 0.5f);
  const auto small = hn::Sub(hn::BitCast(d32, hn::Add(a, half)), hn::BitCast(d32, half));
  auto bits = hn::ShiftRight<13>(rebiased);
  bits = hn::IfThenElse(hn::RebindMask(d32, hn::Lt(a, hn::Set(d, 0x1p-14f))), small, bits);
  const auto large = hn::RebindMask(d32, hn::Ge(a, hn::Set(d, 65520.0f)));
  bits = hn::IfThenElse(large, hn::Set(d32, 0x7c00u), bits);
  bits = hn::IfThenElse(hn::RebindMask(d32, hn::Eq(v, v)), bits, hn::Set(d32, 0x7e00u));
  const auto sign = hn::ShiftRight<16>(hn::Xor(hn::BitCast(d32, v), size));
  hn::StoreU(hn::DemoteTo(d16, hn::BitCast(di, hn::Or(bits, sign))), d16,
             reinterpret_cast<uint16_t*>(p));
#else
  const hn::Rebind<hwy::float16_t, DF> d16;
  hn::StoreU(hn::DemoteTo(d16, v), d16, reinterpret_cast<hwy::float16_t*>(p));
  (void)d;
#endif
}

// The first n < lanes elements; what lies behind them is not read, nor written, and counts as 0.
template <class T>
HWY_INLINE VF load_n(DF d, const T* p, int64_t n) {
#if HWY_TARGET <= HWY_AVX2 && HWY_ARCH_X86  // masked loads that touch no more
  if constexpr (sizeof(T) == 4) {
    return hn::MaskedLoad(hn::FirstN(d, static_cast<size_t>(n)), d, p);
  }
#endif
  HWY_ALIGN T all[HWY_MAX_BYTES / 4] = {};
  std::memcpy(all, p, static_cast<size_t>(n) * sizeof(T));
  return load(d, all);
}
template <class T>
HWY_INLINE void store_n(VF v, DF d, T* p, int64_t n) {
#if HWY_TARGET <= HWY_AVX2 && HWY_ARCH_X86
  if constexpr (sizeof(T) == 4) {
    return hn::BlendedStore(v, hn::FirstN(d, static_cast<size_t>(n)), d, p);
  }
#endif
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
