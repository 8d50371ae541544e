// What a model folder says of packed weights, in mlx-lm's form: config.json has
//   "quantization": {"group_size": 64, "bits": 4, "model.embed_tokens": {"group_size": 64, "bits":
//   8}}
// (the numbers of most layers, then those of layers that differ), and each packed layer has tensors
// `weight` (uint32), `scales` and `biases`. A layer without scales is not packed.
#pragma once

#include "lmxlab/base/json.h"
#include "lmxlab/core/transformer.h"

#include <optional>

namespace lmxlab {

/// Of the packed layers; none if there are none.
std::optional<Json> quantization_of(core::Transformer& model);

/// Takes `quantization` (and the copy of it that transformers reads, `quantization_config`) out of
/// a config.
/// @throws Error(unsupported) for a kind of quantization that is not this.
std::optional<Json> take_quantization(Json& config);

/// Gives the layers that have scales among the tensors the shapes of packed ones, for a load.
/// @throws Error(bad_data) naming the layer whose numbers are missing or impossible.
void expect_packed(core::Transformer& model, const Json& quantization,
                   const core::Tensors& tensors);
/// After it. @throws Error(mismatch) naming a layer whose scales and biases differ in type.
void check_packed(core::Transformer& model);

/// The tensors of the tree as a folder holds them: interleaved weights are laid out as MLX does.
core::Tensors folder_tensors(core::Transformer& model);

}  // namespace lmxlab
