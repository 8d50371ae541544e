// The weights of a folder in Hugging Face layout: model.safetensors, or shards with
// model.safetensors.index.json.
#pragma once

#include "lmxlab/io/safetensors.h"

namespace lmxlab::io {

/// Whether there are any, to the look of it.
bool has_weights(const fs::path& folder);

/// Every tensor, mapped. @throws Error(not_found) if there are no weights or a shard is absent,
/// Error(bad_data)
Tensors read_folder(const fs::path& folder);

}  // namespace lmxlab::io
