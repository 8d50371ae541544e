// What a SentencePiece model says, however it was stored. Private.
#pragma once

#include "lmxlab/data/tokenizer/parts.h"

#include <string>
#include <vector>

namespace lmxlab::data {

struct SentencePieceModel {
  enum class Kind { unigram = 1, bpe = 2, word = 3, character = 4 };
  enum class Type { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };
  struct Piece {
    std::string text;
    float score = 0;
    Type type = Type::normal;
  };
  std::vector<Piece> pieces;  // by id
  Kind kind = Kind::unigram;
  bool byte_fallback = false, add_dummy_prefix = true, remove_extra_whitespaces = true;
  bool escape_whitespaces = true, whitespace_as_suffix = false;
  std::string charsmap;
  std::string unk_surface = " \xE2\x81\x87 ";  // what unk decodes to: U+2047 between spaces
};

/// @throws Error(bad_data), Error(unsupported) for the kind word.
Parts parts_of_sentencepiece(const SentencePieceModel& model);

}  // namespace lmxlab::data
