// Panels of bfloat16 on x86, with float32 sums: AMX tiles, or the dot products of AVX-512.
//
// Both read one layout. A strip of 32 rows of a is a row of pairs of tiles, one pair for 32 of k: a
// tile has 16 rows of 32 elements. A strip of 32 columns of b likewise, where row p of a tile holds
// elements 2p and 2p + 1 of k side by side for each of 16 columns.
//
// Highway 1.0.3 knows neither instruction: these functions are intrinsics.
#include "lmxlab/kernels/panels.h"

#include "lmxlab/kernels/isa.h"

#include <algorithm>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace lmxlab::kernels::panels {

#if defined(__x86_64__)

#define LMXLAB_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,f16c")))
#define LMXLAB_AVX512_INLINE LMXLAB_AVX512 __attribute__((always_inline)) inline

namespace {

constexpr int64_t kRows = 16;             // of a tile
constexpr int64_t kDeep = 32;             // elements of k in a tile
constexpr int64_t kTile = kRows * kDeep;  // elements
constexpr int64_t kStrip = 2 * kRows;     // rows of a strip of a, columns of a strip of b

LMXLAB_AVX512_INLINE __mmask16 first16(int64_t n) {
  return static_cast<__mmask16>(n >= 16 ? 0xffffu : n <= 0 ? 0u : (1u << n) - 1);
}

// The first n <= 32 of adjacent elements as bfloat16, then zeros.
template <class T>
LMXLAB_AVX512_INLINE __m512i line(const T* p, int64_t n) {
  if constexpr (std::is_same_v<T, Bf16>) {
    const auto mask = static_cast<__mmask32>(n >= 32 ? 0xffffffffu : (1u << n) - 1);
    return _mm512_maskz_loadu_epi16(mask, p);
  } else if constexpr (std::is_same_v<T, F16>) {
    const auto low = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first16(n), p));
    const auto high = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first16(n - 16), p + 16));
    return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
  } else {
    const auto low = _mm512_maskz_loadu_ps(first16(n), p);
    const auto high = _mm512_maskz_loadu_ps(first16(n - 16), p + 16);
    return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
  }
}

// 16 x 16 words of 32 bits.
LMXLAB_AVX512_INLINE void transpose(__m512i* r) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; i++) {
    for (int j = 0; j < 2; j++) {
      const __m512i a = r[8 * j + i], b = r[8 * j + 4 + i];
      t[8 * j + i] = _mm512_shuffle_i32x4(a, b, 0x88);
      t[8 * j + 4 + i] = _mm512_shuffle_i32x4(a, b, 0xdd);
    }
  }
  for (int i = 0; i < 8; i++) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0x88);
    r[8 + i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0xdd);
  }
}

// Lines of k: 16 of them make a tile of rows, which transposed is a tile of pairs.
template <class T, bool kTransposed>
LMXLAB_AVX512 void pack_along(const T* from, int64_t stride, int64_t count, int64_t k,
                              uint16_t* to) {
  for (int64_t i = 0; i < count; i += kStrip) {
    for (int64_t p = 0; p < k; p += kDeep) {
      for (int64_t half = 0; half < 2; half++, to += kTile) {
        const int64_t have = std::clamp<int64_t>(count - i - half * kRows, 0, kRows);
        const T* const at = from + (i + half * kRows) * stride + p;
        __m512i rows[kRows];
        for (int64_t r = 0; r < kRows; r++) {
          rows[r] = r < have ? line(at + r * stride, k - p) : _mm512_setzero_si512();
        }
        if constexpr (kTransposed) transpose(rows);
        for (int64_t r = 0; r < kRows; r++) _mm512_store_si512(to + r * kDeep, rows[r]);
      }
    }
  }
}

// Lines across k: two of them interleaved are a row of pairs in each tile of a strip of columns.
template <class T, bool kTransposed>
LMXLAB_AVX512 void pack_across(const T* from, int64_t stride, int64_t count, int64_t k,
                               uint16_t* to) {
  alignas(64) uint16_t order[2][32];
  for (int i = 0; i < 16; i++) {
    for (int half = 0; half < 2; half++) {
      order[half][2 * i] = static_cast<uint16_t>(16 * half + i);
      order[half][2 * i + 1] = static_cast<uint16_t>(32 + 16 * half + i);
    }
  }
  const __m512i low = _mm512_load_si512(order[0]), high = _mm512_load_si512(order[1]);
  for (int64_t i = 0; i < count; i += kStrip) {
    const int64_t have = std::min(kStrip, count - i);
    for (int64_t p = 0; p < k; p += kDeep, to += 2 * kTile) {
      __m512i pairs[2][kRows];
      for (int64_t r = 0; r < kRows; r++) {
        const int64_t first = p + 2 * r;
        const T* const at = from + first * stride + i;
        const __m512i a = first < k ? line(at, have) : _mm512_setzero_si512();
        const __m512i b = first + 1 < k ? line(at + stride, have) : _mm512_setzero_si512();
        __builtin_prefetch(at + kStrip);  // the next strip's part of these lines
        __builtin_prefetch(at + stride + kStrip);
        pairs[0][r] = _mm512_permutex2var_epi16(a, low, b);
        pairs[1][r] = _mm512_permutex2var_epi16(a, high, b);
      }
      for (int64_t half = 0; half < 2; half++) {
        if constexpr (kTransposed) transpose(pairs[half]);
        for (int64_t r = 0; r < kRows; r++) {
          _mm512_store_si512(to + half * kTile + r * kDeep, pairs[half][r]);
        }
      }
    }
  }
}

