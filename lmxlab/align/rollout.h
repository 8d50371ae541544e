// Completions of prompts, and what a step learns from them. Private to align.
#pragma once

#include "lmxlab/align/grpo.h"
#include "lmxlab/inference/generate.h"

#include <map>

namespace lmxlab::align {

/// A prompt and a completion of it.
struct Row {
  std::vector<int32_t> ids = {};
  int prompt = 0;  // how many of them
  bool learned = true;
  float advantage = 0;
  std::vector<float> old_logprobs = {}, ref_logprobs = {};  // of the completion's tokens
};

/// Prompts of the samples of a file; all of the kind answer.
struct Prompts {
  data::SampleFile file;
  std::vector<std::vector<int>> ids;
  std::vector<size_t> sample;  // its place in the file

  /// @throws Error(usage) for another kind.
  Prompts(data::SampleFile samples, const data::SampleTokenizer& tokenizer);
  /// The n-th that is drawn, all of them before one comes again.
  size_t drawn(int64_t n, uint64_t seed) const;
};

/// What the engine is told; temperature 0 and no log-probabilities for a greedy completion.
GenerateOptions generation(const GrpoConfig& config, const data::Tokenizer& tokenizer, bool greedy);
Completion completion(const data::Sample& sample, const Generation& g);

/// Rows as a batch, [B, width] and what is learned of it; `beside` is empty.
data::Batch batch_of(const std::vector<const Row*>& rows, int width);
/// Numbers of the completions' tokens as they stand in such a batch, 0 elsewhere: [B, width].
mx::array beside_tokens(const std::vector<const Row*>& rows, std::vector<float> Row::*of,
                        int width);
/// And back. Evaluates.
void take_tokens(const mx::array& from, const std::vector<Row*>& rows, std::vector<float> Row::*of);

/// Rows as arrays by name, and back. @throws Error(mismatch)
std::map<std::string, mx::array> to_arrays(const std::vector<Row>& rows);
std::vector<Row> from_arrays(const std::map<std::string, mx::array>& arrays);

}  // namespace lmxlab::align
