// From logits to a token: penalties, temperature, truncation, one draw. All of it is lazy.
//
// Order, as Hugging Face's `generate` has it (its processors first, then its warpers):
//   1 logit_bias          added to the logits; -inf forbids a token
//   2 repetition_penalty  of tokens in the window: positive logits are divided by it, others
//                         multiplied
//   3 the other two       frequency_penalty * count + presence_penalty * (count > 0) is subtracted
//                         (as llama.cpp, over the window)
//   4 temperature         logits are divided by it; 0: the largest logit wins (the smallest id of
//                         equal ones)
//   5 top_k               the k largest; of equal ones at the edge the smaller ids
//   6 top_p               of what is left, renormalized: the most probable ones up to and
//                         including the one that reaches top_p
//   7 min_p               those at least min_p times as probable as the most probable one
// The window is the last `penalty_window` tokens of prompt and text together. At least one token is
// always left.
#pragma once

#include <mlx/array.h>

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace lmxlab {
namespace mx = mlx::core;

/// How a token is chosen. Leave what you do not know at its default: each 0 (penalty: 1) turns its
/// part off.
struct SamplingOptions {
  float temperature = 0.8f;  // 0: greedy; then top_k, top_p, min_p and seed have no say
  int top_k = 0;             // 0: all; more than there are tokens: all
  float top_p = 0.95f;       // 1: all
  float min_p = 0;
  float repetition_penalty = 1;  // above 1 discourages; 1.1 is usual
  float presence_penalty = 0;
  float frequency_penalty = 0;
  int penalty_window = 0;  // tokens of prompt and text that the penalties look at; 0: all
  std::map<int, float> logit_bias = {};
  uint64_t seed = 0;

  bool operator==(const SamplingOptions&) const = default;
};

/// Whether the tokens before count.
bool penalizes(const SamplingOptions& options);

/// @throws Error(usage) with every fault: a range left, a number that is none, a biased id outside
/// [0, vocab).
void validate(const SamplingOptions& options, int vocab);

/// What a step's draw gives. All lazy.
struct Draw {
  mx::array tokens;                            // int32 [B]
  std::optional<mx::array> logprobs = {};      // float32 [B], of the drawn tokens
  std::optional<mx::array> top_ids = {};       // int32 [B, n], most probable first
  std::optional<mx::array> top_logprobs = {};  // float32 [B, n]
};

/// Draws for B rows at a time, on the stream that is current (the engine enters the model's). Row
/// r, step t draw with a key made of (seeds[r], t) alone, so a row's tokens depend neither on its
/// neighbours nor on how the prompt was cut.
class Sampler {
 public:
  /// @param prompts  B rows, for the penalties; they may differ in length.
  /// @param logprobs  the number of alternatives to report; -1: no log-probabilities at all. They
  ///                  are those of the model, before any of the steps above.
  /// @param tempered  they are those of the logits divided by the temperature
  /// @throws Error(usage) as validate; tempered at temperature 0.
  Sampler(const SamplingOptions& options, int vocab, std::span<const std::vector<int>> prompts,
          std::vector<uint64_t> seeds, int logprobs = -1, bool tempered = false);

  /// The next token of each row. @param logits  [B, V], any float type; computed with in float32.
  Draw draw(const mx::array& logits);
  /// Steps 1 to 7: log-probabilities that are drawn from, float32 [B, V], -inf where a token cannot
  /// come. (temperature 0: 0 at the winner.)
  mx::array log_distribution(const mx::array& logits) const;
  /// Row r draws next as at its step steps[r], the first being 0.
  void at(std::vector<uint64_t> steps);
  /// Row i becomes row rows[i].
  void reorder(std::span<const int> rows);

 private:
  mx::array penalized(const mx::array& logits) const;
  void remember(const mx::array& tokens);

  SamplingOptions options_;
  int vocab_, logprobs_;
  bool tempered_;
  std::vector<uint64_t> seeds_, steps_;
  std::optional<mx::array> bias_ = {};    // [V]
  std::optional<mx::array> counts_ = {};  // int32 [B, V]: how often each token stands in the window
  std::optional<mx::array> window_ = {};  // its tokens, oldest first, int32 [B, W]; -1: none yet
};

}  // namespace lmxlab
