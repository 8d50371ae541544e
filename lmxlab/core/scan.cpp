#include "lmxlab/core/scan.h"

#include "lmxlab/core/chunks.h"
#include "lmxlab/kernels/diagonal_scan.h"
#include "lmxlab/kernels/fused.h"
#include "lmxlab/kernels/selective_scan.h"
#include "lmxlab/kernels/state_scan.h"

#include <mlx/ops.h>

#include <algorithm>
#include <bit>
#include <vector>

namespace lmxlab::core {
namespace {

mx::array f32(const mx::array& x) {
  return mx::astype(x, mx::float32);
}
mx::array transposed(const mx::array& x) {
  return mx::swapaxes(x, -1, -2);
}
mx::array column(const mx::array& x) {
  return mx::expand_dims(x, -1);
}

// How heads and positions are laid out: [B, X, L, ...] -> [B, G, X / G, C, Q, ...].
struct Chunks {
  int groups, count, size;

  mx::array operator()(const mx::array& x) const {
    auto in = f32(x);
    const int more = count * size - x.shape(2);
    if (more > 0) in = mx::pad(in, std::vector<int>{2}, mx::Shape{0}, mx::Shape{more});
    mx::Shape shape{x.shape(0), groups, x.shape(1) / groups, count, size};
    if (x.ndim() == 4) shape.push_back(x.shape(3));
    return mx::reshape(in, shape);
  }
  // [B, G, R, C, Q, P] -> [B, H, L, P]
  mx::array joined(const mx::array& x, int length) const {
    const int B = x.shape(0), H = x.shape(1) * x.shape(2), P = x.shape(5);
    const auto all = mx::reshape(x, {B, H, count * size, P});
    return count * size == length ? all : mx::slice(all, {0, 0, 0, 0}, {B, H, length, P});
  }
  std::vector<mx::array> apart(const mx::array& x) const {
    return count == 1 ? std::vector{x} : mx::split(x, count, 3);
  }
};

// A state [B, H, N, P] beside chunks: [B, G, R, 1, N, P].
mx::array grouped(const mx::array& state, int groups) {
  return mx::reshape(f32(state), {state.shape(0), groups, state.shape(1) / groups, 1,
                                  state.shape(2), state.shape(3)});
}
mx::array ungrouped(const mx::array& s) {
  return mx::reshape(s, {s.shape(0), s.shape(1) * s.shape(2), s.shape(4), s.shape(5)});
}
mx::array joined(const std::vector<mx::array>& parts) {
  return parts.size() == 1 ? parts[0] : mx::concatenate(parts, 3);
}
// For the kernels: decays [B, H, L, 1 or N], the state [B, H, N, P], and what comes back.
mx::array decays(const mx::array& g) {
  return g.ndim() == 4 ? f32(g) : column(f32(g));
}
mx::array start_of(const std::optional<mx::array>& state, const mx::array& v, int rows) {
  return state ? f32(*state) : mx::zeros({v.shape(0), v.shape(1), rows, v.shape(3)}, mx::float32);
}
Scanned scanned(const kernels::StateScan& s) {
  return {s.out, s.state};
}

mx::array grouped_start(const std::optional<mx::array>& state, const mx::array& q,
                        const mx::array& v) {
  return state ? grouped(*state, q.shape(1))
               : mx::zeros(
                     {q.shape(0), q.shape(1), v.shape(1) / q.shape(1), 1, q.shape(3), v.shape(3)},
                     mx::float32);
}

mx::array lower(int size, int diagonal) {
  return mx::tri(size, size, diagonal, mx::bool_);
}
mx::array masked(const mx::array& mask, const mx::array& x) {
  return mx::where(mask, x, mx::array(0.0f));
}

// [..., Q] -> [..., Q, Q]: exp of the sum of g over (j, i], 0 where j > i. Each is summed for
// itself: differences of running sums would cancel behind a strong decay.
mx::array pairwise_decay(const mx::array& g) {
  const int Q = g.shape(-1);
  const auto sums = mx::cumsum(masked(lower(Q, -1), column(g)), -2);
  return masked(lower(Q, 0), mx::exp(sums));
}

// Sums from the chunk's start, position included, and to its end, position excluded.
mx::array from_start(const mx::array& g, int axis) {
  return mx::exp(mx::cumsum(g, axis));
}
mx::array to_end(const mx::array& g, int axis) {
  return mx::exp(mx::cumsum(g, axis, true, false));
}

mx::array halves(const mx::array& x) {  // [X, n, ...] -> [2 X, n / 2, ...], all left ones first
  return mx::concatenate(mx::split(x, 2, 1), 0);
}
// {{a, 0}, {b, d}} of `both` = a and d, one after the other.
mx::array block_lower(const mx::array& both, const mx::array& b) {
  const auto diagonal = mx::split(both, 2, 0);
  return mx::concatenate(
      {mx::concatenate({diagonal[0], mx::zeros_like(b)}, 2), mx::concatenate({b, diagonal[1]}, 2)},
      1);
}

// (I + a)^-1 for strictly lower a [X, n, n], n a power of two: halves at a time, all blocks of a
// size together. As stable as forward substitution, where powers of a would not be.
mx::array unit_lower_inverse(const mx::array& a) {
  const int n = a.shape(1), h = n / 2;
  if (n == 1) return mx::ones(a.shape(), mx::float32);
  const auto rows = mx::split(a, 2, 1);
  const auto top = mx::split(rows[0], 2, 2), bottom = mx::split(rows[1], 2, 2);
  const auto both = unit_lower_inverse(mx::concatenate({top[0], bottom[1]}, 0));
  if (h == 1) return block_lower(both, mx::negative(bottom[0]));
  const auto inverse = mx::split(both, 2, 0);
  return block_lower(both, mx::negative(mx::matmul(mx::matmul(inverse[1], bottom[0]), inverse[0])));
}

// sum over d of q_id k_jd exp(sum of g_ld over l in (j, i]), j <= i, for g [X, n, D] of each
// dimension: halves at a time, so that every exponent is a sum from or to a boundary, at most 0.
mx::array channel_products(const mx::array& q, const mx::array& k, const mx::array& g) {
  if (q.shape(1) == 1) return mx::sum(mx::multiply(q, k), -1, true);
  const auto late_q = mx::split(q, 2, 1)[1], early_k = mx::split(k, 2, 1)[0];
  const auto parts = mx::split(g, 2, 1);
  const auto across = mx::matmul(mx::multiply(late_q, from_start(parts[1], 1)),
                                 transposed(mx::multiply(early_k, to_end(parts[0], 1))));
  return block_lower(channel_products(halves(q), halves(k), halves(g)), across);
}

// How often what a position writes counts [B, H, L]: for itself and all later ones, and for the
// later ones alone.
struct Writes {
  mx::array now, later;
};

Scanned scan_linearly(const mx::array& q, const mx::array& k, const mx::array& v,
                      const mx::array& g, const std::optional<mx::array>& state,
                      const std::optional<Writes>& writes) {
  const int L = q.shape(2), size = std::min(L, kScanChunk);
  const Chunks chunks{q.shape(1), (L + size - 1) / size, size};
  const auto qc = chunks(q), kc = chunks(k), gc = chunks(g);
  auto vc = chunks(v);
  auto s = grouped_start(state, q, v);
  if (L == 1) {
    if (writes) vc = mx::multiply(vc, column(chunks(writes->now)));
    const auto decay = column(mx::exp(gc));
    s = mx::add(mx::multiply(s, decay), mx::multiply(transposed(kc), vc));
    return {chunks.joined(mx::matmul(qc, s), L), ungrouped(s)};
  }
  auto weights = mx::multiply(mx::matmul(qc, transposed(kc)), pairwise_decay(gc));
  auto left = to_end(gc, -1);
  if (writes) {
    const auto now = chunks(writes->now), later = chunks(writes->later);
    const auto seen =
        mx::add(mx::expand_dims(now, -2), masked(lower(size, -1), mx::expand_dims(later, -2)));
    weights = mx::multiply(weights, seen);
    left = mx::multiply(left, mx::add(now, later));
  }
  const auto within = mx::matmul(weights, vc);
  const auto written = mx::matmul(transposed(kc), mx::multiply(vc, column(left)));
  const auto decay = column(mx::exp(mx::sum(gc, -1, true)));
  const auto parts = chunks.apart(written), decays = chunks.apart(decay);
  std::vector<mx::array> starts;
  for (size_t c = 0; c < parts.size(); ++c) {
    starts.push_back(s);
    s = mx::add(mx::multiply(s, decays[c]), parts[c]);
  }
  const auto carried = mx::multiply(mx::matmul(qc, joined(starts)), column(from_start(gc, -1)));
  return {chunks.joined(mx::add(within, carried), L), ungrouped(s)};
}

// Positions [..., L, X], each with what the next one has, or with what the one before has; zeros
// where there is none.
mx::array moved(const mx::array& x, bool next) {
  const int L = x.shape(-2);
  auto start = mx::Shape(x.ndim(), 0), stop = x.shape(), rest = x.shape();
  const auto axis = static_cast<size_t>(x.ndim()) - 2;
  (next ? start[axis] : stop[axis]) += next ? 1 : -1;
  rest[axis] = 1;
  const auto zeros = mx::zeros(rest, x.dtype());
  if (L == 1) return zeros;
  const auto part = mx::slice(x, start, stop);
  return next ? mx::concatenate({part, zeros}, -2) : mx::concatenate({zeros, part}, -2);
}

}  // namespace

Scanned linear_scan(const mx::array& q, const mx::array& k, const mx::array& v, const mx::array& g,
                    const std::optional<mx::array>& state) {
  if (kernels::fused(mx::float32))
    return scanned(
        kernels::linear_scan(f32(q), f32(k), f32(v), decays(g), start_of(state, v, q.shape(3))));
  return scan_linearly(q, k, v, g, state, std::nullopt);
}

Scanned trapezoid_scan(const mx::array& q, const mx::array& k, const mx::array& v,
                       const mx::array& g, const mx::array& now, const mx::array& before,
                       const std::optional<mx::array>& state) {
  const auto later = mx::squeeze(moved(column(f32(before)), true), -1);
  if (kernels::fused(mx::float32)) {
    // Each position finds its own write with what later ones find of it, which is taken off.
    const auto written = mx::multiply(f32(v), column(mx::add(f32(now), later)));
    const auto done = linear_scan(q, k, written, g, state);
    const auto own =
        mx::repeat(mx::sum(mx::multiply(f32(q), f32(k)), -1), v.shape(1) / q.shape(1), 1);
    const auto more = mx::multiply(f32(v), column(mx::multiply(own, later)));
    return {mx::subtract(done.out, more), done.state};
  }
  return scan_linearly(q, k, v, g, state, Writes{now, later});
}

Scanned delta_scan(const mx::array& q, const mx::array& k, const mx::array& v, const mx::array& g,
                   const mx::array& beta, const std::optional<mx::array>& state) {
  const int L = q.shape(2);
  if (kernels::fused(mx::float32))
    return scanned(kernels::delta_scan(f32(q), f32(k), f32(v), decays(g), f32(beta),
                                       start_of(state, v, q.shape(3))));
  const int size = std::min(static_cast<int>(std::bit_ceil(static_cast<unsigned>(L))), kScanChunk);
  const Chunks chunks{q.shape(1), (L + size - 1) / size, size};
  const bool by_row = g.ndim() == 4;
  const auto qc = chunks(q), kc = chunks(k), vc = chunks(v), gc = chunks(g);
  const auto bc = column(chunks(beta));
  const auto rows = by_row ? gc : column(gc);  // [B, G, R, C, Q, N or 1]
  auto s = grouped_start(state, q, v);
  if (L == 1) {
    s = mx::multiply(s, transposed(mx::exp(rows)));
    const auto change = mx::multiply(bc, mx::subtract(vc, mx::matmul(kc, s)));
    s = mx::add(s, mx::multiply(transposed(kc), change));
    return {chunks.joined(mx::matmul(qc, s), L), ungrouped(s)};
  }
  // Products of queries and of keys with keys before them, decayed: [B, G, R, C, Q, Q].
  const auto between = by_row ? std::nullopt : std::optional(pairwise_decay(gc));
  const auto products = [&](const mx::array& x) {
    if (between) return mx::multiply(mx::matmul(x, transposed(kc)), *between);
    const auto flat = [&](const mx::array& a) { return mx::reshape(a, {-1, size, a.shape(5)}); };
    const auto p = channel_products(flat(x), flat(kc), flat(gc));
    return mx::reshape(p, {x.shape(0), x.shape(1), x.shape(2), chunks.count, size, size});
  };
  const auto seen = masked(lower(size, -1), mx::multiply(products(kc), bc));
  const auto solve =
      mx::reshape(unit_lower_inverse(mx::reshape(seen, {-1, size, size})), seen.shape());
  const auto entering = from_start(rows, -2);
  const auto wanted = mx::matmul(solve, mx::multiply(vc, bc));
  const auto read = mx::matmul(solve, mx::multiply(mx::multiply(kc, entering), bc));
  const auto keys = transposed(mx::multiply(kc, to_end(rows, -2)));
  const auto decay = transposed(mx::exp(mx::sum(rows, -2, true)));
  const auto u = chunks.apart(wanted), w = chunks.apart(read), kt = chunks.apart(keys),
             d = chunks.apart(decay);
  std::vector<mx::array> starts, changes;
  for (size_t c = 0; c < u.size(); ++c) {
    starts.push_back(s);
    changes.push_back(mx::subtract(u[c], mx::matmul(w[c], s)));
    s = mx::add(mx::multiply(s, d[c]), mx::matmul(kt[c], changes[c]));
  }
  const auto out = mx::add(mx::matmul(mx::multiply(qc, entering), joined(starts)),
                           mx::matmul(products(qc), joined(changes)));
  return {chunks.joined(out, L), ungrouped(s)};
}

Scanned dplr_scan(const mx::array& q, const mx::array& k, const mx::array& v, const mx::array& g,
                  const mx::array& b, const mx::array& c, const std::optional<mx::array>& state) {
  const int L = q.shape(2);
  if (kernels::fused(mx::float32))
    return scanned(kernels::dplr_scan(f32(q), f32(k), f32(v), decays(g), f32(b), f32(c),
                                      start_of(state, v, q.shape(3))));
  const int size = std::min(static_cast<int>(std::bit_ceil(static_cast<unsigned>(L))), kScanChunk);
  const Chunks chunks{q.shape(1), (L + size - 1) / size, size};
  const auto qc = chunks(q), kc = chunks(k), vc = chunks(v), gc = chunks(g);
  const auto bc = chunks(b), cc = chunks(c);  // [B, H, 1, C, Q, *]
  auto s = grouped_start(state, q, v);
  if (L == 1) {
    const auto change = mx::subtract(mx::multiply(transposed(kc), vc),
                                     mx::multiply(transposed(bc), mx::matmul(cc, s)));
    s = mx::add(mx::multiply(s, transposed(mx::exp(gc))), change);
    return {chunks.joined(mx::matmul(qc, s), L), ungrouped(s)};
  }
  // Products with what stands before, decayed: [B, H, 1, C, Q, Q]. c reads the state of the
  // position before its own, so that it is taken there.
  const auto flat = [&](const mx::array& a) { return mx::reshape(a, {-1, size, a.shape(5)}); };
  const auto early = flat(moved(cc, true)), rows = flat(gc), fq = flat(qc), fb = flat(bc),
             fk = flat(kc);
  const auto products = mx::split(channel_products(mx::concatenate({early, early, fq, fq}, 0),
                                                   mx::concatenate({fb, fk, fb, fk}, 0),
                                                   mx::concatenate({rows, rows, rows, rows}, 0)),
                                  4, 0);
  const auto solve = unit_lower_inverse(moved(products[0], false));
  const auto shaped = [&](const mx::array& a) {
    return mx::reshape(a, {q.shape(0), q.shape(1), 1, chunks.count, size, a.shape(2)});
  };
  const auto entering = mx::exp(mx::cumsum(gc, -2, false, false));  // without the position's own
  const auto wanted = shaped(mx::matmul(solve, mx::matmul(moved(products[1], false), flat(vc))));
  const auto read = shaped(mx::matmul(solve, flat(mx::multiply(cc, entering))));
  const auto left = to_end(gc, -2);
  const auto written = mx::matmul(transposed(mx::multiply(kc, left)), vc);
  const auto removed = transposed(mx::multiply(bc, left));
  const auto decay = transposed(mx::exp(mx::sum(gc, -2, true)));
  const auto u = chunks.apart(wanted), w = chunks.apart(read), p = chunks.apart(written),
             bt = chunks.apart(removed), d = chunks.apart(decay);
  std::vector<mx::array> starts, reads;
  for (size_t i = 0; i < u.size(); ++i) {
    starts.push_back(s);
    reads.push_back(mx::add(u[i], mx::matmul(w[i], s)));
    const auto change = mx::subtract(p[i], mx::matmul(bt[i], reads[i]));
    s = mx::add(mx::multiply(s, d[i]), change);
  }
  const auto carried = mx::matmul(mx::multiply(qc, from_start(gc, -2)), joined(starts));
  const auto within = mx::subtract(mx::matmul(shaped(products[3]), vc),
                                   mx::matmul(shaped(products[2]), joined(reads)));
  return {chunks.joined(mx::add(carried, within), L), ungrouped(s)};
}

Scanned selective_scan(const mx::array& x, const mx::array& dt, const mx::array& a,
                       const mx::array& b, const mx::array& c,
                       const std::optional<mx::array>& state) {
  const int B = x.shape(0), I = x.shape(2), N = a.shape(1);
  if (kernels::fused(mx::float32)) {
    const auto before = state ? mx::squeeze(f32(*state), 1) : mx::zeros({B, I, N}, mx::float32);
    const auto done = kernels::selective_scan(f32(x), f32(dt), f32(a), f32(b), f32(c), before);
    return {done.y, mx::expand_dims(done.state, 1)};
  }
  const Cut cut(x.shape(1), kScanPositions);
  const int count = cut.count;
  // The positions of all chunks, one after the other: each [B, C, *].
  const auto positions = [&](const mx::array& of) { return apart(cut(of, 1), 2); };
  const auto steps = positions(dt), inputs = positions(mx::multiply(f32(dt), f32(x)));
  const auto writes = positions(b), reads = positions(c);
  const auto after = [&](const std::optional<mx::array>& h, size_t i) {
    const auto written = mx::multiply(column(inputs[i]), mx::expand_dims(writes[i], -2));
    if (!h) return written;
    return mx::add(mx::multiply(mx::exp(mx::multiply(column(steps[i]), a)), *h), written);
  };
  auto h = state ? f32(*state) : mx::zeros({B, 1, I, N}, mx::float32);  // [B, C, I, N]
  if (count > 1) {
    std::optional<mx::array> own;  // of each chunk, from zero
    for (size_t i = 0; i < steps.size(); ++i) own = after(own, i);
    auto passed = steps[0];
    for (size_t i = 1; i < steps.size(); ++i) passed = mx::add(passed, steps[i]);
    const auto decays = mx::split(mx::exp(mx::multiply(column(passed), a)), count, 1);
    const auto parts = mx::split(*own, count, 1);
    std::vector<mx::array> starts{h};
    for (size_t i = 0; i + 1 < parts.size(); ++i)
      starts.push_back(mx::add(mx::multiply(starts.back(), decays[i]), parts[i]));
    h = mx::concatenate(starts, 1);
  }
  std::vector<mx::array> outs;
  for (size_t i = 0; i < steps.size(); ++i) {
    h = after(h, i);
    outs.push_back(mx::squeeze(mx::matmul(h, column(reads[i])), -1));
  }
  return {cut.joined(mx::stack(outs, 2), 1), mx::slice(h, {0, count - 1, 0, 0}, {B, count, I, N})};
}

Scanned elementwise_scan(const mx::array& g, const mx::array& x,
                         const std::optional<mx::array>& state) {
  const int B = x.shape(0), W = x.shape(2);
  const Cut cut(x.shape(1), kScanPositions);
  auto h = state ? f32(*state) : mx::zeros({B, W}, mx::float32);
  if (kernels::fused(mx::float32)) {
    const auto done = kernels::diagonal_scan(f32(g), f32(x), h);
    return {done.h, done.state};
  }
  if (cut.length == 1) {
    const auto out = mx::add(mx::multiply(mx::exp(f32(g)), mx::expand_dims(h, 1)), f32(x));
    return {out, mx::squeeze(out, 1)};
  }
  const auto gc = cut(g, 1), xc = cut(x, 1);  // [B, C, Q, W]
  // Each chunk from zero, then what stood before it, decayed.
  const auto decays = apart(mx::exp(gc), 2), inputs = apart(xc, 2);
  std::vector<mx::array> own{inputs[0]};
  for (size_t t = 1; t < inputs.size(); ++t)
    own.push_back(mx::add(mx::multiply(decays[t], own.back()), inputs[t]));
  const auto passed = from_start(gc, 2);
  const auto ends = apart(own.back(), 1), totals = apart(mx::take(passed, cut.size - 1, 2), 1);
  std::vector<mx::array> starts;
  for (size_t c = 0; c < ends.size(); ++c) {
    starts.push_back(h);
    h = mx::add(mx::multiply(totals[c], h), ends[c]);
  }
  const auto carried = mx::multiply(passed, mx::expand_dims(mx::stack(starts, 1), 2));
  return {cut.joined(mx::add(mx::stack(own, 2), carried), 1), h};
}

}  // namespace lmxlab::core
