#include "lmxlab/base/files.h"
#include "lmxlab/base/text.h"
#include "lmxlab/cli/adapter_argument.h"
#include "lmxlab/cli/commands.h"
#include "lmxlab/cli/long_text.h"
#include "lmxlab/cli/model_argument.h"
#include "lmxlab/cli/progress.h"
#include "lmxlab/cli/sampling_arguments.h"
#include "lmxlab/cli/several_argument.h"
#include "lmxlab/inference/generate.h"
#include "lmxlab/inference/samples.h"
#include "lmxlab/kernels/machine.h"
#include "lmxlab/kernels/memory.h"

#include <unistd.h>

#include <algorithm>
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
  SeveralArgument several_;

  AdapterArgument adapters_;

  void declare(Options& o) override {
    o.argument("MODEL", &model_,
               "a model or run folder, a GGUF file, or a preset with random weights")
        .require();
    o.option("--prompt", "TEXT", &prompt_, "what the text begins with");
    o.option("--prompt-file", "FILE", &prompt_file_, "the prompt is the content of a file");
    o.option("--tokens", "IDS", &tokens_,
             "the prompt as token ids, 1,2,3; nothing is added to them");
    o.option(
        "--prompts-file", "FILE", &prompts_file_,
        "many prompts, one JSON object a line: {\"prompt\": TEXT} or {\"tokens\": [IDS]}; one "
        "object a line comes back. Where lines have an \"answer\", theirs say how many samples "
        "were correct, and a last one has the shares: pass@1, pass@2, ..., majority");
    adapters_.declare(o);
    draws_.declare(o);
    several_.declare(o);
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
    const auto samples = static_cast<size_t>(several_.rows());
    for (size_t n = std::min(prompts.size(), std::max<size_t>(1, kBatch / samples));;
         n = (n + 1) / 2) {
      draws.auto_fit = draws_.auto_fit && n == 1;  // fewer rows cost no answer anything
      size_t longest = 0;
      for (size_t i = 0; i < n; ++i) longest = std::max(longest, prompts[i].size());
      try {
        planned = draws.govern(m, int(n * samples), int(longest), options, context,
                               n == 1 && samples > 1 ? several_.rows_option() : "");
        return n;
      } catch (const Error& e) {
        if (e.kind() != Kind::resource || n == 1) throw;
      }
    }
  }

  // What the samples have beside the one that is shown.
  static void add_samples(Json& out, const std::vector<Generation>& samples, const Choice& choice,
                          bool text) {
    Json list = Json::array();
    for (size_t i = 0; i < samples.size(); ++i) {
      const auto& g = samples[i];
      Json one = Json::object();
      if (text) one["text"] = Json(g.text);
      Json tokens = Json::array();
      for (const int id : g.tokens) tokens.push_back(Json(id));
      one["tokens"] = tokens;
      if (!g.logprobs.empty()) one["mean_logprob"] = Json(mean_logprob(g));
      if (!choice.scores.empty() && std::isfinite(choice.scores[i]))
        one["score"] = Json(choice.scores[i]);
      if (!choice.answers.empty())
        one["answer"] = choice.answers[i] ? Json(*choice.answers[i]) : Json();
      one["stop_reason"] = Json(enum_name(g.reason));
      list.push_back(one);
    }
    out["samples"] = list;
  }
  static void add_vote(Json& out, const Choice& choice) {
    out["answer"] = choice.vote ? Json(choice.vote->answer) : Json();
    out["votes"] = Json(choice.vote ? choice.vote->votes : 0);
  }

  // Rows together; those that end at the last learned position again, beyond it.
  static std::vector<Generation> generate_rows(const OpenModel& m,
                                               const std::vector<std::vector<int>>& rows,
                                               const GenerateOptions& options,
                                               GenerateStats& stats) {
    const auto* tokenizer = m.tokenizer ? &*m.tokenizer : nullptr;
    auto all = generate_batch(m.model, rows, options, tokenizer, &stats);
    for (size_t i = 0; i < all.size(); ++i) {
      if (all[i].reason != StopReason::length || int(all[i].tokens.size()) >= options.max_tokens)
        continue;
      GenerateOptions single = options;
      single.sampling.seed += i;
      all[i] = generate_long(m.model, rows[i], single, tokenizer, {});
    }
    return all;
  }

  struct Line {
    std::vector<int> prompt;
    std::optional<std::string> answer;  // that is right
  };
  std::vector<Line> read_lines(const OpenModel& m) const {
    std::vector<Line> out;
    size_t number = 0;
    for (const auto& line : split(read_file(*prompts_file_), '\n')) {
      ++number;
      if (trim(line).empty()) continue;
      with_context(*prompts_file_ + ", line " + std::to_string(number), [&] {
        const Json json = Json::parse(line, "JSON");
        const Json *text = json.find("prompt"), *tokens = json.find("tokens");
        if ((text != nullptr) == (tokens != nullptr))
          throw Error(Kind::bad_data, "expected an object with either \"prompt\" or \"tokens\"");
        auto& to = out.emplace_back();
        if (const Json* answer = json.find("answer")) {
          if (!m.tokenizer)
            throw Error(Kind::usage,
                        "[generate] an answer is a text, and the model has no "
                        "tokenizer: leave \"answer\" out");
          to.answer = answer->is_string() ? answer->as_string() : answer->dump();
          // As a model's text would be read: 1,200.0 is 1200.
          if (!several_.answer) to.answer = several_.finder()(*to.answer).value_or(*to.answer);
        }
        if (text) {
          to.prompt = encode(m, text->as_string());
          return;
        }
        for (const Json& id : tokens->as_array()) {
          if (id.as_integer() < 0 || id.as_integer() >= m.model.config().vocab)
            throw Error(Kind::bad_data, "token " + id.dump() + " is outside the vocabulary of " +
                                            std::to_string(m.model.config().vocab));
          to.prompt.push_back(int(id.as_integer()));
        }
      });
    }
    return out;
  }

  int run_file(Context& context, OpenModel& m, const GenerateOptions& options) {
    const auto lines = read_lines(m);
    std::vector<std::vector<int>> prompts;
    for (const auto& line : lines) prompts.push_back(line.prompt);
    const auto samples = static_cast<size_t>(several_.rows());
    std::vector<int> right;  // samples of each line with an answer
    int majority_right = 0;
    for (size_t first = 0, n = 0; first < prompts.size(); first += n) {
      GenerateOptions piece = options;
      if (several_.best_of) piece.logprobs = 0;
      int64_t planned = 0;
      n = rows_that_fit(m, std::span(prompts).subspan(first), piece, context, planned);
      std::vector<std::vector<int>> rows;
      for (size_t i = 0; i < n * samples; ++i) rows.push_back(prompts[first + i / samples]);
      piece.sampling.seed += first * samples;  // draws do not depend on how the file is cut
      GenerateStats stats;
      const auto all = generate_rows(m, rows, piece, stats);
      for (size_t i = 0; i < n; ++i) {
        const auto& line = lines[first + i];
        const std::vector<Generation> some(all.begin() + ptrdiff_t(i * samples),
                                           all.begin() + ptrdiff_t((i + 1) * samples));
        const auto choice = several_.choose(m, line.prompt, some, line.answer.has_value(), context);
        Json out = result(some[choice.index], stats, m.tokenizer.has_value(), planned);
        if (several_.vote || line.answer) add_vote(out, choice);
        if (samples > 1) add_samples(out, some, choice, m.tokenizer.has_value());
        if (line.answer) {
          right.push_back(
              int(std::count(choice.answers.begin(), choice.answers.end(), line.answer)));
          majority_right += choice.vote && choice.vote->answer == *line.answer;
          out["correct"] = Json(right.back());
        }
        context.print_json(out);
      }
      context.flush();
      if (context.stop.stop_requested()) return interrupted(context);
    }
    if (right.empty()) return 0;
    Json shares = Json::object({{"prompts", Json(right.size())}, {"samples", Json(samples)}});
    for (int k = 1; k <= int(samples); k *= 2) {
      double sum = 0;
      for (const int c : right) sum += pass_at_k(int(samples), c, k);
      shares["pass@" + std::to_string(k)] = Json(sum / double(right.size()));
    }
    shares["majority"] = Json(majority_right / double(right.size()));
    context.print_json(Json::object({{"summary", shares}}));
    return 0;
  }

  int run_several(Context& context, OpenModel& m, const std::vector<int>& prompt,
                  GenerateOptions options) {
    const int rows = several_.rows();
    const bool text = m.tokenizer.has_value();
    if (several_.vote && !text)
      throw Error(Kind::usage,
                  "[generate] --vote looks for answers in texts, and the model has no tokenizer");
    options.logprobs = 0;
    const auto planned =
        draws_.govern(m, rows, int(prompt.size()), options, context, several_.rows_option());
    GenerateStats stats;
    const auto all =
        generate_rows(m, std::vector<std::vector<int>>(size_t(rows), prompt), options, stats);
    const bool canceled = context.stop.stop_requested();
    const auto choice = several_.choose(m, prompt, all, false, context);
    const auto shown = [&](const Generation& g) {
      if (text) return g.text;
      std::string ids;
      for (const int id : g.tokens) ids += (ids.empty() ? "" : ",") + std::to_string(id);
      return ids;
    };
    if (context.json) {
      Json out = result(all[choice.index], stats, text, planned);
      if (several_.vote) add_vote(out, choice);
      add_samples(out, all, choice, text);
      if (canceled)
        out["error"] = Json::object({{"kind", Json("canceled")}, {"message", Json("interrupted")}});
      context.print_json(out);
    } else if (several_.best_of || several_.vote) {
      context.print(shown(all[choice.index]) + "\n");
      if (several_.vote && choice.vote)
        context.log(context.styled("2", "answer " + choice.vote->answer + ": " +
                                            std::to_string(choice.vote->votes) + " of " +
                                            std::to_string(rows)));
    } else {
      for (int i = 0; i < rows; ++i)
        context.print("--- " + std::to_string(i + 1) + " of " + std::to_string(rows) + "\n" +
                      shown(all[size_t(i)]) + "\n");
    }
    return canceled ? interrupted(context) : 0;
  }

  int run_beams(Context& context, OpenModel& m, const std::vector<int>& prompt,
                GenerateOptions options) {
    const int positions = learned_positions(m.model);
    if (positions > 0 && int64_t(prompt.size()) + options.max_tokens > positions + 1)
      throw Error(Kind::usage, "[generate] --beams: the model has " + std::to_string(positions) +
                                   " learned positions, too few for " +
                                   std::to_string(prompt.size()) + " tokens and " +
                                   std::to_string(options.max_tokens) +
                                   " more. Give fewer --max-tokens.");
    const auto planned = draws_.govern(m, *several_.beams, int(prompt.size()), options, context,
                                       several_.rows_option());
    GenerateStats stats;
    const auto beams = beam_search(m.model, prompt, several_.beam_options(options), &stats);
    const bool canceled = context.stop.stop_requested();
    std::vector<Generation> texts;
    for (const auto& b : beams) {
      auto& g = texts.emplace_back();
      g.tokens = b.tokens, g.reason = b.reason, g.prompt_tokens = int(prompt.size());
      auto shown = b.tokens;  // the token that ends it is not in the text
      if (b.reason == StopReason::stop_token) shown.pop_back();
      if (m.tokenizer) g.text = m.tokenizer->decode(shown, true);
    }
    if (texts.empty()) texts.push_back({.prompt_tokens = int(prompt.size())});
    if (context.json) {
      Json out = result(texts[0], stats, m.tokenizer.has_value(), planned);
      Json list = Json::array();
      for (size_t i = 0; i < beams.size(); ++i) {
        Json one = Json::object();
        if (m.tokenizer) one["text"] = Json(texts[i].text);
        Json tokens = Json::array();
        for (const int id : beams[i].tokens) tokens.push_back(Json(id));
        one["tokens"] = tokens;
        one["score"] = Json(beams[i].score);
        one["logprob"] = Json(beams[i].logprob);
        one["stop_reason"] = Json(enum_name(beams[i].reason));
        list.push_back(one);
      }
      out["beams"] = list;
      if (canceled)
        out["error"] = Json::object({{"kind", Json("canceled")}, {"message", Json("interrupted")}});
      context.print_json(out);
    } else {
      std::string ids;
      for (const int id : texts[0].tokens) ids += (ids.empty() ? "" : ",") + std::to_string(id);
      context.print((m.tokenizer ? texts[0].text : ids) + "\n");
    }
    return canceled ? interrupted(context) : 0;
  }

  int run(Context& context) override {
    const int given = bool(prompt_) + bool(prompt_file_) + bool(tokens_) + bool(prompts_file_);
    if (given != 1)
      throw Error(
          Kind::usage,
          "[generate] expected one of --prompt, --prompt-file, --tokens and --prompts-file, got " +
              std::string(given ? "several" : "none"));
    OpenModel m = open_model(model_, uint64_t(draws_.seed), std::nullopt, context);
    adapters_.load(m);
    draws_.prepare(m, context);
    auto options = draws_.options(m, context);
    several_.check(options, prompts_file_.has_value());
    several_.open(uint64_t(draws_.seed), context);
    if (several_.any() && draws_.prompt_cache)
      throw Error(Kind::usage,
                  "[generate] --prompt-cache keeps one text: it does not go with "
                  "several of them.");
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
    if (several_.beams) return run_beams(context, m, prompt, options);
    if (several_.any()) return run_several(context, m, prompt, options);
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
