#include "lmxlab/data/gguf_vocabulary.h"

#include "lmxlab/base/text.h"
#include "lmxlab/data/tokenizer/byte_level.h"
#include "lmxlab/data/tokenizer/parts.h"
#include "lmxlab/data/tokenizer/sentencepiece.h"

#include <algorithm>

namespace lmxlab::data {
namespace {

[[noreturn]] void bad(const std::string& what) {
  throw Error(Kind::bad_data,
              "[tokenizer] GGUF vocabulary: " + what + ". The file is damaged; get it again.");
}

// Patterns, written once where several vocabularies share one.
constexpr const char* kGpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr const char* kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kGpt4o =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kTekken =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kDeepSeekWords =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kDigit = R"(\p{N})";
constexpr const char* kThreeDigits = R"(\p{N}{1,3})";
constexpr const char* kChineseJapanese = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+";
constexpr const char* kBloom =
    R"( ?[^(\s|.,!?\x{2026}\x{3002}\x{FF0C}\x{3001}\x{964}\x{6D4}\x{60C})]+)";

struct Pre {
  const char* name;
  std::vector<std::string> patterns;
  bool ignore_merges = false, add_bos = false;
};

const std::vector<Pre>& known_pres() {
  static const std::vector<Pre> list = {
      {"default", {R"([\p{P}\$\+<=>\^~\|]+)", kGpt2, R"(\p{N}+)", R"([0-9][0-9][0-9])"}},
      {"gpt-2", {kGpt2}},
      {"phi-2", {kGpt2}},
      {"mpt", {kGpt2}},
      {"olmo", {kGpt2}},
      {"jais", {kGpt2}},
      {"jina-es", {kGpt2}},
      {"jina-de", {kGpt2}},
      {"jina-v2-es", {kGpt2}},
      {"jina-v2-de", {kGpt2}},
      {"a.x-4.0", {kGpt2}},
      {"gigachat", {kGpt2}},
      {"roberta-bpe", {kGpt2}, false, true},
      {"falcon", {R"([\p{P}\$\+<=>\^~\|`]+)", kGpt2, R"([0-9][0-9][0-9])"}},
      {"starcoder", {kDigit, kGpt2}},
      {"refact", {kDigit, kGpt2}},
      {"command-r", {kDigit, kGpt2}},
      {"smollm", {kDigit, kGpt2}},
      {"codeshell", {kDigit, kGpt2}},
      {"exaone", {kDigit, kGpt2}},
      {"minerva-7b", {kDigit, kGpt2}},
      {"llama3", {kLlama3}, true, true},
      {"llama-v3", {kLlama3}, true, true},
      {"llama-bpe", {kLlama3}, true, true},
      {"falcon3", {kLlama3}, true, true},
      {"falcon-h1", {kLlama3}, true, true},
      {"dbrx", {kLlama3}},
      {"smaug-bpe", {kLlama3}},
      {"chatglm-bpe", {kLlama3}},
      {"glm4", {kLlama3}},
      {"qwen2", {kQwen2}},
      {"stablelm2", {kQwen2}},
      {"megrez", {kQwen2}},
      {"deepseek-r1-qwen", {kQwen2}},
      {"hunyuan", {kQwen2}},
      {"tekken", {kTekken}, true, true},
      {"gpt-4o", {kGpt4o}},
      {"llama4", {kGpt4o}},
      {"deepseek-v3", {kThreeDigits, kChineseJapanese, kDeepSeekWords}},
      {"bloom", {kBloom}},
      {"poro-chat", {kBloom}},
      {"gpt3-finnish", {kBloom}},
      {"viking", {kBloom, kDigit}},
  };
  return list;
}

const Pre& find_pre(const std::string& name) {
  const std::string wanted = name.empty() ? "default" : name;
  std::vector<std::string> known;
  for (const auto& p : known_pres()) {
    if (p.name == wanted) return p;
    known.emplace_back(p.name);
  }
  throw Error(Kind::unsupported, "[tokenizer] GGUF vocabulary: the pre-tokenizer \"" + name +
                                     "\" is not known; " + suggestion(name, known) +
                                     ". Take the tokenizer.json of the model.");
}

enum Type { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

class Converter {
 public:
  explicit Converter(const GgufVocabulary& v) : v_(v) {
    if (v.tokens.empty()) bad("it has no tokens");
    if (v.tokens.size() >= static_cast<size_t>(kLargestId))
      bad("expected fewer than 2^24 tokens, got " + std::to_string(v.tokens.size()));
    same_length("scores", v.scores.size());
    same_length("token_type", v.token_type.size());
    for (const int type : v.token_type)
      if (type < 0 || type > byte) bad("the unknown token type " + std::to_string(type));
    for (const auto& id : {v.bos_token_id, v.eos_token_id, v.unknown_token_id, v.padding_token_id,
                           v.seperator_token_id, v.cls_token_id})
      if (id && *id >= static_cast<int>(v.tokens.size()))
        bad("expected ids below " + std::to_string(v.tokens.size()) + ", got " +
            std::to_string(*id));
    for (size_t i = 0; i < v.tokens.size(); ++i)
      if (const size_t at = invalid_utf8_at(v.tokens[i]); at != std::string::npos)
        bad("token " + std::to_string(i) + " is not UTF-8 at byte " + std::to_string(at));
  }

