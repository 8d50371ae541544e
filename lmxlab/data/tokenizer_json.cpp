// tokenizer.json of Hugging Face's tokenizers library (format "1.0"), read into parts and written
// from them.
#include "lmxlab/base/text.h"
#include "lmxlab/data/tokenizer_parts.h"

#include <algorithm>
#include <limits>
#include <unordered_map>
#include <unordered_set>

namespace lmxlab::data {
namespace {

constexpr int kLargestId = 1 << 24;

[[noreturn]] void bad(const std::string& path, const std::string& what) {
  throw Error(Kind::bad_data, "[tokenizer] " + path + ": " + what);
}
[[noreturn]] void unsupported(const std::string& path, const std::string& what) {
  throw Error(Kind::unsupported, "[tokenizer] " + path + ": " + what +
                                     " is not supported yet. Use a tokenizer.json without it.");
}
std::string inside(const std::string& path, std::string_view key) {
  return path + "." + std::string(key);
}

// An object, with the places of its members for messages, that knows which of them are understood.
class Reader {
 public:
  Reader(const Json& in, std::string path, std::initializer_list<std::string_view> known)
      : in_(in), path_(std::move(path)) {
    if (!in.is_object()) bad(path_, "expected an object, got " + std::string(in.type_name()));
    for (const auto& [key, value] : in.as_object())
      if (!value.is_null() && std::find(known.begin(), known.end(), key) == known.end())
        unsupported(path_, "the key \"" + key + "\"");
  }
  const std::string& path() const { return path_; }
  /// The member, or null if it is absent or null.
  const Json* get(std::string_view key) const {
    const Json* j = in_.find(key);
    return j && !j->is_null() ? j : nullptr;
  }
  const Json& need(std::string_view key) const {
    if (const Json* j = get(key)) return *j;
    bad(path_, "\"" + std::string(key) + "\" is missing");
  }
  bool flag(std::string_view key, bool otherwise) const {
    const Json* j = get(key);
    if (!j) return otherwise;
    if (!j->is_bool())
      bad(inside(path_, key), "expected true or false, got " + std::string(j->type_name()));
    return j->as_bool();
  }
  const std::string& text(std::string_view key) const {
    return text_of(need(key), inside(path_, key));
  }
  const Json::Array& list(std::string_view key) const {
    return list_of(need(key), inside(path_, key));
  }

  static const std::string& text_of(const Json& j, const std::string& path) {
    if (!j.is_string()) bad(path, "expected a string, got " + std::string(j.type_name()));
    return j.as_string();
  }
  static const Json::Array& list_of(const Json& j, const std::string& path) {
    if (!j.is_array()) bad(path, "expected a list, got " + std::string(j.type_name()));
    return j.as_array();
  }
  static int id_of(const Json& j, const std::string& path) {
    if (!j.is_integer() || j.as_integer() < 0 || j.as_integer() >= kLargestId)
      bad(path, "expected an id from 0 to " + std::to_string(kLargestId - 1) + ", got " +
                    (j.is_integer() ? std::to_string(j.as_integer()) : std::string(j.type_name())));
    return static_cast<int>(j.as_integer());
  }

