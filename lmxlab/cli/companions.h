// What belongs to a model besides its weights: tokenizer, chat template, generation settings.
#pragma once

#include "lmxlab/cli/model_argument.h"
#include "lmxlab/io/gguf_writer.h"

#include <filesystem>

namespace lmxlab::cli {

/// @throws Error(usage) unless `out` is the name of a new folder or an empty one.
void expect_new_folder(const std::string& command, const std::filesystem::path& out);

/// @throws Error(usage) if there is something at `out`.
void expect_new_file(const std::string& command, const std::filesystem::path& out);

/// A folder's files are copied; those of a GGUF file are written in the form that folders have.
void write_companions(const OpenModel& model, const std::filesystem::path& out);
/// The same as a GGUF file says it; what a GGUF file has of it already is copied. Warns of a model
/// without a tokenizer.
void write_gguf_companions(const OpenModel& model, io::GgufWriter& file, const Context& context);

}  // namespace lmxlab::cli
