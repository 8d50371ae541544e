#include "lmxlab/core/moe.h"

#include "lmxlab/kernels/combine.h"
#include "lmxlab/kernels/elementwise.h"
#include "lmxlab/kernels/linear.h"
#include "lmxlab/kernels/one_order.h"

#include <mlx/fast.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <cmath>
#include <limits>

namespace lmxlab::core {
namespace {

using config::GroupScore;
using config::Scoring;

mx::array f32(const mx::array& x) {
  return mx::astype(x, mx::float32);
}
mx::array scalar(float x) {
  return mx::array(x, mx::float32);
}
const float kNever = -std::numeric_limits<float>::infinity();

// The k largest of each row, in no order. [T, C] -> uint32 [T, k]
mx::array top(const mx::array& scores, int k) {
  const int tokens = scores.shape(0), choices = scores.shape(1);
  if (k == choices)
    return mx::broadcast_to(mx::expand_dims(mx::arange(choices, mx::uint32), 0), {tokens, k});
  if (k == 1) return mx::argmax(scores, 1, true);
  return mx::slice(mx::argpartition(mx::negative(scores), k - 1, 1), {0, 0}, {tokens, k});
}

// Scores of the groups that a token may choose from, and never of the others.
mx::array of_best_groups(const mx::array& scores, const config::Moe& c) {
  const int tokens = scores.shape(0), each = c.choices() / c.groups;
  const auto groups = mx::reshape(scores, {tokens, c.groups, each});
  const auto best =
      c.group_score == GroupScore::max ? mx::max(groups, 2) : mx::sum(mx::topk(groups, 2, 2), 2);
  const auto kept = mx::put_along_axis(mx::zeros({tokens, c.groups}, mx::bool_),
                                       top(best, c.groups_kept), mx::array(true), 1);
  return mx::reshape(mx::where(mx::expand_dims(kept, 2), groups, scalar(kNever)), scores.shape());
}

// Chosen and weights of sparsemixer (arXiv:2310.00811, without its sampling).
std::pair<mx::array, mx::array> sparsemixer(const mx::array& logits, int k, float jitter) {
  const auto fixed = mx::stop_gradient(logits), size = mx::abs(fixed);
  auto rest = logits;
  Arrays experts, weights;
  for (int i = 0; i < k; ++i) {
    const auto still = mx::stop_gradient(rest);
    const auto best = mx::max(still, 1, true);
    const auto one = mx::argmax(still, 1, true);
    const auto below =
        mx::divide(mx::subtract(best, fixed), mx::maximum(size, best));  // of all, taken or not
    const auto near = mx::where(mx::greater(below, scalar(2 * jitter)), scalar(kNever), rest);
    experts.push_back(one);
    weights.push_back(mx::take_along_axis(mx::softmax(near, 1, true), one, 1));
    rest = mx::put_along_axis(rest, one, scalar(kNever), 1);
  }
  return {mx::concatenate(experts, 1), mx::concatenate(weights, 1)};
}

mx::array normalized(const mx::array& w, const config::Moe& c) {
  auto norm = c.normalize == 1
                  ? mx::sum(mx::abs(w), 1, true)
                  : mx::power(mx::sum(mx::power(mx::abs(w), scalar(c.normalize)), 1, true),
                              scalar(1 / c.normalize));
  if (c.norm_eps > 0) norm = mx::add(norm, scalar(c.norm_eps));
  if (c.norm_min > 0) norm = mx::maximum(norm, scalar(c.norm_min));
  return mx::divide(w, norm);
}

// Sums over the tokens for the losses and the load.
Sums sums_of(const Routing& r, const config::Moe& c, int layer) {
  const int choices = c.choices();
  const auto ids = mx::reshape(r.experts, {-1});
  const auto load = mx::scatter_add(mx::zeros({choices}), ids, mx::ones({ids.shape(0), 1}), 0);
  auto shares = r.scores;
  if (c.scoring == Scoring::softmax_of_top) shares = mx::softmax(r.logits, 1, true);
  if (c.scoring == Scoring::sigmoid) shares = mx::divide(shares, mx::sum(shares, 1, true));
  return {Sums::Of::router,
          layer,
          {load, mx::sum(shares, 0), mx::sum(mx::square(mx::logsumexp(r.logits, 1)))}};
}

}  // namespace

Router::Router(const config::Moe& c, const Build& b)
    : weight{b.init.normal({c.choices(), b.dim}, b.std)}, config_(c) {
  if (c.router_bias) bias = Param{zeros({c.choices()})};
  if (c.router_norm) scale = Param{ones({b.dim})};
  if (c.selection_bias) selection_bias = Param{zeros({c.choices()}), false};
  if (c.expert_scale) expert_scale = Param{ones({c.choices()})};
}

Routing Router::operator()(const mx::array& tokens) const {
  const auto& c = config_;
  auto x = f32(tokens);
  if (c.router_norm) {
    const auto factor =
        mx::multiply(f32(scale->value), scalar(1 / std::sqrt(static_cast<float>(tokens.shape(1)))));
    x = mx::multiply(mx::fast::rms_norm(x, std::nullopt, *c.router_norm), factor);
  }
  auto logits = kernels::linear(x, weight.value);
  if (bias) logits = mx::add(logits, f32(bias->value));
  if (c.router_softcap) {
    const auto cap = scalar(*c.router_softcap);
    logits = mx::multiply(mx::tanh(mx::divide(logits, cap)), cap);
  }
  auto scores = c.scoring == Scoring::sigmoid          ? mx::sigmoid(logits)
                : c.scoring == Scoring::softmax_of_top ? logits
                                                       : mx::softmax(logits, 1, true);
  std::optional<mx::array> experts, weights;
  if (c.scoring == Scoring::sparsemixer) {
    std::tie(experts, weights) = sparsemixer(logits, c.top_k, c.jitter);
  } else {
    auto choice = mx::stop_gradient(scores);
    if (selection_bias) choice = mx::add(choice, f32(selection_bias->value));
    if (c.groups > 1) choice = of_best_groups(choice, c);
    experts = top(choice, c.top_k);
  }
  experts = mx::stop_gradient(*experts);
  if (!weights) weights = mx::take_along_axis(scores, *experts, 1);
  if (c.scoring == Scoring::softmax_of_top) weights = mx::softmax(*weights, 1, true);
  if (c.normalize > 0) weights = normalized(*weights, c);
  if (c.scale != 1) weights = mx::multiply(*weights, scalar(c.scale));
  if (expert_scale) weights = mx::multiply(*weights, mx::take(f32(expert_scale->value), *experts));
  return {logits, scores, *experts, *weights};
}

Moe::Moe(const config::Moe& c, const Build& b) : gate(c, b), config_(c) {
  const int width = c.latent > 0 ? c.latent : b.dim;
  const float last_std = c.latent > 0 ? b.std : b.residual_std;
  uint32_t first = 0;
  for (const auto& [hidden, count] : c.by_width()) {
    ExpertLinear up(count, width, hidden, c.bias, b.std, b.init);
    ExpertLinear down(count, hidden, width, c.bias, last_std, b.init);
    std::optional<ExpertLinear> open;
    if (c.gated) open.emplace(count, width, hidden, c.bias, b.std, b.init);
    const auto n = static_cast<uint32_t>(count);
    experts.push_back({std::move(open), std::move(up), std::move(down), first, n});
    first += n;
  }
  if (c.latent > 0) {
    to_latent.emplace(b.dim, width, c.shared_bias, b.std, b.init);
    from_latent.emplace(width, b.dim, c.shared_bias, b.residual_std, b.init);
  }
  if (c.shared > 0) shared.emplace(config::Mlp{c.shared, c.act, c.gated, c.shared_bias}, b);
  if (c.shared_gate) shared_gate = Param{b.init.normal({1, b.dim}, b.std)};
}

mx::array Moe::expert(const mx::array& x, const mx::array& ids, bool sorted) const {
  if (experts.size() == 1) return of_width(experts[0], x, ids, sorted, false);
  std::optional<mx::array> sum;
  for (const auto& some : experts) {
    // Numbers below the first become large ones.
    const auto own = mx::minimum(mx::subtract(ids, mx::array(some.first)), mx::array(some.count));
    const auto y = of_width(some, x, own, false, true);
    sum = sum ? kernels::add(*sum, y) : y;
  }
  return *sum;
}

mx::array Moe::of_width(const Experts& some, const mx::array& x, const mx::array& ids, bool sorted,
                        bool absent) const {
  const auto& c = config_;
  auto up = some.up_proj(x, ids, sorted, absent);
  if (!some.gate_proj) return some.down_proj(activate(c.act, up), ids, sorted, absent);
  auto open = (*some.gate_proj)(x, ids, sorted, absent);
  const auto constant = [&](float v) { return mx::array(v, x.dtype()); };
  if (c.clamp) {
    open = mx::minimum(open, constant(*c.clamp));
    up = mx::clip(up, constant(-*c.clamp), constant(*c.clamp));
  }
  if (c.up_offset != 0) up = mx::add(up, constant(c.up_offset));
  const auto inner =
      c.alpha == 1
          ? gated(c.act, open, up)
          : mx::multiply(mx::multiply(open, mx::sigmoid(mx::multiply(open, constant(c.alpha)))),
                         up);
  return some.down_proj(inner, ids, sorted, absent);
}

mx::array Moe::routed(const mx::array& x, const Routing& r) const {
  const auto& c = config_;
  const int tokens = x.shape(0), width = x.shape(1), k = c.top_k, n = tokens * k;
  auto ids = mx::reshape(r.experts, {n});
  // A choice of no expert goes through one for the shape's sake; what comes out is not looked at.
  const auto zero =
      c.zero_experts > 0
          ? std::optional(mx::greater_equal(r.experts, mx::array(uint32_t(c.experts))))
          : std::nullopt;
  if (zero) ids = mx::minimum(ids, mx::array(uint32_t(c.experts - 1)));
  // Assignments by expert, where there are many, and where each of them went.
  // A token's experts are added up in one way there.
  const bool sorted = n >= kSortFrom || kernels::one_order();
  std::optional<mx::array> order, place;
  if (sorted) {
    order = mx::argsort(ids), place = mx::argsort(*order);
    ids = mx::take(ids, *order);
  }
  auto rows =
      sorted ? kernels::spread_rows(x, *place, *order)
             : mx::reshape(mx::broadcast_to(mx::expand_dims(x, 1), {tokens, k, width}), {n, width});
  auto factors = r.weights;  // [T, k], of what experts give
  if (c.input_scaled) {
    auto w = mx::reshape(r.weights, {n, 1});
    if (sorted) w = kernels::spread_rows(w, *place, *order);
    rows = mx::astype(mx::multiply(f32(rows), w), x.dtype());
    factors = mx::ones_like(r.weights);
  }
  if (zero) factors = mx::where(*zero, scalar(0), factors);
  auto y = expert(rows, ids, sorted);
  if (sorted) {
    y = kernels::combine_rows(y, factors, *place, *order);
  } else {
    y = mx::multiply(f32(mx::reshape(y, {tokens, k, width})), mx::expand_dims(factors, 2));
    y = mx::astype(mx::sum(y, 1), x.dtype());
  }
  if (!zero) return y;
  const auto same = mx::sum(mx::where(*zero, r.weights, scalar(0)), 1, true);
  return mx::astype(mx::add(f32(y), mx::multiply(f32(x), same)), x.dtype());
}

mx::array Moe::routed_by(const mx::array& seen, const mx::array& in, Pass& pass) const {
  const auto x = mx::reshape(in, {-1, in.shape(-1)});
  const auto routing = gate(mx::reshape(seen, {-1, seen.shape(-1)}));
  if (pass.sums) pass.sums->push_back(sums_of(routing, config_, pass.layer));
  auto y = to_latent ? (*from_latent)(routed((*to_latent)(x), routing)) : routed(x, routing);
  if (shared) {
    auto s = (*shared)(x, pass);
    if (shared_gate) s = mx::multiply(s, mx::sigmoid(kernels::linear(x, shared_gate->value)));
    y = kernels::add(y, s);
  }
  return mx::reshape(y, in.shape());
}

MlpAndMoe::MlpAndMoe(const config::MlpAndMoe& c, const config::Norm& norm, const Build& b)
    : dense(c.mlp, b),
      moe(c.moe, b),
      dense_norm(norm, b.dim),
      moe_input_norm(norm, b.dim),
      moe_norm(norm, b.dim) {}

mx::array MlpAndMoe::beside(const mx::array& x, const mx::array& stream, Pass& pass) const {
  const auto experts = moe.routed_by(stream, moe_input_norm(stream), pass);
  return moe_norm.onto(dense_norm(dense(x, pass)), experts);
}

mx::array router_loss(const config::Model& model, std::span<const Sums> sums, int64_t tokens) {
  auto loss = scalar(0);
  const auto n = static_cast<float>(tokens);
  for (const auto& s : sums) {
    if (s.of != Sums::Of::router) continue;
    const auto* c = config::experts_in(config::block_of(model, static_cast<size_t>(s.layer)));
    if (!c) continue;
    const auto &load = s.arrays[0], &scores = s.arrays[1], &square = s.arrays[2];
    if (c->aux_loss > 0) {
      const float even = static_cast<float>(c->choices()) / (static_cast<float>(c->top_k) * n * n);
      const auto both = mx::sum(mx::multiply(mx::stop_gradient(load), scores));
      loss = mx::add(loss, mx::multiply(both, scalar(c->aux_loss * even)));
    }
    if (c->z_loss > 0) loss = mx::add(loss, mx::multiply(square, scalar(c->z_loss / n)));
  }
  return loss;
}

mx::array balanced(const mx::array& bias, const mx::array& load, float rate) {
  const auto less = mx::sign(mx::subtract(mx::mean(load), load));
  return mx::add(bias, mx::astype(mx::multiply(less, scalar(rate)), bias.dtype()));
}

LoadStatistics load_statistics(std::span<const float> load) {
  double sum = 0, largest = 0, entropy = 0;
  for (const float l : load) sum += double(l), largest = std::max(largest, double(l));
  if (sum <= 0) return {};
  for (const float l : load)
    if (l > 0) entropy -= double(l) / sum * std::log(double(l) / sum);
  const auto n = static_cast<double>(load.size());
  return {largest * n / sum, load.size() > 1 ? entropy / std::log(n) : 1};
}

}  // namespace lmxlab::core
