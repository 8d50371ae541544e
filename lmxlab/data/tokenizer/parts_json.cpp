#include "lmxlab/data/tokenizer/parts_json.h"

#include "lmxlab/base/text.h"
#include "lmxlab/data/tokenizer/base64.h"

#include <map>

namespace lmxlab::data {
namespace {

constexpr int kDeepest = 64;  // Sequences inside Sequences

std::string type_of(const Json& j, const std::string& path) {
  if (!j.is_object()) bad_place(path, "expected an object, got " + std::string(j.type_name()));
  const Json* type = j.find("type");
  if (!type) bad_place(path, "\"type\" is missing");
  return Reader::text_of(*type, inside(path, "type"));
}

// A part, or the parts of a Sequence (of Sequences), each handed to `one` with its type and its
// place.
template <class F>
void each_part(const Json& j, const std::string& path, std::string_view list_key, F&& one,
               int depth = 0) {
  const std::string type = type_of(j, path);
  if (type != "Sequence") return one(j, type, path);
  if (depth >= kDeepest) bad_place(path, "Sequences more than 64 deep");
  const Reader r(j, path, {"type", list_key});
  size_t i = 0;
  for (const Json& item : r.list(list_key))
    each_part(item, r.at(list_key) + "." + std::to_string(i++), list_key, one, depth + 1);
}

// Names of the values of an enumeration, in both directions.
template <class E>
struct Name {
  E value;
  const char* name;
};
template <class E, size_t N>
E read_name(const Name<E> (&names)[N], const std::string& text, const std::string& path) {
  std::string known;
  for (const auto& n : names) {
    if (text == n.name) return n.value;
    known += (known.empty() ? "" : ", ") + std::string(n.name);
  }
  bad_place(path, "expected one of " + known + ", got \"" + text + "\"");
}
template <class E, size_t N>
const char* name_of(const Name<E> (&names)[N], E value) {
  for (const auto& n : names)
    if (n.value == value) return n.name;
  return names[0].name;
}

constexpr Name<NormalForm> kForms[] = {{NormalForm::nfc, "NFC"},
                                       {NormalForm::nfd, "NFD"},
                                       {NormalForm::nfkc, "NFKC"},
                                       {NormalForm::nfkd, "NFKD"}};
constexpr Name<SplitBehavior> kBehaviors[] = {
    {SplitBehavior::removed, "Removed"},
    {SplitBehavior::isolated, "Isolated"},
    {SplitBehavior::merged_with_previous, "MergedWithPrevious"},
    {SplitBehavior::merged_with_next, "MergedWithNext"},
    {SplitBehavior::contiguous, "Contiguous"}};
constexpr Name<Metaspace::Prepend> kPrepends[] = {{Metaspace::Prepend::first, "first"},
                                                  {Metaspace::Prepend::never, "never"},
                                                  {Metaspace::Prepend::always, "always"}};
constexpr Name<Truncation::Strategy> kStrategies[] = {
    {Truncation::Strategy::longest_first, "LongestFirst"},
    {Truncation::Strategy::only_first, "OnlyFirst"},
    {Truncation::Strategy::only_second, "OnlySecond"}};
constexpr Name<bool> kDirections[] = {{false, "Right"}, {true, "Left"}};

std::string character(const Reader& r, std::string_view key) {
  const std::string& text = r.text(key);
  bool valid = false, incomplete = false;
  if (text.empty() || utf8_length(text, 0, valid, incomplete) != text.size() || !valid)
    bad_place(r.at(key), "expected one character, got \"" + text + "\"");
  return text;
}

Pattern read_pattern(const Reader& r) {
  const Reader p(r.need("pattern"), r.at("pattern"), {"String", "Regex"});
  if (p.get("String")) return Pattern::text(p.text("String"));
  const std::string& source = p.text("Regex");
  return with_context("[tokenizer] " + r.path(), [&] { return Pattern::expression(source); });
}
Json write_pattern(const Pattern& p) {
  return Json::object({{p.is_regex ? "Regex" : "String", p.source}});
}

Replace read_replace(const Json& j, const std::string& path) {
  const Reader r(j, path, {"type", "pattern", "content"});
  return {read_pattern(r), r.text("content")};
}
ByteLevel read_byte_level(const Json& j, const std::string& path) {
  const Reader r(j, path, {"type", "add_prefix_space", "trim_offsets", "use_regex"});
  return {r.flag("add_prefix_space", true), r.flag("trim_offsets", true),
          r.flag("use_regex", true)};
}
Metaspace read_metaspace(const Json& j, const std::string& path) {
  const Reader r(j, path,
                 {"type", "replacement", "prepend_scheme", "split", "add_prefix_space", "str_rep"});
  Metaspace m;
  m.replacement = character(r, "replacement");
  m.split = r.flag("split", true);
  if (r.get("prepend_scheme"))
    m.prepend_scheme = read_name(kPrepends, r.text("prepend_scheme"), r.at("prepend_scheme"));
  // Files older than prepend_scheme.
  if (!r.flag("add_prefix_space", true)) {
    if (r.get("prepend_scheme") && m.prepend_scheme != Metaspace::Prepend::never)
      bad_place(r.at("add_prefix_space"), "false contradicts prepend_scheme");
    m.prepend_scheme = Metaspace::Prepend::never;
  }
  return m;
}

Normalizer read_normalizer(const Json& j, const std::string& type, const std::string& path) {
  for (const auto& form : kForms)
    if (type == form.name) return Reader(j, path, {"type"}), UnicodeForm{form.value};
  if (type == "Lowercase") return Reader(j, path, {"type"}), Lowercase{};
  if (type == "StripAccents") return Reader(j, path, {"type"}), StripAccents{};
  if (type == "Nmt") return Reader(j, path, {"type"}), Nmt{};
  if (type == "ByteLevel") return Reader(j, path, {"type"}), ByteLevelNormalizer{};
  if (type == "Replace") return read_replace(j, path);
  if (type == "Strip") {
    const Reader r(j, path, {"type", "strip_left", "strip_right"});
    return StripSpaces{r.flag("strip_left", true), r.flag("strip_right", true)};
  }
  if (type == "Prepend") {
    const Reader r(j, path, {"type", "prepend"});
    return Prepend{r.text("prepend")};
  }
  if (type == "Precompiled") {
    const Reader r(j, path, {"type", "precompiled_charsmap"});
    const std::string blob = r.get("precompiled_charsmap")
                                 ? decode_base64(r.text("precompiled_charsmap"), r.path())
                                 : std::string();
    return Precompiled{std::make_shared<Charsmap>(blob)};
  }
  if (type == "BertNormalizer") {
    const Reader r(j, path,
                   {"type", "clean_text", "handle_chinese_chars", "strip_accents", "lowercase"});
    BertNormalizer b;
    b.clean_text = r.flag("clean_text", true);
    b.handle_chinese_chars = r.flag("handle_chinese_chars", true);
    b.lowercase = r.flag("lowercase", true);
    if (r.get("strip_accents")) b.strip_accents = r.flag("strip_accents", true);
    return b;
  }
  unsupported_place(path, "the normalizer " + type);
}

PreTokenizer read_pre_tokenizer(const Json& j, const std::string& type, const std::string& path) {
  if (type == "ByteLevel") return read_byte_level(j, path);
  if (type == "Metaspace") return read_metaspace(j, path);
  if (type == "Whitespace") return Reader(j, path, {"type"}), Whitespace{};
  if (type == "WhitespaceSplit") return Reader(j, path, {"type"}), WhitespaceSplit{};
  if (type == "BertPreTokenizer") return Reader(j, path, {"type"}), BertPreTokenizer{};
  if (type == "UnicodeScripts") return Reader(j, path, {"type"}), UnicodeScripts{};
  const auto behavior = [](const Reader& r) {
    return r.get("behavior") ? read_name(kBehaviors, r.text("behavior"), r.at("behavior"))
                             : SplitBehavior::isolated;
  };
  if (type == "Split") {
    const Reader r(j, path, {"type", "pattern", "behavior", "invert"});
    r.need("behavior");
    return SplitStep{read_pattern(r), behavior(r), r.flag("invert", false)};
  }
  if (type == "Digits") {
    const Reader r(j, path, {"type", "individual_digits"});
    return Digits{r.flag("individual_digits", false)};
  }
  if (type == "Punctuation") {
    const Reader r(j, path, {"type", "behavior"});
    return Punctuation{behavior(r)};
  }
  if (type == "CharDelimiterSplit") {
    const Reader r(j, path, {"type", "delimiter"});
    return CharDelimiterSplit{character(r, "delimiter")};
  }
  if (type == "FixedLength") {
    const Reader r(j, path, {"type", "length"});
    const size_t length = r.get("length") ? r.count("length") : 5;
    if (length == 0) bad_place(r.at("length"), "expected 1 or more, got 0");
    return FixedLength{length};
  }
  unsupported_place(path, "the pre-tokenizer " + type);
}

std::vector<Template::Item> read_items(const Json& j, const std::string& path, const Template& t) {
  std::vector<Template::Item> out;
  size_t ids = 0;  // a short list could put a long token again and again
  for (const Json& item : Reader::list_of(j, path)) {
    constexpr size_t kMostItems = 256, kMostIds = size_t{1} << 16;
    if (out.size() == kMostItems || ids > kMostIds)
      bad_place(path, "expected 256 items and 65536 ids at most, got more");
    const Reader piece(item, path + "." + std::to_string(out.size()), {"SpecialToken", "Sequence"});
    const bool special = piece.get("SpecialToken") != nullptr;
    const char* key = special ? "SpecialToken" : "Sequence";
    const Reader inner(piece.need(key), piece.at(key), {"id", "type_id"});
    const std::string& id = inner.text("id");
    Template::Item entry;
    if (inner.get("type_id")) entry.type_id = inner.id("type_id");
    if (special) {
      entry.token = id;
      const auto* found = t.find(id);
      if (!found) bad_place(piece.path(), "the token \"" + id + "\" is not among special_tokens");
      ids += found->ids.size();
    } else if (id == "A" || id == "B") {
      entry.second = id == "B";
    } else {
      bad_place(piece.path(), "expected the sequence A or B, got \"" + id + "\"");
    }
    out.push_back(std::move(entry));
  }
  return out;
}

Template read_template(const Json& j, const std::string& path) {
  const Reader r(j, path, {"type", "single", "pair", "special_tokens"});
  Template out;
  if (const Json* specials = r.get("special_tokens")) {
    const std::string where = r.at("special_tokens");
    if (!specials->is_object())
      bad_place(where, "expected an object, got " + std::string(specials->type_name()));
    for (const auto& [name, value] : specials->as_object()) {
      const Reader s(value, inside(where, name), {"id", "ids", "tokens"});
      Template::Special special{name, {}, {}};
      for (const Json& id : s.list("ids")) special.ids.push_back(Reader::id_of(id, s.at("ids")));
      for (const Json& t : s.list("tokens"))
        special.tokens.push_back(Reader::text_of(t, s.at("tokens")));
      if (special.ids.size() != special.tokens.size())
        bad_place(s.path(), "expected as many tokens as ids, got " +
                                std::to_string(special.tokens.size()) + " and " +
                                std::to_string(special.ids.size()));
      out.special_tokens.push_back(std::move(special));
    }
  }
  out.single = read_items(r.need("single"), r.at("single"), out);
  if (const Json* pair = r.get("pair"))
    out.pair = read_items(*pair, r.at("pair"), out);
  else  // the library's own default
    out.pair = {{"", 0, false}, {"", 1, true}};
  for (const auto& item : out.single)
    if (item.second) bad_place(r.at("single"), "expected the sequence A, got \"B\"");
  return out;
}

std::pair<std::string, int> read_pair(const Reader& r, std::string_view key) {
  const auto& list = r.list(key);
  if (list.size() != 2)
    bad_place(r.at(key), "expected a token and its id, got " + std::to_string(list.size()));
  return {Reader::text_of(list[0], r.at(key)), Reader::id_of(list[1], r.at(key))};
}

PostProcessor read_post_processor(const Json& j, const std::string& type, const std::string& path) {
  if (type == "ByteLevel") return read_byte_level(j, path);
  if (type == "TemplateProcessing") return read_template(j, path);
  if (type == "BertProcessing") {
    const Reader r(j, path, {"type", "sep", "cls"});
    return BertProcessing{read_pair(r, "sep"), read_pair(r, "cls")};
  }
  if (type == "RobertaProcessing") {
    const Reader r(j, path, {"type", "sep", "cls", "trim_offsets", "add_prefix_space"});
    return RobertaProcessing{read_pair(r, "sep"), read_pair(r, "cls"), r.flag("trim_offsets", true),
                             r.flag("add_prefix_space", true)};
  }
  unsupported_place(path, "the post-processor " + type);
}

Decoder read_decoder(const Json& j, const std::string& type, const std::string& path) {
  if (type == "ByteLevel") return read_byte_level(j, path);
  if (type == "Replace") return read_replace(j, path);
  if (type == "Metaspace") return read_metaspace(j, path);
  if (type == "ByteFallback") return Reader(j, path, {"type"}), ByteFallback{};
  if (type == "Fuse") return Reader(j, path, {"type"}), Fuse{};
  if (type == "Strip") {
    const Reader r(j, path, {"type", "content", "start", "stop"});
    return StripDecoder{character(r, "content"), r.count("start"), r.count("stop")};
  }
  if (type == "WordPiece") {
    const Reader r(j, path, {"type", "prefix", "cleanup"});
    return WordPieceDecoder{r.text_or("prefix", "##"), r.flag("cleanup", true)};
  }
  if (type == "BPEDecoder") {
    const Reader r(j, path, {"type", "suffix"});
    return BpeDecoder{r.text_or("suffix", "</w>")};
  }
  if (type == "CTC") {
    const Reader r(j, path, {"type", "pad_token", "word_delimiter_token", "cleanup"});
    return Ctc{r.text_or("pad_token", "<pad>"), r.text_or("word_delimiter_token", "|"),
               r.flag("cleanup", true)};
  }
  unsupported_place(path, "the decoder " + type);
}

}  // namespace

std::vector<Normalizer> read_normalizers(const Json& j, const std::string& path) {
  std::vector<Normalizer> out;
  each_part(j, path, "normalizers", [&](const Json& part, const auto& type, const auto& p) {
    out.push_back(read_normalizer(part, type, p));
  });
  return out;
}
std::vector<PreTokenizer> read_pre_tokenizers(const Json& j, const std::string& path) {
  std::vector<PreTokenizer> out;
  each_part(j, path, "pretokenizers", [&](const Json& part, const auto& type, const auto& p) {
    out.push_back(read_pre_tokenizer(part, type, p));
  });
  return out;
}
std::vector<PostProcessor> read_post_processors(const Json& j, const std::string& path) {
  std::vector<PostProcessor> out;
  each_part(j, path, "processors", [&](const Json& part, const auto& type, const auto& p) {
    out.push_back(read_post_processor(part, type, p));
  });
  return out;
}
std::vector<Decoder> read_decoders(const Json& j, const std::string& path) {
  std::vector<Decoder> out;
  each_part(j, path, "decoders", [&](const Json& part, const auto& type, const auto& p) {
    out.push_back(read_decoder(part, type, p));
  });
  return out;
}

Truncation read_truncation(const Json& j, const std::string& path) {
  const Reader r(j, path, {"direction", "max_length", "strategy", "stride"});
  Truncation t;
  t.max_length = r.count("max_length");
  if (r.get("stride")) t.stride = r.count("stride");
  if (r.get("strategy")) t.strategy = read_name(kStrategies, r.text("strategy"), r.at("strategy"));
  if (r.get("direction")) t.left = read_name(kDirections, r.text("direction"), r.at("direction"));
  return t;
}
Json write_truncation(const Truncation& t) {
  return Json::object({{"direction", name_of(kDirections, t.left)},
                       {"max_length", t.max_length},
                       {"strategy", name_of(kStrategies, t.strategy)},
                       {"stride", t.stride}});
}

Padding read_padding(const Json& j, const std::string& path) {
  const Reader r(
      j, path,
      {"strategy", "direction", "pad_to_multiple_of", "pad_id", "pad_type_id", "pad_token"});
  Padding p;
  const Json& strategy = r.need("strategy");
  if (strategy.is_object()) {
    p.fixed = Reader(strategy, r.at("strategy"), {"Fixed"}).count("Fixed");
  } else if (r.text("strategy") != "BatchLongest") {
    bad_place(r.at("strategy"),
              "expected BatchLongest or Fixed, got \"" + r.text("strategy") + "\"");
  }
  if (r.get("direction")) p.left = read_name(kDirections, r.text("direction"), r.at("direction"));
  if (r.get("pad_to_multiple_of")) p.multiple_of = r.count("pad_to_multiple_of");
  if (r.get("pad_id")) p.id = r.id("pad_id");
  if (r.get("pad_type_id")) p.type_id = r.id("pad_type_id");
  p.token = r.text_or("pad_token", "[PAD]");
  return p;
}
Json write_padding(const Padding& p) {
  return Json::object(
      {{"strategy", p.fixed ? Json::object({{"Fixed", *p.fixed}}) : Json("BatchLongest")},
       {"direction", name_of(kDirections, p.left)},
       {"pad_to_multiple_of", p.multiple_of ? Json(*p.multiple_of) : Json()},
       {"pad_id", p.id},
       {"pad_type_id", p.type_id},
       {"pad_token", p.token}});
}

namespace {

Json typed(const char* type) {
  return Json::object({{"type", type}});
}
Json write(const ByteLevel& b) {
  return Json::object({{"type", "ByteLevel"},
                       {"add_prefix_space", b.add_prefix_space},
                       {"trim_offsets", b.trim_offsets},
                       {"use_regex", b.use_regex}});
}
Json write(const Metaspace& m) {
  return Json::object({{"type", "Metaspace"},
                       {"replacement", m.replacement},
                       {"prepend_scheme", name_of(kPrepends, m.prepend_scheme)},
                       {"split", m.split}});
}
Json write(const Replace& r) {
  return Json::object(
      {{"type", "Replace"}, {"pattern", write_pattern(r.pattern)}, {"content", r.content}});
}

Json write(const UnicodeForm& f) {
  return typed(name_of(kForms, f.form));
}
Json write(const Lowercase&) {
  return typed("Lowercase");
}
Json write(const StripSpaces& s) {
  return Json::object({{"type", "Strip"}, {"strip_left", s.left}, {"strip_right", s.right}});
}
Json write(const StripAccents&) {
  return typed("StripAccents");
}
Json write(const Prepend& p) {
  return Json::object({{"type", "Prepend"}, {"prepend", p.content}});
}
Json write(const Nmt&) {
  return typed("Nmt");
}
Json write(const Precompiled& p) {
  return Json::object(
      {{"type", "Precompiled"}, {"precompiled_charsmap", encode_base64(p.map->blob())}});
}
Json write(const BertNormalizer& b) {
  return Json::object({{"type", "BertNormalizer"},
                       {"clean_text", b.clean_text},
                       {"handle_chinese_chars", b.handle_chinese_chars},
                       {"strip_accents", b.strip_accents ? Json(*b.strip_accents) : Json()},
                       {"lowercase", b.lowercase}});
}
Json write(const ByteLevelNormalizer&) {
  return typed("ByteLevel");
}
// What the library can do of it, in its own words.
Json write(const SentencePieceNormalizer& s) {
  std::vector<Normalizer> steps;
  if (s.map && !s.map->empty()) steps.push_back(Precompiled{s.map});
  if (s.remove_extra_whitespaces) {
    steps.push_back(StripSpaces{});
    steps.push_back(Replace{Pattern::expression(" {2,}"), " "});
  }
  if (s.add_dummy_prefix && !s.whitespace_as_suffix)
    steps.push_back(Prepend{s.escape_whitespaces ? std::string(kMetaspace) : " "});
  if (s.escape_whitespaces) steps.push_back(Replace{Pattern::text(" "), std::string(kMetaspace)});
  return write_normalizers(steps);
}

Json write(const SplitStep& s) {
  return Json::object({{"type", "Split"},
                       {"pattern", write_pattern(s.pattern)},
                       {"behavior", name_of(kBehaviors, s.behavior)},
                       {"invert", s.invert}});
}
Json write(const Digits& d) {
  return Json::object({{"type", "Digits"}, {"individual_digits", d.individual_digits}});
}
Json write(const Punctuation& p) {
  return Json::object({{"type", "Punctuation"}, {"behavior", name_of(kBehaviors, p.behavior)}});
}
Json write(const Whitespace&) {
  return typed("Whitespace");
}
Json write(const WhitespaceSplit&) {
  return typed("WhitespaceSplit");
}
Json write(const CharDelimiterSplit& c) {
  return Json::object({{"type", "CharDelimiterSplit"}, {"delimiter", c.delimiter}});
}
Json write(const BertPreTokenizer&) {
  return typed("BertPreTokenizer");
}
Json write(const UnicodeScripts&) {
  return typed("UnicodeScripts");
}
Json write(const FixedLength& f) {
  return Json::object({{"type", "FixedLength"}, {"length", f.length}});
}

Json write_pair(const std::pair<std::string, int>& pair) {
  return Json::array({pair.first, pair.second});
}
Json write(const BertProcessing& b) {
  return Json::object(
      {{"type", "BertProcessing"}, {"sep", write_pair(b.sep)}, {"cls", write_pair(b.cls)}});
}
Json write(const RobertaProcessing& r) {
  return Json::object({{"type", "RobertaProcessing"},
                       {"sep", write_pair(r.sep)},
                       {"cls", write_pair(r.cls)},
                       {"trim_offsets", r.trim_offsets},
                       {"add_prefix_space", r.add_prefix_space}});
}
Json write_items(const std::vector<Template::Item>& items) {
  Json out = Json::array();
  for (const auto& item : items) {
    const bool special = !item.token.empty();
    const std::string id = special ? item.token : item.second ? "B" : "A";
    out.push_back(Json::object({{special ? "SpecialToken" : "Sequence",
                                 Json::object({{"id", id}, {"type_id", item.type_id}})}}));
  }
  return out;
}
Json write(const Template& t) {
  Json specials = Json::object();
  for (const auto& s : t.special_tokens) {
    Json ids = Json::array(), tokens = Json::array();
    for (const int id : s.ids) ids.push_back(id);
    for (const auto& token : s.tokens) tokens.push_back(token);
    specials.as_object().emplace_back(
        s.name, Json::object({{"id", s.name}, {"ids", ids}, {"tokens", tokens}}));
  }
  return Json::object({{"type", "TemplateProcessing"},
                       {"single", write_items(t.single)},
                       {"pair", write_items(t.pair)},
                       {"special_tokens", specials}});
}

Json write(const ByteFallback&) {
  return typed("ByteFallback");
}
Json write(const Fuse&) {
  return typed("Fuse");
}
Json write(const StripDecoder& s) {
  return Json::object(
      {{"type", "Strip"}, {"content", s.content}, {"start", s.start}, {"stop", s.stop}});
}
Json write(const WordPieceDecoder& w) {
  return Json::object({{"type", "WordPiece"}, {"prefix", w.prefix}, {"cleanup", w.cleanup}});
}
Json write(const BpeDecoder& b) {
  return Json::object({{"type", "BPEDecoder"}, {"suffix", b.suffix}});
}
Json write(const Ctc& c) {
  return Json::object({{"type", "CTC"},
                       {"pad_token", c.pad_token},
                       {"word_delimiter_token", c.word_delimiter_token},
                       {"cleanup", c.cleanup}});
}
Json write(const SentencePieceDecoder& s) {
  std::vector<Decoder> steps{Replace{Pattern::text(std::string(kMetaspace)), " "}, ByteFallback{},
                             Fuse{}};
  if (s.strip_first || s.strip_all) steps.push_back(StripDecoder{" ", 1, 0});
  return write_decoders(steps);
}
Json write(const Spaced&) {
  return Json();
}

template <class Step>
Json write_steps(const std::vector<Step>& steps, const char* list_key) {
  Json list = Json::array();
  for (const auto& step : steps)
    if (Json one = std::visit([](const auto& s) { return write(s); }, step); !one.is_null())
      list.push_back(std::move(one));
  return list.size() == 1 ? list.as_array()[0]
                          : Json::object({{"type", "Sequence"}, {list_key, list}});
}

}  // namespace

Json write_normalizers(const std::vector<Normalizer>& steps) {
  return steps.empty() ? Json() : write_steps(steps, "normalizers");
}
Json write_pre_tokenizers(const std::vector<PreTokenizer>& steps) {
  return steps.empty() ? Json() : write_steps(steps, "pretokenizers");
}
Json write_post_processors(const std::vector<PostProcessor>& steps) {
  return steps.empty() ? Json() : write_steps(steps, "processors");
}
Json write_decoders(const std::vector<Decoder>& steps) {
  const bool none = steps.size() == 1 && std::holds_alternative<Spaced>(steps[0]);
  return none ? Json() : write_steps(steps, "decoders");
}

Json write_own_steps(const Parts& parts) {
  Json out;
  if (parts.normalizers.size() == 1)
    if (const auto* s = std::get_if<SentencePieceNormalizer>(&parts.normalizers[0]))
      out["normalizer"] =
          Json::object({{"charsmap", encode_base64(s->map ? s->map->blob() : std::string())},
                        {"add_dummy_prefix", s->add_dummy_prefix},
                        {"remove_extra_whitespaces", s->remove_extra_whitespaces},
                        {"escape_whitespaces", s->escape_whitespaces},
                        {"whitespace_as_suffix", s->whitespace_as_suffix},
                        {"kept", Json(Json::Array(s->kept.begin(), s->kept.end()))}});
  if (parts.decoders.size() == 1)
    if (const auto* d = std::get_if<SentencePieceDecoder>(&parts.decoders[0]))
      out["decoder"] =
          Json::object({{"strip_first", d->strip_first},
                        {"strip_all", d->strip_all},
                        {"unk_piece", d->unk_piece},
                        {"unk_surface", d->unk_surface},
                        {"controls", Json(Json::Array(d->controls.begin(), d->controls.end()))}});
  return out;
}

void read_own_steps(const Json& j, const std::string& path, Parts& parts) {
  const auto strings = [](const Reader& r, std::string_view key) {
    std::vector<std::string> out;
    for (const Json& item : r.list(key)) out.push_back(Reader::text_of(item, r.at(key)));
    return out;
  };
  if (const Json* n = j.find("normalizer")) {
    const Reader r(*n, inside(path, "normalizer"),
                   {"charsmap", "add_dummy_prefix", "remove_extra_whitespaces",
                    "escape_whitespaces", "whitespace_as_suffix", "kept"});
    SentencePieceNormalizer s;
    s.map = std::make_shared<Charsmap>(decode_base64(r.text("charsmap"), r.path()));
    s.add_dummy_prefix = r.flag("add_dummy_prefix", true);
    s.remove_extra_whitespaces = r.flag("remove_extra_whitespaces", true);
    s.escape_whitespaces = r.flag("escape_whitespaces", true);
    s.whitespace_as_suffix = r.flag("whitespace_as_suffix", false);
    s.kept = strings(r, "kept");
    s.index_kept();
    parts.normalizers = {std::move(s)};
  }
  if (const Json* d = j.find("decoder")) {
    const Reader r(*d, inside(path, "decoder"),
                   {"strip_first", "strip_all", "unk_piece", "unk_surface", "controls"});
    parts.decoders = {SentencePieceDecoder{r.flag("strip_first", true), r.flag("strip_all", true),
                                           r.text("unk_piece"), r.text("unk_surface"),
                                           strings(r, "controls")}};
  }
}

}  // namespace lmxlab::data
