// What is done to a text before it is cut: the normalizers of tokenizer.json, and SentencePiece's
// own. Private.
#pragma once

#include "lmxlab/data/tokenizer/byte_trie.h"
#include "lmxlab/data/tokenizer/charsmap.h"
#include "lmxlab/data/tokenizer/regex.h"
#include "lmxlab/data/tokenizer/unicode.h"

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace lmxlab::data {

/// A text on its way. `origin`: so many bytes at its begin come from the first character of the
/// whole input (a prefix that only the first word gets looks at this).
struct Normalized {
  Normalized(std::string t, size_t origin_bytes)
      : text(std::move(t)), origin(origin_bytes), limit((1 << 20) + 64 * text.size()) {}
  std::string text;
  size_t origin;
  size_t limit;  // steps may make a text longer, and a chain of them without end
};

struct UnicodeForm {
  NormalForm form;
  void apply(Normalized& n) const;
};
struct Lowercase {
  void apply(Normalized& n) const;
};
struct StripSpaces {
  bool left = true, right = true;
  void apply(Normalized& n) const;
};
struct StripAccents {
  void apply(Normalized& n) const;
};
struct Prepend {
  std::string content;
  void apply(Normalized& n) const;
};

/// A string or a regular expression, as Split and Replace have it.
struct Pattern {
  bool is_regex = false;
  std::string source;
  std::optional<Regex> regex;  // also of an empty string, which matches everywhere
  static Pattern text(std::string source);
  static Pattern expression(std::string source);
  void matches(std::string_view text, std::vector<Regex::Match>& out) const;
};
/// A normalizer and a decoder.
struct Replace {
  Pattern pattern;
  std::string content;
  void apply(Normalized& n) const;
  std::string replaced(std::string_view text) const;
};

/// Controls removed, odd spaces made plain: the rules of Google's translation models.
struct Nmt {
  void apply(Normalized& n) const;
};
/// The character map as the library applies it: to short grapheme clusters, else to characters.
struct Precompiled {
  std::shared_ptr<const Charsmap> map;
  void apply(Normalized& n) const;
};
struct BertNormalizer {
  bool clean_text = true, handle_chinese_chars = true, lowercase = true;
  std::optional<bool> strip_accents;  // as lowercase, if not said
  void apply(Normalized& n) const;
};
struct ByteLevelNormalizer {
  void apply(Normalized& n) const;
};

/// All that SentencePiece does before its model: the longest rule at each place, spaces folded, one
/// put in front or behind, and written as U+2581. Pieces in `kept` stay as they are.
struct SentencePieceNormalizer {
  std::shared_ptr<const Charsmap> map;
  bool add_dummy_prefix = true, remove_extra_whitespaces = true, escape_whitespaces = true;
  bool whitespace_as_suffix = false;
  std::vector<std::string> kept;
  std::shared_ptr<const ByteTrie> kept_trie;
  void index_kept();
  void apply(Normalized& n) const;
};

using Normalizer =
    std::variant<UnicodeForm, Lowercase, StripSpaces, StripAccents, Prepend, Replace, Nmt,
                 Precompiled, BertNormalizer, ByteLevelNormalizer, SentencePieceNormalizer>;

void normalize(const std::vector<Normalizer>& steps, Normalized& n);

/// @throws Error(resource)
void check_length(size_t bytes, size_t limit);

}  // namespace lmxlab::data
