// Products of quantized weights with quantized activations on AVX-512 with VNNI and VBMI: four
// blocks at a time, read where they lie into two registers of 64 weights each.
//
// Which weights share a register follows from the format (low nibbles and high ones, say), so
// activations are laid out in that order. dpbusd sums four products up in a lane of 32 bits; a
// lane's weights belong to one step, whose scale it is multiplied with.
#include "lmxlab/kernels/quantized_parts.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <type_traits>
#include <utility>

namespace lmxlab::kernels {
namespace {

#define LMXLAB_AVX512                                                                  \
  __attribute__((                                                                      \
      target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c," \
             "bmi2")))
#define LMXLAB_AVX512_INLINE LMXLAB_AVX512 __attribute__((always_inline)) static inline
#define LMXLAB_AVX512_LAMBDA LMXLAB_AVX512 __attribute__((always_inline))

struct Weights {  // unsigned bytes
  __m512i a, b;
};

LMXLAB_AVX512_INLINE __m512i load(const void* p) {
  return _mm512_loadu_si512(p);
}
LMXLAB_AVX512_INLINE __m512i bytes(int v) {
  return _mm512_set1_epi8(static_cast<char>(v));
}
// 32 bytes in both halves.
LMXLAB_AVX512_INLINE __m512i twice(const uint8_t* p) {
  return _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
// A constant for each half: bytes, or counts for shifts of words.
LMXLAB_AVX512_INLINE __m512i halves(__m256i low, __m256i high) {
  return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}
LMXLAB_AVX512_INLINE __m512i shift_right(__m512i v, int low, int high) {
  return _mm512_srlv_epi16(v, halves(_mm256_set1_epi16(static_cast<short>(low)),
                                     _mm256_set1_epi16(static_cast<short>(high))));
}
LMXLAB_AVX512_INLINE __m512i shift_left(__m512i v, int low, int high) {
  return _mm512_sllv_epi16(v, halves(_mm256_set1_epi16(static_cast<short>(low)),
                                     _mm256_set1_epi16(static_cast<short>(high))));
}
LMXLAB_AVX512_INLINE Weights nibbles(__m512i v) {
  return {_mm512_and_si512(v, bytes(15)), _mm512_and_si512(_mm512_srli_epi16(v, 4), bytes(15))};
}
// Adds `value` where a byte has one of its half's bits.
LMXLAB_AVX512_INLINE __m512i add_where(__m512i v, __m512i flags, int low, int high, int value) {
  const auto bits =
      halves(_mm256_set1_epi8(static_cast<char>(low)), _mm256_set1_epi8(static_cast<char>(high)));
  return _mm512_mask_add_epi8(v, _mm512_test_epi8_mask(flags, bits), v, bytes(value));
}

// The step of each lane's weights, in a and in b.
struct Lanes {
  alignas(64) int32_t a[16], b[16];
  bool same = true;
};
// A step has `each` lanes; b begins again at step 0, or goes on.
constexpr Lanes lanes_by(int each, bool again) {
  Lanes lanes{};
  for (int i = 0; i < 16; i++) {
    lanes.a[i] = i / each;
    lanes.b[i] = again ? i / each : (i + 16) / each;
  }
  lanes.same = again;
  return lanes;
}

// What a reader is: kGroups groups of four blocks lie in kBytes; kStep is the format's; kSigned:
// bytes that were signed, and are shifted by 128.
template <int groups, int size, bool is_signed = false, int step = 32>
struct Reader {
  static constexpr int kGroups = groups, kBytes = size, kStep = step;
  static constexpr bool kSigned = is_signed;
};
// The order that activations take, as 16 at a time go: low halves of four blocks, then high ones;
constexpr Order kHalves{1, {0, 2, 4, 6, 1, 3, 5, 7}};
// every other block.
constexpr Order kEveryOther{1, {0, 1, 4, 5, 2, 3, 6, 7}};
constexpr Order kNatural{1, {0, 1, 2, 3, 4, 5, 6, 7}};

// Nibbles in the last 16 bytes of each of four blocks.
template <int size>
LMXLAB_AVX512_INLINE Weights four_nibbles(const uint8_t* p) {
  if constexpr (size % 4 == 0) {  // out of two registers that hold them all
    constexpr int kSecond = 4 * size - 64;
    alignas(64) static constexpr auto kPlaces = [] {
      std::array<int32_t, 16> to{};
      for (int i = 0; i < 16; i++) {
        const int word = (i / 4 * size + size - 16) / 4 + i % 4;
        to[i] = word < 16 ? word : 16 + word - kSecond / 4;
      }
      return to;
    }();
    return nibbles(_mm512_permutex2var_epi32(load(p), load(kPlaces.data()), load(p + kSecond)));
  } else {
    const auto* q = p + size - 16;
    auto v = _mm512_castsi128_si512(_mm_loadu_si128(reinterpret_cast<const __m128i*>(q)));
    v = _mm512_inserti32x4(v, _mm_loadu_si128(reinterpret_cast<const __m128i*>(q + size)), 1);
    v = _mm512_inserti32x4(v, _mm_loadu_si128(reinterpret_cast<const __m128i*>(q + 2 * size)), 2);
    v = _mm512_inserti32x4(v, _mm_loadu_si128(reinterpret_cast<const __m128i*>(q + 3 * size)), 3);
    return nibbles(v);
  }
}

template <int size>
struct NibbleReader : Reader<1, 4 * size> {
  static constexpr Lanes kLanes = lanes_by(4, true);
  static constexpr Order kOrder = kHalves;
  template <int>
  LMXLAB_AVX512_INLINE Weights read(const uint8_t* p) {
    return four_nibbles<size>(p);
  }
};

template <int size>
struct FiveBitReader : NibbleReader<size> {
  template <int>
  LMXLAB_AVX512_INLINE Weights read(const uint8_t* p) {
    const auto [a, b] = four_nibbles<size>(p);
    int32_t fifth[4];
    for (int i = 0; i < 4; i++) std::memcpy(fifth + i, p + i * size + size - 20, 4);
    const auto words =
        _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(fifth)),
                         _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
    const auto low = static_cast<uint64_t>(_mm_cvtsi128_si64(words));
    const auto high = static_cast<uint64_t>(_mm_extract_epi64(words, 1));
    return {_mm512_mask_add_epi8(a, low, a, bytes(16)),
            _mm512_mask_add_epi8(b, high, b, bytes(16))};
  }
};

struct Mxfp4Reader : NibbleReader<17> {
  template <int>
  LMXLAB_AVX512_INLINE Weights read(const uint8_t* p) {  // twice the value, plus 12
    const auto table = _mm512_broadcast_i32x4(
        _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
    const auto [a, b] = four_nibbles<17>(p);
    return {_mm512_shuffle_epi8(table, a), _mm512_shuffle_epi8(table, b)};
  }
};

struct Q8Reader : Reader<1, 4 * 34, true> {
  static constexpr Lanes kLanes = lanes_by(8, false);
  static constexpr Order kOrder = kNatural;
  template <int>
  LMXLAB_AVX512_INLINE Weights read(const uint8_t* p) {
    return {two(p + 2), two(p + 70)};
  }
  LMXLAB_AVX512_INLINE __m512i two(const uint8_t* p) {
    const auto* q = reinterpret_cast<const __m256i*>(p);
    const auto* r = reinterpret_cast<const __m256i*>(p + 34);
    return _mm512_xor_si512(halves(_mm256_loadu_si256(q), _mm256_loadu_si256(r)), bytes(128));
  }
};

struct Q2KReader : Reader<2, 84, false, 16> {
  static constexpr Lanes kLanes = lanes_by(4, false);
  static constexpr Order kOrder = kNatural;
  template <int g>
  LMXLAB_AVX512_INLINE Weights read(const uint8_t* p) {
    const auto v = twice(p + 16 + 32 * g);
    return {_mm512_and_si512(shift_right(v, 0, 2), bytes(3)),
            _mm512_and_si512(shift_right(v, 4, 6), bytes(3))};
  }
};

struct Q3KReader : Reader<2, 110, false, 16> {
  static constexpr Lanes kLanes = lanes_by(4, false);
  static constexpr Order kOrder = kNatural;
  template <int g>
  LMXLAB_AVX512_INLINE Weights read(const uint8_t* p) {
    const auto v = twice(p + 32 + 32 * g), third = twice(p);
    const auto a = _mm512_and_si512(shift_right(v, 0, 2), bytes(3));
    const auto b = _mm512_and_si512(shift_right(v, 4, 6), bytes(3));
    return {add_where(a, third, 1 << 4 * g, 2 << 4 * g, 4),
            add_where(b, third, 4 << 4 * g, 8 << 4 * g, 4)};
  }
};

struct Q4KReader : Reader<2, 144> {
  static constexpr Lanes kLanes{{0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2},
                                {1, 1, 1, 1, 1, 1, 1, 1, 3, 3, 3, 3, 3, 3, 3, 3},
                                false};
  static constexpr Order kOrder = kEveryOther;
  template <int g>
  LMXLAB_AVX512_INLINE Weights read(const uint8_t* p) {
    return nibbles(load(p + 16 + 64 * g));
  }
};

struct Q5KReader : Reader<2, 176> {
  static constexpr Lanes kLanes = Q4KReader::kLanes;
  static constexpr Order kOrder = kEveryOther;
  template <int g>
  LMXLAB_AVX512_INLINE Weights read(const uint8_t* p) {
    const auto fifth = twice(p + 16);
    const auto [a, b] = nibbles(load(p + 48 + 64 * g));
    return {add_where(a, fifth, 1 << 4 * g, 4 << 4 * g, 16),
            add_where(b, fifth, 2 << 4 * g, 8 << 4 * g, 16)};
  }
};

struct Q6KReader : Reader<2, 210, false, 16> {
  static constexpr Lanes kLanes = lanes_by(4, false);
  static constexpr Order kOrder = kNatural;
  template <int g>
  LMXLAB_AVX512_INLINE Weights read(const uint8_t* p) {
    const auto high = twice(p + 128 + 32 * g);
    const auto [a, b] = nibbles(load(p + 64 * g));
    return {_mm512_or_si512(a, _mm512_and_si512(shift_left(high, 4, 2), bytes(48))),
            _mm512_or_si512(b, _mm512_and_si512(shift_right(high, 0, 2), bytes(48)))};
  }
};

// MLX's bits: eight weights in `bits` bytes, each field taken from its quadword;
template <int bits>
struct AffineReader : Reader<1, 16 * bits> {
  static constexpr Lanes kLanes = lanes_by(8, false);
  static constexpr Order kOrder = kNatural;
  struct Places {
    alignas(64) uint8_t byte[64], bit[64];
  };
  static constexpr Places kPlaces = [] {
    Places to{};
    for (int i = 0; i < 64; i++) {
      to.byte[i] = static_cast<uint8_t>(i / 8 * bits + i % 8);
      to.bit[i] = static_cast<uint8_t>(i % 8 * bits);
    }
    return to;
  }();
  template <int>
  LMXLAB_AVX512_INLINE Weights read(const uint8_t* p) {
    return {half(p), half(p + 8 * bits)};
  }
  LMXLAB_AVX512_INLINE __m512i half(const uint8_t* p) {
    const auto v = _mm512_maskz_loadu_epi8((uint64_t{1} << 8 * bits) - 1, p);
    const auto fields = _mm512_multishift_epi64_epi8(
        load(kPlaces.bit), _mm512_permutexvar_epi8(load(kPlaces.byte), v));
    return _mm512_and_si512(fields, bytes((1 << bits) - 1));
  }
};
// where they divide a byte, those of one shift together.
template <>
struct AffineReader<2> : Reader<1, 32> {
  static constexpr Lanes kLanes{{0, 0, 1, 1, 2, 2, 3, 3, 0, 0, 1, 1, 2, 2, 3, 3},
                                {0, 0, 1, 1, 2, 2, 3, 3, 0, 0, 1, 1, 2, 2, 3, 3},
                                true};
  static constexpr Order kOrder{4, kNatural.piece};
  template <int>
  LMXLAB_AVX512_INLINE Weights read(const uint8_t* p) {
    const auto v = twice(p);
    return {_mm512_and_si512(shift_right(v, 0, 2), bytes(3)),
            _mm512_and_si512(shift_right(v, 4, 6), bytes(3))};
  }
};
template <>
struct AffineReader<4> : Reader<1, 64> {
  static constexpr Lanes kLanes = lanes_by(4, true);
  static constexpr Order kOrder{2, kNatural.piece};
  template <int>
  LMXLAB_AVX512_INLINE Weights read(const uint8_t* p) {
    return nibbles(load(p));
  }
};
template <>
struct AffineReader<8> : Reader<1, 128> {
  static constexpr Lanes kLanes = lanes_by(8, false);
  static constexpr Order kOrder = kNatural;
  template <int>
  LMXLAB_AVX512_INLINE Weights read(const uint8_t* p) {
    return {load(p), load(p + 64)};
  }
};

// The first four bytes of 16 blocks, or of `left`: those of as many as a register holds are
// permuted at a time.
template <int size>
LMXLAB_AVX512_INLINE __m512i heads(const uint8_t* p, int64_t left) {
  constexpr int kHeld = 3 * size + 4 <= 64 ? 4 : 2;
  constexpr uint64_t kWritten = (uint64_t{1} << 4 * kHeld) - 1;
  alignas(64) static constexpr auto kPlaces = [] {
    std::array<uint8_t, 64> to{};
    for (int i = 0; i < 64; i++) to[i] = static_cast<uint8_t>(i / 4 % kHeld * size + i % 4);
    return to;
  }();
  const auto places = load(kPlaces.data());
  auto all = _mm512_setzero_si512();
  for (int i = 0; i < 16 && i < left; i += kHeld) {
    const auto span = (std::min<int64_t>(left - i, kHeld) - 1) * size + 4;
    const auto some =
        _mm512_maskz_loadu_epi8(_bzhi_u64(~uint64_t{0}, static_cast<unsigned>(span)), p + i * size);
    all = _mm512_mask_permutexvar_epi8(all, kWritten << 4 * i, places, some);
  }
  return all;
}

// Steps of n rows: the next 16, or `left`; `at` of the first row counts from the rows' begin, and a
// row is `pitch` steps.
struct Steps {
  int64_t at, pitch, left;
  __mmask16 mask;
};

// Scales and offsets of such steps: floats that were prepared,
struct Prepared {
  static constexpr bool kOwn = false;
  template <int n>
  LMXLAB_AVX512_INLINE void read(const WeightRows& w, const uint8_t*, const Steps& s,
                                 __m512 (&scale)[n], __m512 (&offset)[n]) {
    for (int i = 0; i < n; i++) {
      scale[i] = _mm512_maskz_loadu_ps(s.mask, w.scale + s.at + i * s.pitch);
      offset[i] = _mm512_maskz_loadu_ps(s.mask, w.offset + s.at + i * s.pitch);
    }
  }
};
// the numbers at the head of each block of 32,
template <int size, bool has_min, int center>
struct AtHeads {
  static constexpr bool kOwn = true;
  template <int n>
  LMXLAB_AVX512_INLINE void read(const WeightRows& w, const uint8_t* p, const Steps& s,
                                 __m512 (&scale)[n], __m512 (&offset)[n]) {
    for (int i = 0; i < n; i++, p += w.stride) {
      const auto head = s.left >= 16 ? heads<size>(p, 16) : heads<size>(p, s.left);
      scale[i] = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(head));
      if constexpr (has_min) {
        offset[i] = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(head, 16)));
      } else {
        offset[i] = _mm512_mul_ps(scale[i], _mm512_set1_ps(-center));
      }
    }
  }
};
// or MLX's scales and biases where they lie, each for one, two or four blocks of 32.
struct InPlace {
  static constexpr bool kOwn = true;
  LMXLAB_AVX512_INLINE __m512 some(const float* from, __mmask16 mask, Type) {
    return _mm512_maskz_loadu_ps(mask, from);
  }
  LMXLAB_AVX512_INLINE __m512 some(const uint16_t* from, __mmask16 mask, Type type) {
    const auto half = _mm256_maskz_loadu_epi16(mask, from);
    if (type == Type::f16) return _mm512_cvtph_ps(half);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
  }
  template <class T, int n>
  LMXLAB_AVX512_INLINE void read_as(Type type, const QuantView& v, int64_t first, int64_t pitch,
                                    int shift, __mmask16 mask, __m512 (&scale)[n],
                                    __m512 (&offset)[n]) {
    for (int i = 0; i < n; i++, first += pitch) {
      scale[i] = some(static_cast<const T*>(v.scales) + (first >> shift), mask, type);
      offset[i] = some(static_cast<const T*>(v.biases) + (first >> shift), mask, type);
    }
  }
  template <int n>
  LMXLAB_AVX512_INLINE void read(const WeightRows& w, const uint8_t*, const Steps& s,
                                 __m512 (&scale)[n], __m512 (&offset)[n]) {
    const auto& v = *w.view;
    const int shift = v.group == 32 ? 0 : v.group == 64 ? 1 : 2;
    const int64_t count = (std::min<int64_t>(s.left, 16) + (1 << shift) - 1) >> shift;
    const auto mask = static_cast<__mmask16>((1u << count) - 1);
    const int64_t first = w.first + s.at;
    if (v.scale_type == Type::bf16) {
      read_as<uint16_t>(Type::bf16, v, first, s.pitch, shift, mask, scale, offset);
    } else if (v.scale_type == Type::f16) {
      read_as<uint16_t>(Type::f16, v, first, s.pitch, shift, mask, scale, offset);
    } else {
      read_as<float>(Type::f32, v, first, s.pitch, shift, mask, scale, offset);
    }
    if (shift == 0) return;
    const auto lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const auto from = _mm512_srl_epi32(lanes, _mm_cvtsi32_si128(shift));
    for (int i = 0; i < n; i++) {
      scale[i] = _mm512_maskz_permutexvar_ps(s.mask, from, scale[i]);
      offset[i] = _mm512_maskz_permutexvar_ps(s.mask, from, offset[i]);
    }
  }
};

// Where the lanes of the groups of 16 steps find their scales.
template <class Reader>
struct Places {
  static constexpr int kGroups = Reader::kStep == 32 ? 4 : 2;
  alignas(64) int32_t a[kGroups][16], b[kGroups][16];
};
template <class Reader>
constexpr Places<Reader> places_of() {
  Places<Reader> to{};
  for (int g = 0; g < Places<Reader>::kGroups; g++) {
    for (int i = 0; i < 16; i++) {
      to.a[g][i] = Reader::kLanes.a[i] + g * (128 / Reader::kStep);
      to.b[g][i] = Reader::kLanes.b[i] + g * (128 / Reader::kStep);
    }
  }
  return to;
}

// Activations of a group: a and b, high bytes before low ones.
template <bool precise>
struct Cells128 {
  __m512i a, b, low_a, low_b;
  LMXLAB_AVX512_INLINE Cells128 at(const int8_t* x) {
    Cells128 to;
    to.a = load(x), to.b = load(x + 64);
    if (precise) to.low_a = load(x + 128), to.low_b = load(x + 192);
    return to;
  }
};

template <class Reader, bool precise>
LMXLAB_AVX512_INLINE __m512 add_group(const Weights& w, const Cells128<precise>& x, __m512 scale,
                                      const Places<Reader>& places, int g, __m512 sum) {
  auto a = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w.a, x.a);
  const auto of_a = _mm512_permutexvar_ps(load(places.a[g]), scale);
  if constexpr (Reader::kLanes.same) {
    a = _mm512_dpbusd_epi32(a, w.b, x.b);
    if (precise) {
      a = _mm512_dpbusd_epi32(_mm512_slli_epi32(a, 8), w.a, x.low_a);
      a = _mm512_dpbusd_epi32(a, w.b, x.low_b);
    }
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(a), of_a, sum);
  } else {
    auto b = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w.b, x.b);
    if (precise) {
      a = _mm512_dpbusd_epi32(_mm512_slli_epi32(a, 8), w.a, x.low_a);
      b = _mm512_dpbusd_epi32(_mm512_slli_epi32(b, 8), w.b, x.low_b);
    }
    const auto of_b = _mm512_permutexvar_ps(load(places.b[g]), scale);
    sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(a), of_a, sum);
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(b), of_b, sum);
  }
}

