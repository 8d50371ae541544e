// Attention of few queries to many keys, which is bound by the memory that keys and values take:
// they are read once, where they lie. Long ranges of keys are cut into pieces, whose softmaxes are
// put together in a fixed order.
#include <algorithm>
#include <cstdint>

#include "lmxlab/kernels/attention_parts.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lmxlab/kernels/attention_decode.cpp"
#include <hwy/foreach_target.h>
// Highway's headers come after foreach_target.h.
#include <hwy/highway.h>

#include "lmxlab/kernels/attention_readers-inl.h"

#ifndef LMXLAB_KERNELS_ATTENTION_DECODE_ONCE
#define LMXLAB_KERNELS_ATTENTION_DECODE_ONCE
namespace lmxlab::kernels {

constexpr int64_t kMostRows = 16, kMostQuantizedRows = 64;  // queries of a key/value head
constexpr int64_t kChunkKeys = 64;                          // whose scores are weighed together
constexpr int64_t kPieceKeys = 16;                          // a piece has a multiple of

struct DecodeTask {
  HeadView q;
  CacheView k, v;
  int64_t b, group, first_key, last_key;
};

// Of the thread that works on a piece.
struct DecodeRoom {
  float *q, *scores, *alpha, *factors, *row;
  int64_t ld;  // of q

  DecodeRoom(const AttentionShape& s, char* memory) : ld(round_up(s.width, 16)) {
    Slices slices(memory);
    const int64_t widest = std::max(s.width, s.value);
    q = slices.take<float>(s.rows() * ld);
    scores = slices.take<float>(s.rows() * kChunkKeys);
    alpha = slices.take<float>(s.rows());
    factors = slices.take<float>(widest / 32 * kChunkKeys * 2);
    row = slices.take<float>(widest);
    bytes = slices.used();
  }
  int64_t bytes;
};

// Of one piece of the keys; every row of `sums` takes `ld` floats.
struct DecodeState {
  float *top, *sum, *sums;
  int64_t ld;

  DecodeState(const AttentionShape& s, char* memory) : ld(round_up(s.value, 16)) {
    Slices slices(memory);
    top = slices.take<float>(s.rows());
    sum = slices.take<float>(s.rows());
    sums = slices.take<float>(s.rows() * ld);
    bytes = slices.used();
  }
  int64_t bytes;
};

}  // namespace lmxlab::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace lmxlab::kernels::HWY_NAMESPACE {

// Rows that share a vector of keys or values, and vectors of values: as many as registers hold.
#if (HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3) || HWY_ARCH_ARM_A64
constexpr int kRowGroup = 4;
#else
constexpr int kRowGroup = 2;
#endif
constexpr int kValueGroup = 4;

// to[0 ... 3] = the sums of four vectors.
HWY_INLINE void four_sums(VF a, VF b, VF c, VF e, float* to) {
  const DF d;
#if HWY_TARGET == HWY_SCALAR
  to[0] = sum_of(d, a), to[1] = sum_of(d, b), to[2] = sum_of(d, c), to[3] = sum_of(d, e);
#else
  const hn::Repartition<uint64_t, DF> d64;
  const hn::Full128<float> d4;
  const VF ab = hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b));
  const VF ce = hn::Add(hn::InterleaveLower(d, c, e), hn::InterleaveUpper(d, c, e));
  const auto ab64 = hn::BitCast(d64, ab), ce64 = hn::BitCast(d64, ce);
  const VF low = hn::BitCast(d, hn::InterleaveLower(d64, ab64, ce64));
  const VF high = hn::BitCast(d, hn::InterleaveUpper(d64, ab64, ce64));
  HWY_ALIGN float parts[HWY_MAX_BYTES / 4];
  hn::Store(hn::Add(low, high), d, parts);
  auto total = hn::Load(d4, parts);
  for (int64_t i = 4; i < lanes(); i += 4) total = hn::Add(total, hn::Load(d4, parts + i));
  hn::StoreU(total, d4, to);
#endif
}

