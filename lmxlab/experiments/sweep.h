// A sweep: one recipe, several settings of it, several seeds of each; a run folder each, in one
// folder that can be resumed.
//
//   [sweep]
//   over = { "optimizer.lr" = [1e-3, 3e-3], "model.dim" = [32, 64] }   # a grid: every combination
//   seeds = 3                                    # run.seed and the next two; or a list
//   budget = { flops = 1e12 }                    # or tokens, or seconds: of each run
//
//   runs/NAME-N/sweep.toml        the recipe with its [sweep], paths made absolute
//               sweep.json        settings; of each run folder its setting, seed, state and error
//               dim=32,lr=0.001-s1/   a run folder (training/run.h)
//
// Keys of a TOML table have no order: they vary, and are named, alphabetically, the last one
// fastest.
#pragma once

#include "lmxlab/training/run.h"

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace lmxlab {

enum class SweepMethod { grid, random };
template <>
struct EnumNames<SweepMethod> {
  static constexpr std::pair<SweepMethod, const char*> table[] = {{SweepMethod::grid, "grid"},
                                                                  {SweepMethod::random, "random"}};
};

/// Steps of a run that a budget of seconds ends: more than there is time for.
constexpr int64_t kUntilTheTime = int64_t{1} << 40;

/// What every run may use, one of them. Steps follow from operations and tokens, so that the
/// schedule ends with the run; of seconds it ends where the time does.
struct SweepBudget {
  std::optional<double> flops = {}, seconds = {};
  std::optional<int64_t> tokens = {};
  template <class V>
  void visit(V& v) {
    v("flops", flops, "floating-point operations of training, as run.flop_budget counts them");
    v("tokens", tokens, "trained on");
    v("seconds", seconds, "of training, validations included");
  }
};

/// The [sweep] table of a recipe.
struct SweepConfig {
  SweepMethod method = SweepMethod::grid;
  Json over = Json::object();
  Json seeds = 1;
  std::optional<SweepBudget> budget = {};
  std::optional<int> samples = {};
  std::optional<Json> scale = {};
  std::optional<uint32_t> draw_seed = {};
  template <class V>
  void visit(V& v) {
    v("method", method, "grid: every combination; random: draws");
    v("over", over, "keys of the recipe, each with a list of values; random: or [low, high]");
    v("seeds", seeds, "of each setting: how many, from run.seed on, or a list");
    v("budget", budget, "of each run: { flops = N }, { tokens = N } or { seconds = N }");
    v("samples", samples, "random: settings to draw, 10");
    v("scale", scale, "random: of ranges, log or linear; or a table with one a key. log");
    v("draw_seed", draw_seed, "random: seed of the draws, 0");
  }
};

struct SweepSetting {
  std::string name;  // "dim=32,lr=0.001"
  Json values;       // key to value
};
struct SweepRun {
  std::string folder;  // inside the sweep's: the setting's name and -sSEED
  size_t setting = 0;
  Recipe recipe;  // whole: seed, budget and folder are set
};
struct Sweep {
  Json recipe;  // as it was read, with [sweep]
  RunConfig run;
  std::vector<SweepSetting> settings;
  std::vector<SweepRun> runs;  // setting by setting
};

/// Whether the recipe, with the overrides put on top, has a [sweep].
bool is_sweep(std::string_view toml, const std::string& name,
              const std::vector<std::string>& overrides = {});
/// Every setting resolved and checked, with the model and the data that it names.
/// @param change  called with each recipe, before it is checked; may fetch what a name stands for
/// @throws as read_recipe, and Error(usage) with every setting that is wrong: an unknown key, a
///   value out of range, a budget that is no whole step.
Sweep read_sweep(std::string_view toml, const std::string& name,
                 const std::vector<std::string>& overrides = {},
                 const std::function<void(Recipe&)>& change = {});

struct SweepHooks {
  RunHooks run = {};  // of each run
  /// Before a run begins or goes on. @param number  from 1, of `all`
  std::function<void(const SweepRun&, size_t number, size_t all)> begin = {};
  /// After it. @param error  why it failed; null: it did not
  std::function<void(const SweepRun&, const RunResult*, const Error* error)> end = {};
};

struct SweepFailure {
  std::string folder;
  Error error;
};
struct SweepResult {
  std::filesystem::path out;
  size_t runs = 0, skipped = 0;        // all; finished before
  std::vector<SweepFailure> failures;  // also those of before that were not tried again
  bool canceled = false;               // asked to stop; the rest can be resumed
};

/// Trains every run in a fresh folder: run.out, or runs/NAME-N below `base`. A run that fails (it
/// diverges, or does not fit) is recorded, and the others go on.
/// @throws Error(usage) if the folder holds a sweep or a run; Error(resource)
SweepResult run_sweep(const Sweep& sweep, const SweepHooks& hooks, std::stop_token stop = {},
                      const std::filesystem::path& base = "runs");
/// Goes on with what is not finished. What failed for want of memory or disk is tried again;
/// what diverged would again.
/// @throws Error(not_found) if the folder is no sweep.
SweepResult resume_sweep(const std::filesystem::path& folder, const SweepHooks& hooks,
                         std::stop_token stop = {},
                         const std::function<void(Recipe&)>& change = {});
/// Whether the folder holds one.
bool holds_sweep(const std::filesystem::path& folder);

}  // namespace lmxlab