  Tokenizer convert() {
    if (v_.model == "llama" || v_.model == "t5")
      sentencepiece();
    else if (v_.model == "gpt2")
      byte_level();
    else if (v_.model == "bert")
      bert();
    else
      throw Error(Kind::unsupported, "[tokenizer] GGUF vocabulary: the model \"" + v_.model +
                                         "\" is not known: expected llama, gpt2, t5 or bert. Take "
                                         "the tokenizer.json of the model.");
    Json config = Json::object();
    const auto name = [&](const char* key, const std::optional<int>& id) {
      if (id && *id >= 0) config[key] = token(*id);
    };
    name("bos_token", v_.bos_token_id);
    name("eos_token", v_.eos_token_id);
    name("unk_token", v_.unknown_token_id);
    name("pad_token", v_.padding_token_id);
    return Tokenizer(std::move(parts_), config);
  }

 private:
  void same_length(const char* name, size_t size) const {
    if (size > 0 && size != v_.tokens.size())
      bad(std::string(name) + ": expected one for each of the " + std::to_string(v_.tokens.size()) +
          " tokens, got " + std::to_string(size));
  }
  int type(size_t i) const { return v_.token_type.empty() ? normal : v_.token_type[i]; }
  const std::string& token(int id) const { return v_.tokens[static_cast<size_t>(id)]; }

  void add(size_t i, bool special) {
    AddedToken t;
    t.id = static_cast<int>(i), t.content = v_.tokens[i], t.special = special;
    if (!t.content.empty()) parts_.added.push_back(std::move(t));
  }

  // What is put around a text.
  void around(const std::optional<int>& first, bool put_first, const std::optional<int>& last,
              bool put_last, const std::optional<int>& between = {}) {
    Template t;
    const auto item = [&](std::vector<Template::Item>& list, const std::optional<int>& id, bool put,
                          int type_id) {
      if (!put || !id || *id < 0) return;
      list.push_back({token(*id), type_id, false});
      if (!t.find(token(*id))) t.special_tokens.push_back({token(*id), {*id}, {token(*id)}});
    };
    item(t.single, first, put_first, 0);
    t.single.push_back({"", 0, false});
    item(t.single, last, put_last, 0);
    item(t.pair, first, put_first, 0);
    t.pair.push_back({"", 0, false});
    item(t.pair, between ? between : last, put_last, 0);
    if (!between) item(t.pair, first, put_first, 1);
    t.pair.push_back({"", 1, true});
    item(t.pair, last, put_last, 1);
    if (!t.special_tokens.empty()) parts_.post = {std::move(t)};
  }

  void sentencepiece() {
    SentencePieceModel m;
    const bool unigram = v_.model == "t5";
    m.kind = unigram ? SentencePieceModel::Kind::unigram : SentencePieceModel::Kind::bpe;
    m.add_dummy_prefix = v_.add_space_prefix.value_or(true);
    m.remove_extra_whitespaces = v_.remove_extra_whitespaces.value_or(false);
    m.charsmap = v_.precompiled_charsmap;
    size_t unknowns = 0;
    for (size_t i = 0; i < v_.tokens.size(); ++i) {
      SentencePieceModel::Piece p;
      p.text = v_.tokens[i];
      if (p.text.empty()) p.text = "<empty_" + std::to_string(i) + ">";
      p.score = v_.scores.empty() ? 0 : v_.scores[i];
      const int kind = std::max<int>(type(i), normal);
      p.type = static_cast<SentencePieceModel::Type>(kind);
      if (kind == unknown && ++unknowns > 1) p.type = SentencePieceModel::Type::control;
      if (kind == byte) {
        m.byte_fallback = true;
        if (byte_of_token(p.text) < 0) bad("token " + std::to_string(i) + " is no byte token");
      }
      // Stored as people write them; the model sees normalized text.
      if (kind == user_defined && m.escape_whitespaces) {
        std::string shown;
        for (const char c : p.text) c == ' ' ? shown += kMetaspace : shown += c;
        p.text = std::move(shown);
      }
      m.pieces.push_back(std::move(p));
    }
    parts_ = parts_of_sentencepiece(m);
    around(v_.bos_token_id, v_.add_bos_token.value_or(!unigram), v_.eos_token_id,
           v_.add_eos_token.value_or(unigram));
  }

