// Activations on their way to integers, and products with those that stay float32.
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <type_traits>

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

// Vectors of `m` interleaved sequences, one element of each behind another.
template <int m, class D>
HWY_INLINE void load_apart(D d, const int32_t* from, hn::Vec<D> (&to)[m]) {
  if constexpr (m == 1) {
    to[0] = hn::LoadU(d, from);
#if HWY_TARGET == HWY_SCALAR
  } else {
    for (int j = 0; j < m; j++) to[j] = hn::Set(d, from[j]);
#else
  } else if constexpr (m == 2) {
    hn::LoadInterleaved2(d, from, to[0], to[1]);
  } else {
    hn::LoadInterleaved4(d, from, to[0], to[1], to[2], to[3]);
#endif
  }
}

// The integers of a group as bytes: pieces of 16 in their order, those of one index modulo m
// before the next.
template <int m, bool split>
HWY_INLINE void lay_out_bytes(const int32_t* v, int size, const Order& order, int8_t* to) {
  const hn::CappedTag<int32_t, m == 4 ? 8 : 16> d;  // a block of 32 holds m vectors
  const hn::Rebind<int8_t, decltype(d)> d8;
  const int n = static_cast<int>(hn::Lanes(d)), each = size / m;
  for (int i = 0; i < each; i += n) {
    const int from = m == 1 ? 16 * order.piece[i / 16] + i % 16 : m * i;
    hn::Vec<decltype(d)> some[m];
    load_apart<m>(d, v + from, some);
    for (int j = 0; j < m; j++) {
      int8_t* const at = to + j * each + i;
      if constexpr (split) {
        const auto high = hn::ShiftRight<8>(hn::Add(some[j], hn::Set(d, 128)));
        hn::StoreU(hn::DemoteTo(d8, high), d8, at);
        hn::StoreU(hn::DemoteTo(d8, hn::Sub(some[j], hn::ShiftLeft<8>(high))), d8, at + size);
      } else {
        hn::StoreU(hn::DemoteTo(d8, some[j]), d8, at);
      }
    }
  }
}

// As words, in the order in which their kernels unpack weights.
template <int m>
HWY_INLINE void lay_out_words(const int32_t* v, int size, int8_t* to) {
  int16_t ordered[kGroup];
  for (int j = 0; j < m; j++) {
    for (int i = 0; i < size / m; i++) {
      ordered[j * (size / m) + i] = static_cast<int16_t>(v[i * m + j]);
    }
  }
  for (int i = 0; i < size; i += 32, to += 64) {
    std::memcpy(to, ordered + i, 16);
    std::memcpy(to + 16, ordered + i + 16, 16);
    std::memcpy(to + 32, ordered + i + 8, 16);
    std::memcpy(to + 48, ordered + i + 24, 16);
  }
}

// The integers of a group into its cells.
HWY_INLINE void lay_out(const int32_t* v, const Layout& layout, int8_t* to) {
  const int size = layout.group * static_cast<int>(kBlock);
  const auto in_order = [&](auto modulo) {
    switch (layout.cells) {
      case Cells::int16: return lay_out_words<modulo>(v, size, to);
      case Cells::int8: return lay_out_bytes<modulo, false>(v, size, layout.order, to);
      default: return lay_out_bytes<modulo, true>(v, size, layout.order, to);
    }
  };
  switch (layout.order.modulo) {
    case 1: return in_order(std::integral_constant<int, 1>());
    case 2: return in_order(std::integral_constant<int, 2>());
    default: return in_order(std::integral_constant<int, 4>());
  }
}

// One block to integers of magnitude up to `most`.
HWY_INLINE void quantize_block(const float* v, int step, float most, int32_t* q, float* scale,
                               float* sum) {
  const DF d;
  const DI di;
  const float size = largest(v);
  if (std::isnan(size)) {  // the product is to be NaN, whatever the integers
    std::fill_n(q, kBlock, 0);
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
      hn::StoreU(whole, di, q + j);
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
    HWY_ALIGN int32_t whole[kGroup];
    for (int64_t b = 0; b < layout.group; b++, scale += steps, sum += steps) {
      if (g + b >= blocks) {
        std::fill_n(whole + b * kBlock, kBlock, 0);
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
void dot_row(const WeightRows& w, int64_t rows, int64_t blocks, const ActivationRow& x, float* out,
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

template <int step>
void dot(const WeightRows& w, int64_t rows, int64_t blocks, const DotRows& to, bool add) {
  for (int64_t i = 0; i < to.count; i++) {
    dot_row<step>(w, rows, blocks, to.x[i], to.out + i * to.ld, add);
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
