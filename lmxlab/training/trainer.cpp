#include "lmxlab/training/trainer.h"

#include "lmxlab/config/count.h"
#include "lmxlab/core/moe.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/kernels/memory.h"
#include "lmxlab/training/multi_token.h"
#include "lmxlab/training/step.h"

#include <mlx/ops.h>
#include <mlx/random.h>
#include <mlx/transforms.h>

#include <chrono>
#include <cmath>
#include <deque>

namespace lmxlab {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int64_t kLeastEvalTokens = 512;
const std::string kOfData = "data.";  // before the names of arrays that the data have

double since(Clock::time_point t) {
  return std::chrono::duration<double>(Clock::now() - t).count();
}

class EarlyStopping : public Callback {
 public:
  EarlyStopping(int patience, double min_delta) : patience_(patience), min_delta_(min_delta) {}
  void on_begin(Trainer& trainer) override {
    if (const auto best = trainer.state().best_val_loss) best_ = std::min(best_, *best);
  }
  void on_eval(Trainer& trainer, const StepMetrics& m) override {
    // Without a margin the trainer's own count serves, which a resumed run brings along.
    if (min_delta_ > 0) {
      // Small gains add up: the mark moves only when it is beaten by the margin.
      if (*m.val_loss < best_ - min_delta_)
        best_ = *m.val_loss, bad_ = 0;
      else
        ++bad_;
    } else {
      bad_ = trainer.state().bad_evals;
    }
    if (bad_ >= patience_)
      trainer.stop("no better validation loss in " + std::to_string(patience_) + " validations");
  }

 private:
  int patience_;
  double min_delta_, best_ = INFINITY;
  int64_t bad_ = 0;
};

// Ends a run before the step that would go over the budget.
class Budget : public Callback {
 public:
  Budget(double TrainState::*spent, double limit, std::string reason)
      : spent_(spent), limit_(limit), reason_(std::move(reason)) {}
  void on_begin(Trainer& trainer) override {
    before_ = trainer.state().*spent_;  // of a resumed run: not one step's
    if (before_ >= limit_) trainer.stop(reason_);
  }
  void on_step(Trainer& trainer, StepMetrics&) override {
    const double now = trainer.state().*spent_, last = now - before_;
    before_ = now;
    if (now + last > limit_) trainer.stop(reason_);
  }

 private:
  double TrainState::*spent_;
  double limit_, before_ = 0;
  std::string reason_;
};

class Every : public Callback {
 public:
  Every(int64_t n, std::function<void(Trainer&, StepMetrics&)> action)
      : n_(n), action_(std::move(action)) {}
  void on_step(Trainer& trainer, StepMetrics& m) override {
    if (m.step % n_ == 0) action_(trainer, m);
  }

 private:
  int64_t n_;
  std::function<void(Trainer&, StepMetrics&)> action_;
};

}  // namespace

std::unique_ptr<Callback> early_stopping(int patience, double min_delta) {
  return std::make_unique<EarlyStopping>(patience, min_delta);
}
std::unique_ptr<Callback> time_budget(double seconds) {
  return std::make_unique<Budget>(&TrainState::seconds, seconds, "the time budget is used up");
}
std::unique_ptr<Callback> flop_budget(double flops) {
  return std::make_unique<Budget>(&TrainState::flops, flops, "the budget of operations is used up");
}
std::unique_ptr<Callback> every(int64_t n, std::function<void(Trainer&, StepMetrics&)> action) {
  if (n < 1)
    throw Error(Kind::usage, "[train] every: expected at least 1 step, got " + std::to_string(n));
  return std::make_unique<Every>(n, std::move(action));
}

StepOptions step_options(const config::Model& config, const TrainOptions& o) {
  StepOptions s;
  s.clip = static_cast<float>(o.optimizer.clip);
  s.dropout = config.dropout;
  s.gradient_checkpointing = o.run.gradient_checkpointing;
  s.compute = o.run.dtype == ComputeType::bf16 ? mx::bfloat16 : mx::float32;
  s.objective = o.objective;
  s.lr_ratios = o.lr_ratios;
  return s;
}

