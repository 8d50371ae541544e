// Blocks of GGUF files in MLX's affine format: scale * q + bias with the same numbers.
#include <mlx/allocator.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "lmxlab/base/error.h"
#include "lmxlab/kernels/quantized.h"
#include "lmxlab/kernels/thread_pool.h"

namespace lmxlab::kernels {
namespace {

namespace mx = mlx::core;
using mx::array;

constexpr int kGroup = 32;  // weights of a block of all of these formats

float half(const uint8_t* p) {
  mx::float16_t h;
  std::memcpy(&h, p, 2);
  return static_cast<float>(h);
}

struct Numbers {
  float scale, bias;
};
Numbers numbers_of(QuantFormat format, const uint8_t* block) {
  const float d = half(block);
  return {d, is_symmetric(format) ? symmetric_bias(affine_bits(format)) * d : half(block + 2)};
}

// Weights of a block, lowest bits first.
void pack(QuantFormat format, const uint8_t* block, uint8_t* to) {
  if (format == QuantFormat::q8_0) {
    for (int k = 0; k < kGroup; k++) to[k] = static_cast<uint8_t>(block[2 + k] ^ 0x80);
    return;
  }
  const uint8_t* const q = block + block_format(format).bytes - 16;  // nibbles of j and j + 16
  if (affine_bits(format) == 5) {
    uint32_t high;
    std::memcpy(&high, q - 4, 4);
    for (int i = 0; i < 4; i++) {
      uint64_t eight = 0;  // weights: five bytes
      for (int j = 0; j < 8; j++) {
        const int k = 8 * i + j;
        const uint64_t nibble = k < 16 ? q[k] & 15 : q[k - 16] >> 4;
        eight |= (nibble | (high >> k & 1) << 4) << 5 * j;
      }
      std::memcpy(to + 5 * i, &eight, 5);
    }
    return;
  }
  for (int j = 0; j < 16; j += 2) {
    to[j / 2] = static_cast<uint8_t>((q[j] & 15) | q[j + 1] << 4);
    to[8 + j / 2] = static_cast<uint8_t>(q[j] >> 4 | (q[j + 1] & 0xf0));
  }
}

array empty(mx::Shape shape, mx::Dtype dtype) {
  size_t bytes = mx::size_of(dtype);
  for (const auto n : shape) bytes *= static_cast<size_t>(n);
  return array(mx::allocator::malloc(bytes), std::move(shape), dtype);
}

}  // namespace

int affine_bits(QuantFormat format) {
  switch (format) {
    case QuantFormat::q4_0:
    case QuantFormat::q4_1: return 4;
    case QuantFormat::q5_0:
    case QuantFormat::q5_1: return 5;
    case QuantFormat::q8_0: return 8;
    default: return 0;
  }
}

bool is_symmetric(QuantFormat format) {
  return format == QuantFormat::q4_0 || format == QuantFormat::q5_0 || format == QuantFormat::q8_0;
}

AffineForm affine_form(const QuantizedWeight& w) {
  if (w.floats != FloatFormat::none) return {};
  if (w.format == QuantFormat::affine) return {w.bits, w.group, w.biases.has_value()};
  return {affine_bits(w.format), kGroup, !is_symmetric(w.format)};
}

mx::Dtype affine_dtype(const QuantizedWeight& w) {
  if (w.format == QuantFormat::affine) return w.scales->dtype();
  array bytes = w.packed;
  bytes.eval();
  const int64_t blocks = int64_t{w.out} * (w.in / kGroup), size = block_format(w.format).bytes;
  const auto* const from = bytes.data<uint8_t>();
  for (int64_t i = 0; i < blocks; i++) {
    if (std::abs(numbers_of(w.format, from + i * size).bias) > 65504) return mx::float32;
  }
  return mx::float16;
}

QuantizedWeight some_rows(const QuantizedWeight& w, int first, int last) {
  const auto rows = [&](const array& a) { return mx::slice(a, {first, 0}, {last, a.shape(1)}); };
  auto to = w;
  to.out = last - first, to.packed = rows(w.packed);
  if (w.scales) to.scales = rows(*w.scales);
  if (w.biases) to.biases = rows(*w.biases);
  return to;
}

QuantizedWeight to_affine(const QuantizedWeight& w) {
  if (w.format == QuantFormat::affine) return w;
  const int bits = affine_bits(w.format);
  if (bits == 0)
    throw Error(Kind::usage, "[quantized] " + std::string(block_format(w.format).name) +
                                 " has no form in the affine format.");
  const auto& format = block_format(w.format);
  array bytes = w.packed;
  bytes.eval();
  const int64_t blocks = w.in / kGroup, packed = kGroup * bits / 8;
  const auto* const from = bytes.data<uint8_t>();
  const auto dtype = affine_dtype(w);
  const bool narrow = dtype == mx::float16;
  auto q = empty({w.out, w.in * bits / 32}, mx::uint32);
  auto scales = empty({w.out, w.in / kGroup}, dtype), biases = empty({w.out, w.in / kGroup}, dtype);
  auto* const to = q.data<uint8_t>();
  const auto put = [&](array& a, int64_t i, float v) {
    if (narrow)
      a.data<mx::float16_t>()[i] = mx::float16_t(v);
    else
      a.data<float>()[i] = v;
  };
  parallel_for(w.out, std::max<int64_t>(1, 4096 / w.in), [&](int64_t first, int64_t last) {
    for (int64_t i = first * blocks; i < last * blocks; i++) {
      const uint8_t* const block = from + i * format.bytes;
      const auto n = numbers_of(w.format, block);
      put(scales, i, n.scale), put(biases, i, n.bias);
      pack(w.format, block, to + i * packed);
    }
  });
  return affine_weight(std::move(q), std::move(scales), std::move(biases), kGroup, bits);
}

}  // namespace lmxlab::kernels
