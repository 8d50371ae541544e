#include "lmxlab/base/files.h"
#include "lmxlab/base/text.h"
#include "lmxlab/cli/commands.h"
#include "lmxlab/cli/context.h"
#include "lmxlab/cli/hub_argument.h"
#include "lmxlab/cli/progress.h"
#include "lmxlab/data/build.h"
#include "lmxlab/kernels/thread_pool.h"

#include <algorithm>

namespace lmxlab::cli {
namespace {

class DataBuild : public Command {
  std::vector<std::string> files_;
  std::string tokenizer_, text_key_ = "text", end_ = "auto";

  void declare(Options& o) override {
    o.argument("IN... OUT", {&files_},
               "text files, .jsonl files (a document a line), .bin files of nanoGPT and llm.c; and "
               "the file of tokens that is made")
        .require();
    o.option("--tokenizer", "T", &tokenizer_, "a tokenizer's file, or a folder that has one")
        .require();
    o.option("--text-key", "KEY", &text_key_, "where a JSON line that is an object has its text");
    o.option("--end-of-document", "TOKEN", &end_,
             "the token behind each document: auto (the tokenizer's end of text behind each of a "
             ".jsonl file's, none behind text files), none, or its name");
  }

  std::optional<int> end_of_document(const data::Tokenizer& tokenizer,
                                     const std::vector<fs::path>& inputs) const {
    if (end_ == "none") return std::nullopt;
    if (end_ == "auto") {
      const bool lines = std::any_of(inputs.begin(), inputs.end(),
                                     [](const fs::path& p) { return p.extension() == ".jsonl"; });
      return lines ? tokenizer.eos_id() : std::nullopt;
    }
    const auto id = tokenizer.token_id(end_);
    if (!id)
      throw Error(Kind::usage,
                  "[data] --end-of-document: the tokenizer has no token \"" + end_ + "\"");
    return id;
  }

  int run(Context& context) override {
    if (files_.size() < 2)
      throw Error(Kind::usage,
                  "[data] expected at least one input and the file to make, got one name only");
    const fs::path out = files_.back();
    const std::vector<fs::path> inputs(files_.begin(), files_.end() - 1);
    std::error_code ignored;
    for (const auto& in : inputs)
      if (fs::equivalent(in, out, ignored))
        throw Error(Kind::usage, "[data] " + out.string() +
                                     " is an input too: expected another name for what is made");
    if (fs::is_directory(out, ignored))
      throw Error(Kind::usage, "[data] " + out.string() + " is a folder: expected a file's name");
    const auto parent = fs::absolute(out).parent_path();
    if (!fs::is_directory(parent, ignored))
      throw Error(Kind::not_found, "[data] there is no folder " + parent.string());
    const auto tokenizer =
        data::Tokenizer::load(local_path(tokenizer_, io::HubPart::texts, context));
    Progress progress(context, 2);
    const auto made = data::build_token_file(
        inputs, out, tokenizer,
        {.threads = static_cast<int>(kernels::threads()),
         .text_key = text_key_,
         .end_of_document = end_of_document(tokenizer, inputs),
         .stop = context.stop},
        [&](int64_t done, int64_t all) {
          progress.update(done, all,
                          {human_bytes(double(done)) + " of " + human_bytes(double(all))});
        });
    progress.clear();
    if (context.json)
      context.print_json(Json::object({{"documents", Json(made.documents)},
                                       {"tokens", Json(made.tokens)},
                                       {"bytes", Json(made.bytes)}}));
    else
      context.print(with_commas(made.tokens) + " tokens in " + with_commas(made.documents) +
                    (made.documents == 1 ? " document, " : " documents, ") +
                    human_bytes(double(made.bytes)) + " in " + out.string() + "\n");
    return 0;
  }
};

}  // namespace

Command* make_data_build() {
  return new DataBuild;
}

}  // namespace lmxlab::cli
