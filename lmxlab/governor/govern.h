// Before anything large is allocated: the plan of a use is made, and what does not fit is refused
// with the ways out, or changed by the cheapest of them.
#pragma once

#include "lmxlab/governor/measure.h"
#include "lmxlab/inference/generate.h"
#include "lmxlab/models/quantize.h"

#include <string>

namespace lmxlab {

struct GovernOptions {
  plan::Budget budget = machine_budget();
  bool auto_fit = false;  // take the cheapest change that this can apply
};

/// @return  what was changed, "gradient checkpointing"; empty: nothing had to be.
/// @throws Error(resource) if it does not fit: the peak, the budget, the changes that would help,
///   each with its own peak and cost.
/// @param data_bytes  of tokens that are held in memory
/// @param plan  if given, the plan of what runs in the end.
std::string govern_training(const config::Model& config, TrainOptions& training, size_t data_bytes,
                            const GovernOptions& options = {}, plan::Plan* plan = nullptr);

/// The same of `rows` prompts of `length` tokens each. A model that is clearly small enough costs
/// microseconds. Of changes a cache of fewer bits can be applied.
/// @param subject  its config and weights
/// @param bytes  of the weights as they are
/// @param plan  if given, the plan of what runs in the end; of a model that is clearly small enough
///   an estimate.
std::string govern_generation(const Subject& subject, int64_t bytes, int rows, int length,
                              GenerateOptions& generation, const GovernOptions& options = {},
                              plan::Plan* plan = nullptr);

/// Quantizing: packed weights are held together, dense ones one at a time.
void govern_quantization(const config::Model& config, int64_t bytes, const QuantizeOptions& packing,
                         const GovernOptions& options = {});

}  // namespace lmxlab
