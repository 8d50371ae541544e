// Runs side by side: those of one recipe but for the seed are a group, a sample of what the recipe
// gives.
#pragma once

#include "lmxlab/base/json.h"
#include "lmxlab/experiments/statistics.h"

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace lmxlab {

/// A finished run, from its folder.
struct FinishedRun {
  std::filesystem::path folder;
  uint32_t seed = 0;
  Json recipe;  // without what cannot change the result: seed, names, folders, intervals of writing
  Json result;  // result.json (training/run.h)
};

struct RunGroup {
  std::string name;  // what sets it apart from the others, "dim=32,lr=0.001"; alone, the run's name
  std::vector<FinishedRun> runs;
  std::optional<Summary> val_loss;  // none where nothing was held out
  Summary metric;
  std::optional<Difference> against;       // this metric less the reference's; the reference: none
  int64_t parameters = 0, peak_bytes = 0;  // the largest peak
  double flops = 0, seconds = 0;           // means
};

/// A folder that takes no part, and why: unfinished, failed, the same setting and seed as another.
struct LeftOut {
  std::filesystem::path folder;
  std::string reason;
};

struct RunComparison {
  std::string metric;
  std::vector<RunGroup> groups;
  size_t reference = 0;
  std::vector<LeftOut> left_out;
};

enum class Reference { first, best };

struct CompareOptions {
  std::string metric = "val_loss";
  Reference reference = Reference::first;  // in the order given; best: the lowest mean, or the
                                           // highest of tokens_per_s
  std::string sort = "given";              // or name, or a metric, ascending
};

/// What can be compared: the numbers of result.json.
const std::vector<std::string>& comparable_metrics();

/// @param folders  run folders, or sweeps, which stand for their runs
/// @throws Error(not_found) for a folder that is neither; Error(bad_data) for one that is broken;
///   Error(usage) if no run is finished, for an unknown metric or one that a run has not.
RunComparison compare_runs(const std::vector<std::filesystem::path>& folders,
                           const CompareOptions& options = {});

/// What a loss can be drawn over.
const std::vector<std::string>& curve_axes();
/// Training losses of all runs of a group, each over its own steps, tokens, flops or seconds.
/// @throws Error(bad_data) for a broken metrics.jsonl.
std::vector<std::pair<double, double>> loss_points(const RunGroup& group, const std::string& axis);

}  // namespace lmxlab
