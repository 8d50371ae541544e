// What a reward model makes of answers: one number each, higher for the better one.
#pragma once

#include "lmxlab/data/sample_tokens.h"
#include "lmxlab/models/language_model.h"

#include <filesystem>
#include <vector>

namespace lmxlab {

/// The head's number behind the last token of each text.
/// @param texts  ids of whole texts, a prompt with its answer
/// @throws Error(usage) for a model that is no reward model, for a text that is empty, longer than
///   the positions that the model learned, or has ids it does not know
/// @cost  forward passes over several texts side by side, padded to the longest, at most
///   kScoredPositions positions or one text at a time. Evaluates.
std::vector<double> scores(const LanguageModel& model, const std::vector<std::vector<int>>& texts);
inline constexpr int kScoredPositions = 2048;
/// The largest of those passes, for plans; also of a model that has no such head yet.
void score_pass(const LanguageModel& model, int texts, int length);

/// Questions with their answers as the tokens that objective reward saw in training: with the
/// model's own template where they are messages, and the end of a text behind them.
/// @param answers  of the kind unpaired: prompt and response, and tools and variables
/// @throws as SampleTokenizer::sequences
std::vector<std::vector<int>> answer_ids(const data::SampleTokenizer& tokenize,
                                         const std::vector<data::Sample>& answers);

/// A reward model with its tokenizer and chat template.
struct RewardModel {
  LanguageModel model;
  data::SampleTokenizer tokenize;

  /// @param folder  of a model, or of an adapter with a head; what it has no file of is its base's
  /// @throws as load_with_adapter; Error(usage) if it is no reward model; Error(not_found) without
  /// a
  ///   tokenizer
  static RewardModel load(const std::filesystem::path& folder);
  std::vector<double> operator()(const std::vector<data::Sample>& answers) const {
    return scores(model, answer_ids(tokenize, answers));
  }
};

}  // namespace lmxlab
