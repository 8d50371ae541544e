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
  const auto& layers = model.config().layers;
  for (size_t i = 0; i < layers.size(); ++i) {
    const auto* mla = std::get_if<config::Mla>(&layers[i].mixer);
    if (mla && mla->indexer && !mla->indexer->shared && mla->indexer->loss > 0) ++indexers_;
    const auto* moe = config::experts_in(layers[i]);
    if (!moe) continue;
    Layer layer{moe->choices(), {}, moe->bias_rate};
    const char* part = layers[i].shortcut                                         ? "shortcut"
                       : std::holds_alternative<config::MlpAndMoe>(layers[i].ffn) ? "mlp.moe"
                                                                                  : "mlp";
    const auto path =
        "model.layers." + std::to_string(i) + "." + part + ".gate.e_score_correction_bias";
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

  // params, optimizer, frozen, key, lr, step, inputs, targets -> loss, norm, params', optimizer',
  // biases', told, key'
  whole_ = compiled([this, P, F, S, T, biases_of](const Arrays& in) {
    Arrays params = slice_of(in, 0, P), state = slice_of(in, P, S);
    const Arrays frozen = slice_of(in, P + S, F);
    const auto* rest = in.data() + P + S + F;
    auto [next, mine] = mx::random::split(rest[0]);
    const data::Batch batch{rest[3], rest[4]};
    const auto got = gradients(params, frozen, batch, mine);
    const auto told = slice_of(got, 1 + P, T);
    const mx::array tokens(static_cast<float>(batch.targets.size()));
    auto out = update(std::move(params), std::move(state), slice_of(got, 1, P), biases_of(frozen),
                      told, got[0], tokens, rest[1], rest[2]);
    append(out, told);
    out.push_back(next);
    return out;
  });
  // params, frozen, sums, told, loss, key, inputs, targets -> sums', told', loss', key'
  accumulate_ = compiled([this, P, F, T](const Arrays& in) {
    const Arrays params = slice_of(in, 0, P), frozen = slice_of(in, P, F);
    Arrays sums = slice_of(in, P + F, P);
    const auto told = slice_of(in, 2 * P + F, T);
    const auto* rest = in.data() + 2 * P + F + T;
    auto [next, mine] = mx::random::split(rest[1]);
    const auto got = gradients(params, frozen, {rest[2], rest[3]}, mine);
    const auto loss = got[0];
    kernels::add_to(sums, slice_of(got, 1, P));
    for (size_t i = 0; i < T; ++i) sums.push_back(mx::add(told[i], got[1 + P + i]));
    sums.push_back(mx::add(rest[0], loss));
    sums.push_back(next);
    return sums;
  });
  const size_t B = biases_of(core::values(frozen_)).size();
  // params, optimizer, sums, biases, told, loss, tokens, lr, step -> loss, norm, params',
  // optimizer', biases'
  apply_ = compiled([this, P, S, B, T](const Arrays& in) {
    Arrays params = slice_of(in, 0, P), state = slice_of(in, P, S), grads = slice_of(in, P + S, P);
    const auto* rest = in.data() + 2 * P + S + B + T;
    return update(std::move(params), std::move(state), grads, slice_of(in, 2 * P + S, B),
                  slice_of(in, 2 * P + S + B, T), rest[0], rest[1], rest[2], rest[3]);
  });
  // params, frozen, inputs, targets -> sum of the tokens' losses
  evaluate_ = compiled([this, P, F](const Arrays& in) {
    const core::Lend lend(trainable_, std::span(in).first(P));
    const core::Lend lend_frozen(frozen_, std::span(in).subspan(P, F));
    return Arrays{nll_sum({in[P + F], in[P + F + 1]}, nullptr)};
  });
}

TrainStep::State TrainStep::initial(uint64_t seed) const {
  State state{core::values(trainable_), {}, mx::random::key(seed)};
  state.optimizer = optimizer_->init(state.params);
  return state;
}

mx::array TrainStep::nll_sum(const data::Batch& batch, const mx::array* key,
                             std::vector<core::Sums>* sums) const {
  core::Pass pass;
  pass.sums = sums;
  pass.dtype = options_.compute;
  if (key) pass.key = *key, pass.dropout = options_.dropout;
  pass.recompute = key && options_.gradient_checkpointing;
  return mx::sum(token_nll(model_, batch.inputs, batch.targets, pass));
}

