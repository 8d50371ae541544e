#include "lmxlab/data/conversation.h"

#include "lmxlab/base/files.h"

#include <utility>

namespace lmxlab::data {
namespace {

constexpr int kVersion = 1;

bool is_message(const Json& message) {
  const Json* role = message.find("role");
  return role && role->is_string();
}

}  // namespace

Conversation::Conversation(ChatTemplate chat_template, ChatOptions options)
    : template_(std::move(chat_template)), options_(std::move(options)) {
  options_.add_generation_prompt = true;
}

void Conversation::add(std::string_view role, std::string_view content) {
  messages_.push_back(Json::object({{"role", Json(role)}, {"content", Json(content)}}));
}

void Conversation::add(const Json& message) {
  if (!is_message(message))
    throw Error(Kind::usage, "[conversation] expected a message, an object with a role, got " +
                                 std::string(message.type_name()));
  messages_.push_back(message);
}

Conversation::Prompt Conversation::prompt() {
  std::string all = template_.render(messages_, options_);
  const bool goes_on = !given_.empty() && all.starts_with(given_);
  Prompt out{goes_on ? all.substr(given_.size()) : all, !goes_on};
  given_ = std::move(all);
  return out;
}

void Conversation::answered(std::string_view text) {
  add("assistant", text);
  if (!given_.empty()) given_ += text;
}

void Conversation::keep(size_t count) {
  auto& list = messages_.as_array();
  if (count > list.size())
    throw Error(Kind::usage, "[conversation] cannot keep " + std::to_string(count) +
                                 " messages: there are " + std::to_string(list.size()));
  list.resize(count);
}

Json Conversation::to_json() const {
  Json out = Json::object({{"version", Json(kVersion)}, {"messages", messages_}});
  if (!options_.tools.is_null()) out["tools"] = options_.tools;
  if (!options_.documents.is_null()) out["documents"] = options_.documents;
  if (options_.variables.size() > 0) out["variables"] = options_.variables;
  return out;
}

Conversation Conversation::from_json(const Json& saved, ChatTemplate chat_template,
                                     const std::optional<LocalTime>& now) {
  const auto wrong = [](const std::string& where, const char* expected, const Json& found) {
    throw Error(Kind::bad_data, "[conversation] " + where + ": expected " + expected + ", got " +
                                    std::string(found.type_name()));
  };
  const bool bare = saved.is_array();
  if (!bare && !saved.is_object()) wrong("the document", "an object or a list of messages", saved);
  ChatOptions options{.now = now};
  if (!bare) {
    const Json* version = saved.find("version");
    if (!version || !version->is_integer())
      throw Error(Kind::bad_data, "[conversation] version: expected an integer");
    if (version->as_integer() > kVersion)
      throw Error(Kind::unsupported,
                  "[conversation] version " + std::to_string(version->as_integer()) +
                      " is of a later lmxlab: this one knows up to " + std::to_string(kVersion));
    for (const auto& [name, to] :
         {std::pair("tools", &options.tools), std::pair("documents", &options.documents)})
      if (const Json* list = saved.find(name)) {
        if (!list->is_array() && !list->is_null()) wrong(name, "a list", *list);
        *to = *list;
      }
    if (const Json* variables = saved.find("variables")) {
      if (!variables->is_object()) wrong("variables", "an object", *variables);
      options.variables = *variables;
    }
  }
  Conversation out(std::move(chat_template), std::move(options));
  const Json none;
  const Json* given = bare ? &saved : saved.find("messages");
  if (!given || !given->is_array()) wrong("messages", "a list", given ? *given : none);
  for (size_t i = 0; i < given->size(); ++i) {
    const Json& message = given->as_array()[i];
    if (!is_message(message))
      wrong("messages." + std::to_string(i), "an object with a role", message);
    out.messages_.push_back(message);
  }
  return out;
}

void Conversation::save(const std::filesystem::path& path) const {
  write_file_atomic(path, to_json().dump(2) + "\n");
}

Conversation Conversation::load(const std::filesystem::path& path, ChatTemplate chat_template,
                                const std::optional<LocalTime>& now) {
  const Json saved = Json::parse(read_file(path), path.string());
  return with_context(path.string(),
                      [&] { return from_json(saved, std::move(chat_template), now); });
}

}  // namespace lmxlab::data
