#include "lmxlab/kernels/panels.h"

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lmxlab/kernels/panels.cpp"
#include <hwy/foreach_target.h>
// Highway's headers come after foreach_target.h.
#include <hwy/highway.h>

#include "lmxlab/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lmxlab::kernels::panels::HWY_NAMESPACE {
using namespace kernels::HWY_NAMESPACE;  // NOLINT

// Accumulators of kRows x 2 vectors leave registers for two vectors of b and one broadcast.
#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86
constexpr int kRows = 14;
#elif HWY_ARCH_ARM_A64
constexpr int kRows = 12;
#else
constexpr int kRows = 6;
#endif

void shape_of_tile(int* rows, int* columns) {
  *rows = kRows;
  *columns = static_cast<int>(2 * lanes());
}

// R rows with one strip of b; kAdjacent: the elements of a row of a are adjacent.
template <int R, bool kAdjacent>
HWY_INLINE void tile(const float* HWY_RESTRICT a, int64_t stride, const float* HWY_RESTRICT b,
                     int64_t k, float* HWY_RESTRICT c, int64_t ld, bool add) {
  const DF d;
  const auto n = lanes();
  VF acc[R][2];
#pragma GCC unroll 16
  for (int i = 0; i < R; i++) {
    acc[i][0] = hn::Zero(d);
    acc[i][1] = hn::Zero(d);
  }
  // The rows of c come from far: ask for them now, to write at the end.
#pragma GCC unroll 16
  for (int i = 0; i < R; i++) {
    __builtin_prefetch(c + i * ld, 1);
    __builtin_prefetch(c + i * ld + n, 1);
  }
#pragma GCC unroll 2
  for (int64_t p = 0; p < k; p++) {
    const VF b0 = hn::LoadU(d, b), b1 = hn::LoadU(d, b + n);
    b += 2 * n;
#pragma GCC unroll 16
    for (int i = 0; i < R; i++) {
      const VF x = hn::Set(d, kAdjacent ? a[i * stride] : a[i]);
      acc[i][0] = hn::MulAdd(x, b0, acc[i][0]);
      acc[i][1] = hn::MulAdd(x, b1, acc[i][1]);
    }
    a += kAdjacent ? 1 : stride;
  }
#pragma GCC unroll 16
  for (int i = 0; i < R; i++) {
    float* const row = c + i * ld;
    if (add) {
      acc[i][0] = hn::Add(acc[i][0], hn::LoadU(d, row));
      acc[i][1] = hn::Add(acc[i][1], hn::LoadU(d, row + n));
    }
    hn::StoreU(acc[i][0], d, row);
    hn::StoreU(acc[i][1], d, row + n);
  }
}

template <bool kAdjacent>
void strip_rows(const float* a, int64_t stride, const float* b, int64_t m, int64_t k, float* c,
                int64_t ld, bool add) {
  const int64_t step = kAdjacent ? stride : 1;  // from a row of a to the next
  const auto part = [&]<int R>() {
    tile<R, kAdjacent>(a, stride, b, k, c, ld, add);
    a += R * step;
    c += R * ld;
    m -= R;
  };
  if (m == kRows) return part.template operator()<kRows>();
  if constexpr (kRows > 8) {
    if (m >= 8) part.template operator()<8>();
  }
  while (m >= 4) part.template operator()<4>();
  if (m >= 2) part.template operator()<2>();
  if (m >= 1) part.template operator()<1>();
}

void multiply_strip(const float* a, int64_t row, int64_t column, const float* b, int64_t m,
                    int64_t n, int64_t k, float* c, int64_t ld, bool add) {
  const int64_t nr = 2 * lanes();
  const auto run = [&](float* to, int64_t to_ld, bool more) {
    if (column == 1) {
      strip_rows<true>(a, row, b, m, k, to, to_ld, more);
    } else {
      strip_rows<false>(a, column, b, m, k, to, to_ld, more);
    }
  };
  for (int64_t j = 0; j < n; j += nr, b += nr * k) {
    if (j + nr <= n) {
      run(c + j, ld, add);
      continue;
    }
    HWY_ALIGN float corner[kRows * 2 * HWY_MAX_BYTES / 4];
    run(corner, nr, false);
    for (int64_t i = 0; i < m; i++) {
      for (int64_t l = j; l < n; l++) {
        float& to = c[i * ld + l];
        to = add ? to + corner[i * nr + l - j] : corner[i * nr + l - j];
      }
    }
  }
}

template <class T>
HWY_INLINE float widened(const T* p) {
  if constexpr (sizeof(T) == 4) {
    return *p;
  } else {
    return hn::GetLane(load_n(DF(), p, 1));
  }
}

// `lines` lines of `length` adjacent elements, widened, to lines of `width`, filled up with zeros.
template <class T>
HWY_INLINE void copy_lines(const T* from, int64_t stride, int64_t lines, int64_t length, float* to,
                           int64_t width) {
  const DF d;
  const auto n = lanes();
  for (int64_t i = 0; i < lines; i++, from += stride, to += width) {
    int64_t j = 0;
    for (; j + n <= length; j += n) store(load(d, from + j), d, to + j);
    if (j < length) {
      store_n(load_n(d, from + j, length - j), d, to + j, length - j);
      j = length;
    }
    if (j < width) std::fill(to + j, to + width, 0.0f);
  }
}