// The sums over the lanes of 4 registers. A row alone is summed up in the same order.
LMXLAB_AVX512_INLINE __m128 sums_of(const __m512 (&v)[4]) {
  const auto ab = _mm512_add_ps(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
  const auto cd = _mm512_add_ps(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
  const auto all = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
  const auto half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

// `n` rows of weights, 1 or 4, and `m` of x, that share what is read of each other. What was
// shifted has it taken back with the offsets.
template <class Reader, class Scales, bool precise, int n, int m>
LMXLAB_AVX512_INLINE void dot_of(const WeightRows& w, int64_t r, int64_t blocks,
                                 const ActivationRow* x, float* out, int64_t ld, bool add) {
  alignas(64) static constexpr auto kPlaces = places_of<Reader>();
  constexpr int kGroups = Places<Reader>::kGroups, kStep = Reader::kStep;
  constexpr int64_t kX = precise ? 256 : 128, kSpan = kGroups / Reader::kGroups * Reader::kBytes;
  constexpr int64_t kAhead = 4096;  // bytes: 4 to 16 KiB are alike, 2 and rows by rows are slower
  const int64_t steps = blocks * kBlock / kStep;
  const uint8_t* p = w.q + r * w.stride;
  const char* ahead = reinterpret_cast<const char*>(p) + kAhead;
  const int8_t* xq[m];
  __m512 sum[m][n];
  for (int j = 0; j < m; j++) {
    xq[j] = x[j].q;
    for (int i = 0; i < n; i++) sum[j][i] = _mm512_setzero_ps();
  }
  for (int64_t at = 0; at < steps; at += 16, p += kSpan) {
    const int64_t left = steps - at, full = left * kStep / 128;
    const auto mask = static_cast<__mmask16>(left >= 16 ? 0xffff : (1 << left) - 1);
    __m512 scale[n], offset[n], both[m][n];
    Scales::read(w, p, {r * steps + at, steps, left, mask}, scale, offset);
    for (int i = 0; i < n; i++) {
      if (Reader::kSigned) {
        offset[i] = _mm512_fnmadd_ps(scale[i], _mm512_set1_ps(128), offset[i]);
      }
    }
    for (int j = 0; j < m; j++) {
      const auto x_scale = _mm512_maskz_loadu_ps(mask, x[j].scale + at);
      const auto x_sum = _mm512_maskz_loadu_ps(mask, x[j].sum + at);
      for (int i = 0; i < n; i++) {
        sum[j][i] = _mm512_fmadd_ps(offset[i], x_sum, sum[j][i]);
        both[j][i] = _mm512_mul_ps(scale[i], x_scale);
      }
    }
    const auto group = [&](auto g, auto read) LMXLAB_AVX512_LAMBDA {
      // As the rows lie, one behind another. Into L2: the few lines that L1 can wait for are what
      // one core would be held by.
      constexpr int64_t kFetched = n * kSpan / kGroups;
      for (int64_t line = 0; line < kFetched; line += 64) _mm_prefetch(ahead + line, _MM_HINT_T1);
      ahead += kFetched;
      Cells128<precise> cells[m];
      for (int j = 0; j < m; j++) cells[j] = Cells128<precise>::at(xq[j] + g * kX);
      for (int i = 0; i < n; i++) {
        const auto some = read(g, p + i * w.stride + g / Reader::kGroups * Reader::kBytes);
        for (int j = 0; j < m; j++) {
          sum[j][i] = add_group<Reader, precise>(some, cells[j], both[j][i], kPlaces, g, sum[j][i]);
        }
      }
    };
    const auto whole = [](auto g, const uint8_t* from) LMXLAB_AVX512_LAMBDA {
      return Reader::template read<g % Reader::kGroups>(from);
    };
    // What is read behind the last blocks is multiplied with zeros.
    const auto part = [&](auto g, const uint8_t* from) LMXLAB_AVX512_LAMBDA {
      if (from + Reader::kBytes <= w.end) return Reader::template read<g % Reader::kGroups>(from);
      uint8_t rest[Reader::kBytes] = {};
      std::memcpy(rest, from, static_cast<size_t>(w.end - from));
      return Reader::template read<g % Reader::kGroups>(rest);
    };
    const auto one = [&](auto g) LMXLAB_AVX512_LAMBDA {
      if (g < full) {
        group(g, whole);
      } else if (g * 128 < left * kStep) {
        group(g, part);
      }
    };
    if (full >= kGroups) {
      [&]<int... g>(std::integer_sequence<int, g...>) LMXLAB_AVX512_LAMBDA {
        (group(std::integral_constant<int, g>{}, whole), ...);
      }
      (std::make_integer_sequence<int, kGroups>{});
    } else {
      [&]<int... g>(std::integer_sequence<int, g...>) LMXLAB_AVX512_LAMBDA {
        (one(std::integral_constant<int, g>{}), ...);
      }
      (std::make_integer_sequence<int, kGroups>{});
    }
    for (int j = 0; j < m; j++) xq[j] += kGroups * kX;
  }
  for (int j = 0; j < m; j++, out += ld) {
    if constexpr (n == 4) {
      const auto sums = sums_of(sum[j]);
      _mm_storeu_ps(out + r, add ? _mm_add_ps(sums, _mm_loadu_ps(out + r)) : sums);
    } else {
      const __m512 same[4] = {sum[j][0], sum[j][0], sum[j][0], sum[j][0]};
      out[r] = (add ? out[r] : 0) + _mm_cvtss_f32(sums_of(same));
    }
  }
}

template <class Reader, class Scales, bool precise, int m>
LMXLAB_AVX512 void dot_rows(const WeightRows& w, int64_t rows, int64_t blocks,
                            const ActivationRow* x, float* out, int64_t ld, bool add) {
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    dot_of<Reader, Scales, precise, 4, m>(w, r, blocks, x, out, ld, add);
  }
  for (; r < rows; r++) dot_of<Reader, Scales, precise, 1, m>(w, r, blocks, x, out, ld, add);
}

template <class Reader, class Scales, bool precise>
void dot(const WeightRows& w, int64_t rows, int64_t blocks, const DotRows& to, bool add) {
  int64_t i = 0;
  const auto at = [&] { return to.out + i * to.ld; };
  for (; i + 2 <= to.count; i += 2) {
    dot_rows<Reader, Scales, precise, 2>(w, rows, blocks, to.x + i, at(), to.ld, add);
  }
  if (i < to.count) {
    dot_rows<Reader, Scales, precise, 1>(w, rows, blocks, to.x + i, at(), to.ld, add);
  }
}

template <class Reader, class Scales = Prepared>
DotKernel kernel(bool precise) {
  return {{precise ? Cells::split16 : Cells::int8, 4, Reader::kOrder},
          true,
          precise ? dot<Reader, Scales, true> : dot<Reader, Scales, false>,
          Scales::kOwn};
}

}  // namespace

DotKernel dot_kernel_avx512(const QuantView& w, bool precise) {
  static const bool has =
      __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi");
  if (!has) return {};
  switch (w.format) {
    case QuantFormat::q4_0: return kernel<NibbleReader<18>, AtHeads<18, false, 8>>(precise);
    case QuantFormat::q4_1: return kernel<NibbleReader<20>, AtHeads<20, true, 0>>(precise);
    case QuantFormat::q5_0: return kernel<FiveBitReader<22>, AtHeads<22, false, 16>>(precise);
    case QuantFormat::q5_1: return kernel<FiveBitReader<24>, AtHeads<24, true, 0>>(precise);
    case QuantFormat::q8_0: return kernel<Q8Reader, AtHeads<34, false, 0>>(precise);
    case QuantFormat::q2_k: return kernel<Q2KReader>(precise);
    case QuantFormat::q3_k: return kernel<Q3KReader>(precise);
    case QuantFormat::q4_k: return kernel<Q4KReader>(precise);
    case QuantFormat::q5_k: return kernel<Q5KReader>(precise);
    case QuantFormat::q6_k: return kernel<Q6KReader>(precise);
    case QuantFormat::mxfp4: return kernel<Mxfp4Reader>(precise);
    case QuantFormat::affine: break;
  }
  switch (w.bits) {
    case 2: return kernel<AffineReader<2>, InPlace>(precise);
    case 3: return kernel<AffineReader<3>, InPlace>(precise);
    case 4: return kernel<AffineReader<4>, InPlace>(precise);
    case 5: return kernel<AffineReader<5>, InPlace>(precise);
    case 6: return kernel<AffineReader<6>, InPlace>(precise);
    default: return kernel<AffineReader<8>, InPlace>(precise);
  }
}

}  // namespace lmxlab::kernels
#endif
