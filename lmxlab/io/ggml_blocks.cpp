// The formats are ggml's (ggml-common.h of llama.cpp); the Python package gguf is the reference.
#include "lmxlab/io/ggml_blocks.h"

#include "lmxlab/base/error.h"

#include <mlx/allocator.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <bit>
#include <cmath>
#include <cstring>

namespace lmxlab::io {
namespace {

#include "lmxlab/io/ggml_grids.inc"

constexpr int8_t kFours[] = {0, 1,  2,  3,  4,  6,  8,  12,
                             0, -1, -2, -3, -4, -6, -8, -12};  // e2m1, doubled
constexpr int8_t kUneven[] = {-127, -104, -83, -65, -49, -35, -22, -10,
                              1,    13,   25,  38,  53,  69,  89,  113};  // of IQ4

float half(const uint8_t* p) {
  mx::float16_t h;
  std::memcpy(&h, p, 2);
  return static_cast<float>(h);
}
uint16_t word(const uint8_t* p) {
  uint16_t w;
  std::memcpy(&w, p, 2);
  return w;
}
uint32_t long_word(const uint8_t* p) {
  uint32_t w;
  std::memcpy(&w, p, 4);
  return w;
}

// Coordinate `i` of a point: an index of 2 or 4 bits into the lattice's few values.
template <const auto& kValues, const auto& kPoints, int kBits, int kWidth>
int coordinate(int point, int i) {
  constexpr int kEach = 8 / kBits;
  const int at = point * kWidth + i;
  return kValues[kPoints[at / kEach] >> at % kEach * kBits & ((1 << kBits) - 1)];
}

// Seven signs, and the eighth so that their number is even.
int signs_of(uint32_t seven) {
  return static_cast<int>(seven | (std::popcount(seven) & 1u) << 7);
}
float signed_by(int signs, int i, float v) {
  return signs >> i & 1 ? -v : v;
}

void iq2_xxs(const uint8_t* p, float* to) {
  const float d = half(p);
  constexpr auto grid = coordinate<k_iq2_xxs_values, k_iq2_xxs_points, 2, 8>;
  for (int g = 0; g < 8; g++) {
    const uint8_t* const q = p + 2 + 8 * g;
    const uint32_t rest = long_word(q + 4);
    const float scale = d * (0.5f + static_cast<float>(rest >> 28)) * 0.25f;
    for (int j = 0; j < 4; j++) {
      const int signs = signs_of(rest >> 7 * j & 127);
      for (int i = 0; i < 8; i++)
        *to++ = signed_by(signs, i, scale * static_cast<float>(grid(q[j], i)));
    }
  }
}

void iq2_xs(const uint8_t* p, float* to) {
  const float d = half(p);
  constexpr auto grid = coordinate<k_iq2_xs_values, k_iq2_xs_points, 2, 8>;
  for (int j = 0; j < 32; j++) {
    const uint16_t q = word(p + 2 + 2 * j);
    const int s = p[66 + j / 4] >> j / 2 % 2 * 4 & 15;
    const float scale = d * (0.5f + static_cast<float>(s)) * 0.25f;
    const int signs = signs_of(q >> 9);
    for (int i = 0; i < 8; i++)
      *to++ = signed_by(signs, i, scale * static_cast<float>(grid(q & 511, i)));
  }
}

// bytes: d, 32 of points, 32 of signs, 8 of the points' high bits, 8 of scales
void iq2_s(const uint8_t* p, float* to) {
  const float d = half(p);
  constexpr auto grid = coordinate<k_iq2_s_values, k_iq2_s_points, 2, 8>;
  for (int j = 0; j < 32; j++) {
    const int point = p[2 + j] | (p[66 + j / 4] >> j % 4 * 2 & 3) << 8;
    const int s = p[74 + j / 4] >> j / 2 % 2 * 4 & 15;
    const float scale = d * (0.5f + static_cast<float>(s)) * 0.25f;
    for (int i = 0; i < 8; i++)
      *to++ = signed_by(p[34 + j], i, scale * static_cast<float>(grid(point, i)));
  }
}

void iq3_xxs(const uint8_t* p, float* to) {
  const float d = half(p);
  constexpr auto grid = coordinate<k_iq3_xxs_values, k_iq3_xxs_points, 4, 4>;
  for (int g = 0; g < 8; g++) {
    const uint32_t rest = long_word(p + 66 + 4 * g);
    const float scale = d * (0.5f + static_cast<float>(rest >> 28)) * 0.5f;
    for (int k = 0; k < 32; k++) {
      const int signs = signs_of(rest >> 7 * (k / 8) & 127);
      *to++ =
          signed_by(signs, k % 8, scale * static_cast<float>(grid(p[2 + 8 * g + k / 4], k % 4)));
    }
  }
}

// bytes: d, 64 of points, 8 of their high bits, 32 of signs, 4 of scales
void iq3_s(const uint8_t* p, float* to) {
  const float d = half(p);
  constexpr auto grid = coordinate<k_iq3_s_values, k_iq3_s_points, 4, 4>;
  for (int j = 0; j < 64; j++) {
    const int point = p[2 + j] | (p[66 + j / 8] >> j % 8 & 1) << 8;
    const int s = p[106 + j / 16] >> j / 8 % 2 * 4 & 15;
    const float scale = d * static_cast<float>(1 + 2 * s);
    for (int i = 0; i < 4; i++)
      *to++ = signed_by(p[74 + j / 2] >> j % 2 * 4, i, scale * static_cast<float>(grid(point, i)));
  }
}

constexpr float kShift = 0.125f;  // of the points of IQ1

void iq1_s(const uint8_t* p, float* to) {
  const float d = half(p);
  constexpr auto grid = coordinate<k_iq1_values, k_iq1_points, 2, 8>;
  for (int g = 0; g < 8; g++) {
    const uint16_t high = word(p + 34 + 2 * g);
    const float scale = d * static_cast<float>(2 * (high >> 12 & 7) + 1);
    const float shift = high & 0x8000 ? -kShift : kShift;
    for (int j = 0; j < 4; j++) {
      const int point = p[2 + 4 * g + j] | (high >> 3 * j & 7) << 8;
      for (int i = 0; i < 8; i++) *to++ = scale * (static_cast<float>(grid(point, i)) + shift);
    }
  }
}

// bytes: 32 of points, 16 of their high bits, 8 of scales; a float16 in the top bits of the latter
void iq1_m(const uint8_t* p, float* to) {
  uint16_t top = 0;
  for (int i = 0; i < 4; i++)
    top = static_cast<uint16_t>(top | (word(p + 48 + 2 * i) >> 12) << 4 * i);
  uint8_t bytes[2];
  std::memcpy(bytes, &top, 2);
  const float d = half(bytes);
  constexpr auto grid = coordinate<k_iq1_values, k_iq1_points, 2, 8>;
  for (int j = 0; j < 32; j++) {
    const int s = word(p + 48 + 2 * (j / 8)) >> j / 2 % 4 * 3 & 7;
    const int high = p[32 + j / 2] >> j % 2 * 4;
    const float scale = d * static_cast<float>(2 * s + 1), shift = high & 8 ? -kShift : kShift;
    const int point = p[j] | (high & 7) << 8;
    for (int i = 0; i < 8; i++) *to++ = scale * (static_cast<float>(grid(point, i)) + shift);
  }
}

void iq4_nl(const uint8_t* p, float* to) {
  const float d = half(p);
  for (int k = 0; k < 32; k++)
    *to++ = d * static_cast<float>(kUneven[p[2 + k % 16] >> k / 16 * 4 & 15]);
}

void iq4_xs(const uint8_t* p, float* to) {
  const float d = half(p);
  for (int g = 0; g < 8; g++) {
    const int low = p[4 + g / 2] >> g % 2 * 4 & 15, high = word(p + 2) >> 2 * g & 3;
    const float scale = d * static_cast<float>((low | high << 4) - 32);
    for (int k = 0; k < 32; k++)
      *to++ = scale * static_cast<float>(kUneven[p[8 + 16 * g + k % 16] >> k / 16 * 4 & 15]);
  }
}

// Five digits of base 3 a byte, as a fraction: multiplied by a power of 3, the next digit is what
// 3 times it has above 256.
void tq1_0(const uint8_t* p, float* to) {
  constexpr int kPowers[] = {1, 3, 9, 27, 81};
  const float d = half(p + 52);
  const auto digit = [&](int byte, int i) {
    const auto shifted = static_cast<uint8_t>(byte * kPowers[i]);
    return d * static_cast<float>((shifted * 3 >> 8) - 1);
  };
  for (int i = 0; i < 5; i++)
    for (int j = 0; j < 32; j++) *to++ = digit(p[j], i);
  for (int i = 0; i < 5; i++)
    for (int j = 32; j < 48; j++) *to++ = digit(p[j], i);
  for (int i = 0; i < 4; i++)
    for (int j = 48; j < 52; j++) *to++ = digit(p[j], i);
}

void tq2_0(const uint8_t* p, float* to) {
  const float d = half(p + 64);
  for (int k = 0; k < 256; k++)
    *to++ = d * static_cast<float>((p[k / 128 * 32 + k % 32] >> k / 32 % 4 * 2 & 3) - 1);
}

// Half of an unsigned float of 4 bits of exponent (bias 7) and 3 of mantissa; 0 for NaN.
float e4m3(uint8_t x) {
  if (x == 0x7F) return 0;
  const int exponent = x >> 3 & 15, mantissa = x & 7;
  return exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -10)
                       : std::ldexp(static_cast<float>(8 + mantissa), exponent - 11);
}
void nvfp4(const uint8_t* p, float* to) {
  for (int g = 0; g < 4; g++) {
    const float d = e4m3(p[g]);
    for (int k = 0; k < 16; k++)
      *to++ = d * static_cast<float>(kFours[p[4 + 8 * g + k % 8] >> k / 8 * 4 & 15]);
  }
}

using Numbers = void (*)(const uint8_t*, float*);
Numbers numbers_of(const GgmlType& type) {
  switch (type.number) {
    case 16: return iq2_xxs;
    case 17: return iq2_xs;
    case 18: return iq3_xxs;
    case 19: return iq1_s;
    case 20: return iq4_nl;
    case 21: return iq3_s;
    case 22: return iq2_s;
    case 23: return iq4_xs;
    case 29: return iq1_m;
    case 34: return tq1_0;
    case 35: return tq2_0;
    case 40: return nvfp4;
    default: return nullptr;
  }
}

}  // namespace

bool has_numbers(const GgmlType& type) {
  return numbers_of(type) != nullptr;
}

mx::array block_numbers(const GgmlType& type, const mx::array& bytes) {
  const auto numbers = numbers_of(type);
  if (!numbers)
    throw Error(Kind::unsupported,
                "[gguf] weights of type " + std::string(type.name) + " cannot be read");
  auto from = mx::contiguous(bytes);
  mx::eval(from);
  auto shape = from.shape();
  shape.back() = shape.back() / type.bytes * type.weights;
  const size_t blocks = from.size() / static_cast<size_t>(type.bytes);
  mx::array out(mx::allocator::malloc(sizeof(float) * blocks * static_cast<size_t>(type.weights)),
                shape, mx::float32);
  for (size_t i = 0; i < blocks; i++)
    numbers(from.data<uint8_t>() + i * static_cast<size_t>(type.bytes),
            out.data<float>() + i * static_cast<size_t>(type.weights));
  return out;
}

}  // namespace lmxlab::io
