// What a recipe trains on: a text, a file of tokens, or samples, and what of it is held out.
#pragma once

#include "lmxlab/data/rows.h"
#include "lmxlab/data/tokenizer.h"
#include "lmxlab/training/pairs.h"
#include "lmxlab/training/recipe.h"
#include "lmxlab/training/teacher.h"
#include "lmxlab/training/trainer.h"

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace lmxlab {

struct RunData {
  std::optional<data::Tokenizer> tokenizer = {};         // none for a token file
  std::optional<data::ChatTemplate> chat_template = {};  // that the samples were written with
  mx::array tokens = mx::array(0);                       // of a text, or a file of tokens
  /// Of samples; the tokens are empty then.
  std::optional<data::TokenSamples> samples = {}, held_out = {};
  /// Of grpo: prompts with answers, and what makes tokens of them.
  std::optional<data::SampleFile> questions = {}, held_out_questions = {};
  std::optional<data::SampleTokenizer> tokenize = {};
  std::string fingerprint = {};
  size_t bytes() const;  // that are held
};

/// Reads the data.
/// @param saved  the run folder's own tokenizer, when resuming.
/// @throws everything that data may lack: Error(not_found), Error(bad_data), Error(usage)
RunData load_data(const Recipe& recipe, const std::optional<std::filesystem::path>& saved = {});

/// What the recipe's objective learns from, before a reference has measured pairs, or a teacher
/// rows.
struct RunBatches {
  std::optional<std::vector<TokenPair>> pairs = {}, held_out_pairs = {};
  std::optional<data::Rows> rows = {}, held_out_rows = {};  // whose borders stay where they are
  std::vector<double> difficulty = {};                      // of the rows, for a curriculum
  TrainData data = {};                                      // of anything else
  int64_t train_tokens = 0, held_out_tokens = 0;
  std::optional<double> fill = {};  // share of places that hold a token, of packed samples
};
/// @param packs  whether the model keeps several samples of a row apart
/// @throws Error(usage) if batch and context do not fit the data.
RunBatches run_batches(RunData& data, const Recipe& recipe, bool packs);
/// In the order in which the run takes them.
TrainData train_data(RunBatches batches, const Recipe& recipe);

/// A batch like those of a run, of zeros: for plans.
/// @param teacher  that has run before
data::Batch batch_like(const Recipe& recipe, const RunConfig& run, bool packs, mx::Dtype token,
                       const std::optional<KeptTeacher>& teacher = {});

/// @throws Error(mismatch) for a teacher of another vocabulary.
void check_teacher(const config::Model& teacher, const ObjectiveConfig& config, int vocab);
/// Loads the teacher of `distill`, if it runs in every step; its weights are there then.
/// @throws Error(mismatch) for a teacher of another vocabulary.
std::shared_ptr<const Objective> make_objective(const ObjectiveConfig& config,
                                                const config::Model& model);

}  // namespace lmxlab
