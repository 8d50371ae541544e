// Checkpoints of the Python package lmxlab (up to 0.4.0): model.safetensors with names of its own
// and no config beside it.
#pragma once

#include "lmxlab/config/model.h"
#include "lmxlab/core/tree.h"

#include <string>
#include <vector>

namespace lmxlab {

/// Whether these are its names: "embed.weight", "blocks.0...".
bool has_lmxlab_names(const core::Tensors& tensors);

/// Our names and layouts, for a model of this config. What nothing of it is called stays as it is,
/// and is then said to be unused. Where a block lacks a mixer or an FFN, lmxlab adds the stream's
/// norm instead of nothing: those norms are left out.
/// @param warnings  gets what the model will compute otherwise than lmxlab did
/// @throws Error(unsupported) for its gated delta nets, whose rule is no published one.
core::Tensors names_from_lmxlab(core::Tensors tensors, const config::Model& model,
                                std::vector<std::string>& warnings);

}  // namespace lmxlab
