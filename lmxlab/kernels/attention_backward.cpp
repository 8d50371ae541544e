// The gradient of attention without its matrix of weights: they are computed once more, block by
// block, from the log-sum-exp (FlashAttention-2, Dao 2023, arXiv:2307.08691, algorithm 2).
//
// With weights P, cotangent dO and delta = rowsum(dO * O):  dV = P^T dO,  dS = P * (dO V^T -
// delta), dQ = scale dS K,  dK = scale dS^T Q. Scores lie transposed, keys downwards, so that P and
// dS are left operands for dV and dK as they come, and dS a right operand for dQ^T = K^T dS^T.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "lmxlab/kernels/attention_parts.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lmxlab/kernels/attention_backward.cpp"
#include <hwy/foreach_target.h>
// Highway's headers come after foreach_target.h.
#include <hwy/highway.h>

#include "lmxlab/kernels/attention-inl.h"

#ifndef LMXLAB_KERNELS_ATTENTION_BACKWARD_ONCE
#define LMXLAB_KERNELS_ATTENTION_BACKWARD_ONCE
namespace lmxlab::kernels {

constexpr int64_t kSegment = 1024;  // queries whose operands are packed at a time
constexpr int64_t kChunk = 4;       // strips that meet a block of keys at a time

inline int64_t key_block(const panels::Format& f) {
  return std::max<int64_t>(1, 64 / f.mr) * f.mr;
}

struct BackwardTask {
  const AttentionGradViews* views;
  int64_t b, group, first_key, last_key;
  float* dq;  // where a part of dQ^T waits for the others, or null: the whole goes to its place
};

struct BackwardSpace {
  int64_t block, segment;  // keys; strips
  int64_t query_strip, grad_strip;
  char *queries, *grads;          // right operands, strip by strip: Q^T, dO^T
  char *query_rows, *grad_rows;   // right operands: Q, dO
  char *gathered_q, *gathered_g;  // of T
  char *keys, *values, *keys_t;   // left operands of a block: K, V, K^T
  char *weights, *slopes;         // left operands of a chunk: P^T, dS^T
  uint16_t* slope_pairs;          // right operand of a strip: dS^T, where it is bfloat16
  float *scores, *dp, *lse, *delta, *dq, *dk, *dv, *rows;
  int64_t ld, bytes;

  BackwardSpace(const AttentionShape& s, const AttentionPlan& plan, char* memory) {
    const auto& f = plan.rows;
    block = key_block(f);
    ld = round_up(std::max(s.width, s.value), 16);
    segment = std::min((kSegment + f.nr - 1) / f.nr, Columns(s, f.nr).strips());
    const int64_t columns = segment * f.nr, range = std::min(s.keys, plan.piece);
    query_strip = f.b_strip(round_up(s.width, 16));
    grad_strip = f.b_strip(round_up(s.value, 16));
    Slices slices(memory);
    queries = slices.take<char>(segment * query_strip);
    grads = slices.take<char>(segment * grad_strip);
    query_rows = slices.take<char>(f.b_bytes(s.width, columns));
    grad_rows = slices.take<char>(f.b_bytes(s.value, columns));
    gathered_q = slices.take<char>(columns * s.width * size_of(s.type));
    gathered_g = slices.take<char>(columns * s.value * size_of(s.type));
    keys = slices.take<char>(left_bytes(f, block, s.width));
    values = slices.take<char>(left_bytes(f, block, s.value));
    keys_t = f.bf16 ? slices.take<char>(left_bytes(f, s.width, block)) : keys;
    weights = slices.take<char>(left_bytes(f, block, kChunk * f.nr));
    slopes = slices.take<char>(left_bytes(f, block, kChunk * f.nr));
    slope_pairs = slices.take<uint16_t>(f.bf16 ? round_up(block, f.kr) * f.nr : 0);
    scores = slices.take<float>(block * f.nr);
    dp = slices.take<float>(block * f.nr);
    lse = slices.take<float>(columns);
    delta = slices.take<float>(columns);
    dq = slices.take<float>(plan.pieces == 1 ? columns * s.width : 0);
    dk = slices.take<float>(range * s.width);
    dv = slices.take<float>(range * s.value);
    rows = slices.take<float>(f.nr * ld);
    bytes = slices.used();
  }
};

}  // namespace lmxlab::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace lmxlab::kernels::HWY_NAMESPACE {