// Gradients in the dtype of the parameters.
Arrays TrainStep::gradients(const Arrays& params, const Arrays& frozen, const data::Batch& batch,
                            const mx::array& key) {
  const core::Lend lend_frozen(frozen_, frozen);
  std::vector<int> all(params.size());
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int>(i);
  const auto loss = [&](const Arrays& p) -> Arrays {
    const core::Lend lend(trainable_, p);
    if (routers_.empty() && !indexers_) return {nll_sum(batch, &key)};
    std::vector<core::Sums> sums;
    const auto sum = nll_sum(batch, &key, &sums);
    const auto tokens = static_cast<int64_t>(batch.targets.size());
    const auto& c = model_.config();
    const auto more =
        mx::add(core::router_loss(c, sums, tokens), core::indexer_loss(c, sums, tokens));
    Arrays out{mx::add(sum, mx::multiply(more, mx::array(static_cast<float>(tokens)))), sum};
    std::optional<mx::array> divergence;
    for (const auto& s : sums) {
      if (s.of == core::Sums::Of::router) out.push_back(s.arrays[0]);
      if (s.of == core::Sums::Of::indexer)
        divergence = divergence ? mx::add(*divergence, s.arrays[0]) : s.arrays[0];
    }
    if (divergence)
      out.push_back(mx::divide(*divergence, mx::array(static_cast<float>(indexers_))));
    return out;
  };
  auto [value, grads] = mx::value_and_grad(loss, all)(params);
  if (value.size() == 1) return joined(value, grads);
  // Of the losses the tokens' own is told.
  return joined(joined({value[1]}, grads), slice_of(value, 2, value.size() - 2));
}

Arrays TrainStep::nothing_told() const {
  Arrays out;
  for (const auto& r : routers_) out.push_back(mx::zeros({r.choices}));
  if (indexers_) out.push_back(mx::array(0.0f));
  return out;
}

Arrays TrainStep::update(Arrays params, Arrays state, const Arrays& grads, const Arrays& biases,
                         const Arrays& told, const mx::array& sum, const mx::array& tokens,
                         const mx::array& lr, const mx::array& step) const {
  const auto loss = mx::divide(sum, tokens), norm = mx::divide(kernels::global_norm(grads), tokens);
  const auto scale = mx::divide(clip_factor(norm, options_.clip), tokens);
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
  double tokens = 0;
  for (const auto& r : routers_)
    if (r.bias) biases.push_back(frozen[*r.bias]);
  if (batches.size() == 1) {
    append(in, state.optimizer), state.optimizer.clear();
    append(in, frozen);
    append(in, {state.key, rate, number, batches[0].inputs, batches[0].targets});
    out = whole_(in);
    in.clear();
    mx::eval(out);
    state.key = out.back();
    told = slice_of(out, 2 + P + S + biases.size(), T);
    tokens = static_cast<double>(batches[0].targets.size());
  } else {
    Arrays params = std::move(in), sums;
    for (const auto& p : params) sums.push_back(mx::zeros(p.shape(), p.dtype()));
    mx::array loss(0.0f);
    for (const auto& batch : batches) {
      Arrays args = params;
      append(args, frozen), append(args, sums), sums.clear();
      append(args, told);
      append(args, {loss, state.key, batch.inputs, batch.targets});
      auto got = accumulate_(args);
      args.clear();
      mx::eval(got);
      state.key = got.back(), got.pop_back();
      loss = got.back(), got.pop_back();
      told = slice_of(got, P, T);
      sums = slice_of(got, 0, P);
      tokens += static_cast<double>(batch.targets.size());
    }
    Arrays args = std::move(params);
    append(args, state.optimizer), state.optimizer.clear();
    append(args, sums), sums.clear();
    append(args, biases), append(args, told);
    append(args, {loss, mx::array(static_cast<float>(tokens)), rate, number});
    out = apply_(args);
    args.clear();
    mx::eval(out);
  }
  state.params = slice_of(out, 2, P);
  state.optimizer = slice_of(out, 2 + P, S);
  size_t next = 2 + P + S;
  for (const auto& r : routers_)
    if (r.bias) frozen_[*r.bias].param->value = out[next++];
  Result result{out[0], out[1], slice_of(told, 0, routers_.size()), {}};
  if (indexers_) {
    result.divergence = mx::divide(told.back(), mx::array(static_cast<float>(tokens)));
    result.divergence->eval();
  }
  return result;
}

mx::array TrainStep::evaluate(const data::Batch& batch) {
  Arrays in = core::values(trainable_);
  append(in, core::values(frozen_));
  append(in, {batch.inputs, batch.targets});
  return evaluate_(in)[0];
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
    const auto nll = token_nll(model_(batch.inputs, pass), batch.targets);
    if (where.empty() && !finite(nll)) where = "the loss";
  }
  if (!where.empty()) return where;
  const auto grads = gradients(weights, core::values(frozen_), batch, mine);
  // Backwards, the first is the one nearest to the loss.
  for (size_t i = trainable_.size(); i-- > 0;)
    if (!finite(grads[i + 1])) return "the gradient of " + trainable_[i].path;
  return "";
}

}  // namespace lmxlab
