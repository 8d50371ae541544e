// --n, --best-of, --vote, --beams: several texts of a prompt, and which of them is the answer.
#pragma once

#include "lmxlab/cli/model_argument.h"
#include "lmxlab/cli/options.h"
#include "lmxlab/eval/answers.h"
#include "lmxlab/inference/beam.h"
#include "lmxlab/inference/generate.h"

#include <optional>
#include <span>
#include <string>
#include <vector>

namespace lmxlab::cli {

/// What was chosen among the samples of a prompt, and why.
struct Choice {
  size_t index = 0;
  std::vector<double> scores = {};                       // of --best-of
  std::vector<std::optional<std::string>> answers = {};  // where answers are looked for
  std::optional<Vote> vote = {};
};

struct SeveralArgument {
  std::optional<int> n, best_of, beams;
  std::optional<double> length_penalty;
  std::optional<std::string> judge, answer;
  bool vote = false;

  void declare(Options& o);
  /// @throws Error(usage) for options that exclude or need each other.
  void check(const GenerateOptions& options, bool file) const;
  /// The option that says so; empty: none was given.
  std::string rows_option() const {
    return n ? "--n" : best_of ? "--best-of" : beams ? "--beams" : "";
  }
  int rows() const { return best_of ? *best_of : n.value_or(1); }
  bool any() const { return rows() > 1 || vote || beams; }

  /// Opens what --judge names; finds faults of --answer. @throws as open_model
  void open(uint64_t seed, const Context& context);
  const AnswerFinder& finder() const { return finder_; }
  /// @param answers  whether they are looked for without --vote too
  Choice choose(const OpenModel& m, std::span<const int> prompt,
                const std::vector<Generation>& samples, bool answers, const Context& context);
  BeamOptions beam_options(const GenerateOptions& options) const;

 private:
  std::vector<double> judged(const OpenModel& m, std::span<const int> prompt,
                             const std::vector<Generation>& samples, const Context& context);

  std::vector<double> scored(const OpenModel& m, std::span<const int> prompt,
                             const std::vector<Generation>& samples);

  std::optional<OpenModel> judge_;
  AnswerFinder finder_;
};

}  // namespace lmxlab::cli
