// Products of quantized weights with quantized activations on AVX2: a block of 32 weights at a
// time, read where it lies into a register.
#include "lmxlab/kernels/quantized_parts.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <cstring>
#include <utility>

namespace lmxlab::kernels {
namespace {

#define LMXLAB_TARGET __attribute__((target("avx2,fma,f16c")))
constexpr float kShift = 0;

template <bool precise, bool wide, class Ints>
LMXLAB_TARGET inline void block_dot(__m256i v, const int8_t* x, Ints& sums) {
  const auto* p = reinterpret_cast<const __m256i*>(x);
  if constexpr (precise) {
    // As words: weights 0 to 7 and 16 to 23, then the others; activations lie in that order.
    const auto sign = wide ? _mm256_cmpgt_epi8(_mm256_setzero_si256(), v) : _mm256_setzero_si256();
    const auto low = _mm256_unpacklo_epi8(v, sign), high = _mm256_unpackhi_epi8(v, sign);
    sums = (Ints)_mm256_add_epi32(_mm256_madd_epi16(low, _mm256_loadu_si256(p)),
                                  _mm256_madd_epi16(high, _mm256_loadu_si256(p + 1)));
  } else {
    const auto u = _mm256_loadu_si256(p);
    // Pairs of products fit into words: 2 * 128 * 127 < 2^15.
    const auto pairs = wide ? _mm256_maddubs_epi16(_mm256_abs_epi8(v), _mm256_sign_epi8(u, v))
                            : _mm256_maddubs_epi16(v, u);
    sums = (Ints)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
  }
}

#include "lmxlab/kernels/quantized_dot-inl.h"
#define LMXLAB_INLINE LMXLAB_TARGET __attribute__((always_inline)) static inline

LMXLAB_INLINE __m256i load(const uint8_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
LMXLAB_INLINE __m256i bytes(int v) {
  return _mm256_set1_epi8(static_cast<char>(v));
}
// 16 bytes to 32 nibbles, the low ones first.
LMXLAB_INLINE __m256i nibbles(const uint8_t* p) {
  const auto v = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm256_and_si256(_mm256_srlv_epi32(v, _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4)),
                          bytes(15));
}
// Bits moved to the left, or with n < 0 to the right, and a mask: what comes from the neighbour in
// a word falls to it.
template <int n>
LMXLAB_INLINE __m256i field(__m256i v, int mask) {
  const auto moved =
      n > 0 ? _mm256_slli_epi16(v, n > 0 ? n : 0) : _mm256_srli_epi16(v, n < 0 ? -n : 0);
  return _mm256_and_si256(moved, bytes(mask));
}

template <int size>
struct NibbleReader : InPlace<1, size> {
  template <int>
  LMXLAB_INLINE __m256i read(const uint8_t* p) {
    return nibbles(p + size - 16);
  }
};

template <int size>
struct FiveBitReader : InPlace<1, size> {
  template <int>
  LMXLAB_INLINE __m256i read(const uint8_t* p) {
    int32_t fifth;
    std::memcpy(&fifth, p + size - 20, 4);
    const auto byte =
        _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const auto bit = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201));
    const auto own = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(fifth), byte), bit);
    const auto set = _mm256_cmpeq_epi8(own, bit);
    return _mm256_or_si256(nibbles(p + size - 16), _mm256_and_si256(set, bytes(16)));
  }
};

struct Q8Reader : InPlace<1, 34, 32, true> {
  template <int>
  LMXLAB_INLINE __m256i read(const uint8_t* p) {
    return load(p + 2);
  }
};

struct Mxfp4Reader : InPlace<1, 17> {
  template <int>
  LMXLAB_INLINE __m256i read(const uint8_t* p) {  // twice the value, plus 12
    const auto table = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
    return _mm256_shuffle_epi8(table, nibbles(p + 1));
  }
};

struct Q2KReader : InPlace<8, 84, 16> {
  template <int j>
  LMXLAB_INLINE __m256i read(const uint8_t* p) {
    return field<-2 * (j % 4)>(load(p + 16 + 32 * (j / 4)), 3);
  }
};