// scores[r][j] = q_r k_j for R rows and up to kChunkKeys keys. q has whole vectors, zeros behind
// its width.
template <int R, class Reader>
void score_rows(const float* q, int64_t q_ld, const Reader& k, int64_t keys, int64_t width,
                const Ahead& ahead, float* scores) {
  const DF d;
  constexpr int kVectors = Reader::kVectors;
  const int64_t n = lanes(), whole = width / (kVectors * n) * (kVectors * n);
  for (int64_t j = 0; j < keys; j += 4) {
    const auto row = [&](int64_t i) HWY_ATTR { return k.row(std::min(j + i, keys - 1)); };
    for (int64_t i = 0; i < 4; i++) ahead.fetch(j + i);
    const decltype(k.row(0)) key[4] = {row(0), row(1), row(2), row(3)};
    VF sums[R][4];
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; i++) sums[r][i] = hn::Zero(d);
    }
    const auto step = [&]<bool kPart>(int64_t p) HWY_ATTR {
      VF x[4][kVectors];
#pragma GCC unroll 4
      for (int i = 0; i < 4; i++) k.template read<kPart>(key[i], p, width - p, x[i]);
#pragma GCC unroll 2
      for (int u = 0; u < kVectors; u++) {
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
          const VF y = hn::LoadU(d, q + r * q_ld + p + u * n);
#pragma GCC unroll 4
          for (int i = 0; i < 4; i++) sums[r][i] = hn::MulAdd(x[i][u], y, sums[r][i]);
        }
      }
    };
    for (int64_t p = 0; p < whole; p += kVectors * n) step.template operator()<false>(p);
    if (whole < width) step.template operator()<true>(whole);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
      four_sums(sums[r][0], sums[r][1], sums[r][2], sums[r][3], scores + r * kChunkKeys + j);
    }
  }
}

