// Which tensor type each weight of a GGUF file gets. Private.
#pragma once

#include "lmxlab/io/gguf.h"

#include <string>
#include <string_view>
#include <vector>

namespace lmxlab {

/// Types of a file, as llama.cpp's users know them: "f16", "q8_0", "q4_k_m", ... Mixes give more
/// bits to the weights whose errors cost most: the head, values, and FFN outputs of the first,
/// last and every third layer.
struct GgufMix {
  const char* name;
  uint32_t file_type;                      // general.file_type
  const char *usual, *more, *rest, *head;  // ggml's names: of most weights; of values and FFN
                                           // outputs where it matters, and elsewhere; of the head
};
/// @return  nullptr for another name.
const GgufMix* gguf_mix(std::string_view name);
std::vector<std::string> gguf_mixes();

/// What a weight is, as far as its type depends on it.
struct GgufRole {
  enum class Kind { head, value, down, other } kind = Kind::other;
  int layer = 0, layers = 1;
};
/// @param width  of rows. Where they are no whole blocks: the nearest type whose blocks fit.
const io::GgmlType& mixed_type(const GgufMix& mix, const GgufRole& role, int width);

}  // namespace lmxlab
