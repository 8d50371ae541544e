// Vocabularies of bare ranks: tiktoken's files and Mistral's tekken.json. A token's rank says when
// it is merged, and is its id but for an offset.
#include "lmxlab/base/error.h"
#include "lmxlab/base/text.h"
#include "lmxlab/data/tokenizer/base64.h"
#include "lmxlab/data/tokenizer/byte_level.h"
#include "lmxlab/data/tokenizer/json_reader.h"
#include "lmxlab/data/tokenizer/parts.h"
#include "lmxlab/data/tokenizer/ranked_merges.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <unordered_map>
#include <unordered_set>

namespace lmxlab::data {
namespace {

[[noreturn]] void bad_line(size_t line, const std::string& what) {
  throw Error(Kind::bad_data, "[tokenizer] line " + std::to_string(line) + ": " + what +
                                  ". Expected a token in base64, a space and its rank; get the "
                                  "file again.");
}

struct Ranked {
  std::string bytes;
  int rank;
};

// @param offset  ids are ranks and this.
Parts parts_of_ranks(const std::vector<Ranked>& ranked, int offset, const TiktokenRules& rules) {
  if (rules.pattern.empty())
    throw Error(Kind::usage,
                "[tokenizer] a file of bare ranks does not say how text is cut into words: "
                "expected a pattern, got none. Give the vocabulary's regular expression "
                "(--pattern).");
  Parts parts;
  Bpe::Data model;
  model.ignore_merges = true;
  model.vocab.reserve(ranked.size());
  for (const auto& r : ranked) {
    std::string letters;
    append_letters(letters, r.bytes);
    model.vocab.emplace_back(std::move(letters), r.rank + offset);
  }
  std::vector<RankedToken> tokens;
  tokens.reserve(ranked.size());
  for (const auto& [token, id] : model.vocab)
    tokens.push_back({token, static_cast<double>(id), id});
  add_ranked_merges(model, std::move(tokens), false);
  parts.model = std::move(model);
  std::unordered_map<int, std::string_view> names;
  std::unordered_set<std::string_view> seen;
  for (const auto& [name, id] : rules.special_tokens) {
    if (name.empty() || invalid_utf8_at(name) != std::string::npos || id < 0 || id >= kLargestId)
      throw Error(Kind::usage, "[tokenizer] the special token \"" + name + "\" with the id " +
                                   std::to_string(id) +
                                   ": expected a name and an id from 0 to 16777215");
    if (!names.emplace(id, name).second)
      throw Error(Kind::usage, "[tokenizer] two special tokens have the id " + std::to_string(id) +
                                   ": \"" + std::string(names[id]) + "\" and \"" + name + "\"");
    if (!seen.insert(name).second)
      throw Error(Kind::usage,
                  "[tokenizer] the special token \"" + name + "\" stands twice. Name it once.");
    AddedToken token;
    token.id = id, token.content = name;
    parts.added.push_back(std::move(token));
  }
  std::sort(parts.added.begin(), parts.added.end(),
            [](const auto& a, const auto& b) { return a.id < b.id; });
  for (const auto& r : ranked)
    if (const auto it = names.find(r.rank + offset); it != names.end())
      throw Error(Kind::usage, "[tokenizer] the special token \"" + std::string(it->second) +
                                   "\" has the id " + std::to_string(it->first) +
                                   " of an ordinary token. Give it another one.");
  if (rules.normal_form) parts.normalizers = {UnicodeForm{*rules.normal_form}};
  parts.pre = {
      SplitStep{Pattern::expression(ruby_of_rust(rules.pattern)), SplitBehavior::isolated, false},
      ByteLevel{false, true, false}};
  parts.decoders = {ByteLevel{true, true, true}};
  parts.added_are_text = true;
  return parts;
}

}  // namespace

bool is_tiktoken(std::string_view text) {
  const std::string_view line = text.substr(0, text.find('\n'));
  const size_t space = line.find(' ');
  if (space == 0 || space == std::string_view::npos || space % 4 != 0 || line.size() > 4096)
    return false;
  for (const char c : line.substr(0, space))
    if (!std::isalnum(static_cast<unsigned char>(c)) && c != '+' && c != '/' && c != '=')
      return false;
  const std::string_view rank = trim(line.substr(space));
  return !rank.empty() && rank.find_first_not_of("0123456789") == std::string_view::npos;
}

Parts parts_from_tiktoken(std::string_view text, const TiktokenRules& rules) {
  std::vector<Ranked> ranked;
  size_t number = 0;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    ++number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty()) continue;
    const size_t space = line.find(' ');
    if (space == std::string_view::npos) bad_line(number, "it has no space");
    const std::string_view digits = line.substr(space + 1);
    int rank = -1;
    const auto [stop, error] = std::from_chars(digits.data(), digits.data() + digits.size(), rank);
    if (error != std::errc() || stop != digits.data() + digits.size() || rank < 0 ||
        rank >= kLargestId)
      bad_line(number, "the rank is no integer from 0 to 16777215");
    // Some files fill a gap with an empty token, "=".
    const std::string_view token = line.substr(0, space);
    const bool empty = token.find_first_not_of('=') == std::string_view::npos;
    ranked.push_back({empty ? "" : decode_base64(token, "line " + std::to_string(number)), rank});
  }
  return parts_of_ranks(ranked, 0, rules);
}

