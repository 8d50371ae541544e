#include "lmxlab/data/tokenizer.h"

#include "lmxlab/base/files.h"
#include "lmxlab/base/text.h"
#include "lmxlab/data/tokenizer_parts.h"

#include <mlx/mlx.h>

#include <algorithm>
#include <cstdio>
#include <limits>
#include <set>
#include <unordered_map>

namespace lmxlab::data {

namespace mx = mlx::core;

namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

std::string hex(uint64_t value, int digits) {
  char buffer[24];
  std::snprintf(buffer, sizeof buffer, "%0*llX", digits, static_cast<unsigned long long>(value));
  return buffer;
}

// Moves everything decided from `held` to the result; what could still become a character stays
// unless `last`.
std::string release(std::string& held, bool last) {
  std::string out;
  out.reserve(held.size());
  size_t at = 0;
  while (at < held.size()) {
    bool valid = true, incomplete = false;
    const size_t length = utf8_length(held, at, valid, incomplete);
    if (incomplete && !last) break;
    out += valid ? std::string_view(held).substr(at, length) : kReplacement;
    at += length;
  }
  held.erase(0, at);
  return out;
}

std::optional<int> named_token(const Json& config, std::string_view key,
                               const Tokenizer& tokenizer) {
  const Json* j = config.find(key);
  if (j && j->is_object()) j = j->find("content");
  return j && j->is_string() ? tokenizer.token_id(j->as_string()) : std::nullopt;
}

}  // namespace

struct Tokenizer::State {
  State(Parts p, Json c)
      : parts(std::move(p)),
        config(c.is_object() ? std::move(c) : Json::object()),
        model(std::move(parts.model)),
        raw_added(parts.added, false),
        normalized_added(parts.added, true) {
    int largest = -1;
    for (const auto& [token, id] : model.data().vocab) largest = std::max(largest, id);
    for (const auto& t : parts.added) largest = std::max(largest, t.id);
    tokens.resize(static_cast<size_t>(largest + 1));
    special.resize(tokens.size());
    for (const auto& [token, id] : model.data().vocab) tokens[static_cast<size_t>(id)] = token;
    for (const auto& t : parts.added) {
      tokens[static_cast<size_t>(t.id)] = t.content;
      special[static_cast<size_t>(t.id)] = t.special;
      added_ids.emplace(t.content, t.id);
    }
    const auto* first = parts.pre.empty() ? nullptr : std::get_if<ByteLevel>(&parts.pre.front());
    any_bytes = first && !first->use_regex &&
                std::none_of(parts.added.begin(), parts.added.end(), [](const auto& t) {
                  return t.single_word || t.lstrip || t.rstrip;  // these look at characters
                });
  }
  State(const State&) = delete;  // views point into it

  std::string_view token(int id) const {
    return id >= 0 && static_cast<size_t>(id) < tokens.size() ? tokens[static_cast<size_t>(id)]
                                                              : std::string_view();
  }
  void encode_text(std::string_view text, size_t begin, size_t end, std::vector<int>& ids) const;
  void encode(std::string_view text, const EncodeOptions& options, std::vector<int>& ids) const;
  void decode_into(std::string& bytes, int id, bool skip_special, bool& first) const;

  Parts parts;
  Json config;
  Bpe model;
  AddedMatcher raw_added, normalized_added;
  std::vector<std::string_view> tokens;  // by id; null where there is none
  std::vector<bool> special;
  std::unordered_map<std::string_view, int> added_ids;
  bool any_bytes = false;  // the first step takes bytes as they are
};

