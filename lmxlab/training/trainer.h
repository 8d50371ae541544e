// The trainer: one compiled step, evaluated at stated boundaries; validation, callbacks, budgets,
// stopping.
#pragma once

#include "lmxlab/core/tree.h"
#include "lmxlab/data/batches.h"
#include "lmxlab/models/language_model.h"
#include "lmxlab/training/objective.h"
#include "lmxlab/training/recipe.h"

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

namespace lmxlab {

/// What is known after a step. Losses are nats per token.
struct StepMetrics {
  int64_t step = 0;  // updates done
  double loss = 0, lr = 0, grad_norm = 0;
  int64_t tokens = 0;       // trained on so far
  double tokens_per_s = 0;  // over the last steps
  double seconds = 0;       // of training so far, resumed runs included
  double flops = 0;         // of training so far
  int64_t active_bytes = 0, peak_bytes = 0, cache_bytes = 0;  // kernels/memory.h
  std::optional<double> val_loss = {}, best_val_loss = {};
  /// Of callbacks; and of a model with experts, of the worst layer: router_load_max, its busiest
  /// expert's tokens over the mean, and router_load_entropy, over that of an even load. Of indexers
  /// that learn: indexer_divergence, KL in nats a token from the attention, mean of the layers.
  /// Of the objective, its metrics, and with `val_` before their names those of the held-out part.
  std::map<std::string, double> more = {};
};

class Trainer;

/// Called between two steps, on the training thread. The model holds the current weights then. To
/// end the run, call trainer.stop(reason).
class Callback {
 public:
  virtual ~Callback() = default;
  virtual void on_begin(Trainer&) {}
  virtual void on_step(Trainer&, StepMetrics&) {}
  /// After a validation; metrics.val_loss is set.
  virtual void on_eval(Trainer&, const StepMetrics&) {}
  virtual void on_end(Trainer&, const StepMetrics&) {}
};

/// Ends the run after `patience` validations without an improvement by more than `min_delta`.
std::unique_ptr<Callback> early_stopping(int patience, double min_delta = 0);
/// Ends it when the time (seconds) or the floating-point operations are used up.
std::unique_ptr<Callback> time_budget(double seconds);
std::unique_ptr<Callback> flop_budget(double flops);
/// Calls a function every n steps.
std::unique_ptr<Callback> every(int64_t n, std::function<void(Trainer&, StepMetrics&)> action);

struct TrainResult {
  int64_t steps = 0;
  double loss = 0;                      // of the last step
  std::optional<double> val_loss = {};  // over the whole held-out part, at the end
  double seconds = 0, tokens_per_s = 0;
  int64_t tokens = 0, peak_bytes = 0;
  std::string stopped;  // why it ended before its last step; empty: it did not
};

struct TrainOptions {
  OptimizerConfig optimizer = {};
  ScheduleConfig schedule = {};
  RunConfig run = {};
  std::shared_ptr<const Objective> objective = next_token();
  std::map<std::string, double> lr_ratios = {};  // by parameter; absent: 1 (training/mup.h)
};

/// What a trainer learns from, and what it is measured on.
struct TrainData {
  std::unique_ptr<data::BatchSource> train;
  data::HeldOut held_out = {};
};
/// Windows of a token sequence: shuffled ones of `tokens`, and in order those of `validation`.
/// @param tokens, validation  integers [n], evaluated; validation may be empty.
/// @throws Error(usage) if batch and context do not fit the tokens.
TrainData token_data(const mx::array& tokens, const mx::array& validation, const RunConfig& run);

struct StepOptions;
/// Of the step that a run takes.
StepOptions step_options(const config::Model& config, const TrainOptions& options);

/// Everything that a resumed run needs besides the weights.
struct TrainState {
  int64_t step = 0, tokens = 0;
  double seconds = 0, flops = 0;
  std::optional<double> val_loss = {}, best_val_loss = {};
  int64_t best_step = 0, bad_evals = 0;
  data::BatchPosition data;
  template <class V>
  void visit(V& v) {
    v("step", step), v("tokens", tokens), v("seconds", seconds), v("flops", flops);
    v("val_loss", val_loss), v("best_val_loss", best_val_loss), v("best_step", best_step);
    v("bad_evals", bad_evals), v("data", data);
  }
};

/// Trains a model on tokens. While it steps, the weights live in the trainer and move through the
/// compiled step, so that their buffers are written in place; the model holds them between steps.
class Trainer {
 public:
  /// @throws Error(usage) if the context does not fit the model.
  Trainer(LanguageModel& model, TrainData data, TrainOptions options);
  /// The same of token_data. @throws Error(mismatch) also if ids exceed the model's vocabulary.
  Trainer(LanguageModel& model, const mx::array& tokens, const mx::array& validation,
          TrainOptions options);
  ~Trainer();

  void add(std::unique_ptr<Callback> callback);

  /// Until the last step, a budget, stop() or a request to stop; then a last validation over
  /// everything held out.
  /// @throws Error(bad_data) with the step and the layer where a number stopped being finite; the
  ///         weights are then those before that step. Error(resource) if memory runs out in a step;
  ///         the model's weights are lost then: load a checkpoint.
  TrainResult run(std::stop_token stop = {});
  /// Ends the run after this step.
  void stop(std::string reason);

  /// While one lives, the model holds the moving average of its weights, if optimizer.ema keeps
  /// one.
  class Averaged {
   public:
    explicit Averaged(Trainer& trainer);
    ~Averaged();
    Averaged(const Averaged&) = delete;

   private:
    Trainer& trainer_;
  };

  /// Loss over the held-out part, weighted by units (tokens, pairs); of the average, if there is
  /// one. @param batches  spread evenly over it; 0: all. Nothing if there is none.
  std::optional<double> validate(int64_t batches = 0, std::stop_token stop = {});

  LanguageModel& model();
  const TrainOptions& options() const;
  const TrainState& state() const;
  bool stopping() const;

  /// The optimizer's arrays, the RNG key and the data's arrays by name, evaluated; for a
  /// checkpoint.
  core::Tensors state_arrays() const;
  bool averages() const { return options().optimizer.ema > 0; }
  /// Puts back what state_arrays() and state() gave; the model's weights are loaded by the caller,
  /// before.
  /// @throws Error(mismatch) naming what does not fit.
  void restore(const core::Tensors& arrays, const TrainState& state);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lmxlab
