// What a rope's scaling makes of its frequencies.
#pragma once

#include "lmxlab/config/model.h"

#include <cstdint>
#include <vector>

namespace lmxlab::config {

/// The angle by which pair i turns from one position to the next, and what the rotated part of
/// queries and keys is multiplied by.
struct RopeTable {
  std::vector<float> frequencies;  // dims / 2 of them; empty: theta^(-2i / dims)
  float magnitude = 1;
};

/// @param dims  rotated dimensions of a head, even
/// @param length  tokens of the whole text, as far as it is known; read where depends_on_length()
/// @cost  O(dims) exponentials
RopeTable rope_table(const Rope& rope, int dims, int64_t length);

/// Whether a longer text turns its first tokens otherwise than a short one: dynamic NTK, LongRoPE.
bool depends_on_length(const Rope& rope);
/// Of any layer.
bool depends_on_length(const Model& model);

}  // namespace lmxlab::config
