// Tokens to ids, and what every model of a tokenizer shares. Private.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
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
  /// Keeps views into the list, which must stay where it is.
  /// @throws Error(bad_data) naming `model` if a token or an id stands twice.
  Vocabulary(const TokenList& list, std::string_view model);
  std::optional<int> id(std::string_view token) const {
    const auto it = ids_.find(token);
    return it == ids_.end() ? std::nullopt : std::optional<int>(it->second);
  }
  size_t size() const { return ids_.size(); }

 private:
  std::unordered_map<std::string_view, int, StringHash, std::equal_to<>> ids_;
};

/// A character without a token: where it stands in the piece. The tokenizer makes the Error of it.
struct UnknownSymbol {
  size_t at;  // byte offset in the piece
  char32_t code;
};

[[noreturn]] void bad_model(std::string_view model, const std::string& what);

}  // namespace lmxlab::data
