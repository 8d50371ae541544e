#include "lmxlab/core/nsa.h"

#include "lmxlab/core/attention.h"
#include "lmxlab/core/mask.h"
#include "lmxlab/kernels/activation.h"
#include "lmxlab/kernels/elementwise.h"

#include <mlx/fast.h>
#include <mlx/ops.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace lmxlab::core {
namespace {

mx::array f32(const mx::array& a) {
  return kernels::cast(a, mx::float32);
}
mx::array whole(int n) {
  return mx::array(n, mx::int32);
}
// [B, L, H D] -> [B, H, L, D]
mx::array heads_of(const mx::array& x, int heads) {
  return mx::transpose(mx::reshape(x, {x.shape(0), x.shape(1), heads, -1}), {0, 2, 1, 3});
}
// Rows that queries selected take no more numbers than this at a time.
constexpr int64_t kGathered = int64_t{1} << 24;
// A score that no softmax sees.
mx::array hidden() {
  return mx::array(std::numeric_limits<float>::lowest());
}
int blocks_of(int positions, int block, int stride) {
  return positions < block ? 0 : (positions - block) / stride + 1;
}
// Positions of queries in their own row, int32 [B or 1, 1, L, 1].
mx::array own_positions(const Pass& pass, int length) {
  return mx::reshape(query_positions(pass, length), {-1, 1, length, 1});
}
// int32 [B or 1, 1, 1, S]: what stands in each column, counted in its own row.
mx::array own_columns(const Pass& pass, int columns) {
  const auto at = mx::reshape(mx::arange(columns, mx::int32), {1, 1, 1, columns});
  return pass.pads ? mx::subtract(at, mx::reshape(*pass.pads, {-1, 1, 1, 1})) : at;
}
// Whether a query at t may look at p, both counted in their own row.
mx::array may_look(const mx::array& t, const mx::array& p, const Pass& pass) {
  const auto seen = mx::logical_and(mx::less_equal(p, t), mx::greater_equal(p, whole(0)));
  if (pass.max_kv() == 0) return seen;
  return mx::logical_and(seen, mx::greater(p, mx::subtract(t, whole(pass.max_kv()))));
}
// Rows [B, K, S, D] moved left, so that each begins with its first token.
mx::array without_padding(const mx::array& x, const Pass& pass) {
  if (!pass.pads) return x;
  const int S = x.shape(2);
  const auto from = mx::minimum(mx::add(mx::arange(S, mx::int32), mx::reshape(*pass.pads, {-1, 1})),
                                whole(S - 1));
  return mx::take_along_axis(x, mx::reshape(from, {-1, 1, S, 1}), 2);
}

}  // namespace

BlockCache::BlockCache(int block, int stride, const CacheOptions& options)
    : CompositeCache({}), block_(block), stride_(stride) {
  parts_.push_back(plain_cache(options)), parts_.push_back(plain_cache(options));
}

std::unique_ptr<LayerCache> BlockCache::clone() const {
  auto out = std::make_unique<BlockCache>(block_, stride_, CacheOptions{});
  for (size_t i = 0; i < size(); ++i) out->parts_[i] = parts_[i]->clone();
  return out;
}

int BlockCache::whole(int positions) const {
  return blocks_of(positions, block_, stride_);
}

void BlockCache::reserve(int positions) {
  parts_[0]->reserve(positions), parts_[1]->reserve(whole(positions));
}

// Of rows with padding no blocks are kept.
void BlockCache::trim(int n) {
  parts_[0]->trim(n);
  parts_[1]->trim(std::max(0, parts_[1]->length() - whole(length())));
}

// Empty buffers, so that `restore` sees that there are none.
void BlockCache::shift(int n) {
  parts_[0]->shift(n);
  parts_[1]->shift(-parts_[1]->length());
}

void BlockCache::append_rows(const LayerCache& other) {
  const auto* more = dynamic_cast<const BlockCache*>(&other);
  const bool same = more && more->block_ == block_ && more->stride_ == stride_;
  if (!same)
    throw Error(Kind::mismatch, "[cache] rows of another cache: expected one of blocks of " +
                                    std::to_string(block_) + " positions, one each " +
                                    std::to_string(stride_));
  auto blocks = parts_[1]->clone(), others = more->parts_[1]->clone();
  if (blocks->length() != others->length()) {
    blocks->shift(-blocks->length()), others->shift(-others->length());
  }
  blocks->append_rows(*others);
  parts_[0]->append_rows(*more->parts_[0]);
  parts_[1] = std::move(blocks);
}