TrainData token_data(const mx::array& tokens, const mx::array& validation, const RunConfig& run) {
  TrainData out{
      data::endless(data::batch_iterator(tokens, run.batch, run.context,
                                         {.shuffle = true, .seed = run.seed, .epochs = 0})),
      {}};
  const int64_t n = static_cast<int64_t>(validation.size()) - 1;
  if (n < 1) return out;
  const int64_t length = std::min<int64_t>(run.context, n), windows = n / length;
  // The run's own rows, so that memory stays what training takes; more where those are hardly any
  // work. The last batch has the windows that are left.
  const int64_t batch = std::min(std::max<int64_t>(run.batch, kLeastEvalTokens / length), windows);
  out.held_out.count = (windows + batch - 1) / batch;
  out.held_out.at = [=](int64_t i) -> data::Batch {
    const int64_t rows = std::min(batch, windows - i * batch);
    const auto view = [&](int64_t shift) {
      return mx::as_strided(validation, {static_cast<int>(rows), static_cast<int>(length)},
                            {length, 1}, static_cast<size_t>(i * batch * length + shift));
    };
    return {view(0), view(1)};
  };
  return out;
}

struct Trainer::Impl {
  LanguageModel& model;
  TrainOptions options;
  TrainData data;
  TrainStep step;
  TrainStep::State arrays;
  std::vector<core::Entry> entries;  // trainable
  core::Arrays placeholders;         // what the model holds while a step runs: lazy, no memory
  TrainState state;
  std::vector<std::unique_ptr<Callback>> callbacks;
  std::string stop_reason;
  std::deque<std::pair<double, int64_t>> recent;  // seconds and tokens, for the throughput
  std::vector<double> held_out_metrics;           // of the last validation

  Impl(LanguageModel& m, TrainData d, TrainOptions o)
      : model(m),
        options(std::move(o)),
        data(std::move(d)),
        step(m.transformer(), options.optimizer, step_options(m.config(), options)),
        arrays(step.initial(options.run.seed)),
        entries(core::collect_trainable(m.transformer())) {
    for (const auto& e : entries)
      placeholders.push_back(mx::zeros(e.param->value.shape(), e.param->value.dtype()));
  }

  void give_weights_to_model() {
    for (size_t i = 0; i < entries.size(); ++i) entries[i].param->value = arrays.params[i];
  }
  void take_weights_from_model() {
    for (size_t i = 0; i < entries.size(); ++i) entries[i].param->value = placeholders[i];
  }

  // The last states are the averages of the parameters.
  void give_averages_to_model() {
    const auto first = arrays.optimizer.size() - entries.size();
    for (size_t i = 0; i < entries.size(); ++i)
      entries[i].param->value = arrays.optimizer[first + i];
  }

  // Forwards and backwards, of a row of so many.
  double token_flops(int length) const {
    const auto& config = model.config();
    const bool heads = options.objective->trains_mtp_heads();
    return 3 * (config::flops_per_token(config, length) +
                (heads ? config::mtp_flops_per_token(config, length) : 0));
  }

  // The steps that the run will have come to, as far as is known: the schedule ends with them.
  int64_t steps_within_budgets(double step_flops) const {
    const auto& run = options.run;
    double steps = static_cast<double>(run.steps);
    if (run.flop_budget > 0) {  // pairs and rows that grow take other numbers than was thought
      const double each =
          state.step > 0 ? state.flops / static_cast<double>(state.step) : step_flops;
      steps = std::min(steps, std::floor(run.flop_budget / each));
    }
    if (run.time_budget > 0 && state.seconds > 0)
      steps = std::min(steps, static_cast<double>(state.step) * run.time_budget / state.seconds);
    return std::max(static_cast<int64_t>(steps), state.step + 1);
  }

  [[noreturn]] void not_finite(const std::vector<data::Batch>& group, mx::array key, double loss,
                               double norm) {
    std::string where;
    for (size_t i = 0; i < group.size() && where.empty(); ++i) {
      where = step.first_non_finite(group[i], key);
      key = mx::random::split(key).first;  // as the step does from batch to batch
    }
    throw Error(Kind::bad_data,
                "[train] step " + std::to_string(state.step + 1) + ": the loss is " +
                    (std::isfinite(loss) ? Json(loss).dump() + ", the gradient's norm " +
                                               std::string(std::isnan(norm) ? "NaN" : "infinite")
                     : std::isnan(loss) ? std::string("NaN")
                                        : std::string("infinite")) +
                    ". A number that is not finite first appeared in " +
                    (where.empty() ? "the sums over the batch" : where) +
                    ". The weights before this step and the last checkpoint are kept. "
                    "Lower optimizer.lr, lengthen schedule.warmup, or look at the data.");
  }
};

