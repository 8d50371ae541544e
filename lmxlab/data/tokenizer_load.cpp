// Finds out what kind of tokenizer a file or a folder holds.
#include "lmxlab/base/files.h"
#include "lmxlab/base/text.h"
#include "lmxlab/data/gguf_file.h"
#include "lmxlab/data/gguf_vocabulary.h"
#include "lmxlab/data/tokenizer.h"
#include "lmxlab/data/tokenizer/parts.h"

#include <algorithm>
#include <charconv>
#include <unordered_map>

namespace lmxlab::data {
namespace {

Json parse(std::string_view content, const std::string& name) {
  if (const size_t bad = invalid_utf8_at(content); bad != std::string::npos)
    throw Error(Kind::bad_data, "[tokenizer] " + name + " is not UTF-8 at byte " +
                                    std::to_string(bad) +
                                    ": expected JSON text. Get the file "
                                    "again.");
  return Json::parse(content, name);
}

Json config_beside(const fs::path& file) {
  std::error_code none;
  const fs::path beside = file.parent_path() / "tokenizer_config.json";
  if (!fs::exists(beside, none)) return {};
  Json config = parse(read_file(beside), beside.string());
  if (!config.is_object())
    throw Error(Kind::bad_data, "[tokenizer] " + beside.string() + ": expected an object, got " +
                                    std::string(config.type_name()) +
                                    ". Get the file again or remove it.");
  return config;
}

TiktokenRules rules_of(const TiktokenOptions& options) {
  TiktokenRules rules{options.pattern, options.special_tokens, {}};
  const std::pair<const char*, NormalForm> forms[] = {{"NFC", NormalForm::nfc},
                                                      {"NFD", NormalForm::nfd},
                                                      {"NFKC", NormalForm::nfkc},
                                                      {"NFKD", NormalForm::nfkd}};
  for (const auto& [name, form] : forms)
    if (options.normalizer == name) rules.normal_form = form;
  if (!options.normalizer.empty() && !rules.normal_form)
    throw Error(Kind::usage, "[tokenizer] the normalizer: expected NFC, NFD, NFKC or NFKD, got \"" +
                                 options.normalizer + "\"");
  return rules;
}

// What files without a tokenizer.json leave to tokenizer_config.json, as transformers has it: added
// tokens, bos and eos around a text, and how the class of the tokenizer cuts words.
void apply_config(Parts& parts, const Json& config) {
  const auto text = [&](std::string_view key) {
    const Json* j = config.find(key);
    if (j && j->is_object()) j = j->find("content");
    return j && j->is_string() ? j->as_string() : std::string();
  };
  std::unordered_map<std::string, int> ids;
  std::unordered_map<int, std::string> names;
  std::visit(
      [&](const auto& data) {
        each_token(data, [&](const std::string& token, int id) {
          ids.emplace(token, id), names.emplace(id, token);
        });
      },
      parts.model);
  std::unordered_map<int, size_t> added_at;
  for (size_t i = 0; i < parts.added.size(); ++i) {
    const auto& t = parts.added[i];
    ids.emplace(t.content, t.id), names.emplace(t.id, t.content), added_at.emplace(t.id, i);
  }
  if (const Json* added = config.find("added_tokens_decoder"); added && added->is_object())
    for (const auto& [number, value] : added->as_object()) {
      AddedToken t;
      const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), t.id);
      const Json* content = value.find("content");
      if (error != std::errc() || end != number.data() + number.size() || t.id < 0 ||
          t.id >= kLargestId || !content || !content->is_string() || content->as_string().empty())
        throw Error(Kind::bad_data, "[tokenizer] tokenizer_config.json: added_tokens_decoder[\"" +
                                        number + "\"]: expected an id and its content");
      t.content = content->as_string();
      const auto flag = [&, &given = value](const char* key) {
        const Json* j = given.find(key);
        return j && j->is_bool() && j->as_bool();
      };
      t.single_word = flag("single_word"), t.lstrip = flag("lstrip"), t.rstrip = flag("rstrip");
      t.normalized = flag("normalized"), t.special = flag("special");
      const auto [same, fresh] = added_at.emplace(t.id, parts.added.size());
      if (!fresh) {
        parts.added[same->second] = std::move(t);
        continue;
      }
      const auto by_name = ids.find(t.content);
      const auto by_id = names.find(t.id);
      if ((by_name != ids.end() && by_name->second != t.id) ||
          (by_id != names.end() && by_id->second != t.content))
        throw Error(Kind::mismatch, "[tokenizer] tokenizer_config.json: the added token \"" +
                                        t.content + "\" with the id " + number +
                                        " is another one in the vocabulary. Get both files again.");
      ids.emplace(t.content, t.id), names.emplace(t.id, t.content);
      parts.added.push_back(std::move(t));
    }
  std::sort(parts.added.begin(), parts.added.end(),
            [](const auto& a, const auto& b) { return a.id < b.id; });
  const std::string kind = text("tokenizer_class");
  if (kind.starts_with("Qwen2") && std::holds_alternative<Bpe::Data>(parts.model) &&
      parts.normalizers.empty()) {
    parts.normalizers = {UnicodeForm{NormalForm::nfc}};
    parts.pre = {SplitStep{Pattern::expression(gguf_patterns("qwen2").front()),
                           SplitBehavior::isolated, false},
                 ByteLevel{false, true, false}};
  }
  for (auto& step : parts.pre)
    if (auto* bytes = std::get_if<ByteLevel>(&step))
      if (const Json* j = config.find("add_prefix_space"); j && j->is_bool())
        bytes->add_prefix_space = j->as_bool();
  if (!parts.post.empty()) return;
  const auto put = [&](const char* key, bool otherwise) {
    const Json* j = config.find(key);
    return j && j->is_bool() ? j->as_bool() : otherwise;
  };
  const auto id_of = [&](const std::string& token) {
    const auto it = token.empty() ? ids.end() : ids.find(token);
    return it == ids.end() ? -1 : it->second;
  };
  const std::string bos = text("bos_token"), eos = text("eos_token"), cls = text("cls_token"),
                    sep = text("sep_token");
  if ((kind.starts_with("Roberta") || kind.starts_with("Bart")) && id_of(cls) >= 0 &&
      id_of(sep) >= 0) {
    parts.post = {RobertaProcessing{{sep, id_of(sep)}, {cls, id_of(cls)}, true, true}};
    return;
  }
  Template around;
  const auto item = [&](const std::string& token, bool wanted) {
    if (!wanted || id_of(token) < 0) return;
    if (!around.find(token)) around.special_tokens.push_back({token, {id_of(token)}, {token}});
    around.single.push_back({token, 0, false});
  };
  item(bos, put("add_bos_token", kind.starts_with("Llama") || kind.starts_with("Gemma")));
  around.single.push_back({"", 0, false});
  item(eos, put("add_eos_token", kind.starts_with("T5")));
  around.pair = around.single;
  for (auto i : around.single) {
    i.type_id = 1, i.second = i.token.empty();
    around.pair.push_back(i);
  }
  if (around.single.size() > 1) parts.post = {std::move(around)};
}

