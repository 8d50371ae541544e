#include "lmxlab/base/files.h"
#include "lmxlab/base/text.h"
#include "lmxlab/cli/adapter_argument.h"
#include "lmxlab/cli/chat_arguments.h"
#include "lmxlab/cli/commands.h"
#include "lmxlab/cli/line_editor.h"
#include "lmxlab/cli/model_argument.h"
#include "lmxlab/cli/progress.h"
#include "lmxlab/cli/sampling_arguments.h"
#include "lmxlab/cli/signals.h"
#include "lmxlab/data/chat_template.h"
#include "lmxlab/inference/generate.h"

#include <algorithm>
#include <cstdio>

namespace lmxlab::cli {
namespace {

constexpr const char* kHelp =
    "  /system TEXT   what the model is told first; without TEXT: nothing\n"
    "  /save FILE     the conversation, as JSON\n"
    "  /load FILE     another one\n"
    "  /undo          take back the last question and its answer\n"
    "  /reset         begin anew\n"
    "  /stats         tokens, speed and memory of the last answer\n"
    "  /quit          leave (or Ctrl-D)\n"
    "A message of several lines stands between two lines of \"\"\". Ctrl-C stops an answer.\n";

class Chat : public Command {
  std::string model_;
  std::optional<std::string> system_;
  std::vector<std::string> variables_;
  SamplingArguments draws_{1024};

  // Of this conversation.
  Json messages_ = Json::array();
  PromptCache kept_;
  GenerateStats stats_;
  Generation last_;
  int64_t planned_ = 0;  // bytes of arrays

  AdapterArgument adapters_;

  void declare(Options& o) override {
    o.argument("MODEL", &model_, "a model or run folder, or a GGUF file, with a chat template")
        .require();
    o.option("--system", "TEXT", &system_, "what the model is told first");
    o.option("--var", "NAME=JSON", &variables_,
             "a variable of the template: enable_thinking=false");
    adapters_.declare(o);
    draws_.declare(o);
  }

  void begin() {
    messages_ = Json::array();
    if (system_)
      messages_.push_back(Json::object({{"role", Json("system")}, {"content", Json(*system_)}}));
  }

  // ---- commands ----

  void save(const std::string& name, Context& context) const {
    write_file_atomic(name, Json::object({{"messages", messages_}}).dump(2) + "\n");
    context.log("saved in " + name);
  }
  void load(const std::string& name, Context& context) {
    Json json = Json::parse(read_file(name), name);
    const Json* list = json.is_object() ? json.find("messages") : &json;
    const auto message = [](const Json& m) {
      const Json *role = m.find("role"), *content = m.find("content");
      return role && role->is_string() && content && content->is_string();
    };
    if (!list || !list->is_array() ||
        !std::all_of(list->as_array().begin(), list->as_array().end(), message))
      throw Error(Kind::bad_data,
                  "[chat] " + name + ": expected a list of messages with role and content");
    messages_ = *list;
    for (const auto& m : messages_.as_array())
      context.print(context.styled("2", m.at("role").as_string() + ": ") +
                    m.at("content").as_string() + "\n");
  }
  void undo() {
    auto& all = messages_.as_array();
    while (!all.empty() && all.back().at("role").as_string() != "user") {
      if (all.back().at("role").as_string() == "system") return;
      all.pop_back();
    }
    if (!all.empty()) all.pop_back();
  }
  std::string statistics() const {
    char text[320];
    std::snprintf(text, sizeof text,
                  "%d prompt tokens (%d known already), %.0f/s; %zu generated, %.1f/s; first after "
                  "%.2f s; memory %s, %s",
                  last_.prompt_tokens, stats_.reused_tokens, stats_.prefill_tokens_per_s,
                  last_.tokens.size(), stats_.decode_tokens_per_s, stats_.time_to_first_token_s,
                  of_planned(stats_.peak_bytes, planned_).c_str(), held_text().c_str());
    return text + draft_text(stats_);
  }
  /// @return  false to leave
  bool command(const std::string& line, Context& context) {
    const auto space = line.find(' ');
    const auto name = line.substr(0, space);
    const std::string rest(space == line.npos ? "" : trim(std::string_view(line).substr(space)));
    const auto need = [&] {
      if (rest.empty()) throw Error(Kind::usage, "[chat] " + name + ": expected a file's name");
    };
    if (name == "/quit" || name == "/exit" || name == "/bye") return false;
    if (name == "/help" || name == "/?") {
      context.print(kHelp);
    } else if (name == "/save") {
      need(), save(rest, context);
    } else if (name == "/load") {
      need(), load(rest, context);
    } else if (name == "/system") {
      system_ = rest.empty() ? std::nullopt : std::optional(rest);
      auto old = messages_.as_array();
      begin();
      for (auto& m : old)
        if (m.at("role").as_string() != "system") messages_.push_back(std::move(m));
    } else if (name == "/undo") {
      undo();
    } else if (name == "/reset") {
      begin();
    } else if (name == "/stats") {
      context.print(statistics() + "\n");
    } else {
      throw Error(Kind::usage, "[chat] " + name + ": " +
                                   suggestion(name, {"/system", "/save", "/load", "/undo", "/reset",
                                                     "/stats", "/quit", "/help"}));
    }
    return true;
  }

