// Ways to sample that texts are compared under: greedy, plain, and with every filter and penalty.
#pragma once

#include "lmxlab/inference/sampler.h"

#include <vector>

namespace lmxlab {

inline std::vector<SamplingOptions> samplings() {
  return {{.temperature = 0},
          {.temperature = 1, .top_p = 1, .seed = 3},
          {.temperature = 0.9f,
           .top_k = 20,
           .top_p = 0.9f,
           .min_p = 0.01f,
           .repetition_penalty = 1.1f,
           .frequency_penalty = 0.1f,
           .penalty_window = 8,
           .seed = 4}};
}

}  // namespace lmxlab
