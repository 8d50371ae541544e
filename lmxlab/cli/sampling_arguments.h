// How tokens are drawn and the cache is kept: options that `generate` and `chat` share.
#pragma once

#include "lmxlab/cli/draft_argument.h"
#include "lmxlab/cli/model_argument.h"
#include "lmxlab/cli/options.h"
#include "lmxlab/inference/generate.h"

#include <optional>
#include <string>
#include <vector>

namespace lmxlab::cli {

struct SamplingArguments {
  std::optional<double> temperature, top_p, min_p, repetition, presence, frequency;
  std::optional<int> top_k, max_kv;
  std::optional<std::string> kv_bits, prompt_cache;
  std::vector<std::string> stop;
  int64_t seed = 0;
  int max_tokens;
  bool ignore_eos = false, auto_fit = false;
  std::string dtype;
  DraftArgument draft;

  explicit SamplingArguments(int tokens) : max_tokens(tokens) {}
  void declare(Options& o);
  /// The model's own settings, then these. @throws Error(usage) for an empty --stop
  GenerateOptions options(const OpenModel& m, const Context& context) const;
  /// Refuses what does not fit in memory, before it is allocated; with --auto-fit changes options,
  /// or packs the model's weights.
  /// @param samples  the option that says how many rows of one prompt there are; empty: each has
  ///   its own
  /// @return  the bytes of arrays that are planned
  /// @throws Error(resource) with the ways out.
  int64_t govern(OpenModel& m, int rows, int length, GenerateOptions& options,
                 const Context& context, const std::string& samples = "") const;
  /// The type of the computation, if it was given, and the draft's model.
  void prepare(OpenModel& m, const Context& context);
  /// What --prompt-cache holds; empty if it is not given or there is no such file yet.
  PromptCache read_cache(const LanguageModel& model) const;
  void write_cache(const LanguageModel& model, const PromptCache& kept) const;
};

}  // namespace lmxlab::cli