  // ---- answers ----

  void answer(const OpenModel& m, const data::ChatTemplate& form, const Json& variables,
              Context& context) {
    const auto prompt = form.render(
        messages_, {.add_generation_prompt = true, .variables = variables, .now = wall_clock()});
    const auto ids = m.tokenizer->encode_ids(prompt, {.special = true});
    auto options = draws_.options(m, context);
    options.stop = context.interrupts ? context.interrupts->fresh() : context.stop;
    options.reuse = &kept_;
    last_ = stream_generate(
        m.model, ids, options, &*m.tokenizer,
        [&](const TokenEvent& e) {
          context.print(e.text);
          context.flush();
        },
        &stats_);
    if (last_.text.empty() || last_.text.back() != '\n') context.print("\n");
    if (last_.reason == StopReason::canceled) context.log(context.styled("2", "(stopped)"));
    if (last_.reason == StopReason::length)
      context.log(context.styled(
          "2", "(cut off after " + std::to_string(last_.tokens.size()) + " tokens: --max-tokens)"));
    messages_.push_back(Json::object(
        {{"role", Json("assistant")}, {"content", Json(std::string(trim(last_.text)))}}));
  }

  int run(Context& context) override {
    if (context.json)
      throw Error(Kind::usage, "[chat] a conversation has no JSON form. Take `generate --json`.");
    auto m = open_model(model_, uint64_t(draws_.seed), std::nullopt, context);
    adapters_.load(m);
    if (!m.tokenizer)
      throw Error(Kind::usage, "[chat] " + model_ + " has no tokenizer, so nobody can talk to it");
    const auto form = chat_template_of(m.place);
    if (!form)
      throw Error(Kind::usage, "[chat] " + model_ +
                                   " has no chat template: it was not trained to talk. Take "
                                   "`generate`.");
    const auto values = template_variables(variables_, "chat");
    draws_.prepare(m, context);
    auto options = draws_.options(m, context);  // faults before the first question
    constexpr int kConversation = 1024;         // tokens that there should be room for
    planned_ =
        draws_.govern(m, 1, std::min(kConversation, m.model.config().context), options, context);
    if (options.kv_bits && *options.kv_bits > 0) draws_.kv_bits = std::to_string(*options.kv_bits);
    kept_ = draws_.read_cache(m.model);
    begin();
    if (context.interrupts) context.interrupts->fresh();  // Ctrl-C ends no conversation
    LineEditor editor("> ");
    if (editor.interactive()) context.log(context.styled("2", "/help shows what else there is."));
    while (auto line = editor.read()) {
      if (context.stop.stop_requested()) break;  // not Ctrl-C: the program is to end
      if (trim(*line).empty()) continue;
      try {
        if ((*line)[0] == '/') {
          if (!command(std::string(trim(*line)), context)) break;
          continue;
        }
        messages_.push_back(Json::object({{"role", Json("user")}, {"content", Json(*line)}}));
        answer(m, *form, values, context);
      } catch (const Error& e) {
        // A slip is no reason to lose a conversation; a script wants to know.
        if (!editor.interactive()) throw;
        context.log(context.styled("31", e.what()));
        auto& all = messages_.as_array();
        if (!all.empty() && all.back().at("role").as_string() == "user") all.pop_back();
      }
    }
    draws_.write_cache(m.model, kept_);
    return 0;
  }
};

}  // namespace

Command* make_chat() {
  return new Chat;
}

}  // namespace lmxlab::cli