namespace {

TrainData checked_data(const LanguageModel& model, const mx::array& tokens,
                       const mx::array& validation, const RunConfig& run) {
  const Enter enter(model.runtime());
  for (const auto* part : {&tokens, &validation}) {
    if (part->size() == 0) continue;
    const auto largest = mx::astype(mx::max(*part), mx::int64).item<int64_t>();
    const auto least = mx::astype(mx::min(*part), mx::int64).item<int64_t>();
    if (least < 0 || largest >= model.config().vocab)
      throw Error(Kind::mismatch, "[train] the data have the id " +
                                      std::to_string(least < 0 ? least : largest) +
                                      ", the model's vocabulary has " +
                                      std::to_string(model.config().vocab) + " tokens");
  }
  return token_data(tokens, validation, run);
}

}  // namespace

Trainer::Trainer(LanguageModel& model, const mx::array& tokens, const mx::array& validation,
                 TrainOptions options)
    : Trainer(model, checked_data(model, tokens, validation, options.run), options) {}

Trainer::Trainer(LanguageModel& model, TrainData data, TrainOptions options) {
  const Enter enter(model.runtime());
  const auto& run = options.run;
  if (const auto* learned = std::get_if<config::Learned>(&model.config().position);
      learned && run.context > learned->length)
    throw Error(Kind::usage, "[train] run.context " + std::to_string(run.context) +
                                 " is longer than the " + std::to_string(learned->length) +
                                 " positions that the model learns");
  if (!options.objective->trains_mtp_heads()) freeze_mtp_heads(model.transformer());
  for (const auto& e : core::collect_trainable(model.transformer()))
    if (e.param->value.dtype() != mx::float32)
      throw Error(Kind::usage,
                  "[train] " + e.path +
                      ": master weights are float32; ask for run.dtype = \"bf16\" to compute in "
                      "bfloat16");
  impl_ = std::make_unique<Impl>(model, std::move(data), std::move(options));
  core::Arrays all = impl_->arrays.params;
  all.insert(all.end(), impl_->arrays.optimizer.begin(), impl_->arrays.optimizer.end());
  all.push_back(impl_->arrays.key);
  mx::eval(all);
  impl_->give_weights_to_model();
  const auto& r = impl_->options.run;
  if (r.patience > 0) add(early_stopping(r.patience));
  if (r.time_budget > 0) add(lmxlab::time_budget(r.time_budget));
  if (r.flop_budget > 0) add(lmxlab::flop_budget(r.flop_budget));
}
Trainer::~Trainer() = default;

void Trainer::add(std::unique_ptr<Callback> callback) {
  impl_->callbacks.push_back(std::move(callback));
}
void Trainer::stop(std::string reason) {
  if (impl_->stop_reason.empty()) impl_->stop_reason = std::move(reason);
}
bool Trainer::stopping() const {
  return !impl_->stop_reason.empty();
}
LanguageModel& Trainer::model() {
  return impl_->model;
}
const TrainOptions& Trainer::options() const {
  return impl_->options;
}
const TrainState& Trainer::state() const {
  return impl_->state;
}

Trainer::Averaged::Averaged(Trainer& trainer) : trainer_(trainer) {
  if (trainer_.averages()) trainer_.impl_->give_averages_to_model();
}
Trainer::Averaged::~Averaged() {
  if (trainer_.averages()) trainer_.impl_->give_weights_to_model();
}

std::optional<double> Trainer::validate(int64_t limit, std::stop_token stop) {
  auto& s = *impl_;
  const Enter enter(s.model.runtime());
  const Averaged averaged(*this);
  const auto& held = s.data.held_out;
  if (held.count == 0) return std::nullopt;
  const int64_t count = limit > 0 ? std::min(limit, held.count) : held.count;
  struct Mean {
    double sum = 0, units = 0;
    void add(const mx::array& some, const mx::array& of) {
      sum += static_cast<double>(some.item<float>()),
          units += static_cast<double>(of.item<float>());
    }
    double value() const { return sum / std::max(units, 1.0); }
  };
  std::vector<Mean> terms(s.options.objective->terms()),
      metrics(s.options.objective->metrics().size());
  for (int64_t i = 0; i < count; ++i) {
    if (stop.stop_requested()) return std::nullopt;
    as_error([&] {
      auto v = s.step.evaluate(held.at(i * held.count / count));
      core::Arrays all = v.metrics;
      all.insert(all.end(), v.metric_units.begin(), v.metric_units.end());
      all.push_back(v.loss), all.push_back(v.units);
      for (const auto& term : v.more) all.push_back(term.loss), all.push_back(term.units);
      mx::eval(all);
      terms[0].add(v.loss, v.units);
      for (size_t t = 1; t < terms.size(); ++t)
        terms[t].add(v.more[t - 1].loss, v.more[t - 1].units);
      for (size_t m = 0; m < metrics.size(); ++m) metrics[m].add(v.metrics[m], v.metric_units[m]);
    });
  }
  if (terms[0].units == 0) return std::nullopt;
  s.held_out_metrics.clear();
  for (const auto& m : metrics) s.held_out_metrics.push_back(m.value());
  double loss = 0;
  for (const auto& t : terms) loss += t.value();
  return loss;
}

