#include "lmxlab/base/files.h"
#include "lmxlab/base/text.h"
#include "lmxlab/cli/adapter_argument.h"
#include "lmxlab/cli/commands.h"
#include "lmxlab/cli/long_text.h"
#include "lmxlab/cli/model_argument.h"
#include "lmxlab/cli/progress.h"
#include "lmxlab/cli/sampling_arguments.h"
#include "lmxlab/inference/generate.h"
#include "lmxlab/kernels/machine.h"
#include "lmxlab/kernels/memory.h"

#include <unistd.h>

#include <chrono>
#include <cmath>
#include <span>

namespace lmxlab::cli {
namespace {

constexpr size_t kBatch = 16;  // rows of a prompts file at a time

class Generate : public Command {
  std::string model_;
  std::optional<std::string> prompt_, prompt_file_, tokens_, prompts_file_;
  SamplingArguments draws_{256};

  AdapterArgument adapters_;

  void declare(Options& o) override {
    o.argument("MODEL", &model_,
               "a model or run folder, a GGUF file, or a preset with random weights")
        .require();
    o.option("--prompt", "TEXT", &prompt_, "what the text begins with");
    o.option("--prompt-file", "FILE", &prompt_file_, "the prompt is the content of a file");
    o.option("--tokens", "IDS", &tokens_,
             "the prompt as token ids, 1,2,3; nothing is added to them");
    o.option("--prompts-file", "FILE", &prompts_file_,
             "many prompts, one JSON object a line: {\"prompt\": TEXT} or {\"tokens\": [IDS]}; one "
             "object a line "
             "comes back");
    adapters_.declare(o);
    draws_.declare(o);
  }

  static std::vector<int> encode(const OpenModel& m, const std::string& text) {
    if (!m.tokenizer)
      throw Error(Kind::usage,
                  "[generate] " +
                      (m.place.preset.empty() ? m.place.path.string() : m.place.preset) +
                      " has no tokenizer: give the prompt as --tokens 1,2,3");
    return m.tokenizer->encode_ids(text, {.special = true, .add_special = true});
  }

  static Json result(const Generation& g, const GenerateStats& stats, bool text, int64_t planned) {
    Json tokens = Json::array();
    for (const int id : g.tokens) tokens.push_back(Json(id));
    Json out = Json::object();
    if (text) out["text"] = Json(g.text);
    out["tokens"] = tokens;
    out["prompt_tokens"] = Json(g.prompt_tokens);
    out["generated_tokens"] = Json(g.tokens.size());
    out["prefill_tokens_per_s"] = Json(stats.prefill_tokens_per_s);
    out["decode_tokens_per_s"] = Json(stats.decode_tokens_per_s);
    out["time_to_first_token_s"] = Json(stats.time_to_first_token_s);
    out["peak_bytes"] = Json(stats.peak_bytes);
    out["planned_bytes"] = Json(planned);
    out["active_bytes"] = Json(kernels::active_bytes());
    out["cache_bytes"] = Json(kernels::cache_bytes());
    out["stop_reason"] = Json(enum_name(g.reason));
    return out;
  }

  int interrupted(Context& context) const {
    context.flush();
    context.log("interrupted");
    return exit_code(Kind::canceled);
  }

  // Of these prompts, the first: as many as fit, a batch at most.
  size_t rows_that_fit(OpenModel& m, std::span<const std::vector<int>> prompts,
                       GenerateOptions& options, const Context& context, int64_t& planned) const {
    auto draws = draws_;
    for (size_t n = std::min(prompts.size(), kBatch);; n = (n + 1) / 2) {
      draws.auto_fit = draws_.auto_fit && n == 1;  // fewer rows cost no answer anything
      size_t longest = 0;
      for (size_t i = 0; i < n; ++i) longest = std::max(longest, prompts[i].size());
      try {
        planned = draws.govern(m, int(n), int(longest), options, context);
        return n;
      } catch (const Error& e) {
        if (e.kind() != Kind::resource || n == 1) throw;
      }
    }
  }

  int run_file(Context& context, OpenModel& m, const GenerateOptions& options) {
    const auto* tokenizer = m.tokenizer ? &*m.tokenizer : nullptr;
    std::vector<std::vector<int>> prompts;
    size_t line_number = 0;
    for (const auto& line : split(read_file(*prompts_file_), '\n')) {
      ++line_number;
      if (trim(line).empty()) continue;
      const auto place = *prompts_file_ + ", line " + std::to_string(line_number);
      with_context(place, [&] {
        const Json json = Json::parse(line, "JSON");
        const Json *text = json.find("prompt"), *tokens = json.find("tokens");
        if ((text != nullptr) == (tokens != nullptr))
          throw Error(Kind::bad_data, "expected an object with either \"prompt\" or \"tokens\"");
        if (text) return prompts.push_back(encode(m, text->as_string()));
        auto& ids = prompts.emplace_back();
        for (const Json& id : tokens->as_array()) {
          if (id.as_integer() < 0 || id.as_integer() >= m.model.config().vocab)
            throw Error(Kind::bad_data, "token " + id.dump() + " is outside the vocabulary of " +
                                            std::to_string(m.model.config().vocab));
          ids.push_back(int(id.as_integer()));
        }
      });
    }
    for (size_t first = 0, n = 0; first < prompts.size(); first += n) {
      GenerateOptions piece = options;
      int64_t planned = 0;
      n = rows_that_fit(m, std::span(prompts).subspan(first), piece, context, planned);
      const std::vector<std::vector<int>> rows(prompts.begin() + ptrdiff_t(first),
                                               prompts.begin() + ptrdiff_t(first + n));
      piece.sampling.seed += first;  // a row's draws do not depend on how the file is cut
      GenerateStats stats;
      auto all = generate_batch(m.model, rows, piece, tokenizer, &stats);
      for (size_t i = 0; i < all.size(); ++i) {
        auto row_stats = stats;
        const bool cut =
            all[i].reason == StopReason::length && int(all[i].tokens.size()) < options.max_tokens;
        if (cut) {  // at the last learned position: again, beyond it
          GenerateOptions single = piece;
          single.sampling.seed += i;
          all[i] = generate_long(m.model, rows[i], single, tokenizer, {}, &row_stats);
        }
        context.print_json(result(all[i], row_stats, tokenizer != nullptr, planned));
      }
      context.flush();
      if (context.stop.stop_requested()) return interrupted(context);
    }
    return 0;
  }

