// How well a model predicts a text.
#pragma once

#include "lmxlab/models/language_model.h"

#include <cstdint>
#include <functional>
#include <span>
#include <stop_token>

namespace lmxlab {

struct PerplexityOptions {
  int context = 0;  // tokens of a window; 0: the model's context, 2048 at most
  int stride = 0;   // tokens from one window to the next; 0: half a window
  std::stop_token stop = {};
};

/// Tokens of a window where nobody says how many.
int usual_context(const LanguageModel& model);

struct Perplexity {
  double nll = 0;      // mean negative log-likelihood of a token, in nats
  int64_t tokens = 0;  // that were predicted: all but the first
  int context = 0, stride = 0;
  double perplexity() const;
};

/// Windows of `context` tokens, each `stride` behind the one before; of each, the tokens that no
/// earlier window has predicted are counted, so that every token but the first counts once, and all
/// but those of the first window are seen after at least context - stride others.
/// @param progress  called with (predicted, all)
/// @throws Error(usage) for fewer than 2 tokens, an id outside the vocabulary, a context below 2 or
///   beyond learned positions, a stride outside [1, context); Error(canceled)
/// @cost  a forward pass over every window; logits of 128 tokens at a time
Perplexity perplexity(const LanguageModel& model, std::span<const int> tokens,
                      const PerplexityOptions& options = {},
                      const std::function<void(int64_t, int64_t)>& progress = {});

}  // namespace lmxlab