struct Q3KReader : InPlace<8, 110, 16> {
  template <int j>
  LMXLAB_INLINE __m256i read(const uint8_t* p) {
    return _mm256_or_si256(field<-2 * (j % 4)>(load(p + 32 + 32 * (j / 4)), 3),
                           field<2 - j>(load(p), 4));
  }
};

struct Q4KReader : InPlace<8, 144> {
  template <int j>
  LMXLAB_INLINE __m256i read(const uint8_t* p) {
    return field<-4 * (j % 2)>(load(p + 16 + 32 * (j / 2)), 15);
  }
};

struct Q5KReader : InPlace<8, 176> {
  template <int j>
  LMXLAB_INLINE __m256i read(const uint8_t* p) {
    return _mm256_or_si256(field<-4 * (j % 2)>(load(p + 48 + 32 * (j / 2)), 15),
                           field<4 - j>(load(p + 16), 16));
  }
};

struct Q6KReader : InPlace<8, 210, 16> {
  template <int j>
  LMXLAB_INLINE __m256i read(const uint8_t* p) {
    constexpr int half = j / 4, quarter = j % 4;
    return _mm256_or_si256(field<-4 * (quarter / 2)>(load(p + 64 * half + 32 * (quarter % 2)), 15),
                           field<4 - 2 * quarter>(load(p + 128 + 32 * half), 48));
  }
};

// MLX's bits, where they divide a byte: those of one shift together.
struct AffineTwoReader : InPlace<1, 8> {
  static constexpr Order kOrder{4, {0, 1}};
  template <int>
  LMXLAB_INLINE __m256i read(const uint8_t* p) {
    int64_t v;
    std::memcpy(&v, p, 8);
    return _mm256_and_si256(
        _mm256_srlv_epi64(_mm256_set1_epi64x(v), _mm256_setr_epi64x(0, 2, 4, 6)), bytes(3));
  }
};

struct AffineFourReader : InPlace<1, 16> {
  static constexpr Order kOrder{2, {0, 1}};
  template <int>
  LMXLAB_INLINE __m256i read(const uint8_t* p) {
    return nibbles(p);
  }
};

struct AffineEightReader : InPlace<1, 32, 32, true> {
  template <int>
  LMXLAB_INLINE __m256i read(const uint8_t* p) {
    return _mm256_xor_si256(load(p), bytes(128));
  }
};

template <bool wide>
struct UnpackedReader : Unpacked32<wide> {
  template <int>
  LMXLAB_INLINE __m256i read(const uint8_t* p) {
    return load(p);
  }
};
#undef LMXLAB_INLINE

}  // namespace

DotKernel dot_kernel_avx2(const QuantView& w, bool precise) {
  const auto cells = precise ? Cells::int16 : Cells::int8;
  switch (w.format) {
    case QuantFormat::q4_0: return kernel<NibbleReader<18>>(precise, cells);
    case QuantFormat::q4_1: return kernel<NibbleReader<20>>(precise, cells);
    case QuantFormat::q5_0: return kernel<FiveBitReader<22>>(precise, cells);
    case QuantFormat::q5_1: return kernel<FiveBitReader<24>>(precise, cells);
    case QuantFormat::q8_0: return kernel<Q8Reader>(precise, cells);
    case QuantFormat::q2_k: return kernel<Q2KReader>(precise, cells);
    case QuantFormat::q3_k: return kernel<Q3KReader>(precise, cells);
    case QuantFormat::q4_k: return kernel<Q4KReader>(precise, cells);
    case QuantFormat::q5_k: return kernel<Q5KReader>(precise, cells);
    case QuantFormat::q6_k: return kernel<Q6KReader>(precise, cells);
    case QuantFormat::mxfp4: return kernel<Mxfp4Reader>(precise, cells);
    case QuantFormat::affine: break;
  }
  if (w.interleaved) {
    return w.bits == 8 ? kernel<UnpackedReader<true>>(precise, cells)
                       : kernel<UnpackedReader<false>>(precise, cells);
  }
  switch (w.bits) {
    case 2: return kernel<AffineTwoReader>(precise, cells);
    case 4: return kernel<AffineFourReader>(precise, cells);
    case 8: return kernel<AffineEightReader>(precise, cells);
    default: return kernel<UnpackedReader<false>>(precise, cells);
  }
}

}  // namespace lmxlab::kernels
#endif
