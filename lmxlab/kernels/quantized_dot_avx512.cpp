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
#include <cstring>
#include <utility>

namespace lmxlab::kernels {
namespace {

#define LMXLAB_AVX512                                                                  \
  __attribute__((                                                                      \
      target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c," \
             "bmi2")))
#define LMXLAB_AVX512_INLINE LMXLAB_AVX512 __attribute__((always_inline)) static inline

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

// What a reader is: kGroups groups of four blocks lie in kBytes; kStep and kWide of the format.
template <int groups, int size, bool wide = false, int step = 32>
struct Reader {
  static constexpr int kGroups = groups, kBytes = size, kStep = step;
  static constexpr bool kWide = wide;
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
    uint64_t low = 0, high = 0;
    for (int i = 3; i >= 0; i--) {
      uint16_t fifth[2];
      std::memcpy(fifth, p + i * size + size - 20, 4);
      low = low << 16 | fifth[0], high = high << 16 | fifth[1];
    }
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
struct AffineReader<8> : Reader<1, 128, true> {
  static constexpr Lanes kLanes = lanes_by(8, false);
  static constexpr Order kOrder = kNatural;
  template <int>
  LMXLAB_AVX512_INLINE Weights read(const uint8_t* p) {
    return {load(p), load(p + 64)};
  }
};

// The scales of formats whose blocks of 32 begin with d and perhaps m, 16 blocks at a time: the
// first four bytes of as many blocks as a register holds are permuted into their place.
template <int size>
LMXLAB_AVX512_INLINE __m512i heads(const uint8_t* p) {
  constexpr int kHeld = 3 * size + 4 <= 64 ? 4 : 2, kSpan = (kHeld - 1) * size + 4;
  alignas(64) static constexpr auto kPlaces = [] {
    std::array<uint8_t, 64> to{};
    for (int i = 0; i < 64; i++) to[i] = static_cast<uint8_t>(i / 4 % kHeld * size + i % 4);
    return to;
  }();
  constexpr __mmask64 kRead = kSpan == 64 ? ~uint64_t{0} : (uint64_t{1} << kSpan % 64) - 1;
  constexpr uint64_t kWritten = (uint64_t{1} << 4 * kHeld) - 1;
  const auto places = load(kPlaces.data());
  auto all = _mm512_permutexvar_epi8(places, _mm512_maskz_loadu_epi8(kRead, p));
  for (int i = kHeld; i < 16; i += kHeld) {
    const auto more = _mm512_maskz_loadu_epi8(kRead, p + i * size);
    all = _mm512_mask_permutexvar_epi8(all, kWritten << 4 * i, places, more);
  }
  return all;
}
template <int size>
LMXLAB_AVX512_INLINE __m512i few_heads(const uint8_t* p, int64_t count) {
  alignas(64) uint32_t all[16] = {};
  for (int64_t i = 0; i < count; i++) std::memcpy(all + i, p + i * size, 4);
  return _mm512_load_si512(all);
}
template <int size, bool has_min, int center>
LMXLAB_AVX512 void scales_of_32(const QuantView& w, int64_t first, int64_t count, float* scale,
                                float* offset) {
  const uint8_t* p = w.bytes + first * size;
  for (int64_t i = 0; i < count; i += 16) {
    const int64_t left = count - i;
    const auto head = left >= 16 ? heads<size>(p + i * size) : few_heads<size>(p + i * size, left);
    const auto d = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(head));
    _mm512_storeu_ps(scale + i, d);
    if constexpr (has_min) {
      const auto m = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(head, 16)));
      _mm512_storeu_ps(offset + i, m);
    } else {
      _mm512_storeu_ps(offset + i, _mm512_mul_ps(d, _mm512_set1_ps(-center)));
    }
  }
}

// The scales of both sides multiplied, with zeros behind them; returns the offsets' share of the
// product. Weights that were shifted by 128 to be unsigned have it taken back here.
template <bool wide>
LMXLAB_AVX512_INLINE __m512 join_scales(const float* scale, const float* offset,
                                        const ActivationRow& x, int64_t steps, float* to) {
  auto sums = _mm512_setzero_ps();
  for (int64_t i = 0; i < steps; i += 16) {
    const int64_t left = steps - i;
    const auto mask = static_cast<__mmask16>(left >= 16 ? 0xffff : (1 << left) - 1);
    const auto s = _mm512_maskz_loadu_ps(mask, scale + i);
    auto o = _mm512_maskz_loadu_ps(mask, offset + i);
    if (wide) o = _mm512_fnmadd_ps(s, _mm512_set1_ps(128), o);
    _mm512_storeu_ps(to + i, _mm512_mul_ps(s, _mm512_maskz_loadu_ps(mask, x.scale + i)));
    sums = _mm512_fmadd_ps(o, _mm512_maskz_loadu_ps(mask, x.sum + i), sums);
  }
  return sums;
}

// Activations of a group: a and b, high bytes before low ones.
// The steps' scales in their lanes. Reads no more than a group's: they were stored just before.
template <int step>
LMXLAB_AVX512_INLINE __m512 scales_of(const float* scale, const int32_t* lanes) {
  const auto from = _mm512_load_si512(lanes);
  if constexpr (step == 32) {
    return _mm512_permutevar_ps(_mm512_broadcast_f32x4(_mm_loadu_ps(scale)), from);
  } else {
    return _mm512_permutexvar_ps(from, _mm512_broadcast_f32x8(_mm256_loadu_ps(scale)));
  }
}

template <class Reader, bool precise>
LMXLAB_AVX512_INLINE void add_group(const Weights& w, const int8_t* x, const float* scale,
                                    __m512& even, __m512& odd) {
  const auto of_a = scales_of<Reader::kStep>(scale, Reader::kLanes.a);
  auto a = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w.a, load(x));
  if constexpr (Reader::kLanes.same) {
    a = _mm512_dpbusd_epi32(a, w.b, load(x + 64));
    if (precise) {
      a = _mm512_dpbusd_epi32(_mm512_slli_epi32(a, 8), w.a, load(x + 128));
      a = _mm512_dpbusd_epi32(a, w.b, load(x + 192));
    }
    even = _mm512_fmadd_ps(_mm512_cvtepi32_ps(a), of_a, even);
    std::swap(even, odd);
  } else {
    auto b = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w.b, load(x + 64));
    if (precise) {
      a = _mm512_dpbusd_epi32(_mm512_slli_epi32(a, 8), w.a, load(x + 128));
      b = _mm512_dpbusd_epi32(_mm512_slli_epi32(b, 8), w.b, load(x + 192));
    }
    even = _mm512_fmadd_ps(_mm512_cvtepi32_ps(a), of_a, even);
    odd = _mm512_fmadd_ps(_mm512_cvtepi32_ps(b), scales_of<Reader::kStep>(scale, Reader::kLanes.b),
                          odd);
  }
}

