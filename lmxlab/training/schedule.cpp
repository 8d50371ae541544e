#include "lmxlab/training/schedule.h"

#include <cmath>
#include <numbers>

namespace lmxlab {
namespace {

constexpr double kDefaultDecay = 0.2;

/// 1 at x = 0, 0 at x = 1, falling between.
double fall(DecayShape shape, double x) {
  switch (shape) {
    case DecayShape::linear: return 1 - x;
    case DecayShape::cosine: return 0.5 * (1 + std::cos(std::numbers::pi * x));
    case DecayShape::sqrt: return 1 - std::sqrt(x);
  }
  throw Error(Kind::internal, "[schedule] unknown shape of the decay");
}

/// First step of the decay, as a real number: shares of a run need not be whole.
double decay_start(const ScheduleConfig& config, double warmup, double total) {
  if (config.name != ScheduleName::wsd) return warmup;
  const double decay = config.decay_steps.value_or(kDefaultDecay);
  return std::max(warmup, total - (decay < 1 ? std::round(decay * total) : decay));
}

}  // namespace

void check(const ScheduleConfig& config, Problems& problems) {
  const auto fault = [&](const char* field, const std::string& what) {
    problems.add("schedule." + std::string(field) + ": " + what);
  };
  const auto expected = [&](const char* field, const std::string& range, const Json& got) {
    fault(field, "expected " + range + ", got " + got.dump());
  };
  const double low = config.min_lr_ratio;
  if (config.warmup < 0) expected("warmup", "0 or more steps", config.warmup);
  if (!(low >= 0 && low <= 1)) expected("min_lr_ratio", "a share from 0 to 1", low);
  if (config.name == ScheduleName::constant && low != 0)
    fault("min_lr_ratio", "constant never decays. Leave it out.");
  if (config.decay_steps) {
    const double decay = *config.decay_steps;
    if (!(decay > 0 && std::isfinite(decay))) expected("decay_steps", "more than 0", decay);
    if (decay > 1 && decay != std::floor(decay))
      expected("decay_steps", "whole steps or a share below 1", decay);
  }
  if (config.name == ScheduleName::wsd) return;
  const std::string unused = "only wsd uses it, not " + enum_name(config.name) + ". Leave it out.";
  if (config.decay_steps) fault("decay_steps", unused);
  if (config.decay_shape) fault("decay_shape", unused);
}

float learning_rate(const ScheduleConfig& config, float peak, int64_t step, int64_t total) {
  const double at = static_cast<double>(std::max<int64_t>(step, 0));
  const double warmup = static_cast<double>(std::max<int64_t>(config.warmup, 0));
  if (at < warmup) return static_cast<float>(peak * ((at + 1) / warmup));
  if (config.name == ScheduleName::constant) return peak;

  const double end = static_cast<double>(std::max<int64_t>(total, 0));
  const double start = decay_start(config, warmup, end);
  if (config.name == ScheduleName::wsd && at < start) return peak;
  const double progress = at >= end ? 1 : (at - start) / (end - start);  // start <= at < end
  DecayShape shape = config.decay_shape.value_or(DecayShape::linear);
  if (config.name == ScheduleName::cosine) shape = DecayShape::cosine;
  if (config.name == ScheduleName::linear) shape = DecayShape::linear;
  const double low = config.min_lr_ratio;
  return static_cast<float>(peak * (low + (1 - low) * fall(shape, progress)));
}

}  // namespace lmxlab