bool is_tekken(const Json& root) {
  const Json* config = root.find("config");
  const Json* vocab = root.find("vocab");
  return config && vocab && vocab->is_array() && config->contains("pattern");
}

Parts parts_from_tekken(const Json& root, const TiktokenRules& rules) {
  const std::string path = "tekken.json";
  const auto member = [](const Json& j, std::string_view key,
                         const std::string& place) -> const Json& {
    const Json* found = j.find(key);
    if (!found || found->is_null()) bad_place(place, "\"" + std::string(key) + "\" is missing");
    return *found;
  };
  const Json& config = member(root, "config", path);
  const std::string place = inside(path, "config");
  const auto count = [&](std::string_view key) {
    return Reader::id_of(member(config, key, place), inside(place, key));
  };
  const int special = count("default_num_special_tokens"), size = count("default_vocab_size");
  if (special > size)
    bad_place(place, "expected no more special tokens than the vocabulary's " +
                         std::to_string(size) + ", got " + std::to_string(special));
  TiktokenRules used = rules;
  if (used.pattern.empty())
    used.pattern = Reader::text_of(member(config, "pattern", place), inside(place, "pattern"));
  std::vector<Ranked> ranked;
  const std::string vocab = inside(path, "vocab");
  size_t i = 0;
  for (const Json& item : Reader::list_of(member(root, "vocab", path), vocab)) {
    const std::string here = vocab + "." + std::to_string(i++);
    const int rank = Reader::id_of(member(item, "rank", here), inside(here, "rank"));
    if (rank >= size - special) continue;  // beyond the size in use
    const std::string& text =
        Reader::text_of(member(item, "token_bytes", here), inside(here, "token_bytes"));
    ranked.push_back({decode_base64(text, here), rank});
  }
  if (const Json* list = root.find("special_tokens"); list && !list->is_null()) {
    const std::string where = inside(path, "special_tokens");
    std::unordered_set<int> given, ids;
    std::unordered_set<std::string_view> names;
    for (const auto& s : used.special_tokens) given.insert(s.second);
    for (const Json& item : Reader::list_of(*list, where)) {
      const int id = Reader::id_of(member(item, "rank", where), where);
      const std::string& name = Reader::text_of(member(item, "token_str", where), where);
      if (id >= special)
        bad_place(where, "expected an id below " + std::to_string(special) + ", got " +
                             std::to_string(id));
      if (!ids.insert(id).second || !names.insert(name).second)
        bad_place(where, "the special token \"" + name + "\" or its id, " + std::to_string(id) +
                             ", stands twice");
      if (given.insert(id).second) used.special_tokens.emplace_back(name, id);
    }
  }
  return parts_of_ranks(ranked, special, used);
}

}  // namespace lmxlab::data
