// Before anything large is allocated: the plan of a use is made, and what does not fit is refused
// with the ways out, or changed by the cheapest of them.
#pragma once

#include "lmxlab/governor/measure.h"
#include "lmxlab/inference/generate.h"
#include "lmxlab/models/quantize.h"

#include <functional>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

namespace lmxlab {

struct GovernOptions {
  plan::Budget budget = machine_budget();
  bool auto_fit = false;  // take the cheapest change that this can apply
  /// What a change is called on the command line; none: as recipes and `generate` call it.
  plan::Words words = {};
  std::stop_token stop = {};
  bool fixed = false;  // a run that goes on as it began: nothing of it can be changed
  /// Packs the weights where they are; none: that is no change that can be applied.
  std::function<void(const QuantizeOptions&)> pack = {};
};

/// Changes that can be applied are those of a run's steps, rows and optimizer: an adapter or
/// another model is something else than what was asked for.
/// @return  what was changed, as the advice has it: "gradient checkpointing, OPTIONS (COST)";
///   empty: nothing had to be.
/// @throws Error(resource) if it does not fit: the peak, the budget, the changes that would help,
///   each with its own peak and cost.
/// @param data_bytes  of tokens that are held in memory
/// @param plan  if given, the plan of what runs in the end.
/// @param trains  what is trained, where that is not a new model on windows of tokens
std::string govern_training(const config::Model& config, TrainOptions& training, size_t data_bytes,
                            const GovernOptions& options = {}, plan::Plan* plan = nullptr,
                            const TrainSubject& trains = {});

/// The same of `rows` prompts of `length` tokens each. A model that is clearly small enough costs
/// microseconds. Of changes a cache of fewer bits can be applied, and packed weights.
/// @return  what was changed: "a cache of 8 bits (COST)"
/// @param subject  its config and weights, and a draft model's
/// @param bytes  of the weights as they are, a draft model's included
/// @param plan  if given, the plan of what runs in the end; of a model that is clearly small enough
///   an estimate.
std::string govern_generation(const Subject& subject, int64_t bytes, int rows, int length,
                              GenerateOptions& generation, const GovernOptions& options = {},
                              plan::Plan* plan = nullptr);

/// A way to do a pass with fewer tokens at a time.
struct FewerTokens {
  std::string change, option, cost;  // "shorter windows", "--context"
  bool same_answers = false;         // then it is the first thing to do
};

/// What subject.pass does with rows of `length` tokens, and its results (subject.held).
/// @param bytes  of the weights as they are
void govern_pass(const Subject& subject, int64_t bytes, int rows, int length,
                 const std::string& what, const FewerTokens& fewer,
                 const GovernOptions& options = {});

/// Converting: all weights are made anew beside those there are, or one at a time.
/// @param bytes  of the weights as they are
/// @param made  the type of all of them; none: one matrix at a time, as a GGUF file is written
/// @param gguf  whether it can be one, where that is not asked for
void govern_conversion(const config::Model& config, int64_t bytes, std::optional<DType> made,
                       const std::function<bool()>& gguf, const GovernOptions& options = {});

/// Quantizing: packed weights are held together, dense ones one at a time. Of changes fewer bits
/// can be applied.
/// @param mapped  bytes of weights that are in a file; 0: they are made
/// @throws also what quantize_model throws of its options.
std::string govern_quantization(LanguageModel& model, int64_t mapped, QuantizeOptions& how,
                                const GovernOptions& options = {});

/// What may be had in the place of weights: another file of the repository.
struct OtherWeights {
  std::string name;
  int64_t bytes = 0;
};

/// Weights that are not here yet: a text of usual length beside them.
/// @param config  asked where bytes alone do not tell; none: it is not known
void govern_pull(const std::string& name, int64_t bytes,
                 const std::function<std::optional<config::Model>()>& config,
                 const std::vector<OtherWeights>& others, const GovernOptions& options = {});

}  // namespace lmxlab
