#include "lmxlab/kernels/quant_formats.h"

#include "lmxlab/kernels/e2m1.h"

#include <mlx/types/half_types.h>

#include <array>
#include <cmath>
#include <cstring>

namespace lmxlab::kernels {
namespace {

constexpr std::array<BlockFormat, 11> kBlocks{{
    {QuantFormat::q4_0, "Q4_0", 2, 32, 18},
    {QuantFormat::q4_1, "Q4_1", 3, 32, 20},
    {QuantFormat::q5_0, "Q5_0", 6, 32, 22},
    {QuantFormat::q5_1, "Q5_1", 7, 32, 24},
    {QuantFormat::q8_0, "Q8_0", 8, 32, 34},
    {QuantFormat::q2_k, "Q2_K", 10, 256, 84},
    {QuantFormat::q3_k, "Q3_K", 11, 256, 110},
    {QuantFormat::q4_k, "Q4_K", 12, 256, 144},
    {QuantFormat::q5_k, "Q5_K", 13, 256, 176},
    {QuantFormat::q6_k, "Q6_K", 14, 256, 210},
    {QuantFormat::mxfp4, "MXFP4", 39, 32, 17},
}};

template <class T>
T half(const uint8_t* p) {
  mlx::core::float16_t h;
  std::memcpy(&h, p, 2);
  return static_cast<T>(static_cast<float>(h));
}

// Blocks of 32: byte j holds weights j and j + 16; of 5 bits, the highest are a word of their own.
int nibble(const uint8_t* q, int k) {
  return k < 16 ? q[k] & 15 : q[k - 16] >> 4;
}
int fifth(const uint8_t* high, int k) {
  return (high[k / 8] >> k % 8 & 1) << 4;
}

// Six bits a scale and six a minimum, eight of each in 12 bytes.
struct ScaleMin {
  int scale, min;
};
ScaleMin scale_min(const uint8_t* p, int i) {
  if (i < 4) return {p[i] & 63, p[i + 4] & 63};
  return {(p[i + 4] & 15) | (p[i - 4] >> 6) << 4, p[i + 4] >> 4 | (p[i] >> 6) << 4};
}

template <class T>
void q2_k(const uint8_t* p, T* to) {
  const T d = half<T>(p + 80), least = half<T>(p + 82);
  for (int k = 0; k < 256; k++) {
    const int scale = p[k / 16], q = p[16 + k / 128 * 32 + k % 32] >> k / 32 % 4 * 2 & 3;
    to[k] = d * T(scale & 15) * T(q) - least * T(scale >> 4);
  }
}

// bytes: 32 of third bits, 64 of pairs, 12 of scales (16 of six bits), d
template <class T>
void q3_k(const uint8_t* p, T* to) {
  const T d = half<T>(p + 108);
  const uint8_t* s = p + 96;
  for (int k = 0; k < 256; k++) {
    const int i = k / 16;
    const int low = i < 8 ? s[i] & 15 : s[i - 8] >> 4, high = s[8 + i % 4] >> i / 4 * 2 & 3;
    const int pair = p[32 + k / 128 * 32 + k % 32] >> k / 32 % 4 * 2 & 3;
    const int third = p[k % 32] >> k / 32 & 1;
    to[k] = d * T((low | high << 4) - 32) * T(pair - (third ? 0 : 4));
  }
}

template <class T>
void q4_k(const uint8_t* p, T* to) {
  const T d = half<T>(p), least = half<T>(p + 2);
  for (int k = 0; k < 256; k++) {
    const auto [scale, min] = scale_min(p + 4, k / 32);
    const int q = p[16 + k / 64 * 32 + k % 32] >> k / 32 % 2 * 4 & 15;
    to[k] = d * T(scale) * T(q) - least * T(min);
  }
}

template <class T>
void q5_k(const uint8_t* p, T* to) {
  const T d = half<T>(p), least = half<T>(p + 2);
  for (int k = 0; k < 256; k++) {
    const auto [scale, min] = scale_min(p + 4, k / 32);
    const int low = p[48 + k / 64 * 32 + k % 32] >> k / 32 % 2 * 4 & 15;
    const int q = low | (p[16 + k % 32] >> k / 32 & 1) << 4;
    to[k] = d * T(scale) * T(q) - least * T(min);
  }
}

template <class T>
void q6_k(const uint8_t* p, T* to) {
  const T d = half<T>(p + 208);
  for (int k = 0; k < 256; k++) {
    const int low = p[k / 128 * 64 + k % 64] >> k / 64 % 2 * 4 & 15;
    const int high = p[128 + k / 128 * 32 + k % 32] >> k / 32 % 4 * 2 & 3;
    const auto scale = static_cast<int8_t>(p[192 + k / 16]);
    to[k] = d * T(scale) * T((low | high << 4) - 32);
  }
}

template <class T>
void dequantize_block(QuantFormat format, const uint8_t* p, T* to) {
  switch (format) {
    case QuantFormat::q4_0:
      for (int k = 0; k < 32; k++) to[k] = half<T>(p) * T(nibble(p + 2, k) - 8);
      break;
    case QuantFormat::q4_1:
      for (int k = 0; k < 32; k++) to[k] = half<T>(p) * T(nibble(p + 4, k)) + half<T>(p + 2);
      break;
    case QuantFormat::q5_0:
      for (int k = 0; k < 32; k++)
        to[k] = half<T>(p) * T((nibble(p + 6, k) | fifth(p + 2, k)) - 16);
      break;
    case QuantFormat::q5_1:
      for (int k = 0; k < 32; k++)
        to[k] = half<T>(p) * T(nibble(p + 8, k) | fifth(p + 4, k)) + half<T>(p + 2);
      break;
    case QuantFormat::q8_0:
      for (int k = 0; k < 32; k++) to[k] = half<T>(p) * T(static_cast<int8_t>(p[2 + k]));
      break;
    case QuantFormat::q2_k: return q2_k(p, to);
    case QuantFormat::q3_k: return q3_k(p, to);
    case QuantFormat::q4_k: return q4_k(p, to);
    case QuantFormat::q5_k: return q5_k(p, to);
    case QuantFormat::q6_k: return q6_k(p, to);
    case QuantFormat::mxfp4: {
      const T half_scale = std::ldexp(T(1), p[0] - 128);  // e8m0; the table is twice the values
      for (int k = 0; k < 32; k++) to[k] = half_scale * T(kE2m1Twice[nibble(p + 1, k)]);
      break;
    }
    case QuantFormat::affine: break;
  }
}

template <class T>
T value(Type type, const void* p, int64_t i) {
  if (type == Type::f32) return static_cast<T>(static_cast<const float*>(p)[i]);
  if (type == Type::f16) return half<T>(static_cast<const uint8_t*>(p) + 2 * i);
  const uint32_t bits = uint32_t{static_cast<const uint16_t*>(p)[i]} << 16;
  float f;
  std::memcpy(&f, &bits, 4);
  return static_cast<T>(f);
}

template <class T>
void affine_row(const QuantView& w, int64_t row, T* to) {
  const int64_t groups = w.in / w.group, tile = row / kTileRows * kTileRows;
  // Of a row's items, which of the array it is.
  const auto item = [&](int64_t i, int64_t each) {
    return w.interleaved ? tile * each + i * kTileRows + row % kTileRows : row * each + i;
  };
  const auto byte = [&](int64_t i) { return w.bytes[4 * item(i / 4, row_bytes(w) / 4) + i % 4]; };
  const auto bits_at = [&](int64_t bit, int n) {
    const int last = (bit % 8 + n - 1) / 8;  // 1 where they cross into the next byte
    const int word = byte(bit / 8) | (last ? byte(bit / 8 + 1) << 8 : 0);
    return word >> bit % 8 & ((1 << n) - 1);
  };
  for (int64_t k = 0; k < w.in; k++) {
    const int64_t block = k / 32 * 160;  // where its bits begin, of five
    const int in = static_cast<int>(k % 32);
    const int q = w.interleaved && w.bits == 5
                      ? bits_at(block + 4 * in, 4) | bits_at(block + 128 + FiveBits::fifth(in), 1)
                                                         << 4
                      : bits_at(k * w.bits, w.bits);
    const int64_t i = item(k / w.group, groups);
    const T scale = value<T>(w.scale_type, w.scales, i);
    const T bias =
        w.biases ? value<T>(w.scale_type, w.biases, i) : T(symmetric_bias(w.bits)) * scale;
    to[k] = scale * T(q) + bias;
  }
}

template <class T>
void any_row(const QuantView& w, int64_t row, T* to) {
  if (w.format == QuantFormat::affine) return affine_row(w, row, to);
  const auto& block = block_format(w.format);
  const uint8_t* p = w.bytes + row * row_bytes(w);
  for (int64_t k = 0; k < w.in; k += block.weights, p += block.bytes) {
    dequantize_block(w.format, p, to + k);
  }
}

}  // namespace

const BlockFormat& block_format(QuantFormat format) {
  for (const auto& block : kBlocks) {
    if (block.format == format) return block;
  }
  throw Error(Kind::internal, "[quantized] affine weights have no blocks");
}

std::optional<QuantFormat> format_of_ggml(uint32_t type) {
  for (const auto& block : kBlocks) {
    if (block.ggml == type) return block.format;
  }
  return {};
}

// Eight weights of the stream are five bytes.
void FiveBits::cut(const uint32_t* stream, uint32_t* words) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(stream);
  words[4] = 0;
  for (int i = 0; i < 4; i++) {
    uint64_t eight = 0;
    std::memcpy(&eight, bytes + 5 * i, 5);
    words[i] = 0;
    for (int j = 0; j < 8; j++) {
      const auto q = static_cast<uint32_t>(eight >> 5 * j & 31);
      words[i] |= (q & 15) << 4 * j;
      words[4] |= q >> 4 << fifth(8 * i + j);
    }
  }
}
void FiveBits::join(const uint32_t* words, uint32_t* stream) {
  auto* bytes = reinterpret_cast<uint8_t*>(stream);
  for (int i = 0; i < 4; i++) {
    uint64_t eight = 0;
    for (int j = 0; j < 8; j++) eight |= uint64_t{at(words, 8 * i + j)} << 5 * j;
    std::memcpy(bytes + 5 * i, &eight, 5);
  }
}

int64_t row_bytes(const QuantView& w) {
  if (w.format == QuantFormat::affine) return w.in * w.bits / 8;
  const auto& block = block_format(w.format);
  return w.in / block.weights * block.bytes;
}

void dequantize_row(const QuantView& w, int64_t row, float* to) {
  any_row(w, row, to);
}
void dequantize_row(const QuantView& w, int64_t row, double* to) {
  any_row(w, row, to);
}

}  // namespace lmxlab::kernels