 private:
  const Json& in_;
  std::string path_;
};

std::string type_of(const Json& j, const std::string& path) {
  if (!j.is_object()) bad(path, "expected an object, got " + std::string(j.type_name()));
  const Json* type = j.find("type");
  if (!type) bad(path, "\"type\" is missing");
  return Reader::text_of(*type, inside(path, "type"));
}

// A part, or the parts of a Sequence (of Sequences), each handed to `one` with its type and its
// place.
template <class F>
void each_part(const Json& j, const std::string& path, std::string_view list_key, F&& one) {
  const std::string type = type_of(j, path);
  if (type != "Sequence") return one(j, type, path);
  const Reader r(j, path, {"type", list_key});
  size_t i = 0;
  for (const Json& item : r.list(list_key))
    each_part(item, inside(path, list_key) + "." + std::to_string(i++), list_key, one);
}

ByteLevel read_byte_level(const Json& j, const std::string& path) {
  const Reader r(j, path, {"type", "add_prefix_space", "trim_offsets", "use_regex"});
  return {r.flag("add_prefix_space", true), r.flag("trim_offsets", true),
          r.flag("use_regex", true)};
}

PreStep read_pre(const Json& j, const std::string& type, const std::string& path) {
  if (type == "ByteLevel") return read_byte_level(j, path);
  if (type != "Split") unsupported(path, "the pre-tokenizer " + type);
  const Reader r(j, path, {"type", "pattern", "behavior", "invert"});
  const std::string& behavior = r.text("behavior");
  if (behavior != "Isolated")
    unsupported(inside(path, "behavior"), "Split with the behavior " + behavior);
  const Json& pattern = r.need("pattern");
  const Json* regex = pattern.is_object() ? pattern.find("Regex") : nullptr;
  if (!regex) unsupported(inside(path, "pattern"), "Split by something else than a Regex");
  const std::string& source = Reader::text_of(*regex, inside(path, "pattern.Regex"));
  return with_context("[tokenizer] " + path, [&] {
    return SplitStep{Regex(source), r.flag("invert", false)};
  });
}

Template read_template(const Json& j, const std::string& path) {
  const Reader r(j, path, {"type", "single", "pair", "special_tokens"});
  Template out;
  if (const Json* specials = r.get("special_tokens")) {
    const std::string where = inside(path, "special_tokens");
    if (!specials->is_object())
      bad(where, "expected an object, got " + std::string(specials->type_name()));
    for (const auto& [name, value] : specials->as_object()) {
      const Reader s(value, inside(where, name), {"id", "ids", "tokens"});
      Template::Special special{name, {}, {}};
      for (const Json& id : s.list("ids"))
        special.ids.push_back(Reader::id_of(id, inside(s.path(), "ids")));
      for (const Json& t : s.list("tokens"))
        special.tokens.push_back(Reader::text_of(t, inside(s.path(), "tokens")));
      out.special_tokens.push_back(std::move(special));
    }
  }
  size_t i = 0;
  for (const Json& item : r.list("single")) {
    const std::string where = inside(path, "single") + "." + std::to_string(i++);
    const Reader piece(item, where, {"SpecialToken", "Sequence"});
    const bool special = piece.get("SpecialToken") != nullptr;
    const char* key = special ? "SpecialToken" : "Sequence";
    const Reader inner(piece.need(key), inside(where, key), {"id", "type_id"});
    Template::Item entry;
    const std::string& id = inner.text("id");
    if (const Json* t = inner.get("type_id"))
      entry.type_id = Reader::id_of(*t, inside(where, "type_id"));
    if (special) {
      entry.token = id;
      const auto known = std::any_of(out.special_tokens.begin(), out.special_tokens.end(),
                                     [&](const auto& s) { return s.name == id; });
      if (!known || id.empty()) bad(where, "the token \"" + id + "\" is not among special_tokens");
    } else if (id != "A") {
      bad(where, "expected the sequence A, got \"" + id + "\"");
    }
    out.single.push_back(std::move(entry));
  }
  if (const Json* pair = r.get("pair")) out.pair = *pair;
  return out;
}

PostStep read_post(const Json& j, const std::string& type, const std::string& path) {
  if (type == "ByteLevel") return read_byte_level(j, path);
  if (type == "TemplateProcessing") return read_template(j, path);
  unsupported(path, "the post-processor " + type);
}

Decoder read_decoder(const Json& j, const std::string& path) {
  const std::string type = type_of(j, path);
  if (type == "ByteLevel") return read_byte_level(j, path);
  if (type != "Fuse") unsupported(path, "the decoder " + type);
  const Reader r(j, path, {"type"});
  return Fuse{};
}

Bpe::Data read_model(const Json& j, const std::string& path) {
  // Files older than the field have the model's type in their keys.
  const bool untyped = j.is_object() && !j.contains("type") && j.contains("merges");
  if (const std::string type = untyped ? "BPE" : type_of(j, path); type != "BPE")
    unsupported(path, "the model " + type);
  const Reader r(j, path,
                 {"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
                  "fuse_unk", "byte_fallback", "ignore_merges", "vocab", "merges"});
  if (const Json* dropout = r.get("dropout");
      dropout && !(dropout->is_number() && dropout->as_number() == 0))
    unsupported(path, "dropout");
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (r.get(key) && !r.text(key).empty()) unsupported(path, key);
  if (r.flag("byte_fallback", false)) unsupported(path, "byte_fallback");
  Bpe::Data out;
  if (r.get("unk_token")) out.unk_token = r.text("unk_token");
  out.fuse_unk = r.flag("fuse_unk", false);
  out.ignore_merges = r.flag("ignore_merges", false);
  const Json& vocab = r.need("vocab");
  if (!vocab.is_object())
    bad(inside(path, "vocab"), "expected an object, got " + std::string(vocab.type_name()));
  out.vocab.reserve(vocab.size());
  for (const auto& [token, id] : vocab.as_object())
    out.vocab.emplace_back(token, Reader::id_of(id, inside(path, "vocab") + "[\"" + token + "\"]"));
  const std::string where = inside(path, "merges");
  for (const Json& m : r.list("merges")) {
    const std::string here = where + "." + std::to_string(out.merges.size());
    if (m.is_array()) {
      if (m.size() != 2) bad(here, "expected two tokens, got " + std::to_string(m.size()));
      out.merges.emplace_back(Reader::text_of(m.as_array()[0], here),
                              Reader::text_of(m.as_array()[1], here));
    } else {
      const std::string& text = Reader::text_of(m, here);
      const size_t space = text.find(' ');
      if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos)
        bad(here, "expected two tokens with one space between them, got \"" + text + "\"");
      out.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
    }
  }
  return out;
}

std::vector<AddedToken> read_added(const Json& j, const std::string& path, const Bpe::Data& model) {
  std::unordered_map<std::string_view, int> ids;
  std::unordered_map<int, std::string_view> tokens;
  for (const auto& [token, id] : model.vocab) ids.emplace(token, id), tokens.emplace(id, token);
  std::vector<AddedToken> out;
  const auto& list = Reader::list_of(j, path);
  out.reserve(list.size());  // the maps keep views into it
  for (const Json& item : list) {
    const std::string here = path + "." + std::to_string(out.size());
    const Reader r(item, here,
                   {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
    AddedToken t{Reader::id_of(r.need("id"), inside(here, "id")),
                 r.text("content"),
                 r.flag("single_word", false),
                 r.flag("lstrip", false),
                 r.flag("rstrip", false),
                 r.flag("normalized", true),
                 r.flag("special", false)};
    if (t.content.empty()) bad(here, "the content is empty");
    out.push_back(std::move(t));
    const AddedToken& kept = out.back();
    const auto by_content = ids.emplace(kept.content, kept.id).first;
    if (by_content->second != kept.id)
      bad(here, "\"" + kept.content + "\" has the id " + std::to_string(kept.id) + " here and " +
                    std::to_string(by_content->second) + " before");
    const auto by_id = tokens.emplace(kept.id, kept.content).first;
    if (by_id->second != kept.content)
      bad(here, "the id " + std::to_string(kept.id) + " is \"" + kept.content + "\" here and \"" +
                    std::string(by_id->second) + "\" before");
  }
  std::stable_sort(out.begin(), out.end(),
                   [](const auto& a, const auto& b) { return a.id < b.id; });
  return out;
}

// An id without a token would reach past the end of a model's embedding.
void check_template_ids(const Parts& parts) {
  std::unordered_set<int> known;
  for (const auto& step : parts.post) {
    const auto* t = std::get_if<Template>(&step);
    if (!t) continue;
    for (const auto& [token, id] : parts.model.vocab) known.insert(id);
    for (const auto& a : parts.added) known.insert(a.id);
    for (const auto& special : t->special_tokens)
      for (const int id : special.ids)
        if (!known.contains(id))
          bad("post_processor", "special_tokens[\"" + special.name + "\"]: no token has the id " +
                                    std::to_string(id));
  }
}

Json write(const ByteLevel& b) {
  return Json::object({{"type", "ByteLevel"},
                       {"add_prefix_space", b.add_prefix_space},
                       {"trim_offsets", b.trim_offsets},
                       {"use_regex", b.use_regex}});
}
Json write(const SplitStep& s) {
  return Json::object({{"type", "Split"},
                       {"pattern", Json::object({{"Regex", s.regex.pattern()}})},
                       {"behavior", "Isolated"},
                       {"invert", s.invert}});
}
Json write(const Template& t) {
  Json single = Json::array(), specials = Json::object();
  for (const auto& item : t.single) {
    const bool special = !item.token.empty();
    single.push_back(Json::object(
        {{special ? "SpecialToken" : "Sequence",
          Json::object({{"id", special ? item.token : "A"}, {"type_id", item.type_id}})}}));
  }
  for (const auto& s : t.special_tokens) {
    Json ids = Json::array(), tokens = Json::array();
    for (const int id : s.ids) ids.push_back(id);
    for (const auto& token : s.tokens) tokens.push_back(token);
    specials.as_object().emplace_back(
        s.name, Json::object({{"id", s.name}, {"ids", ids}, {"tokens", tokens}}));
  }
  // The library wants a pair; this is its own default.
  Json pair = t.pair;
  if (pair.is_null())
    pair = Json::array({Json::object({{"Sequence", Json::object({{"id", "A"}, {"type_id", 0}})}}),
                        Json::object({{"Sequence", Json::object({{"id", "B"}, {"type_id", 1}})}})});
  return Json::object({{"type", "TemplateProcessing"},
                       {"single", single},
                       {"pair", pair},
                       {"special_tokens", specials}});
}
Json write(const Fuse&) {
  return Json::object({{"type", "Fuse"}});
}
Json write(const std::monostate&) {
  return Json();
}

template <class Step>
Json write_steps(const std::vector<Step>& steps, const char* list_key) {
  Json list = Json::array();
  for (const auto& step : steps)
    list.push_back(std::visit([](const auto& s) { return write(s); }, step));
  if (steps.empty()) return Json();
  return steps.size() == 1 ? list.as_array()[0]
                           : Json::object({{"type", "Sequence"}, {list_key, list}});
}

}  // namespace

Parts parts_from_json(const Json& root) {
  const Reader r(root, "tokenizer.json",
                 {"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
                  "post_processor", "decoder", "model"});
  if (r.get("version") && r.text("version") != "1.0")
    unsupported("version", "\"" + r.text("version") + "\" (not 1.0)");
  for (const char* key : {"truncation", "padding"})
    if (r.get(key)) unsupported(key, key);
  Parts out;
  if (const Json* j = r.get("normalizer"))
    each_part(*j, "normalizer", "normalizers",
              [](const Json&, const std::string& type, const std::string& path) {
                unsupported(path, "the normalizer " + type);
              });
  if (const Json* j = r.get("pre_tokenizer"))
    each_part(*j, "pre_tokenizer", "pretokenizers",
              [&](const Json& part, const std::string& type, const std::string& p) {
                out.pre.push_back(read_pre(part, type, p));
              });
  if (const Json* j = r.get("post_processor"))
    each_part(*j, "post_processor", "processors",
              [&](const Json& part, const std::string& type, const std::string& p) {
                out.post.push_back(read_post(part, type, p));
              });
  if (std::count_if(out.post.begin(), out.post.end(),
                    [](const auto& s) { return std::holds_alternative<Template>(s); }) > 1)
    unsupported("post_processor", "more than one TemplateProcessing");
  if (const Json* j = r.get("decoder")) out.decoder = read_decoder(*j, "decoder");
  out.model = read_model(r.need("model"), "model");
  if (const Json* j = r.get("added_tokens")) out.added = read_added(*j, "added_tokens", out.model);
  check_template_ids(out);
  return out;
}

Json parts_to_json(const Parts& parts, const Bpe::Data& model) {
  Json added = Json::array();
  for (const auto& t : parts.added)
    added.push_back(Json::object({{"id", t.id},
                                  {"content", t.content},
                                  {"single_word", t.single_word},
                                  {"lstrip", t.lstrip},
                                  {"rstrip", t.rstrip},
                                  {"normalized", t.normalized},
                                  {"special", t.special}}));
  std::vector<const std::pair<std::string, int>*> by_id;
  by_id.reserve(model.vocab.size());
  for (const auto& entry : model.vocab) by_id.push_back(&entry);
  std::sort(by_id.begin(), by_id.end(),
            [](const auto* a, const auto* b) { return a->second < b->second; });
  Json vocab = Json::object();
  for (const auto* entry : by_id) vocab.as_object().emplace_back(entry->first, entry->second);
  Json merges = Json::array();
  for (const auto& [left, right] : model.merges) merges.push_back(Json::array({left, right}));
  return Json::object(
      {{"version", "1.0"},
       {"truncation", Json()},
       {"padding", Json()},
       {"added_tokens", std::move(added)},
       {"normalizer", Json()},
       {"pre_tokenizer", write_steps(parts.pre, "pretokenizers")},
       {"post_processor", write_steps(parts.post, "processors")},
       {"decoder", std::visit([](const auto& d) { return write(d); }, parts.decoder)},
       {"model", Json::object({{"type", "BPE"},
                               {"dropout", Json()},
                               {"unk_token", model.unk_token ? Json(*model.unk_token) : Json()},
                               {"continuing_subword_prefix", Json()},
                               {"end_of_word_suffix", Json()},
                               {"fuse_unk", model.fuse_unk},
                               {"byte_fallback", false},
                               {"ignore_merges", model.ignore_merges},
                               {"vocab", std::move(vocab)},
                               {"merges", std::move(merges)}})}});
}

}  // namespace lmxlab::data
