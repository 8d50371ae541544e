#include "lmxlab/data/gguf_file.h"

#include <limits>
#include <string>
#include <utility>

namespace lmxlab::data {
namespace {

constexpr const char* kPrefix = "tokenizer.ggml.";

using Id = std::optional<int> GgufVocabulary::*;
constexpr std::pair<const char*, Id> kIds[] = {
    {"bos_token_id", &GgufVocabulary::bos_token_id},
    {"eos_token_id", &GgufVocabulary::eos_token_id},
    {"unknown_token_id", &GgufVocabulary::unknown_token_id},
    {"padding_token_id", &GgufVocabulary::padding_token_id},
    {"seperator_token_id", &GgufVocabulary::seperator_token_id},
    {"cls_token_id", &GgufVocabulary::cls_token_id}};
using Flag = std::optional<bool> GgufVocabulary::*;
constexpr std::pair<const char*, Flag> kFlags[] = {
    {"add_bos_token", &GgufVocabulary::add_bos_token},
    {"add_eos_token", &GgufVocabulary::add_eos_token},
    {"add_space_prefix", &GgufVocabulary::add_space_prefix},
    {"remove_extra_whitespaces", &GgufVocabulary::remove_extra_whitespaces}};

const io::GgufValue* find(const io::Gguf& file, const std::string& key) {
  return file.find(kPrefix + key);
}

// Calls f with the value, if it is there; what it throws names the key.
template <class F>
void with(const io::Gguf& file, const std::string& key, F f) {
  if (const auto* value = find(file, key))
    with_context("[gguf] key " + (kPrefix + key), [&] { f(*value); });
}

template <class T>
T narrowed(int64_t value, const char* what) {
  if (value < std::numeric_limits<T>::min() || value > std::numeric_limits<T>::max())
    throw Error(Kind::bad_data, "the number " + std::to_string(value) + " is no " + what);
  return static_cast<T>(value);
}

}  // namespace

GgufVocabulary read_gguf_vocabulary(const io::Gguf& file) {
  GgufVocabulary out;
  if (!find(file, "model") || !find(file, "tokens"))
    throw Error(Kind::not_found, "[gguf] the file has no tokenizer");
  with(file, "model", [&](const auto& v) { out.model = v.as_string(); });
  with(file, "pre", [&](const auto& v) { out.pre = v.as_string(); });
  with(file, "tokens", [&](const auto& v) {
    for (const auto token : v.as_strings()) out.tokens.emplace_back(token);
  });
  with(file, "scores", [&](const auto& v) {
    for (const double score : v.as_numbers()) out.scores.push_back(static_cast<float>(score));
  });
  with(file, "token_type", [&](const auto& v) {
    for (const auto type : v.as_integers())
      out.token_type.push_back(narrowed<int>(type, "token type"));
  });
  with(file, "merges", [&](const auto& v) {
    for (const auto merge : v.as_strings()) out.merges.emplace_back(merge);
  });
  for (const auto& [key, member] : kIds)
    with(file, key,
         [&, m = member](const auto& v) { out.*m = narrowed<int>(v.as_integer(), "token id"); });
  for (const auto& [key, member] : kFlags)
    with(file, key, [&, m = member](const auto& v) { out.*m = v.as_bool(); });
  with(file, "precompiled_charsmap", [&](const auto& v) {
    for (const auto byte : v.as_integers())  // also stored as i8
      out.precompiled_charsmap.push_back(static_cast<char>(
          byte < 0 ? narrowed<signed char>(byte, "byte") : narrowed<unsigned char>(byte, "byte")));
  });
  return out;
}

void write_gguf_vocabulary(io::GgufWriter& file, const GgufVocabulary& v) {
  const auto set = [&](const char* key, const io::GgufField& value) {
    file.set(std::string(kPrefix) + key, value);
  };
  set("model", v.model);
  if (!v.pre.empty()) set("pre", v.pre);
  set("tokens", v.tokens);
  if (!v.scores.empty()) set("scores", v.scores);
  set("token_type", std::vector<int32_t>(v.token_type.begin(), v.token_type.end()));
  if (!v.merges.empty()) set("merges", v.merges);
  for (const auto& [key, member] : kIds)
    if (const auto& id = v.*member) set(key, static_cast<uint32_t>(*id));
  for (const auto& [key, member] : kFlags)
    if (const auto& flag = v.*member) set(key, *flag);
}

void copy_gguf_tokenizer(io::GgufWriter& file, const io::Gguf& from) {
  for (const auto& [key, value] : from.metadata())
    if (key.starts_with("tokenizer.")) file.set(key, value);
}

Json gguf_tokenizer_config(const io::Gguf& file) {
  Json out = Json::object();
  if (const auto* tokens = find(file, "tokens")) {
    const auto all = tokens->as_strings();
    for (const auto& [key, name] : {std::pair("bos", "bos_token"),
                                    {"eos", "eos_token"},
                                    {"unknown", "unk_token"},
                                    {"padding", "pad_token"},
                                    {"seperator", "sep_token"},
                                    {"cls", "cls_token"}})
      with(file, std::string(key) + "_token_id", [&, n = name](const auto& v) {
        const auto id = v.as_integer();
        if (id >= 0 && static_cast<size_t>(id) < all.size())
          out[n] = Json(all[static_cast<size_t>(id)]);
      });
  }
  constexpr std::string_view kTemplate = "tokenizer.chat_template";
  const auto* usual = file.find(kTemplate);
  Json list = Json::array();
  const auto add = [&](std::string_view name, const io::GgufValue& v) {
    list.push_back(Json::object({{"name", Json(name)}, {"template", Json(v.as_string())}}));
  };
  for (const auto& [key, value] : file.metadata())
    if (key.starts_with(std::string(kTemplate) + ".") &&
        value.type() == io::GgufValue::Type::string)
      add(std::string_view(key).substr(kTemplate.size() + 1), value);
  if (list.size() > 0 && usual) add("default", *usual);
  if (list.size() > 0)
    out["chat_template"] = list;
  else if (usual)
    out["chat_template"] = Json(usual->as_string());
  return out;
}

}  // namespace lmxlab::data
