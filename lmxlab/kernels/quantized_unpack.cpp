// From the bytes of each format to small integers, 16 at a time, and to scales and offsets.
#include <algorithm>
#include <cstring>

#include "lmxlab/kernels/quantized_parts.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lmxlab/kernels/quantized_unpack.cpp"
#include <hwy/foreach_target.h>
// Highway's header comes after foreach_target.h.
#include <hwy/highway.h>

#include "lmxlab/kernels/simd-inl.h"

#ifndef LMXLAB_KERNELS_QUANTIZED_TABLES
#define LMXLAB_KERNELS_QUANTIZED_TABLES
namespace lmxlab::kernels {

/// Byte j of entry i is 16 where bit j of i is set: the fifth bits of eight weights.
struct FifthBits {
  uint64_t of[256];
  constexpr FifthBits() : of() {
    for (int i = 0; i < 256; i++) {
      for (int j = 0; j < 8; j++) of[i] |= uint64_t(i >> j & 1) << (8 * j + 4);
    }
  }
};
inline constexpr FifthBits kFifthBits;

}  // namespace lmxlab::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace lmxlab::kernels::HWY_NAMESPACE {
namespace {  // names are this file's own

// The compilers' own vectors: they exist on every target, with operators.
using Bytes = uint8_t __attribute__((vector_size(16)));
using Words = uint16_t __attribute__((vector_size(16)));
using Pair = uint64_t __attribute__((vector_size(16)));

HWY_INLINE Bytes load16(const uint8_t* p) {
  Bytes v;
  std::memcpy(&v, p, 16);
  return v;
}
HWY_INLINE void store16(Bytes v, int8_t* p) {
  std::memcpy(p, &v, 16);
}
// Shifts of bytes in words: what comes from the neighbour is masked off by the caller.
template <int n>
HWY_INLINE Bytes right(Bytes v) {
  return (Bytes)((Words)v >> n);
}
template <int n>
HWY_INLINE Bytes left(Bytes v) {
  return (Bytes)((Words)v << n);
}
template <class T>
HWY_INLINE T read(const uint8_t* p) {
  T v;
  std::memcpy(&v, p, sizeof(T));
  return v;
}
HWY_INLINE float half_at(const uint8_t* p) {
  const hn::CappedTag<float, 1> d;
  const hn::Rebind<hwy::float16_t, decltype(d)> dh;
  const auto h = read<uint16_t>(p);
  return hn::GetLane(hn::PromoteTo(d, hn::LoadU(dh, reinterpret_cast<const hwy::float16_t*>(&h))));
}

// As many bytes as there are lanes, as floats.
template <class Byte>
HWY_INLINE VF floats_of(const Byte* p) {
  const DF d;
  const hn::Rebind<Byte, DF> d8;
  return hn::ConvertTo(d, hn::PromoteTo(hn::RebindToSigned<DF>(), hn::LoadU(d8, p)));
}

// Float16 pairs (d, m) from the beginning of `count` blocks, gathered first and converted together.
// Reads and writes up to a vector more than count.
struct Heads {
  alignas(64) uint32_t of[kChunkBlocks + HWY_MAX_BYTES / 4];
};
HWY_INLINE VF half_of(hn::Vec<hn::RebindToSigned<DF>> bits) {
  const DF d;
  const hn::Rebind<uint16_t, DF> d16;
  const hn::Rebind<hwy::float16_t, DF> dh;
  return hn::PromoteTo(d, hn::BitCast(dh, hn::DemoteTo(d16, bits)));
}
template <int bytes>
HWY_INLINE void gather(const uint8_t* p, int64_t count, Heads& heads) {
  volatile uint32_t* const to = heads.of;  // plain moves: GCC 12 makes five of each otherwise
  for (int64_t i = 0; i < count; i++, p += bytes) to[i] = read<uint32_t>(p);
}

// Blocks of 32 that begin with d and perhaps m: w = d q + m, or d (q - center).
template <int bytes, bool has_min, int center>
void scales_of_32(const QuantView& w, int64_t first, int64_t count, float* scale, float* offset) {
  Heads heads;
  gather<bytes>(w.bytes + first * bytes, count, heads);
  const DF d;
  const hn::RebindToUnsigned<DF> du;
  const hn::RebindToSigned<DF> di;
  for (int64_t i = 0; i < count; i += lanes()) {
    const auto v = hn::Load(du, heads.of + i);
    const VF s = half_of(hn::BitCast(di, hn::And(v, hn::Set(du, 0xffffu))));
    hn::StoreU(s, d, scale + i);
    const VF o = has_min ? half_of(hn::BitCast(di, hn::ShiftRight<16>(v)))
                         : hn::Mul(s, hn::Set(d, static_cast<float>(-center)));
    hn::StoreU(o, d, offset + i);
  }
}

// Nibbles in the last 16 bytes of a block, and perhaps a word of fifth bits before them.
template <int bytes, bool has_fifth>
void nibbles_of_32(const QuantView& w, int64_t first, int64_t count, int8_t* q) {
  const uint8_t* p = w.bytes + first * bytes;
  for (int64_t i = 0; i < count; i++, p += bytes, q += 32) {
    const Bytes v = load16(p + bytes - 16);
    Bytes low = v & 15, high = right<4>(v) & 15;
    if (has_fifth) {
      const uint8_t* f = p + bytes - 20;
      low |= (Bytes)Pair{kFifthBits.of[f[0]], kFifthBits.of[f[1]]};
      high |= (Bytes)Pair{kFifthBits.of[f[2]], kFifthBits.of[f[3]]};
    }
    store16(low, q);
    store16(high, q + 16);
  }
}

void q8_0_values(const QuantView& w, int64_t first, int64_t count, int8_t* q) {
  const uint8_t* p = w.bytes + first * 34;
  for (int64_t i = 0; i < count; i++, p += 34, q += 32) std::memcpy(q, p + 2, 32);
}

// Twice the values of four-bit floats (a sign, two bits of exponent, one of mantissa), plus 12.
HWY_INLINE Bytes e2m1(Bytes code) {
  alignas(16) static constexpr uint8_t kTable[16] = {12, 13, 14, 15, 16, 18, 20, 24,
                                                     12, 11, 10, 9,  8,  6,  4,  0};
#if HWY_TARGET == HWY_SCALAR
  for (int i = 0; i < 16; i++) code[i] = kTable[code[i]];
  return code;
#else
  const hn::Full128<uint8_t> d;
  alignas(16) uint8_t b[16];
  std::memcpy(b, &code, 16);
  hn::Store(hn::TableLookupBytes(hn::Load(d, kTable), hn::Load(d, b)), d, b);
  return load16(b);
#endif
}

void mxfp4_scales(const QuantView& w, int64_t first, int64_t count, float* scale, float* offset) {
  const uint8_t* p = w.bytes + first * 17;
  for (int64_t i = 0; i < count; i++, p += 17) {
    // 2^(e - 128), half of OCP's scale; below 2 it is subnormal.
    const uint32_t e = p[0], bits = e < 2 ? uint32_t{0x00200000} << e : (e - 1) << 23;
    std::memcpy(scale + i, &bits, 4);
  }
  for (int64_t i = 0; i < count; i++) offset[i] = -12 * scale[i];
}
void mxfp4_values(const QuantView& w, int64_t first, int64_t count, int8_t* q) {
  const uint8_t* p = w.bytes + first * 17;
  for (int64_t i = 0; i < count; i++, p += 17, q += 32) {
    const Bytes v = load16(p + 1);
    store16(e2m1(v & 15), q);
    store16(e2m1(right<4>(v) & 15), q + 16);
  }
}

// The K formats: 256 weights a block, scales of few bits under one or two of float16.

void q2_k_scales(const QuantView& w, int64_t first, int64_t count, float* scale, float* offset) {
  const uint8_t* p = w.bytes + first / 8 * 84;
  for (int64_t i = 0; i < count; i += 8, p += 84, scale += 16, offset += 16) {
    const float d = half_at(p + 80), least = half_at(p + 82);
    uint8_t low[16], high[16];
    const Bytes v = load16(p);
    store16(v & 15, reinterpret_cast<int8_t*>(low));
    store16(right<4>(v) & 15, reinterpret_cast<int8_t*>(high));
    for (int64_t j = 0; j < 16; j += lanes()) {
      store(hn::Mul(hn::Set(DF(), d), floats_of(low + j)), DF(), scale + j);
      store(hn::Mul(hn::Set(DF(), -least), floats_of(high + j)), DF(), offset + j);
    }
  }
}
void q2_k_values(const QuantView& w, int64_t first, int64_t count, int8_t* q) {
  const uint8_t* p = w.bytes + first / 8 * 84;
  for (int64_t i = 0; i < count; i += 8, p += 84) {
    for (int h = 0; h < 2; h++, q += 128) {
      for (int j = 0; j < 32; j += 16) {
        const Bytes v = load16(p + 16 + 32 * h + j);
        store16(v & 3, q + j);
        store16(right<2>(v) & 3, q + 32 + j);
        store16(right<4>(v) & 3, q + 64 + j);
        store16(right<6>(v) & 3, q + 96 + j);
      }
    }
  }
}

// 16 scales of six bits: four in the low nibbles of each of two words, as many in the high ones,
// and all their upper pairs in a third word.
HWY_INLINE Bytes six_bits(const uint8_t* p) {
  const auto ab = read<uint64_t>(p);
  const uint64_t c = read<uint32_t>(p + 8);
  constexpr uint64_t kLow = 0x0f0f0f0f0f0f0f0f, kHigh = 0x3030303030303030;
  const uint64_t first = c << 4 | c << 34, second = c | c >> 2 << 32;  // for a, b; once more
  return (Bytes)Pair{(ab & kLow) | (first & kHigh), (ab >> 4 & kLow) | (second & kHigh)};
}
void q3_k_scales(const QuantView& w, int64_t first, int64_t count, float* scale, float* offset) {
  const uint8_t* p = w.bytes + first / 8 * 110;
  for (int64_t i = 0; i < count; i += 8, p += 110, scale += 16, offset += 16) {
    const float d = half_at(p + 108);
    int8_t s[16];
    store16(six_bits(p + 96) - 32, s);
    for (int64_t j = 0; j < 16; j += lanes()) {
      const VF v = hn::Mul(hn::Set(DF(), d), floats_of(s + j));
      store(v, DF(), scale + j);
      store(hn::Mul(hn::Set(DF(), -4.0f), v), DF(), offset + j);
    }
  }
}

template <int j>  // pairs j of the bytes v, and the third bit shifted into place
HWY_INLINE Bytes q3_k_value(Bytes v, Bytes third) {
  return (right<2 * j>(v) & 3) | (third & 4);
}
void q3_k_values(const QuantView& w, int64_t first, int64_t count, int8_t* q) {
  const uint8_t* p = w.bytes + first / 8 * 110;
  for (int64_t i = 0; i < count; i += 8, p += 110, q += 256) {
    for (int j = 0; j < 32; j += 16) {
      const Bytes mask = load16(p + j), a = load16(p + 32 + j), b = load16(p + 64 + j);
      store16(q3_k_value<0>(a, left<2>(mask)), q + j);
      store16(q3_k_value<1>(a, left<1>(mask)), q + 32 + j);
      store16(q3_k_value<2>(a, mask), q + 64 + j);
      store16(q3_k_value<3>(a, right<1>(mask)), q + 96 + j);
      store16(q3_k_value<0>(b, right<2>(mask)), q + 128 + j);
      store16(q3_k_value<1>(b, right<3>(mask)), q + 160 + j);
      store16(q3_k_value<2>(b, right<4>(mask)), q + 192 + j);
      store16(q3_k_value<3>(b, right<5>(mask)), q + 224 + j);
    }
  }
}

// Eight scales and eight minima of six bits: the first four of each in the low six bits of two
// words, the rest in nibbles of the third and the upper pairs of the first two.
template <int bytes>
void k_scales(const QuantView& w, int64_t first, int64_t count, float* scale, float* offset) {
  const uint8_t* p = w.bytes + first / 8 * bytes;
  for (int64_t i = 0; i < count; i += 8, p += bytes, scale += 8, offset += 8) {
    const float d = half_at(p), least = half_at(p + 2);
    const uint32_t a = read<uint32_t>(p + 4), b = read<uint32_t>(p + 8), c = read<uint32_t>(p + 12);
    constexpr uint32_t kSix = 0x3f3f3f3f, kLow = 0x0f0f0f0f, kHigh = 0x30303030;
    const uint64_t scales = (a & kSix) | uint64_t{(c & kLow) | (a >> 2 & kHigh)} << 32;
    const uint64_t minima = (b & kSix) | uint64_t{(c >> 4 & kLow) | (b >> 2 & kHigh)} << 32;
    uint8_t s[16] = {}, m[16] = {};
    std::memcpy(s, &scales, 8);
    std::memcpy(m, &minima, 8);
    const hn::CappedTag<float, 8> d8;
    const hn::Rebind<uint8_t, decltype(d8)> du;
    const hn::RebindToSigned<decltype(d8)> di;
    for (size_t j = 0; j < 8; j += hn::Lanes(d8)) {
      const auto vs = hn::ConvertTo(d8, hn::PromoteTo(di, hn::LoadU(du, s + j)));
      const auto vm = hn::ConvertTo(d8, hn::PromoteTo(di, hn::LoadU(du, m + j)));
      hn::StoreU(hn::Mul(hn::Set(d8, d), vs), d8, scale + j);
      hn::StoreU(hn::Mul(hn::Set(d8, -least), vm), d8, offset + j);
    }
  }
}

void q4_k_values(const QuantView& w, int64_t first, int64_t count, int8_t* q) {
  const uint8_t* p = w.bytes + first / 8 * 144;
  for (int64_t i = 0; i < count; i += 8, p += 144) {
    for (int j = 0; j < 4; j++, q += 64) {
      const Bytes a = load16(p + 16 + 32 * j), b = load16(p + 32 + 32 * j);
      store16(a & 15, q);
      store16(b & 15, q + 16);
      store16(right<4>(a) & 15, q + 32);
      store16(right<4>(b) & 15, q + 48);
    }
  }
}

// Nibbles of two blocks, whose fifth bits have been shifted to bit 4.
HWY_INLINE void q5_k_pair(Bytes v, Bytes first, Bytes second, int8_t* q) {
  store16((v & 15) | (first & 16), q);
  store16((right<4>(v) & 15) | (second & 16), q + 32);
}
void q5_k_values(const QuantView& w, int64_t first, int64_t count, int8_t* q) {
  const uint8_t* p = w.bytes + first / 8 * 176;
  for (int64_t i = 0; i < count; i += 8, p += 176, q += 256) {
    for (int j = 0; j < 32; j += 16) {
      const Bytes f = load16(p + 16 + j);
      q5_k_pair(load16(p + 48 + j), left<4>(f), left<3>(f), q + j);
      q5_k_pair(load16(p + 80 + j), left<2>(f), left<1>(f), q + 64 + j);
      q5_k_pair(load16(p + 112 + j), f, right<1>(f), q + 128 + j);
      q5_k_pair(load16(p + 144 + j), right<2>(f), right<3>(f), q + 192 + j);
    }
  }
}

void q6_k_scales(const QuantView& w, int64_t first, int64_t count, float* scale, float* offset) {
  const uint8_t* p = w.bytes + first / 8 * 210;
  for (int64_t i = 0; i < count; i += 8, p += 210, scale += 16, offset += 16) {
    const float d = half_at(p + 208);
    for (int64_t j = 0; j < 16; j += lanes()) {
      const VF v =
          hn::Mul(hn::Set(DF(), d), floats_of(reinterpret_cast<const int8_t*>(p) + 192 + j));
      store(v, DF(), scale + j);
      store(hn::Mul(hn::Set(DF(), -32.0f), v), DF(), offset + j);
    }
  }
}
void q6_k_values(const QuantView& w, int64_t first, int64_t count, int8_t* q) {
  const uint8_t* p = w.bytes + first / 8 * 210;
  for (int64_t i = 0; i < count; i += 8, p += 210) {
    for (int h = 0; h < 2; h++, q += 128) {
      for (int j = 0; j < 32; j += 16) {
        const Bytes a = load16(p + 64 * h + j), b = load16(p + 64 * h + 32 + j);
        const Bytes high = load16(p + 128 + 32 * h + j);
        store16((a & 15) | (left<4>(high) & 48), q + j);
        store16((b & 15) | (left<2>(high) & 48), q + 32 + j);
        store16((right<4>(a) & 15) | (high & 48), q + 64 + j);
        store16((right<4>(b) & 15) | (right<2>(high) & 48), q + 96 + j);
      }
    }
  }
}

// Eight weights of `bits` each, lowest first, to a byte each.
template <int bits>
HWY_INLINE uint64_t spread(uint64_t v) {
  constexpr uint64_t kMask = 0x0101010101010101 * ((1 << bits) - 1);
#if defined(__x86_64__) && HWY_TARGET <= HWY_AVX2
  return _pdep_u64(v, kMask);
#else
  // Halves apart, their halves apart, and once more.
  constexpr uint64_t kFour = (uint64_t{1} << 4 * bits) - 1;
  constexpr uint64_t kTwo = ((uint64_t{1} << 2 * bits) - 1) * 0x0000000100000001;
  constexpr uint64_t kOne = ((uint64_t{1} << bits) - 1) * 0x0001000100010001;
  v = (v & kFour) | (v << (32 - 4 * bits) & kFour << 32);
  v = (v & kTwo) | (v << (16 - 2 * bits) & kTwo << 16);
  return (v & kOne) | (v << (8 - bits) & kMask & ~kOne);
#endif
}

template <int bits>
HWY_INLINE void affine_block(const uint8_t* p, int8_t* q) {
  if constexpr (bits == 8) {
    for (int j = 0; j < 32; j += 16) store16(load16(p + j) ^ 128, q + j);
  } else if constexpr (bits == 4) {
    const Bytes v = load16(p), low = v & 15, high = right<4>(v) & 15;
    store16(
        __builtin_shufflevector(low, high, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23),
        q);
    store16(__builtin_shufflevector(low, high, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30,
                                    15, 31),
            q + 16);
  } else {
    for (int j = 0; j < 4; j++) {
      const int at = j < 3 ? std::min(bits * j, 4 * bits - 8) : 4 * bits - 8;  // inside the block
      const uint64_t v = spread<bits>(read<uint64_t>(p + at) >> 8 * (bits * j - at));
      std::memcpy(q + 8 * j, &v, 8);
    }
  }
}

template <int bits>
void affine_values(const QuantView& w, int64_t first, int64_t count, int8_t* q) {
  const uint8_t* p = w.bytes + first * 4 * bits;
  for (int64_t i = 0; i < count; i++, p += 4 * bits, q += 32) affine_block<bits>(p, q);
}

// n numbers as float32, each written `each` times. The lines of the next chunk are asked for.
template <int each, class T>
HWY_INLINE void repeat(const T* from, int64_t n, float* to) {
  const DF d;
  for (int64_t i = 0; i < n; i += 64 / static_cast<int64_t>(sizeof(T))) {
    __builtin_prefetch(from + n + i);
  }
  if constexpr (each == 1) {
    int64_t i = 0;
    for (; i + lanes() <= n; i += lanes()) hn::StoreU(load(d, from + i), d, to + i);
    if (i < n) store_n(load_n(d, from + i, n - i), d, to + i, n - i);
    return;
  }
  float one[kChunkBlocks];
  int64_t i = 0;
  for (; i + lanes() <= n; i += lanes()) store(load(d, from + i), d, one + i);
  if (i < n) store_n(load_n(d, from + i, n - i), d, one + i, n - i);
  for (i = 0; i < n; i++) {
    for (int j = 0; j < each; j++) to[each * i + j] = one[i];
  }
}

template <int each, bool wide>
void affine_scales(const QuantView& w, int64_t first, int64_t count, float* scale, float* offset) {
  with_type(w.scale_type, [&](auto x) {
    using T = decltype(x);
    repeat<each>(static_cast<const T*>(w.scales) + first / each, count / each, scale);
    if (w.biases)
      repeat<each>(static_cast<const T*>(w.biases) + first / each, count / each, offset);
  });
  if (!w.biases) {
    for (int64_t i = 0; i < count; i++) offset[i] = symmetric_bias(w.bits) * scale[i];
  }
  if (wide) {  // q is stored as q - 128
    for (int64_t i = 0; i < count; i++) offset[i] += 128 * scale[i];
  }
}

// Rows that lie interleaved are put together first. Calls f(row, first block, blocks).
template <class F>
void by_rows(const QuantView& w, int64_t first, int64_t count, F f) {
  const int64_t row = w.in / kBlock;
  for (int64_t n; count > 0; first += n, count -= n) {
    n = std::min(count, row - first % row);
    f(first / row, first % row, n);
  }
}
template <class T>
HWY_INLINE void gather_row(const void* from, int64_t row, int64_t each, int64_t first, int64_t n,
                           T* to) {
  const T* p = static_cast<const T*>(from) + row / kTileRows * kTileRows * each +
               first * kTileRows + row % kTileRows;
  for (int64_t i = 0; i < n; i++) to[i] = p[i * kTileRows];
}

template <int bits>
void interleaved_values(const QuantView& w, int64_t first, int64_t count, int8_t* q) {
  alignas(64) uint32_t words[kChunkBlocks * bits];
  QuantView apart = w;
  apart.bytes = reinterpret_cast<const uint8_t*>(words);
  by_rows(w, first, count, [&](int64_t row, int64_t begin, int64_t n) {
    gather_row(w.bytes, row, w.in / kBlock * bits, begin * bits, n * bits, words);
    if constexpr (bits == 5) {
      for (int64_t i = 0; i < n; i++) {
        for (int k = 0; k < 32; k++)
          q[kBlock * i + k] = static_cast<int8_t>(FiveBits::at(words + bits * i, k));
      }
    } else {
      affine_values<bits>(apart, 0, n, q);
    }
    q += n * kBlock;
  });
}

template <int each, bool wide>
void interleaved_scales(const QuantView& w, int64_t first, int64_t count, float* scale,
                        float* offset) {
  with_type(w.scale_type, [&](auto x) {
    using T = decltype(x);
    T scales[kChunkBlocks], biases[kChunkBlocks];
    QuantView apart = w;
    apart.scales = scales, apart.biases = w.biases ? biases : nullptr;
    const int64_t groups = w.in / kBlock / each;
    by_rows(w, first, count, [&](int64_t row, int64_t begin, int64_t n) {
      gather_row(w.scales, row, groups, begin / each, n / each, scales);
      if (w.biases) gather_row(w.biases, row, groups, begin / each, n / each, biases);
      affine_scales<each, wide>(apart, 0, n, scale, offset);
      scale += n, offset += n;
    });
  });
}

template <int bits>
Unpacker affine(int group, bool interleaved) {
  constexpr bool wide = bits == 8;
  if (interleaved) {
    switch (group / kBlock) {
      case 1: return {interleaved_scales<1, wide>, interleaved_values<bits>};
      case 2: return {interleaved_scales<2, wide>, interleaved_values<bits>};
      default: return {interleaved_scales<4, wide>, interleaved_values<bits>};
    }
  }
  switch (group / kBlock) {
    case 1: return {affine_scales<1, wide>, affine_values<bits>};
    case 2: return {affine_scales<2, wide>, affine_values<bits>};
    default: return {affine_scales<4, wide>, affine_values<bits>};
  }
}

Unpacker find_unpacker(const QuantView& w) {
  switch (w.format) {
    case QuantFormat::q4_0: return {scales_of_32<18, false, 8>, nibbles_of_32<18, false>};
    case QuantFormat::q4_1: return {scales_of_32<20, true, 0>, nibbles_of_32<20, false>};
    case QuantFormat::q5_0: return {scales_of_32<22, false, 16>, nibbles_of_32<22, true>};
    case QuantFormat::q5_1: return {scales_of_32<24, true, 0>, nibbles_of_32<24, true>};
    case QuantFormat::q8_0: return {scales_of_32<34, false, 0>, q8_0_values};
    case QuantFormat::q2_k: return {q2_k_scales, q2_k_values};
    case QuantFormat::q3_k: return {q3_k_scales, q3_k_values};
    case QuantFormat::q4_k: return {k_scales<144>, q4_k_values};
    case QuantFormat::q5_k: return {k_scales<176>, q5_k_values};
    case QuantFormat::q6_k: return {q6_k_scales, q6_k_values};
    case QuantFormat::mxfp4: return {mxfp4_scales, mxfp4_values};
    case QuantFormat::affine: break;
  }
  switch (w.bits) {
    case 2: return affine<2>(w.group, w.interleaved);
    case 3: return affine<3>(w.group, w.interleaved);
    case 4: return affine<4>(w.group, w.interleaved);
    case 5: return affine<5>(w.group, w.interleaved);
    case 6: return affine<6>(w.group, w.interleaved);
    default: return affine<8>(w.group, w.interleaved);
  }
}

}  // namespace
}  // namespace lmxlab::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lmxlab::kernels {

HWY_EXPORT(find_unpacker);

Unpacker unpacker(const QuantView& w) {
  return HWY_DYNAMIC_DISPATCH(find_unpacker)(w);
}

}  // namespace lmxlab::kernels
#endif
