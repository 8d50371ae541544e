// Formats of quantized matrices: what their bytes mean. A row is a sequence of blocks along the
// input dimension; a block's weights are scale * q + offset with small integers q.
//
// `affine` is MLX's own (mx::quantize): q in a stream of bits, scales and biases in arrays of their
// own. The others are ggml's blocks as they lie in GGUF files (ggml-common.h of llama.cpp,
// quants.py of the Python package gguf); mxfp4 is OCP's microscaling format in ggml's order.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "lmxlab/kernels/types.h"

namespace lmxlab::kernels {

enum class QuantFormat : uint8_t {
  affine,
  q4_0,
  q4_1,
  q5_0,
  q5_1,
  q8_0,
  q2_k,
  q3_k,
  q4_k,
  q5_k,
  q6_k,
  mxfp4,
};

/// Of a ggml format (not affine).
struct BlockFormat {
  QuantFormat format;
  std::string_view name;  // as GGUF tools write it
  uint32_t ggml;          // its number in GGUF files
  int weights, bytes;     // of a block
};
const BlockFormat& block_format(QuantFormat format);
/// The format of a GGUF tensor type, if it is one of ours.
std::optional<QuantFormat> format_of_ggml(uint32_t type);

/// A quantized matrix [out, in] in memory, rows one after another.
struct QuantView {
  QuantFormat format;
  int64_t out, in;
  const uint8_t* bytes;
  // affine only: weight k of a row is scales[k / group] * q + biases[k / group], q being bits
  // [k * bits, (k + 1) * bits) of the row, lowest first.
  int bits = 0, group = 0;
  Type scale_type = Type::f32;
  const void* scales = nullptr;  // [out, in / group]
  const void* biases = nullptr;  // the same; none if each is symmetric_bias(bits) times its scale
  // affine only: rows lie interleaved in tiles of kTileRows. Word j (32 bits) of a tile's row r is
  // word kTileRows j + r of the tile, and so are scales and biases. Of 5 bits, a block of 32
  // weights is first cut in two: see FiveBits.
  bool interleaved = false;
};
constexpr int kTileRows = 16;
/// Makes q and -q as likely: of ggml's Q4_0, Q5_0 and Q8_0.
constexpr float symmetric_bias(int bits) {
  return -static_cast<float>(1 << (bits - 1));
}

/// A block of 32 weights of 5 bits as a tile holds it: four words of nibbles, as of 4 bits, and a
/// word of fifth bits, in which those of all first bytes lie in the first byte, and so on: a shift
/// of a whole register brings them where they belong.
struct FiveBits {
  static constexpr int kWords = 5;
  /// Where the fifth bit of weight k is in the last word.
  static constexpr int fifth(int k) { return 8 * (k % 8 / 2) + 4 * (k % 2) + k / 8; }
  /// Weight k.
  static constexpr uint32_t at(const uint32_t* words, int k) {
    return (words[k / 8] >> 4 * (k % 8) & 15) | (words[4] >> fifth(k) & 1) << 4;
  }
  /// From MLX's stream of bits, and back.
  static void cut(const uint32_t* stream, uint32_t* words);
  static void join(const uint32_t* words, uint32_t* stream);
};
int64_t row_bytes(const QuantView& w);

/// Row `row` as numbers, one after another and slowly: the definition that the kernels are tested
/// against. In float32 it gives ggml's and MLX's bits.
/// @param to  [in]
void dequantize_row(const QuantView& w, int64_t row, float* to);
void dequantize_row(const QuantView& w, int64_t row, double* to);

}  // namespace lmxlab::kernels