// Element (i, p) at i * outer + p * inner; kPairs: the layout of b.
template <class T, bool kPairs>
LMXLAB_AVX512 void pack(const T* from, int64_t outer, int64_t inner, int64_t count, int64_t k,
                        uint16_t* to) {
  if (inner == 1) return pack_along<T, kPairs>(from, outer, count, k, to);
  if (outer == 1) return pack_across<T, !kPairs>(from, inner, count, k, to);
  T rows[kStrip * kDeep];  // neither: through a copy of each pair of tiles
  for (int64_t i = 0; i < count; i += kStrip) {
    const int64_t have = std::min(kStrip, count - i);
    for (int64_t p = 0; p < k; p += kDeep, to += 2 * kTile) {
      const int64_t deep = std::min(kDeep, k - p);
      for (int64_t r = 0; r < have; r++) {
        for (int64_t c = 0; c < deep; c++) {
          rows[r * kDeep + c] = from[(i + r) * outer + (p + c) * inner];
        }
      }
      pack_along<T, kPairs>(rows, kDeep, have, deep, to);
    }
  }
}

template <bool kPairs>
void pack_view(MatrixView v, int64_t count, int64_t k, uint16_t* to) {
  with_type(v.type, [&](auto x) {
    using T = decltype(x);
    pack<T, kPairs>(static_cast<const T*>(v.data), v.row, v.column, count, k, to);
  });
}

void copy_corner(const float* from, int64_t m, int64_t n, float* c, int64_t ld, bool add) {
  for (int64_t i = 0; i < m; i++) {
    for (int64_t j = 0; j < n; j++) {
      c[i * ld + j] = from[i * kStrip + j] + (add ? c[i * ld + j] : 0);
    }
  }
}

// AMX: two tiles of a, two of b, four of sums.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes_of_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

#define LMXLAB_AMX __attribute__((target("amx-tile,amx-bf16")))

}  // namespace

LMXLAB_AMX void configure_tiles() {
  thread_local bool done = false;  // tile registers belong to a thread
  if (!done) {
    static const TileConfig config;
    _tile_loadconfig(&config);
    done = true;
  }
}

