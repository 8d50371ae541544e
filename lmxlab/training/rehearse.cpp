#include "lmxlab/training/rehearse.h"

#include "lmxlab/core/runtime.h"
#include "lmxlab/kernels/memory.h"
#include "lmxlab/kernels/one_order.h"
#include "lmxlab/kernels/rehearsal.h"
#include "lmxlab/training/multi_token.h"
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

// What is trained of a model, and how.
StepOptions prepare(LanguageModel& model, const config::Model& config, const TrainOptions& options,
                    const TrainSubject& subject) {
  if (subject.adapt) subject.adapt(model);
  auto how = step_options(config, options);
  if (subject.objective) how.objective = subject.objective;
  if (!how.objective->trains_mtp_heads()) freeze_mtp_heads(model.transformer());
  return how;
}

}  // namespace

TrainingMemory count_training(const config::Model& config, const TrainOptions& options,
                              const TrainSubject& subject) {
  auto model = subject.load ? subject.load() : LanguageModel(config, options.run.seed);
  const auto how = prepare(model, config, options, subject);
  const Enter enter(model.runtime());
  const TrainStep step(model.transformer(), options.optimizer, how);
  const auto state = step.initial(options.run.seed);
  TrainingMemory out;
  out.weights = static_cast<size_t>(model.parameter_bytes());
  out.gradients = bytes_of(state.params), out.optimizer = bytes_of(state.optimizer);
  return out;
}

TrainingMemory rehearse_training(const config::Model& config, const TrainOptions& options,
                                 mx::Dtype token, const TrainSubject& subject,
                                 const std::function<size_t(const LanguageModel&)>& between) {
  const size_t before = subject.before ? subject.before(options.run) : 0;
  std::optional<LanguageModel> loaded;
  if (subject.load) loaded = subject.load();  // mapped weights are read, not made
  const kernels::OneOrder order(subject.one_order);
  const kernels::Rehearsal rehearsal;
  auto model = loaded ? std::move(*loaded) : LanguageModel(config, options.run.seed);
  loaded.reset();
  const auto how = prepare(model, config, options, subject);
  const Enter enter(model.runtime());
  TrainStep step(model.transformer(), options.optimizer, how);
  mx::eval(core::values(core::collect(model.transformer())));
  core::Arrays first;
  if (subject.keeps_first) first = core::values(core::collect(model.transformer()));
  auto state = step.initial(options.run.seed);
  core::Arrays all = state.params;
  all.insert(all.end(), state.optimizer.begin(), state.optimizer.end());
  all.push_back(state.key);
  mx::eval(all);
  all.clear();
  TrainingMemory out;
  out.gradients = bytes_of(state.params);
  out.weights = bytes_of(core::values(core::collect(model.transformer())));
  const auto made =
      kernels::active_bytes() - std::min(kernels::active_bytes(), bytes_of(state.optimizer));
  out.mapped = subject.load ? out.weights - std::min(out.weights, made) : 0;
  out.weights -= out.mapped;
  out.optimizer = bytes_of(state.optimizer);
  // The model gives its weights to the state, as in a run.
  for (const auto& e : core::collect_trainable(model.transformer()))
    e.param->value = mx::zeros(e.param->value.shape(), e.param->value.dtype());

  kernels::reset_peak();
  const auto& run = options.run;
  for (int64_t i = 1; i <= 2; ++i) {
    std::vector<data::Batch> group;
    for (int j = 0; j < run.accumulate; ++j) {
      if (subject.batch) {
        group.push_back(subject.batch(run));
        continue;
      }
      auto block = mx::zeros({run.batch, run.context + 1}, token);
      block.eval();
      const auto view = [&](int from) {
        return mx::slice(block, {0, from}, {run.batch, from + run.context});
      };
      group.push_back({view(0), view(1)});
    }
    step(state, group, 1e-3f, i);
  }
  out.peak = std::max(kernels::peak_bytes(), before - std::min(before, out.mapped));
  out.workspace = rehearsal.workspace_at_peak();
  out.largest_op = rehearsal.largest_op();
  if (!between) return out;
  const auto entries = core::collect_trainable(model.transformer());
  for (size_t i = 0; i < entries.size(); ++i) entries[i].param->value = state.params[i];
  const auto peak = between(model);
  if (peak <= out.peak) return out;
  out.peak = peak, out.gradients = 0;
  out.workspace = rehearsal.workspace_at_peak(), out.largest_op = rehearsal.largest_op();
  return out;
}

}  // namespace lmxlab
