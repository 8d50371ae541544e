#include "lmxlab/data/tokenizer.h"

#include "lmxlab/base/files.h"
#include "lmxlab/base/fnv.h"
#include "lmxlab/base/text.h"
#include "lmxlab/data/tokenizer/byte_level.h"
#include "lmxlab/data/tokenizer/parts.h"

#include <mlx/mlx.h>

#include <algorithm>
#include <cstdio>
#include <limits>
#include <set>
#include <unordered_map>
#include <unordered_set>

namespace lmxlab::data {

namespace mx = mlx::core;

namespace {

std::string hex(uint64_t value, int digits) {
  char buffer[24];
  std::snprintf(buffer, sizeof buffer, "%0*llX", digits, static_cast<unsigned long long>(value));
  return buffer;
}

std::optional<int> named_token(const Json& config, std::string_view key,
                               const Tokenizer& tokenizer) {
  const Json* j = config.find(key);
  if (j && j->is_object()) j = j->find("content");
  return j && j->is_string() ? tokenizer.token_id(j->as_string()) : std::nullopt;
}

// As characters() and bytes() make them: nothing but a list, and text cut into its entries.
bool is_plain_list(const Parts& p) {
  const auto* bpe = std::get_if<Bpe::Data>(&p.model);
  if (!bpe || bpe->has_merges() || bpe->unk_token || !p.normalizers.empty() || p.pre.size() > 1)
    return false;
  if (p.pre.empty()) return p.decoders.size() == 1 && std::holds_alternative<Fuse>(p.decoders[0]);
  const auto* bytes = std::get_if<ByteLevel>(&p.pre[0]);
  return bytes && !bytes->use_regex && !bytes->add_prefix_space;
}

Parts finished(Parts p) {
  if (is_plain_list(p)) std::get<Bpe::Data>(p.model).strict = true;
  return p;
}

Model make_model(ModelData data) {
  struct Make {
    Model operator()(Bpe::Data& d) { return Bpe(std::move(d)); }
    Model operator()(Unigram::Data& d) { return Unigram(std::move(d)); }
    Model operator()(WordPiece::Data& d) { return WordPiece(std::move(d)); }
    Model operator()(WordLevel::Data& d) { return WordLevel(std::move(d)); }
  };
  return std::visit(Make{}, data);
}

// What to look for in the text as it is, and in the normalized one; empty: not there.
std::vector<std::string> patterns_of(const Parts& parts, bool normalized_ones) {
  std::vector<std::string> out;
  for (const auto& t : parts.added) {
    Normalized n(t.normalized == normalized_ones ? t.content : std::string(), 0);
    if (normalized_ones) normalize(parts.normalizers, n);
    out.push_back(std::move(n.text));
  }
  return out;
}

}  // namespace

constexpr size_t kFewIds = size_t{1} << 20, kIdsPerToken = 16;

struct Tokenizer::State {
  State(Parts p, const Json& c)
      : parts(finished(std::move(p))),
        config(c.is_object() ? c : Json::object()),
        model(make_model(std::move(parts.model))),
        raw_added(parts.added, patterns_of(parts, false)),
        normalized_patterns(patterns_of(parts, true)),
        normalized_added(parts.added, normalized_patterns) {
    int largest = -1;
    const auto each = [&](auto&& f) {
      std::visit([&](const auto& m) { each_token(m.data(), f); }, model);
    };
    each([&](const std::string&, int id) { largest = std::max(largest, id); });
    for (const auto& t : parts.added) largest = std::max(largest, t.id);
    // A table by id is made, which a few tokens with far ids must not blow up.
    size_t count = parts.added.size();
    each([&](const std::string&, int) { ++count; });
    if (static_cast<size_t>(largest + 1) > kFewIds + kIdsPerToken * count)
      throw Error(Kind::bad_data, "[tokenizer] the largest id is " + std::to_string(largest) +
                                      ", and there are only " + std::to_string(count) +
                                      " tokens. The file is damaged; get it again.");
    tokens.resize(static_cast<size_t>(largest + 1));
    special.resize(tokens.size());
    each([&](const std::string& token, int id) { tokens[static_cast<size_t>(id)] = token; });
    std::unordered_set<std::string_view> specials;
    for (const auto& t : parts.added)
      if (t.special) specials.insert(t.content);
    for (size_t i = 0; i < parts.added.size(); ++i) {
      const AddedToken& t = parts.added[i];
      tokens[static_cast<size_t>(t.id)] = t.content;
      special[static_cast<size_t>(t.id)] = t.special;
      added_ids.emplace(t.content, t.id);
      // The library decodes to what it looks for.
      std::string text = t.normalized ? normalized_patterns[i] : t.content;
      if (parts.added_are_text) append_letters(text = {}, t.content);
      if (text != t.content) decoded.emplace(t.id, std::move(text));
    }
    // It asks whether that is special, too.
    skipped.resize(tokens.size());
    for (size_t id = 0; id < tokens.size(); ++id) {
      const auto other = decoded.find(static_cast<int>(id));
      skipped[id] = parts.added_are_text ? special[id]
                                         : specials.contains(other == decoded.end()
                                                                 ? tokens[id]
                                                                 : std::string_view(other->second));
    }
    const auto* first = parts.pre.empty() ? nullptr : std::get_if<ByteLevel>(&parts.pre.front());
    any_bytes = first && !first->use_regex && parts.normalizers.empty() &&
                std::none_of(parts.added.begin(), parts.added.end(), [](const auto& t) {
                  return t.single_word || t.lstrip || t.rstrip;  // these look at characters
                });
  }
  State(const State&) = delete;  // views point into it