void BlockCache::restore(std::vector<mx::array> arrays, int length) {
  auto all = parts_[0]->clone(), blocks = parts_[1]->clone();
  const auto n = static_cast<std::ptrdiff_t>(
      std::min(arrays.size(), arrays.empty() ? size_t{0} : all->array_count()));
  const bool padded = arrays.size() == array_count() && arrays.back().ndim() == 4 &&
                      arrays.back().shape(2) < whole(length);
  all->restore({arrays.begin(), arrays.begin() + n}, length);
  blocks->restore({arrays.begin() + n, arrays.end()}, padded ? 0 : whole(length));
  parts_[0] = std::move(all), parts_[1] = std::move(blocks);
}

Compression::Compression(const config::Nsa& c, const Build& b)
    : position{b.init.normal({c.block, c.head_dim}, b.std)},
      up(c.block * c.head_dim, c.hidden, false, b.std, b.init),
      down(c.hidden, c.head_dim, false, b.std, b.init) {}

mx::array Compression::operator()(const mx::array& blocks) const {
  const auto placed = mx::add(blocks, kernels::cast(position.value, blocks.dtype()));
  const auto flat = mx::reshape(placed, {blocks.shape(0), blocks.shape(1), blocks.shape(2),
                                         static_cast<int>(position.value.size())});
  return down(kernels::activate(kernels::Activation::silu, up(flat)));
}

Nsa::Nsa(const config::Nsa& c, const Build& b)
    : q_proj(b.dim, c.heads * c.head_dim, false, b.std, b.init),
      k_proj(b.dim, 3 * c.kv_heads * c.head_dim, false, b.std, b.init),
      v_proj(b.dim, 3 * c.kv_heads * c.head_dim, false, b.std, b.init),
      gate_proj(b.dim, 3 * c.heads, false, b.std, b.init),
      o_proj(c.heads * c.head_dim, b.dim, false, b.residual_std, b.init),
      compress_k(c, b),
      compress_v(c, b),
      config_(c) {
  if (const auto* rope = std::get_if<config::Rope>(&c.position))
    rotation_.emplace(*rope, c.head_dim);
}

float Nsa::scale() const {
  return config_.scale.value_or(1 / std::sqrt(static_cast<float>(config_.head_dim)));
}

std::unique_ptr<LayerCache> Nsa::make_cache(const CacheOptions& options) const {
  const int window = options.max_kv > 0 ? std::min(options.max_kv, config_.window) : config_.window;
  std::vector<std::unique_ptr<LayerCache>> parts;
  parts.push_back(std::make_unique<BlockCache>(config_.block, config_.stride, options));
  parts.push_back(plain_cache(options));
  parts.push_back(rotating_cache(window, options));
  return std::make_unique<CompositeCache>(std::move(parts));
}

mx::array Nsa::mix(const Arrays& projected, Pass& pass) const {
  const auto& c = config_;
  const int B = projected[0].shape(0), L = projected[0].shape(1);
  const auto q = heads_of(projected[0], c.heads);
  const auto turn = [&](const mx::array& x) { return rotation_ ? rotate(*rotation_, x, pass) : x; };
  const auto k = mx::split(heads_of(projected[1], 3 * c.kv_heads), 3, 1);
  const auto v = mx::split(heads_of(projected[2], 3 * c.kv_heads), 3, 1);
  const bool cached = pass.keys() != nullptr;
  const auto keys = [&](int branch) {
    const auto i = static_cast<size_t>(branch);
    const auto own = branch == 0 ? k[i] : turn(k[i]);
    // The first has another of what is compressed behind it.
    return cached ? pass.keys(branch == 0 ? 0 : branch + 1)->append(own, v[i])
                  : Keys{own, v[i], pass.offset, false};
  };

  const auto turned = turn(q);
  const auto coarse = compressed(q, keys(0), pass);
  const auto all = keys(1);
  const auto blocks =
      select(coarse ? std::optional(coarse->shares) : std::nullopt, L, all.k.shape(2), pass);
  // Keys of blocks: read by few queries, or met by many where all of them would be twice as many.
  const int64_t met = int64_t{c.selected} * c.selected_block, S = all.k.shape(2);
  const bool less = cached && blocks && (L * met < S || 2 * met < S);
  const auto fine =
      less ? gathered(turned, all, *blocks, pass) : selected(turned, all, blocks, pass);
  const int most = pass.max_kv() > 0 ? std::min(pass.max_kv(), c.window) : c.window;
  const auto near = core::attend(turned, keys(2), scale(), pass, most);

  // [3, B, H, L, 1]
  const auto gates = mx::expand_dims(
      mx::transpose(mx::reshape(mx::sigmoid(f32(projected[3])), {B, L, 3, c.heads}), {2, 0, 3, 1}),
      -1);
  const auto gated = [&](int branch, const mx::array& mixed) {
    return mx::multiply(mx::take(gates, branch, 0), f32(mixed));
  };
  auto sum = mx::add(gated(1, fine), gated(2, near));
  if (coarse) sum = mx::add(sum, gated(0, coarse->mixed));
  const auto flat = mx::reshape(mx::transpose(sum, {0, 2, 1, 3}), {B, L, c.heads * c.head_dim});
  return kernels::cast(flat, projected[0].dtype());
}