// to[j * width + i] = from[i * stride + j] for i < lines, j < length; zeros up to width.
template <class T>
HWY_INLINE void transpose_lines(const T* from, int64_t stride, int64_t lines, int64_t length,
                                int64_t step, float* to, int64_t width) {
  constexpr int64_t kBlock = 16;
  for (int64_t j0 = 0; j0 < length; j0 += kBlock) {
    const int64_t j1 = std::min(length, j0 + kBlock);
    if (sizeof(T) == 4 || step != 1) {
      for (int64_t j = j0; j < j1; j++) {
        float* const out = to + j * width;
        for (int64_t i = 0; i < lines; i++) out[i] = widened(from + i * stride + j * step);
        std::fill(out + lines, out + width, 0.0f);
      }
    } else {
      HWY_ALIGN float row[kBlock + HWY_MAX_BYTES];
      for (int64_t i = 0; i < lines; i++) {
        copy_lines(from + i * stride + j0, 0, 1, j1 - j0, row, j1 - j0);
        for (int64_t j = j0; j < j1; j++) to[j * width + i] = row[j - j0];
      }
      for (int64_t j = j0; j < j1; j++) {
        std::fill(to + j * width + lines, to + (j + 1) * width, 0.0f);
      }
    }
  }
}

// Strips of `width` of the first index, lines along it where `across`, else along the second one.
// Element (i, p) of the matrix is at i * outer + p * inner.
template <class T>
void pack(const T* from, int64_t outer, int64_t inner, int64_t count, int64_t k, int64_t width,
          bool across, float* to) {
  if (across && outer == 1) {  // [k][width], a line of the matrix through all strips at a time
    for (int64_t p = 0; p < k; p++) {
      for (int64_t i = 0; i < count; i += width) {
        copy_lines(from + p * inner + i, 0, 1, std::min(width, count - i), to + i * k + p * width,
                   width);
      }
    }
    return;
  }
  for (int64_t i = 0; i < count; i += width, to += width * k) {
    const int64_t have = std::min(width, count - i);
    const T* const at = from + i * outer;
    if (across) {
      transpose_lines(at, outer, have, k, inner, to, width);
      continue;
    }
    if (inner == 1) {  // [width][k]
      copy_lines(at, outer, have, k, to, k);
    } else {
      transpose_lines(at, inner, k, have, outer, to, k);
    }
    std::fill(to + have * k, to + width * k, 0.0f);
  }
}

void pack_strips(MatrixView v, int64_t count, int64_t k, int64_t width, bool across, float* to) {
  with_type(v.type, [&](auto x) {
    using T = decltype(x);
    pack(static_cast<const T*>(v.data), v.row, v.column, count, k, width, across, to);
  });
}

void write_rows(const float* acc, int64_t acc_ld, int64_t m, int64_t n, void* c, Type type,
                int64_t ld, bool add) {
  const DF d;
  const auto step = lanes();
  with_type(type, [&](auto x) {
    using T = decltype(x);
    for (int64_t i = 0; i < m; i++) {
      const float* const from = acc + i * acc_ld;
      T* const to = static_cast<T*>(c) + i * ld;
      int64_t j = 0;
      for (; j + step <= n; j += step) {
        const VF v = hn::LoadU(d, from + j);
        store(add ? hn::Add(v, load(d, to + j)) : v, d, to + j);
      }
      if (j < n) {
        const VF v = load_n(d, from + j, n - j);
        store_n(add ? hn::Add(v, load_n(d, to + j, n - j)) : v, d, to + j, n - j);
      }
    }
  });
}

}  // namespace lmxlab::kernels::panels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lmxlab::kernels::panels {
namespace {

HWY_EXPORT(shape_of_tile);
HWY_EXPORT(multiply_strip);
HWY_EXPORT(pack_strips);
HWY_EXPORT(write_rows);

}  // namespace

Format format_f32(Order order) {
  Format f{false, order, 0, 0, 1};
  HWY_DYNAMIC_DISPATCH(shape_of_tile)(&f.mr, &f.nr);
  return f;
}

void multiply_f32(const Strip& a, const float* b, int64_t m, int64_t n, int64_t k, float* c,
                  int64_t ld, bool add) {
  HWY_DYNAMIC_DISPATCH(multiply_strip)(a.data, a.row, a.column, b, m, n, k, c, ld, add);
}

void pack_a_f32(const Format& f, MatrixView a, int64_t m, int64_t k, float* to) {
  HWY_DYNAMIC_DISPATCH(pack_strips)(a, m, k, f.mr, f.order == Order::columns, to);
}

void pack_b_f32(const Format& f, MatrixView b, int64_t k, int64_t n, float* to) {
  HWY_DYNAMIC_DISPATCH(pack_strips)(b.transposed(), n, k, f.nr, true, to);
}

void write_tile(const float* acc, int64_t acc_ld, int64_t m, int64_t n, MatrixOut c, bool add) {
  HWY_DYNAMIC_DISPATCH(write_rows)(acc, acc_ld, m, n, c.data, c.type, c.ld, add);
}

}  // namespace lmxlab::kernels::panels
#endif
