// The parts of a tokenizer: added tokens, pre-tokenizer, model, post-processor, decoder. Private:
// users see Tokenizer. A new part is a struct here, a line in its variant, its reading and writing
// in tokenizer_json.cpp.
#pragma once

#include "lmxlab/base/json.h"
#include "lmxlab/data/bpe.h"
#include "lmxlab/data/regex.h"

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace lmxlab::data {

/// The 256 printable letters that stand for bytes in byte-level vocabularies, as UTF-8 (one or two
/// bytes each).
const std::string& byte_letter(unsigned char byte);
/// The byte a letter stands for, or -1.
int byte_of_letter(char32_t letter);
/// Bytes as letters, appended; and back: false, with nothing appended, if a character is no letter.
void append_letters(std::string& out, std::string_view bytes);
bool append_bytes(std::string& out, std::string_view letters);

/// Text on its way to the model: one string cut into pieces. `letters`: its characters stand for
/// bytes.
struct Pieces {
  std::string_view text;
  std::vector<size_t> ends;
  std::string owned;
  bool letters = false;
};

struct SplitStep {
  Regex regex;
  bool invert = false;  // no difference for Isolated; kept for writing
  void apply(Pieces& pieces) const;
};
/// Pre-tokenizer, post-processor (where only offsets would change) and decoder of this name have
/// the same fields.
struct ByteLevel {
  bool add_prefix_space = true, trim_offsets = true, use_regex = true;
  void apply(Pieces& pieces) const;
};
using PreStep = std::variant<SplitStep, ByteLevel>;
/// The pattern of GPT-2 that ByteLevel cuts with.
const Regex& gpt2_regex();

struct Template {
  struct Item {
    std::string token;  // empty: the sequence itself
    int type_id = 0;
  };
  struct Special {
    std::string name;
    std::vector<int> ids;
    std::vector<std::string> tokens;
  };
  std::vector<Item> single;
  std::vector<Special> special_tokens;
  Json pair;  // for two sequences; carried along
};
using PostStep = std::variant<ByteLevel, Template>;

struct Fuse {};
using Decoder = std::variant<std::monostate, ByteLevel, Fuse>;

struct AddedToken {
  int id = 0;
  std::string content;
  bool single_word = false, lstrip = false, rstrip = false, normalized = false, special = true;
};

/// Longest added token at the leftmost place.
class AddedMatcher {
 public:
  AddedMatcher(const std::vector<AddedToken>& tokens, bool normalized);
  bool empty() const { return count_ == 0; }
  /// Calls text(begin, end) and token(index) in order; they cover the whole text.
  void split(std::string_view text, const std::function<void(size_t, size_t)>& on_text,
             const std::function<void(const AddedToken&)>& on_token) const;

 private:
  const std::vector<AddedToken>* tokens_;
  size_t count_ = 0;
  std::vector<int> values_;  // by node of the trie: index of the token that ends there, or -1
  PairTable edges_;          // (node, byte) to node
  std::array<bool, 256> first_{};
};

/// Everything tokenizer.json says. Sequences of one part and the part alone are told apart only for
/// writing.
struct Parts {
  std::vector<AddedToken> added;
  std::vector<PreStep> pre;
  std::vector<PostStep> post;
  Decoder decoder;
  Bpe::Data model;
};

/// @throws Error(bad_data) naming the place, Error(unsupported) naming the part.
Parts parts_from_json(const Json& root);
/// Canonical: the same parts give the same document.
Json parts_to_json(const Parts& parts, const Bpe::Data& model);

/// Length of the UTF-8 character at `at`. valid = false: of the longest part that could begin one
/// (at least 1); incomplete: it reaches the end and more bytes could complete it.
size_t utf8_length(std::string_view bytes, size_t at, bool& valid, bool& incomplete);

}  // namespace lmxlab::data
