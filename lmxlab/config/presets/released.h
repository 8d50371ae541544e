// Released models as data: the keys of their config.json that say something, read as any other.
// Private to config. A family more is an entry in its lineage's table, its tiny model first.
#pragma once

#include "lmxlab/config/presets.h"

#include <string>
#include <vector>

namespace lmxlab::config {

struct Released {
  std::string name;
  std::vector<std::string> keys;     // JSON objects; what a later one says counts
  void (*change)(Model&) = nullptr;  // what the class has no key for
};
struct ReleasedFamily {
  const char *name, *model_type;
  std::vector<Released> models;
};

std::vector<ReleasedFamily> released_gpt();
std::vector<ReleasedFamily> released_llama();
std::vector<ReleasedFamily> released_gemma();
std::vector<ReleasedFamily> released_mla();
std::vector<ReleasedFamily> released_moe();
std::vector<ReleasedFamily> released_hybrid();

/// The tiny model of classes that call their sizes as most do, and whose heads divide the stream
/// among them.
extern const char* const kTiny;
/// The same with heads of their own size.
extern const char* const kTinyHeads;
/// Sizes under those names.
std::string shape(int vocab, int dim, int depth, int heads, int kv_heads, int hidden, int context);
std::string llama3_rope(int factor, int original = 8192, int high = 4);
/// A list of types of layers, a letter each: f is full attention, any other `word`.
std::string layer_types(const std::string& letters, const char* word);

}  // namespace lmxlab::config
