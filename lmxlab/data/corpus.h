// What is trained on: a text file through a tokenizer, or a file of tokens, mapped; and its split.
#pragma once

#include "lmxlab/data/tokenizer.h"

#include <mlx/array.h>

#include <filesystem>
#include <string_view>

namespace lmxlab::data {
namespace mx = mlx::core;

/// Tiny Shakespeare (public domain), built into the library. UTF-8, 1,115,394 bytes.
std::string_view tiny_shakespeare();

/// A file of tokens, as a view of the mapping: a safetensors file with `tokens` (uint16 or uint32
/// [n]).
/// @param vocab  ids must be below it; 0: not checked.
/// @throws Error(not_found), Error(bad_data) naming the file and what it lacks.
mx::array token_file(const std::filesystem::path& path, int64_t vocab = 0);
/// Whether a file is one of tokens, by looking at its first bytes.
bool is_token_file(const std::filesystem::path& path);

struct Split {
  mx::array train, validation;  // views of one array
};
/// The last `share` of the tokens is held out (0: none; then `validation` is empty).
/// @throws Error(usage) if the share is not in [0, 1).
Split split_tokens(const mx::array& tokens, double share);

}  // namespace lmxlab::data
