// WordPiece: of each word the longest token at its begin, then of the rest, with a prefix. And
// WordLevel: a word is a token. Private.
#pragma once

#include "lmxlab/data/tokenizer/byte_trie.h"
#include "lmxlab/data/tokenizer/vocabulary.h"

#include <string>
#include <string_view>
#include <vector>

namespace lmxlab::data {

class WordPiece {
 public:
  struct Data {
    TokenList vocab;
    std::string unk_token = "[UNK]";
    std::string continuing_subword_prefix = "##";
    size_t max_input_chars_per_word = 100;  // a longer word is unk
  };
  /// @throws Error(bad_data) if a token or an id stands twice.
  explicit WordPiece(Data data);
  WordPiece(WordPiece&&) = default;
  WordPiece& operator=(WordPiece&&) = default;

  const Data& data() const { return data_; }
  const Vocabulary& vocabulary() const { return vocab_; }
  /// @throws Error(bad_data) if unk_token is needed and no token.
  void encode(std::string_view piece, std::vector<int>& ids) const;

 private:
  Data data_;
  Vocabulary vocab_;
  ByteTrie trie_;
  int continuing_ = -1;  // the node of the prefix
};

class WordLevel {
 public:
  struct Data {
    TokenList vocab;
    std::string unk_token = "<unk>";
  };
  explicit WordLevel(Data data);
  WordLevel(WordLevel&&) = default;
  WordLevel& operator=(WordLevel&&) = default;

  const Data& data() const { return data_; }
  const Vocabulary& vocabulary() const { return vocab_; }
  void encode(std::string_view piece, std::vector<int>& ids) const;

 private:
  Data data_;
  Vocabulary vocab_;
};

}  // namespace lmxlab::data
