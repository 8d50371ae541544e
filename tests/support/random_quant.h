// Random quantized weights of every format, for tests and benches.
#pragma once

#include <mlx/mlx.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "lmxlab/kernels/quantized.h"

namespace lmxlab::test {

using mlx::core::array;

inline std::vector<kernels::QuantFormat> block_formats() {
  using F = kernels::QuantFormat;
  return {F::q4_0, F::q4_1, F::q5_0, F::q5_1, F::q8_0, F::q2_k,
          F::q3_k, F::q4_k, F::q5_k, F::q6_k, F::mxfp4};
}

/// Where a block's float16 scales lie.
inline std::vector<int> halves_of(kernels::QuantFormat format) {
  using F = kernels::QuantFormat;
  switch (format) {
    case F::q4_1:
    case F::q5_1:
    case F::q4_k:
    case F::q5_k: return {0, 2};
    case F::q2_k: return {80, 82};
    case F::q3_k: return {108};
    case F::q6_k: return {208};
    case F::mxfp4: return {};
    default: return {0};
  }
}

/// Any bits (SplitMix64), eight bytes at a time.
class RandomBytes {
 public:
  explicit RandomBytes(uint64_t seed) : state_(seed) {}
  uint64_t word() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
  }
  std::vector<uint8_t> bytes(size_t n) {
    std::vector<uint8_t> all((n + 7) / 8 * 8);
    for (size_t i = 0; i < all.size(); i += 8) {
      const uint64_t w = word();
      std::memcpy(all.data() + i, &w, 8);
    }
    all.resize(n);
    return all;
  }
  /// Between -1 and 1.
  float number() { return static_cast<float>(word() % 20001) / 10000 - 1; }

 private:
  uint64_t state_;
};

/// All bits are random but those of the scales, which are numbers of either sign below 0.1.
inline kernels::QuantizedWeight random_blocks(kernels::QuantFormat format, int out, int in,
                                              uint64_t seed) {
  const auto& block = kernels::block_format(format);
  const int row = in / block.weights * block.bytes;
  RandomBytes random(seed);
  auto bytes = random.bytes(static_cast<size_t>(out) * row);
  for (size_t at = 0; at < bytes.size(); at += block.bytes) {
    for (const int i : halves_of(format)) {
      const mlx::core::float16_t half(0.1f * random.number());
      std::memcpy(bytes.data() + at + i, &half, 2);
    }
    if (format == kernels::QuantFormat::mxfp4) bytes[at] = 115 + bytes[at] % 12;
  }
  return kernels::block_weight(
      format, mlx::core::array(bytes.data(), mlx::core::Shape{out, row}, mlx::core::uint8));
}

/// Random bits, scales below 0.1 and biases that centre the weights nearly.
inline kernels::QuantizedWeight random_affine(int bits, int group, mlx::core::Dtype dtype, int out,
                                              int in, uint64_t seed) {
  namespace mx = mlx::core;
  RandomBytes random(seed);
  const auto bytes = random.bytes(static_cast<size_t>(out) * in * bits / 8);
  const array packed(reinterpret_cast<const uint32_t*>(bytes.data()),
                     mx::Shape{out, in * bits / 32}, mx::uint32);
  std::vector<float> scales(static_cast<size_t>(out) * in / group), biases;
  const float middle = static_cast<float>((1 << bits) - 1) / 2;
  for (auto& s : scales) {
    s = 0.1f * random.number();
    biases.push_back(-s * (middle + 0.3f * random.number()));
  }
  const auto cast = [&](const std::vector<float>& v) {
    return mx::contiguous(mx::astype(array(v.data(), mx::Shape{out, in / group}), dtype));
  };
  return kernels::affine_weight(packed, cast(scales), cast(biases), group, bits);
}

inline std::string describe(const kernels::QuantizedWeight& w) {
  if (w.format == kernels::QuantFormat::affine) {
    return "affine " + std::to_string(w.bits) + " bits, groups of " + std::to_string(w.group) +
           (w.interleaved ? ", interleaved" : "");
  }
  return std::string(kernels::block_format(w.format).name);
}

}  // namespace lmxlab::test
