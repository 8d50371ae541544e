// Attention whose sums for a query begin at the first key it sees and go on one after another: what
// decoding does, a query at a time and in one piece.
#include <vector>

#include "lmxlab/kernels/attention_parts.h"

namespace lmxlab::kernels {
namespace {

AttentionShape one_query(AttentionShape s) {
  s.queries = 1, s.pads_of_queries = false;
  return s;
}

}  // namespace

AttentionPlan plan_one_order(const AttentionShape& s) {
  return plan_decode(one_query(s), false);
}

void attention_one_order(const AttentionShape& s, const AttentionPlan& plan, const HeadView& q,
                         const CacheView& k, const CacheView& v, const HeadView& out, float* lse,
                         char* workspace) {
  const auto heads = static_cast<size_t>(s.batch * s.heads);
  std::vector<float> sums(heads);
  std::vector<int32_t> pads(s.pads ? static_cast<size_t>(s.batch) : 0);
  for (int64_t i = 0; i < s.queries; i++) {
    auto one = one_query(s);
    if (s.causal) one.keys = std::max<int64_t>(0, s.keys - s.queries + i + 1);
    for (size_t b = 0; b < pads.size(); b++)
      pads[b] = static_cast<int32_t>(s.first_key(static_cast<int64_t>(b), i));
    if (s.pads) one.pads = pads.data();
    const auto from = [&](HeadView view) {
      view.data += i * view.row * size_of(s.type);
      return view;
    };
    attention_decode(one, plan, from(q), k, v, from(out), sums.data(), workspace);
    for (size_t h = 0; lse && h < heads; h++)
      lse[static_cast<int64_t>(h) * s.queries + i] = sums[h];
  }
}

}  // namespace lmxlab::kernels
