// A tokenizer as a GGUF file says it.
#include "lmxlab/data/gguf_vocabulary.h"
#include "lmxlab/data/tokenizer/byte_level.h"
#include "lmxlab/data/tokenizer/parts.h"

#include <algorithm>
#include <map>
#include <unordered_map>

namespace lmxlab::data {
namespace {

enum Type { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

[[noreturn]] void cannot(const std::string& what) {
  throw Error(Kind::unsupported, "[tokenizer] a GGUF file cannot say " + what +
                                     ". Convert to safetensors, which keeps the tokenizer.json.");
}

template <class Part, class List>
const Part* first_of(const List& list) {
  for (const auto& item : list)
    if (const auto* found = std::get_if<Part>(&item)) return found;
  return nullptr;
}

class Writer {
 public:
  explicit Writer(const Tokenizer& tokenizer)
      : tokenizer_(tokenizer), parts_(parts_from_json(tokenizer.to_json())) {}

  GgufVocabulary write() {
    const auto size = static_cast<size_t>(tokenizer_.vocab_size());
    v_.tokens.resize(size), v_.token_type.assign(size, unused);
    std::visit(
        [&](const auto& data) {
          each_token(data, [&](const std::string& token, int id) { put(id, token, normal); });
        },
        parts_.model);
    if (const auto* bpe = std::get_if<Bpe::Data>(&parts_.model))
      first_of<ByteLevel>(parts_.decoders) ? byte_level(*bpe) : sentencepiece(*bpe);
    else
      cannot("for llama.cpp's language models a tokenizer of another kind than BPE");
    // A gap in the ids has a token that nothing finds.
    for (size_t i = 0; i < size; ++i)
      if (v_.tokens[i].empty()) v_.tokens[i] = "[PAD" + std::to_string(i) + "]";
    specials();
    return std::move(v_);
  }

 private:
  void put(int id, const std::string& token, int type) {
    v_.tokens[static_cast<size_t>(id)] = token;
    v_.token_type[static_cast<size_t>(id)] = type;
  }
  void add_tokens() {
    for (const auto& t : parts_.added) put(t.id, t.content, t.special ? control : user_defined);
  }

  void byte_level(const Bpe::Data& bpe) {
    v_.model = "gpt2";
    add_tokens();
    for (const auto& [left, right] : bpe.merges) v_.merges.push_back(left + " " + right);
    for (const auto& n : parts_.normalizers)
      if (const auto* prepend = std::get_if<Prepend>(&n); prepend && prepend->content == " ")
        v_.add_space_prefix = true;
      else if (!std::holds_alternative<UnicodeForm>(n))
        cannot("what this tokenizer does to a text before it cuts it (its normalizer)");
    std::vector<std::string> patterns;
    for (const auto& step : parts_.pre) {
      const auto* split = std::get_if<SplitStep>(&step);
      const auto* bytes = std::get_if<ByteLevel>(&step);
      const auto* digits = std::get_if<Digits>(&step);
      if (split && split->pattern.is_regex && split->behavior != SplitBehavior::removed)
        patterns.push_back(split->pattern.source);
      else if (digits && digits->individual_digits)
        patterns.emplace_back(R"(\p{N})");
      else if (bytes && bytes->use_regex)
        patterns.push_back(gguf_patterns("gpt-2").front());
      else if (!bytes)
        cannot("how this tokenizer cuts a text into words");
      if (bytes && bytes->add_prefix_space) v_.add_space_prefix = true;
    }
    v_.pre = gguf_pre(patterns, bpe.ignore_merges);
    // Only few vocabularies let a word that is a token skip the merges; where merges lead to every
    // token, it makes no difference.
    if (v_.pre.empty()) v_.pre = gguf_pre(patterns, !bpe.ignore_merges);
    if (v_.pre.empty()) {
      std::string list;
      for (const auto& p : patterns) list += "\n  " + p;
      cannot("the patterns that this tokenizer cuts words with, which none of its names have:" +
             list + "\n");
    }
  }

  // Merges there are any two tokens that make a third, the one with the best score first.
  void sentencepiece(const Bpe::Data& bpe) {
    if (!bpe.byte_fallback) cannot("this BPE, which is neither on bytes nor SentencePiece's");
    v_.model = "llama";
    std::unordered_map<std::string, float> scores;
    for (size_t i = 0; i < bpe.merges.size(); ++i) {
      const auto& [left, right] = bpe.merges[i];
      const auto rank = static_cast<float>(bpe.ranks.empty() ? static_cast<int>(i) : bpe.ranks[i]);
      scores.emplace(left + right, -rank);
    }
    const auto worst = -static_cast<float>(bpe.merges.size() + 1);
    for (const auto& token : v_.tokens) {
      const auto it = scores.find(token);
      v_.scores.push_back(it == scores.end() ? worst : it->second);
    }
    pieces(bpe.unk_token);
    for (const auto& token : bpe.frozen) retype(token, user_defined);
    for (const auto& token : bpe.unused) retype(token, unused);
    add_tokens();
    finish_pieces();
  }

  void retype(const std::string& token, int type) {
    if (const auto id = tokenizer_.token_id(token)) v_.token_type[static_cast<size_t>(*id)] = type;
  }
  void pieces(const std::optional<std::string>& unk) {
    for (size_t i = 0; i < v_.tokens.size(); ++i)
      if (v_.token_type[i] == normal && byte_of_token(v_.tokens[i]) >= 0) v_.token_type[i] = byte;
    unknown_ = unk;
  }
  void finish_pieces() {
    if (unknown_) retype(*unknown_, unknown);
    for (size_t i = 0; i < v_.tokens.size(); ++i)  // as people write them
      if (v_.token_type[i] == user_defined)
        for (size_t at = 0; (at = v_.tokens[i].find(kMetaspace, at)) != std::string::npos; ++at)
          v_.tokens[i].replace(at, kMetaspace.size(), " ");
    if (const auto ids = tokenizer_.encode_ids("a"); !ids.empty())
      v_.add_space_prefix = tokenizer_.token(ids.front()).starts_with(kMetaspace);
  }

  void specials() {
    const auto id_of = [&](const char* key) -> std::optional<int> {
      const Json* j = tokenizer_.config().find(key);
      if (j && j->is_object()) j = j->find("content");
      return j && j->is_string() ? tokenizer_.token_id(j->as_string()) : std::nullopt;
    };
    v_.bos_token_id = tokenizer_.bos_id(), v_.eos_token_id = tokenizer_.eos_id();
    v_.unknown_token_id = id_of("unk_token"), v_.padding_token_id = id_of("pad_token");
    if (!v_.unknown_token_id && unknown_) v_.unknown_token_id = tokenizer_.token_id(*unknown_);
    const auto ids = tokenizer_.encode_ids("a", {.add_special = true});
    if (ids.empty()) return;
    v_.add_bos_token = v_.bos_token_id && ids.front() == *v_.bos_token_id;
    v_.add_eos_token = v_.eos_token_id && ids.back() == *v_.eos_token_id;
  }

  const Tokenizer& tokenizer_;
  Parts parts_;
  GgufVocabulary v_;
  std::optional<std::string> unknown_;
};

}  // namespace

GgufVocabulary gguf_vocabulary_of(const Tokenizer& tokenizer) {
  return Writer(tokenizer).write();
}

}  // namespace lmxlab::data
