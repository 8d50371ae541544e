#include "lmxlab/data/chat_template.h"

#include "lmxlab/base/files.h"
#include "lmxlab/data/gguf_file.h"
#include "lmxlab/data/jinja/interpreter.h"
#include "lmxlab/data/jinja/parser.h"

#include <algorithm>
#include <array>

namespace lmxlab::data {
namespace {

constexpr size_t kMaxSource = size_t{1} << 20;

// "Beginning of text", or {"content": "Beginning of text", ...}.
const Json* token_text(const Json& token) {
  if (token.is_string()) return &token;
  const Json* content = token.find("content");
  return content && content->is_string() ? content : nullptr;
}

// The named tokens of a tokenizer_config.json or special_tokens_map.json, where `out` lacks them.
void add_tokens(Json& out, const Json& config) {
  if (!config.is_object()) return;
  for (const auto& [key, value] : config.as_object()) {
    if (key == "extra_special_tokens" || key == "model_specific_special_tokens")
      add_tokens(out, value);
    else if (const Json* text = token_text(value); text && key.ends_with("_token"))
      if (!out.contains(key)) out[key] = *text;
  }
}

// The template in a tokenizer_config.json: a string, or a list of {name, template}.
const std::string& chosen(const Json& config, bool tools) {
  const Json* given = config.find("chat_template");
  if (!given || given->is_null())
    throw Error(
        Kind::not_found,
        "[chat template] tokenizer_config.json has no chat_template. Give a template file.");
  if (given->is_string()) return given->as_string();
  if (!given->is_array())
    throw Error(Kind::bad_data, "[chat template] chat_template: expected a string or a list, got " +
                                    std::string(given->type_name()));
  const auto named = [&](std::string_view name) -> const Json* {
    for (const Json& entry : given->as_array()) {
      const Json* n = entry.find("name");
      if (n && n->is_string() && n->as_string() == name) return entry.find("template");
    }
    return nullptr;
  };
  const Json* found = tools ? named("tool_use") : nullptr;
  if (!found) found = named("default");
  if (!found || !found->is_string())
    throw Error(Kind::not_found,
                "[chat template] chat_template lists templates, but none is named \"default\"");
  return found->as_string();
}

// Reasoning under the names that templates read, as transformers gives it.
Json with_reasoning(const Json& message) {
  const Json* reasoning = nullptr;
  for (const char* key : {"reasoning_content", "thinking", "reasoning"})
    if (const Json* v = message.find(key); v && !v->is_null() && !reasoning) reasoning = v;
  if (!reasoning) return message;
  Json out = Json::object({{"thinking", *reasoning}});
  for (const auto& [key, value] : message.as_object()) out[key] = value;
  out["reasoning_content"] = *reasoning;
  return out;
}

}  // namespace

struct ChatTemplate::State {
  std::string source;
  jinja::Program program;
  Json special_tokens = Json::object();
};

ChatTemplate ChatTemplate::parse(std::string_view text) {
  if (text.size() > kMaxSource)
    throw Error(Kind::resource, "[chat template] the template has " + std::to_string(text.size()) +
                                    " bytes: expected at most " + std::to_string(kMaxSource));
  auto state = std::make_shared<State>();
  state->source = text;
  state->program = jinja::parse(text);
  return ChatTemplate(std::move(state));
}

ChatTemplate ChatTemplate::from_config(const Json& tokenizer_config, bool tools) {
  const ChatTemplate parsed = parse(chosen(tokenizer_config, tools));
  auto state = std::const_pointer_cast<State>(parsed.state_);  // nobody else has it yet
  add_tokens(state->special_tokens, tokenizer_config);
  return parsed;
}

ChatTemplate ChatTemplate::load(const std::filesystem::path& path, bool tools) {
  std::error_code ignored;
  const auto exists = [&](const fs::path& file) { return fs::exists(file, ignored); };
  if (io::is_gguf(path)) {
    const auto config = gguf_tokenizer_config(io::Gguf(path));
    return with_context(path.string(), [&] { return from_config(config, tools); });
  }
  if (!fs::is_directory(path, ignored)) {
    const std::string text = read_file(path);
    if (path.extension() == ".json")
      return with_context(path.string(), [&] {
        return from_config(Json::parse(text, path.filename().string()), tools);
      });
    return with_context(path.string(), [&] { return parse(text); });
  }
  Json config = Json::object();
  if (const auto file = path / "tokenizer_config.json"; exists(file))
    config = Json::parse(read_file(file), file.string());
  fs::path file = path / "chat_template.jinja";
  if (const auto tool_use = path / "additional_chat_templates" / "tool_use.jinja";
      tools && exists(tool_use))
    file = tool_use;
  if (exists(file))
    config["chat_template"] = read_file(file);
  else if (const auto legacy = path / "chat_template.json"; exists(legacy))
    config["chat_template"] = Json::parse(read_file(legacy), legacy.string()).at("chat_template");
  if (const auto map = path / "special_tokens_map.json"; exists(map)) {
    Json tokens = Json::object();
    add_tokens(tokens, config);
    add_tokens(tokens, Json::parse(read_file(map), map.string()));
    for (const auto& [key, value] : tokens.as_object()) config[key] = value;
  }
  return with_context(path.string(), [&] { return from_config(config, tools); });
}

bool ChatTemplate::present(const std::filesystem::path& path) {
  std::error_code ignored;
  if (io::is_gguf(path)) return gguf_tokenizer_config(io::Gguf(path)).contains("chat_template");
  if (!fs::is_directory(path, ignored)) return fs::exists(path, ignored);
  for (const char* name : {"chat_template.jinja", "chat_template.json"})
    if (fs::exists(path / name, ignored)) return true;
  const auto file = path / "tokenizer_config.json";
  if (!fs::exists(file, ignored)) return false;
  const Json config = Json::parse(read_file(file), file.string());
  const Json* given = config.find("chat_template");
  return given && !given->is_null();
}

std::string ChatTemplate::render(const Json& messages, const ChatOptions& options) const {
  return render_marked(messages, options).text;
}

MarkedText ChatTemplate::render_marked(const Json& messages, const ChatOptions& options) const {
  const auto wanted = [](const std::string& what, const Json& found) {
    throw Error(Kind::usage,
                "[chat template] expected " + what + ", got " + std::string(found.type_name()));
  };
  if (!messages.is_array()) wanted("a list of messages", messages);
  if (!options.variables.is_object() && !options.variables.is_null())
    wanted("an object of variables", options.variables);
  Json list = Json::array();
  for (const Json& message : messages.as_array()) {
    if (!message.is_object()) wanted("messages that are objects", message);
    list.push_back(with_reasoning(message));
  }
  Json all = Json::object({{"messages", std::move(list)},
                           {"tools", options.tools},
                           {"documents", options.documents},
                           {"add_generation_prompt", Json(options.add_generation_prompt)}});
  if (options.variables.is_object())
    for (const auto& [name, value] : options.variables.as_object())
      if (name != "messages") all[name] = value;
  return marked(all, options.now);
}

std::string ChatTemplate::render_variables(const Json& variables,
                                           const std::optional<LocalTime>& now) const {
  return marked(variables, now).text;
}

MarkedText ChatTemplate::marked(const Json& variables, const std::optional<LocalTime>& now) const {
  Json all = state_->special_tokens;
  for (const auto& [name, value] : variables.as_object()) all[name] = value;
  jinja::Interpreter interpreter(all, now);
  MarkedText out{interpreter.render(state_->program), std::nullopt};
  if (state_->program.generation) out.generated = interpreter.generated();
  return out;
}

const std::string& ChatTemplate::source() const {
  return state_->source;
}

const Json& ChatTemplate::special_tokens() const {
  return state_->special_tokens;
}

}  // namespace lmxlab::data
