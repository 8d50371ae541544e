// What a generation takes, before it does.
#pragma once

#include <cstddef>

#include "lmxlab/inference/generate.h"

namespace lmxlab {

struct GenerationMemory {
  size_t peak = 0;         // of all that the rehearsal holds, weights made in it included
  size_t cache_bytes = 0;  // of keys and values in the end
};

/// Reads prompts of `length` tokens and makes a few tokens: afterwards memory does not change but
/// for caches, whose room is taken at once.
/// @param each  rows of one prompt, which is read once
/// @param model  made in this rehearsal, or evaluated before it.
/// @throws Error(internal) outside a rehearsal; what TokenStream throws.
GenerationMemory rehearse_generation(const LanguageModel& model, int rows, int length,
                                     GenerateOptions options, int each = 1);

}  // namespace lmxlab
