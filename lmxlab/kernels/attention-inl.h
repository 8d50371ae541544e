// What attention in blocks does with one strip: nr = two vectors of queries across, keys or
// elements of a head downwards. Included after foreach_target.h, once an instruction set.

#if defined(LMXLAB_KERNELS_ATTENTION_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef LMXLAB_KERNELS_ATTENTION_INL
#undef LMXLAB_KERNELS_ATTENTION_INL
#else
#define LMXLAB_KERNELS_ATTENTION_INL
#endif

#include <cstring>
#include <limits>

#include "lmxlab/kernels/attention_parts.h"
#include "lmxlab/kernels/math-inl.h"
#include "lmxlab/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lmxlab::kernels::HWY_NAMESPACE {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLog2E = 1.44269504088896341f, kLn2 = 0.693147180559945309f;

// The factor from scores, once they are ready, to exponents of 2.
inline float to_exponent(const AttentionShape& s) {
  return s.cap > 0 || s.scale <= 0 ? kLog2E : s.scale * kLog2E;
}

// Applies the soft cap, and a scale that would turn a maximum into a minimum.
inline void make_ready(const AttentionShape& s, float* scores, int64_t count) {
  if (s.cap <= 0 && s.scale > 0) return;
  const DF d;
  const VF scale = hn::Set(d, s.cap > 0 ? s.scale / s.cap : s.scale), cap = hn::Set(d, s.cap);
  for (int64_t i = 0; i < count; i += lanes()) {
    VF x = hn::Mul(hn::LoadU(d, scores + i), scale);
    if (s.cap > 0) x = hn::Mul(fast_tanh(d, x), cap);
    hn::StoreU(x, d, scores + i);
  }
}

// -inf where a query does not see a key. Row 0 of the scores is key `from`; rows first to last.
inline void hide_rows(const Strip& strip, int64_t from, int64_t first, int64_t last,
                      float* scores) {
  const DF d;
  const hn::RebindToSigned<DF> di;
  const int64_t n = lanes();
  for (int64_t j = first; j < last; j++) {
    const auto key = hn::Set(di, static_cast<int32_t>(from + j));
    for (int64_t at = 0; at < 2 * n; at += n) {
      const auto hidden = hn::Or(hn::Lt(key, hn::LoadU(di, strip.begin + at)),
                                 hn::Not(hn::Lt(key, hn::LoadU(di, strip.end + at))));
      float* const to = scores + j * 2 * n + at;
      hn::StoreU(
          hn::IfThenElse(hn::RebindMask(d, hidden), hn::Set(d, -kInfinity), hn::LoadU(d, to)), d,
          to);
    }
  }
}
inline void hide(const Strip& strip, int64_t from, int64_t rows, float* scores) {
  const int64_t head = std::clamp<int64_t>(strip.all_from - from, 0, rows);
  const int64_t tail = std::clamp<int64_t>(strip.all_to - from, head, rows);
  hide_rows(strip, from, 0, head, scores);
  hide_rows(strip, from, tail, rows, scores);
}

// Where the heads of one key/value head begin.
struct GroupView {
  char* data;
  int64_t head, row;

  GroupView(const HeadView& v, const AttentionShape& s, int64_t b, int64_t group)
      : data(static_cast<char*>(element_at(v, s.type, b, group * (s.heads / s.groups), 0))),
        head(v.head),
        row(v.row) {}
  // What belongs to the query of a column; null where none lives.
  template <class T>
  T* at(const Strip& strip, int64_t c) const {
    return strip.query[c] < 0
               ? nullptr
               : reinterpret_cast<T*>(data) + strip.head[c] * head + strip.query[c] * row;
  }
};

// Rows lie far apart, where the processor does not guess what comes.
template <class T>
HWY_INLINE void prefetch_row(const T* row, int64_t width) {
  constexpr int64_t kLine = 64 / sizeof(T);
  for (int64_t i = 0; i < width; i += kLine) __builtin_prefetch(row + i, 0, 2);
}
template <class T>
void prefetch_rows(const GroupView& v, const Strip& strip, int64_t width) {
  for (int64_t c = 0; c < strip.width; c++) {
    if (const T* row = v.at<T>(strip, c)) prefetch_row(row, width);
  }
}

// The rows that belong to a strip, adjacent; zeros where no query lives.
template <class T>
void gather_rows(const GroupView& from, const Strip& strip, int64_t width, T* to) {
  const auto bytes = static_cast<size_t>(width) * sizeof(T);
  for (int64_t c = 0; c < strip.width; c++, to += width) {
    if (const T* row = from.at<T>(strip, c)) {
      std::memcpy(to, row, bytes);
    } else {
      std::memset(static_cast<void*>(to), 0, bytes);
    }
  }
}

// Four vectors as lines of a matrix, transposed: to[i * ld + k] = element i of line k.
HWY_INLINE void store_transposed(VF a, VF b, VF c, VF e, float* to, int64_t ld) {
#if HWY_TARGET == HWY_SCALAR
  (void)ld;
  to[0] = hn::GetLane(a), to[1] = hn::GetLane(b), to[2] = hn::GetLane(c), to[3] = hn::GetLane(e);
#else
  const DF d;
  const hn::Repartition<uint64_t, DF> d64;
  const hn::Full128<float> d4;
  // 4 x 4 in every 128 bits.
  const auto ab_low = hn::BitCast(d64, hn::InterleaveLower(d, a, b));
  const auto ab_high = hn::BitCast(d64, hn::InterleaveUpper(d, a, b));
  const auto ce_low = hn::BitCast(d64, hn::InterleaveLower(d, c, e));
  const auto ce_high = hn::BitCast(d64, hn::InterleaveUpper(d, c, e));
  HWY_ALIGN float out[4][HWY_MAX_BYTES / 4];
  hn::Store(hn::BitCast(d, hn::InterleaveLower(d64, ab_low, ce_low)), d, out[0]);
  hn::Store(hn::BitCast(d, hn::InterleaveUpper(d64, ab_low, ce_low)), d, out[1]);
  hn::Store(hn::BitCast(d, hn::InterleaveLower(d64, ab_high, ce_high)), d, out[2]);
  hn::Store(hn::BitCast(d, hn::InterleaveUpper(d64, ab_high, ce_high)), d, out[3]);
  for (int64_t i = 0; i < lanes(); i += 4) {
    for (int64_t k = 0; k < 4; k++) hn::StoreU(hn::LoadU(d4, out[k] + i), d4, to + (i + k) * ld);
  }
#endif
}

