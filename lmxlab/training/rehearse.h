// What a training run takes, before it does.
#pragma once

#include <cstddef>

#include "lmxlab/training/trainer.h"

namespace lmxlab {

struct TrainingMemory {
  size_t peak = 0;
  size_t weights = 0, optimizer = 0;  // held all the time
  size_t gradients = 0;               // of the trained weights
  size_t workspace = 0;               // of a single kernel, at the peak
  size_t largest_op = 0;              // see Rehearsal
};

/// The first steps of a Trainer and a validation, rehearsed with tokens of `token` type; a model of
/// its own.
/// @throws Error(unsupported) where no rehearsal can be, Error(usage) as Trainer.
TrainingMemory rehearse_training(const config::Model& config, const TrainOptions& options,
                                 mx::Dtype token = mx::int32);

}  // namespace lmxlab
