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

/// How the completions of prompts are written, `each` of a prompt: whole groups together, whose
/// prompt is read once; where a group is more than may be written at once, parts of it, behind what
/// was read for the first.
struct Parts {
  int each = 1;
  size_t rows = 0;  // together, at most
  bool shared = false;

  /// @param all  completions
  Parts(const GrpoConfig& config, int each, size_t all);
};
/// `each` completions of each prompt, one prompt's after another's. Row i draws with the seed of
/// the options + i, however many are written together.
std::vector<Generation> write(const LanguageModel& model,
                              const std::vector<std::vector<int>>& prompts, int each,
                              const GrpoConfig& config, GenerateOptions options,
                              const data::Tokenizer& tokenizer);

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
