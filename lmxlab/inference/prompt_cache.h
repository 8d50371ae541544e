// What a model has read, kept: the next prompt that begins alike goes on from there. In memory
// between the turns of a conversation, in a file between runs.
#pragma once

#include "lmxlab/models/language_model.h"

#include <filesystem>
#include <vector>

namespace lmxlab {

struct PromptCache {
  std::vector<int> tokens = {};  // that the cache has seen, one row
  Cache cache = {};
  int kv_bits = 0;
};

/// A safetensors file: `tokens`, and each layer's arrays as they lie. Written under another name
/// and renamed. @throws Error(resource)
void save_prompt_cache(const std::filesystem::path& path, const LanguageModel& model,
                       const PromptCache& kept);

/// @throws Error(not_found), Error(bad_data), Error(mismatch) if another model wrote it.
PromptCache load_prompt_cache(const std::filesystem::path& path, const LanguageModel& model);

}  // namespace lmxlab