template <class T>
float dot(const T* a, const T* b, int64_t n) {
  const DF d;
  VF sum = hn::Zero(d);
  int64_t i = 0;
  for (; i + lanes() <= n; i += lanes()) sum = hn::MulAdd(load(d, a + i), load(d, b + i), sum);
  if (i < n) sum = hn::MulAdd(load_n(d, a + i, n - i), load_n(d, b + i, n - i), sum);
  return sum_of(d, sum);
}

// What a strip's rows of scores and of dO V^T become.
struct Slope {
  float factor, cap;         // to exponents of 2; the soft cap or 0
  const float *lse, *delta;  // of the strip's queries
};
struct WeightAndSlope {
  VF weight, slope;
};
template <bool kCapped>
HWY_INLINE WeightAndSlope slope_of(VF score, VF dp, VF factor, VF lse, VF delta, VF cap_inverse) {
  const DF d;
  const VF p = exp2_not_large(d, hn::MulSub(score, factor, lse));
  VF slope = hn::Mul(p, hn::Sub(dp, delta));
  if constexpr (kCapped) {
    const VF t = hn::Mul(score, cap_inverse);
    const VF by = hn::NegMulAdd(t, t, hn::Set(d, 1.0f));
    slope = hn::IfThenZeroElse(hn::Eq(p, hn::Zero(d)), hn::Mul(slope, by));  // -inf where hidden
  }
  return {p, slope};
}

// float32: dp becomes dS^T as a right operand; `ld` is that of the left operands.
template <bool kCapped>
void slopes_f32(const Slope& k, const float* scores, float* dp, int64_t rows, float* weights,
                float* slopes, int64_t ld) {
  const DF d;
  const int64_t n = lanes();
  const VF factor = hn::Set(d, k.factor), cap = hn::Set(d, kCapped ? 1 / k.cap : 0);
  const VF lse0 = hn::LoadU(d, k.lse), lse1 = hn::LoadU(d, k.lse + n);
  const VF delta0 = hn::LoadU(d, k.delta), delta1 = hn::LoadU(d, k.delta + n);
  for (int64_t j = 0; j < rows; j++) {
    const auto a =
        slope_of<kCapped>(hn::LoadU(d, scores), hn::LoadU(d, dp), factor, lse0, delta0, cap);
    const auto b = slope_of<kCapped>(hn::LoadU(d, scores + n), hn::LoadU(d, dp + n), factor, lse1,
                                     delta1, cap);
    hn::StoreU(a.weight, d, weights);
    hn::StoreU(b.weight, d, weights + n);
    hn::StoreU(a.slope, d, slopes);
    hn::StoreU(b.slope, d, slopes + n);
    hn::StoreU(a.slope, d, dp);
    hn::StoreU(b.slope, d, dp + n);
    scores += 2 * n, dp += 2 * n, weights += ld, slopes += ld;
  }
}

#if LMXLAB_ATTENTION_BF16
// Element (j, 0) of a strip's columns in a left operand of `columns`.
HWY_INLINE uint16_t* left_row(char* left, int64_t columns, int64_t strip, int64_t j) {
  return reinterpret_cast<uint16_t*>(left) + j / 32 * 32 * columns + strip * 1024 + j % 32 * 32;
}
HWY_INLINE void store_row(Words low, Words high, uint16_t* to) {
  const hn::Repartition<uint16_t, DF> d16;
  hn::StoreU(hn::ConcatOdd(d16, hn::BitCast(d16, high), hn::BitCast(d16, low)), d16, to);
}