std::optional<Keys> Nsa::small(const Keys& keys, mx::Dtype dtype, Pass& pass) const {
  const auto& c = config_;
  const int B = keys.k.shape(0), K = c.kv_heads, S = keys.k.shape(2);
  const int N = blocks_of(S, c.block, c.stride);
  const auto made = [&](const Compression& of, const mx::array& x, int first) {
    const auto starts = mx::multiply(mx::arange(first, N, mx::int32), whole(c.stride));
    const auto at = mx::flatten(
        mx::add(mx::expand_dims(starts, 1), mx::expand_dims(mx::arange(c.block, mx::int32), 0)));
    const auto rows = without_padding(kernels::cast(x, dtype), pass);
    return of(mx::reshape(mx::take(rows, at, 2), {B, K, N - first, c.block, c.head_dim}));
  };
  const auto from = [&](int first) {
    return Keys{made(compress_k, keys.k, first), made(compress_v, keys.v, first)};
  };
  auto* kept = pass.keys() ? pass.keys(1) : nullptr;
  if (kept && kept->arrays().empty()) {  // its buffers are there from the first pass on
    const auto none = mx::zeros({B, K, 1, c.head_dim}, dtype);
    kept->append(none, none), kept->trim(1);
  }
  if (N == 0) return std::nullopt;
  if (!kept || pass.pads) return from(0);
  if (kept->length() == N) return kept->held();
  const auto more = from(kept->length());
  return kept->append(more.k, more.v);
}

std::optional<Nsa::Compressed> Nsa::compressed(const mx::array& q, const Keys& keys,
                                               Pass& pass) const {
  const auto& c = config_;
  const int B = q.shape(0), L = q.shape(2), D = c.head_dim, K = c.kv_heads, G = c.heads / K;
  const auto blocks = small(keys, q.dtype(), pass);
  if (!blocks) return std::nullopt;
  const int N = blocks->k.shape(2);
  const auto starts = mx::multiply(mx::arange(N, mx::int32), whole(c.stride));
  const auto small_k = mx::expand_dims(f32(blocks->k), 2);  // [B, K, 1, N, D]
  const auto small_v = mx::expand_dims(f32(blocks->v), 2);

  const auto t = own_positions(pass, L);
  const auto first = mx::reshape(starts, {1, 1, 1, N});
  const auto last = mx::add(first, whole(c.block - 1));
  auto allowed = mx::logical_and(may_look(t, last, pass), may_look(t, first, pass));
  allowed = mx::expand_dims(allowed, 2);  // [B or 1, 1, 1, L, N]
  const auto grouped = mx::reshape(mx::multiply(f32(q), mx::array(scale())), {B, K, G, L, D});
  const auto scores =
      mx::where(allowed, mx::matmul(grouped, mx::swapaxes(small_k, -1, -2)), hidden());
  // A query that sees none has shares of what is hidden: they count nothing.
  const auto shares = mx::where(allowed, mx::softmax(scores, -1, true), mx::array(0.0f));
  return Compressed{mx::reshape(mx::matmul(shares, small_v), {B, c.heads, L, D}),
                    mx::stop_gradient(mx::sum(shares, 2))};
}

std::optional<mx::array> Nsa::select(const std::optional<mx::array>& shares, int length,
                                     int columns, const Pass& pass) const {
  const auto& c = config_;
  const int M = (columns + c.selected_block - 1) / c.selected_block;
  if (!shares || M <= c.selected) return std::nullopt;
  const int N = shares->shape(3);
  // Strides that compressed block i and block j have in common.
  const auto starts = mx::expand_dims(mx::multiply(mx::arange(N, mx::int32), whole(c.stride)), 1);
  const auto j = mx::arange(M, mx::int32);
  const auto begin = mx::expand_dims(mx::multiply(j, whole(c.selected_block)), 0);
  const auto common = mx::subtract(
      mx::minimum(mx::add(starts, whole(c.block)), mx::add(begin, whole(c.selected_block))),
      mx::maximum(starts, begin));
  const auto overlap = f32(mx::floor_divide(mx::maximum(common, whole(0)), whole(c.stride)));
  const auto worth = mx::matmul(*shares, overlap);  // [B, K, L, M]

  const auto own = mx::floor_divide(own_positions(pass, length), whole(c.selected_block));
  const auto block = mx::reshape(j, {1, 1, 1, M});
  const auto forced = mx::logical_or(mx::less(block, whole(c.first)),
                                     mx::greater(block, mx::subtract(own, whole(c.local))));
  auto scores = mx::where(forced, mx::array(std::numeric_limits<float>::max()), worth);
  scores = mx::where(mx::greater(block, own), mx::array(-1.0f), scores);
  const auto order = mx::argpartition(mx::negative(scores), c.selected - 1, -1);
  return mx::slice(order, {0, 0, 0, 0}, {order.shape(0), c.kv_heads, length, c.selected});
}

