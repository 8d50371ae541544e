// Bytes of the legacy types: quants.py of the Python package gguf, which has ggml's own results.
#include "lmxlab/kernels/quantize_blocks.h"

#include <mlx/allocator.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>
#include <mlx/types/half_types.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "lmxlab/base/error.h"
#include "lmxlab/kernels/e2m1.h"
#include "lmxlab/kernels/quantize_k_blocks.h"
#include "lmxlab/kernels/thread_pool.h"

namespace lmxlab::kernels {
namespace {

namespace mx = mlx::core;

void put_half(uint8_t* p, float v) {
  const mx::float16_t h(v);
  std::memcpy(p, &h, 2);
}

// The first number of the largest size.
float largest(const float* x, int n) {
  float out = x[0];
  for (int i = 1; i < n; i++)
    if (std::abs(x[i]) > std::abs(out)) out = x[i];
  return out;
}
float reciprocal(float d) {
  return d == 0 ? 0 : 1 / d;
}
// Half away from zero.
float rounded(float v) {
  return std::copysign(std::floor(std::abs(v) + 0.5f), v);
}

// 32 numbers below 2^kBits: byte j holds the low four bits of j and j + 16; fifth bits are a word.
template <int kBits>
void pack(const int* q, uint8_t* fifth, uint8_t* low) {
  for (int j = 0; j < 16; j++) low[j] = static_cast<uint8_t>((q[j] & 15) | (q[j + 16] & 15) << 4);
  if (kBits < 5) return;
  std::fill_n(fifth, 4, uint8_t{0});
  for (int k = 0; k < 32; k++) fifth[k / 8] = uint8_t(fifth[k / 8] | (q[k] >> 4) << k % 8);
}

template <int kBits>
void symmetric(const float* x, uint8_t* to) {
  constexpr int kZero = 1 << (kBits - 1), kLast = 2 * kZero - 1;
  const float d = largest(x, 32) / -kZero, inverse = reciprocal(d);
  int q[32];
  for (int k = 0; k < 32; k++)
    q[k] = std::clamp(static_cast<int>(x[k] * inverse + (kZero + 0.5f)), 0, kLast);
  put_half(to, d);
  pack<kBits>(q, to + 2, to + (kBits < 5 ? 2 : 6));
}

template <int kBits>
void from_least(const float* x, uint8_t* to) {
  constexpr int kLast = (1 << kBits) - 1;
  const auto [least, most] = std::minmax_element(x, x + 32);
  const float d = (*most - *least) / kLast, inverse = reciprocal(d);
  int q[32];
  for (int k = 0; k < 32; k++)
    q[k] = std::clamp(static_cast<int>((x[k] - *least) * inverse + 0.5f), 0, kLast);
  put_half(to, d), put_half(to + 2, *least);
  pack<kBits>(q, to + 4, to + (kBits < 5 ? 4 : 8));
}

void q8_0(const float* x, uint8_t* to) {
  const float d = std::abs(largest(x, 32)) / 127, inverse = reciprocal(d);
  put_half(to, d);
  for (int k = 0; k < 32; k++)
    to[2 + k] = static_cast<uint8_t>(static_cast<int>(rounded(x[k] * inverse)));
}

// A power of two a block, and the nearest of 16 small floats each; the lower index of two as near.
void mxfp4(const float* x, uint8_t* to) {
  const float most = std::abs(largest(x, 32));
  const int e = most > 0 ? std::clamp(std::ilogb(most) - 2 + 127, 0, 254) : 0;
  const float half_scale = std::ldexp(1.0f, e - 128);
  int q[32];
  for (int k = 0; k < 32; k++) {
    float least = INFINITY;
    for (int i = 0; i < 16; i++) {
      const float off = std::abs(half_scale * static_cast<float>(kE2m1Twice[i]) - x[k]);
      if (off < least) least = off, q[k] = i;
    }
  }
  to[0] = static_cast<uint8_t>(e);
  pack<4>(q, nullptr, to + 1);
}

// -1, 0 or 1 times the largest size, as 0, 1, 2.
void ternary(const float* x, int* q, uint8_t* scale) {
  const float d = std::abs(largest(x, 256)), inverse = reciprocal(d);
  for (int k = 0; k < 256; k++) q[k] = static_cast<int>(rounded(x[k] * inverse)) + 1;
  put_half(scale, d);
}
void tq2_0(const float* x, uint8_t* to) {
  int q[256];
  ternary(x, q, to + 64);
  for (int j = 0; j < 64; j++) {
    const int* from = q + j / 32 * 128 + j % 32;
    to[j] = static_cast<uint8_t>(from[0] | from[32] << 2 | from[64] << 4 | from[96] << 6);
  }
}
// Five to a byte as a number of base three, spread over 256 so that a product gives a digit back.
void tq1_0(const float* x, uint8_t* to) {
  int q[256];
  ternary(x, q, to + 52);
  const auto spread = [&](int first, int step, int digits) {
    int n = 0;
    for (int i = 0; i < 5; i++) n = 3 * n + (i < digits ? q[first + i * step] : 0);
    return static_cast<uint8_t>((n * 256 + 242) / 243);
  };
  for (int j = 0; j < 32; j++) to[j] = spread(j, 32, 5);
  for (int j = 0; j < 16; j++) to[32 + j] = spread(160 + j, 16, 5);
  for (int j = 0; j < 4; j++) to[48 + j] = spread(240 + j, 4, 4);
}

struct Maker {
  uint32_t type;
  BlockSize size;
  void (*make)(const float*, uint8_t*);
};
constexpr Maker kMakers[] = {
    {2, {32, 18}, symmetric<4>},  {3, {32, 20}, from_least<4>}, {6, {32, 22}, symmetric<5>},
    {7, {32, 24}, from_least<5>}, {8, {32, 34}, q8_0},          {10, {256, 84}, make_q2_k},
    {11, {256, 110}, make_q3_k},  {12, {256, 144}, make_q4_k},  {13, {256, 176}, make_q5_k},
    {14, {256, 210}, make_q6_k},  {34, {256, 54}, tq1_0},       {35, {256, 66}, tq2_0},
    {39, {32, 17}, mxfp4},
};
const Maker* find(uint32_t type) {
  for (const auto& m : kMakers)
    if (m.type == type) return &m;
  return nullptr;
}

}  // namespace

BlockSize quantizable_blocks(uint32_t ggml_type) {
  const auto* m = find(ggml_type);
  return m ? m->size : BlockSize{};
}

mx::array quantize_blocks(uint32_t ggml_type, const mx::array& weights) {
  const auto* m = find(ggml_type);
  if (!m)
    throw Error(Kind::usage, "[quantize] blocks of ggml's type " + std::to_string(ggml_type) +
                                 " cannot be made");
  const int width = weights.ndim() == 0 ? 0 : weights.shape(-1);
  if (width == 0 || width % m->size.weights != 0)
    throw Error(Kind::usage, "[quantize] expected rows of whole blocks of " +
                                 std::to_string(m->size.weights) + " weights, got " +
                                 std::to_string(width));
  auto x = mx::contiguous(mx::astype(weights, mx::float32));
  mx::eval(x);
  auto shape = x.shape();
  shape.back() = width / m->size.weights * m->size.bytes;
  const auto blocks = static_cast<int64_t>(x.size()) / m->size.weights;
  mx::array out(mx::allocator::malloc(static_cast<size_t>(blocks * m->size.bytes)), shape,
                mx::uint8);
  const float* const from = x.data<float>();
  uint8_t* const to = out.data<uint8_t>();
  constexpr float kMost = 65504;  // of float16, which scales and minima are
  parallel_for(blocks, 64, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; b++) {
      const float* const block = from + b * m->size.weights;
      for (int k = 0; k < m->size.weights; k++)
        if (!(std::abs(block[k]) <= kMost))
          throw Error(Kind::bad_data, "[quantize] expected weights between -65504 and 65504, got " +
                                          std::to_string(block[k]) + " at row " +
                                          std::to_string((b * m->size.weights + k) / width));
      m->make(block, to + b * m->size.bytes);
    }
  });
  return out;
}

}  // namespace lmxlab::kernels