Tokenizer finished(Parts parts, const Json& config) {
  if (config.is_object()) apply_config(parts, config);
  return Tokenizer(std::move(parts), config);
}

// What GPT-2's kin have beside the vocabulary.
bool has_merges(const fs::path& folder) {
  std::error_code none;
  return fs::exists(folder / "vocab.json", none) && fs::exists(folder / "merges.txt", none);
}

bool is_json(std::string_view bytes) {
  const size_t at = bytes.find_first_not_of(" \t\r\n");
  return at != std::string_view::npos && (bytes[at] == '{' || bytes[at] == '[');
}

}  // namespace

Tokenizer Tokenizer::from_bytes(std::string_view bytes, const std::string& name,
                                const TiktokenOptions& options, const Json& config) {
  const bool given =
      !options.pattern.empty() || !options.special_tokens.empty() || !options.normalizer.empty();
  const auto refuse_options = [&](const char* kind) {
    if (given)
      throw Error(Kind::usage,
                  "[tokenizer] a pattern, special tokens and a normalizer can be "
                  "given for a file of bare ranks or a tekken.json only, and " +
                      name + " is " + kind + ". Leave them out.");
  };
  return with_context(name, [&] {
    if (is_sentencepiece(bytes)) {
      refuse_options("a SentencePiece model");
      return finished(parts_from_sentencepiece(bytes), config);
    }
    if (is_tiktoken(bytes)) return Tokenizer(parts_from_tiktoken(bytes, rules_of(options)), config);
    if (!is_json(bytes) && !bytes.empty() && bytes.size() < 4096)
      parse(bytes, name);  // its message says where
    if (!is_json(bytes))
      throw Error(
          Kind::bad_data,
          "[tokenizer] expected a tokenizer.json, a SentencePiece model, a tekken.json or a "
          "file of tiktoken ranks, got something else. Name another file.");
    const Json root = parse(bytes, name);
    if (is_tekken(root)) return Tokenizer(parts_from_tekken(root, rules_of(options)), config);
    refuse_options("a tokenizer.json");
    return from_json(root, config);
  });
}

Tokenizer Tokenizer::load(const fs::path& path, const TiktokenOptions& options) {
  std::error_code none;
  if (io::is_gguf(path)) {
    const io::Gguf file(path);
    return with_context(path.string(),
                        [&] { return tokenizer_from_gguf(read_gguf_vocabulary(file)); });
  }
  if (!fs::is_directory(path, none)) {
    const std::string bytes = read_file(path);
    const std::string file_name = path.filename().string();
    const fs::path folder = path.parent_path();
    if ((file_name == "vocab.json" || file_name == "merges.txt") && has_merges(folder))
      return with_context(folder.string(), [&] {
        return finished(parts_from_merges(parse(read_file(folder / "vocab.json"), "vocab.json"),
                                          read_file(folder / "merges.txt")),
                        config_beside(path));
      });
    if (file_name == "vocab.txt") {
      const Json config = config_beside(path);
      const Json* lower = config.find("do_lower_case");
      return with_context(path.string(), [&] {
        return finished(
            parts_from_word_list(bytes, !lower || !lower->is_bool() || lower->as_bool()), config);
      });
    }
    return from_bytes(bytes, path.string(), options, config_beside(path));
  }
  if (const fs::path file = tokenizer_file(path); !file.empty()) return load(file, options);
  throw Error(Kind::not_found,
              "[tokenizer] there is no tokenizer in " + path.string() +
                  ": expected tokenizer.json, tokenizer.model, tekken.json, vocab.json with "
                  "merges.txt, or vocab.txt. Name a folder that has one, or the file itself.");
}

fs::path tokenizer_file(const fs::path& folder) {
  std::error_code none;
  if (io::is_gguf(folder))
    return io::Gguf(folder).find("tokenizer.ggml.model") ? folder : fs::path();
  for (const char* name : {"tokenizer.json", "tokenizer.model", "tekken.json", "spiece.model",
                           "sentencepiece.bpe.model"})
    if (fs::exists(folder / name, none)) return folder / name;
  if (has_merges(folder)) return folder / "vocab.json";
  return fs::exists(folder / "vocab.txt", none) ? folder / "vocab.txt" : fs::path();
}

}  // namespace lmxlab::data
