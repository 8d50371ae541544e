// Byte-pair encoding of one piece of text: symbols, then the lowest-ranked merge until none
// applies. The one engine for tokenizer.json, SentencePiece, tiktoken and GGUF. Private.
#pragma once

#include "lmxlab/data/tokenizer/byte_trie.h"
#include "lmxlab/data/tokenizer/vocabulary.h"

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace lmxlab::data {

/// Pairs of ids to a rank: open addressing, built once.
class PairTable {
 public:
  explicit PairTable(size_t expected);
  static uint64_t key(int left, int right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  void put(uint64_t key, int value);
  /// The value, or -1.
  int find(uint64_t key) const {
    for (size_t i = slot(key);; i = (i + 1) & (slots_.size() - 1)) {
      if (slots_[i].second < 0) return -1;
      if (slots_[i].first == key) return slots_[i].second;
    }
  }

 private:
  size_t slot(uint64_t key) const { return (key * 0x9E3779B97F4A7C15ull) >> shift_; }
  std::vector<std::pair<uint64_t, int>> slots_;
  int shift_ = 0;
};

class Bpe {
 public:
  struct Data {
    TokenList vocab;  // unique tokens, unique ids
    std::vector<std::pair<std::string, std::string>> merges;
    /// Of each merge, never falling; empty: the order. Of equals the leftmost place is first.
    std::vector<int> ranks = {};
    /// In place of `merges`: the ids of both parts and of what they make. A part may be -1: a
    /// character that is no token.
    std::vector<std::array<int, 3>> merge_ids = {};
    bool has_merges() const { return !merges.empty() || !merge_ids.empty(); }
    std::optional<std::string> unk_token = {};
    bool fuse_unk = false;
    bool ignore_merges = false;  // a piece that is a token is that token
    bool byte_fallback = false;
    std::string continuing_subword_prefix = {}, end_of_word_suffix = {};
    /// As SentencePiece does it: characters without a token take part in merges, and become bytes
    /// or unk only after.
    bool late_fallback = false;
    /// A character that no token has is an error, and not left out. Of vocabularies of characters
    /// or bytes, whose text would be lost without a word.
    bool strict = false;
    /// Tokens found before all else, the longest first, that never merge.
    std::vector<std::string> frozen = {};
    /// Tokens that are taken apart again into what they were merged from.
    std::vector<std::string> unused = {};
  };
  /// @throws Error(bad_data) if a token or an id stands twice, or a merge names a token that is not
  /// there.
  explicit Bpe(Data data);

  /// Without its merges, which are kept as ids: see merges().
  const Data& data() const { return data_; }
  /// As text, in order. @cost  a string for each part
  std::vector<std::pair<std::string, std::string>> merges() const;
  const Vocabulary& vocabulary() const { return vocab_; }

  /// Appends the ids of one piece. O(n log n) in its length; short pieces come from a cache.
  /// A character without a token is left out if there is no unk_token, as in the library.
  /// @throws UnknownSymbol, see there; Error(bad_data) if unk_token is needed and no token.
  void encode(std::string_view piece, std::vector<int>& ids) const;

 private:
  struct Merge {
    int left, right, result, rank;
  };
  // A symbol of a word; start: where its text begins in the piece.
  struct Symbol {
    int id;
    uint32_t start;
    bool frozen = false;
  };
  // Filled by any thread, dropped when full. Sharded, so that threads seldom wait for each other.
  struct Shard {
    std::mutex mutex;
    std::unordered_map<std::string, std::vector<int>, StringHash, std::equal_to<>> words;
  };
  static constexpr size_t kShards = 16, kShardWords = 4096, kLongestCached = 64, kShortWord = 24;

  bool words_are_apart() const;
  void put_character(std::string_view token, int id);
  void read_merges();
  std::vector<std::string_view> texts() const;
  void encode_word(std::string_view word, std::vector<int>& ids) const;
  int character_id(std::string_view piece, size_t at, size_t& length) const;
  int unknown_id() const;
  void symbols(std::string_view piece, std::vector<Symbol>& out) const;
  void merge(std::vector<Symbol>& word) const;
  void merge_short(std::vector<Symbol>& word) const;
  void merge_long(std::vector<Symbol>& word) const;
  void finish(std::string_view piece, const std::vector<Symbol>& word, std::vector<int>& ids) const;
  void take_apart(int id, std::vector<int>& ids) const;

  Data data_;
  Vocabulary vocab_;
  std::array<int, 2048> small_;              // ids of one-character tokens below U+0800, or -1
  std::unordered_map<char32_t, int> large_;  // and of the others
  std::vector<Merge> merges_;
  PairTable ranks_;                // pair to index in merges_
  std::array<int, 256> byte_ids_;  // of fallback tokens, or -1
  int unk_ = -1;
  bool words_ = false;     // U+2581 behind another character is in no token: words are independent
  int virtual_begin_ = 0;  // ids from here on are characters that only merges know
  std::vector<std::string> virtual_texts_;  // of the ids from there
  ByteTrie frozen_;
  std::unordered_map<int, std::pair<int, int>> apart_;
  std::unique_ptr<std::array<Shard, kShards>> cache_;
};

}  // namespace lmxlab::data
