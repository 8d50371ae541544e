#include "lmxlab/data/samples.h"

#include "lmxlab/base/files.h"
#include "lmxlab/base/text.h"

#include <algorithm>
#include <array>

namespace lmxlab::data {
namespace {

constexpr std::array kKinds{SampleKind::text,       SampleKind::completion, SampleKind::chat,
                            SampleKind::preference, SampleKind::unpaired,   SampleKind::answer};

const char* keys_of(SampleKind kind) {
  switch (kind) {
    case SampleKind::text: return "\"text\"";
    case SampleKind::completion: return "\"prompt\" and \"completion\"";
    case SampleKind::chat: return "\"messages\"";
    case SampleKind::preference: return "\"chosen\" and \"rejected\" (and \"prompt\")";
    case SampleKind::unpaired: return "\"prompt\", \"completion\" and \"label\"";
    case SampleKind::answer: return "\"prompt\" or \"messages\", and \"answer\"";
  }
  return "";
}

[[noreturn]] void bad(const std::string& where, const std::string& what) {
  throw Error(Kind::bad_data, where + ": " + what);
}
[[noreturn]] void wrong(const std::string& where, const std::string& expected, const Json& found) {
  bad(where, "expected " + expected + ", got " + std::string(found.type_name()));
}

// The member, null where it is absent: tables of columns have nulls for what a row lacks.
const Json* given(const Json& object, std::string_view key) {
  const Json* v = object.find(key);
  return v && !v->is_null() ? v : nullptr;
}

std::string role_of(const Json& message) {
  return message.at("role").as_string();
}
bool has_assistant(const Json& messages) {
  return std::any_of(messages.as_array().begin(), messages.as_array().end(),
                     [](const Json& m) { return role_of(m) == "assistant"; });
}

// ---- messages ----

Json without_nulls(const Json& object) {
  Json out = Json::object();
  for (const auto& [key, value] : object.as_object())
    if (!value.is_null()) out[key] = value;
  return out;
}

Json tool_call(const Json& call, const std::string& where) {
  if (!call.is_object()) wrong(where, "an object", call);
  Json out = without_nulls(call);
  Json* function = out.find("function");
  if (function) {
    if (!function->is_object()) wrong(where + ".function", "an object", *function);
    *function = without_nulls(*function);
  }
  Json& named = function ? *function : out;
  const Json* name = named.find("name");
  if (!name || !name->is_string()) wrong(where, "a \"function\" with a \"name\"", call);
  if (Json* arguments = named.find("arguments")) {
    if (arguments->is_string())
      *arguments = with_context(where + ".arguments",
                                [&] { return Json::parse(arguments->as_string(), "its JSON"); });
    if (!arguments->is_object())
      wrong(where + ".arguments", "an object, or one as JSON text", *arguments);
  }
  return out;
}

Json message(const Json& given_message, const std::string& where) {
  if (!given_message.is_object()) wrong(where, "a message, an object with a role", given_message);
  Json out = without_nulls(given_message);
  const Json* role = out.find("role");
  if (!role || !role->is_string()) bad(where, "\"role\": expected a string. Name who speaks");
  Json* calls = out.find("tool_calls");
  if (calls) {
    if (!calls->is_array()) wrong(where + ".tool_calls", "a list", *calls);
    if (calls->size() == 0) {
      out.erase("tool_calls");
      calls = nullptr;
    } else {
      size_t i = 0;
      for (Json& call : calls->as_array())
        call = tool_call(call, where + ".tool_calls[" + std::to_string(i++) + "]");
    }
  }
  const Json* content = out.find("content");
  if (!content && !calls && !out.contains("reasoning_content") && !out.contains("thinking"))
    bad(where, "expected \"content\" or \"tool_calls\", found neither");
  if (content && !content->is_string() && !content->is_array())
    wrong(where + ".content", "a string or a list of parts", *content);
  if (!content) out["content"] = Json("");
  return out;
}

Json messages(const Json& list, const std::string& where) {
  if (!list.is_array()) wrong(where, "a list of messages", list);
  if (list.size() == 0) bad(where, "expected messages, got an empty list");
  Json out = Json::array();
  for (size_t i = 0; i < list.size(); ++i)
    out.push_back(message(list.as_array()[i], where + "[" + std::to_string(i) + "]"));
  return out;
}

Json text_or_messages(const Json& value, const std::string& where) {
  if (value.is_string()) return value;
  if (!value.is_array()) wrong(where, "a string or a list of messages", value);
  return messages(value, where);
}

// A list, or a list as JSON text: a column of a table cannot hold schemas that differ.
Json tools_of(const Json& line) {
  const Json* tools = given(line, "tools");
  if (!tools) return {};
  Json list = *tools;
  if (list.is_string()) {
    if (trim(list.as_string()).empty()) return {};
    list = with_context("\"tools\"", [&] { return Json::parse(tools->as_string(), "its JSON"); });
  }
  if (list.is_null()) return {};
  if (!list.is_array()) wrong("\"tools\"", "a list of JSON schemas", list);
  for (const Json& tool : list.as_array())
    if (!tool.is_object()) wrong("\"tools\"", "JSON schemas, which are objects", tool);
  return list.size() > 0 ? list : Json();
}

// ---- kinds ----

// By the keys: the kind, or an error that says what there is.
SampleKind kind_of(const Json& line) {
  const auto has = [&](const char* key) { return given(line, key) != nullptr; };
  if (has("chosen") && has("rejected")) return SampleKind::preference;
  const bool completion = has("prompt") && has("completion");
  if (has("answer") && has("prompt") && !completion) return SampleKind::answer;
  const Json* label = completion ? line.find("label") : nullptr;
  if (label && label->is_bool()) return SampleKind::unpaired;
  if (completion) return SampleKind::completion;
  if (has("messages")) {
    // An answer to check against stands where the assistant has not spoken yet.
    const Json& list = line.at("messages");
    const Json* last = list.is_array() && list.size() > 0 ? &list.as_array().back() : nullptr;
    const Json* role = last ? last->find("role") : nullptr;
    const bool open = role && role->is_string() && role->as_string() != "assistant";
    return has("answer") && open ? SampleKind::answer : SampleKind::chat;
  }
  if (has("text")) return SampleKind::text;
  std::vector<std::string> found, kinds;
  for (const auto& [key, value] : line.as_object()) found.push_back("\"" + key + "\"");
  for (const auto kind : kKinds) kinds.emplace_back(keys_of(kind));
  throw Error(Kind::bad_data, "expected the keys of a sample (" + join(kinds, "; ") + "), found " +
                                  (found.empty() ? "none" : join(found, ", ")) +
                                  ". Rename the keys");
}

// Both lists begin with the prompt: it is taken out of them.
void split_prompt(Sample& s) {
  auto &chosen = s.response.as_array(), &rejected = s.rejected.as_array();
  size_t same = 0;
  while (same < chosen.size() && same < rejected.size() && chosen[same] == rejected[same] &&
         role_of(chosen[same]) != "assistant")
    ++same;
  // Earlier turns of the assistant may be common too, if something else follows.
  for (size_t i = same; i < std::min(chosen.size(), rejected.size()) && chosen[i] == rejected[i];
       ++i)
    if (role_of(chosen[i]) != "assistant") same = i + 1;
  if (same == 0)
    bad("\"chosen\"",
        "expected a \"prompt\", or that it begins with the same messages as \"rejected\"");
  const auto end = static_cast<std::ptrdiff_t>(same);
  s.prompt = Json(Json::Array(chosen.begin(), chosen.begin() + end));
  chosen.erase(chosen.begin(), chosen.begin() + end);
  rejected.erase(rejected.begin(), rejected.begin() + end);
}

const Json& need(const Json& line, SampleKind kind, const char* key) {
  if (const Json* v = given(line, key)) return *v;
  throw Error(Kind::bad_data, "expected " + std::string(keys_of(kind)) + " of the kind " +
                                  std::string(sample_kind_name(kind)) + ", \"" + key +
                                  "\" is missing");
}

void same_form(const Json& a, const char* a_name, const Json& b, const char* b_name) {
  if (a.is_array() != b.is_array())
    throw Error(Kind::bad_data, "expected both \"" + std::string(a_name) + "\" and \"" + b_name +
                                    "\" as strings or both as messages, got " +
                                    std::string(a.type_name()) + " and " +
                                    std::string(b.type_name()));
}

void need_assistant(const Json& value, const char* key) {
  if (value.is_array() && !has_assistant(value))
    bad("\"" + std::string(key) + "\"",
        "expected a message of the role \"assistant\", found none: there is nothing to learn");
}

void read_preference(const Json& line, Sample& s) {
  s.response = text_or_messages(need(line, s.kind, "chosen"), "\"chosen\"");
  s.rejected = text_or_messages(need(line, s.kind, "rejected"), "\"rejected\"");
  same_form(s.response, "chosen", s.rejected, "rejected");
  const Json* prompt = given(line, "prompt");
  if (prompt) s.prompt = text_or_messages(*prompt, "\"prompt\"");
  // Where the prompt is a string and the answers are whole conversations, these have it too.
  if (s.response.is_array() && !s.prompt.is_array()) split_prompt(s);
  if (!s.response.is_array() && !prompt) need(line, s.kind, "prompt");
  same_form(s.prompt, "prompt", s.response, "chosen");
  need_assistant(s.response, "chosen");
  need_assistant(s.rejected, "rejected");
  if (const Json* margin = given(line, "margin")) {
    if (!margin->is_number()) wrong("\"margin\"", "a number", *margin);
    s.margin = margin->as_number();
  }
}

Sample read_sample(const Json& line, SampleKind kind) {
  Sample s;
  s.kind = kind;
  switch (kind) {
    case SampleKind::text: {
      s.response = need(line, kind, "text");
      if (!s.response.is_string()) wrong("\"text\"", "a string", s.response);
      break;
    }
    case SampleKind::completion:
    case SampleKind::unpaired:
      s.prompt = text_or_messages(need(line, kind, "prompt"), "\"prompt\"");
      s.response = text_or_messages(need(line, kind, "completion"), "\"completion\"");
      same_form(s.prompt, "prompt", s.response, "completion");
      need_assistant(s.response, "completion");
      if (kind == SampleKind::unpaired) {
        const Json& label = need(line, kind, "label");
        if (!label.is_bool()) wrong("\"label\"", "true or false", label);
        s.desirable = label.as_bool();
      }
      break;
    case SampleKind::chat:
      s.response = messages(need(line, kind, "messages"), "\"messages\"");
      need_assistant(s.response, "messages");
      break;
    case SampleKind::preference: read_preference(line, s); break;
    case SampleKind::answer: {
      const bool prompt = given(line, "prompt") != nullptr;
      const char* key = prompt || !given(line, "messages") ? "prompt" : "messages";
      s.prompt = text_or_messages(need(line, kind, key), "\"" + std::string(key) + "\"");
      const Json& answer = need(line, kind, "answer");
      if (!answer.is_string() && !answer.is_number() && !answer.is_bool())
        wrong("\"answer\"", "a string or a number", answer);
      s.answer = answer.is_string() ? answer.as_string() : answer.dump();
      break;
    }
  }
  if (const Json* difficulty = given(line, "difficulty")) {
    if (!difficulty->is_number()) wrong("\"difficulty\"", "a number", *difficulty);
    s.difficulty = difficulty->as_number();
  }
  if (s.is_chat()) {
    s.tools = tools_of(line);
    if (const Json* variables = given(line, "chat_template_kwargs")) {
      if (!variables->is_object()) wrong("\"chat_template_kwargs\"", "an object", *variables);
      s.variables = *variables;
    }
  }
  return s;
}

}  // namespace

std::string_view sample_kind_name(SampleKind kind) {
  switch (kind) {
    case SampleKind::text: return "text";
    case SampleKind::completion: return "completion";
    case SampleKind::chat: return "chat";
    case SampleKind::preference: return "preference";
    case SampleKind::unpaired: return "unpaired";
    case SampleKind::answer: return "answer";
  }
  return "";
}

SampleKind sample_kind(std::string_view name) {
  std::vector<std::string> names;
  for (const auto kind : kKinds) {
    if (sample_kind_name(kind) == name) return kind;
    names.emplace_back(sample_kind_name(kind));
  }
  throw Error(Kind::usage, "[samples] there is no kind of sample \"" + std::string(name) + "\"; " +
                               suggestion(name, names));
}

SampleFile parse_samples(std::string_view text, const std::string& name,
                         const SampleReadOptions& options) {
  if (text.starts_with("PAR1"))
    throw Error(Kind::unsupported, "[samples] " + name +
                                       " is a Parquet file: expected JSON lines. Write it anew "
                                       "with `datasets`: to_json(\"samples.jsonl\")");
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  SampleFile out{name, options.kind.value_or(SampleKind::text), {}};
  bool known = options.kind.has_value();
  size_t first = 0;  // the line that said the kind
  Problems problems;
  size_t number = 0;
  while (!text.empty() && (options.limit == 0 || out.samples.size() < options.limit)) {
    ++number;
    const size_t end = std::min(text.find('\n'), text.size());
    const auto line = trim(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.empty()) continue;
    try {
      if (const size_t at = invalid_utf8_at(line); at != line.npos)
        throw Error(Kind::bad_data, "expected UTF-8, byte " + std::to_string(at) + " is none");
      if (line[0] == '[')
        throw Error(Kind::bad_data,
                    "expected an object, found a list. A file of samples has one object a line, "
                    "and nothing around them");
      const Json json = Json::parse(line, "its JSON");
      if (!json.is_object())
        throw Error(Kind::bad_data, "expected an object, found " + std::string(json.type_name()));
      if (!known) out.kind = kind_of(json), known = true, first = number;
      if (!options.kind)
        if (const auto kind = kind_of(json); kind != out.kind)
          throw Error(Kind::bad_data, "expected the kind " +
                                          std::string(sample_kind_name(out.kind)) +
                                          ", as in line " + std::to_string(first) + ", found " +
                                          std::string(sample_kind_name(kind)) +
                                          ". Give each kind a file of its own");
      out.samples.push_back(read_sample(json, out.kind));
      out.samples.back().line = number;
    } catch (const Error& e) {
      problems.add("line " + std::to_string(number) + ": " + e.what());
      if (problems.list().size() > 50) break;  // no more are shown
    }
  }
  problems.raise(Kind::bad_data, "[samples] " + name + " has lines that cannot be used");
  if (out.samples.empty())
    throw Error(Kind::bad_data, "[samples] " + name +
                                    " is empty: expected an object a line, with the keys of a "
                                    "sample, such as {\"messages\": [...]}");
  return out;
}

SampleFile read_samples(const std::filesystem::path& path, const SampleReadOptions& options) {
  const MappedFile file(path);
  return parse_samples(file.text(), path.string(), options);
}

}  // namespace lmxlab::data
