// What a completion is worth: rules, sums of rules, a program of one's own, or C++.
#pragma once

#include "lmxlab/base/fields.h"
#include "lmxlab/data/samples.h"

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <variant>
#include <vector>

namespace lmxlab::align {

/// What a policy wrote.
struct Completion {
  const data::Sample* sample = nullptr;  // the question, and the answer to check against
  std::string text = {};                 // without the token that ended it
  int tokens = 0;                        // that one included
  bool ended = true;                     // by itself; false: the length limit cut it off
};

class Reward {
 public:
  virtual ~Reward() = default;
  /// One finite number a completion, in order. Many at a time, for programs and models.
  virtual std::vector<double> operator()(std::span<const Completion> completions) = 0;
};

/// C++: any function of a completion.
std::shared_ptr<Reward> reward_function(std::function<double(const Completion&)> function);

/// 1 if the text is the answer, else 0.
struct ExactMatch {
  static constexpr const char* kind = "exact";
  bool strip = true;         // white space at the ends does not count, and elsewhere as one blank
  bool ignore_case = false;  // of ASCII letters
  bool ignore_punctuation = false;  // ASCII's
  template <class V>
  void visit(V& v) {
    v("strip", strip, "white space at the ends is left out, elsewhere it is one blank");
    v("ignore_case", ignore_case, "ASCII letters of either case are equal");
    v("ignore_punctuation", ignore_punctuation, "ASCII punctuation is left out");
  }
};

/// 1 if the pattern (in Ruby's syntax) is found, else 0; with `whole` it
/// must cover the whole text, for a format. `{answer}` stands for the answer, letter by letter. A
/// search that takes too much backtracking has found nothing.
struct Pattern {
  static constexpr const char* kind = "regex";
  std::string pattern = {};
  bool whole = false;
  template <class V>
  void visit(V& v) {
    v("pattern", pattern, "regular expression; {answer} is the sample's answer");
    v("whole", whole, "it must cover the whole text");
  }
};

/// 1 if the number in the last \boxed{...}, or else the last number, is the answer's, else 0. The
/// answer is read likewise. Numbers: sign, digits with commas at thousands, fraction, exponent.
struct Numeric {
  static constexpr const char* kind = "numeric";
  double tolerance = 1e-6;  // times max(1, |answer|)
  template <class V>
  void visit(V& v) {
    v("tolerance", tolerance, "largest difference, times max(1, |answer|)");
  }
};

/// -min(most, penalty * tokens above the target). DAPO's overlong punishment (arXiv:2503.14476 eq.
/// 13): target max_completion_length - buffer, penalty 1 / buffer, most 1.
struct Length {
  static constexpr const char* kind = "length";
  int target = 0;
  double penalty = 0.01;
  double most = 1;
  bool below = false;  // tokens that are missing count as those too many
  template <class V>
  void visit(V& v) {
    v("target", target, "tokens that cost nothing");
    v("penalty", penalty, "of each token more");
    v("most", most, "the largest penalty");
    v("below", below, "also of each token less");
  }
};

/// A program that reads a JSON line a completion, {"prompt", "completion", "answer", "tokens",
/// "ended"}, and writes one for each in order: a number, or {"reward": number}. It is started once
/// and keeps running; it must flush its output. Its standard error is ours.
struct Program {
  static constexpr const char* kind = "program";
  std::vector<std::string> command = {};  // found on the PATH, no shell
  double timeout_s = 60;                  // of a batch
  template <class V>
  void visit(V& v) {
    v("command", command, "the program and its arguments");
    v("timeout_s", timeout_s, "seconds for a batch");
  }
};

/// What a reward model makes of the question and the text, with its own template and tokenizer.
struct Judge {
  static constexpr const char* kind = "model";
  std::string model = {};
  template <class V>
  void visit(V& v) {
    v("model", model, "folder of a reward model, or of an adapter with its head");
  }
};

/// One of a sum, as a table of a recipe has it.
struct RewardConfig {
  std::variant<ExactMatch, Pattern, Numeric, Length, Program, Judge> reward = ExactMatch{};
  double weight = 1;
  template <class V>
  void visit(V& v) {
    v("reward", reward, "kind exact, regex, numeric, length, program or model");
    v("weight", weight, "in the sum");
  }
};

/// @throws Error(usage) for options out of range, Error(bad_data) for a pattern that does not
///   compile. Called, a program throws Error(not_found) if it cannot be started, Error(resource) if
///   it takes too long, Error(bad_data) if it ends early or writes something else; it is killed
///   then, and started anew by the next call.
std::shared_ptr<Reward> make_reward(const RewardConfig& config);
/// The weighted sum. @throws as above; Error(usage) for none.
std::shared_ptr<Reward> make_reward(const std::vector<RewardConfig>& configs);
std::shared_ptr<Reward> weighted_sum(
    std::vector<std::pair<double, std::shared_ptr<Reward>>> rewards);
std::shared_ptr<Reward> external_reward(const Program& program);
/// Loads the model now: its weights stay mapped, or those of its base, which a policy that adapts
/// the same base has mapped too. @throws as RewardModel::load
std::shared_ptr<Reward> model_reward(const Judge& judge);

}  // namespace lmxlab::align