TrainResult Trainer::run(std::stop_token stop) {
  auto& s = *impl_;
  const Enter enter(s.model.runtime());
  const auto& run = s.options.run;
  const double step_flops =
      s.token_flops(run.context) * static_cast<double>(run.batch) * run.context * run.accumulate;
  kernels::reset_peak();
  StepMetrics m;
  TrainResult result;
  s.stop_reason.clear();
  for (auto& c : s.callbacks) c->on_begin(*this);
  int64_t first_tokens = s.state.tokens;
  double first_seconds = s.state.seconds;
  while (s.state.step < run.steps && s.stop_reason.empty()) {
    if (stop.stop_requested()) {
      s.stop_reason = "canceled";
      break;
    }
    const auto start = Clock::now();
    std::vector<data::Batch> group;
    for (int i = 0; i < run.accumulate && !stop.stop_requested(); ++i)
      group.push_back(s.data.train->next());
    if (stop.stop_requested()) {
      s.data.train->restore(s.state.data);  // these were not trained on
      continue;
    }
    const float lr = learning_rate(s.options.schedule, static_cast<float>(s.options.optimizer.lr),
                                   s.state.step, s.steps_within_budgets(step_flops));
    const auto key = s.arrays.key;
    s.take_weights_from_model();
    const auto done = as_error([&] { return s.step(s.arrays, group, lr, s.state.step + 1); });
    s.give_weights_to_model();
    m.loss = static_cast<double>(done.loss.item<float>());
    m.grad_norm = static_cast<double>(done.grad_norm.item<float>());
    if (!std::isfinite(m.loss) || !std::isfinite(m.grad_norm))
      s.not_finite(group, key, m.loss, m.grad_norm);

    int64_t tokens = 0;
    double flops = 0;
    for (const auto& b : group) {
      tokens += b.token_count();
      flops += s.token_flops(b.inputs.shape(1)) * static_cast<double>(b.inputs.size());
    }
    const double seconds = since(start);
    s.state.step += 1, s.state.tokens += tokens, s.state.flops += flops;
    s.state.data = s.data.train->position();
    s.recent.emplace_back(seconds, tokens);
    if (s.recent.size() > 20) s.recent.pop_front();
    double recent_seconds = 0, recent_tokens = 0;
    for (const auto& [t, n] : s.recent)
      recent_seconds += t, recent_tokens += static_cast<double>(n);
    m.tokens_per_s = recent_tokens / recent_seconds;
    m.step = s.state.step, m.lr = static_cast<double>(lr), m.tokens = s.state.tokens,
    m.flops = s.state.flops;
    m.active_bytes = static_cast<int64_t>(kernels::active_bytes());
    m.cache_bytes = static_cast<int64_t>(kernels::cache_bytes());
    // A callback that generates text starts MLX's own count again.
    m.peak_bytes = std::max(m.peak_bytes, static_cast<int64_t>(kernels::peak_bytes()));
    m.val_loss.reset();
    m.more.clear();
    if (!done.loads.empty()) {
      core::LoadStatistics worst{0, 1};
      for (const auto& load : done.loads) {
        const auto one =
            core::load_statistics({load.data<float>(), static_cast<size_t>(load.size())});
        worst.largest = std::max(worst.largest, one.largest);
        worst.entropy = std::min(worst.entropy, one.entropy);
      }
      m.more["router_load_max"] = worst.largest, m.more["router_load_entropy"] = worst.entropy;
    }

    const auto names = s.options.objective->metrics();
    for (size_t i = 0; i < names.size(); ++i)
      m.more[names[i]] = static_cast<double>(done.metrics[i].item<float>());
    if (done.divergence)
      m.more["indexer_divergence"] = static_cast<double>(done.divergence->item<float>());

    const bool last = s.state.step == run.steps;
    if (run.eval_every > 0 && s.state.step % run.eval_every == 0 && !last) {
      m.val_loss = validate(run.eval_batches, stop);
    } else if (last) {
      m.val_loss = validate(0, stop);
    }
    for (size_t i = 0; m.val_loss && i < names.size(); ++i)
      m.more["val_" + names[i]] = s.held_out_metrics[i];
    if (m.val_loss) {
      s.state.val_loss = m.val_loss;
      if (!s.state.best_val_loss || *m.val_loss < *s.state.best_val_loss)
        s.state.best_val_loss = m.val_loss, s.state.best_step = s.state.step, s.state.bad_evals = 0;
      else
        s.state.bad_evals += 1;
    }
    m.best_val_loss = s.state.best_val_loss;
    s.state.seconds += since(start);
    m.seconds = s.state.seconds;
    if (m.val_loss)
      for (auto& c : s.callbacks) c->on_eval(*this, m);
    for (auto& c : s.callbacks) c->on_step(*this, m);
  }
  if (stop.stop_requested()) s.stop_reason = "canceled";
  if (s.stop_reason != "canceled" && (s.state.step < run.steps || !s.state.val_loss)) {
    // Ended by a budget or a callback: the last word is still a validation over everything held
    // out.
    if (auto loss = validate(0, stop)) s.state.val_loss = loss;
  }
  result.steps = s.state.step, result.loss = m.loss, result.val_loss = s.state.val_loss;
  result.seconds = s.state.seconds, result.tokens = s.state.tokens;
  const double spent = s.state.seconds - first_seconds;
  result.tokens_per_s = spent > 0 ? static_cast<double>(s.state.tokens - first_tokens) / spent : 0;
  result.peak_bytes = std::max(m.peak_bytes, static_cast<int64_t>(kernels::peak_bytes()));
  result.stopped = s.stop_reason;
  for (auto& c : s.callbacks) c->on_end(*this, m);
  return result;
}

