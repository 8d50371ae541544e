// The slow twin of `generate`: no cache, the whole text in every step, one row, one step at a time.
// It is there to prove the engine, and to be read.
#pragma once

#include "lmxlab/inference/generate.h"

namespace lmxlab {

/// Tokens as `generate` must give them. Cost: quadratic in the length, or worse. Stop strings are
/// not looked at.
std::vector<int> naive_generate(const LanguageModel& model, std::span<const int> prompt,
                                const GenerateOptions& options = {});

}  // namespace lmxlab