mx::array Nsa::selected(const mx::array& q, const Keys& keys,
                        const std::optional<mx::array>& blocks, const Pass& pass) const {
  const auto& c = config_;
  const auto reach = pass.max_kv() > 0 ? std::optional(pass.max_kv()) : std::nullopt;
  if (!blocks) return core::attend(q, keys, scale(), pass, reach);
  const int B = q.shape(0), L = q.shape(2), S = keys.k.shape(2), K = c.kv_heads;
  const int M = (S + c.selected_block - 1) / c.selected_block;
  const auto met =
      mx::put_along_axis(mx::zeros({B, K, L, M}, mx::bool_), *blocks, mx::array(true), -1);
  const auto columns = own_columns(pass, S);
  const auto of = mx::floor_divide(mx::maximum(columns, whole(0)), whole(c.selected_block));
  auto allowed = mx::take_along_axis(met, mx::broadcast_to(of, {B, K, L, S}), -1);  // [B, K, L, S]
  allowed = mx::logical_and(allowed, may_look(own_positions(pass, L), columns, pass));
  const auto by_head = mx::reshape(
      mx::broadcast_to(mx::expand_dims(allowed, 2), {B, K, c.heads / K, L, S}), {B, c.heads, L, S});
  return mx::fast::scaled_dot_product_attention(q, kernels::cast(keys.k, q.dtype()),
                                                kernels::cast(keys.v, q.dtype()), scale(), "array",
                                                by_head);
}

mx::array Nsa::gathered(const mx::array& q, const Keys& keys, const mx::array& blocks,
                        const Pass& pass) const {
  const auto& c = config_;
  const int B = q.shape(0), L = q.shape(2), S = keys.k.shape(2), D = c.head_dim;
  const int K = c.kv_heads, G = c.heads / K, n = c.selected * c.selected_block;
  const auto places = mx::reshape(mx::arange(c.selected_block, mx::int32), {1, 1, 1, 1, -1});
  const auto begin = mx::multiply(kernels::cast(blocks, mx::int32), whole(c.selected_block));
  const auto at = mx::reshape(mx::add(mx::expand_dims(begin, -1), places), {B, K, L, n});
  const auto columns = mx::minimum(
      pass.pads ? mx::add(at, mx::reshape(*pass.pads, {-1, 1, 1, 1})) : at, whole(S - 1));
  const auto seen = may_look(own_positions(pass, L), at, pass);
  const auto grouped = mx::swapaxes(mx::reshape(f32(q), {B, K, G, L, D}), 2, 3);
  // By whole rows: along an axis MLX would look up every number.
  const auto batch = mx::reshape(mx::arange(B, mx::int32), {B, 1, 1});
  const auto head = mx::reshape(mx::arange(K, mx::int32), {1, K, 1});
  // Some queries at a time, each with rows of its own: [B, K, m, G, D] and [B, K, m, n, D].
  const int lot = static_cast<int>(std::clamp<int64_t>(kGathered / (int64_t{B} * K * n * D), 1, L));
  Arrays parts;
  for (int from = 0; from < L; from += lot) {
    const int m = std::min(L, from + lot) - from;
    const auto some = [&](const mx::array& x) {
      auto start = mx::Shape(x.ndim(), 0), stop = x.shape();
      start[2] = from, stop[2] = from + m;
      return mx::slice(x, start, stop);
    };
    const auto column = mx::reshape(some(columns), {B, K, m * n});
    const auto rows = [&](const mx::array& x) {
      const auto got = mx::gather(x, {batch, head, column}, {0, 1, 2}, {1, 1, 1, D});
      return mx::reshape(f32(got), {B, K, m, n, D});
    };
    const auto met = mx::matmul(some(grouped), mx::swapaxes(rows(keys.k), -1, -2));
    const auto scores =
        mx::where(mx::expand_dims(some(seen), 3), mx::multiply(met, mx::array(scale())), hidden());
    parts.push_back(mx::matmul(mx::softmax(scores, -1, true), rows(keys.v)));
  }
  const auto mixed = parts.size() == 1 ? parts[0] : mx::concatenate(parts, 2);
  return mx::reshape(mx::swapaxes(mixed, 2, 3), {B, c.heads, L, D});
}

}  // namespace lmxlab::core
