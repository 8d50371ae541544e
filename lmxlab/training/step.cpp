#include "lmxlab/training/step.h"

#include "lmxlab/core/indexer.h"
#include "lmxlab/core/moe.h"
#include "lmxlab/training/clip.h"
#include "lmxlab/training/loss.h"

#include <mlx/compile_impl.h>
#include <mlx/ops.h>
#include <mlx/random.h>
#include <mlx/transforms.h>

#include <atomic>
#include <cmath>
#include <utility>

namespace lmxlab {
namespace {

using core::Arrays;

Arrays slice_of(const Arrays& all, size_t from, size_t n) {
  return {all.begin() + static_cast<std::ptrdiff_t>(from),
          all.begin() + static_cast<std::ptrdiff_t>(from + n)};
}
void append(Arrays& to, const Arrays& more) {
  to.insert(to.end(), more.begin(), more.end());
}
Arrays joined(Arrays a, const Arrays& b) {
  append(a, b);
  return a;
}
bool finite(const mx::array& a) {
  return !mx::issubdtype(a.dtype(), mx::floating) || mx::all(mx::isfinite(a)).item<bool>();
}

Arrays metric_units_of(const Objective::Value& v) {
  return v.metric_units.empty() ? Arrays(v.metrics.size(), v.units) : v.metric_units;
}
// A batch may have nothing to learn.
mx::array some(const mx::array& units) {
  return mx::maximum(units, mx::array(1.0f));
}
// All terms as one sum that is divided by the units of the first.
mx::array whole_loss(const Objective::Value& v, const Arrays& worth) {
  auto sum = v.loss;
  for (size_t i = 0; i < v.more.size(); ++i) {
    const auto& term = v.more[i];
    const auto w = worth.empty() ? mx::divide(some(v.units), some(term.units)) : worth[i];
    sum = mx::add(sum, mx::multiply(w, term.loss));
  }
  return sum;
}

// mx::compile knows a function by its address, in a cache a thread. One that ends in another thread
// than it ran in would leave its entry to the next function at that address; numbers are never used
// twice (and, being odd, are no address).
std::function<Arrays(const Arrays&)> compile_by_number(std::function<Arrays(const Arrays&)> f) {
  static std::atomic<std::uintptr_t> last{1};
  const auto id = last += 2;
  std::shared_ptr<void> erase(
      nullptr, [id](void*) { mx::detail::compile_erase(mx::detail::compile_cache(), id); });
  return [erase, compiled = mx::detail::compile(std::move(f), id)](const Arrays& in) {
    return compiled(in);
  };
}

}  // namespace

TrainStep::TrainStep(core::Transformer& model, const OptimizerConfig& optimizer,
                     const StepOptions& options)
    : model_(model), options_(options) {
  for (auto& e : core::collect(model)) (e.param->trainable ? trainable_ : frozen_).push_back(e);
  if (trainable_.empty())
    throw Error(Kind::usage, "[train] every parameter is frozen: nothing to train");
  const auto& config = model.config();
  const size_t heads = options.objective->trains_mtp_heads() ? config.mtp_heads.size() : 0;
  for (size_t i = 0; i < config.layers.size() + heads; ++i) {
    const auto& block = config::block_of(config, i);
    const auto* mla = std::get_if<config::Mla>(&block.mixer);
    if (mla && mla->indexer && !mla->indexer->shared && mla->indexer->loss > 0) ++indexers_;
    const auto* moe = config::experts_in(block);
    if (!moe) continue;
    Layer layer{moe->choices(), {}, moe->bias_rate};
    const char* part = block.shortcut                                         ? "shortcut"
                       : std::holds_alternative<config::MlpAndMoe>(block.ffn) ? "mlp.moe"
                                                                              : "mlp";
    const size_t n = config.layers.size();
    const auto number =
        i < n ? "layers." + std::to_string(i) : "mtp_heads." + std::to_string(i - n);
    const auto path = "model." + number + "." + part + ".gate.e_score_correction_bias";
    for (size_t f = 0; moe->bias_rate > 0 && f < frozen_.size(); ++f)
      if (frozen_[f].path == path) layer.bias = f;
    if (moe->bias_rate > 0 && !layer.bias)
      throw Error(Kind::usage, "[train] " + path +
                                   " is trainable, but its bias_rate moves it. Freeze it, or set "
                                   "bias_rate to 0.");
    routers_.push_back(layer);
  }
  std::vector<ParamInfo> infos;
  for (const auto& e : trainable_) {
    infos.push_back(param_info(e.path, e.param->value.shape(), optimizer));
    if (const auto r = options.lr_ratios.find(e.path); r != options.lr_ratios.end())
      infos.back().lr_ratio = r->second;
  }
  optimizer_ = make_optimizer(optimizer, std::move(infos));

  const size_t P = trainable_.size(), F = frozen_.size(), S = optimizer_->state_names().size();
  const size_t T = nothing_told().size();
  const auto biases_of = [this](const Arrays& frozen) {
    Arrays out;
    for (const auto& r : routers_)
      if (r.bias) out.push_back(frozen[*r.bias]);
    return out;
  };
  const auto compiled = [&](Function f) {
    return options_.compiled ? compile_by_number(std::move(f)) : f;
  };

  // params, optimizer, frozen, key, lr, step, batch -> loss, norm, params', optimizer', biases',
  // told, key'
  whole_ = compiled([this, P, F, S, T, biases_of](const Arrays& in) {
    Arrays params = slice_of(in, 0, P), state = slice_of(in, P, S);
    const Arrays frozen = slice_of(in, P + S, F);
    const auto* rest = in.data() + P + S + F;
    auto [next, mine] = mx::random::split(rest[0]);
    const auto batch = batch_of(std::span(in).subspan(P + S + F + 3));
    const auto got = gradients(params, frozen, batch, mine);
    const auto told = slice_of(got, 1 + P, T);
    auto out = update(std::move(params), std::move(state), slice_of(got, 1, P), biases_of(frozen),
                      told, got[0], rest[1], rest[2]);
    append(out, told);
    out.push_back(next);
    return out;
  });
  const size_t W = options.objective->terms() - 1;
  // params, frozen, sums, told, loss, key, worth, batch -> sums', told', loss', key'
  accumulate_ = compiled([this, P, F, T, W](const Arrays& in) {
    const Arrays params = slice_of(in, 0, P), frozen = slice_of(in, P, F);
    Arrays sums = slice_of(in, P + F, P);
    const auto told = slice_of(in, 2 * P + F, T);
    const auto* rest = in.data() + 2 * P + F + T;
    auto [next, mine] = mx::random::split(rest[1]);
    const auto worth = slice_of(in, 2 * P + F + T + 2, W);
    const auto batch = batch_of(std::span(in).subspan(2 * P + F + T + 2 + W));
    const auto got = gradients(params, frozen, batch, mine, worth);
    const auto loss = got[0];
    kernels::add_to(sums, slice_of(got, 1, P));
    for (size_t i = 0; i < T; ++i) sums.push_back(mx::add(told[i], got[1 + P + i]));
    sums.push_back(mx::add(rest[0], loss));
    sums.push_back(next);
    return sums;
  });
  const size_t B = biases_of(core::values(frozen_)).size();
  // params, optimizer, sums, biases, told, loss, lr, step -> loss, norm, params', optimizer',
  // biases'
  apply_ = compiled([this, P, S, B, T](const Arrays& in) {
    Arrays params = slice_of(in, 0, P), state = slice_of(in, P, S), grads = slice_of(in, P + S, P);
    const auto* rest = in.data() + 2 * P + S + B + T;
    return update(std::move(params), std::move(state), grads, slice_of(in, 2 * P + S, B),
                  slice_of(in, 2 * P + S + B, T), rest[0], rest[1], rest[2]);
  });
  // params, frozen, batch -> loss, units, metrics, their units, loss and units of each other term
  evaluate_ = compiled([this, P, F](const Arrays& in) {
    const core::Lend lend(trainable_, std::span(in).first(P));
    const core::Lend lend_frozen(frozen_, std::span(in).subspan(P, F));
    const auto v = value(batch_of(std::span(in).subspan(P + F)), nullptr);
    auto out = joined(joined({v.loss, v.units}, v.metrics), metric_units_of(v));
    for (const auto& term : v.more) append(out, {term.loss, term.units});
    return out;
  });
  // batch -> units of each term. They depend on the batch alone: the model is not computed.
  units_ = compiled([this](const Arrays& in) {
    const auto v = value(batch_of(in), nullptr);
    Arrays out{v.units};
    for (const auto& term : v.more) out.push_back(term.units);
    return out;
  });
}

TrainStep::State TrainStep::initial(uint64_t seed) const {
  State state{core::values(trainable_), {}, mx::random::key(seed)};
  state.optimizer = optimizer_->init(state.params);
  return state;
}

Arrays TrainStep::flat(const data::Batch& batch) const {
  Arrays out{batch.inputs, batch.targets};
  if (batch.documents && !batch.loss)
    throw Error(Kind::internal, "[train] documents come with what is learned of them");
  if (batch.loss) out.push_back(*batch.loss);
  if (auto starts = document_starts(batch)) out.push_back(std::move(*starts));
  append(out, batch.beside);
  return out;
}

data::Batch TrainStep::batch_of(std::span<const mx::array> arrays) const {
  const size_t own = arrays.size() - options_.objective->beside();
  data::Batch batch{arrays[0], arrays[1]};
  if (own > 2) batch.loss = arrays[2];
  if (own > 3) batch.documents = arrays[3];  // here: the column where each token's text begins
  batch.beside.assign(arrays.begin() + static_cast<std::ptrdiff_t>(own), arrays.end());
  return batch;
}

Objective::Value TrainStep::value(const data::Batch& batch, const mx::array* key,
                                  std::vector<core::Sums>* sums) const {
  core::Pass pass;
  pass.starts = batch.documents;
  pass.sums = sums;
  pass.dtype = options_.compute;
  if (key) pass.key = *key, pass.dropout = options_.dropout;
  pass.recompute = key && options_.gradient_checkpointing;
  return (*options_.objective)(model_, batch, pass);
}

// Gradients in the dtype of the parameters.
Arrays TrainStep::gradients(const Arrays& params, const Arrays& frozen, const data::Batch& batch,
                            const mx::array& key, const Arrays& worth) {
  const core::Lend lend_frozen(frozen_, frozen);
  std::vector<int> all(params.size());
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int>(i);
  const auto loss = [&](const Arrays& p) -> Arrays {
    const core::Lend lend(trainable_, p);
    if (routers_.empty() && !indexers_) {
      const auto v = value(batch, &key);
      const auto sum = whole_loss(v, worth);
      return joined(joined({sum, sum}, v.metrics), joined(metric_units_of(v), {v.units}));
    }
    std::vector<core::Sums> sums;
    const auto v = value(batch, &key, &sums);
    const auto tokens = static_cast<int64_t>(batch.inputs.size());
    const auto& c = model_.config();
    const auto more =
        mx::add(core::router_loss(c, sums, tokens), core::indexer_loss(c, sums, tokens));
    const auto sum = whole_loss(v, worth);
    Arrays out{mx::add(sum, mx::multiply(more, v.units)), sum};
    std::optional<mx::array> divergence;
    for (const auto& s : sums) {
      if (s.of == core::Sums::Of::router) out.push_back(s.arrays[0]);
      if (s.of == core::Sums::Of::indexer)
        divergence = divergence ? mx::add(*divergence, s.arrays[0]) : s.arrays[0];
    }
    if (divergence)  // by token, as the units of all batches will divide it
      out.push_back(
          mx::multiply(*divergence, mx::divide(v.units, mx::array(static_cast<float>(indexers_) *
                                                                  static_cast<float>(tokens)))));
    append(out, v.metrics);
    append(out, metric_units_of(v));
    out.push_back(v.units);
    return out;
  };
  auto [value, grads] = mx::value_and_grad(loss, all)(params);
  // Of the losses the tokens' own is told.
  return joined(joined({value[1]}, grads), slice_of(value, 2, value.size() - 2));
}

Arrays TrainStep::nothing_told() const {
  Arrays out;
  for (const auto& r : routers_) out.push_back(mx::zeros({r.choices}));
  const size_t more = (indexers_ ? 1 : 0) + 2 * options_.objective->metrics().size() + 1;
  for (size_t i = 0; i < more; ++i) out.push_back(mx::array(0.0f));
  return out;
}

Arrays TrainStep::update(Arrays params, Arrays state, const Arrays& grads, const Arrays& biases,
                         const Arrays& told, const mx::array& sum, const mx::array& lr,
                         const mx::array& step) const {
  const auto units = some(told.back());
  const auto loss = mx::divide(sum, units), norm = mx::divide(kernels::global_norm(grads), units);
  const auto scale = mx::divide(clip_factor(norm, options_.clip), units);
  const auto ok = mx::logical_and(mx::isfinite(loss), mx::isfinite(norm));
  optimizer_->update(params, grads, state, {lr, step, scale, ok});
  Arrays out{loss, norm};
  append(out, params);
  append(out, state);
  size_t next = 0;
  for (size_t i = 0; i < routers_.size(); ++i) {
    if (!routers_[i].bias) continue;
    const auto& bias = biases[next++];
    out.push_back(mx::where(ok, core::balanced(bias, told[i], routers_[i].rate), bias));
  }
  return out;
}

TrainStep::Result TrainStep::operator()(State& state, const std::vector<data::Batch>& batches,
                                        float lr, int64_t step) {
  const size_t P = trainable_.size(), S = state.optimizer.size();
  if (state.params.size() != P)
    throw Error(Kind::usage,
                "[train] the weights were lost in a step that failed. Load a checkpoint.");
  const mx::array rate(lr), number(static_cast<float>(step));
  const auto frozen = core::values(frozen_);
  Arrays in = std::exchange(state.params, {}), out, told = nothing_told(), biases;
  const size_t T = told.size();
  for (const auto& r : routers_)
    if (r.bias) biases.push_back(frozen[*r.bias]);
  if (batches.size() == 1) {
    append(in, state.optimizer), state.optimizer.clear();
    append(in, frozen);
    append(in, {state.key, rate, number});
    append(in, flat(batches[0]));
    out = whole_(in);
    in.clear();
    mx::eval(out);
    state.key = out.back();
    told = slice_of(out, 2 + P + S + biases.size(), T);
  } else {
    Arrays params = std::move(in), sums;
    const auto worth = worth_of(batches);
    for (const auto& p : params) sums.push_back(mx::zeros(p.shape(), p.dtype()));
    mx::array loss(0.0f);
    for (const auto& batch : batches) {
      Arrays args = params;
      append(args, frozen), append(args, sums), sums.clear();
      append(args, told);
      append(args, {loss, state.key});
      append(args, worth);
      append(args, flat(batch));
      auto got = accumulate_(args);
      args.clear();
      mx::eval(got);
      state.key = got.back(), got.pop_back();
      loss = got.back(), got.pop_back();
      told = slice_of(got, P, T);
      sums = slice_of(got, 0, P);
    }
    Arrays args = std::move(params);
    append(args, state.optimizer), state.optimizer.clear();
    append(args, sums), sums.clear();
    append(args, biases), append(args, told);
    append(args, {loss, rate, number});
    out = apply_(args);
    args.clear();
    mx::eval(out);
  }
  state.params = slice_of(out, 2, P);
  state.optimizer = slice_of(out, 2 + P, S);
  size_t next = 2 + P + S;
  for (const auto& r : routers_)
    if (r.bias) frozen_[*r.bias].param->value = out[next++];
  const auto units = told.back();
  Result result{out[0], units, {}, out[1], slice_of(told, 0, routers_.size()), {}};
  size_t at = routers_.size();
  Arrays means;
  if (indexers_) means.push_back(*(result.divergence = mx::divide(told[at++], some(units))));
  const size_t M = options_.objective->metrics().size();
  for (size_t i = 0; i < M; ++i) {
    result.metrics.push_back(mx::divide(told[at + i], some(told[at + M + i])));
    means.push_back(result.metrics.back());
  }
  if (!means.empty()) mx::eval(means);
  return result;
}

Objective::Value TrainStep::evaluate(const data::Batch& batch) {
  Arrays in = core::values(trainable_);
  append(in, core::values(frozen_));
  append(in, flat(batch));
  const auto out = evaluate_(in);
  const size_t M = options_.objective->metrics().size();
  Objective::Value v{out[0], out[1], slice_of(out, 2, M), {}, slice_of(out, 2 + M, M)};
  for (size_t i = 2 + 2 * M; i < out.size(); i += 2) v.more.push_back({out[i], out[i + 1]});
  return v;
}

Arrays TrainStep::worth_of(const std::vector<data::Batch>& batches) {
  Arrays sums(options_.objective->terms(), mx::array(0.0f)), out;
  if (sums.size() == 1) return out;
  for (const auto& batch : batches) {
    const auto units = units_(flat(batch));
    for (size_t i = 0; i < sums.size(); ++i) sums[i] = mx::add(sums[i], units[i]);
  }
  for (size_t i = 1; i < sums.size(); ++i) out.push_back(mx::divide(some(sums[0]), some(sums[i])));
  mx::eval(out);
  return out;
}

std::string TrainStep::first_non_finite(const data::Batch& batch, const mx::array& key) {
  auto mine = mx::random::split(key).second;
  for (const auto& e : trainable_)
    if (!finite(e.param->value)) return "the weight " + e.path;
  std::string where;
  const auto weights = core::values(trainable_);
  {
    core::Pass pass;
    pass.dtype = options_.compute;
    pass.key = mine, pass.dropout = options_.dropout;
    pass.tap = [&](std::string_view name, const mx::array& value) {
      if (where.empty() && !finite(value)) where = name;
    };
    const auto of = batch_of(flat(batch));
    pass.starts = of.documents;
    const auto loss = whole_loss((*options_.objective)(model_, of, pass), {});
    if (where.empty() && !finite(loss)) where = "the loss";
  }
  if (!where.empty()) return where;
  const auto grads = gradients(weights, core::values(frozen_), batch_of(flat(batch)), mine);
  // Backwards, the first is the one nearest to the loss.
  for (size_t i = trainable_.size(); i-- > 0;)
    if (!finite(grads[i + 1])) return "the gradient of " + trainable_[i].path;
  return "";
}

}  // namespace lmxlab