void Tokenizer::State::encode_text(std::string_view text, size_t begin, size_t end,
                                   std::vector<int>& ids) const {
  Pieces pieces;
  pieces.text = text.substr(begin, end - begin);
  pieces.ends = {pieces.text.size()};
  for (const auto& step : parts.pre) std::visit([&](const auto& s) { s.apply(pieces); }, step);
  size_t from = 0;
  try {
    for (const size_t to : pieces.ends) {
      model.encode(pieces.text.substr(from, to - from), ids);
      from = to;
    }
  } catch (const UnknownSymbol& unknown) {
    const size_t at = from + unknown.at;
    const auto characters = [](std::string_view s) {
      return static_cast<size_t>(
          std::count_if(s.begin(), s.end(), [](char c) { return (c & 0xC0) != 0x80; }));
    };
    if (pieces.letters) {
      const int byte = byte_of_letter(unknown.code);
      throw Error(
          Kind::bad_data,
          "[tokenizer] the byte 0x" + hex(static_cast<uint64_t>(byte), 2) + " near byte " +
              std::to_string(begin + characters(pieces.text.substr(0, at))) +
              " of the text is not in the vocabulary, which lacks that letter. Use a tokenizer "
              "whose vocabulary has all 256 byte letters.");
    }
    std::string shown;
    append_utf8(shown, unknown.code);
    throw Error(Kind::bad_data, "[tokenizer] the character '" + shown + "' (U+" +
                                    hex(unknown.code, 4) + ") at byte " +
                                    std::to_string(begin + at) + " (character " +
                                    std::to_string(characters(text.substr(0, begin + at))) +
                                    ", both from 0) is not in the vocabulary of " +
                                    std::to_string(model.data().vocab.size()) +
                                    " tokens. Leave it out, make the tokenizer from text that has "
                                    "it, or use a byte-level one.");
  }
}

void Tokenizer::State::encode(std::string_view text, const EncodeOptions& options,
                              std::vector<int>& ids) const {
  if (!any_bytes)
    if (const size_t bad = invalid_utf8_at(text); bad != std::string_view::npos)
      throw Error(Kind::bad_data, "[tokenizer] the text is not UTF-8 at byte " +
                                      std::to_string(bad) + " (0x" +
                                      hex(static_cast<unsigned char>(text[bad]), 2) +
                                      "). Convert it, or use the byte tokenizer.");
  if (!options.special || (raw_added.empty() && normalized_added.empty()))
    return encode_text(text, 0, text.size(), ids);
  const auto token = [&](const AddedToken& t) { ids.push_back(t.id); };
  raw_added.split(
      text,
      [&](size_t begin, size_t end) {
        normalized_added.split(
            text.substr(begin, end - begin),
            [&](size_t b, size_t e) { encode_text(text, begin + b, begin + e, ids); }, token);
      },
      token);
}

void Tokenizer::State::decode_into(std::string& bytes, int id, bool skip_special,
                                   bool& first) const {
  const std::string_view text = token(id);
  if (!text.data() || (skip_special && special[static_cast<size_t>(id)])) return;
  if (std::holds_alternative<ByteLevel>(parts.decoder)) {
    // A token that is no string of letters (an added one with a space, say) stands for its own
    // text.
    if (!append_bytes(bytes, text)) bytes += text;
  } else {
    if (std::holds_alternative<std::monostate>(parts.decoder) && !first) bytes += ' ';
    bytes += text;
  }
  first = false;
}

Tokenizer Tokenizer::from_json(const Json& tokenizer, const Json& config) {
  return Tokenizer(std::make_shared<const State>(parts_from_json(tokenizer), config));
}

