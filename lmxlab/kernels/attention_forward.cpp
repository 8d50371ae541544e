// Attention in blocks with online softmax (FlashAttention-2, Dao 2023, arXiv:2307.08691).
//
// A strip holds nr queries; its scores lie transposed, keys downwards, so that softmax works along
// vectors and the weights are at once a packed operand of the next product.
#include <algorithm>
#include <cstdint>

#include "lmxlab/kernels/attention_parts.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lmxlab/kernels/attention_forward.cpp"
#include <hwy/foreach_target.h>
// Highway's headers come after foreach_target.h.
#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include "lmxlab/kernels/attention-inl.h"

#ifndef LMXLAB_KERNELS_ATTENTION_FORWARD_ONCE
#define LMXLAB_KERNELS_ATTENTION_FORWARD_ONCE
namespace lmxlab::kernels {

struct ForwardTask {
  HeadView q, k, v, out;
  float* lse;
  int64_t b, group, first_strip, last_strip;
};

// A task's workspace. Most of it are the keys and values of one head, packed.
struct ForwardSpace {
  char *keys, *values, *queries;
  float *scores, *sums, *rows;
  uint16_t* weights;
  char* gathered;
  int64_t bytes, block, ld;

  ForwardSpace(const AttentionShape& s, const AttentionPlan& plan, char* memory) {
    const auto& f = plan.rows;
    block = 512 / f.mr * f.mr;  // keys whose scores wait together
    ld = round_up(std::max(s.value, s.width), 16);
    Slices slices(memory);
    keys = slices.take<char>(left_bytes(f, s.keys, s.width));
    values = slices.take<char>(left_bytes(f, s.value, s.keys));
    queries = slices.take<char>(f.b_strip(round_up(s.width, 16)));
    gathered = slices.take<char>(f.nr * s.width * size_of(s.type));
    scores = slices.take<float>(block * f.nr);
    weights = slices.take<uint16_t>(f.bf16 ? round_up(block, f.kr) * f.nr : 0);
    sums = slices.take<float>(s.value * f.nr);
    rows = slices.take<float>(f.nr * ld);
    bytes = slices.used();
  }
};

}  // namespace lmxlab::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace lmxlab::kernels::HWY_NAMESPACE {

// Running maximum and sum of weights of each query.
struct Softmax {
  HWY_ALIGN float top[Strip::kMost];
  HWY_ALIGN float sum[Strip::kMost];
};

// The shift that keeps exponents below 0; a query that has seen nothing needs none.
HWY_INLINE VF shift_of(VF top, VF factor) {
  const DF d;
  return hn::IfThenZeroElse(hn::Eq(top, hn::Set(d, -kInfinity)), hn::Mul(top, factor));
}

void raise_top(const float* scores, int64_t rows, float* top) {
  const DF d;
  const int64_t n = lanes();
  VF a = hn::LoadU(d, top), b = hn::LoadU(d, top + n), e = a, f = b;
  int64_t j = 0;
  for (; j + 2 <= rows; j += 2, scores += 4 * n) {
    a = hn::Max(a, hn::LoadU(d, scores));
    b = hn::Max(b, hn::LoadU(d, scores + n));
    e = hn::Max(e, hn::LoadU(d, scores + 2 * n));
    f = hn::Max(f, hn::LoadU(d, scores + 3 * n));
  }
  if (j < rows) {
    a = hn::Max(a, hn::LoadU(d, scores));
    b = hn::Max(b, hn::LoadU(d, scores + n));
  }
  hn::StoreU(hn::Max(a, e), d, top);
  hn::StoreU(hn::Max(b, f), d, top + n);
}

// scores = 2^(factor scores - shift), and adds them up.
void weigh(float* scores, int64_t rows, float factor, Softmax& state) {
  const DF d;
  const int64_t n = lanes();
  const VF c = hn::Set(d, factor);
  const VF shift0 = shift_of(hn::LoadU(d, state.top), c);
  const VF shift1 = shift_of(hn::LoadU(d, state.top + n), c);
  VF sum0 = hn::LoadU(d, state.sum), sum1 = hn::LoadU(d, state.sum + n);
  for (int64_t j = 0; j < rows; j++, scores += 2 * n) {
    const VF p0 = exp2_not_large(d, hn::MulSub(hn::LoadU(d, scores), c, shift0));
    const VF p1 = exp2_not_large(d, hn::MulSub(hn::LoadU(d, scores + n), c, shift1));
    sum0 = hn::Add(sum0, p0);
    sum1 = hn::Add(sum1, p1);
    hn::StoreU(p0, d, scores);
    hn::StoreU(p1, d, scores + n);
  }
  hn::StoreU(sum0, d, state.sum);
  hn::StoreU(sum1, d, state.sum + n);
}

