#include "lmxlab/core/lightning.h"

#include "lmxlab/core/chunks.h"
#include "lmxlab/core/mask.h"
#include "lmxlab/core/scan.h"
#include "lmxlab/kernels/elementwise.h"
#include "lmxlab/kernels/rehearsal.h"

#include <mlx/ops.h>

#include <cmath>

namespace lmxlab::core {
namespace {

int inner(const config::Lightning& c) {
  return c.heads * c.head_dim;
}
mx::array activated(const mx::array& x) {
  return kernels::activate(kernels::Activation::silu, kernels::cast(x, mx::float32));
}
mx::array by_head(const mx::array& x) {  // [B, L, H, X] -> [B, H, L, X]
  return mx::swapaxes(x, 1, 2);
}
mx::array column(const mx::array& x) {
  return mx::expand_dims(x, -1);
}
mx::array range(int n) {
  return mx::arange(n, mx::int32);
}
mx::array columns(const mx::array& x, int from, int to) {  // of [B, L, ...]
  auto start = mx::Shape(x.ndim(), 0), stop = x.shape();
  start[1] = from, stop[1] = to;
  return mx::slice(x, start, stop);
}

// Where the L positions of a pass lie in blocks of P, of each row by its own count: in its first
// block stand `first` positions of earlier passes.
struct Blocks {
  Blocks(const Pass& pass, int length, int block)
      : first(pass.offset % block), past(block - 1), L(length) {
    if (pass.pads) {  // as many as it can be
      firsts = mx::remainder(mx::subtract(mx::array(pass.offset), *pass.pads), mx::array(block));
      first = past;
    }
    count = (first + L + past) / block;
    size = count == 1 ? first + L : block;
    whole = (first + L) / block;
  }

  // The P - 1 positions before the pass and its own, [B, *, ...] -> [B, count size, ...], each row
  // from the start of its first block on; zeros where there is none.
  mx::array lay_out(const std::optional<mx::array>& before, const mx::array& now) const {
    auto x = now;
    if (first > 0) {
      auto shape = now.shape();
      shape[1] = first;
      x = mx::concatenate(
          {before ? columns(*before, past - first, past) : mx::zeros(shape, now.dtype()), now}, 1);
    }
    const int slots = count * size, more = (firsts ? past : 0) + slots - x.shape(1);
    if (more > 0) x = mx::pad(x, std::vector<int>{1}, mx::Shape{0}, mx::Shape{more});
    return firsts ? picked(x, mx::subtract(mx::array(past), *firsts), slots) : x;
  }
  // The way back of what was computed there: [B, L, ...].
  mx::array take_back(const mx::array& x) const {
    return firsts ? picked(x, *firsts, L) : columns(x, first, first + L);
  }
  // The P - 1 positions before the next pass. A copy, or all of this one would be kept.
  mx::array last_of(const std::optional<mx::array>& before, const mx::array& now) const {
    if (L >= past) return mx::contiguous(columns(now, L - past, L));
    auto shape = now.shape();
    shape[1] = past - L;
    return mx::concatenate(
        {before ? columns(*before, L, past) : mx::zeros(shape, now.dtype()), now}, 1);
  }
  // Slots of the pass's positions in their first block: [1 or B, L].
  mx::array slots_of_pass() const {
    const auto of_row = firsts ? column(*firsts) : mx::array({first}, {1, 1}, mx::int32);
    return mx::add(of_row, range(L));
  }

  int first, past, L;
  std::optional<mx::array> firsts = {};  // int32 [B], where rows are padded
  int count = 0, size = 0;
  int whole = 0;  // blocks that are full behind the pass; of padded rows one less perhaps

