// Reversible rules between a checkpoint's tensors and ours. Our paths are Llama's names, so Llama
// needs none.
#pragma once

#include "lmxlab/config/hf.h"
#include "lmxlab/config/model.h"
#include "lmxlab/core/tree.h"

#include <map>
#include <optional>
#include <string>

namespace lmxlab {

/// Tensors of the tree as the transformers class names and shapes them (GPT-2: fused and transposed
/// projections, zero biases where the config has none). Lazy.
core::Tensors names_to_checkpoint(const config::HfForm& form, core::Tensors tensors,
                                  const config::Model& model);

/// The way back. Zero biases that our config lacks are checked to be zero (which evaluates them)
/// and dropped; buffers that are no parameters (`attn.bias`, `rotary_emb.inv_freq`) and a tied
/// head's copy are dropped.
/// @throws Error(mismatch) naming a bias that is not zero.
core::Tensors names_from_checkpoint(const config::HfForm& form, core::Tensors tensors,
                                    const config::Model& model);

/// What an adapter adds to a linear layer, by its path without ".weight": A [rank, in], B [out,
/// rank], and DoRA's lengths [out].
struct LowRank {
  mx::array a, b;
  std::optional<mx::array> magnitude = {};
};
using LowRanks = std::map<std::string, LowRank>;
/// Where the class has one matrix of several of ours, their ranks are added up: a block for each.
/// @throws Error(unsupported) for DoRA's of some of them only.
LowRanks adapters_to_checkpoint(const config::HfForm& form, const LowRanks& adapters,
                                const config::Model& model);
LowRanks adapters_from_checkpoint(const config::HfForm& form, const LowRanks& adapters,
                                  const config::Model& model);

}  // namespace lmxlab