#if LMXLAB_ATTENTION_BF16
// The same into a packed strip of bfloat16, filled up with zeros.
void weigh_bf16(const float* scores, int64_t rows, float factor, Softmax& state, uint16_t* to) {
  const DF d;
  const VF c = hn::Set(d, factor);
  const VF shift0 = shift_of(hn::LoadU(d, state.top), c);
  const VF shift1 = shift_of(hn::LoadU(d, state.top + 16), c);
  VF sum0 = hn::LoadU(d, state.sum), sum1 = hn::LoadU(d, state.sum + 16);
  const auto weight = [&](const float* at, VF shift, VF& sum) {
    const VF p = exp2_not_large(d, hn::MulSub(hn::LoadU(d, at), c, shift));
    sum = hn::Add(sum, p);
    return rounded(p);
  };
  for (int64_t j = 0; j < rows; j += 2, scores += 64) {
    uint16_t* const pair = to + j / 32 * 1024 + j % 32 * 16;
    const bool last = j + 1 == rows;
    const Words none = hn::Zero(hn::RebindToUnsigned<DF>());
    const Words a0 = weight(scores, shift0, sum0);
    const Words a1 = weight(scores + 16, shift1, sum1);
    const Words b0 = last ? none : weight(scores + 32, shift0, sum0);
    const Words b1 = last ? none : weight(scores + 48, shift1, sum1);
    store_pairs(a0, b0, pair);
    store_pairs(a1, b1, pair + 512);
  }
  for (int64_t j = round_up(rows, 2); j % 32 != 0; j += 2) {
    uint16_t* const pair = to + j / 32 * 1024 + j % 32 * 16;
    std::memset(pair, 0, 64);
    std::memset(pair + 512, 0, 64);
  }
  hn::StoreU(sum0, d, state.sum);
  hn::StoreU(sum1, d, state.sum + 16);
}
#endif

// What was summed up under a lower maximum.
void rescale(const float* top_before, Softmax& state, float factor, float* sums, int64_t width) {
  const DF d;
  const int64_t n = lanes();
  const VF c = hn::Set(d, factor);
  for (int64_t at = 0; at < 2 * n; at += n) {
    const VF before = hn::LoadU(d, top_before + at), top = hn::LoadU(d, state.top + at);
    if (hn::AllTrue(d, hn::Eq(before, top))) continue;
    const VF by = exp2_not_large(d, hn::MulSub(before, c, shift_of(top, c)));
    hn::StoreU(hn::Mul(hn::LoadU(d, state.sum + at), by), d, state.sum + at);
    for (int64_t i = 0; i < width; i++) {
      float* const x = sums + i * 2 * n + at;
      hn::StoreU(hn::Mul(hn::LoadU(d, x), by), d, x);
    }
  }
}

// The packed keys and values from the j-th on, a multiple of mr.
Left keys_from(const AttentionPlan& plan, const AttentionShape& s, const ForwardSpace& space,
               int64_t j) {
  const int64_t row = plan.rows.bf16 ? plan.rows.a_strip(s.width) / plan.rows.mr : s.width * 4;
  return {space.keys + j * row, s.width};
}
Left values_from(const AttentionPlan& plan, const AttentionShape& s, const ForwardSpace& space,
                 int64_t j, int64_t packed) {
  if (plan.rows.bf16) return {space.values + j * plan.columns.mr * 2, packed};
  return {space.values + j * s.value * 4, s.value};
}

template <class T>
void forward_strip(const AttentionShape& s, const AttentionPlan& plan, const ForwardTask& t,
                   const ForwardSpace& space, const Strip& strip, int64_t base,
                   int64_t packed_keys) {
  const DF d;
  const auto& f = plan.rows;
  const int64_t nr = f.nr;
  const float factor = to_exponent(s);
  const GroupView q(t.q, s, t.b, t.group), out(t.out, s, t.b, t.group);
  auto* const gathered = reinterpret_cast<T*>(space.gathered);
  gather_rows(q, strip, s.width, gathered);
  pack_strip(f, gathered, s.type, s.width, space.queries);
  prefetch_rows<T>(out, strip, s.value);
  Softmax state;
  std::fill_n(state.top, nr, -kInfinity);
  std::fill_n(state.sum, nr, 0.0f);
  bool first = true;
  for (int64_t j = (strip.lo - base) / f.mr * f.mr; j < strip.hi - base; j += space.block) {
    const int64_t rows = std::min(space.block, strip.hi - base - j);
    multiply_range(f, keys_from(plan, s, space, j), {space.queries, s.width}, rows, nr, 0, s.width,
                   space.scores, nr, false);
    make_ready(s, space.scores, rows * nr);
    hide(strip, base + j, rows, space.scores);
    HWY_ALIGN float before[Strip::kMost];
    std::copy_n(state.top, nr, before);
    raise_top(space.scores, rows, state.top);
    if (!first) rescale(before, state, factor, space.sums, s.value);
    const void* weights = space.scores;
#if LMXLAB_ATTENTION_BF16
    if (f.bf16) {
      weigh_bf16(space.scores, rows, factor, state, space.weights);
      weights = space.weights;
    } else {
      weigh(space.scores, rows, factor, state);
    }
#else
    weigh(space.scores, rows, factor, state);
#endif
    multiply_range(plan.columns, values_from(plan, s, space, j, packed_keys), {weights, rows},
                   s.value, nr, 0, rows, space.sums, nr, !first);
    first = false;
  }
  if (first) std::fill_n(space.sums, s.value * nr, 0.0f);
  HWY_ALIGN float inverse[Strip::kMost], lse[Strip::kMost];
  for (int64_t at = 0; at < nr; at += lanes()) {
    const VF sum = hn::LoadU(d, state.sum + at), top = hn::LoadU(d, state.top + at);
    const auto nothing = hn::Eq(sum, hn::Zero(d));
    const VF shift = hn::Mul(shift_of(top, hn::Set(d, factor)), hn::Set(d, kLn2));
    hn::StoreU(hn::IfThenZeroElse(nothing, hn::Div(hn::Set(d, 1.0f), sum)), d, inverse + at);
    const VF log = hn::Add(shift, hn::Log(d, sum));
    hn::StoreU(hn::IfThenElse(nothing, hn::Set(d, -kInfinity), log), d, lse + at);
  }
  rows_of_strip(space.sums, s.value, inverse, space.rows, space.ld);
  scatter_rows<T>(space.rows, space.ld, out, strip, s.value);
  const int64_t first_head = t.b * s.heads + t.group * (s.heads / s.groups);
  for (int64_t c = 0; c < nr; c++) {
    if (strip.query[c] >= 0) {
      t.lse[(first_head + strip.head[c]) * s.queries + strip.query[c]] = lse[c];
    }
  }
}