namespace {

// Where the tiles of a strip of a lie, in elements: from a row to the next, from a tile to the next
// along k, from the upper tile to the lower one.
struct Layout {
  int64_t row, step, lower;
};
constexpr Layout kPacked{kDeep, 2 * kTile, kTile};

LMXLAB_AMX void tiles(const uint16_t* a, const Layout& at, const uint16_t* b, int64_t pairs,
                      bool both, float* c, int64_t ld, bool add) {
  const auto a_stride = static_cast<size_t>(at.row) * 2;
  const auto stride = static_cast<size_t>(ld) * 4;
  float* const below = c + kRows * ld;
  if (add) {
    _tile_loadd(0, c, stride);
    _tile_loadd(1, c + kRows, stride);
    if (both) {
      _tile_loadd(2, below, stride);
      _tile_loadd(3, below + kRows, stride);
    }
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t p = 0; p < pairs; p++, a += at.step, b += 2 * kTile) {
    _tile_loadd(6, b, 64);
    _tile_loadd(7, b + kTile, 64);
    _tile_loadd(4, a, a_stride);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    if (both) {
      _tile_loadd(5, a + at.lower, a_stride);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, c, stride);
  _tile_stored(1, c + kRows, stride);
  if (both) {
    _tile_stored(2, below, stride);
    _tile_stored(3, below + kRows, stride);
  }
}

// AVX-512: R rows with a strip of b.
template <int R>
LMXLAB_AVX512_INLINE void dots(const uint16_t* a, const uint16_t* b, int64_t pairs, float* c,
                               int64_t ld, bool add) {
  __m512 sums[R][2];
#pragma GCC unroll 16
  for (int i = 0; i < R; i++) {
    sums[i][0] = add ? _mm512_loadu_ps(c + i * ld) : _mm512_setzero_ps();
    sums[i][1] = add ? _mm512_loadu_ps(c + i * ld + 16) : _mm512_setzero_ps();
  }
  for (int64_t p = 0; p < pairs; p++, a += 2 * kTile, b += 2 * kTile) {
    for (int64_t r = 0; r < kRows; r++) {
      const auto b0 = reinterpret_cast<__m512bh>(_mm512_load_si512(b + r * kDeep));
      const auto b1 = reinterpret_cast<__m512bh>(_mm512_load_si512(b + kTile + r * kDeep));
#pragma GCC unroll 16
      for (int i = 0; i < R; i++) {
        int32_t word;
        std::memcpy(&word, a + i * kDeep + 2 * r, 4);
        const auto x = reinterpret_cast<__m512bh>(_mm512_set1_epi32(word));
        sums[i][0] = _mm512_dpbf16_ps(sums[i][0], x, b0);
        sums[i][1] = _mm512_dpbf16_ps(sums[i][1], x, b1);
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < R; i++) {
    _mm512_storeu_ps(c + i * ld, sums[i][0]);
    _mm512_storeu_ps(c + i * ld + 16, sums[i][1]);
  }
}

LMXLAB_AVX512 void dot_rows(const uint16_t* a, const uint16_t* b, int64_t pairs, int64_t m,
                            float* c, int64_t ld, bool add) {
  for (int64_t i = 0; i < m;) {
    // A row of the strip: in the first tile or the second.
    const uint16_t* const at = a + i / kRows * kTile + i % kRows * kDeep;
    const int64_t here = std::min(m - i, kRows - i % kRows);
    int64_t step = 8;
    if (here >= 8) {
      dots<8>(at, b, pairs, c + i * ld, ld, add);
    } else if (here >= 4) {
      dots<4>(at, b, pairs, c + i * ld, ld, add);
      step = 4;
    } else {
      dots<1>(at, b, pairs, c + i * ld, ld, add);
      step = 1;
    }
    i += step;
  }
}

}  // namespace

Format format_bf16() {
  const Isa now = isa();
  if (now != Isa::amx && now != Isa::avx512_bf16) return {true, Order::rows, 0, 0, 1};
  return {true, Order::rows, kStrip, kStrip, kDeep};
}

void pack_a_bf16(const Format&, MatrixView a, int64_t m, int64_t k, uint16_t* to) {
  pack_view<false>(a, m, k, to);
}

void pack_b_bf16(const Format&, MatrixView b, int64_t k, int64_t n, uint16_t* to) {
  pack_view<true>(b.transposed(), n, k, to);
}

namespace {

void multiply_strip(const Layout& at, const uint16_t* a, const uint16_t* b, int64_t m, int64_t n,
                    int64_t pairs, float* c, int64_t ld, bool add) {
  const bool amx = isa() == Isa::amx;
  if (amx) configure_tiles();
  for (int64_t j = 0; j < n; j += kStrip, b += pairs * 2 * kTile) {
    const int64_t columns = std::min(kStrip, n - j);
    const bool rows_fit = !amx || m == kStrip || m == kRows;
    alignas(64) float corner[kStrip * kStrip];
    const bool direct = columns == kStrip && rows_fit;
    float* const to = direct ? c + j : corner;
    const int64_t to_ld = direct ? ld : kStrip;
    if (amx) {
      tiles(a, at, b, pairs, m > kRows, to, to_ld, add && direct);
    } else {
      dot_rows(a, b, pairs, m, to, to_ld, add && direct);
    }
    if (!direct) copy_corner(corner, m, columns, c + j, ld, add);
  }
}

}  // namespace

void multiply_bf16(const Format& f, const uint16_t* a, const uint16_t* b, int64_t m, int64_t n,
                   int64_t k, float* c, int64_t ld, bool add) {
  multiply_strip(kPacked, a, b, m, n, f.padded_k(k) / kDeep, c, ld, add);
}

bool reads_rows_bf16(MatrixView a, int64_t m, int64_t k) {
  return isa() == Isa::amx && a.type == Type::bf16 && a.column == 1 && k % kDeep == 0 &&
         m % kRows == 0;
}

void multiply_rows_bf16(MatrixView a, const uint16_t* b, int64_t m, int64_t n, int64_t k, float* c,
                        int64_t ld, bool add) {
  multiply_strip({a.row, kDeep, kRows * a.row}, static_cast<const uint16_t*>(a.data), b, m, n,
                 k / kDeep, c, ld, add);
}

#else

Format format_bf16() {
  return {true, Order::rows, 0, 0, 1};
}
void pack_a_bf16(const Format&, MatrixView, int64_t, int64_t, uint16_t*) {}
void pack_b_bf16(const Format&, MatrixView, int64_t, int64_t, uint16_t*) {}
void multiply_bf16(const Format&, const uint16_t*, const uint16_t*, int64_t, int64_t, int64_t,
                   float*, int64_t, bool) {}
void configure_tiles() {}
bool reads_rows_bf16(MatrixView, int64_t, int64_t) {
  return false;
}
void multiply_rows_bf16(MatrixView, const uint16_t*, int64_t, int64_t, int64_t, float*, int64_t,
                        bool) {}

#endif

}  // namespace lmxlab::kernels::panels
