// What a training run takes, before it does.
#pragma once

#include <cstddef>

#include "lmxlab/training/trainer.h"

namespace lmxlab {

struct TrainingMemory {
  size_t peak = 0;
  size_t weights = 0, optimizer = 0;  // held all the time, weights that are mapped left out
  size_t mapped = 0;
  size_t gradients = 0;   // of the trained weights; 0 where the peak is not a step's
  size_t workspace = 0;   // of a single kernel, at the peak
  size_t largest_op = 0;  // see Rehearsal
};

/// Texts that a run writes between its steps, beside weights and state (GRPO's rollouts).
struct Writing {
  int rows = 0;                    // together
  int each = 1;                    // of one prompt, which is read once; more than rows: in parts
  int prompt = 0, completion = 0;  // tokens, at most
  float temperature = 1;
};

/// Models that read texts between the steps, bytes.
struct Judging {
  int64_t mapped = 0;   // weights; a base that the run adapts too is there once, and left out
  int64_t reading = 0;  // what reading the longest texts takes, at most
};

/// What a run trains, where that is not a new model on windows of tokens. All may be empty.
struct TrainSubject {
  std::function<LanguageModel()> load = {};        // maps weights that are there
  std::function<void(LanguageModel&)> adapt = {};  // what is made of them: adapters, other types
  int rank = 0;                                    // of adapters that it attaches; 0: none
  std::function<data::Batch(const RunConfig&)> batch = {};  // of the size of the run's
  std::shared_ptr<const Objective> objective = {};          // none: that of the options
  /// Bytes of what is done and over before the first step.
  std::function<size_t(const RunConfig&)> before = {};
  std::optional<Writing> writes = {};  // between the steps
  Judging judges = {};                 // of what is written
  bool one_order = false;              // of sums, in steps and texts (kernels/one_order.h)
  bool keeps_first = false;            // weights as the run begins, as a reference
};

/// What such a run holds: weights, optimizer and gradients, by what is built; nothing is computed,
/// so that it can be where no rehearsal can. The rest is 0.
/// @throws what loading throws, Error(usage) as Trainer.
TrainingMemory count_training(const config::Model& config, const TrainOptions& options,
                              const TrainSubject& subject);

/// The first steps of a Trainer, rehearsed with tokens of `token` type; a model of its own.
/// @param between  what is done with the model between steps: gives its peak, of all that is held
/// @throws Error(unsupported) where no rehearsal can be, Error(usage) as Trainer.
TrainingMemory rehearse_training(const config::Model& config, const TrainOptions& options,
                                 mx::Dtype token = mx::int32, const TrainSubject& subject = {},
                                 const std::function<size_t(const LanguageModel&)>& between = {});

}  // namespace lmxlab
