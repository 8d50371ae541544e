// A unigram language model: of all ways to write a piece in tokens, the one with the greatest sum
// of scores. Private.
#pragma once

#include "lmxlab/data/tokenizer/byte_trie.h"
#include "lmxlab/data/tokenizer/vocabulary.h"

#include <array>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lmxlab::data {

class Unigram {
 public:
  struct Data {
    struct Token {
      std::string text;
      double score = 0;
    };
    std::vector<Token> vocab;  // the id is the place
    std::optional<int> unk_id = {};
    bool byte_fallback = false;
    /// As SentencePiece computes: sums in single precision.
    bool single_precision = false;
    /// Tokens that are never found in a text (controls, bytes, unused ones); of SentencePiece.
    std::vector<int> hidden = {};
    /// Tokens that are always taken where they stand; of SentencePiece.
    std::vector<int> user_defined = {};
  };
  /// @throws Error(bad_data) if an id is outside the vocabulary.
  explicit Unigram(Data data);
  Unigram(Unigram&&) = default;
  Unigram& operator=(Unigram&&) = default;

  const Data& data() const { return data_; }
  std::optional<int> id(std::string_view token) const;

  /// Appends the ids of one piece. Time O(n) times the longest token.
  /// @param tokens  what each id stands for in the text, appended if not null: unlike the token
  /// itself where a piece is unknown.
  /// @throws UnknownSymbol if there is no unk_id and a character has no token.
  void encode(std::string_view piece, std::vector<int>& ids,
              std::vector<std::string>* tokens = nullptr) const;

 private:
  struct Part {
    size_t begin, end;
    int id;
  };
  std::vector<Part> best_path(std::string_view piece) const;

  Data data_;
  std::unordered_map<std::string_view, int, StringHash, std::equal_to<>> ids_;
  ByteTrie trie_;
  std::vector<double> scores_;  // by id; for a user-defined token, of each of its bytes
  std::vector<bool> user_defined_;
  std::array<int, 256> byte_ids_;
  double unk_score_ = 0;
  struct Cache;
  std::shared_ptr<Cache> cache_;
};

}  // namespace lmxlab::data
