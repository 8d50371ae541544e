// What llama.cpp calls architectures, keys and tensors, for reading and for writing
// (gguf-py/gguf/constants.py). Private to the two.
#pragma once

#include "lmxlab/config/model.h"

#include <span>
#include <string>
#include <utility>

namespace lmxlab {

struct GgufArchitecture {
  const char *name, *model_type;
  bool pairs = false;     // queries and keys are stored for rotations of neighbours
  bool plus_one = false;  // norms are stored as what they multiply by; the class adds 1 to its own
  const char* written = nullptr;  // under another name, if not null
};
std::span<const GgufArchitecture> gguf_architectures();

/// A key behind "ARCHITECTURE.", and what the classes of transformers call it.
struct GgufKey {
  enum class Value { integer, number };
  const char *gguf, *hf;
  Value value;
};
std::span<const GgufKey> gguf_keys();
/// What GPT-2's class calls some of them: (others' name, its own).
std::span<const std::pair<const char*, const char*>> gpt2_keys();

/// What llama.cpp multiplies rotated queries and keys by under YaRN, beside
/// `rope.scaling.attn_factor`.
double yarn_magnitude(double factor);

/// "blk.3.attn_q.weight" -> "model.layers.3.self_attn.q_proj.weight". What has no name of ours
/// stays as it is.
std::string name_from_gguf(const std::string& name, config::Wiring wiring);
std::string name_to_gguf(const std::string& name, config::Wiring wiring);

}  // namespace lmxlab
