// Merges of vocabularies that have ranks instead: SentencePiece's scores, tiktoken's order.
// Private.
#pragma once

#include "lmxlab/data/tokenizer/bpe.h"

#include <string_view>
#include <vector>

namespace lmxlab::data {

struct RankedToken {
  std::string_view text;  // must outlive the call
  double rank;            // the smallest is merged first
  int id;
};

/// All ways to put a token together from two others of the list, as merges of its rank.
/// @param characters  a single character is a part too if it is no token.
void add_ranked_merges(Bpe::Data& data, std::vector<RankedToken> tokens, bool characters);

}  // namespace lmxlab::data
