// What belongs to a model besides its weights: tokenizer, chat template, generation settings.
#pragma once

#include "lmxlab/cli/model_argument.h"

#include <filesystem>

namespace lmxlab::cli {

/// @throws Error(usage) unless `out` is the name of a new folder or an empty one.
void expect_new_folder(const std::string& command, const std::filesystem::path& out);

/// A folder's files are copied; those of a GGUF file are written in the form that folders have.
void write_companions(const OpenModel& model, const std::filesystem::path& out);

}  // namespace lmxlab::cli