core::Tensors Trainer::state_arrays() const {
  core::Tensors out;
  const auto names = impl_->step.optimizer_names();
  for (size_t i = 0; i < names.size(); ++i)
    out.emplace("optimizer." + names[i], impl_->arrays.optimizer[i]);
  out.emplace("rng.key", impl_->arrays.key);
  for (const auto& [name, array] : impl_->data.train->arrays()) out.emplace(kOfData + name, array);
  return out;
}

void Trainer::restore(const core::Tensors& arrays, const TrainState& state) {
  auto& s = *impl_;
  const Enter enter(s.model.runtime());
  Problems problems;
  const auto names = s.step.optimizer_names();
  core::Arrays optimizer;
  const auto take = [&](const std::string& name, const mx::array& like) -> const mx::array& {
    const auto it = arrays.find(name);
    if (it == arrays.end()) {
      problems.add("missing " + name);
      return like;
    }
    if (it->second.shape() != like.shape() || it->second.dtype() != like.dtype())
      problems.add("shape or type of " + name);
    return it->second;
  };
  for (size_t i = 0; i < names.size(); ++i)
    optimizer.push_back(take("optimizer." + names[i], s.arrays.optimizer[i]));
  auto key = take("rng.key", s.arrays.key);
  core::Tensors of_data;
  for (const auto& [name, array] : arrays)
    if (name.starts_with(kOfData)) of_data.emplace(name.substr(kOfData.size()), array);
  if (arrays.size() != names.size() + 1 + of_data.size())
    problems.add("arrays that this optimizer does not have");
  problems.raise(Kind::mismatch, "[train] the training state does not fit the recipe");
  s.data.train->resume(state.data, of_data);
  // Copies: the files they are mapped from are to be replaced, and foreign memory is never written
  // in place. (Times one, since adding zero would turn -0 into 0.)
  const auto own = [](const mx::array& a) { return mx::multiply(a, mx::ones({}, a.dtype())); };
  s.arrays.optimizer.clear();
  for (const auto& a : optimizer) s.arrays.optimizer.push_back(own(a));
  s.arrays.key = own(key);
  s.arrays.params.clear();
  for (const auto& e : s.entries) s.arrays.params.push_back(own(e.param->value));
  core::Arrays all = s.arrays.params;
  all.insert(all.end(), s.arrays.optimizer.begin(), s.arrays.optimizer.end());
  all.push_back(s.arrays.key);
  mx::eval(all);
  s.give_weights_to_model();
  s.state = state;
}

}  // namespace lmxlab
