// Products of interleaved weights with quantized activations on AVX-512 with VNNI: a register holds
// a word of each of 16 rows and meets one word of activations. So a row keeps its lane: scales need
// no shuffle, sums are not added up across lanes, and a row of any length wastes none.
#include "lmxlab/kernels/quantized_parts.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <cstring>

namespace lmxlab::kernels {
namespace {

#define LMXLAB_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))
#define LMXLAB_INLINE LMXLAB_TARGET __attribute__((always_inline)) static inline

LMXLAB_INLINE __m512 floats(const float* p) {
  return _mm512_loadu_ps(p);
}
LMXLAB_INLINE __m512 floats(const F16* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
LMXLAB_INLINE __m512 floats(const Bf16* p) {
  const auto half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

// Four activations, for every row.
LMXLAB_INLINE __m512i four(const int8_t* x, int i) {
  int32_t word;
  std::memcpy(&word, x + 4 * i, 4);
  return _mm512_set1_epi32(word);
}

// A block of 16 rows times those of n rows of x, as floats without their scales.
template <int bits, bool precise, int n>
LMXLAB_INLINE void block(const uint8_t* w, const int8_t* const (&x)[n], const char* ahead,
                         __m512 (&to)[n]) {
  constexpr int kFields = 8 / bits;  // of a byte, so that many registers of bytes come of a word
  const auto mask = _mm512_set1_epi8(static_cast<char>((1 << bits) - 1));
  __m512i high[n], low[n];
  for (int i = 0; i < n; i++) high[i] = low[i] = _mm512_setzero_si512();
  for (int j = 0; j < bits; j++) {
    const auto words = _mm512_loadu_si512(w + 64 * j);
    _mm_prefetch(ahead + 64 * j, _MM_HINT_T1);
    for (int f = 0; f < kFields; f++) {
      const auto q = bits == 8 ? words : _mm512_and_si512(_mm512_srli_epi16(words, f * bits), mask);
      for (int i = 0; i < n; i++) {
        high[i] = _mm512_dpbusd_epi32(high[i], q, four(x[i], f * bits + j));
        if (precise) low[i] = _mm512_dpbusd_epi32(low[i], q, four(x[i], 8 + f * bits + j));
      }
    }
  }
  for (int i = 0; i < n; i++) {
    if (precise) high[i] = _mm512_add_epi32(_mm512_slli_epi32(high[i], 8), low[i]);
    to[i] = _mm512_cvtepi32_ps(high[i]);
  }
}

// n rows of x, which share what is read of the weights.
template <int bits, bool precise, class T, int n>
LMXLAB_TARGET void dot_as(const WeightRows& w, int64_t rows, int64_t blocks, const ActivationRow* x,
                          float* out, int64_t ld, bool add) {
  constexpr int64_t kAhead = 4096;               // bytes
  constexpr int64_t kBytes = 64 * bits;          // of a block of 16 rows
  constexpr int64_t kX = precise ? 64 : kBlock;  // of a block of x
  const int64_t each = w.view->group / kBlock;
  const uint8_t* p = w.q;
  const int64_t first = w.first / each;
  const T *scales = static_cast<const T*>(w.view->scales) + first,
          *biases = static_cast<const T*>(w.view->biases) + first;
  for (int64_t r = 0; r < rows; r += kTileRows) {
    __m512 sum[n];
    const int8_t* xq[n];
    for (int i = 0; i < n; i++) {
      sum[i] = add ? _mm512_loadu_ps(out + i * ld + r) : _mm512_setzero_ps();
      xq[i] = x[i].q;
    }
    for (int64_t b = 0; b < blocks; scales += kTileRows, biases += kTileRows) {
      const auto scale = floats(scales), bias = floats(biases);
      for (const int64_t end = b + each; b < end; b++, p += kBytes) {
        __m512 part[n];
        block<bits, precise, n>(p, xq, reinterpret_cast<const char*>(p) + kAhead, part);
        for (int i = 0; i < n; i++) {
          const auto both = _mm512_mul_ps(scale, _mm512_set1_ps(x[i].scale[b]));
          sum[i] = _mm512_fmadd_ps(part[i], both, sum[i]);
          sum[i] = _mm512_fmadd_ps(bias, _mm512_set1_ps(x[i].sum[b]), sum[i]);
          xq[i] += kX;
        }
      }
    }
    for (int i = 0; i < n; i++) _mm512_storeu_ps(out + i * ld + r, sum[i]);
  }
}

template <int bits, bool precise>
void dot(const WeightRows& w, int64_t rows, int64_t blocks, const DotRows& to, bool add) {
  with_type(w.view->scale_type, [&](auto scale) {
    int64_t i = 0;
    const auto some = [&]<int n>() {
      for (; i + n <= to.count; i += n) {
        dot_as<bits, precise, decltype(scale), n>(w, rows, blocks, to.x + i, to.out + i * to.ld,
                                                  to.ld, add);
      }
    };
    some.template operator()<4>();
    some.template operator()<2>();
    some.template operator()<1>();
  });
}

// A word holds 32 / bits weights of a row, and fields of one place in its bytes meet x together.
template <int bits>
DotKernel kernel(bool precise) {
  return {{precise ? Cells::split16 : Cells::int8, 1, Order{8 / bits, {0, 1}}},
          true,
          precise ? dot<bits, true> : dot<bits, false>,
          true};
}

}  // namespace

DotKernel dot_kernel_interleaved(const QuantView& w, bool precise) {
  static const bool has = __builtin_cpu_supports("avx512vnni");
  if (!has) return {};
  switch (w.bits) {
    case 2: return kernel<2>(precise);
    case 4: return kernel<4>(precise);
    case 8: return kernel<8>(precise);
    default: return {};
  }
}

}  // namespace lmxlab::kernels
#endif