Tokenizer Tokenizer::load(const fs::path& path) {
  fs::path file = path;
  std::error_code none;
  if (fs::is_directory(path, none)) {
    file = path / "tokenizer.json";
    if (!fs::exists(file, none)) {
      for (const char* other : {"tokenizer.model", "vocab.json", "tekken.json"})
        if (fs::exists(path / other, none))
          throw Error(Kind::unsupported,
                      "[tokenizer] " + path.string() + " has " + other +
                          " but no tokenizer.json, and only that is supported yet. Convert it with "
                          "transformers: AutoTokenizer.from_pretrained(...).save_pretrained(...).");
      throw Error(Kind::not_found, "[tokenizer] there is no tokenizer.json in " + path.string() +
                                       ". Name a folder that has one, or the file itself.");
    }
  }
  const std::string text = read_file(file);
  const auto parse = [](const std::string& content, const fs::path& name) {
    if (const size_t bad = invalid_utf8_at(content); bad != std::string::npos)
      throw Error(Kind::bad_data, "[tokenizer] " + name.string() + " is not UTF-8 at byte " +
                                      std::to_string(bad) +
                                      ": expected JSON text. Get the file again.");
    return Json::parse(content, name.string());
  };
  const Json tokenizer = parse(text, file);
  Json config;
  if (const fs::path beside = file.parent_path() / "tokenizer_config.json";
      fs::exists(beside, none)) {
    config = parse(read_file(beside), beside);
    if (!config.is_object())
      throw Error(Kind::bad_data, "[tokenizer] " + beside.string() + ": expected an object, got " +
                                      std::string(config.type_name()) +
                                      ". Get the file again or remove it.");
  }
  return with_context(file.string(), [&] { return from_json(tokenizer, config); });
}

Tokenizer Tokenizer::characters(const std::vector<std::string>& list) {
  Parts parts;
  std::set<std::string_view> seen;
  for (const auto& c : list) {
    bool valid = false, incomplete = false;
    const bool one = !c.empty() && utf8_length(c, 0, valid, incomplete) == c.size() && valid;
    if (!one || !seen.insert(c).second)
      throw Error(
          Kind::usage,
          "[tokenizer] entry " + std::to_string(parts.model.vocab.size()) +
              " of the characters: expected one UTF-8 character that stands nowhere else, got \"" +
              c + "\". Mend the list.");
    parts.model.vocab.emplace_back(c, static_cast<int>(parts.model.vocab.size()));
  }
  if (list.empty())
    throw Error(Kind::usage, "[tokenizer] the list of characters is empty. Give at least one.");
  parts.decoder = Fuse{};
  return Tokenizer(std::make_shared<const State>(std::move(parts), Json()));
}

Tokenizer Tokenizer::characters(std::string_view text) {
  if (const size_t bad = invalid_utf8_at(text); bad != std::string_view::npos)
    throw Error(Kind::bad_data, "[tokenizer] the text is not UTF-8 at byte " + std::to_string(bad) +
                                    ". Convert it, or use the byte tokenizer.");
  if (text.empty())
    throw Error(Kind::bad_data,
                "[tokenizer] the text is empty: it has no characters to make a tokenizer from.");
  std::vector<bool> seen(0x110000);
  for (size_t at = 0, length = 0; at < text.size(); at += length)
    seen[code_point(text, at, length)] = true;
  std::vector<std::string> list;
  for (char32_t code = 0; code < 0x110000; ++code)
    if (seen[code]) append_utf8(list.emplace_back(), code);
  return characters(list);
}

Tokenizer Tokenizer::bytes() {
  Parts parts;
  for (int b = 0; b < 256; ++b)
    parts.model.vocab.emplace_back(byte_letter(static_cast<unsigned char>(b)), b);
  parts.pre = {ByteLevel{false, true, false}};
  parts.decoder = ByteLevel{false, true, false};
  return Tokenizer(std::make_shared<const State>(std::move(parts), Json()));
}

std::vector<int> Tokenizer::encode_ids(std::string_view text, const EncodeOptions& options) const {
  std::vector<int> ids;
  const Template* around = nullptr;
  if (options.add_special)
    for (const auto& step : state_->parts.post)
      if (const auto* t = std::get_if<Template>(&step)) around = t;
  if (!around) return state_->encode(text, options, ids), ids;
  for (const auto& item : around->single) {
    if (item.token.empty()) {
      state_->encode(text, options, ids);
      continue;
    }
    for (const auto& special : around->special_tokens)
      if (special.name == item.token) ids.insert(ids.end(), special.ids.begin(), special.ids.end());
  }
  return ids;
}