// sums_r = alpha_r sums_r + weights_r v, over V vectors of the values from `at` on, or a part of
// one.
template <int R, int V, bool kPart, class Reader>
void add_values(const float* weights, const float* alpha, const Reader& v, int64_t keys, int64_t at,
                int64_t width, const Ahead& ahead, float* sums, int64_t ld) {
  const DF d;
  const int64_t n = lanes();
  VF acc[R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; r++) {
#pragma GCC unroll 8
    for (int i = 0; i < V; i++) {
      acc[r][i] = hn::Mul(hn::LoadU(d, sums + r * ld + at + i * n), hn::Set(d, alpha[r]));
    }
  }
  for (int64_t j = 0; j < keys; j++) {
    ahead.fetch(j);
    const auto row = v.row(j);
    VF x[V];
#pragma GCC unroll 8
    for (int i = 0; i < V; i += Reader::kVectors) {
      v.template read<kPart>(row, at + i * n, width - at, x + i);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
      const VF w = hn::Set(d, weights[r * kChunkKeys + j]);
#pragma GCC unroll 8
      for (int i = 0; i < V; i++) acc[r][i] = hn::MulAdd(w, x[i], acc[r][i]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; r++) {
#pragma GCC unroll 8
    for (int i = 0; i < V; i++) hn::StoreU(acc[r][i], d, sums + r * ld + at + i * n);
  }
}

template <int R, class Reader>
void add_rows(const float* weights, const float* alpha, const Reader& v, int64_t keys,
              int64_t width, Ahead ahead, float* sums, int64_t ld) {
  constexpr int kFew = Reader::kVectors;
  const int64_t n = lanes();
  int64_t at = 0;
  const auto step = [&]<int V, bool kPart>() HWY_ATTR {
    add_values<R, V, kPart>(weights, alpha, v, keys, at, width, ahead, sums, ld);
    ahead = {};
    at += V * n;
  };
  while (at + kValueGroup * n <= width) step.template operator()<kValueGroup, false>();
  while (at + kFew * n <= width) step.template operator()<kFew, false>();
  if (at < width) step.template operator()<kFew, true>();
}

// f.template operator()<R>(first row) for groups of rows.
template <class F>
void row_groups(int64_t rows, F f) {
  int64_t r = 0;
  for (; r + kRowGroup <= rows; r += kRowGroup) f.template operator()<kRowGroup>(r);
  if constexpr (kRowGroup > 3) {
    if (rows - r == 3) return f.template operator()<3>(r);
  }
  for (; r + 2 <= rows; r += 2) f.template operator()<2>(r);
  if (r < rows) f.template operator()<1>(r);
}

// Scores of a row, of which `keys` count, to weights; the row's maximum and sum.
void weigh_row(float* scores, int64_t keys, float factor, float* top, float* sum, float* alpha) {
  const DF d;
  const int64_t n = lanes();
  for (int64_t j = keys; j % n != 0; j++) scores[j] = -kInfinity;
  VF most = hn::Set(d, *top);
  for (int64_t j = 0; j < keys; j += n) most = hn::Max(most, hn::LoadU(d, scores + j));
  const float now = hn::GetLane(hn::MaxOfLanes(d, most));
  const float shift = now == -kInfinity ? 0 : now * factor;
  *alpha = hn::GetLane(exp2_not_large(d, hn::Set(d, *top * factor - shift)));
  *top = now;
  VF total = hn::Zero(d);
  for (int64_t j = 0; j < keys; j += n) {
    const VF p = exp2_not_large(
        d, hn::MulSub(hn::LoadU(d, scores + j), hn::Set(d, factor), hn::Set(d, shift)));
    total = hn::Add(total, p);
    hn::StoreU(p, d, scores + j);
  }
  *sum = *sum * *alpha + sum_of(d, total);
}

void decode_task(const AttentionShape& s, const DecodeTask& t, const DecodeRoom& room,
                 const DecodeState& state) {
  const int64_t rows = s.rows(), queries = s.queries, ld = room.ld;
  const int64_t heads = s.heads / s.groups;
  std::fill_n(state.top, rows, -kInfinity);
  std::fill_n(state.sum, rows, 0.0f);
  std::fill_n(state.sums, rows * state.ld, 0.0f);
  int64_t lo = s.keys, hi = 0;
  for (int64_t i = 0; i < queries; i++) {
    const auto seen = s.visible(t.b, i);
    if (seen.begin == seen.end) continue;
    lo = std::min(lo, seen.begin);
    hi = std::max(hi, seen.end);
  }
  lo = std::max(lo, t.first_key);
  hi = std::min(hi, t.last_key);
  if (lo >= hi) return;
  // On their way while the queries are made ready.
  const Ahead begin(t.k, t.b, t.group, lo, std::min(kChunkKeys, hi - lo), s.width);
  for (int64_t j = 0; j < kChunkKeys; j++) begin.fetch(j);

  const auto with_rows = [&](const CacheView& view, int64_t key, int64_t keys, int64_t width,
                             auto f) {
    with_reader(view, t.b, t.group, key, keys, width, room.factors, f);
  };
  std::fill_n(room.q, rows * ld, 0.0f);
  with_type(s.type, [&](auto x) {
    for (int64_t r = 0; r < rows; r++) {
      const auto* const row = static_cast<const decltype(x)*>(
          element_at(t.q, s.type, t.b, t.group * heads + r / queries, r % queries));
      widen_rows(row, 0, 1, s.width, room.q + r * ld);
    }
  });
  with_rows(t.k, lo, 0, s.width, [&](const auto& k) {
    for (int64_t r = 0; r < rows; r++) k.arrange(room.q + r * ld, s.width, room.row);
  });
  const float factor = to_exponent(s);
  for (int64_t key = lo; key < hi; key += kChunkKeys) {
    const int64_t keys = std::min(kChunkKeys, hi - key);
    const Ahead values(t.v, t.b, t.group, key, keys, s.value);
    const Ahead next(t.k, t.b, t.group, key + keys, std::min(keys, hi - key - keys), s.width);
    with_rows(t.k, key, keys, s.width, [&](const auto& k) {
      row_groups(rows, [&]<int R>(int64_t r) {
        score_rows<R>(room.q + r * ld, ld, k, keys, s.width, r == 0 ? values : Ahead(),
                      room.scores + r * kChunkKeys);
      });
    });
    make_ready(s, room.scores, rows * kChunkKeys);
    for (int64_t r = 0; r < rows; r++) {
      float* const row = room.scores + r * kChunkKeys;
      const auto seen = s.visible(t.b, r % queries);
      for (int64_t j = 0; j < std::min(keys, seen.begin - key); j++) row[j] = -kInfinity;
      for (int64_t j = std::max<int64_t>(0, seen.end - key); j < keys; j++) row[j] = -kInfinity;
      weigh_row(row, keys, factor, state.top + r, state.sum + r, room.alpha + r);
    }
    with_rows(t.v, key, keys, s.value, [&](const auto& v) {
      row_groups(rows, [&]<int R>(int64_t r) {
        add_rows<R>(room.scores + r * kChunkKeys, room.alpha + r, v, keys, s.value,
                    r == 0 ? next : Ahead(), state.sums + r * state.ld, state.ld);
      });
    });
  }
  with_rows(t.v, lo, 0, s.value, [&](const auto& v) {
    for (int64_t r = 0; r < rows; r++) v.restore(state.sums + r * state.ld, s.value, room.row);
  });
}

// Row r of one key/value head from its pieces, `distance` bytes apart.
void join_pieces(const AttentionShape& s, const AttentionPlan& plan, char* pieces,
                 const HeadView& to, float* lse, int64_t b, int64_t group, int64_t r) {
  const DF d;
  const float factor = to_exponent(s);
  const DecodeState first(s, pieces);
  float top = -kInfinity, sum = 0;
  for (int64_t i = 0; i < plan.pieces; i++) {
    top = std::max(top, DecodeState(s, pieces + i * first.bytes).top[r]);
  }
  const float shift = top == -kInfinity ? 0 : top * factor;
  float* const out = first.sums + r * first.ld;
  for (int64_t i = 0; i < plan.pieces; i++) {
    const DecodeState piece(s, pieces + i * first.bytes);
    const VF by = exp2_not_large(d, hn::Set(d, piece.top[r] * factor - shift));
    sum += piece.sum[r] * hn::GetLane(by);
    const float* const from = piece.sums + r * first.ld;
    for (int64_t j = 0; j < s.value; j += lanes()) {
      const VF before = i == 0 ? hn::Zero(d) : hn::LoadU(d, out + j);
      hn::StoreU(hn::MulAdd(hn::LoadU(d, from + j), by, before), d, out + j);
    }
  }
  const int64_t h = group * (s.heads / s.groups) + r / s.queries, i = r % s.queries;
  if (lse)
    lse[(b * s.heads + h) * s.queries + i] = sum == 0 ? -kInfinity : shift * kLn2 + std::log(sum);
  const VF inverse = hn::Set(d, sum == 0 ? 0 : 1 / sum);
  with_type(s.type, [&](auto x) {
    auto* const row = static_cast<decltype(x)*>(element_at(to, s.type, b, h, i));
    for (int64_t j = 0; j < s.value; j += lanes()) {
      const VF y = hn::Mul(hn::LoadU(d, out + j), inverse);
      if (j + lanes() <= s.value) {
        store(y, d, row + j);
      } else {
        store_n(y, d, row + j, s.value - j);
      }
    }
  });
}

}  // namespace lmxlab::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lmxlab::kernels {
namespace {

HWY_EXPORT(decode_task);
HWY_EXPORT(join_pieces);

}  // namespace

bool is_decode(const AttentionShape& s, bool quantized) {
  return s.rows() <= (quantized ? kMostQuantizedRows : kMostRows);
}

AttentionPlan plan_decode(const AttentionShape& s, bool cut) {
  AttentionPlan plan{};
  const int64_t heads = s.batch * s.groups;
  const int64_t key_bytes = (s.width + s.value) * size_of(s.type);
  // A piece takes longer than handing it out; little work stays on one thread.
  const int64_t least = round_up(std::max<int64_t>(1, (32 << 10) / key_bytes), kChunkKeys);
  const int64_t most = std::max<int64_t>(1, s.keys / least);
  const int64_t wanted = threads() == 1 || !cut ? 1 : (4 * threads() + heads - 1) / heads;
  int64_t pieces = std::min(most, wanted);
  // As many tasks for each thread, if a few more pieces do it.
  for (int64_t n = pieces; cut && n <= std::min<int64_t>(most, pieces + threads()); n++) {
    if (heads * n % threads() == 0) {
      pieces = n;
      break;
    }
  }
  plan.piece = round_up(std::max<int64_t>(1, (s.keys + pieces - 1) / pieces), kPieceKeys);
  plan.pieces = std::max<int64_t>(1, (s.keys + plan.piece - 1) / plan.piece);
  const bool little = heads * s.keys * key_bytes < (48 << 10);
  plan.slots = little ? 1 : std::min<int64_t>(threads(), heads * plan.pieces);
  plan.slot_bytes = DecodeRoom(s, nullptr).bytes;
  plan.bytes = plan.slots * plan.slot_bytes + heads * plan.pieces * DecodeState(s, nullptr).bytes;
  return plan;
}

void attention_decode(const AttentionShape& s, const AttentionPlan& plan, const HeadView& q,
                      const CacheView& k, const CacheView& v, const HeadView& out, float* lse,
                      char* workspace) {
  const int64_t heads = s.batch * s.groups, bytes = DecodeState(s, nullptr).bytes;
  char* const states = workspace + plan.slots * plan.slot_bytes;
  share(plan.slots, heads * plan.pieces, [&](int64_t slot, int64_t task) {
    const int64_t piece = task % plan.pieces, head = task / plan.pieces;
    const DecodeTask t{q,
                       k,
                       v,
                       head / s.groups,
                       head % s.groups,
                       piece * plan.piece,
                       std::min(s.keys, (piece + 1) * plan.piece)};
    HWY_DYNAMIC_DISPATCH(decode_task)
    (s, t, DecodeRoom(s, workspace + slot * plan.slot_bytes),
     DecodeState(s, states + task * bytes));
  });
  const int64_t rows = s.rows();
  const int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(1, plan.pieces * s.value));
  parallel_for(heads * rows, grain, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++) {
      const int64_t head = i / rows;
      HWY_DYNAMIC_DISPATCH(join_pieces)
      (s, plan, states + head * plan.pieces * bytes, out, lse, head / s.groups, head % s.groups,
       i % rows);
    }
  });
}

}  // namespace lmxlab::kernels
#endif
