// Chat templates: messages to the text that a model was trained on. The language is Jinja's, as
// transformers' apply_chat_template sets it up, and the result is the same bytes.
#pragma once

#include "lmxlab/base/json.h"

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lmxlab::data {

/// The instant that a template may ask for (strftime_now), on the user's wall clock.
struct LocalTime {
  int year = 1970, month = 1, day = 1;
  int hour = 0, minute = 0, second = 0, microsecond = 0;

  /// "2024-07-26", "2024-07-26T13:05:09", with a fraction if wanted. An offset (Z, +02:00) may
  /// follow and is left out: the clock's reading counts.
  /// @throws Error(usage) if it is no such time.
  static LocalTime parse(std::string_view iso8601);
};

struct ChatOptions {
  Json tools = {};      // a list of JSON schemas, or null
  Json documents = {};  // a list of {title, text}, or null
  /// End with what opens the assistant's turn.
  bool add_generation_prompt = false;
  /// More variables (an object): bos_token, enable_thinking, ... They may not replace the above.
  Json variables = {};
  /// @see LocalTime. Without it, a template that asks is an Error(usage).
  std::optional<LocalTime> now = {};
};

/// A rendering, and which of its bytes the model itself would write.
struct MarkedText {
  std::string text;
  /// [begin, end) of each {% generation %} block, in order. None if the template has no such
  /// blocks, or one stands inside a macro, or in a block that is set or filtered.
  std::optional<std::vector<std::pair<size_t, size_t>>> generated;
};

/// A value: copies share the parsed template, any thread may render with it.
class ChatTemplate {
 public:
  /// Any bytes are safe to give. What includes another template parses, and fails when it is
  /// reached.
  /// @throws Error(bad_data) with the line if the text is no template; Error(resource) if it nests
  ///         too deeply.
  static ChatTemplate parse(std::string_view text);

  /// Of a model folder, a tokenizer_config.json, or a file that is the template itself (.jinja).
  /// A folder's chat_template.jinja wins over its tokenizer_config.json. Special tokens named in
  /// tokenizer_config.json (bos_token, ...) become variables.
  /// @param tools  of several templates in a tokenizer_config.json, "tool_use" is taken if there
  ///        are tools, else "default".
  /// @throws Error(not_found), Error(bad_data)
  static ChatTemplate load(const std::filesystem::path& path, bool tools = false);
  /// Whether such a folder or file has a template.
  static bool present(const std::filesystem::path& path);
  /// From tokenizer_config.json, read already. @throws Error(not_found) if it has no template.
  static ChatTemplate from_config(const Json& tokenizer_config, bool tools = false);

  /// @param messages  a list of objects with role and content, and what else the template reads.
  ///        A message's `reasoning_content`, `thinking` or `reasoning` is given under the first two
  ///        names, as transformers does.
  /// @throws Error(usage) if `messages` is no list of objects; Error(bad_data) with the line if the
  ///         template fails or raises; Error(unsupported) for random choices and other templates;
  ///         Error(resource) if it takes too long, too much memory or nests too deeply.
  /// @cost  Linear for ordinary templates; bounded for all: seconds, a few hundred megabytes.
  std::string render(const Json& messages, const ChatOptions& options = {}) const;
  /// The same with the places of {% generation %} blocks. @throws, @cost as render.
  MarkedText render_marked(const Json& messages, const ChatOptions& options = {}) const;
  /// The same with these variables and nothing else (but special tokens of load()).
  std::string render_variables(const Json& variables,
                               const std::optional<LocalTime>& now = std::nullopt) const;

  const std::string& source() const;
  /// bos_token, eos_token, ... as load() found them: an object.
  const Json& special_tokens() const;

 private:
  MarkedText marked(const Json& variables, const std::optional<LocalTime>& now) const;

  struct State;
  explicit ChatTemplate(std::shared_ptr<const State> state) : state_(std::move(state)) {}
  std::shared_ptr<const State> state_;
};

}  // namespace lmxlab::data
