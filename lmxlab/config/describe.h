// A config as a table for people.
#pragma once

#include "lmxlab/config/model.h"

#include <string>

namespace lmxlab::config {

/// At most 80 columns, lines end in a newline; runs of equal layers are one row.
/// @throws as count().
std::string describe(const Model& model);

/// A model's mixers, a letter each, and what the letters say: "DDDA", "D gated_delta, A attention".
struct LayerPattern {
  std::string letters, legend;
};
LayerPattern layer_pattern(const Model& model);

/// In a few words, what most of the layers have: "attention", "gated mlp", "8/128 experts"; of
/// hybrids every mixer with its number, "6 gated_delta, 2 attention".
std::string mixer_summary(const Model& model);
std::string ffn_summary(const Model& model);

}  // namespace lmxlab::config
