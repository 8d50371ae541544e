// Learning-rate schedules: a pure host function of the step.
#pragma once

#include "lmxlab/base/fields.h"

#include <cstdint>

namespace lmxlab {

enum class ScheduleName { constant, linear, cosine, wsd };
enum class DecayShape { linear, cosine, sqrt };

template <>
struct EnumNames<ScheduleName> {
  static constexpr std::pair<ScheduleName, const char*> table[] = {
      {ScheduleName::constant, "constant"},
      {ScheduleName::linear, "linear"},
      {ScheduleName::cosine, "cosine"},
      {ScheduleName::wsd, "wsd"}};
};
template <>
struct EnumNames<DecayShape> {
  static constexpr std::pair<DecayShape, const char*> table[] = {
      {DecayShape::linear, "linear"}, {DecayShape::cosine, "cosine"}, {DecayShape::sqrt, "sqrt"}};
};

/// The [schedule] table of a recipe.
struct ScheduleConfig {
  ScheduleName name = ScheduleName::cosine;
  int64_t warmup = 0;
  double min_lr_ratio = 0;
  std::optional<double> decay_steps = {};      // 0.2 of all steps unless given
  std::optional<DecayShape> decay_shape = {};  // linear unless given
  template <class V>
  void visit(V& v) {
    v("name", name, "constant, linear, cosine or wsd (warmup, stable, decay)");
    v("warmup", warmup, "steps in which the rate rises to its peak");
    v("min_lr_ratio", min_lr_ratio, "the rate at the end of the decay, as a share of the peak");
    v("decay_steps", decay_steps, "wsd: steps of the decay; below 1 a share of all steps (0.2)");
    v("decay_shape", decay_shape, "wsd: linear, cosine or sqrt (1 - sqrt of the progress)");
  }
};

/// Adds every option that is out of range or that the chosen schedule does not use, as
/// `schedule.NAME: ...`.
void check(const ScheduleConfig& config, Problems& problems);

/// The learning rate of the update with index `step`, counted from 0 (the optimizer's own step is
/// one more).
///
///   step < warmup        peak * (step + 1) / warmup: never 0, and the peak at step = warmup - 1
///   constant             peak
///   linear, cosine       peak * (r + (1 - r) f(x)), r = min_lr_ratio,
///                        x = (step - warmup) / (total - warmup), so the peak at step = warmup,
///                        f = 1 - x or (1 + cos(pi x)) / 2
///   wsd                  peak until step = total - d, then the same with
///                        x = (step - total + d) / d, f also 1 - sqrt(x);
///                        d is decay_steps (a share is rounded), at most total - warmup
///
/// The last update, step = total - 1, is thus one step short of r * peak, so that no update has
/// rate 0; a rate of r * peak is returned from step = total on. After the warmup all values are
/// those of the `get_*_schedule_with_warmup` functions of Hugging Face's transformers; in the
/// warmup they are those of one step later. Sources: cosine arXiv:1608.03983, wsd arXiv:2404.06395,
/// 1 - sqrt arXiv:2405.18392.
///
/// Defined for all arguments: a negative step counts as 0, a warmup of total steps or more never
/// decays within the run. Finite and not negative for a finite peak >= 0 and a config that `check`
/// accepts.
/// @param total  updates of the whole run
float learning_rate(const ScheduleConfig& config, float peak, int64_t step, int64_t total);

}  // namespace lmxlab
