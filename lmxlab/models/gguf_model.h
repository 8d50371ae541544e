// What a GGUF file says of a model: its config, and its tensors by our names. The names and keys
// are llama.cpp's (gguf-py/gguf/constants.py).
#pragma once

#include "lmxlab/config/hf.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/io/gguf.h"

namespace lmxlab {

/// The architecture's keys, read as the class of transformers that has the same form.
/// @throws Error(unsupported) for another architecture, Error(bad_data) naming what is missing.
config::HfRead read_gguf_config(const io::Gguf& file);

/// The weights, mapped; packed ones stay in their blocks. A type without kernels is turned into
/// float32. Layers of the model take the shapes that the file's types have.
/// @throws Error(mismatch) naming a fused tensor that does not fit.
core::Tensors read_gguf_tensors(const io::Gguf& file, core::Transformer& model);

}  // namespace lmxlab
