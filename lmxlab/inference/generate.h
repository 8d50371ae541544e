// Text from a model: whole, as a callback, or as a range. May be called from any thread.
//
//   Generation g = generate(model, tokenizer.encode_ids("Once"), {.max_tokens = 50}, &tokenizer);
//   for (const TokenEvent& e : TokenStream(model, {prompt}, options, &tokenizer)) std::cout <<
//   e.text;
#pragma once

#include "lmxlab/base/fields.h"
#include "lmxlab/data/tokenizer.h"
#include "lmxlab/inference/prompt_cache.h"
#include "lmxlab/inference/sampler.h"
#include "lmxlab/inference/speculative.h"
#include "lmxlab/models/language_model.h"

#include <functional>
#include <iterator>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

namespace lmxlab {

/// length: max_tokens, or the model's last learned position, was reached.
enum class StopReason { length, stop_token, stop_string, canceled };

struct GenerateOptions {
  SamplingOptions sampling = {};  // row i of a batch draws as a single row with seed + i
  int max_tokens = 128;           // of each row, the prompt not counted; 0 gives nothing
  std::vector<int> stop_tokens =
      {};  // end a row; the token is the last of `tokens` and not in `text`
  std::vector<std::string> stop_strings = {};  // end a row; cut from `text`. They need a tokenizer
  bool ignore_eos = false;                     // stop_tokens are tokens like others
  int logprobs =
      -1;  // -1: none; n: of the token and of the n most probable ones, before sampling options
  bool tempered_logprobs = false;  // of the logits divided by the temperature
  int prefill_chunk = 512;  // tokens of the prompt a pass: less takes less memory, more is faster
  std::optional<int> kv_bits = {};  // of keys and values (core::CacheOptions); none: the model's
  int max_kv = 0;  // positions that are kept, the last ones (core::CacheOptions); 0: all
  PromptCache* reuse =
      nullptr;  // of one row: what it shares with the prompt is not read again, and
                // it holds what was read in the end; emptied if that is broken off
  PromptCache* shared = nullptr;  // of rows of one prompt: what was read of it but for its last
                                  // token, kept as it is for more rows of it
  DraftSource* draft = nullptr;   // of one row: speculative decoding (inference/speculative.h)
  int num_draft_tokens = 0;       // at a time, at most; 0: as many as pay, which is measured
  bool skip_special = true;       // leave special tokens out of `text`
  std::stop_token stop = {};  // a request ends it between two steps: canceled, what was made stays
};

struct TokenEvent {
  int row = 0;
  int token = -1;         // -1: no token, this event only ends the row (canceled, max_tokens 0)
  std::string text = {};  // complete characters that are certain now; never a part of a stop string
  float logprob = 0;
  std::vector<std::pair<int, float>> top = {};  // (id, log-probability), most probable first
  std::optional<StopReason> finished = {};      // set in the last event of the row
};

struct Generation {
  std::vector<int> tokens = {};      // the generated part
  std::string text = {};             // "" without a tokenizer
  std::vector<float> logprobs = {};  // one a token, if asked for
  StopReason reason = StopReason::length;
  int prompt_tokens = 0;
};

struct GenerateStats {
  double prefill_tokens_per_s = 0;   // prompt tokens that were read, equal prompts once
  double decode_tokens_per_s = 0;    // tokens of all rows after their first
  double time_to_first_token_s = 0;  // from the start to the first event
  int64_t peak_bytes = 0;            // of MLX's memory, since the start
  int reused_tokens = 0;             // of the prompt, that a PromptCache had
  int draft_tokens = 0;              // that were drafted, and of these
  int accepted_tokens = 0;           // those that the model would have drawn itself
};

using OnToken = std::function<void(const TokenEvent&)>;

/// @param prompt  token ids. Empty: bos, if the tokenizer has one.
/// @param tokenizer  makes `text`; needed for stop strings.
/// @param stats  filled if given.
/// @throws Error(usage) for an option out of range, an id outside the vocabulary, an empty prompt,
///         a prompt longer than the learned positions; Error(unsupported) for a draft where rotary
///         frequencies depend on the text's length: several tokens at a time are not one by one.
Generation generate(const LanguageModel& model, std::span<const int> prompt,
                    const GenerateOptions& options = {}, const data::Tokenizer* tokenizer = nullptr,
                    GenerateStats* stats = nullptr);

/// Rows of different lengths together, each with its own end. Row i is what `generate` gives with
/// seed + i. Prompts that are equal are read once: n samples of one cost one prefill.
std::vector<Generation> generate_batch(const LanguageModel& model,
                                       const std::vector<std::vector<int>>& prompts,
                                       const GenerateOptions& options = {},
                                       const data::Tokenizer* tokenizer = nullptr,
                                       GenerateStats* stats = nullptr);

/// The same, calling `on_token` for each token as it comes, in the caller's thread. What it throws
/// ends the generation and leaves as it was thrown.
Generation stream_generate(const LanguageModel& model, std::span<const int> prompt,
                           const GenerateOptions& options, const data::Tokenizer* tokenizer,
                           const OnToken& on_token, GenerateStats* stats = nullptr);
std::vector<Generation> stream_generate_batch(const LanguageModel& model,
                                              const std::vector<std::vector<int>>& prompts,
                                              const GenerateOptions& options,
                                              const data::Tokenizer* tokenizer,
                                              const OnToken& on_token,
                                              GenerateStats* stats = nullptr);

/// Tokens on demand: the model computes one step ahead of what was taken. The model must outlive
/// it; it may be used from any thread, by one at a time. The model's lock is held inside a call
/// only, so streams may alternate.
class TokenStream {
 public:
  /// Checks everything; the first pass runs in the first `next`. @throws as generate.
  TokenStream(const LanguageModel& model, std::vector<std::vector<int>> prompts,
              GenerateOptions options = {}, const data::Tokenizer* tokenizer = nullptr);
  TokenStream(TokenStream&&) noexcept;
  TokenStream& operator=(TokenStream&&) noexcept;
  ~TokenStream();

  /// The next token of some row, or nothing when all rows have ended.
  std::optional<TokenEvent> next();
  /// What each row has so far.
  const std::vector<Generation>& results() const;
  const GenerateStats& stats() const;
  /// The cache as of the last step, for tests and measurements; null before the first.
  const Cache* cache() const;

  class Iterator {
   public:
    using value_type = TokenEvent;
    using difference_type = std::ptrdiff_t;
    using iterator_category = std::input_iterator_tag;
    Iterator() = default;
    explicit Iterator(TokenStream* stream) : stream_(stream) { ++*this; }
    const TokenEvent& operator*() const { return *event_; }
    const TokenEvent* operator->() const { return &*event_; }
    Iterator& operator++() {
      event_ = stream_->next();
      return *this;
    }
    void operator++(int) { ++*this; }
    bool operator==(std::default_sentinel_t) const { return !event_; }

   private:
    TokenStream* stream_ = nullptr;
    std::optional<TokenEvent> event_ = {};
  };
  Iterator begin() { return Iterator(this); }
  std::default_sentinel_t end() const { return {}; }

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lmxlab

template <>
struct lmxlab::EnumNames<lmxlab::StopReason> {
  static constexpr std::pair<lmxlab::StopReason, const char*> table[] = {
      {lmxlab::StopReason::length, "length"},
      {lmxlab::StopReason::stop_token, "stop_token"},
      {lmxlab::StopReason::stop_string, "stop_string"},
      {lmxlab::StopReason::canceled, "canceled"}};
};
