// How attention of few queries reads rows of keys or values: vectors of float32 from plain numbers,
// or from MLX's affine format, dequantized on the way. Included after foreach_target.h, once an
// instruction set.
//
// A reader has kVectors, the vectors that it reads together; row(j), what stands for row j; and
// read<kPart>(row, at, left, x), elements [at, at + kVectors lanes) of it, or with kPart the first
// `left` of those. It may read them in an order of its own, which `arrange` brings a row of numbers
// into and `restore` takes back.

#if defined(LMXLAB_KERNELS_ATTENTION_READERS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef LMXLAB_KERNELS_ATTENTION_READERS_INL
#undef LMXLAB_KERNELS_ATTENTION_READERS_INL
#else
#define LMXLAB_KERNELS_ATTENTION_READERS_INL
#endif

#include <algorithm>

#include "lmxlab/kernels/attention-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lmxlab::kernels::HWY_NAMESPACE {

template <class T>
struct Numbers {
  static constexpr int kVectors = 1;
  const T* first;
  int64_t stride;

  HWY_INLINE const T* row(int64_t j) const { return first + j * stride; }
  template <bool kPart>
  HWY_INLINE void read(const T* row, int64_t at, int64_t left, VF* x) const {
    if constexpr (kPart) {
      x[0] = load_n(DF(), row + at, left);
    } else {
      x[0] = load(DF(), row + at);
    }
  }
  static void arrange(float*, int64_t, float*) {}
  static void restore(float*, int64_t, float*) {}
};

// Groups are multiples of 32 and so of two vectors: these share a scale, and no part is ever read.
template <int kBits>
struct Affine {
  static constexpr int kVectors = 2;
  static_assert(kVectors * HWY_MAX_BYTES / 4 <= 32 && (kBits == 8 || kBits == 4));
  const uint8_t* first;
  int64_t stride;                // bytes
  const float *scales, *biases;  // [rows, factors]
  int64_t factors;
  int shift;  // 2^shift numbers share a scale

  struct Row {
    const uint8_t* bytes;
    int64_t factor;
  };
  HWY_INLINE Row row(int64_t j) const { return {first + j * stride, j * factors}; }

  template <bool kPart>
  HWY_INLINE void read(const Row& row, int64_t at, int64_t, VF* x) const {
    const DF d;
    const hn::RebindToSigned<DF> di;
    const hn::Rebind<uint8_t, DF> d8;
    const int64_t factor = row.factor + (at >> shift);
    const VF scale = hn::Set(d, scales[factor]), bias = hn::Set(d, biases[factor]);
    const auto bytes = [&](int64_t i)
                           HWY_ATTR { return hn::PromoteTo(di, hn::LoadU(d8, row.bytes + i)); };
    auto a = bytes(at * kBits / 8), b = a;
    if constexpr (kBits == 8) {
      b = bytes(at + lanes());
    } else {
      b = hn::ShiftRight<4>(a);
      a = hn::And(a, hn::Set(di, 15));
    }
    x[0] = hn::MulAdd(hn::ConvertTo(d, a), scale, bias);
    x[1] = hn::MulAdd(hn::ConvertTo(d, b), scale, bias);
  }

  // A byte holds two neighbours: the even elements come first, then the odd ones.
  static void arrange(float* row, int64_t width, float* room) {
    if (kBits == 8) return;
    const int64_t n = lanes();
    std::copy_n(row, width, room);
    for (int64_t i = 0; i < width; i += 2 * n) {
      for (int64_t j = 0; j < n; j++) {
        row[i + j] = room[i + 2 * j];
        row[i + n + j] = room[i + 2 * j + 1];
      }
    }
  }
  static void restore(float* row, int64_t width, float* room) {
    if (kBits == 8) return;
    const int64_t n = lanes();
    std::copy_n(row, width, room);
    for (int64_t i = 0; i < width; i += 2 * n) {
      for (int64_t j = 0; j < n; j++) {
        row[i + 2 * j] = room[i + j];
        row[i + 2 * j + 1] = room[i + n + j];
      }
    }
  }
};

// Scales or biases of some rows as numbers, one row after another; where they are so already,
// those.
inline const float* factors_of(const HeadView& view, Type type, int64_t b, int64_t group,
                               int64_t first, int64_t rows, int64_t factors, float* room) {
  const void* const from = element_at(view, type, b, group, first);
  const bool adjacent = view.row == factors;
  if (type == Type::f32 && adjacent) return static_cast<const float*>(from);
  with_type(type, [&](auto x) {
    const auto* const p = static_cast<const decltype(x)*>(from);
    if (adjacent) {
      widen_rows(p, 0, 1, rows * factors, room);
    } else {
      widen_rows(p, view.row, rows, factors, room);
    }
  });
  return room;
}

// Rows that come next, fetched one by one while others are worked on: the processor's own guesses
// end with a page.
struct Ahead {
  const char* first = nullptr;
  int64_t stride = 0, bytes = 0, rows = 0;

  Ahead() = default;
  Ahead(const CacheView& view, int64_t b, int64_t group, int64_t row, int64_t count, int64_t width)
      : rows(count) {
    const int64_t element = view.bits == 0 ? size_of(view.type) : 4;
    first = byte_at(view.data, element, b, group, row);
    stride = view.data.row * element;
    bytes = view.bits == 0 ? width * element : width * view.bits / 8;
  }
  HWY_INLINE void fetch(int64_t j) const {
    if (j < rows) prefetch_row(first + j * stride, bytes);
  }
};

// f(a reader of `rows` rows from `first` on). Room for two factors of every 32 numbers of a row.
template <class F>
void with_reader(const CacheView& view, int64_t b, int64_t group, int64_t first, int64_t rows,
                 int64_t width, float* room, F f) {
  if (view.bits == 0) {
    return with_type(view.type, [&](auto x) {
      using T = decltype(x);
      f(Numbers<T>{static_cast<const T*>(element_at(view.data, view.type, b, group, first)),
                   view.data.row});
    });
  }
  const auto* const bytes =
      reinterpret_cast<const uint8_t*>(byte_at(view.data, sizeof(uint32_t), b, group, first));
  const int64_t stride = view.data.row * static_cast<int64_t>(sizeof(uint32_t));
  const int64_t factors = width / view.group;
  const int shift = view.group == 32 ? 5 : view.group == 64 ? 6 : 7;
  const auto of = [&](const HeadView& some, float* to) {
    return factors_of(some, view.type, b, group, first, rows, factors, to);
  };
  const float* const scales = of(view.scales, room);
  const float* const biases = of(view.biases, room + rows * factors);
  if (view.bits == 8) {
    f(Affine<8>{bytes, stride, scales, biases, factors, shift});
  } else {
    f(Affine<4>{bytes, stride, scales, biases, factors, shift});
  }
}

}  // namespace lmxlab::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
