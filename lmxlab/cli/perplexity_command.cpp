#include "lmxlab/base/files.h"
#include "lmxlab/base/text.h"
#include "lmxlab/cli/adapter_argument.h"
#include "lmxlab/cli/commands.h"
#include "lmxlab/cli/model_argument.h"
#include "lmxlab/cli/progress.h"
#include "lmxlab/eval/perplexity.h"
#include "lmxlab/governor/govern.h"

#include <cmath>
#include <cstdio>
#include <numbers>

namespace lmxlab::cli {
namespace {

class PerplexityCommand : public Command {
  std::string model_, file_, dtype_;
  std::optional<int> context_, stride_;
  std::optional<int64_t> max_tokens_;

  AdapterArgument adapters_;

  void declare(Options& o) override {
    o.argument("MODEL", &model_, "a model or run folder, or a GGUF file").require();
    o.option("--file", "FILE", &file_, "the text, UTF-8").require();
    adapters_.declare(o);
    o.option("--context", "N", &context_, "tokens of a window")
        .range(2)
        .otherwise("the model's context, 2048 at most");
    o.option("--stride", "N", &stride_,
             "tokens from one window to the next: fewer give each token more to look back at, and "
             "take longer")
        .range(1)
        .otherwise("half a window");
    o.option("--max-tokens", "N", &max_tokens_, "stop after so many tokens of the file")
        .range(2)
        .otherwise("all");
    o.option("--dtype", "TYPE", &dtype_, "of the computation")
        .one_of({"f32", "bf16"})
        .otherwise("f32 on a CPU, else that of the weights");
  }

  void govern(const OpenModel& m, size_t tokens) const {
    const int longest = context_.value_or(usual_context(m.model));
    Subject subject = subject_of(m);
    subject.dtype = dtype_argument(dtype_);
    subject.pass = [&](const LanguageModel& model, const plan::Settings& s) {
      const std::vector<int> ids(size_t(s.context), 0);
      perplexity(model, ids, {.context = s.context, .stride = stride_.value_or(0)});
    };
    govern_pass(subject, m.model.parameter_bytes(), 1,
                int(std::min<size_t>(size_t(longest), tokens)),
                "a window of " + std::to_string(longest) + " tokens",
                {"shorter windows", "--context", "less is seen at a time"}, {budget_beside(m)});
  }

  int run(Context& context) override {
    auto m = open_model(model_, 0, std::nullopt, context);
    adapters_.load(m);
    if (!m.tokenizer)
      throw Error(Kind::usage, "[perplexity] " + model_ +
                                   " has no tokenizer, so a text cannot be measured. Give a model "
                                   "folder or GGUF file that has one.");
    if (const auto dtype = dtype_argument(dtype_)) m.model.set_activations(*dtype);
    const auto text = read_file(file_);
    auto ids = with_context(file_, [&] {
      return m.tokenizer->encode_ids(text, {.special = false, .add_special = true});
    });
    if (max_tokens_ && static_cast<int64_t>(ids.size()) > *max_tokens_)
      ids.resize(static_cast<size_t>(*max_tokens_));
    govern(m, ids.size());
    Progress progress(context);
    const auto result = perplexity(
        m.model, ids,
        {.context = context_.value_or(0), .stride = stride_.value_or(0), .stop = context.stop},
        [&](int64_t done, int64_t all) { progress.update(done, all, {}); });
    progress.clear();
    // Of the text that was predicted, so that models of other tokenizers can be compared.
    const auto bytes = m.tokenizer->decode(std::span(ids).subspan(1), true).size();
    const double bits = bytes == 0 ? 0
                                   : result.nll * static_cast<double>(result.tokens) /
                                         std::numbers::ln2 / static_cast<double>(bytes);
    if (context.json) {
      context.print_json(Json::object({{"nll", Json(result.nll)},
                                       {"perplexity", Json(result.perplexity())},
                                       {"bits_per_byte", Json(bits)},
                                       {"tokens", Json(result.tokens)},
                                       {"context", Json(result.context)},
                                       {"stride", Json(result.stride)}}));
    } else {
      char line[160];
      std::snprintf(line, sizeof line,
                    "perplexity %.4f (%.5f nats a token, %.4f bits a byte) over %lld tokens, in "
                    "windows of %d\n",
                    result.perplexity(), result.nll, bits, static_cast<long long>(result.tokens),
                    result.context);
      context.print(line);
    }
    return 0;
  }
};

}  // namespace

Command* make_perplexity() {
  return new PerplexityCommand;
}

}  // namespace lmxlab::cli
