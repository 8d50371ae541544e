// What attention's parts share: the problem as memory and sizes, who sees what, and products of
// pieces of packed operands. Forward in blocks is attention_forward.cpp, its gradient
// attention_backward.cpp, few queries against many keys attention_decode.cpp.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "lmxlab/kernels/panels.h"
#include "lmxlab/kernels/thread_pool.h"
#include "lmxlab/kernels/types.h"

namespace lmxlab::kernels {

/// [B, H, L, D] in memory: element (b, h, i, d) at data[b * batch + h * head + i * row + d].
struct HeadView {
  char* data;
  int64_t batch, head, row;
};

struct AttentionShape {
  int64_t batch, heads, groups, queries, keys, width, value;  // B, H, K, L, S, Dh, Dv
  Type type;
  float scale, cap;  // cap 0: none
  bool causal;
  int64_t window;       // 0: none
  const int32_t* pads;  // [B], [B, L] or null
  bool pads_of_queries = false;

  int64_t rows() const { return heads / groups * queries; }  // that share a key/value head

  struct Range {
    int64_t begin, end;
  };
  int64_t first_key(int64_t b, int64_t i) const {
    const int64_t at = pads_of_queries ? b * queries + i : b;
    return pads ? std::clamp<int64_t>(pads[at], 0, keys) : 0;
  }
  /// Keys that query i of a row may see; possibly none.
  Range visible(int64_t b, int64_t i) const {
    const int64_t first = first_key(b, i);
    const int64_t end = causal ? std::max<int64_t>(0, keys - queries + i + 1) : keys;
    const int64_t begin = window > 0 ? std::max(first, end - window) : first;
    return {std::min(begin, end), end};
  }
};

inline char* byte_at(const HeadView& v, int64_t element, int64_t b, int64_t h, int64_t i) {
  return v.data + (b * v.batch + h * v.head + i * v.row) * element;
}
inline void* element_at(const HeadView& v, Type type, int64_t b, int64_t h, int64_t i) {
  return byte_at(v, size_of(type), b, h, i);
}

/// Keys or values in memory: plain numbers, or MLX's affine format, where number d of a row is
/// scales[d / group] u + biases[d / group] and u its bits [d bits, (d + 1) bits).
struct CacheView {
  HeadView data;  // affine: of uint32
  Type type;      // of the numbers; affine: of scales and biases
  int bits = 0;   // 0: plain numbers; 8 or 4
  int group = 0;  // 32, 64 or 128
  HeadView scales = {}, biases = {};
};

/// Parts of one workspace, each on a 64-byte line. Without memory it only counts.
class Slices {
 public:
  explicit Slices(char* memory = nullptr) : memory_(memory) {}
  template <class T>
  T* take(int64_t count) {
    T* const part = memory_ ? reinterpret_cast<T*>(memory_ + used_) : nullptr;
    used_ += round_up(count * static_cast<int64_t>(sizeof(T)), 64);
    return part;
  }
  int64_t used() const { return used_; }

 private:
  char* memory_;
  int64_t used_ = 0;
};

/// The queries of one key/value head as columns of a matrix, cut into strips of `width`: heads one
/// after another, each filled up to whole strips, or all in a row where they are shorter than one.
struct Columns {
  int64_t heads, queries, padded, width;

  Columns(const AttentionShape& s, int64_t strip)
      : heads(s.heads / s.groups),
        queries(s.queries),
        padded(queries < strip ? queries : round_up(queries, strip)),
        width(strip) {}
  int64_t strips() const { return (heads * padded + width - 1) / width; }
};

/// The columns of one strip, and what they see.
struct Strip {
  static constexpr int64_t kMost = 64;
  int32_t head[kMost], query[kMost];  // of the key/value head; query is -1 where none lives
  int32_t begin[kMost], end[kMost];   // keys in sight
  int64_t width;
  int64_t lo, hi;            // keys that any query sees
  int64_t all_from, all_to;  // keys that every query sees

