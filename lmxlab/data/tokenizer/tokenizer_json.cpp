// tokenizer.json of Hugging Face's tokenizers library (format "1.0"), read into parts and written
// from them. What only we know stands in the member "lmxlab", which a saved tokenizer has in its
// tokenizer_config.json: that library refuses it.
#include "lmxlab/base/text.h"
#include "lmxlab/data/tokenizer/json_reader.h"
#include "lmxlab/data/tokenizer/parts.h"
#include "lmxlab/data/tokenizer/parts_json.h"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

namespace lmxlab::data {
namespace {

TokenList read_vocab(const Reader& r) {
  const Json& vocab = r.need("vocab");
  if (!vocab.is_object())
    bad_place(r.at("vocab"), "expected an object, got " + std::string(vocab.type_name()));
  TokenList out;
  out.reserve(vocab.size());
  for (const auto& [token, id] : vocab.as_object())
    out.emplace_back(token, Reader::id_of(id, r.at("vocab") + "[\"" + token + "\"]"));
  return out;
}

Bpe::Data read_bpe(const Json& j, const std::string& path) {
  const Reader r(j, path,
                 {"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
                  "fuse_unk", "byte_fallback", "ignore_merges", "vocab", "merges"});
  if (const Json* dropout = r.get("dropout");
      dropout && !(dropout->is_number() && dropout->as_number() == 0))
    unsupported_place(path, "dropout");
  Bpe::Data out;
  if (r.get("unk_token")) out.unk_token = r.text("unk_token");
  out.fuse_unk = r.flag("fuse_unk", false);
  out.ignore_merges = r.flag("ignore_merges", false);
  out.byte_fallback = r.flag("byte_fallback", false);
  out.continuing_subword_prefix = r.text_or("continuing_subword_prefix", "");
  out.end_of_word_suffix = r.text_or("end_of_word_suffix", "");
  out.vocab = read_vocab(r);
  for (const Json& m : r.list("merges")) {
    const std::string here = r.at("merges") + "." + std::to_string(out.merges.size());
    if (m.is_array()) {
      if (m.size() != 2) bad_place(here, "expected two tokens, got " + std::to_string(m.size()));
      out.merges.emplace_back(Reader::text_of(m.as_array()[0], here),
                              Reader::text_of(m.as_array()[1], here));
    } else {
      const std::string& text = Reader::text_of(m, here);
      const size_t space = text.find(' ');
      if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos)
        bad_place(here, "expected two tokens with one space between them, got \"" + text + "\"");
      out.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
    }
  }
  return out;
}

Unigram::Data read_unigram(const Json& j, const std::string& path) {
  const Reader r(j, path, {"type", "unk_id", "vocab", "byte_fallback"});
  Unigram::Data out;
  out.byte_fallback = r.flag("byte_fallback", false);
  for (const Json& item : r.list("vocab")) {
    const std::string here = r.at("vocab") + "." + std::to_string(out.vocab.size());
    const auto& pair = Reader::list_of(item, here);
    if (pair.size() != 2 || !pair[1].is_number()) bad_place(here, "expected a token and its score");
    out.vocab.push_back({Reader::text_of(pair[0], here), pair[1].as_number()});
  }
  if (r.get("unk_id")) {
    out.unk_id = r.id("unk_id");
    if (static_cast<size_t>(*out.unk_id) >= out.vocab.size())
      bad_place(r.at("unk_id"), "expected an id below " + std::to_string(out.vocab.size()) +
                                    ", got " + std::to_string(*out.unk_id));
  }
  return out;
}

WordPiece::Data read_word_piece(const Json& j, const std::string& path) {
  const Reader r(
      j, path,
      {"type", "unk_token", "continuing_subword_prefix", "max_input_chars_per_word", "vocab"});
  WordPiece::Data out;
  out.unk_token = r.text_or("unk_token", "[UNK]");
  out.continuing_subword_prefix = r.text_or("continuing_subword_prefix", "##");
  if (r.get("max_input_chars_per_word"))
    out.max_input_chars_per_word = r.count("max_input_chars_per_word");
  out.vocab = read_vocab(r);
  return out;
}

WordLevel::Data read_word_level(const Json& j, const std::string& path) {
  const Reader r(j, path, {"type", "unk_token", "vocab"});
  return {read_vocab(r), r.text_or("unk_token", "<unk>")};
}

ModelData read_model(const Json& j, const std::string& path) {
  if (!j.is_object()) bad_place(path, "expected an object, got " + std::string(j.type_name()));
  const Json* named = j.find("type");
  // Files older than the field have the model's type in their keys.
  const std::string type = named                  ? Reader::text_of(*named, inside(path, "type"))
                           : j.contains("merges") ? "BPE"
                           : j.contains("unk_id") ? "Unigram"
                           : j.contains("continuing_subword_prefix") ? "WordPiece"
                           : j.contains("vocab")                     ? "WordLevel"
                                                                     : "";
  if (type.empty()) bad_place(path, "\"type\" is missing");
  if (type == "BPE") return read_bpe(j, path);
  if (type == "Unigram") return read_unigram(j, path);
  if (type == "WordPiece") return read_word_piece(j, path);
  if (type == "WordLevel") return read_word_level(j, path);
  unsupported_place(path, "the model " + type);
}

std::vector<AddedToken> read_added(const Json& j, const std::string& path, const ModelData& model) {
  std::unordered_map<std::string_view, int> ids;
  std::unordered_map<int, std::string_view> tokens;
  std::visit(
      [&](const auto& data) {
        each_token(data, [&](const std::string& token, int id) {
          ids.emplace(token, id), tokens.emplace(id, token);
        });
      },
      model);
  std::vector<AddedToken> out;
  const auto& list = Reader::list_of(j, path);
  out.reserve(list.size());  // the maps keep views into it
  for (const Json& item : list) {
    const std::string here = path + "." + std::to_string(out.size());
    const Reader r(item, here,
                   {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
    AddedToken t{r.id("id"),
                 r.text("content"),
                 r.flag("single_word", false),
                 r.flag("lstrip", false),
                 r.flag("rstrip", false),
                 r.flag("normalized", true),
                 r.flag("special", false)};
    if (t.content.empty()) bad_place(here, "the content is empty");
    out.push_back(std::move(t));
    const AddedToken& kept = out.back();
    const auto by_content = ids.emplace(kept.content, kept.id).first;
    if (by_content->second != kept.id)
      bad_place(here, "\"" + kept.content + "\" has the id " + std::to_string(kept.id) +
                          " here and " + std::to_string(by_content->second) + " before");
    const auto by_id = tokens.emplace(kept.id, kept.content).first;
    if (by_id->second != kept.content)
      bad_place(here, "the id " + std::to_string(kept.id) + " is \"" + kept.content +
                          "\" here and \"" + std::string(by_id->second) + "\" before");
  }
  std::stable_sort(out.begin(), out.end(),
                   [](const auto& a, const auto& b) { return a.id < b.id; });
  return out;
}

// An id without a token would reach past the end of a model's embedding.
void check_ids(const Parts& parts) {
  std::unordered_set<int> known;
  const auto check = [&](const std::string& place, int id) {
    if (known.empty()) {
      std::visit(
          [&](const auto& data) {
            each_token(data, [&](const std::string&, int i) { known.insert(i); });
          },
          parts.model);
      for (const auto& a : parts.added) known.insert(a.id);
    }
    if (!known.contains(id)) bad_place(place, "no token has the id " + std::to_string(id));
  };
  const std::string place = "post_processor";
  for (const auto& step : parts.post) {
    if (const auto* t = std::get_if<Template>(&step))
      for (const auto& special : t->special_tokens)
        for (const int id : special.ids)
          check(place + ": special_tokens[\"" + special.name + "\"]", id);
    if (const auto* b = std::get_if<BertProcessing>(&step))
      check(place, b->sep.second), check(place, b->cls.second);
    if (const auto* b = std::get_if<RobertaProcessing>(&step))
      check(place, b->sep.second), check(place, b->cls.second);
  }
  if (parts.padding) check("padding: pad_id", parts.padding->id);
}

// Members of "lmxlab".
void read_own_model(const Json& j, const std::string& path, ModelData& model) {
  const auto ints = [](const Reader& r, std::string_view key) {
    std::vector<int> out;
    if (r.get(key))
      for (const Json& item : r.list(key))
        out.push_back(static_cast<int>(Reader::count_of(item, r.at(key))));
    return out;
  };
  const auto strings = [](const Reader& r, std::string_view key) {
    std::vector<std::string> out;
    if (r.get(key))
      for (const Json& item : r.list(key)) out.push_back(Reader::text_of(item, r.at(key)));
    return out;
  };
  if (auto* bpe = std::get_if<Bpe::Data>(&model)) {
    const Reader r(j, path, {"ranks", "late_fallback", "frozen", "unused"});
    bpe->ranks = ints(r, "ranks");
    bpe->late_fallback = r.flag("late_fallback", false);
    bpe->frozen = strings(r, "frozen");
    bpe->unused = strings(r, "unused");
  } else if (auto* unigram = std::get_if<Unigram::Data>(&model)) {
    const Reader r(j, path, {"single_precision", "hidden", "user_defined"});
    unigram->single_precision = r.flag("single_precision", false);
    unigram->hidden = ints(r, "hidden");
    unigram->user_defined = ints(r, "user_defined");
  } else {
    bad_place(path, "this model has no members of its own");
  }
}

template <class T>
void put_list(Json& out, const char* key, const std::vector<T>& list) {
  if (!list.empty()) out[key] = Json(Json::Array(list.begin(), list.end()));
}

Json write_own_model(const Bpe::Data& m) {
  Json out;
  put_list(out, "ranks", m.ranks);
  if (m.late_fallback) out["late_fallback"] = true;
  put_list(out, "frozen", m.frozen);
  put_list(out, "unused", m.unused);
  return out;
}
Json write_own_model(const Unigram::Data& m) {
  Json out;
  if (m.single_precision) out["single_precision"] = true;
  put_list(out, "hidden", m.hidden);
  put_list(out, "user_defined", m.user_defined);
  return out;
}
Json write_own_model(const WordPiece::Data&) {
  return {};
}
Json write_own_model(const WordLevel::Data&) {
  return {};
}

Json write_vocab(const TokenList& vocab) {
  std::vector<const std::pair<std::string, int>*> by_id;
  by_id.reserve(vocab.size());
  for (const auto& entry : vocab) by_id.push_back(&entry);
  std::sort(by_id.begin(), by_id.end(),
            [](const auto* a, const auto* b) { return a->second < b->second; });
  Json out = Json::object();
  for (const auto* entry : by_id) out.as_object().emplace_back(entry->first, entry->second);
  return out;
}
Json text_or_null(const std::string& text) {
  return text.empty() ? Json() : Json(text);
}

Json write_model(const Bpe& engine) {
  const auto& m = engine.data();
  Json merges = Json::array();
  for (const auto& [left, right] : engine.merges()) merges.push_back(Json::array({left, right}));
  return Json::object({{"type", "BPE"},
                       {"dropout", Json()},
                       {"unk_token", m.unk_token ? Json(*m.unk_token) : Json()},
                       {"continuing_subword_prefix", text_or_null(m.continuing_subword_prefix)},
                       {"end_of_word_suffix", text_or_null(m.end_of_word_suffix)},
                       {"fuse_unk", m.fuse_unk},
                       {"byte_fallback", m.byte_fallback},
                       {"ignore_merges", m.ignore_merges},
                       {"vocab", write_vocab(m.vocab)},
                       {"merges", std::move(merges)}});
}
Json write_model(const Unigram& engine) {
  const auto& m = engine.data();
  Json vocab = Json::array();
  for (const auto& token : m.vocab) vocab.push_back(Json::array({token.text, token.score}));
  return Json::object({{"type", "Unigram"},
                       {"unk_id", m.unk_id ? Json(*m.unk_id) : Json()},
                       {"vocab", std::move(vocab)},
                       {"byte_fallback", m.byte_fallback}});
}
Json write_model(const WordPiece& engine) {
  const auto& m = engine.data();
  return Json::object({{"type", "WordPiece"},
                       {"unk_token", m.unk_token},
                       {"continuing_subword_prefix", m.continuing_subword_prefix},
                       {"max_input_chars_per_word", m.max_input_chars_per_word},
                       {"vocab", write_vocab(m.vocab)}});
}
Json write_model(const WordLevel& engine) {
  const auto& m = engine.data();
  return Json::object(
      {{"type", "WordLevel"}, {"vocab", write_vocab(m.vocab)}, {"unk_token", m.unk_token}});
}

}  // namespace

Parts parts_from_json(const Json& root) {
  const Reader r(root, "tokenizer.json",
                 {"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
                  "post_processor", "decoder", "model", "lmxlab"});
  if (r.get("version") && r.text("version") != "1.0")
    unsupported_place("version", "\"" + r.text("version") + "\" (not 1.0)");
  Parts out;
  if (const Json* j = r.get("truncation")) out.truncation = read_truncation(*j, "truncation");
  if (const Json* j = r.get("padding")) out.padding = read_padding(*j, "padding");
  if (const Json* j = r.get("normalizer")) out.normalizers = read_normalizers(*j, "normalizer");
  if (const Json* j = r.get("pre_tokenizer")) out.pre = read_pre_tokenizers(*j, "pre_tokenizer");
  if (const Json* j = r.get("post_processor"))
    out.post = read_post_processors(*j, "post_processor");
  if (const Json* j = r.get("decoder")) out.decoders = read_decoders(*j, "decoder");
  out.model = read_model(r.need("model"), "model");
  if (const Json* j = r.get("added_tokens")) out.added = read_added(*j, "added_tokens", out.model);
  if (const Json* own = r.get("lmxlab")) {
    const Reader o(*own, "lmxlab", {"model", "normalizer", "decoder", "added_are_text"});
    out.added_are_text = o.flag("added_are_text", false);
    if (const Json* j = o.get("model")) read_own_model(*j, o.at("model"), out.model);
    read_own_steps(*own, "lmxlab", out);
  }
  check_ids(out);
  return out;
}

Json parts_to_json(const Parts& parts, const Model& model) {
  Json added = Json::array();
  for (const auto& t : parts.added)
    added.push_back(Json::object({{"id", t.id},
                                  {"content", t.content},
                                  {"single_word", t.single_word},
                                  {"lstrip", t.lstrip},
                                  {"rstrip", t.rstrip},
                                  {"normalized", t.normalized},
                                  {"special", t.special}}));
  Json out =
      Json::object({{"version", "1.0"},
                    {"truncation", parts.truncation ? write_truncation(*parts.truncation) : Json()},
                    {"padding", parts.padding ? write_padding(*parts.padding) : Json()},
                    {"added_tokens", std::move(added)},
                    {"normalizer", write_normalizers(parts.normalizers)},
                    {"pre_tokenizer", write_pre_tokenizers(parts.pre)},
                    {"post_processor", write_post_processors(parts.post)},
                    {"decoder", write_decoders(parts.decoders)},
                    {"model", std::visit([](const auto& m) { return write_model(m); }, model)}});
  Json own = write_own_steps(parts);
  if (Json m = std::visit([](const auto& engine) { return write_own_model(engine.data()); }, model);
      !m.is_null())
    own["model"] = std::move(m);
  if (parts.added_are_text) own["added_are_text"] = true;
  if (!own.is_null()) out["lmxlab"] = std::move(own);
  return out;
}

}  // namespace lmxlab::data
