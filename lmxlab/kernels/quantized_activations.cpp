// Activations on their way to integers, and products with those that stay float32.
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>

#include "lmxlab/kernels/quantized_parts.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lmxlab/kernels/quantized_activations.cpp"
#include <hwy/foreach_target.h>
// Highway's header comes after foreach_target.h.
#include <hwy/highway.h>

#include "lmxlab/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lmxlab::kernels::HWY_NAMESPACE {
namespace {  // names are this file's own

using DI = hn::RebindToSigned<DF>;

using DU = hn::RebindToUnsigned<DF>;

constexpr int64_t kGroup = 4 * kBlock;  // at most

// The largest magnitude of a block; NaN if it holds one or an infinity. As integers the bits of
// magnitudes are in order, with those two at the end.
HWY_INLINE float largest(const float* x) {
  const DF d;
  const DU du;
  auto most = hn::Zero(du);
  for (int64_t i = 0; i < kBlock; i += lanes()) {
    most = hn::Max(most, hn::BitCast(du, hn::Abs(hn::Load(d, x + i))));
  }
  const uint32_t bits = hn::GetLane(hn::MaxOfLanes(du, most));
  float size;
  std::memcpy(&size, &bits, 4);
  return bits < 0x7f800000 ? size : NAN;
}

// Elements by their index modulo m: those of 0, those of 1, ...
template <int m>
HWY_INLINE void by_modulo(const int16_t* from, int size, int16_t* to) {
  for (int j = 0; j < m; j++) {
    for (int i = 0; i < size / m; i++) to[j * (size / m) + i] = from[i * m + j];
  }
}

// The integers of a group into its cells.
HWY_INLINE void lay_out(const int16_t* v, const Layout& layout, int8_t* to) {
  const int size = layout.group * static_cast<int>(kBlock);
  int16_t ordered[kGroup];
  if (layout.order.modulo != 1) {
    layout.order.modulo == 2 ? by_modulo<2>(v, size, ordered) : by_modulo<4>(v, size, ordered);
    v = ordered;
  }
  for (int i = 0; i < size / 16; i++) {
    const int16_t* from = v + 16 * layout.order.piece[i];
    if (layout.cells == Cells::int16) {
      std::memcpy(to + 64 * (i / 2) + 16 * (i % 2), from, 16);
      std::memcpy(to + 64 * (i / 2) + 32 + 16 * (i % 2), from + 8, 16);
    } else if (layout.cells == Cells::int8) {
      for (int j = 0; j < 16; j++) to[16 * i + j] = static_cast<int8_t>(from[j]);
    } else {
      for (int j = 0; j < 16; j++) {
        const auto high = static_cast<int16_t>((from[j] + 128) >> 8);
        to[16 * i + j] = static_cast<int8_t>(high);
        to[size + 16 * i + j] = static_cast<int8_t>(from[j] - high * 256);
      }
    }
  }
}

// One block to integers of magnitude up to `most`.
HWY_INLINE void quantize_block(const float* v, int step, float most, int16_t* q, float* scale,
                               float* sum) {
  const DF d;
  const DI di;
  const hn::Rebind<int16_t, DI> d16;
  const float size = largest(v);
  if (std::isnan(size)) {  // the product is to be NaN, whatever the integers
    std::fill_n(q, kBlock, int16_t{0});
    std::fill_n(scale, kBlock / step, size);
    std::fill_n(sum, kBlock / step, size);
    return;
  }
  // Below this the quotient would overflow; such a block counts as zeros.
  const float unit = size < 1e-33f ? 0 : size / most, inverse = size < 1e-33f ? 0 : most / size;
  for (int i = 0; i < kBlock / step; i++) {
    auto s = hn::Zero(di);
    for (int64_t j = i * step; j < (i + 1) * step; j += lanes()) {
      const auto whole = hn::NearestInt(hn::Mul(hn::Set(d, inverse), hn::Load(d, v + j)));
      hn::StoreU(hn::DemoteTo(d16, whole), d16, q + j);
      s = hn::Add(s, whole);
    }
    scale[i] = unit;
    sum[i] = unit * static_cast<float>(hn::GetLane(hn::SumOfLanes(di, s)));
  }
}

HWY_INLINE void copy_block(const float* v, int step, int8_t* q, float* scale, float* sum) {
  const DF d;
  std::memcpy(q, v, kBlock * sizeof(float));
  for (int i = 0; i < kBlock / step; i++) {
    VF s = hn::Zero(d);
    for (int64_t j = 0; j < step; j += lanes()) s = hn::Add(s, hn::Load(d, v + i * step + j));
    scale[i] = 1;
    sum[i] = sum_of(d, s);
  }
}

template <class T>
void quantize(const T* x, int64_t blocks, int step, const Layout& layout, int8_t* q, float* scale,
              float* sum) {
  const DF d;
  const float most = layout.cells == Cells::int8 ? 127 : 127 * 256;
  const int64_t steps = kBlock / step;
  for (int64_t g = 0; g < blocks; g += layout.group) {
    HWY_ALIGN int16_t whole[kGroup];
    for (int64_t b = 0; b < layout.group; b++, scale += steps, sum += steps) {
      if (g + b >= blocks) {
        std::memset(whole + b * kBlock, 0, 2 * kBlock);
        std::fill_n(scale, steps, 0.0f);
        std::fill_n(sum, steps, 0.0f);
        continue;
      }
      HWY_ALIGN float v[kBlock];
      for (int64_t i = 0; i < kBlock; i += lanes()) store(load(d, x + i), d, v + i);
      x += kBlock;
      if (layout.cells == Cells::float32) {
        copy_block(v, step, q, scale, sum);
      } else {
        quantize_block(v, step, most, whole + b * kBlock, scale, sum);
      }
    }
    if (layout.cells != Cells::float32) lay_out(whole, layout, q);
    q += layout.group * layout.block_bytes();
  }
}

void quantize_any(Type type, const void* x, int64_t blocks, int step, const Layout& layout,
                  int8_t* q, float* scale, float* sum) {
  with_type(type, [&](auto tag) {
    quantize(static_cast<const decltype(tag)*>(x), blocks, step, layout, q, scale, sum);
  });
}

void numbers_of(const Unpacked& w, int64_t blocks, int step, Type type, void* to) {
  with_type(type, [&](auto tag) {
    const DF d;
    const hn::Rebind<int8_t, DF> d8;
    auto* y = static_cast<decltype(tag)*>(to);
    for (int64_t s = 0; s < blocks * kBlock / step; s++) {
      const VF scale = hn::Set(d, w.scale[s]), offset = hn::Set(d, w.offset[s]);
      for (int64_t i = s * step; i < (s + 1) * step; i += lanes()) {
        const VF q = hn::ConvertTo(d, hn::PromoteTo(DI(), hn::LoadU(d8, w.q + i)));
        store(hn::MulAdd(q, scale, offset), d, y + i);
      }
    }
  });
}

template <int step>
void dot(const WeightRows& w, int64_t rows, int64_t blocks, const ActivationRow& x, float* out,
         bool add) {
  const DF d;
  const hn::Rebind<int8_t, DF> d8;
  const int64_t steps = blocks * kBlock / step;
  const auto* v = reinterpret_cast<const float*>(x.q);
  for (int64_t r = 0; r < rows; r++) {
    const auto* q = reinterpret_cast<const int8_t*>(w.q + r * w.stride);
    const float *scale = w.scale + r * steps, *offset = w.offset + r * steps;
    VF sum = hn::Zero(d);
    float offsets = 0;
    for (int64_t s = 0; s < steps; s++) {
      VF part = hn::Zero(d);
      for (int64_t i = s * step; i < (s + 1) * step; i += lanes()) {
        const VF weights = hn::ConvertTo(d, hn::PromoteTo(DI(), hn::LoadU(d8, q + i)));
        part = hn::MulAdd(weights, load(d, v + i), part);
      }
      sum = hn::MulAdd(hn::Set(d, scale[s]), part, sum);
      offsets += offset[s] * x.sum[s];
    }
    out[r] = (add ? out[r] : 0) + (sum_of(d, sum) + offsets);
  }
}

Dot find_float_dot(int step) {
  return step == 16 ? dot<16> : dot<32>;
}

}  // namespace
}  // namespace lmxlab::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lmxlab::kernels {

HWY_EXPORT(quantize_any);
HWY_EXPORT(numbers_of);
HWY_EXPORT(find_float_dot);

void quantize_blocks(Type type, const void* x, int64_t blocks, int step, const Layout& layout,
                     int8_t* q, float* scale, float* sum) {
  HWY_DYNAMIC_DISPATCH(quantize_any)(type, x, blocks, step, layout, q, scale, sum);
}

void to_numbers(const Unpacked& w, int64_t blocks, int step, Type type, void* to) {
  HWY_DYNAMIC_DISPATCH(numbers_of)(w, blocks, step, type, to);
}

Dot float_dot(int step) {
  return HWY_DYNAMIC_DISPATCH(find_float_dot)(step);
}

}  // namespace lmxlab::kernels
#endif
