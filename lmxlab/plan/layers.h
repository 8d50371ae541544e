// The linear layers of a config: what packing packs, what adapters stand beside, what an optimizer
// factors. Private to plan.
#pragma once

#include "lmxlab/config/model.h"

#include <cstdint>
#include <vector>

namespace lmxlab::plan {

/// y [out] of x [in].
struct Layer {
  int64_t in = 0, out = 0;
  int64_t experts = 0;  // that each have one; 0: it is of no expert
};

/// Of a block, without what it shares with others.
std::vector<Layer> layers_of(const config::Model& model, const config::Block& block);
/// Of what is no block: an untied head, shared blocks, what layers get beside the stream.
std::vector<Layer> other_layers(const config::Model& model);

/// @param share  of the experts
int64_t numbers_of(const std::vector<Layer>& layers, double share = 1);

}  // namespace lmxlab::plan
