#include "lmxlab/kernels/update_8bit.h"

#include <cfloat>
#include <cstring>

#include "lmxlab/kernels/op.h"
#include "lmxlab/kernels/update_parts.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lmxlab/kernels/update_8bit.cpp"
#include <hwy/foreach_target.h>
// Highway's headers come after foreach_target.h.
#include <hwy/highway.h>

#include "lmxlab/kernels/update-inl.h"

#ifndef LMXLAB_KERNELS_UPDATE_8BIT_TYPES
#define LMXLAB_KERNELS_UPDATE_8BIT_TYPES
namespace lmxlab::kernels {

constexpr float kTop = 255.0f * 255.0f * 255.0f * 255.0f;
// Multipliers of a hash of a place: all bits of the product depend on it (Knuth's, xxHash's).
constexpr uint32_t kHash1 = 0x9E3779B1u, kHash2 = 0x85EBCA77u;

// What a tiny scale is divided by would be infinite: such numbers become 0.
inline float inverse(float scale) {
  return scale >= FLT_MIN ? 1 / scale : 0;
}

}  // namespace lmxlab::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace lmxlab::kernels::HWY_NAMESPACE {

using DU = hn::RebindToUnsigned<DF>;
using DI = hn::RebindToSigned<DF>;

HWY_INLINE VF fourth_power(VF x) {
  const VF square = hn::Mul(x, x);
  return hn::Mul(square, square);
}
// The precise root is most of the pass where there is an estimate of 14 bits.
HWY_INLINE VF fourth_root(VF x) {
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
  return hn::ApproximateReciprocalSqrt(hn::ApproximateReciprocalSqrt(x));  // of 0: of infinity, 0
#else
  return hn::Sqrt(hn::Sqrt(x));
#endif
}

template <class T>
HWY_INLINE VF decode(DF d, const T* codes, VF scale) {
  const hn::Rebind<T, DF> d8;
  const VF c = hn::ConvertTo(d, hn::PromoteTo(DI(), hn::LoadU(d8, codes)));
  if constexpr (std::is_signed_v<T>) {
    const VF size = hn::Mul(fourth_power(hn::Mul(c, hn::Set(d, 1.0f / 127))), scale);
    return hn::CopySign(size, c);
  } else {
    return hn::Mul(fourth_power(hn::Mul(c, hn::Set(d, 1.0f / 255))), scale);
  }
}

// Whole numbers from -128 to 255, or the nearest ones, as bytes: the last bits of a float32 whose
// last bit is 1.
HWY_INLINE void store_bytes(DF d, VF x, void* codes) {
  const DU du;
  const auto bits = hn::BitCast(du, hn::Add(x, hn::Set(d, 0x1.8p23f)));
  const hn::Rebind<uint8_t, DF> d8;
  hn::StoreU(hn::U8FromU32(hn::And(bits, hn::Set(du, 255u))), d8, static_cast<uint8_t*>(codes));
}

HWY_INLINE void encode(DF d, VF x, VF by, hn::Vec<DU>, int8_t* codes) {
  const VF root = hn::Mul(fourth_root(hn::Mul(hn::Abs(x), by)), hn::Set(d, 127.0f));
  store_bytes(d, hn::CopySign(root, x), codes);
}

// In [0, 1). @param places  those of the elements and what the step adds to them, times kHash1
HWY_INLINE VF chance(DF d, hn::Vec<DU> places) {
  const DU du;
  auto x = hn::Mul(hn::Xor(places, hn::ShiftRight<15>(places)), hn::Set(du, kHash2));
  x = hn::ShiftRight<8>(hn::Xor(x, hn::ShiftRight<13>(x)));
  return hn::Mul(hn::ConvertTo(d, hn::BitCast(DI(), x)), hn::Set(d, 0x1p-24f));
}

HWY_INLINE void encode(DF d, VF x, VF by, hn::Vec<DU> places, uint8_t* codes) {
  const VF one = hn::Set(d, 1.0f), y = hn::Mul(hn::Mul(x, by), hn::Set(d, kTop));
  const VF low = hn::Min(hn::Floor(fourth_root(y)), hn::Set(d, 254.0f));
  const VF high = hn::Add(low, one), low4 = fourth_power(low);
  const VF gap = hn::Sub(fourth_power(high), low4);
  const auto up = hn::Lt(hn::Mul(chance(d, places), gap), hn::Sub(y, low4));
  const VF least = hn::IfThenElseZero(hn::Gt(y, hn::Zero(d)), one);
  store_bytes(d, hn::Max(hn::IfThenElse(up, high, low), least), codes);
}

