// A chat as it grows: its messages, and which part of their text a model has been given already.
#pragma once

#include "lmxlab/data/chat_template.h"

#include <filesystem>
#include <string>
#include <string_view>

namespace lmxlab::data {

class Conversation {
 public:
  /// @param options  tools, documents, variables and time of every rendering. The time stays what
  ///        it is, so that a template that writes the date does not change its beginning.
  explicit Conversation(ChatTemplate chat_template, ChatOptions options = {});

  void add(std::string_view role, std::string_view content);
  /// @throws Error(usage) if it is no object with a role.
  void add(const Json& message);
  const Json& messages() const { return messages_; }

  struct Prompt {
    std::string text;
    /// The text is the whole conversation: what was given before is no longer its beginning (the
    /// template drops old reasoning, say), and a cache of it is of no use.
    bool whole = true;
  };
  /// What the model has to read before it answers: all messages, ended by what opens the
  /// assistant's turn, less what it was given before. It counts as given from then on.
  /// @throws as ChatTemplate::render; nothing is changed then.
  Prompt prompt();
  /// The answer, as it was generated (without the token that ended it): a message of the assistant,
  /// which the model knows already.
  void answered(std::string_view text);

  /// Takes back messages, so that `count` are left. @throws Error(usage) if there are fewer.
  void keep(size_t count);
  /// The next prompt is whole: whoever holds the cache has lost it.
  void forget() { given_.clear(); }

  /// {"version": 1, "messages": [...], "tools": [...], "documents": [...], "variables": {...}},
  /// what is not there left out.
  Json to_json() const;
  /// From that, or from a bare list of messages. The time is `now`.
  /// @throws Error(bad_data) naming what is wrong, Error(unsupported) for a later version.
  static Conversation from_json(const Json& saved, ChatTemplate chat_template,
                                const std::optional<LocalTime>& now = std::nullopt);
  /// @throws Error(resource)
  void save(const std::filesystem::path& path) const;
  /// @throws Error(not_found), and as from_json
  static Conversation load(const std::filesystem::path& path, ChatTemplate chat_template,
                           const std::optional<LocalTime>& now = std::nullopt);

 private:
  ChatTemplate template_;
  ChatOptions options_;
  Json messages_ = Json::array();
  std::string given_;  // the text so far: prompts and answers
};

}  // namespace lmxlab::data
