// SentencePiece's precompiled character map: a double array of byte strings, and what each becomes.
//   uint32 (little endian): bytes of the array; the array, one uint32 a unit; replacements, each
//   ended by a zero byte. A unit: bits 0 to 7 and 31 the label, 8 whether a value follows, 9 and 10
//   to 31 the offset; or, at a value, bits 0 to 30 the place of the replacement.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lmxlab::data {

class Charsmap {
 public:
  Charsmap() = default;  // maps nothing
  /// @throws Error(bad_data) if the lengths contradict each other.
  explicit Charsmap(std::string_view blob);

  bool empty() const { return units_.empty(); }
  const std::string& blob() const { return blob_; }

  struct Match {
    size_t length = 0;  // 0: no rule
    std::string_view replacement;
  };
  /// The rule for the longest (or the shortest) prefix of the text.
  Match longest(std::string_view text) const { return search(text, false); }
  Match shortest(std::string_view text) const { return search(text, true); }

 private:
  Match search(std::string_view text, bool first) const;
  std::string blob_;
  std::vector<uint32_t> units_;
  size_t replacements_ = 0;  // where they begin in the blob
};

}  // namespace lmxlab::data
