// Fine-tuning data: JSON lines as the datasets of Hugging Face and TRL have them, read and checked.
#pragma once

#include "lmxlab/base/json.h"

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lmxlab::data {

/// text        {"text"}: all of it is learned
/// completion  {"prompt", "completion"}: strings or lists of messages; the completion is learned
/// chat        {"messages"}: what the assistant says is learned
/// preference  {"prompt", "chosen", "rejected"}: strings or lists of messages. Without a prompt,
///             what both lists of messages begin with is the prompt. A "margin" says by how much
///             the one is better
/// unpaired    {"prompt", "completion", "label"}: a completion, and whether it is desirable
/// answer      {"prompt" or "messages", "answer"}: a question and an answer to check against
/// Lists of messages may come with "tools" and "chat_template_kwargs", for the template; any line
/// with "difficulty", a number, for a curriculum.
enum class SampleKind { text, completion, chat, preference, unpaired, answer };
std::string_view sample_kind_name(SampleKind kind);
/// @throws Error(usage) naming the kinds there are.
SampleKind sample_kind(std::string_view name);

/// Strings, or lists of messages as templates take them: members that are null are left out, tool
/// calls' arguments written as JSON text are the object that the text means.
struct Sample {
  SampleKind kind = SampleKind::text;
  size_t line = 0;  // of the file, from 1
  Json prompt;      // of completion, preference, unpaired and answer
  Json response;    // the text, completion, chosen or, of a chat, all messages; null for answer
  Json rejected;
  bool desirable = true;  // of unpaired
  double margin = 0;      // of a preference
  std::string answer;     // a number as it was written
  Json tools;             // a list of JSON schemas, or null
  Json variables;         // of the template: an object, or null
  std::optional<double> difficulty;
  bool is_chat() const { return prompt.is_array() || response.is_array(); }
};

struct SampleFile {
  std::string name;  // for messages
  SampleKind kind = SampleKind::text;
  std::vector<Sample> samples;  // at least one
};

struct SampleReadOptions {
  /// Not given: by the keys of the first line.
  std::optional<SampleKind> kind = {};
  size_t limit = 0;  // samples read; 0: all
};

/// An object a line. A byte order mark, CRLF and blank lines are fine, keys that are not known are
/// left out.
/// @throws Error(not_found); Error(unsupported) for a Parquet file; Error(bad_data) naming the
/// file,
///   and every bad line with what it lacks, also where a line is of another kind than the first.
/// @cost  The samples are held in memory.
SampleFile read_samples(const std::filesystem::path& path, const SampleReadOptions& options = {});
/// The same from text. @param name  for messages
SampleFile parse_samples(std::string_view text, const std::string& name,
                         const SampleReadOptions& options = {});

}  // namespace lmxlab::data
