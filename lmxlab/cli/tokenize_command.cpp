// tokenize, and tokenizer train.
#include "lmxlab/base/files.h"
#include "lmxlab/base/text.h"
#include "lmxlab/cli/commands.h"
#include "lmxlab/cli/context.h"
#include "lmxlab/cli/hub_argument.h"
#include "lmxlab/cli/model_argument.h"
#include "lmxlab/cli/progress.h"
#include "lmxlab/data/tokenizer_train.h"

#include <chrono>
#include <optional>

namespace lmxlab::cli {
namespace {

data::Tokenizer open_tokenizer(const std::string& argument, const data::TiktokenOptions& options,
                               const Context& context) {
  std::error_code ignored;
  const bool bare =
      options.pattern.empty() && options.special_tokens.empty() && options.normalizer.empty();
  if (argument == "byte") {
    if (bare) return data::Tokenizer::bytes();
    throw Error(Kind::usage,
                "[tokenize] `byte` takes no --pattern, --special or --normalizer. Leave them out.");
  }
  const fs::path path(local_path(argument, io::HubPart::texts, context));
  if (!fs::exists(path, ignored))
    throw Error(Kind::not_found,
                "[tokenizer] there is no folder or file " + argument +
                    ". A preset has no tokenizer: give a model folder or a tokenizer's file.");
  return data::Tokenizer::load(path, options);
}

class Tokenize : public Command {
  std::string tokenizer_;
  std::optional<std::string> text_, json_file_, tokens_, pattern_, special_, normalizer_;
  bool no_special_ = false, add_special_ = false, decode_ = false;

  void declare(Options& o) override {
    o.argument("TOKENIZER", &tokenizer_,
               "a model folder, a tokenizer's file (tokenizer.json, SentencePiece, tiktoken, "
               "tekken.json, vocab.json, vocab.txt), or `byte`")
        .require();
    o.option("--text", "TEXT", &text_, "the text");
    o.option("--json-file", "FILE", &json_file_,
             "a JSON list of texts, or of lists of ids, instead");
    o.option("--tokens", "IDS", &tokens_, "ids as 1,2,3 instead");
    o.flag("--no-special", &no_special_,
           "special tokens written in the text are plain text; of given ids, none is decoded");
    o.flag("--add-special", &add_special_,
           "also what the tokenizer puts around a text (bos, cls, ...)");
    o.flag("--decode", &decode_, "the ids back to text");
    o.option(
        "--pattern", "REGEX", &pattern_,
        "how a tiktoken file's text is cut into words; a tekken.json has a pattern of its own");
    o.option("--special", "FILE", &special_,
             "special tokens of a tiktoken file: a JSON object of names and ids");
    o.option("--normalizer", "FORM", &normalizer_,
             "of a tiktoken file: NFC, NFD, NFKC or NFKD, applied to the text first");
  }

  data::TiktokenOptions tiktoken_options() const {
    data::TiktokenOptions out;
    out.pattern = pattern_.value_or("");
    out.normalizer = normalizer_.value_or("");
    if (pattern_ && out.pattern.empty())
      throw Error(Kind::usage, "[tokenize] --pattern: expected a regular expression, got \"\"");
    if (!special_) return out;
    const Json file = Json::parse(read_file(*special_), *special_);
    if (!file.is_object())
      throw Error(Kind::bad_data, "[tokenize] " + *special_ +
                                      ": expected an object of names and ids, got " +
                                      std::string(file.type_name()));
    for (const auto& [name, id] : file.as_object()) {
      if (!id.is_integer() || id.as_integer() < 0 || id.as_integer() >= (1 << 24))
        throw Error(Kind::bad_data, "[tokenize] " + *special_ + ": \"" + name +
                                        "\": expected an id from 0 to 16777215");
      out.special_tokens.emplace_back(name, int(id.as_integer()));
    }
    return out;
  }

  static std::vector<int> ids_of(const Json& list, int vocab) {
    std::vector<int> ids;
    for (const Json& id : list.as_array()) {
      const int64_t n = id.as_integer();
      if (n < 0 || n >= vocab)
        throw Error(Kind::bad_data, "[tokenize] " + std::to_string(n) +
                                        " is no token id: expected 0 to " +
                                        std::to_string(vocab - 1));
      ids.push_back(int(n));
    }
    return ids;
  }

