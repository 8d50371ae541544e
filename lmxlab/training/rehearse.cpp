#include "lmxlab/training/rehearse.h"

#include "lmxlab/core/runtime.h"
#include "lmxlab/kernels/memory.h"
#include "lmxlab/kernels/rehearsal.h"
#include "lmxlab/training/step.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>

namespace lmxlab {
namespace {

size_t bytes_of(const core::Arrays& all) {
  size_t n = 0;
  for (const auto& a : all) n += a.nbytes();
  return n;
}

}  // namespace

TrainingMemory rehearse_training(const config::Model& config, const TrainOptions& options,
                                 mx::Dtype token) {
  const kernels::Rehearsal rehearsal;
  LanguageModel model(config, options.run.seed);
  const Enter enter(model.runtime());
  TrainStep step(model.transformer(), options.optimizer, step_options(config, options));
  auto state = step.initial(options.run.seed);
  core::Arrays all = state.params;
  all.insert(all.end(), state.optimizer.begin(), state.optimizer.end());
  all.push_back(state.key);
  mx::eval(all);
  all.clear();
  TrainingMemory out;
  out.weights = out.gradients = bytes_of(state.params);
  out.optimizer = bytes_of(state.optimizer);
  // The model gives its weights to the state, as in a run.
  for (const auto& e : core::collect_trainable(model.transformer()))
    e.param->value = mx::zeros(e.param->value.shape(), e.param->value.dtype());

  kernels::reset_peak();
  const auto& run = options.run;
  for (int64_t i = 1; i <= 2; ++i) {
    std::vector<data::Batch> group;
    for (int j = 0; j < run.accumulate; ++j) {
      auto block = mx::zeros({run.batch, run.context + 1}, token);
      block.eval();
      const auto view = [&](int from) {
        return mx::slice(block, {0, from}, {run.batch, from + run.context});
      };
      group.push_back({view(0), view(1)});
    }
    step(state, group, 1e-3f, i);
  }
  out.peak = kernels::peak_bytes();
  out.workspace = rehearsal.workspace_at_peak();
  out.largest_op = rehearsal.largest_op();
  return out;
}

}  // namespace lmxlab