  Strip(const AttentionShape& s, const Columns& columns, int64_t index, int64_t b)
      : width(columns.width), lo(s.keys), hi(0), all_from(0), all_to(s.keys) {
    int64_t h = index * width / columns.padded, i = index * width % columns.padded;
    for (int64_t c = 0; c < width; c++, i++) {
      if (i == columns.padded) i = 0, h++;
      const bool lives = h < columns.heads && i < columns.queries;
      const auto seen = lives ? s.visible(b, i) : AttentionShape::Range{0, 0};
      head[c] = static_cast<int32_t>(h);
      query[c] = lives ? static_cast<int32_t>(i) : -1;
      begin[c] = static_cast<int32_t>(seen.begin);
      end[c] = static_cast<int32_t>(seen.end);
      if (!lives) continue;
      all_from = std::max(all_from, seen.begin);
      all_to = std::min(all_to, seen.end);
      if (seen.begin < seen.end) {
        lo = std::min(lo, seen.begin);
        hi = std::max(hi, seen.end);
      }
    }
    lo = std::min(lo, hi);
  }
};

/// The left operand of a product, ready to be multiplied. bfloat16: strips that panels::pack_a made
/// of `stride` of k. float32: plain memory, rows `stride` apart (columns, in column order).
struct Left {
  const void* data;
  int64_t stride;
};
/// The right one: strips that are as panels::pack_b makes them of `k` of k. Strips of one column
/// range lie one after another; within one, groups of kr elements of k do.
struct Right {
  const void* data;
  int64_t k;
};

/// c [m, n] = (or +=) a[:, first ... last] b[first ... last, :]. `first` is a multiple of kr; what
/// lies between `last` and the next multiple is zero in one operand and finite in the other.
void multiply_range(const panels::Format& f, Left a, Right b, int64_t m, int64_t n, int64_t first,
                    int64_t last, float* c, int64_t ld, bool add);

/// Bytes of a left operand of m x k.
inline int64_t left_bytes(const panels::Format& f, int64_t m, int64_t k) {
  return f.bf16 ? f.a_bytes(m, k) : m * k * 4;
}

/// f(slot, task) for every task, on as many slots as have a workspace each.
template <class F>
void share(int64_t slots, int64_t tasks, F f) {
  std::atomic<int64_t> next{0};
  parallel_parts(slots, [&](int64_t slot) {
    for (int64_t task = next++; task < tasks; task = next++) f(slot, task);
  });
}

/// How a computation is cut: fixed when its memory is taken, since it depends on threads() and on
/// the instruction set.
struct AttentionPlan {
  panels::Format rows, columns;  // strips of a in either order
  int64_t pieces, piece;  // of the queries (forward), of the keys (backward, decode); keys of one
  int64_t slots;          // computations at a time
  int64_t slot_bytes, bytes;  // workspace of one; of all, on a 64-byte line
};

/// Few queries against many keys: keys and values are read where they lie, and not packed.
/// out and lse (float32 [B, H, L], may be null); q, k, v as in attention.h.
/// Quantized ones are worth reading for more queries, since otherwise they are dequantized first.
bool is_decode(const AttentionShape& s, bool quantized = false);
/// @param cut  whether long ranges of keys may be cut into pieces
AttentionPlan plan_decode(const AttentionShape& s, bool cut = true);
void attention_decode(const AttentionShape& s, const AttentionPlan& plan, const HeadView& q,
                      const CacheView& k, const CacheView& v, const HeadView& out, float* lse,
                      char* workspace);

/// Any number of queries in one order of sums (one_order.h).
AttentionPlan plan_one_order(const AttentionShape& s);
void attention_one_order(const AttentionShape& s, const AttentionPlan& plan, const HeadView& q,
                         const CacheView& k, const CacheView& v, const HeadView& out, float* lse,
                         char* workspace);

AttentionPlan plan_forward(const AttentionShape& s);
void attention_forward(const AttentionShape& s, const AttentionPlan& plan, HeadView q, HeadView k,
                       HeadView v, HeadView out, float* lse, char* workspace);

/// Each of dq, dk and dv may lie where its operand does: a task writes the rows that it alone
/// reads, after it has read them.
struct AttentionGradViews {
  HeadView q, k, v, out, cotangent, dq, dk, dv;
  const float* lse;
};
AttentionPlan plan_backward(const AttentionShape& s);
void attention_backward(const AttentionShape& s, const AttentionPlan& plan,
                        const AttentionGradViews& v, char* workspace);

}  // namespace lmxlab::kernels