template <bool kCapped>
void slopes_bf16(const Slope& k, const float* scores, const float* dp, int64_t rows, char* weights,
                 char* slopes, int64_t columns, int64_t strip, uint16_t* pairs) {
  const DF d;
  const VF factor = hn::Set(d, k.factor), cap = hn::Set(d, kCapped ? 1 / k.cap : 0);
  const VF lse0 = hn::LoadU(d, k.lse), lse1 = hn::LoadU(d, k.lse + 16);
  const VF delta0 = hn::LoadU(d, k.delta), delta1 = hn::LoadU(d, k.delta + 16);
  Words before0, before1;
  for (int64_t j = 0; j < rows; j++, scores += 32, dp += 32) {
    const auto a =
        slope_of<kCapped>(hn::LoadU(d, scores), hn::LoadU(d, dp), factor, lse0, delta0, cap);
    const auto b = slope_of<kCapped>(hn::LoadU(d, scores + 16), hn::LoadU(d, dp + 16), factor, lse1,
                                     delta1, cap);
    store_row(rounded(a.weight), rounded(b.weight), left_row(weights, columns, strip, j));
    const Words s0 = rounded(a.slope), s1 = rounded(b.slope);
    store_row(s0, s1, left_row(slopes, columns, strip, j));
    uint16_t* const pair = pairs + j / 32 * 1024 + j % 32 / 2 * 32;
    if (j % 2 == 1) {
      store_pairs(before0, s0, pair);
      store_pairs(before1, s1, pair + 512);
    } else if (j + 1 == rows) {
      const Words none = hn::Zero(hn::RebindToUnsigned<DF>());
      store_pairs(s0, none, pair);
      store_pairs(s1, none, pair + 512);
    }
    before0 = s0;
    before1 = s1;
  }
  for (int64_t j = round_up(rows, 2); j % 32 != 0; j += 2) {
    std::memset(pairs + j / 32 * 1024 + j % 32 * 16, 0, 64);
    std::memset(pairs + j / 32 * 1024 + j % 32 * 16 + 512, 0, 64);
  }
}
#endif

template <bool kCapped>
void slopes(const panels::Format& f, const Slope& k, const BackwardSpace& space, int64_t rows,
            int64_t all_rows, int64_t columns, int64_t strip) {
#if LMXLAB_ATTENTION_BF16
  if (f.bf16) {
    slopes_bf16<kCapped>(k, space.scores, space.dp, rows, space.weights, space.slopes, columns,
                         strip, space.slope_pairs);
    for (int64_t j = rows; j < all_rows; j++) {
      std::memset(left_row(space.weights, columns, strip, j), 0, 64);
      std::memset(left_row(space.slopes, columns, strip, j), 0, 64);
    }
    return;
  }
#endif
  auto* const weights = reinterpret_cast<float*>(space.weights) + strip * f.nr;
  auto* const slopes = reinterpret_cast<float*>(space.slopes) + strip * f.nr;
  slopes_f32<kCapped>(k, space.scores, space.dp, rows, weights, slopes, columns);
  for (int64_t j = rows; j < all_rows; j++) {
    std::fill_n(weights + j * columns, f.nr, 0.0f);
    std::fill_n(slopes + j * columns, f.nr, 0.0f);
  }
}

// sums [rows, width] += left[:, all of a chunk] right, without the columns at the chunk's beginning
// that see none of a strip's keys.
void accumulate(const panels::Format& f, const char* left, int64_t rows, int64_t columns,
                const char* right, int64_t first, int64_t packed, int64_t width,
                const Strip* strips, int64_t key, float* sums) {
  for (int64_t j = 0; j < width; j += f.nr) {
    const char* const strip = right + j / f.nr * f.b_strip(packed) + first * f.nr * f.element();
    for (int64_t i = 0; i < rows; i += f.mr) {
      int64_t from = 0;
      while ((from + 1) * f.nr < columns && strips[from].hi <= key + i) from++;
      const char* const part = left + (f.bf16 ? i * columns * 2 : i * columns * 4);
      multiply_range(f, {part, columns}, {strip, packed}, std::min<int64_t>(f.mr, rows - i),
                     std::min<int64_t>(f.nr, width - j), from * f.nr, columns, sums + i * width + j,
                     width, true);
    }
  }
}