 private:
  // n columns of each row from its own `from` [B] on.
  static mx::array picked(const mx::array& x, const mx::array& from, int n) {
    auto at = mx::add(column(from), range(n));
    while (at.ndim() < x.ndim()) at = column(at);
    return mx::take_along_axis(x, at, 1);
  }
};

}  // namespace

// Later layers look further back.
std::vector<float> decay_rates(int heads, int layer, int layers) {
  const double base = static_cast<float>(std::exp2(-8.0 / heads));
  const auto share = static_cast<float>(1 - layer / (layers - 1 + 1e-5) + 1e-5);
  std::vector<float> out;
  for (int h = 1; h <= heads; ++h) out.push_back(static_cast<float>(std::pow(base, h)) * share);
  return out;
}

float rounded_decay(const config::Lightning& c, double x) {
  const auto value = static_cast<float>(x);
  if (c.decays == config::Decays::bfloat16) return static_cast<float>(mx::bfloat16_t(value));
  if (c.decays == config::Decays::float16) return static_cast<float>(mx::float16_t(value));
  return value;
}

std::vector<float> decay_table(const config::Lightning& c, const std::vector<float>& rates) {
  std::vector<float> out;
  for (const float rate : rates)
    for (int d = 0; d <= c.block; ++d)
      out.push_back(rounded_decay(c, std::exp(-double(rate * static_cast<float>(d)))));
  return out;
}

Lightning::Lightning(const config::Lightning& c, const Build& b)
    : qkv_proj(b.dim, 3 * inner(c), false, b.std, b.init),
      output_gate(b.dim, inner(c), false, b.std, b.init),
      norm(config::RmsNorm{.eps = c.norm_eps}, inner(c)),
      out_proj(inner(c), b.dim, false, b.residual_std, b.init),
      config_(c),
      rates_(decay_rates(c.heads, b.layer, b.layers)) {
  if (c.decays != config::Decays::exact) table_ = decay_table(c, rates_);
}

std::unique_ptr<LayerCache> Lightning::make_cache(const CacheOptions&) const {
  const auto& c = config_;
  std::vector<StateArray> arrays{{"state", {c.heads, c.head_dim, c.head_dim}}};
  // What k and v are made of, of the positions since; it begins at the start of a block.
  if (c.decays != config::Decays::exact)
    arrays.push_back({"window", {c.block - 1, c.heads, 2 * c.head_dim}});
  return std::make_unique<StateCache>(std::move(arrays));
}

mx::array Lightning::mix(const Arrays& projected, Pass& pass) const {
  const auto& c = config_;
  const auto type = projected[0].dtype();
  const int B = projected[0].shape(0), L = projected[0].shape(1);
  auto all = projected[0];
  if (const auto tokens = token_columns(pass, L))
    all = mx::where(*tokens, all, mx::array(0.0f, type));
  const auto qkv = mx::reshape(all, {B, L, c.heads, 3 * c.head_dim});
  const auto out = c.decays == config::Decays::exact ? by_exact(qkv, pass) : by_blocks(qkv, pass);
  const auto y = norm(mx::reshape(out, {B, L, inner(c)}));
  const auto gate = kernels::cast(projected[1], mx::float32);
  return kernels::cast(kernels::gated(kernels::Activation::sigmoid, gate, y), type);
}

// qkv [B, L, H, 3 D] -> [B, L, H, D] float32, and so the next.
mx::array Lightning::by_exact(const mx::array& qkv, Pass& pass) const {
  const int B = qkv.shape(0), L = qkv.shape(1), H = config_.heads;
  const auto parts = mx::split(by_head(activated(qkv)), 3, -1);
  const auto g =
      mx::broadcast_to(column(mx::negative(mx::array(rates_.data(), {H}, mx::float32))), {B, H, L});
  auto* kept = pass.states();
  const auto scanned =
      linear_scan(parts[0], parts[1], parts[2], g, kept ? kept->state(0) : std::nullopt);
  if (kept) kept->put({scanned.state}, L);
  return by_head(scanned.out);
}

// As linear_scan's composition, but that blocks lie where the text has them: the positions of the
// current one before the pass come from the cache, beside the state at its start.
mx::array Lightning::by_blocks(const mx::array& qkv, Pass& pass) const {
  const auto& c = config_;
  const int B = qkv.shape(0), L = qkv.shape(1), H = c.heads, D = c.head_dim, P = c.block;
  const Blocks blocks(pass, L, P);
  const int C = blocks.count, Q = blocks.size;
  auto* kept = pass.states();
  const auto state = kept ? kept->state(0) : std::nullopt;
  const auto window = kept ? kept->state(1) : std::nullopt;
  const auto cut = [&](const mx::array& x, int n) {  // [B, C n, H, X] -> [B, H, C, n, X] float32
    return mx::reshape(by_head(activated(x)), {B, H, C, n, x.shape(3)});
  };
  const auto new_q = last_columns(qkv, 0, D), new_kv = last_columns(qkv, D, 3 * D);
  const auto kv = mx::split(cut(blocks.lay_out(window, new_kv), Q), 2, -1);
  const auto &k = kv[0], &v = kv[1];
  // In one block the pass's positions alone are queries, in several all there are.
  const int R = C == 1 ? L : P;
  const auto q = cut(C == 1 ? new_q : blocks.lay_out({}, new_q), R);
  const auto rows = C == 1 ? blocks.slots_of_pass() : mx::expand_dims(range(P), 0);  // [1 or B, R]

  // Decays by distance, 0 behind the last one: [H, 1 or B, ...] -> [1 or B, H, 1, ...].
  const auto table = mx::pad(kernels::host_array(table_.data(), {H, P + 1}), std::vector<int>{1},
                             mx::Shape{0}, mx::Shape{1});
  const auto decays = [&](const mx::array& distance) {
    return mx::expand_dims(mx::swapaxes(mx::take(table, distance, 1), 0, 1), 2);
  };
  const auto back = mx::subtract(column(rows), range(Q));  // [1 or B, R, Q]
  const auto weights = decays(mx::where(mx::less(back, mx::array(0)), mx::array(P + 1), back));
  const auto within = mx::matmul(mx::multiply(mx::matmul(q, mx::swapaxes(k, -1, -2)), weights), v);

  // The states that blocks begin with, [B, H, D, D] each.
  std::vector<mx::array> starts{state ? *state : mx::zeros({B, H, D, D}, mx::float32)};
  if (const int needed = kept ? blocks.whole : C - 1; needed > 0) {
    const auto to_end =
        column(decays(mx::expand_dims(mx::subtract(mx::array(P - 1), range(Q)), 0)));
    const auto written = apart(mx::matmul(mx::swapaxes(mx::multiply(k, to_end), -1, -2), v), 2);
    std::vector<float> stays;
    for (const float r : rates_)
      stays.push_back(std::exp(-rounded_decay(c, r) * static_cast<float>(P)));
    const mx::array decay(stays.data(), {H, 1, 1}, mx::float32);
    for (int i = 0; i < needed; ++i)
      starts.push_back(mx::add(mx::multiply(starts.back(), decay), written[size_t(i)]));
  }
  const auto before =
      C == 1 ? mx::expand_dims(starts[0], 2) : mx::stack({starts.begin(), starts.begin() + C}, 2);
  const auto carried =
      mx::multiply(mx::matmul(q, before), column(decays(mx::add(rows, mx::array(1)))));

  if (kept) {
    auto last = starts.back();
    if (blocks.firsts) {  // rows whose last block is not full
      const auto full = mx::floor_divide(mx::add(*blocks.firsts, mx::array(L)), mx::array(P));
      const auto all = mx::greater_equal(full, mx::array(blocks.whole));
      last = mx::where(mx::reshape(all, {B, 1, 1, 1}), last, starts[starts.size() - 2]);
    }
    kept->put({last, blocks.last_of(window, new_kv)}, L);
  }
  const auto out = by_head(mx::reshape(mx::add(within, carried), {B, H, C * R, D}));
  return C == 1 ? out : blocks.take_back(out);
}

}  // namespace lmxlab::core
