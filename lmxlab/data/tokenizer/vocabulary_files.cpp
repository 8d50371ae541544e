// Vocabularies without a tokenizer.json: GPT-2's vocab.json with merges.txt, BERT's vocab.txt.
#include "lmxlab/base/text.h"
#include "lmxlab/data/tokenizer/json_reader.h"
#include "lmxlab/data/tokenizer/parts.h"

namespace lmxlab::data {
namespace {

// Calls f(line, number from 1) without the ends of lines.
template <class F>
void each_line(std::string_view text, F&& f) {
  size_t number = 0;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    if (line.ends_with('\r')) line.remove_suffix(1);
    f(line, ++number);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
}

void check_utf8(std::string_view text, const std::string& name) {
  if (const size_t bad = invalid_utf8_at(text); bad != std::string_view::npos)
    bad_place(name, "it is not UTF-8 at byte " + std::to_string(bad) + ". Get the file again.");
}

}  // namespace

Parts parts_from_merges(const Json& vocab, std::string_view merges) {
  check_utf8(merges, "merges.txt");
  if (!vocab.is_object())
    bad_place("vocab.json", "expected an object, got " + std::string(vocab.type_name()));
  Bpe::Data model;
  model.vocab.reserve(vocab.size());
  for (const auto& [token, id] : vocab.as_object())
    model.vocab.emplace_back(token, Reader::id_of(id, "vocab.json[\"" + token + "\"]"));
  each_line(merges, [&](std::string_view line, size_t number) {
    if (line.starts_with("#version") || line.empty()) return;
    const size_t space = line.find(' ');
    if (space == std::string_view::npos || line.find(' ', space + 1) != std::string_view::npos)
      bad_place("merges.txt", "line " + std::to_string(number) +
                                  ": expected two tokens with one space between them, got \"" +
                                  std::string(line) + "\"");
    model.merges.emplace_back(line.substr(0, space), line.substr(space + 1));
  });
  Parts parts;
  const ByteLevel bytes{false, true, true};
  for (const auto& [token, id] : model.vocab)
    if (token == "<|endoftext|>") {
      AddedToken end;
      end.id = id, end.content = token;
      parts.added.push_back(std::move(end));
    }
  parts.model = std::move(model);
  parts.pre = {bytes};
  parts.decoders = {bytes};
  return parts;
}

Parts parts_from_word_list(std::string_view text, bool lowercase) {
  check_utf8(text, "vocab.txt");
  WordPiece::Data model;
  each_line(text, [&](std::string_view line, size_t) {
    model.vocab.emplace_back(std::string(line), static_cast<int>(model.vocab.size()));
  });
  Parts parts;
  const auto id_of = [&](std::string_view name) -> std::optional<int> {
    for (const auto& [token, id] : model.vocab)
      if (token == name) return id;
    return std::nullopt;
  };
  for (const char* name : {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"})
    if (const auto id = id_of(name)) {
      AddedToken token;
      token.id = *id, token.content = name;
      parts.added.push_back(std::move(token));
    }
  std::sort(parts.added.begin(), parts.added.end(),
            [](const auto& a, const auto& b) { return a.id < b.id; });
  if (const auto cls = id_of("[CLS]"), sep = id_of("[SEP]"); cls && sep)
    parts.post = {BertProcessing{{"[SEP]", *sep}, {"[CLS]", *cls}}};
  BertNormalizer normalizer;
  normalizer.lowercase = lowercase;
  parts.normalizers = {normalizer};
  parts.pre = {BertPreTokenizer{}};
  parts.decoders = {WordPieceDecoder{}};
  parts.model = std::move(model);
  return parts;
}

}  // namespace lmxlab::data