// A block of keys, packed, against strips that see some of them.
void meet(const AttentionShape& s, const AttentionPlan& plan, const BackwardSpace& space,
          const Strip* strips, int64_t first, int64_t last, int64_t key, int64_t keys, float* dq,
          float* dk, float* dv) {
  const auto& f = plan.rows;
  const int64_t nr = f.nr, packed = space.segment * nr;
  for (int64_t chunk = first; chunk < last; chunk += kChunk) {
    const int64_t count = std::min(kChunk, last - chunk), columns = count * nr;
    for (int64_t i = 0; i < count; i++) {
      const int64_t at = chunk + i;
      const Strip& strip = strips[at];
      const int64_t rows = std::clamp<int64_t>(strip.hi - key, 0, keys);
      multiply_range(f, {space.keys, s.width}, {space.queries + at * space.query_strip, s.width},
                     rows, nr, 0, s.width, space.scores, nr, false);
      multiply_range(f, {space.values, s.value}, {space.grads + at * space.grad_strip, s.value},
                     rows, nr, 0, s.value, space.dp, nr, false);
      make_ready(s, space.scores, rows * nr);
      hide(strip, key, rows, space.scores);
      const Slope slope{to_exponent(s), s.cap, space.lse + at * nr, space.delta + at * nr};
      if (s.cap > 0) {
        slopes<true>(f, slope, space, rows, keys, columns, i);
      } else {
        slopes<false>(f, slope, space, rows, keys, columns, i);
      }
      if (rows == 0) continue;
      const void* const right = f.bf16 ? static_cast<const void*>(space.slope_pairs) : space.dp;
      const int64_t stride = f.bf16 ? keys : s.width;
      multiply_range(plan.columns, {space.keys_t, stride}, {right, rows}, s.width, nr, 0, rows,
                     dq + at * s.width * nr, nr, true);
    }
    accumulate(f, space.weights, keys, columns, space.grad_rows, chunk * nr, packed, s.value,
               strips + chunk, key, dv);
    accumulate(f, space.slopes, keys, columns, space.query_rows, chunk * nr, packed, s.width,
               strips + chunk, key, dk);
  }
}

template <class T>
void pack_segment(const AttentionShape& s, const AttentionPlan& plan, const BackwardTask& t,
                  const BackwardSpace& space, const std::vector<Strip>& strips) {
  const auto& f = plan.rows;
  const int64_t nr = f.nr;
  const GroupView q(t.views->q, s, t.b, t.group), g(t.views->cotangent, s, t.b, t.group),
      out(t.views->out, s, t.b, t.group);
  const int64_t first_head = t.b * s.heads + t.group * (s.heads / s.groups);
  auto* const rows_q = reinterpret_cast<T*>(space.gathered_q);
  auto* const rows_g = reinterpret_cast<T*>(space.gathered_g);
  for (size_t i = 0; i < strips.size(); i++) {
    const auto at = static_cast<int64_t>(i);
    const Strip& strip = strips[i];
    if (i + 1 < strips.size()) {
      prefetch_rows<T>(q, strips[i + 1], s.width);
      prefetch_rows<T>(g, strips[i + 1], s.value);
      prefetch_rows<T>(out, strips[i + 1], s.value);
    }
    T* const strip_q = rows_q + at * nr * s.width;
    T* const strip_g = rows_g + at * nr * s.value;
    gather_rows(q, strip, s.width, strip_q);
    gather_rows(g, strip, s.value, strip_g);
    pack_strip(f, strip_q, s.type, s.width, space.queries + at * space.query_strip);
    pack_strip(f, strip_g, s.type, s.value, space.grads + at * space.grad_strip);
    for (int64_t c = 0; c < nr; c++) {
      float lse = -kInfinity, delta = 0;
      if (strip.query[c] >= 0) {
        lse = t.views->lse[(first_head + strip.head[c]) * s.queries + strip.query[c]];
        delta = dot(out.at<T>(strip, c), strip_g + c * s.value, s.value);
      }
      // Who sees nothing has no weights: 2^-inf.
      space.lse[at * nr + c] = lse == -kInfinity ? kInfinity : lse * kLog2E;
      space.delta[at * nr + c] = delta;
    }
  }
  const int64_t columns = static_cast<int64_t>(strips.size()) * nr;
  const int64_t packed = space.segment * nr;
  std::fill_n(rows_q + columns * s.width, (packed - columns) * s.width, T{});
  std::fill_n(rows_g + columns * s.value, (packed - columns) * s.value, T{});
  panels::pack_b(f, {rows_q, s.type, s.width, 1}, packed, s.width, space.query_rows);
  panels::pack_b(f, {rows_g, s.type, s.value, 1}, packed, s.value, space.grad_rows);
}

