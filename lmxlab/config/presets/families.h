// The families behind presets.cpp: a new one is a file here and a line in its table.
#pragma once

#include "lmxlab/config/presets.h"

namespace lmxlab::config {

/// A slip of the keyboard shall not ask for a list of a billion blocks.
inline constexpr int kMaxDepth = 100'000;

std::vector<Preset> gpt_presets();
std::vector<Preset> llama_presets();

/// The width of the FFN that belongs to a stream of width `dim`.
int gpt_hidden(int dim);
int llama_hidden(int dim);

}  // namespace lmxlab::config