  void byte_level() {
    const Pre& pre = find_pre(v_.pre);
    Bpe::Data model;
    model.ignore_merges = pre.ignore_merges;
    for (size_t i = 0; i < v_.tokens.size(); ++i) {
      model.vocab.emplace_back(v_.tokens[i], static_cast<int>(i));
      if (type(i) == control || type(i) == unknown) add(i, true);
      if (type(i) == user_defined) add(i, false);
    }
    for (const auto& merge : v_.merges) {
      const size_t space = merge.find(' ', 1);
      if (merge.empty() || space == std::string::npos)
        bad("merge " + std::to_string(model.merges.size()) +
            ": expected two tokens with a space between them, got \"" + merge + "\"");
      model.merges.emplace_back(merge.substr(0, space), merge.substr(space + 1));
    }
    parts_.model = std::move(model);
    for (const auto& pattern : pre.patterns)
      parts_.pre.push_back(SplitStep{Pattern::expression(pattern), SplitBehavior::isolated, false});
    parts_.pre.push_back(ByteLevel{false, true, false});
    if (v_.add_space_prefix.value_or(false)) parts_.normalizers = {Prepend{" "}};
    parts_.decoders = {ByteLevel{true, true, true}};
    parts_.added_are_text = true;
    around(v_.bos_token_id, v_.add_bos_token.value_or(pre.add_bos), v_.eos_token_id,
           v_.add_eos_token.value_or(false));
  }

  // Word starts carry U+2581 and the rest nothing, where BERT's own files mark the rest with ##.
  void bert() {
    WordPiece::Data model;
    for (size_t i = 0; i < v_.tokens.size(); ++i) {
      const std::string& t = v_.tokens[i];
      const bool plain = type(i) == normal;
      std::string text = !plain                      ? t
                         : t.starts_with(kMetaspace) ? t.substr(kMetaspace.size())
                                                     : "##" + t;
      if (plain && text.empty()) text = t;
      model.vocab.emplace_back(std::move(text), static_cast<int>(i));
      if (type(i) == control || type(i) == unknown) add(i, true);
    }
    if (v_.unknown_token_id && *v_.unknown_token_id >= 0)
      model.unk_token = token(*v_.unknown_token_id);
    parts_.model = std::move(model);
    parts_.normalizers = {BertNormalizer{}};
    parts_.pre = {BertPreTokenizer{}};
    parts_.decoders = {WordPieceDecoder{}};
    const auto first = v_.cls_token_id ? v_.cls_token_id : v_.bos_token_id;
    const auto last = v_.seperator_token_id ? v_.seperator_token_id : v_.eos_token_id;
    around(first, v_.add_bos_token.value_or(true), last, v_.add_eos_token.value_or(true), last);
  }

  const GgufVocabulary& v_;
  Parts parts_;
};

}  // namespace

Tokenizer tokenizer_from_gguf(const GgufVocabulary& vocabulary) {
  return with_context("GGUF", [&] { return Converter(vocabulary).convert(); });
}

std::vector<std::string> gguf_patterns(std::string_view pre) {
  for (const auto& p : known_pres())
    if (pre == p.name) return p.patterns;
  return {};
}

std::string gguf_pre(const std::vector<std::string>& patterns, bool ignore_merges) {
  // Some files escape a quote that needs it not.
  const auto plain = [](std::string pattern) {
    for (size_t at = 0; (at = pattern.find("\\\"", at)) != std::string::npos;) pattern.erase(at, 1);
    return pattern;
  };
  for (const auto& p : known_pres())
    if (p.ignore_merges == ignore_merges &&
        std::equal(p.patterns.begin(), p.patterns.end(), patterns.begin(), patterns.end(),
                   [&](const auto& a, const auto& b) { return plain(a) == plain(b); }))
      return p.name;
  return {};
}

}  // namespace lmxlab::data