template <class T>
void forward_task_of(const AttentionShape& s, const AttentionPlan& plan, const ForwardTask& t,
                     char* memory) {
  const ForwardSpace space(s, plan, memory);
  const Columns columns(s, plan.rows.nr);
  int64_t lo = s.keys, hi = 0;
  for (int64_t i = t.first_strip; i < t.last_strip; i++) {
    const Strip strip(s, columns, i, t.b);
    if (strip.lo == strip.hi) continue;
    lo = std::min(lo, strip.lo);
    hi = std::max(hi, strip.hi);
  }
  if (lo < hi) {
    pack_left(plan.rows, static_cast<const T*>(element_at(t.k, s.type, t.b, t.group, lo)), t.k.row,
              s.type, hi - lo, s.width, space.keys);
    pack_left(plan.columns, static_cast<const T*>(element_at(t.v, s.type, t.b, t.group, lo)),
              t.v.row, s.type, hi - lo, s.value, space.values);
  }
  const GroupView q(t.q, s, t.b, t.group);
  Strip strip(s, columns, t.first_strip, t.b);
  for (int64_t i = t.first_strip; i < t.last_strip; i++) {
    const Strip next(s, columns, i + 1, t.b);
    if (i + 1 < t.last_strip) prefetch_rows<T>(q, next, s.width);
    forward_strip<T>(s, plan, t, space, strip, lo, hi - lo);
    strip = next;
  }
}

void forward_task(const AttentionShape& s, const AttentionPlan& plan, const ForwardTask& t,
                  char* memory) {
  with_type(s.type, [&](auto x) { forward_task_of<decltype(x)>(s, plan, t, memory); });
}

}  // namespace lmxlab::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lmxlab::kernels {
namespace {

HWY_EXPORT(forward_task);

constexpr int64_t kLeastQueries = 128;  // of a task, so that packing the keys is a small part

}  // namespace

AttentionPlan plan_forward(const AttentionShape& s) {
  AttentionPlan plan{};
  plan.rows = panels::format(s.type, panels::Order::rows);
  plan.columns = panels::format(s.type, panels::Order::columns);
  const Columns columns(s, plan.rows.nr);
  const int64_t heads = s.batch * s.groups;
  const int64_t most = std::max<int64_t>(1, columns.strips() * plan.rows.nr / kLeastQueries);
  const int64_t wanted = threads() == 1 ? 1 : (4 * threads() + heads - 1) / heads;
  plan.pieces = std::min(most, wanted);
  plan.slots = std::min<int64_t>(threads(), heads * plan.pieces);
  plan.slot_bytes = ForwardSpace(s, plan, nullptr).bytes;
  plan.bytes = plan.slots * plan.slot_bytes;
  return plan;
}

void attention_forward(const AttentionShape& s, const AttentionPlan& plan, HeadView q, HeadView k,
                       HeadView v, HeadView out, float* lse, char* workspace) {
  const int64_t strips = Columns(s, plan.rows.nr).strips();
  share(plan.slots, s.batch * s.groups * plan.pieces, [&](int64_t slot, int64_t task) {
    const int64_t piece = task % plan.pieces, head = task / plan.pieces;
    const ForwardTask t{q,
                        k,
                        v,
                        out,
                        lse,
                        head / s.groups,
                        head % s.groups,
                        strips * piece / plan.pieces,
                        strips * (piece + 1) / plan.pieces};
    HWY_DYNAMIC_DISPATCH(forward_task)(s, plan, t, workspace + slot * plan.slot_bytes);
  });
}

}  // namespace lmxlab::kernels
#endif
