// Products with few rows, where packing b would cost more than multiplying: b is read once, as it
// lies, whatever its type.
#include <algorithm>
#include <vector>

#include "lmxlab/kernels/one_order.h"
#include "lmxlab/kernels/panels.h"
#include "lmxlab/kernels/thread_pool.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lmxlab/kernels/gemm_small.cpp"
#include <hwy/foreach_target.h>
// Highway's headers come after foreach_target.h.
#include <hwy/highway.h>

#include "lmxlab/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lmxlab::kernels::panels::HWY_NAMESPACE {
using namespace kernels::HWY_NAMESPACE;  // NOLINT

// out[r * out_row + j] = <x row r, line j> for R rows of x and J lines of b, adjacent along k.
template <int R, int J, class T>
HWY_INLINE void dots(const float* x, const T* b, int64_t stride, int64_t k, float* out,
                     int64_t out_row) {
  const DF d;
  const auto n = lanes();
  VF sums[R][J];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) {
#pragma GCC unroll 8
    for (int j = 0; j < J; j++) sums[r][j] = hn::Zero(d);
  }
  const auto step = [&](int64_t p, auto read) {
    VF lines[J];
#pragma GCC unroll 8
    for (int j = 0; j < J; j++) lines[j] = read(b + j * stride + p);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const VF v = read(x + r * k + p);
#pragma GCC unroll 8
      for (int j = 0; j < J; j++) sums[r][j] = hn::MulAdd(v, lines[j], sums[r][j]);
    }
  };
  int64_t p = 0;
  for (; p + n <= k; p += n) step(p, [&](const auto* at) { return load(d, at); });
  if (p < k) step(p, [&](const auto* at) { return load_n(d, at, k - p); });
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) {
#pragma GCC unroll 8
    for (int j = 0; j < J; j++) out[r * out_row + j] = sum_of(d, sums[r][j]);
  }
}

// Columns [0, n) of x b; b's elements adjacent along k.
template <int R, class T>
void along(const float* x, const T* b, int64_t stride, int64_t k, int64_t n, float* out,
           int64_t out_row) {
  int64_t j = 0;
  for (; j + 4 <= n; j += 4) dots<R, 4>(x, b + j * stride, stride, k, out + j, out_row);
  for (; j < n; j++) dots<R, 1>(x, b + j * stride, stride, k, out + j, out_row);
}

// The same with b's elements adjacent along n: a block of columns stays in registers.
template <int R, class T>
void across(const float* x, const T* b, int64_t stride, int64_t k, int64_t n, float* out,
            int64_t out_row) {
  const DF d;
  const auto step = lanes();
  constexpr int J = R == 1 ? 8 : 4;
  const auto block = [&]<int C>(int64_t j, auto read, auto write) {
    VF sums[R][C];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
#pragma GCC unroll 8
      for (int c = 0; c < C; c++) sums[r][c] = hn::Zero(d);
    }
    for (int64_t p = 0; p < k; p++) {
#pragma GCC unroll 8
      for (int c = 0; c < C; c++) {
        const VF line = read(b + p * stride + j + c * step);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
          sums[r][c] = hn::MulAdd(hn::Set(d, x[r * k + p]), line, sums[r][c]);
        }
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
#pragma GCC unroll 8
      for (int c = 0; c < C; c++) write(sums[r][c], out + r * out_row + j + c * step);
    }
  };
  const auto whole = [&](const T* at) { return load(d, at); };
  const auto put = [&](VF v, float* at) { hn::StoreU(v, d, at); };
  int64_t j = 0;
  for (; j + J * step <= n; j += J * step) block.template operator()<J>(j, whole, put);
  for (; j + step <= n; j += step) block.template operator()<1>(j, whole, put);
  if (j < n) {
    block.template operator()<1>(
        j, [&](const T* at) { return load_n(d, at, n - j); },
        [&](VF v, float* at) { store_n(v, d, at, n - j); });
  }
}

template <class T>
void rows(const float* x, int64_t m, const T* b, int64_t row, int64_t column, int64_t k, int64_t n,
          float* out, int64_t out_row) {
  const auto part = [&]<int R>() {
    if (row == 1) {
      along<R>(x, b, column, k, n, out, out_row);
    } else {
      across<R>(x, b, row, k, n, out, out_row);
    }
    x += R * k, out += R * out_row, m -= R;
  };
  while (m >= 4) part.template operator()<4>();
  if (m >= 2) part.template operator()<2>();
  if (m >= 1) part.template operator()<1>();
}

void few_rows(const float* x, int64_t m, MatrixView b, int64_t k, int64_t n, float* out,
              int64_t out_row) {
  with_type(b.type, [&](auto t) {
    rows(x, m, static_cast<const decltype(t)*>(b.data), b.row, b.column, k, n, out, out_row);
  });
}

void widen_rows(MatrixView a, int64_t m, int64_t k, float* to) {
  const DF d;
  const auto n = lanes();
  with_type(a.type, [&](auto t) {
    const auto* const from = static_cast<const decltype(t)*>(a.data);
    for (int64_t i = 0; i < m; i++) {
      int64_t p = 0;
      if (a.column == 1) {
        for (; p + n <= k; p += n) store(load(d, from + i * a.row + p), d, to + i * k + p);
      }
      for (; p < k; p++) {
        store_n(load_n(d, from + i * a.row + p * a.column, 1), d, to + i * k + p, 1);
      }
    }
  });
}

}  // namespace lmxlab::kernels::panels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lmxlab::kernels::panels {
namespace {

HWY_EXPORT(few_rows);
HWY_EXPORT(widen_rows);

}  // namespace

bool is_small(int64_t m, int64_t k, MatrixView b) {
  return m <= 8 && !one_order() && k <= (1 << 16) && (b.row == 1 || b.column == 1);
}

void gemm_small(int64_t m, int64_t n, int64_t k, MatrixView a, MatrixView b, MatrixOut c,
                bool add) {
  std::vector<float> copy;
  const float* x = static_cast<const float*>(a.data);
  if (a.type != Type::f32 || a.column != 1 || (a.row != k && m > 1)) {
    copy.resize(static_cast<size_t>(m * k));
    HWY_DYNAMIC_DISPATCH(widen_rows)(a, m, k, copy.data());
    x = copy.data();
  }
  constexpr int64_t kBlock = 64;  // columns of a task, whose sums wait in float32
  const int64_t grain = std::max<int64_t>(1, (1 << 16) / std::max<int64_t>(1, k * kBlock));
  parallel_for((n + kBlock - 1) / kBlock, grain, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++) {
      const int64_t j = i * kBlock, columns = std::min(kBlock, n - j);
      if (c.type == Type::f32 && !add) {
        float* const out = static_cast<float*>(at(c, 0, j).data);
        HWY_DYNAMIC_DISPATCH(few_rows)(x, m, at(b, 0, j), k, columns, out, c.ld);
      } else {
        float sums[8 * kBlock];
        HWY_DYNAMIC_DISPATCH(few_rows)(x, m, at(b, 0, j), k, columns, sums, kBlock);
        write_tile(sums, kBlock, m, columns, at(c, 0, j), add);
      }
    }
  });
}

}  // namespace lmxlab::kernels::panels
#endif
