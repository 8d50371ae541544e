// Tokens that are looked for in the text itself, before and after it is normalized. Private.
#pragma once

#include "lmxlab/data/tokenizer/byte_trie.h"

#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace lmxlab::data {

struct AddedToken {
  int id = 0;
  std::string content;
  bool single_word = false, lstrip = false, rstrip = false, normalized = false, special = true;
};

/// The longest added token at the leftmost place.
class AddedMatcher {
 public:
  /// @param patterns  what to look for, one for each token; an empty one is not looked for.
  AddedMatcher(const std::vector<AddedToken>& tokens, const std::vector<std::string>& patterns);
  bool empty() const { return trie_.empty(); }
  /// Calls on_text(begin, end) and on_token(token, begin, end) in order. A token that strips white
  /// space may reach over the next one.
  /// @param special  also the special tokens.
  void split(std::string_view text, bool special,
             const std::function<void(size_t, size_t)>& on_text,
             const std::function<void(const AddedToken&, size_t, size_t)>& on_token) const;

 private:
  const std::vector<AddedToken>* tokens_;
  ByteTrie trie_;
};

}  // namespace lmxlab::data
