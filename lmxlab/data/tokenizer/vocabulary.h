// Tokens to ids, and what every model of a tokenizer shares. Private.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lmxlab::data {

using TokenList = std::vector<std::pair<std::string, int>>;

constexpr int kLargestId = 1 << 24;

struct StringHash {
  using is_transparent = void;
  size_t operator()(std::string_view s) const { return std::hash<std::string_view>()(s); }
};

class Vocabulary {
 public:
  Vocabulary() = default;
  /// Keeps a view of the list, whose elements must stay where they are.
  /// @throws Error(bad_data) naming `model` if a token or an id stands twice.
  Vocabulary(const TokenList& list, std::string_view model);
  std::optional<int> id(std::string_view token) const {
    if (slots_.empty()) return std::nullopt;
    const int32_t found = slots_[slot(token)];
    return found < 0 ? std::nullopt : std::optional<int>(list_[static_cast<size_t>(found)].second);
  }
  size_t size() const { return list_.size(); }

 private:
  /// Where the token is, or would be: open addressing, half of the slots empty.
  size_t slot(std::string_view token) const {
    size_t i = StringHash()(token) & (slots_.size() - 1);
    while (slots_[i] >= 0 && list_[static_cast<size_t>(slots_[i])].first != token)
      i = (i + 1) & (slots_.size() - 1);
    return i;
  }
  std::span<const std::pair<std::string, int>> list_;
  std::vector<int32_t> slots_;  // places in the list, or -1
};

/// A character without a token: where it stands in the piece. The tokenizer makes the Error of it.
struct UnknownSymbol {
  size_t at;  // byte offset in the piece
  char32_t code;
};

[[noreturn]] void bad_model(std::string_view model, const std::string& what);

}  // namespace lmxlab::data
