// Which of several texts is the best: by how probable a model finds them.
#pragma once

#include "lmxlab/inference/generate.h"

#include <span>
#include <vector>

namespace lmxlab {

/// Mean log-probability of its tokens under the model that made it, so that length does not count.
/// Of no tokens: minus infinity. @throws Error(usage) without logprobs
double mean_logprob(const Generation& text);

/// The same of texts behind one prompt under a model that need not have made them: it reads the
/// prompt once, then each text. Of no tokens: minus infinity.
/// @param texts  ids of this model's vocabulary
/// @throws as generate, for prompt and texts together
std::vector<double> judge(const LanguageModel& model, std::span<const int> prompt,
                          const std::vector<std::vector<int>>& texts);

}  // namespace lmxlab
