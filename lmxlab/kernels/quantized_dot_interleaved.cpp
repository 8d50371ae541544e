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

// Fields of a byte: so many registers of bytes come of one of words. Of 5 bits, fifth bits lie in a
// register of their own, the last.
constexpr int fields_of(int bits) {
  return bits == 5 ? 2 : 8 / bits;
}
constexpr int words_of(int bits) {  // of weights, before that one
  return bits == 5 ? 4 : bits;
}

// Field f of each byte of word j. Loops over both are unrolled, so shifts are by constants.
template <int bits>
LMXLAB_INLINE __m512i field(__m512i words, __m512i fifths, int f, int j) {
  if (bits == 8) return words;
  constexpr int kWidth = 8 / fields_of(bits);
  const auto mask = _mm512_set1_epi8(static_cast<char>((1 << kWidth) - 1));
  const auto shifted = _mm512_srli_epi16(words, f * kWidth);
  if (bits != 5) return _mm512_and_si512(shifted, mask);
  const int bit = 4 * f + j;
  const auto fifth =
      bit < 4 ? _mm512_slli_epi16(fifths, 4 - bit) : _mm512_srli_epi16(fifths, bit - 4);
  const auto high = _mm512_and_si512(fifth, _mm512_set1_epi8(16));
  return _mm512_ternarylogic_epi32(shifted, mask, high, 0xea);  // (shifted & mask) | high
}

// A block of 16 rows times those of n rows of x, as floats without their scales.
template <int bits, bool precise, int n>
LMXLAB_INLINE void block(const uint8_t* w, const int8_t* const (&x)[n], const char* ahead,
                         __m512 (&to)[n]) {
  constexpr int kFields = fields_of(bits), kWords = words_of(bits);
  __m512i high[n], low[n], fifths = {};
  for (int i = 0; i < n; i++) high[i] = low[i] = _mm512_setzero_si512();
  if (bits == 5) {
    fifths = _mm512_loadu_si512(w + 64 * kWords);
    _mm_prefetch(ahead + 64 * kWords, _MM_HINT_T1);
  }
  for (int j = 0; j < kWords; j++) {
    const auto words = _mm512_loadu_si512(w + 64 * j);
    _mm_prefetch(ahead + 64 * j, _MM_HINT_T1);
    for (int f = 0; f < kFields; f++) {
      const auto q = field<bits>(words, fifths, f, j);
      for (int i = 0; i < n; i++) {
        const int from = f * kWords + j;
        high[i] = _mm512_dpbusd_epi32(high[i], q, four(x[i], from));
        if (precise) low[i] = _mm512_dpbusd_epi32(low[i], q, four(x[i], 8 + from));
      }
    }
  }
  for (int i = 0; i < n; i++) {
    if (precise) high[i] = _mm512_add_epi32(_mm512_slli_epi32(high[i], 8), low[i]);
    to[i] = _mm512_cvtepi32_ps(high[i]);
  }
}

// n rows of x, which share what is read of the weights.
template <int bits, bool precise, bool symmetric, class T, int n>
LMXLAB_TARGET void dot_as(const WeightRows& w, int64_t rows, int64_t blocks, const ActivationRow* x,
                          float* out, int64_t ld, bool add) {
  constexpr int64_t kAhead = 4096;               // bytes
  constexpr int64_t kBytes = 64 * bits;          // of a block of 16 rows
  constexpr int64_t kX = precise ? 64 : kBlock;  // of a block of x
  const int64_t each = w.view->group / kBlock;
  const uint8_t* p = w.q;
  const int64_t first = w.first / each;
  const auto* scales = static_cast<const T*>(w.view->scales) + first;
  const auto* biases = symmetric ? nullptr : static_cast<const T*>(w.view->biases) + first;
  for (int64_t r = 0; r < rows; r += kTileRows) {
    __m512 sum[n];
    const int8_t* xq[n];
    for (int i = 0; i < n; i++) {
      sum[i] = add ? _mm512_loadu_ps(out + i * ld + r) : _mm512_setzero_ps();
      xq[i] = x[i].q;
    }
    for (int64_t b = 0; b < blocks; scales += kTileRows, biases += symmetric ? 0 : kTileRows) {
      const auto scale = floats(scales);
      const auto bias = symmetric ? _mm512_setzero_ps() : floats(biases);
      for (const int64_t end = b + each; b < end; b++, p += kBytes) {
        __m512 part[n];
        block<bits, precise, n>(p, xq, reinterpret_cast<const char*>(p) + kAhead, part);
        for (int i = 0; i < n; i++) {
          const auto x_scale = _mm512_set1_ps(x[i].scale[b]), x_sum = _mm512_set1_ps(x[i].sum[b]);
          if (symmetric) {
            const auto offset = _mm512_mul_ps(x_sum, _mm512_set1_ps(symmetric_bias(bits)));
            sum[i] = _mm512_fmadd_ps(scale, _mm512_fmadd_ps(part[i], x_scale, offset), sum[i]);
          } else {
            sum[i] = _mm512_fmadd_ps(part[i], _mm512_mul_ps(scale, x_scale), sum[i]);
            sum[i] = _mm512_fmadd_ps(bias, x_sum, sum[i]);
          }
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
    using T = decltype(scale);
    int64_t i = 0;
    const auto some = [&]<bool symmetric, int n>() {
      for (; i + n <= to.count; i += n) {
        dot_as<bits, precise, symmetric, T, n>(w, rows, blocks, to.x + i, to.out + i * to.ld, to.ld,
                                               add);
      }
    };
    const auto all = [&]<bool symmetric>() {
      some.template operator()<symmetric, 4>();
      some.template operator()<symmetric, 2>();
      some.template operator()<symmetric, 1>();
    };
    w.view->biases ? all.template operator()<false>() : all.template operator()<true>();
  });
}

// A word holds a few weights of a row, and fields of one place in its bytes meet x together.
template <int bits>
DotKernel kernel(bool precise) {
  return {{precise ? Cells::split16 : Cells::int8, 1, Order{fields_of(bits), {0, 1}}},
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
    case 5: return kernel<5>(precise);
    case 8: return kernel<8>(precise);
    default: return {};
  }
}

}  // namespace lmxlab::kernels
#endif