template <class T>
void write_rows(const float* from, int64_t width, float factor, T* to, int64_t stride,
                int64_t rows) {
  const DF d;
  const VF by = hn::Set(d, factor);
  for (int64_t r = 0; r < rows; r++, from += width, to += stride) {
    int64_t i = 0;
    for (; i + lanes() <= width; i += lanes())
      store(hn::Mul(hn::LoadU(d, from + i), by), d, to + i);
    if (i < width) store_n(hn::Mul(load_n(d, from + i, width - i), by), d, to + i, width - i);
  }
}

template <class T>
void write_queries(const AttentionShape& s, const float* dq, const Strip& strip,
                   const GroupView& to, float* rows, int64_t ld) {
  HWY_ALIGN float factor[Strip::kMost];
  std::fill_n(factor, Strip::kMost, s.scale);
  rows_of_strip(dq, s.width, factor, rows, ld);
  scatter_rows<T>(rows, ld, to, strip, s.width);
}

template <class T>
void backward_task_of(const AttentionShape& s, const AttentionPlan& plan, const BackwardTask& t,
                      char* memory) {
  const auto& f = plan.rows;
  const BackwardSpace space(s, plan, memory);
  const Columns columns(s, f.nr);
  const auto& v = *t.views;
  const int64_t range = t.last_key - t.first_key;
  const auto* const k_rows = static_cast<const T*>(element_at(v.k, s.type, t.b, t.group, 0));
  const auto* const v_rows = static_cast<const T*>(element_at(v.v, s.type, t.b, t.group, 0));
  std::fill_n(space.dk, range * s.width, 0.0f);
  std::fill_n(space.dv, range * s.value, 0.0f);
  const GroupView dq_view(v.dq, s, t.b, t.group);
  for (int64_t segment = 0; segment < columns.strips(); segment += space.segment) {
    const int64_t count = std::min(space.segment, columns.strips() - segment);
    std::vector<Strip> strips;
    for (int64_t i = 0; i < count; i++) strips.emplace_back(s, columns, segment + i, t.b);
    pack_segment<T>(s, plan, t, space, strips);
    float* const dq = t.dq ? t.dq + segment * f.nr * s.width : space.dq;
    std::fill_n(dq, count * f.nr * s.width, 0.0f);
    for (int64_t key = t.first_key; key < t.last_key; key += space.block) {
      const int64_t keys = std::min(space.block, t.last_key - key);
      int64_t first = count, last = 0;
      for (int64_t i = 0; i < count; i++) {
        if (strips[i].lo >= key + keys || strips[i].hi <= key) continue;
        first = std::min(first, i);
        last = i + 1;
      }
      if (first >= last) continue;
      pack_left(f, k_rows + key * v.k.row, v.k.row, s.type, keys, s.width, space.keys);
      pack_left(f, v_rows + key * v.v.row, v.v.row, s.type, keys, s.value, space.values);
      if (f.bf16) {
        pack_left(plan.columns, k_rows + key * v.k.row, v.k.row, s.type, keys, s.width,
                  space.keys_t);
      }
      meet(s, plan, space, strips.data(), first, last, key, keys, dq,
           space.dk + (key - t.first_key) * s.width, space.dv + (key - t.first_key) * s.value);
    }
    if (t.dq) continue;
    for (int64_t i = 0; i < count; i++) {
      write_queries<T>(s, dq + i * f.nr * s.width, strips[i], dq_view, space.rows, space.ld);
    }
  }
  write_rows(space.dk, s.width, s.scale,
             static_cast<T*>(element_at(v.dk, s.type, t.b, t.group, t.first_key)), v.dk.row, range);
  write_rows(space.dv, s.value, 1,
             static_cast<T*>(element_at(v.dv, s.type, t.b, t.group, t.first_key)), v.dv.row, range);
}

void backward_task(const AttentionShape& s, const AttentionPlan& plan, const BackwardTask& t,
                   char* memory) {
  with_type(s.type, [&](auto x) { backward_task_of<decltype(x)>(s, plan, t, memory); });
}

