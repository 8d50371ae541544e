// A run with a folder: resolves a recipe, trains, writes metrics and checkpoints, resumes bit for
// bit. A run that came to its end, by its steps, a budget or a callback, leaves result.json: steps,
// loss, val_loss, best_val_loss, seconds, tokens, tokens_per_s, flops, parameters, peak_bytes,
// stopped.
#pragma once

#include "lmxlab/training/mup.h"
#include "lmxlab/training/rehearse.h"
#include "lmxlab/training/run_data.h"
#include "lmxlab/training/trainer.h"

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <stop_token>

namespace lmxlab {

/// What a recipe says before there is a folder.
struct RunParts {
  RunData data;
  config::Model plain;   // [model]
  config::Model config;  // with muP's factors, if it asks for muP
  std::map<std::string, MupRatio> mup = {};
  bool packs = false;         // several samples of a row are kept apart
  TrainSubject subject = {};  // for plans
  int64_t planned = 0;        // bytes at the peak
};
/// An objective from beyond this module, whose batches are made on the way: GRPO
/// (align/grpo_run.h).
class RunMethod {
 public:
  virtual ~RunMethod() = default;
  virtual TrainData data(const RunConfig& run) = 0;
  virtual std::shared_ptr<const Objective> objective() const = 0;
  /// Adds to the metrics of a step.
  virtual std::unique_ptr<Callback> metrics() = 0;
};

/// What a program hears of a run; every function may be empty. Called on the training thread.
struct RunHooks {
  /// Before the first step: the resolved recipe, the model, the tokenizer (none for a token file),
  /// the folder.
  struct Start {
    const Recipe& recipe;
    const LanguageModel& model;
    const data::Tokenizer* tokenizer;
    const std::filesystem::path& out;
    int64_t first_step;  // 0 unless resumed
    int64_t train_tokens, validation_tokens;
    std::optional<double> fill = {};  // share of places that hold a token, of packed samples
  };
  std::function<void(const Start&)> start;
  std::function<void(const StepMetrics&, int64_t steps)> step;
  /// Text of `run.sample_every`: the model as it is now.
  std::function<void(LanguageModel&, const data::Tokenizer&, int64_t step)> sample;
  std::function<void(const std::filesystem::path& checkpoint)> checkpoint;
  /// Of what must be done before the first step: a teacher's rows.
  std::function<void(const std::string& what, int64_t done, int64_t all)> before = {};
  std::function<void(const std::string& text)> warn;
  /// Once data and config are known, before anything of the run exists: may refuse, by throwing, or
  /// change what the recipe says of the step. A resumed run keeps its own: `fixed`. Gives the peak
  /// that it expects, for the metrics; 0: it does not know.
  std::function<int64_t(const RunParts&, Recipe&, bool fixed)> plan;
  /// Makes the method of objective grpo, of the model as the run begins. Without it such a run is
  /// Error(unsupported).
  std::function<std::unique_ptr<RunMethod>(LanguageModel&, const Recipe&, const RunData&)> method =
      {};
};

/// Reads the data. @throws everything that a recipe and its data may lack.
RunParts resolve_run(const Recipe& recipe);
/// New weights, scaled as muP wants, or those that the recipe begins with: float32 where they
/// train, else as they are, with an adapter if it has one.
/// @throws Error(usage) for packed weights without an adapter.
LanguageModel make_model(const Recipe& recipe, const RunParts& parts);
TrainOptions train_options(const Recipe& recipe, const RunParts& parts);

/// A fresh folder: run.out, or NAME-N below `base`. @throws Error(usage) if it holds a run, a sweep
/// or a model; Error(resource)
std::filesystem::path new_run_folder(const RunConfig& run, const std::filesystem::path& base);

struct RunResult {
  TrainResult train;
  std::filesystem::path out;
};

/// Trains in a fresh folder: recipe.out, or runs/NAME-N below `base`.
/// @throws Error(usage) if the folder holds a run already; and everything that a recipe, its data
///   and its folder may lack.
RunResult train_run(const Recipe& recipe, const RunHooks& hooks, std::stop_token stop = {},
                    const std::filesystem::path& base = "runs");
/// Continues a run from its last complete checkpoint, or from the start if there is none.
/// `overrides` may move run.steps, run.time_budget, run.flop_budget and the intervals; another
/// value of anything else is Error(mismatch).
/// @throws Error(not_found) if the folder is no run.
RunResult resume_run(const std::filesystem::path& folder, const std::vector<std::string>& overrides,
                     const RunHooks& hooks, std::stop_token stop = {});

}  // namespace lmxlab
