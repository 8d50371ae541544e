// Samples as tokens, and which of them are learned: what the model itself would write, no more.
#pragma once

#include "lmxlab/data/chat_template.h"
#include "lmxlab/data/samples.h"
#include "lmxlab/data/tokenizer.h"

#include <cstdint>
#include <optional>
#include <stop_token>
#include <vector>

namespace lmxlab::data {

/// What becomes of a sequence of more tokens than allowed. A template is never cut in half.
enum class Overlong {
  drop,    // it is left out
  shorten  // of a chat, the oldest turns behind the system message are left out, as many as needed;
           // a text ends early. What is too long even so, and all other kinds, are left out
};

/// A template may write an earlier turn otherwise than when it was the last one: it leaves old
/// reasoning out, say. Such a turn is not learned as it was not written.
enum class Reformatted {
  split,  // it gets a sequence of its own, which ends with it
  refuse  // an error names it
};

struct SampleOptions {
  int64_t length = 0;  // tokens of a sequence, at most; 0: any number
  Overlong overlong = Overlong::drop;
  Reformatted reformatted = Reformatted::split;
  /// Variables, documents and time of every rendering. (Tools are the sample's, and its own
  /// variables come first.)
  ChatOptions chat = {};
  /// The tokens that end a turn of the model (eos_tokens() of its folder). What the template has
  /// behind the first of them is not learned. None: the special tokens that stand together behind
  /// a turn's last word end it.
  std::vector<int> end_of_turn = {};
  std::stop_token stop = {};  // asked between the samples of a file
};

struct TokenSample {
  std::vector<int> ids;
  std::vector<uint8_t> loss;  // as long: 1, the token is learned
  size_t sample = 0;          // its place in SampleFile::samples
  float value = 0;            // of a preference its margin; of an unpaired 1 if it is desirable
  std::optional<double> difficulty = {};
  int64_t learned() const;
};

struct SampleCounts {
  int64_t samples = 0, sequences = 0, tokens = 0, loss_tokens = 0;
  int64_t split = 0;      // samples of more than one sequence, as their turns are reformatted
  int64_t shortened = 0;  // sequences that lost turns or their end
  int64_t dropped = 0;    // sequences (pairs) that were too long
};

struct TokenSamples {
  SampleKind kind = SampleKind::text;
  /// In the order of the samples. Of a preference, chosen and then rejected; of an answer, the
  /// prompt up to where the model begins, with nothing to learn.
  std::vector<TokenSample> sequences;
  SampleCounts counts;
};

/// Turns samples into tokens.
/// - chat: by the template. Learned is what {% generation %} blocks write; without such blocks, in
///   every turn of the assistant, what stands behind the text that opens it (a rendering of all
///   before it with add_generation_prompt), up to its end-of-turn token. What follows the last
///   turn of the assistant is left out.
/// - completion, unpaired and preference: of messages, the turns that are not the prompt's; of
/// strings, the
///   completion.
/// - text and completion of strings: with the tokenizer's beginning of a text, and eos behind.
/// A token that has bytes of both sides of a border is learned.
class SampleTokenizer {
 public:
  explicit SampleTokenizer(Tokenizer tokenizer, std::optional<ChatTemplate> chat_template = {},
                           SampleOptions options = {});

  /// The sequences of one sample; none: too long. Counts it.
  /// @throws Error(not_found) if messages come and there is no template; Error(mismatch) naming the
  ///   turn that the template writes otherwise than it opens it; as ChatTemplate::render and
  ///   Tokenizer::encode_ids.
  /// @cost  Two renderings for each turn of the assistant.
  std::vector<TokenSample> sequences(const Sample& sample, SampleCounts& counts) const;

  /// Of a file. @throws the same, with the file and the line; Error(bad_data) if all are too long;
  /// Error(canceled).
  TokenSamples operator()(const SampleFile& file) const;

  const Tokenizer& tokenizer() const { return tokenizer_; }

 private:
  struct Turn;
  struct Marked;
  class Chat;

  std::vector<TokenSample> chat(const Sample& sample, const Json& prompt, const Json& response,
                                SampleCounts& counts) const;
  TokenSample plain(std::string_view prompt, std::string_view text) const;
  TokenSample marked(const Marked& text) const;
  bool fits(const TokenSample& s) const;
  ChatOptions chat_options(const Sample& sample) const;
  bool ends_turn(int id) const;
  size_t end_of_turn(std::string_view tail) const;

  Tokenizer tokenizer_;
  std::optional<ChatTemplate> template_;
  SampleOptions options_;
};

}  // namespace lmxlab::data
