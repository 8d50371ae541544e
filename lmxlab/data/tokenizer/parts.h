// The parts of a tokenizer, which every reader of a format fills. Private: users see Tokenizer.
#pragma once

#include "lmxlab/base/json.h"
#include "lmxlab/data/tokenizer/added_tokens.h"
#include "lmxlab/data/tokenizer/bpe.h"
#include "lmxlab/data/tokenizer/decoder.h"
#include "lmxlab/data/tokenizer/normalizer.h"
#include "lmxlab/data/tokenizer/post_processor.h"
#include "lmxlab/data/tokenizer/pre_tokenizer.h"
#include "lmxlab/data/tokenizer/unigram.h"
#include "lmxlab/data/tokenizer/word_piece.h"

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace lmxlab::data {

using ModelData = std::variant<Bpe::Data, Unigram::Data, WordPiece::Data, WordLevel::Data>;

/// Everything a tokenizer.json says. Sequences of one part and the part alone are told apart only
/// for writing.
struct Parts {
  std::vector<AddedToken> added;  // by id
  std::vector<Normalizer> normalizers;
  std::vector<PreTokenizer> pre;
  std::vector<PostProcessor> post;
  std::vector<Decoder> decoders{Spaced{}};
  /// Added tokens decode to their own text. Else a byte-level decoder takes one for letters if all
  /// its characters are, as the library does.
  bool added_are_text = false;
  ModelData model;
  std::optional<Truncation> truncation;
  std::optional<Padding> padding;
};

/// The engine of each.
using Model = std::variant<Bpe, Unigram, WordPiece, WordLevel>;

/// Calls f(token, id) for each token of a model's data.
template <class Data, class F>
void each_token(const Data& data, F&& f) {
  if constexpr (std::is_same_v<Data, Unigram::Data>) {
    for (size_t i = 0; i < data.vocab.size(); ++i) f(data.vocab[i].text, static_cast<int>(i));
  } else {
    for (const auto& [token, id] : data.vocab) f(token, id);
  }
}

/// @throws Error(bad_data) naming the place, Error(unsupported) naming the part.
Parts parts_from_json(const Json& root);
/// Canonical: the same parts give the same document.
Json parts_to_json(const Parts& parts, const Model& model);

/// A SentencePiece model file. @throws Error(bad_data) naming the offset, Error(unsupported).
Parts parts_from_sentencepiece(std::string_view bytes);
/// Whether the bytes begin as such a file does.
bool is_sentencepiece(std::string_view bytes);

struct TiktokenRules {
  std::string pattern;
  std::vector<std::pair<std::string, int>> special_tokens;
  std::optional<NormalForm> normal_form = {};
};
/// A file of ranks: a token in base64, a space, its rank, on each line.
Parts parts_from_tiktoken(std::string_view text, const TiktokenRules& rules);
bool is_tiktoken(std::string_view text);
/// Mistral's tekken.json. What `rules` has takes the place of what the file says.
Parts parts_from_tekken(const Json& root, const TiktokenRules& rules);
bool is_tekken(const Json& root);

/// vocab.json and merges.txt of GPT-2 and its kin.
Parts parts_from_merges(const Json& vocab, std::string_view merges);
/// vocab.txt of BERT and its kin: a token a line.
Parts parts_from_word_list(std::string_view text, bool lowercase);

}  // namespace lmxlab::data
