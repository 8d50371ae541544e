// Speculative decoding (arXiv:2211.17192, arXiv:2302.01318): something cheap drafts a few tokens,
// the model reads them in one pass, and those that it would have drawn itself stay.
//
// A position's token is drawn with a key of its own (Sampler), whoever asks: the model draws behind
// each drafted token as it would have without a draft, and the draft model draws with the same keys
// (Gumbel coupling, arXiv:2408.07978). So the text is the one that plain decoding gives with that
// seed, whatever was drafted and however many at a time; docs/decisions/033 says what that costs.
//
//   DraftModel draft(small, large);
//   generate(large, prompt, {.draft = &draft});
#pragma once

#include "lmxlab/inference/sampler.h"
#include "lmxlab/models/language_model.h"

#include <array>
#include <optional>
#include <span>
#include <vector>

namespace lmxlab {

/// What a source may draft from.
struct DraftRequest {
  std::span<const int> text;  // prompt and what was made, never empty
  int most = 0;               // tokens wanted
  SamplingOptions sampling = {};
  uint64_t step = 0;  // of the sampler, for the first of them
};

/// Where drafts come from. It may keep what it has read of a text, belongs to one generation at a
/// time, and may serve others afterwards.
class DraftSource {
 public:
  virtual ~DraftSource() = default;
  /// Up to `most` tokens that may come behind the text; none where it has no idea.
  virtual std::vector<int> draft(const DraftRequest& request) = 0;
  /// Whether it drafts from the model's hidden states: then it is told of all of them.
  virtual bool reads_hidden() const { return false; }
  /// The model has read the text's tokens from `first` on, up to its end or to the last but one:
  /// what it made of them, [1, L, D], behind its final norm. May be lazy, and is evaluated before
  /// the next draft.
  virtual void saw(std::span<const int> /*text*/, int /*first*/, const mx::array& /*hidden*/) {}
};

/// What followed the last tokens where they stood before (prompt lookup): the longest run of up to
/// `longest` of them that is found, its latest place. Costs microseconds a thousand tokens of text,
/// and no memory.
class PromptLookup : public DraftSource {
 public:
  explicit PromptLookup(int longest = 3) : longest_(longest) {}
  std::vector<int> draft(const DraftRequest& request) override;

 private:
  int longest_;
};

/// A smaller model of the same vocabulary, with a cache of its own, which outlives texts that begin
/// alike. It says nothing behind its last learned position.
class DraftModel : public DraftSource {
 public:
  /// @param draft  outlives this.
  /// @param options  of its cache; none: as the draft model says.
  /// @throws Error(mismatch) for models of different vocabularies.
  DraftModel(const LanguageModel& draft, const LanguageModel& target,
             const std::optional<CacheOptions>& options = {});
  /// A model without its adapters drafts for itself with them: their weights are the same arrays.
  /// @throws Error(usage) where no adapter is on: nothing would be cheaper or other.
  explicit DraftModel(LanguageModel& adapted, const std::optional<CacheOptions>& options = {});
  std::vector<int> draft(const DraftRequest& request) override;
  const Cache& cache() const { return cache_; }

 private:
  void read(std::span<const int> tokens, std::optional<mx::array>* logits);

  const LanguageModel& model_;
  LanguageModel* adapted_ = nullptr;  // whose adapters are off while it drafts
  CacheOptions options_;
  Cache cache_;
  std::vector<int> read_;  // what it has seen
};

/// The sampler of a pass over drafted tokens: row i draws what comes behind the text and the first
/// i of them.
Sampler sampler_behind(const SamplingOptions& sampling, int vocab, std::span<const int> text,
                       std::span<const int> drafted, uint64_t step, int logprobs);

/// How many tokens to draft next, from what was measured: as many as give most tokens a second by
/// the share that stays and by what a round of so many takes; one more is tried from time to time.
/// None for a while where a token costs more than without; each such pause is twice the one before,
/// until drafting pays again.
class Pace {
 public:
  /// @param fixed  always so many; 0: as many as pay
  explicit Pace(int fixed = 0) : fixed_(fixed) {}
  /// Of the next round; 0: a plain token.
  int drafts() const;
  /// What a plain token took.
  void plain(double seconds);
  /// What a round took, drafting included, which gave accepted + 1 tokens.
  void round(int drafted, int accepted, double seconds);

  static constexpr int kMost = 16;

 private:
  static constexpr int kPlain = 4, kRounds = 8, kPause = 64, kLongest = 1024;
  int best() const;

  int fixed_, next_ = 3;
  int plain_left_ = kPlain + 1;  // the first token pays for what is made once
  int pause_ = kPause;
  bool paid_ = false;                           // the last rounds that were judged
  double stays_ = 0.8;                          // share of the drafted tokens that were looked at
  double plain_s_ = 0;                          // 0: not known
  std::array<double, kMost + 1> round_s_ = {};  // of n drafted tokens; 0: not known
  int rounds_ = -1, tokens_ = 0;  // the first round also reads what the source has missed
  double seconds_ = 0;
};

}  // namespace lmxlab
