// What a GGUF file says of a model's form. The keys are llama.cpp's (gguf-py/gguf/constants.py).
#pragma once

#include "lmxlab/config/hf.h"
#include "lmxlab/io/gguf.h"

namespace lmxlab {

/// The architecture's keys, read as the class of transformers that has the same form.
/// @throws Error(unsupported) for another architecture, Error(bad_data) naming what is missing.
config::HfRead read_gguf_config(const io::Gguf& file);

/// Whether norms are stored as what they multiply by, where the class adds 1 to its own.
bool gguf_norms_are_whole(const io::Gguf& file);

}  // namespace lmxlab
