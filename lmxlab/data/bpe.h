// Byte-pair encoding of one piece of text: symbols, then the lowest-ranked merge until none
// applies. Private.
#pragma once

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
  int find(uint64_t key) const;

 private:
  size_t slot(uint64_t key) const { return (key * 0x9E3779B97F4A7C15ull) >> shift_; }
  std::vector<std::pair<uint64_t, int>> slots_;
  int shift_ = 0;
};

struct StringHash {
  using is_transparent = void;
  size_t operator()(std::string_view s) const { return std::hash<std::string_view>()(s); }
};
using Vocabulary = std::unordered_map<std::string, int, StringHash, std::equal_to<>>;

/// A character without a token: where it stands in the piece. The tokenizer makes the Error of it.
struct UnknownSymbol {
  size_t at;  // byte offset in the piece
  char32_t code;
};

class Bpe {
 public:
  struct Data {
    std::vector<std::pair<std::string, int>> vocab;  // unique tokens, unique ids
    std::vector<std::pair<std::string, std::string>> merges;
    std::optional<std::string> unk_token = {};
    bool fuse_unk = false;
    bool ignore_merges = false;
  };
  /// @throws Error(bad_data) if a token or an id stands twice, or a merge names a token that is not
  /// there.
  explicit Bpe(Data data);

  const Data& data() const { return data_; }
  std::optional<int> id(std::string_view token) const;

  /// Appends the ids of one piece. O(n log n) in its length; short pieces come from a cache.
  /// @throws UnknownSymbol if a character has no token and there is no unk_token.
  void encode(std::string_view piece, std::vector<int>& ids) const;

 private:
  struct Merge {
    int left, right, result;
  };
  // Filled by any thread, dropped when full. Sharded, so that threads seldom wait for each other.
  struct Shard {
    std::mutex mutex;
    std::unordered_map<std::string, std::vector<int>, StringHash, std::equal_to<>> words;
  };
  static constexpr size_t kShards = 16, kShardWords = 4096, kLongestCached = 64;

  void symbols(std::string_view piece, std::vector<int>& out) const;
  void merge(std::vector<int>& ids) const;

  Data data_;
  Vocabulary vocab_;
  std::array<int, 2048> small_;              // ids of one-character tokens below U+0800, or -1
  std::unordered_map<char32_t, int> large_;  // and of the others
  std::vector<Merge> merges_;                // by rank
  PairTable ranks_;
  int unk_ = -1;
  std::unique_ptr<std::array<Shard, kShards>> cache_;
};

/// The code point at `at` and its length; `text` is valid UTF-8.
char32_t code_point(std::string_view text, size_t at, size_t& length);

}  // namespace lmxlab::data
