#include "lmxlab/data/tokenizer/word_piece.h"

#include "lmxlab/data/tokenizer/unicode.h"

namespace lmxlab::data {
namespace {

int unknown(const Vocabulary& vocab, const std::string& token, std::string_view model) {
  if (const auto id = vocab.id(token)) return *id;
  bad_model(model, "unk_token \"" + token + "\" is needed, and is not in vocab");
}

ByteTrie trie_of(const TokenList& vocab) {
  return ByteTrie(std::vector<ByteTrie::Entry>(vocab.begin(), vocab.end()));
}

}  // namespace

WordPiece::WordPiece(Data data)
    : data_(std::move(data)),
      vocab_(data_.vocab, "WordPiece"),
      trie_(trie_of(data_.vocab)),
      continuing_(trie_.find(data_.continuing_subword_prefix)) {}

void WordPiece::encode(std::string_view piece, std::vector<int>& ids) const {
  const size_t before = ids.size();
  bool known = count_characters(piece) <= data_.max_input_chars_per_word;
  for (size_t at = 0; known && at < piece.size();) {
    const int node = at == 0 ? 0 : continuing_;
    const auto found = node < 0 ? ByteTrie::Match{} : trie_.longest(piece, at, node);
    known = found.value >= 0;
    if (known) ids.push_back(found.value);
    at += found.length;
  }
  if (known) return;
  ids.resize(before);
  ids.push_back(unknown(vocab_, data_.unk_token, "WordPiece"));
}

WordLevel::WordLevel(Data data) : data_(std::move(data)), vocab_(data_.vocab, "WordLevel") {}

void WordLevel::encode(std::string_view piece, std::vector<int>& ids) const {
  const auto id = vocab_.id(piece);
  ids.push_back(id ? *id : unknown(vocab_, data_.unk_token, "WordLevel"));
}

}  // namespace lmxlab::data
