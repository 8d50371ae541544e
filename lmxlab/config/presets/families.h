// The families behind presets.cpp. One that from_hf() reads is an entry in a table of released.h;
// another is a file here and a line in presets.cpp.
#pragma once

#include "lmxlab/config/presets.h"

namespace lmxlab::config {

/// A slip of the keyboard shall not ask for a list of a billion blocks.
inline constexpr int kMaxDepth = 100'000;

std::vector<Preset> gpt_presets();
std::vector<Preset> llama_presets();
std::vector<Preset> grok_presets();
std::vector<Preset> lmxlab_presets();

struct FamilyPresets {
  std::string family;
  std::vector<Preset> presets;
};
/// The families of released models; some of them are above, too.
std::vector<FamilyPresets> released_presets();

/// The width of the FFN that belongs to a stream of width `dim`.
int gpt_hidden(int dim);
int llama_hidden(int dim);

}  // namespace lmxlab::config
