// Integer products of quantized weights and activations: which kernel, and those for unpacked
// weights, by NEON or in plain C++. Highway 1.0.3 has no products of bytes, so they are intrinsics.
#include <cstring>
#include <utility>

#include "lmxlab/kernels/isa.h"
#include "lmxlab/kernels/quantized_parts.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace lmxlab::kernels {
namespace {

#define LMXLAB_TARGET
constexpr float kShift = 0;

#if defined(__aarch64__)

inline int32x4_t dot16(int32x4_t sum, int8x16_t a, int8x16_t b) {
#if defined(__ARM_FEATURE_DOTPROD)
  return vdotq_s32(sum, a, b);
#else
  // Two products need not fit into a word, so each is added to the sum by itself.
  sum = vpadalq_s16(sum, vmull_s8(vget_low_s8(a), vget_low_s8(b)));
  return vpadalq_s16(sum, vmull_high_s8(a, b));
#endif
}

template <bool precise, bool wide, class Ints>
inline void block_dot(int8x16x2_t v, const int8_t* x, Ints& sums) {
  for (int i = 0; i < 2; i++) {
    auto sum = dot16(vdupq_n_s32(0), v.val[i], vld1q_s8(x + 16 * i));
    if (precise) sum = dot16(vshlq_n_s32(sum, 8), v.val[i], vld1q_s8(x + 32 + 16 * i));
    std::memcpy(reinterpret_cast<int32_t*>(&sums) + 4 * i, &sum, 16);
  }
}
inline int8x16x2_t read_block(const uint8_t* p) {
  const auto* q = reinterpret_cast<const int8_t*>(p);
  return {vld1q_s8(q), vld1q_s8(q + 16)};
}

#else

template <bool precise, bool wide, class Ints>
inline void block_dot(const int8_t* v, const int8_t* x, Ints& sums) {
  for (int lane = 0; lane < 8; lane++) {
    int32_t sum = 0;
    for (int i = 4 * lane; i < 4 * lane + 4; i++) {
      sum += v[i] * (precise ? 256 * x[i] + x[32 + i] : x[i]);
    }
    sums[lane] = sum;
  }
}
inline const int8_t* read_block(const uint8_t* p) {
  return reinterpret_cast<const int8_t*>(p);
}

#endif

#include "lmxlab/kernels/quantized_dot-inl.h"

template <int step>
struct UnpackedReader : Unpacked32<false, step> {
  template <int>
  static inline auto read(const uint8_t* p) {
    return read_block(p);
  }
};

}  // namespace

DotKernel dot_kernel(const QuantView& w, Activations activations) {
  const int step = step_of(w.format);
  if (activations == Activations::float32) return {{}, false, float_dot(step)};
  const bool precise = activations != Activations::int8;
#if defined(__x86_64__)
  if (isa() >= Isa::avx512_bf16) {
    const auto found =
        w.interleaved ? dot_kernel_interleaved(w, precise) : dot_kernel_avx512(w, precise);
    if (found.dot) return found;
  }
  if (isa() >= Isa::avx2) return dot_kernel_avx2(w, precise);
#endif
  const auto cells = precise ? Cells::split16 : Cells::int8;
  return step == 16 ? kernel<UnpackedReader<16>>(precise, cells)
                    : kernel<UnpackedReader<32>>(precise, cells);
}

}  // namespace lmxlab::kernels
