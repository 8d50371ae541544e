// A moving average of the weights beside the weights: what is validated, sampled from and saved.
#pragma once

#include "lmxlab/training/optimizer.h"

#include <memory>
#include <string_view>

namespace lmxlab {

/// Before the names of its states.
inline constexpr std::string_view kAverage = "average.";

/// The optimizer, with a <- a + (1 - d) (p - a) after each of its updates, d = min(decay, (1 + t) /
/// (10 + t)) at update t, so that the first weights are soon forgotten (Polyak and Juditsky 1992;
/// the warmup as TensorFlow's ExponentialMovingAverage has it). One more state for each parameter,
/// behind the others: average.PATH, float32, which begins as the parameter.
std::unique_ptr<Optimizer> with_average(std::unique_ptr<Optimizer> optimizer,
                                        std::vector<ParamInfo> params, double decay);

}  // namespace lmxlab
