// How a normalized text is cut into the pieces that the model sees: the pre-tokenizers of
// tokenizer.json. Private.
#pragma once

#include "lmxlab/data/tokenizer/normalizer.h"

#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace lmxlab::data {

/// Text on its way to the model: one string, and the pieces of it that are left, in order.
struct Pieces {
  struct Span {
    size_t begin, end;
  };
  explicit Pieces(std::string_view t, size_t origin_bytes = 0) : text(t), origin(origin_bytes) {
    if (!t.empty()) spans.push_back({0, t.size()});
  }
  Pieces(const Pieces&) = delete;  // `text` may be a view of `owned`
  Pieces& operator=(const Pieces&) = delete;
  std::string_view text;
  std::vector<Span> spans;  // none is empty
  size_t origin;            // as Normalized::origin
  bool letters = false;     // its characters stand for bytes
  std::string owned;
};

/// What becomes of a separator.
enum class SplitBehavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

struct SplitStep {
  Pattern pattern;
  SplitBehavior behavior = SplitBehavior::isolated;
  bool invert = false;
  void apply(Pieces& p) const;
};
/// Pre-tokenizer, post-processor (where only offsets would change) and decoder of this name have
/// the same fields.
struct ByteLevel {
  bool add_prefix_space = true, trim_offsets = true, use_regex = true;
  void apply(Pieces& p) const;
};
struct Digits {
  bool individual_digits = false;
  void apply(Pieces& p) const;
};
struct Punctuation {
  SplitBehavior behavior = SplitBehavior::isolated;
  void apply(Pieces& p) const;
};
/// A pre-tokenizer and a decoder.
struct Metaspace {
  enum class Prepend { first, never, always };
  std::string replacement = std::string(kMetaspace);  // one character
  Prepend prepend_scheme = Prepend::always;
  bool split = true;
  void apply(Pieces& p) const;
};
struct Whitespace {
  void apply(Pieces& p) const;
};
struct WhitespaceSplit {
  void apply(Pieces& p) const;
};
struct CharDelimiterSplit {
  std::string delimiter;  // one character
  void apply(Pieces& p) const;
};
struct BertPreTokenizer {
  void apply(Pieces& p) const;
};
struct UnicodeScripts {
  void apply(Pieces& p) const;
};
struct FixedLength {
  size_t length = 5;  // characters, at least 1
  void apply(Pieces& p) const;
};

using PreTokenizer =
    std::variant<SplitStep, ByteLevel, Digits, Punctuation, Metaspace, Whitespace, WhitespaceSplit,
                 CharDelimiterSplit, BertPreTokenizer, UnicodeScripts, FixedLength>;

}  // namespace lmxlab::data