  std::string_view token(int id) const {
    return id >= 0 && static_cast<size_t>(id) < tokens.size() ? tokens[static_cast<size_t>(id)]
                                                              : std::string_view();
  }
  void encode_model(std::string_view piece, Encoding& out, bool with_tokens) const;
  void encode_normalized(const Normalized& n, size_t begin, size_t end, size_t place, Encoding& out,
                         bool with_tokens) const;
  Encoding encode(std::string_view text, const EncodeOptions& options, int type_id,
                  bool with_tokens) const;
  Encoding finish(std::vector<Encoding> sequences, const EncodeOptions& options) const;
  void push(DecoderChain& chain, int id, bool skip_special) const {
    const std::string_view text = token(id);
    if (!text.data() || (skip_special && skipped[static_cast<size_t>(id)])) return;
    const auto other = decoded.empty() ? decoded.end() : decoded.find(id);
    chain.push(other == decoded.end() ? text : std::string_view(other->second));
  }

  Parts parts;  // without the model
  Json config;
  Model model;
  AddedMatcher raw_added;
  std::vector<std::string> normalized_patterns;
  AddedMatcher normalized_added;
  std::vector<std::string_view> tokens;          // by id; null where there is none
  std::unordered_map<int, std::string> decoded;  // what decodes to something else
  std::vector<bool> special, skipped;
  std::unordered_map<std::string_view, int> added_ids;
  bool any_bytes = false;  // the first step takes bytes as they are
};

void Tokenizer::State::encode_model(std::string_view piece, Encoding& out, bool with_tokens) const {
  if (const auto* unigram = std::get_if<Unigram>(&model))
    return unigram->encode(piece, out.ids, with_tokens ? &out.tokens : nullptr);
  const size_t before = out.ids.size();
  if (const auto* bpe = std::get_if<Bpe>(&model))
    bpe->encode(piece, out.ids);
  else if (const auto* word_piece = std::get_if<WordPiece>(&model))
    word_piece->encode(piece, out.ids);
  else
    std::get<WordLevel>(model).encode(piece, out.ids);
  if (with_tokens)
    for (size_t i = before; i < out.ids.size(); ++i) out.tokens.emplace_back(token(out.ids[i]));
}

// `place`: where the stretch begins in the user's text, for messages.
void Tokenizer::State::encode_normalized(const Normalized& n, size_t begin, size_t end,
                                         size_t place, Encoding& out, bool with_tokens) const {
  Pieces pieces(std::string_view(n.text).substr(begin, end - begin),
                n.origin > begin ? n.origin - begin : 0);
  for (const auto& step : parts.pre) {
    std::visit([&](const auto& s) { s.apply(pieces); }, step);
    check_length(pieces.text.size(), n.limit);
  }
  Pieces::Span now{0, 0};
  try {
    for (const auto& span : pieces.spans) {
      now = span;
      encode_model(pieces.text.substr(span.begin, span.end - span.begin), out, with_tokens);
    }
  } catch (const UnknownSymbol& unknown) {
    const size_t at = now.begin + unknown.at;
    if (pieces.letters) {
      const int byte = byte_of_letter(unknown.code);
      throw Error(
          Kind::bad_data,
          "[tokenizer] the byte 0x" + hex(static_cast<uint64_t>(byte), 2) + " near byte " +
              std::to_string(place + begin + count_characters(pieces.text.substr(0, at))) +
              " of the text is not in the vocabulary, which lacks that letter. Use a tokenizer "
              "whose vocabulary has all 256 byte letters.");
    }
    std::string shown;
    append_utf8(shown, unknown.code);
    throw Error(
        Kind::bad_data,
        "[tokenizer] the character '" + shown + "' (U+" + hex(unknown.code, 4) + ") at byte " +
            std::to_string(place + begin + at) + " (character " +
            std::to_string(count_characters(std::string_view(n.text).substr(0, begin + at))) +
            ", both from 0) is not in the vocabulary of " + std::to_string(tokens.size()) +
            " tokens. Leave it out, make the tokenizer from text that has "
            "it, or use a byte-level one.");
  }
}

Encoding Tokenizer::State::encode(std::string_view text, const EncodeOptions& options, int type_id,
                                  bool with_tokens) const {
  if (!any_bytes)
    if (const size_t bad = invalid_utf8_at(text); bad != std::string_view::npos)
      throw Error(Kind::bad_data, "[tokenizer] the text is not UTF-8 at byte " +
                                      std::to_string(bad) + " (0x" +
                                      hex(static_cast<unsigned char>(text[bad]), 2) +
                                      "). Convert it, or use the byte tokenizer.");
  Encoding out;
  const auto on_token = [&](std::string_view whole) {
    return [&out, whole, with_tokens](const AddedToken& t, size_t begin, size_t end) {
      out.ids.push_back(t.id);
      if (with_tokens) out.tokens.emplace_back(whole.substr(begin, end - begin));
    };
  };
  const auto on_text = [&](size_t begin, size_t end) {
    Normalized n(std::string(text.substr(begin, end - begin)), 0);
    if (begin == 0) n.origin = any_bytes ? 1 : character_length(n.text, 0);
    normalize(parts.normalizers, n);
    if (normalized_added.empty())
      return encode_normalized(n, 0, n.text.size(), begin, out, with_tokens);
    normalized_added.split(
        n.text, options.special,
        [&](size_t b, size_t e) { encode_normalized(n, b, e, begin, out, with_tokens); },
        on_token(n.text));
  };
  if (raw_added.empty()) {
    if (!text.empty()) on_text(0, text.size());
  } else {
    raw_added.split(text, options.special, on_text, on_token(text));
  }
  out.type_ids.assign(out.ids.size(), type_id);
  return out;
}

Encoding Tokenizer::State::finish(std::vector<Encoding> sequences,
                                  const EncodeOptions& options) const {
  if (parts.truncation && options.truncate_and_pad)
    truncate(*parts.truncation, sequences,
             options.add_special ? added_count(parts.post, sequences.size() > 1) : 0);
  Encoding out = process(parts.post, std::move(sequences), options.add_special);
  if (parts.padding && options.truncate_and_pad) pad(*parts.padding, out);
  return out;
}

Tokenizer::Tokenizer(Parts parts, const Json& config)
    : state_(std::make_shared<const State>(std::move(parts), config)) {}

Tokenizer Tokenizer::from_json(const Json& tokenizer, const Json& config) {
  // What only we know lies in tokenizer_config.json (save).
  const Json* own = config.find("lmxlab");
  if (!own || tokenizer.contains("lmxlab")) return Tokenizer(parts_from_json(tokenizer), config);
  Json both = tokenizer;
  both["lmxlab"] = *own;
  return Tokenizer(parts_from_json(both), config);
}

Tokenizer Tokenizer::characters(const std::vector<std::string>& list) {
  Bpe::Data model;
  std::set<std::string_view> seen;
  for (const auto& c : list) {
    bool valid = false, incomplete = false;
    const bool one = !c.empty() && utf8_length(c, 0, valid, incomplete) == c.size() && valid;
    if (!one || !seen.insert(c).second)
      throw Error(
          Kind::usage,
          "[tokenizer] entry " + std::to_string(model.vocab.size()) +
              " of the characters: expected one UTF-8 character that stands nowhere else, got \"" +
              c + "\". Mend the list.");
    model.vocab.emplace_back(c, static_cast<int>(model.vocab.size()));
  }
  if (list.empty())
    throw Error(Kind::usage, "[tokenizer] the list of characters is empty. Give at least one.");
  Parts parts;
  parts.model = std::move(model);
  parts.decoders = {Fuse{}};
  return Tokenizer(std::move(parts));
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
  Bpe::Data model;
  for (int b = 0; b < 256; ++b)
    model.vocab.emplace_back(byte_letter(static_cast<unsigned char>(b)), b);
  Parts parts;
  parts.model = std::move(model);
  parts.pre = {ByteLevel{false, true, false}};
  parts.decoders = {ByteLevel{false, true, false}};
  return Tokenizer(std::move(parts));
}

std::vector<int> Tokenizer::encode_ids(std::string_view text, const EncodeOptions& options) const {
  std::vector<Encoding> one;
  one.push_back(state_->encode(text, options, 0, false));
  if (!options.add_special && !options.truncate_and_pad) return std::move(one[0].ids);
  one[0].tokens.resize(one[0].ids.size());
  return std::move(state_->finish(std::move(one), options).ids);
}

Encoding Tokenizer::encode_all(std::string_view text, const EncodeOptions& options) const {
  std::vector<Encoding> one;
  one.push_back(state_->encode(text, options, 0, true));
  return state_->finish(std::move(one), options);
}

Encoding Tokenizer::encode_pair(std::string_view first, std::string_view second,
                                const EncodeOptions& options) const {
  std::vector<Encoding> both;
  both.push_back(state_->encode(first, options, 0, true));
  both.push_back(state_->encode(second, options, 1, true));
  return state_->finish(std::move(both), options);
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
  DecoderChain chain(state_->parts.decoders);
  for (const int id : ids) state_->push(chain, id, skip_special);
  chain.finish();
  return chain.take();
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
  struct Find {
    std::string_view token;
    std::optional<int> operator()(const Unigram& m) const { return m.id(token); }
    std::optional<int> operator()(const Bpe& m) const { return m.vocabulary().id(token); }
    std::optional<int> operator()(const WordPiece& m) const { return m.vocabulary().id(token); }
    std::optional<int> operator()(const WordLevel& m) const { return m.vocabulary().id(token); }
  };
  return std::visit(Find{token}, state_->model);
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
  return parts_to_json(state_->parts, state_->model);
}

void Tokenizer::save(const fs::path& folder) const {
  make_directory(folder);
  Json root = to_json();
  Json config = state_->config;
  config.erase("lmxlab");
  if (const Json* own = root.find("lmxlab")) {  // the library refuses keys that it does not know
    config["lmxlab"] = *own;
    root.erase("lmxlab");
  }
  write_file_atomic(folder / "tokenizer.json", root.dump(2) + "\n");
  config.erase("auto_map");  // code of the original that this class does not need
  config["tokenizer_class"] = "PreTrainedTokenizerFast";
  if (!config.contains("clean_up_tokenization_spaces"))
    config["clean_up_tokenization_spaces"] = false;
  write_file_atomic(folder / "tokenizer_config.json", config.dump(2) + "\n");
}

std::string Tokenizer::fingerprint() const {
  return Fnv().add(to_json().dump()).digits();
}

struct StreamDecoder::State {
  State(Tokenizer t, bool skip)
      : tokenizer(std::move(t)), skip_special(skip), chain(tokenizer.state_->parts.decoders) {}
  Tokenizer tokenizer;
  bool skip_special;
  DecoderChain chain;
};

StreamDecoder::StreamDecoder(Tokenizer tokenizer, bool skip_special)
    : state_(std::make_unique<State>(std::move(tokenizer), skip_special)) {}
StreamDecoder::StreamDecoder(StreamDecoder&&) noexcept = default;
StreamDecoder& StreamDecoder::operator=(StreamDecoder&&) noexcept = default;
StreamDecoder::~StreamDecoder() = default;

std::string StreamDecoder::push(int id) {
  state_->tokenizer.state_->push(state_->chain, id, state_->skip_special);
  return state_->chain.take();
}

std::string StreamDecoder::finish() {
  state_->chain.finish();
  return state_->chain.take();
}

}  // namespace lmxlab::data