mx::array Tokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  const std::vector<int> ids = encode_ids(text, options);
  if (ids.size() > static_cast<size_t>(std::numeric_limits<int>::max()))
    throw Error(Kind::resource,
                "[tokenizer] the text has " + std::to_string(ids.size()) +
                    " tokens: expected fewer than 2^31, the longest array. Encode it in parts.");
  return mx::array(ids.begin(), {static_cast<int>(ids.size())}, mx::int32);
}

std::string Tokenizer::decode(std::span<const int> ids, bool skip_special) const {
  std::string bytes;
  bool first = true;
  for (const int id : ids) state_->decode_into(bytes, id, skip_special, first);
  return release(bytes, true);
}

std::string Tokenizer::decode(const mx::array& ids, bool skip_special) const {
  if (ids.ndim() > 1 || !mx::issubdtype(ids.dtype(), mx::integer))
    throw Error(Kind::usage,
                "[tokenizer] decode: expected an integer array of rank 1, got rank " +
                    std::to_string(ids.ndim()) +
                    (mx::issubdtype(ids.dtype(), mx::integer) ? "" : " of another type") +
                    ". Decode one row at a time.");
  mx::array plain = mx::contiguous(mx::astype(ids, mx::int32));
  plain.eval();
  return decode(std::span<const int>(plain.data<int>(), plain.size()), skip_special);
}

int Tokenizer::vocab_size() const {
  return static_cast<int>(state_->tokens.size());
}

std::optional<int> Tokenizer::token_id(std::string_view token) const {
  if (const auto it = state_->added_ids.find(token); it != state_->added_ids.end())
    return it->second;
  return state_->model.id(token);
}

std::string Tokenizer::token(int id) const {
  const std::string_view text = state_->token(id);
  if (!text.data())
    throw Error(Kind::usage, "[tokenizer] no token has the id " + std::to_string(id) +
                                 ": expected an id from 0 to " + std::to_string(vocab_size() - 1) +
                                 ". Is this the model's tokenizer?");
  return std::string(text);
}

bool Tokenizer::is_special(int id) const {
  return id >= 0 && id < vocab_size() && state_->special[static_cast<size_t>(id)];
}

std::optional<int> Tokenizer::bos_id() const {
  return named_token(state_->config, "bos_token", *this);
}
std::optional<int> Tokenizer::eos_id() const {
  return named_token(state_->config, "eos_token", *this);
}
const Json& Tokenizer::config() const {
  return state_->config;
}

Json Tokenizer::to_json() const {
  return parts_to_json(state_->parts, state_->model.data());
}

void Tokenizer::save(const fs::path& folder) const {
  make_directory(folder);
  write_file_atomic(folder / "tokenizer.json", to_json().dump(2) + "\n");
  Json config = state_->config;
  config.erase("auto_map");  // code of the original that this class does not need
  config["tokenizer_class"] = "PreTrainedTokenizerFast";
  if (!config.contains("clean_up_tokenization_spaces"))
    config["clean_up_tokenization_spaces"] = false;
  write_file_atomic(folder / "tokenizer_config.json", config.dump(2) + "\n");
}

std::string Tokenizer::fingerprint() const {
  uint64_t hash = 0xCBF29CE484222325ull;
  for (const char c : to_json().dump())
    hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3ull;
  std::string out = hex(hash, 16);
  for (char& c : out) c = static_cast<char>(c >= 'A' && c <= 'F' ? c - 'A' + 'a' : c);
  return out;
}

std::string StreamDecoder::push(int id) {
  tokenizer_.state_->decode_into(held_, id, skip_special_, first_);
  return release(held_, false);
}

std::string StreamDecoder::finish() {
  first_ = true;
  std::string out = release(held_, true);
  held_.clear();
  return out;
}

}  // namespace lmxlab::data
