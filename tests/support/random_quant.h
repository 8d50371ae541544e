// Random quantized weights of every format, for tests and benches.
#pragma once

#include <mlx/mlx.h>

#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "lmxlab/kernels/quantized.h"

namespace lmxlab::test {

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

/// All bits are random but those of the scales, which are numbers of either sign below 0.1.
inline kernels::QuantizedWeight random_blocks(kernels::QuantFormat format, int out, int in,
                                              unsigned seed) {
  const auto& block = kernels::block_format(format);
  const int row = in / block.weights * block.bytes;
  std::vector<uint8_t> bytes(static_cast<size_t>(out) * row);
  std::mt19937 random(seed);
  for (auto& b : bytes) b = static_cast<uint8_t>(random() >> 11);
  for (size_t at = 0; at < bytes.size(); at += block.bytes) {
    for (const int i : halves_of(format)) {
      const float value = 0.1f * (static_cast<float>(random() % 2001) / 1000 - 1);
      const mlx::core::float16_t half(value);
      std::memcpy(bytes.data() + at + i, &half, 2);
    }
    if (format == kernels::QuantFormat::mxfp4)
      bytes[at] = static_cast<uint8_t>(115 + random() % 12);
  }
  return kernels::block_weight(
      format, mlx::core::array(bytes.data(), mlx::core::Shape{out, row}, mlx::core::uint8));
}

inline kernels::QuantizedWeight random_affine(int bits, int group, mlx::core::Dtype scales, int out,
                                              int in, int seed) {
  const auto w = mlx::core::random::normal({out, in}, mlx::core::random::key(seed));
  const auto parts = mlx::core::quantize(mlx::core::astype(w, scales), group, bits);
  return kernels::affine_weight(parts[0], parts[1], parts[2], group, bits);
}

inline std::string describe(const kernels::QuantizedWeight& w) {
  if (w.format == kernels::QuantFormat::affine) {
    return "affine " + std::to_string(w.bits) + " bits, groups of " + std::to_string(w.group);
  }
  return std::string(kernels::block_format(w.format).name);
}

}  // namespace lmxlab::test
