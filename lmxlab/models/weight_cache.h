// Packed weights laid out as this machine's kernels read them fastest, kept in files: made once for
// a model folder, then mapped, so that a second start pays nothing and processes share one copy. A
// cache: what is in it can be removed at any time.
#pragma once

#include "lmxlab/models/language_model.h"

#include <filesystem>
#include <optional>
#include <string>

namespace lmxlab {

/// As interleave_model, with the weights of a model folder or GGUF file mapped from a file in
/// `cache`. If there is none, or it was made from other files (size and time of each tell), it is
/// made; files made from older ones are removed. Where the cache cannot be used, weights are laid
/// out in memory.
/// @return  why it could not be used, for a warning.
std::optional<std::string> interleave_from_cache(LanguageModel& model,
                                                 const std::filesystem::path& from,
                                                 const std::filesystem::path& cache);

}  // namespace lmxlab