// One state of one block: numbers in a buffer between the pass that updates and the one that
// encodes, when the largest is known.
template <class T>
struct Block {
  HWY_ALIGN float numbers[k8BitBlock];
  HWY_ALIGN T part[k8BitBlock];  // codes of a block that is not whole
  const T* from;
  T* to;
  float* scale_to;

  // Returns the scale.
  HWY_INLINE float start(const Tensor& t, int state, int64_t block, int64_t n) {
    from = static_cast<const T*>(t.state_from[2 * state]) + block * k8BitBlock;
    to = static_cast<T*>(t.state_to[2 * state]) + block * k8BitBlock;
    scale_to = static_cast<float*>(t.state_to[2 * state + 1]) + block;
    if (n < k8BitBlock) {
      std::memset(part, 0, sizeof(part));
      std::memcpy(part, from, static_cast<size_t>(n));
      from = part;
    }
    return static_cast<const float*>(t.state_from[2 * state + 1])[block];
  }
  HWY_INLINE void end(VF top, int64_t n, uint32_t place) {
    const DF d;
    const DU du;
    const float largest = hn::GetLane(hn::MaxOfLanes(d, top));
    const VF by = hn::Set(d, inverse(largest));
    auto places = hn::Mul(hn::Iota(du, place), hn::Set(du, kHash1));
    const auto more = hn::Set(du, static_cast<uint32_t>(lanes()) * kHash1);
    T* const codes = n < k8BitBlock ? part : to;
    for (int64_t i = 0; i < n; i += lanes()) {
      encode(d, hn::Load(d, numbers + i), by, places, codes + i);
      places = hn::Add(places, more);
    }
    if (codes != to) std::memcpy(to, codes, static_cast<size_t>(n));
    *scale_to = largest;
  }
};

template <int kStates, class F>
HWY_INLINE void blocks(const Tensor& t, const Constants& k, int64_t first, int64_t last, F f) {
  const DF d;
  const VF scale = hn::Set(d, k.scale);
  Block<int8_t> ms;
  Block<uint8_t> vs;
  for (int64_t block = first; block < last; block++) {
    const int64_t begin = block * k8BitBlock, n = HWY_MIN(k8BitBlock, t.size - begin);
    VF m_scale = hn::Zero(d), v_scale = m_scale, m_top = m_scale, v_top = m_scale;
    if (kStates > 0) m_scale = hn::Set(d, ms.start(t, 0, block, n));
    if (kStates > 1) v_scale = hn::Set(d, vs.start(t, 1, block, n));
    for (int64_t i = 0; i < n; i += lanes()) {
      const int64_t some = HWY_MIN(lanes(), n - i);
      VF p = load_as(t.type, d, t.from, begin + i, some), m = hn::Zero(d), v = hn::Zero(d);
      const VF g = hn::Mul(load_as(t.grad_type, d, t.grad, begin + i, some), scale);
      if (kStates > 0) m = decode(d, ms.from + i, m_scale);
      if (kStates > 1) v = decode(d, vs.from + i, v_scale);
      f(d, p, g, m, v);
      store_as(t.type, p, d, t.to, begin + i, some);
      if (kStates > 0) hn::Store(m, d, ms.numbers + i), m_top = hn::Max(m_top, hn::Abs(m));
      if (kStates > 1) hn::Store(v, d, vs.numbers + i), v_top = hn::Max(v_top, v);
    }
    if (kStates > 0) ms.end(m_top, n, 0);
    if (kStates > 1) vs.end(v_top, n, static_cast<uint32_t>(begin) + k.step * kHash2);
  }
}

