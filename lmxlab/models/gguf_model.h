// A GGUF file's tensors by our names. The names are llama.cpp's (gguf-py/gguf/constants.py).
#pragma once

#include "lmxlab/core/transformer.h"
#include "lmxlab/models/gguf_config.h"

namespace lmxlab {

/// The weights, mapped; packed ones stay in their blocks. A type without kernels is turned into
/// float32. Layers of the model take the shapes that the file's types have.
/// @throws Error(mismatch) naming a fused tensor that does not fit.
core::Tensors read_gguf_tensors(const io::Gguf& file, core::Transformer& model);

}  // namespace lmxlab
