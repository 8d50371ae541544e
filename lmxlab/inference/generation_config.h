// generation_config.json of a model folder: how its makers want it sampled, and what ends its text.
#pragma once

#include "lmxlab/inference/sampler.h"

#include <filesystem>
#include <vector>

namespace lmxlab {

/// temperature, top_k, top_p, min_p, repetition_penalty; do_sample false: greedy. What the file
/// does not say, or no file, is the default of SamplingOptions. @throws Error(bad_data) naming the
/// file and the member.
SamplingOptions read_generation_config(const std::filesystem::path& folder);

/// The tokens that end a text: eos_token_id (a number or a list) of generation_config.json, else of
/// config.json, else the eos of the folder's tokenizer; none if nothing names one. @throws
/// Error(bad_data)
std::vector<int> eos_tokens(const std::filesystem::path& folder);

}  // namespace lmxlab