void update_blocks(const Tensor& t, const Constants& k, int64_t first, int64_t last) {
  with_formula(k, t.decays, [&](auto states, auto formula) {
    blocks<decltype(states)::value>(t, k, first, last, formula);
  });
}

}  // namespace lmxlab::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lmxlab::kernels {
namespace {

namespace mx = mlx::core;
using mx::array;

HWY_EXPORT(update_blocks);

void run_8bit(const std::vector<Tensor>& tensors, const Constants& now) {
  over_all(tensors, k8BitBlock, 16, [&](const Tensor& t, int64_t first, int64_t last) {
    HWY_DYNAMIC_DISPATCH(update_blocks)(t, now, first, last);
  });
}
constexpr UpdateWay k8Bit{"lmxlab::Update8Bit", 2, run_8bit, plain::update_8bit};

// [blocks, 256], the last one filled up with zeros; and back to a shape.
array in_blocks(const array& x) {
  const auto n = static_cast<int>(x.size()), blocks = blocks_8bit(n);
  const auto padded = mx::pad(mx::flatten(x), {0, blocks * k8BitBlock - n});
  return mx::reshape(padded, {blocks, k8BitBlock});
}
array out_of_blocks(const array& x, const mx::Shape& shape, int size) {
  return mx::reshape(mx::slice(mx::flatten(x), {0}, {size}), shape);
}
array fourth_power(const array& x) {
  return mx::square(mx::square(x));
}

array chance(int blocks, const array& step) {
  const auto number = [](uint32_t n) { return array(n, mx::uint32); };
  auto x = mx::arange(0.0, blocks * double{k8BitBlock}, 1.0, mx::uint32);
  x = (x + mx::astype(step, mx::uint32) * number(kHash2)) * number(kHash1);
  x = mx::bitwise_xor(x, mx::right_shift(x, number(15))) * number(kHash2);
  x = mx::right_shift(mx::bitwise_xor(x, mx::right_shift(x, number(13))), number(8));
  return mx::reshape(mx::astype(x, mx::float32) * array(0x1p-24f), {blocks, k8BitBlock});
}

// Rewrites codes and scales.
void encode(const array& numbers, array& codes, array& scales, const array& step) {
  const auto x = in_blocks(numbers), zero = array(0.0f), one = array(1.0f);
  scales = mx::max(mx::abs(x), 1);
  const auto tiny = mx::less(scales, array(FLT_MIN));
  const auto by = mx::where(tiny, zero, one / mx::where(tiny, one, scales));
  const auto y = mx::abs(x) * mx::expand_dims(by, 1);
  auto c = zero;
  if (codes.dtype() == mx::int8) {
    c = mx::round(mx::sqrt(mx::sqrt(y)) * array(127.0f)) * mx::sign(x);
  } else {
    const auto high = y * array(kTop);
    const auto low = mx::minimum(mx::floor(mx::sqrt(mx::sqrt(high))), array(254.0f));
    const auto low4 = fourth_power(low), gap = fourth_power(low + one) - low4;
    const auto up = mx::less(chance(x.shape(0), step) * gap, high - low4);
    c = low + mx::astype(up, mx::float32);
    c = mx::where(mx::greater(high, zero), mx::maximum(c, one), c);
  }
  codes =
      out_of_blocks(mx::astype(c, codes.dtype()), codes.shape(), static_cast<int>(codes.size()));
}

}  // namespace

array decode_8bit(const array& codes, const array& scales) {
  const auto c = in_blocks(mx::astype(codes, mx::float32));
  const bool is_signed = codes.dtype() == mx::int8;
  const auto size = fourth_power(c * array(is_signed ? 1.0f / 127 : 1.0f / 255));
  const auto x = size * mx::expand_dims(scales, 1);
  return out_of_blocks(is_signed ? x * mx::sign(c) : x, codes.shape(),
                       static_cast<int>(codes.size()));
}

void update_8bit(const Rule& rule, Arrays& params, const Arrays& grads, Arrays& state,
                 const std::vector<bool>& decays, const StepNumbers& numbers) {
  update(k8Bit, rule, params, grads, state, decays, numbers);
}

void plain::update_8bit(const Rule& rule, Arrays& params, const Arrays& grads, Arrays& state,
                        const std::vector<bool>& decays, const StepNumbers& numbers) {
  Arrays wide;
  for (size_t i = 0; i < state.size(); i += 2) wide.push_back(decode_8bit(state[i], state[i + 1]));
  plain::update(rule, params, grads, wide, decays, numbers);
  for (size_t i = 0; i < state.size(); i += 2) {
    auto codes = state[i], scales = state[i + 1];
    encode(wide[i / 2], codes, scales, numbers.step);
    state[i] = mx::where(numbers.ok, codes, state[i]);
    state[i + 1] = mx::where(numbers.ok, scales, state[i + 1]);
  }
}

}  // namespace lmxlab::kernels
#endif