// rows[c][i] = from[i][c] factor[c] of a strip [width][nr]; `ld` is a multiple of 4 no less than
// the width.
inline void rows_of_strip(const float* from, int64_t width, const float* factor, float* rows,
                          int64_t ld) {
  const DF d;
  const int64_t n = lanes(), nr = 2 * n;
  for (int64_t at = 0; at < nr; at += n) {
    const VF by = hn::LoadU(d, factor + at);
    for (int64_t i = 0; i < width; i += 4) {
      const auto line = [&](int64_t k) {
        return i + k < width ? hn::Mul(hn::LoadU(d, from + (i + k) * nr + at), by) : hn::Zero(d);
      };
      store_transposed(line(0), line(1), line(2), line(3), rows + at * ld + i, ld);
    }
  }
}

// A strip [width][nr] of float32 of nr rows; it has room for `width` rounded up to whole vectors.
template <class T>
void strip_of_rows(const T* rows, int64_t width, float* strip) {
  const DF d;
  const int64_t n = lanes(), nr = 2 * n;
#if HWY_TARGET == HWY_SCALAR
  for (int64_t i = 0; i < nr * width; i++)
    strip[i] = hn::GetLane(load(d, rows + i % nr * width + i / nr));
#else
  for (int64_t c = 0; c < nr; c += 4) {
    for (int64_t i = 0; i < width; i += n) {
      const auto line = [&](int64_t k) {
        const T* const at = rows + (c + k) * width + i;
        return i + n <= width ? load(d, at) : load_n(d, at, width - i);
      };
      store_transposed(line(0), line(1), line(2), line(3), strip + i * nr + c, nr);
    }
  }
#endif
}

constexpr int64_t kAhead = 16;  // rows

// Rows of any type as adjacent rows of float32.
template <class T>
void widen_rows(const T* from, int64_t stride, int64_t rows, int64_t width, float* to) {
  const DF d;
  for (int64_t r = 0; r < rows; r++, from += stride, to += width) {
    if (r + kAhead < rows) prefetch_row(from + kAhead * stride, width);
    int64_t i = 0;
    for (; i + lanes() <= width; i += lanes()) store(load(d, from + i), d, to + i);
    if (i < width) store_n(load_n(d, from + i, width - i), d, to + i, width - i);
  }
}

// The rows of a head, keys [rows, width], as a left operand; or as one transposed.
template <class T>
void pack_left(const panels::Format& f, const T* from, int64_t stride, Type type, int64_t rows,
               int64_t width, void* to) {
  if (!f.bf16) return widen_rows(from, stride, rows, width, static_cast<float*>(to));
  for (int64_t r = 0; r < rows; r++) prefetch_row(from + r * stride, width);
  if (f.order == panels::Order::rows) {
    panels::pack_a(f, {from, type, stride, 1}, rows, width, to);
  } else {
    panels::pack_a(f, {from, type, 1, stride}, width, rows, to);
  }
}

// The queries of a strip, gathered as rows, as a right operand [width, nr].
template <class T>
void pack_strip(const panels::Format& f, const T* rows, Type type, int64_t width, void* to) {
  if (f.bf16) {
    panels::pack_b(f, {rows, type, 1, width}, width, f.nr, to);
  } else {
    strip_of_rows(rows, width, static_cast<float*>(to));
  }
}

// Rows of float32 to where the queries of a strip lie.
template <class T>
void scatter_rows(const float* rows, int64_t ld, const GroupView& to, const Strip& strip,
                  int64_t width) {
  const DF d;
  for (int64_t c = 0; c < strip.width; c++, rows += ld) {
    T* const row = to.at<T>(strip, c);
    if (!row) continue;
    int64_t j = 0;
    for (; j + lanes() <= width; j += lanes()) store(hn::LoadU(d, rows + j), d, row + j);
    if (j < width) store_n(load_n(d, rows + j, width - j), d, row + j, width - j);
  }
}

// bfloat16 is packed where the processor multiplies it, which is on 512 bits.
#undef LMXLAB_ATTENTION_BF16
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
#define LMXLAB_ATTENTION_BF16 1
using Words = hn::Vec<hn::RebindToUnsigned<DF>>;

// bfloat16 in the upper halves: to nearest, ties away from zero.
HWY_INLINE Words rounded(VF x) {
  const hn::RebindToUnsigned<DF> d32;
  return hn::Add(hn::BitCast(d32, x), hn::Set(d32, 0x8000u));
}
// Elements (k, i) and (k + 1, i) of b side by side, as panels_bf16.cpp lays them out.
HWY_INLINE void store_pairs(Words even, Words odd, uint16_t* to) {
  const hn::RebindToUnsigned<DF> d32;
  const auto high = hn::And(odd, hn::Set(d32, 0xffff0000u));
  hn::StoreU(hn::Or(high, hn::ShiftRight<16>(even)), d32, reinterpret_cast<uint32_t*>(to));
}
#else
#define LMXLAB_ATTENTION_BF16 0
#endif

}  // namespace lmxlab::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
