// Beam search: the texts that a model finds most probable, several at a time.
#pragma once

#include "lmxlab/inference/generate.h"

#include <span>
#include <vector>

namespace lmxlab {

struct BeamOptions {
  int beams = 4;
  float length_penalty = 1;  // scores are divided by length^this: above 0 favours longer texts
  int max_tokens = 128;
  std::vector<int> stop_tokens = {};  // end a text, and are its last token
  bool ignore_eos = false;            // stop_tokens are tokens like others
  int prefill_chunk = 512;
  std::optional<int> kv_bits = {};
  int max_kv = 0;
  std::stop_token stop = {};  // a request ends it between two steps, with what there is
};

struct Beam {
  std::vector<int> tokens = {};  // the generated part
  double score = 0;              // logprob / length^length_penalty
  double logprob = 0;            // of the tokens together
  StopReason reason = StopReason::length;
};

/// As transformers has it (`num_beams`, `early_stopping` false): of each step's most probable
/// continuations those that end and are among the first `beams` are set aside, the others go on,
/// until the best of those could not get better than the worst of `beams` ended ones at its present
/// length. The prompt is read once.
/// @return  `beams` texts, best first; fewer only of a smaller vocabulary or where it was stopped.
/// @throws Error(usage) as generate, and for no beam.
/// @cost  a pass over `beams` rows a token, and a copy of their caches
std::vector<Beam> beam_search(const LanguageModel& model, std::span<const int> prompt,
                              const BeamOptions& options = {}, GenerateStats* stats = nullptr);

}  // namespace lmxlab