  int run(Context& context) override {
    const int given = text_.has_value() + json_file_.has_value() + tokens_.has_value();
    if (given != 1)
      throw Error(Kind::usage, "[tokenize] expected one of --text, --json-file and --tokens, got " +
                                   std::string(given ? "several" : "none"));
    const auto tokenizer = open_tokenizer(tokenizer_, tiktoken_options(), context);
    const data::EncodeOptions options{
        .special = !no_special_, .add_special = add_special_, .truncate_and_pad = true};
    Json input;
    if (json_file_) {
      input = Json::parse(read_file(*json_file_), *json_file_);
      if (!input.is_array())
        throw Error(Kind::bad_data, "[tokenize] " + *json_file_ + ": expected a list, got " +
                                        std::string(input.type_name()));
    }
    Json ids = Json::array(), texts = Json::array();
    const auto one = [&](const Json& item) {
      const bool is_text = item.is_string();
      const auto row = is_text ? tokenizer.encode_ids(item.as_string(), options)
                               : ids_of(item, tokenizer.vocab_size());
      ids.push_back(Json(Json::Array(row.begin(), row.end())));
      if (decode_) texts.push_back(Json(tokenizer.decode(row, !is_text && no_special_)));
    };
    with_context(json_file_.value_or(text_ ? "--text" : "--tokens"), [&] {
      // One list of ids is one text.
      const bool list_of_ids = json_file_ && input.size() > 0 && input.as_array()[0].is_number();
      if (json_file_ && !list_of_ids) {
        for (const Json& item : input.as_array()) one(item);
        return;
      }
      if (tokens_) {
        const auto typed = parse_ids(*tokens_, tokenizer.vocab_size(), "--tokens");
        input = Json(Json::Array(typed.begin(), typed.end()));
      }
      one(text_ ? Json(*text_) : input);
      ids = Json(ids.as_array()[0]);
      if (decode_) texts = Json(texts.as_array()[0]);
    });
    if (context.json) {
      Json out = Json::object({{"ids", ids}});
      if (decode_) out["text"] = texts;
      context.print_json(out);
      return 0;
    }
    const auto line = [&](const Json& row) {
      std::string out;
      for (const Json& id : row.as_array()) {
        if (!out.empty()) out += ',';
        out += std::to_string(id.as_integer());
      }
      context.print(out + "\n");
    };
    if (decode_) {
      if (texts.is_string()) texts = Json::array({texts});
      for (const Json& t : texts.as_array()) context.print(t.as_string() + "\n");
    } else if (ids.size() > 0 && ids.as_array()[0].is_array()) {
      for (const Json& row : ids.as_array()) line(row);
    } else {
      line(ids);
    }
    return 0;
  }
};

class TokenizerTrain : public Command {
  std::vector<std::string> files_;
  int vocab_size_ = 30'000;
  std::string out_;
  std::vector<std::string> special_;
  std::string bos_, eos_;
  int64_t min_frequency_ = 0;

  void declare(Options& o) override {
    o.argument("FILE", {&files_}, "text files, UTF-8").require();
    o.option("--vocab-size", "N", &vocab_size_, "tokens in all: special ones, 256 bytes, merges")
        .range(1, 1 << 24);
    o.option("--out", "DIR", &out_, "folder of tokenizer.json and tokenizer_config.json").require();
    o.option("--special", "TOKEN", &special_, "a special token, with ids from 0 on");
    o.option("--bos", "TOKEN", &bos_, "which special token begins a text");
    o.option("--eos", "TOKEN", &eos_, "which special token ends a text");
    o.option("--min-frequency", "N", &min_frequency_, "a pair seen less often is not merged")
        .range(0);
  }

  int run(Context& context) override {
    const auto start = std::chrono::steady_clock::now();
    const std::vector<fs::path> files(files_.begin(), files_.end());
    std::error_code ignored;
    if (out_.empty()) throw Error(Kind::usage, "[tokenizer] --out: expected a folder, got \"\"");
    if (fs::exists(fs::path(out_) / "config.json", ignored))
      throw Error(Kind::usage, "[tokenizer] " + out_ +
                                   " holds a model, which needs the tokenizer it has: expected a "
                                   "folder without config.json. Name another one.");
    if (fs::exists(out_, ignored) && !fs::is_directory(out_, ignored))
      throw Error(Kind::resource,
                  "[tokenizer] " + out_ + " is a file: expected a folder, which is made if needed");
    make_directory(out_);  // before the work: what cannot be saved need not be computed
    Progress progress(context, 2);
    const data::TrainOptions options{.vocab_size = vocab_size_,
                                     .special_tokens = special_,
                                     .min_frequency = min_frequency_,
                                     .bos_token = bos_,
                                     .eos_token = eos_};
    const auto tokenizer = data::train_bpe(files, options, [&](double share) {
      if (context.stop.stop_requested())
        throw Error(Kind::canceled, "[tokenizer] interrupted; nothing was written");
      progress.update(int64_t(share * 100), 100, {});
    });
    progress.clear();
    tokenizer.save(out_);
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (tokenizer.vocab_size() < vocab_size_)
      context.warn("the text has pairs for " + std::to_string(tokenizer.vocab_size()) +
                   " tokens only");
    if (context.json)
      context.print_json(Json::object({{"vocab_size", Json(tokenizer.vocab_size())},
                                       {"out", Json(out_)},
                                       {"seconds", Json(seconds)}}));
    else
      context.print(with_commas(tokenizer.vocab_size()) + " tokens in " + out_ + ", " +
                    human_seconds(seconds) + "\n");
    return 0;
  }
};

}  // namespace

Command* make_tokenize() {
  return new Tokenize;
}
Command* make_tokenizer_train() {
  return new TokenizerTrain;
}

}  // namespace lmxlab::cli