// dQ of a strip from its parts, `distance` apart; the first one takes the sum.
void add_parts(const AttentionShape& s, const AttentionPlan& plan, const HeadView& to, int64_t b,
               int64_t group, int64_t index, float* parts, int64_t distance) {
  const DF d;
  const int64_t nr = plan.rows.nr;
  for (int64_t piece = 1; piece < plan.pieces; piece++) {
    const float* const from = parts + piece * distance;
    for (int64_t i = 0; i < s.width * nr; i += lanes()) {
      hn::StoreU(hn::Add(hn::LoadU(d, parts + i), hn::LoadU(d, from + i)), d, parts + i);
    }
  }
  const Strip strip(s, Columns(s, nr), index, b);
  const int64_t ld = round_up(s.width, 16);
  std::vector<float> rows(nr * ld);
  with_type(s.type, [&](auto x) {
    write_queries<decltype(x)>(s, parts, strip, GroupView(to, s, b, group), rows.data(), ld);
  });
}

}  // namespace lmxlab::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lmxlab::kernels {
namespace {

HWY_EXPORT(backward_task);
HWY_EXPORT(add_parts);

constexpr int64_t kLeastKeys = 128;  // of a task, so that packing the queries is a small part
constexpr int64_t kLarge = 8 << 20;  // bytes of dQ whose parts are worth avoiding

}  // namespace

AttentionPlan plan_backward(const AttentionShape& s) {
  AttentionPlan plan{};
  plan.rows = panels::format(s.type, panels::Order::rows);
  plan.columns = panels::format(s.type, panels::Order::columns);
  const int64_t heads = s.batch * s.groups, block = key_block(plan.rows);
  const int64_t most = std::max<int64_t>(1, s.keys / kLeastKeys);
  // Pieces of the keys keep the threads evenly busy, and cost a dQ in float32 each.
  const bool large = s.batch * s.heads * s.queries * s.width * 4 > kLarge;
  const int64_t tasks = (large ? 2 : 4) * threads();
  const int64_t wanted = threads() == 1 ? 1 : (tasks + heads - 1) / heads;
  plan.piece = round_up((s.keys + std::min(most, wanted) - 1) / std::min(most, wanted), block);
  plan.pieces = (s.keys + plan.piece - 1) / plan.piece;
  plan.slots = std::min<int64_t>(threads(), heads * plan.pieces);
  plan.slot_bytes = BackwardSpace(s, plan, nullptr).bytes;
  plan.bytes = plan.slots * plan.slot_bytes;
  if (plan.pieces > 1) {
    plan.bytes +=
        heads * plan.pieces * Columns(s, plan.rows.nr).strips() * plan.rows.nr * s.width * 4;
  }
  return plan;
}

void attention_backward(const AttentionShape& s, const AttentionPlan& plan,
                        const AttentionGradViews& v, char* workspace) {
  const int64_t heads = s.batch * s.groups, strips = Columns(s, plan.rows.nr).strips();
  const int64_t strip = plan.rows.nr * s.width, part = strips * strip;  // elements of dQ
  auto* const parts = reinterpret_cast<float*>(workspace + plan.slots * plan.slot_bytes);
  share(plan.slots, heads * plan.pieces, [&](int64_t slot, int64_t task) {
    const int64_t piece = task % plan.pieces, head = task / plan.pieces;
    const BackwardTask t{&v,
                         head / s.groups,
                         head % s.groups,
                         piece * plan.piece,
                         std::min(s.keys, (piece + 1) * plan.piece),
                         plan.pieces > 1 ? parts + task * part : nullptr};
    HWY_DYNAMIC_DISPATCH(backward_task)(s, plan, t, workspace + slot * plan.slot_bytes);
  });
  if (plan.pieces == 1) return;
  parallel_for(heads * strips, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++) {
      const int64_t head = i / strips, index = i % strips;
      HWY_DYNAMIC_DISPATCH(add_parts)
      (s, plan, v.dq, head / s.groups, head % s.groups, index,
       parts + head * plan.pieces * part + index * strip, part);
    }
  });
}

}  // namespace lmxlab::kernels
#endif