template <class Reader, bool precise>
LMXLAB_AVX512 void dot(const WeightRows& w, int64_t rows, int64_t blocks, const ActivationRow& x,
                       float* out, bool add) {
  constexpr int64_t kX = precise ? 256 : 128, kSteps = 128 / Reader::kStep;
  const int64_t steps = blocks * kBlock / Reader::kStep, units = blocks / (4 * Reader::kGroups);
  // The scales of the next chunk are read in one go, so its lines are on their way before that.
  constexpr int64_t kAhead = (kChunkBlocks + 128) * Reader::kBytes / (4 * Reader::kGroups);
  const uint8_t* p = w.q;
  for (int64_t r = 0; r < rows; r++) {
    float scale[2 * kChunkBlocks + 16];
    auto a = join_scales<Reader::kWide>(w.scale + r * steps, w.offset + r * steps, x, steps, scale);
    auto b = _mm512_setzero_ps();
    const int8_t* xq = x.q;
    const float* s = scale;
    for (int64_t i = 0; i < units; i++, p += Reader::kBytes) {
      for (int line = 0; line < Reader::kBytes; line += 64) {
        _mm_prefetch(reinterpret_cast<const char*>(p) + kAhead + line, _MM_HINT_T0);
      }
      add_group<Reader, precise>(Reader::template read<0>(p), xq, s, a, b);
      xq += kX, s += kSteps;
      if constexpr (Reader::kGroups == 2) {
        add_group<Reader, precise>(Reader::template read<1>(p), xq, s, a, b);
        xq += kX, s += kSteps;
      }
    }
    if constexpr (Reader::kGroups == 1) {
      if (const int64_t left = blocks % 4) {  // what is read behind them is multiplied with zeros
        const int64_t size = left * Reader::kBytes / 4;
        if (p + Reader::kBytes <= w.end) {
          add_group<Reader, precise>(Reader::template read<0>(p), xq, s, a, b);
        } else {
          uint8_t rest[Reader::kBytes] = {};
          std::memcpy(rest, p, static_cast<size_t>(size));
          add_group<Reader, precise>(Reader::template read<0>(rest), xq, s, a, b);
        }
        p += size;
      }
    }
    out[r] = (add ? out[r] : 0) + _mm512_reduce_add_ps(_mm512_add_ps(a, b));
  }
}

template <class Reader>
DotKernel kernel(bool precise, Unpacker::Scales scales = nullptr) {
  return {{precise ? Cells::split16 : Cells::int8, 4, Reader::kOrder},
          true,
          precise ? dot<Reader, true> : dot<Reader, false>,
          scales};
}

}  // namespace

DotKernel dot_kernel_avx512(const QuantView& w, bool precise) {
  static const bool has =
      __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi");
  if (!has) return {};
  switch (w.format) {
    case QuantFormat::q4_0: return kernel<NibbleReader<18>>(precise, scales_of_32<18, false, 8>);
    case QuantFormat::q4_1: return kernel<NibbleReader<20>>(precise, scales_of_32<20, true, 0>);
    case QuantFormat::q5_0: return kernel<FiveBitReader<22>>(precise, scales_of_32<22, false, 16>);
    case QuantFormat::q5_1: return kernel<FiveBitReader<24>>(precise, scales_of_32<24, true, 0>);
    case QuantFormat::q8_0: return kernel<Q8Reader>(precise, scales_of_32<34, false, 0>);
    case QuantFormat::q2_k: return kernel<Q2KReader>(precise);
    case QuantFormat::q3_k: return kernel<Q3KReader>(precise);
    case QuantFormat::q4_k: return kernel<Q4KReader>(precise);
    case QuantFormat::q5_k: return kernel<Q5KReader>(precise);
    case QuantFormat::q6_k: return kernel<Q6KReader>(precise);
    case QuantFormat::mxfp4: return kernel<Mxfp4Reader>(precise);
    case QuantFormat::affine: break;
  }
  switch (w.bits) {
    case 2: return kernel<AffineReader<2>>(precise);
    case 3: return kernel<AffineReader<3>>(precise);
    case 4: return kernel<AffineReader<4>>(precise);
    case 5: return kernel<AffineReader<5>>(precise);
    case 6: return kernel<AffineReader<6>>(precise);
    default: return kernel<AffineReader<8>>(precise);
  }
}

}  // namespace lmxlab::kernels
#endif
