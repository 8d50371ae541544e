#include "lmxlab/core/stable_scan.h"

#include "lmxlab/core/chunks.h"
#include "lmxlab/core/scan.h"
#include "lmxlab/kernels/fused.h"
#include "lmxlab/kernels/wkv_scan.h"

#include <mlx/ops.h>

namespace lmxlab::core {
namespace {

mx::array f32(const mx::array& x) {
  return mx::astype(x, mx::float32);
}
mx::array column(const mx::array& x) {
  return mx::expand_dims(x, -1);
}
mx::array transposed(const mx::array& x) {
  return mx::swapaxes(x, -1, -2);
}

// Sums a exp(most) and b exp(most) of values and of their weights. The exponent is a constant to
// gradients: they run through a and b.
struct Mean {
  mx::array a, b, most;
};
Mean one_position(const mx::array& key, const mx::array& value) {
  const auto most = mx::stop_gradient(key);
  const auto weight = mx::exp(mx::subtract(key, most));
  return {mx::multiply(weight, value), weight, most};
}
// x + y, x with the exponent `at` by now.
Mean sum(const Mean& x, const mx::array& at, const Mean& y) {
  const auto most = mx::stop_gradient(mx::maximum(at, y.most));
  const auto left = mx::exp(mx::subtract(at, most)), right = mx::exp(mx::subtract(y.most, most));
  const auto both = [&](const mx::array& p, const mx::array& q) {
    return mx::add(mx::multiply(left, p), mx::multiply(right, q));
  };
  return {both(x.a, y.a), both(x.b, y.b), most};
}
// Of one chunk [B, C, I] -> [B, I].
Mean of_chunk(const Mean& x, int chunk) {
  const auto take = [&](const mx::array& p) { return mx::take(p, chunk, 1); };
  return {take(x.a), take(x.b), take(x.most)};
}

}  // namespace

LogScanned wkv_scan(const mx::array& k, const mx::array& v, const mx::array& w, const mx::array& u,
                    const std::optional<LogState>& state) {
  const int B = k.shape(0), C = k.shape(2);
  if (kernels::fused(mx::float32)) {
    const auto sums = state ? f32(state->sums) : mx::zeros({B, 2, C}, mx::float32);
    const auto most = state ? f32(state->most) : mx::full({B, C}, kNever, mx::float32);
    const auto done = kernels::wkv_scan(f32(k), f32(v), f32(w), f32(u), sums, most);
    return {done.out, {done.sums, done.most}};
  }
  const Cut cut(k.shape(1), kScanPositions);
  const auto rate = f32(w);
  const auto after = [&](const mx::array& most, int positions) {
    return mx::subtract(most, mx::multiply(rate, mx::array(static_cast<float>(positions))));
  };
  const auto zero = mx::zeros({B, C}, mx::float32);
  Mean s{zero, zero, mx::full({B, C}, kNever, mx::float32)};
  if (state) {
    const auto sums = apart(f32(state->sums), 1);
    s = {sums[0], sums[1], f32(state->most)};
  }
  const auto kept = [&] { return LogState{mx::stack({s.a, s.b}, 1), s.most}; };
  if (cut.length == 1) {
    const auto key = mx::squeeze(f32(k), 1), value = mx::squeeze(f32(v), 1);
    const auto mean = sum(s, s.most, one_position(mx::add(f32(u), key), value));
    s = sum(s, after(s.most, 1), one_position(key, value));
    return {mx::expand_dims(mx::divide(mean.a, mean.b), 1), kept()};
  }
  const auto kc = cut(k, 1), vc = cut(v, 1);  // [B, C, Q, I]
  // What the positions of a chunk up to each of them add, in all chunks at once.
  const auto keys = apart(kc, 2), values = apart(vc, 2);
  std::vector<Mean> own{one_position(keys[0], values[0])};
  for (size_t t = 1; t < keys.size(); ++t)
    own.push_back(sum(own.back(), after(own.back().most, 1), one_position(keys[t], values[t])));
  // What stands before each chunk.
  std::vector<mx::array> a, b, most;
  for (int c = 0; c < cut.count; ++c) {
    a.push_back(s.a), b.push_back(s.b), most.push_back(s.most);
    const int seen = c + 1 < cut.count ? cut.size : cut.rest();
    s = sum(s, after(s.most, seen), of_chunk(own[static_cast<size_t>(seen - 1)], c));
  }
  // Each output is a mean of three parts: before the chunk, in it, and the position's own.
  const auto before = [&](mx::array Mean::*part, float nothing) {
    std::vector<mx::array> all{mx::full(keys[0].shape(), nothing, mx::float32)};
    for (size_t t = 0; t + 1 < own.size(); ++t) all.push_back(own[t].*part);
    return mx::stack(all, 2);
  };
  const auto of_start = [](const std::vector<mx::array>& parts) {
    return mx::expand_dims(mx::stack(parts, 1), 2);
  };
  const Mean start{of_start(a), of_start(b), of_start(most)};
  const Mean within{before(&Mean::a, 0), before(&Mean::b, 0), before(&Mean::most, kNever)};
  const auto passed = mx::multiply(column(mx::arange(0, cut.size, mx::float32)), rate);
  const auto seen = sum(start, mx::subtract(start.most, passed), within);
  const auto mean = sum(seen, seen.most, one_position(mx::add(f32(u), kc), vc));
  const auto out = mx::divide(mean.a, mean.b);
  return {cut.joined(out, 1), kept()};
}

LogScanned mlstm_scan(const mx::array& q, const mx::array& k, const mx::array& v,
                      const mx::array& i, const mx::array& f, float eps,
                      const std::optional<LogState>& state) {
  const int B = q.shape(0), H = q.shape(1), L = q.shape(2), N = q.shape(3), P = v.shape(3);
  auto s = state ? f32(state->sums) : mx::zeros({B, H, N, P + 1}, mx::float32);
  auto m = state ? f32(state->most) : mx::zeros({B, H}, mx::float32);
  // Of values and their weights [..., P + 1], and of m.
  const auto output = [&](const mx::array& both, const mx::array& most) {
    const auto parts = mx::split(both, mx::Shape{P}, -1);
    const auto least = column(mx::exp(mx::negative(most)));
    return mx::divide(parts[0], mx::add(mx::maximum(mx::abs(parts[1]), least), mx::array(eps)));
  };
  const auto wide = mx::concatenate({f32(v), mx::ones({B, H, L, 1}, mx::float32)}, -1);
  if (L == 1) {
    const auto only = [](const mx::array& x) { return mx::squeeze(f32(x), 2); };
    const auto next = mx::maximum(mx::add(only(f), m), only(i));
    const auto keep = column(column(mx::exp(mx::subtract(mx::add(only(f), m), next))));
    const auto write = column(column(mx::exp(mx::subtract(only(i), next))));
    const auto written = mx::multiply(mx::multiply(transposed(f32(k)), wide), write);
    s = mx::add(mx::multiply(s, keep), written);
    return {output(mx::matmul(f32(q), s), column(next)), {s, next}};
  }
  const Cut cut(L, kScanChunk);
  const auto qc = cut(q, 2), kc = cut(k, 2), vc = cut(wide, 2);  // [B, H, C, Q, *]
  const auto ic = cut(i, 2, kNever), fc = cut(f, 2);             // [B, H, C, Q]
  // Exponents of what position j has left in a later one of its chunk: the decays between are
  // summed for themselves, since differences of running sums would cancel.
  const auto lower = [&](int diagonal) { return mx::tri(cut.size, cut.size, diagonal, mx::bool_); };
  const auto between = mx::cumsum(mx::where(lower(-1), column(fc), mx::array(0.0f)), -2);
  const auto left =
      mx::where(lower(0), mx::add(between, mx::expand_dims(ic, -2)), mx::array(kNever));
  // What a chunk adds to the state, with an exponent of its own.
  const auto to_end = mx::add(mx::cumsum(fc, -1, true, false), ic);
  const auto top = mx::max(to_end, -1);  // [B, H, C]
  const auto weights = column(mx::exp(mx::subtract(to_end, column(top))));
  const auto written = apart(mx::matmul(transposed(kc), mx::multiply(vc, weights)), 2);
  const auto tops = apart(top, 2), decays = apart(mx::sum(fc, -1), 2);
  std::vector<mx::array> starts, exponents;
  for (size_t c = 0; c < written.size(); ++c) {
    starts.push_back(s), exponents.push_back(m);
    const auto kept = mx::add(decays[c], m), next = mx::maximum(kept, tops[c]);
    const auto scaled = [&](const mx::array& x, const mx::array& at) {
      return mx::multiply(x, column(column(mx::exp(mx::subtract(at, next)))));
    };
    s = mx::add(scaled(s, kept), scaled(written[c], tops[c])), m = next;
  }
  const auto carried = mx::add(mx::cumsum(fc, -1), column(mx::stack(exponents, 2)));
  const auto most = mx::maximum(carried, mx::max(left, -1));
  const auto scores =
      mx::multiply(mx::matmul(qc, transposed(kc)), mx::exp(mx::subtract(left, column(most))));
  const auto before = mx::multiply(mx::matmul(qc, mx::stack(starts, 2)),
                                   column(mx::exp(mx::subtract(carried, most))));
  return {cut.joined(output(mx::add(mx::matmul(scores, vc), before), most), 2), {s, m}};
}

}  // namespace lmxlab::core