  int run(Context& context) override {
    const int given = bool(prompt_) + bool(prompt_file_) + bool(tokens_) + bool(prompts_file_);
    if (given != 1)
      throw Error(
          Kind::usage,
          "[generate] expected one of --prompt, --prompt-file, --tokens and --prompts-file, got " +
              std::string(given ? "several" : "none"));
    OpenModel m = open_model(model_, uint64_t(draws_.seed), std::nullopt, context);
    adapters_.load(m.model);
    draws_.prepare(m, context);
    auto options = draws_.options(m, context);
    if (prompts_file_ && draws_.prompt_cache)
      throw Error(
          Kind::usage,
          "[generate] --prompt-cache keeps one prompt: it does not go with --prompts-file.");
    if (prompts_file_ && draws_.draft.given())
      throw Error(Kind::usage,
                  "[generate] --draft is for one prompt: it does not go with --prompts-file.");
    if (prompts_file_) return run_file(context, m, options);
    auto kept = draws_.read_cache(m.model);
    if (draws_.prompt_cache) options.reuse = &kept;

    const auto* tokenizer = m.tokenizer ? &*m.tokenizer : nullptr;
    std::string shown;
    std::vector<int> prompt;
    if (tokens_) {
      prompt = parse_ids(*tokens_, m.model.config().vocab, "--tokens");
    } else {
      shown = prompt_ ? *prompt_ : read_file(*prompt_file_);
      prompt = encode(m, shown);
    }
    const auto planned = draws_.govern(m, 1, int(prompt.size()), options, context);
    const int positions = learned_positions(m.model);
    if (positions > 0 && int64_t(prompt.size()) + draws_.max_tokens > positions &&
        int(prompt.size()) <= positions && positions > 1)
      context.log(context.styled(
          "2", "(the model has " + std::to_string(positions) +
                   " learned positions: beyond them the text goes on from its last " +
                   std::to_string(positions / 2) + " tokens)"));
    // On a terminal the text reads on from its prompt; standard output gets the generated part
    // only.
    const bool echo = context.terminal && !context.json && !context.quiet && isatty(STDOUT_FILENO);
    if (echo && !shown.empty()) std::fputs(context.styled("1", shown).c_str(), stderr);
    GenerateStats stats;
    std::string last;
    const std::chrono::duration<double> loading =
        std::chrono::steady_clock::now() - context.started;
    const auto g = generate_long(
        m.model, prompt, options, tokenizer,
        [&](const TokenEvent& e) {
          if (context.json) return;
          std::string piece = e.text;
          if (!tokenizer && e.token >= 0) {
            if (!last.empty()) piece += ',';
            piece += std::to_string(e.token);
          }
          if (piece.empty()) return;
          last = piece;
          context.print(last);
          context.flush();
        },
        &stats);
    draws_.write_cache(m.model, kept);
    if (context.json) {
      Json out = result(g, stats, tokenizer != nullptr, planned);
      out["start_to_first_token_s"] = Json(loading.count() + stats.time_to_first_token_s);
      out["resident_bytes"] = Json(kernels::peak_resident());
      if (draws_.prompt_cache) out["reused_tokens"] = Json(stats.reused_tokens);
      if (draws_.draft.given()) {
        out["draft_tokens"] = Json(stats.draft_tokens);
        out["accepted_tokens"] = Json(stats.accepted_tokens);
      }
      if (g.reason == StopReason::canceled)
        out["error"] = Json::object({{"kind", Json("canceled")}, {"message", Json("interrupted")}});
      context.print_json(out);
    } else {
      if (last.empty() || last.back() != '\n') context.print("\n");
      context.flush();
      char line[320];
      std::snprintf(line, sizeof line,
                    "%d prompt tokens, %.0f/s; %zu generated, %.0f/s; first %.2f s after the "
                    "start; arrays %s, %s",
                    g.prompt_tokens, stats.prefill_tokens_per_s, g.tokens.size(),
                    stats.decode_tokens_per_s, loading.count() + stats.time_to_first_token_s,
                    of_planned(stats.peak_bytes, planned).c_str(), held_text().c_str());
      const auto resident = kernels::peak_resident();  // 0 where the system does not tell
      context.log(context.styled(
          "2", line + (resident > 0 ? ", " + human_bytes(double(resident)) + " resident" : "") +
                   draft_text(stats) + "; ended by " + enum_name(g.reason)));
    }
    if (g.reason == StopReason::canceled) return interrupted(context);
    return 0;
  }
};

}  // namespace

Command* make_generate() {
  return new Generate;
}

}  // namespace lmxlab::cli
