// Finds out what kind of tokenizer a file or a folder holds.
#include "lmxlab/base/files.h"
#include "lmxlab/base/text.h"
#include "lmxlab/data/gguf_file.h"
#include "lmxlab/data/tokenizer.h"
#include "lmxlab/data/tokenizer/parts.h"

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
      return Tokenizer(parts_from_sentencepiece(bytes), config);
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
        return Tokenizer(parts_from_merges(parse(read_file(folder / "vocab.json"), "vocab.json"),
                                           read_file(folder / "merges.txt")),
                         config_beside(path));
      });
    if (file_name == "vocab.txt") {
      const Json config = config_beside(path);
      const Json* lower = config.find("do_lower_case");
      return with_context(path.string(), [&] {
        return Tokenizer(
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
