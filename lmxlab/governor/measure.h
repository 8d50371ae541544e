// Plans of this program on this machine: what a use of a model takes, rehearsed where that can be
// (Linux) and by arithmetic elsewhere, against what the machine has.
#pragma once

#include "lmxlab/inference/sampler.h"
#include "lmxlab/models/adapters.h"
#include "lmxlab/models/quantize.h"
#include "lmxlab/plan/plan.h"
#include "lmxlab/training/rehearse.h"

#include <filesystem>
#include <functional>
#include <optional>
#include <stop_token>

namespace lmxlab {

/// What this process may still take. RAM: three quarters of it, and what is free now; a limit set
/// from outside: nearly all it leaves; Metal: its recommended working set; CUDA: free memory.
/// What a plan counts and is here already does not count twice.
/// @param mapped  bytes of weights in files: RLIMIT_AS has counted them
/// @param made  bytes of arrays
plan::Budget machine_budget(int64_t mapped = 0, int64_t made = 0);
/// Of a machine with so much memory.
plan::Budget memory_budget(int64_t bytes);

/// What is planned: a config, or the weights in a folder or GGUF file.
struct Subject {
  config::Model config;
  std::filesystem::path weights = {};  // empty: new ones, of `dtype`
  std::optional<DType> dtype = {};     // of new weights: float32; of computing, where it is given
  TrainOptions training = {};          // the rest of a run's settings
  TrainSubject trains = {};            // what it trains
  int new_tokens = 128;                // that a generation has room for
  int max_kv = 0;                      // GenerateOptions
  std::optional<int> bits = {};        // weights are packed to first; none: as they are
  int group_size = 64, embedding_bits = 0;  // of those (QuantizeOptions)
  /// What is done with it in the place of a generation; the settings say with how many tokens.
  std::function<void(const LanguageModel&, const plan::Settings&)> pass = {};
  std::vector<AdapterFolder> adapters = {};  // beside the weights, of a generation or a pass
  bool packs = false;                        // packing makes no folder here
  size_t held = 0;          // bytes besides: tokens of a run's data, results of a pass
  bool one_prompt = false;  // rows of a generation are samples of one
  SamplingOptions sampling = {.temperature = 0};  // of a generation
  /// Of speculative decoding: so many tokens at a time (0: as many as pay), of this model or of
  /// none.
  bool drafts = false;
  bool own_heads = false;  // by the model's heads for further tokens
  int num_draft_tokens = 0;
  bool base_drafts = false;  // the model without its adapters
  std::optional<config::Model> draft = {};
  std::filesystem::path draft_weights = {};
  std::stop_token stop = {};  // ends a plan too
};

/// What a plan asks of a run's settings. @param trains  with adapters it is LoRA's
plan::Settings training_settings(const TrainOptions& training, const TrainSubject& trains = {});
/// A run's settings with what a plan says in their place; Adafactor has the rate and the average of
/// the optimizer before it, and none of its own options.
TrainOptions training_of(TrainOptions training, const plan::Settings& settings);
/// Words without what the run cannot be: adapters need trained weights that have none, and of QLoRA
/// those that can be packed.
plan::Words training_words(const TrainSubject& trains, plan::Words words);
/// Where texts that a run writes are too many at a time for a plan that does not fit, a number that
/// does becomes the first of its ways out.
void offer_fewer_texts(plan::Plan& plan, const Subject& subject);

/// New weights are made now, and not with the first result that needs them: plans count them whole.
void evaluate_weights(LanguageModel& model);

/// Of its weights, those in a file's mapping and as they lie there: before anything is computed.
/// Of two models together, if there is a draft.
int64_t mapped_bytes(LanguageModel& model, LanguageModel* draft = nullptr);

/// By a rehearsal where there can be one, else (and where there is no memory for it) by arithmetic.
/// @throws Error(usage) for settings that cannot be, what loading throws.
plan::Parts measure(const Subject& subject, const plan::Settings& settings);
/// The same by arithmetic, at once: it tells what is far above a budget.
plan::Parts roughly(const Subject& subject, const plan::Settings& settings);
/// As measure, of a way out: packing makes a folder first, and that counts too.
/// @param bytes  of the weights as they are
plan::Parts measure_way(const Subject& subject, int64_t bytes, const plan::Settings& settings);

/// Bytes of the files that weights are mapped from.
int64_t file_bytes(const std::filesystem::path& weights);
/// @throws Error(resource) if RLIMIT_AS leaves no room to map them.
void expect_mappable(const std::filesystem::path& weights);

/// A generation by arithmetic, with its draft model, or a run, of which weights, gradients and
/// optimizer are those of the model that it trains. @param element  bytes of a weight that is not
/// packed
plan::Parts estimate(const Subject& subject, const plan::Settings& settings, int element);
/// The same of a pass, by arithmetic. @param element  bytes of a weight that is not packed
plan::Parts estimate_pass(const Subject& subject, const plan::Settings& settings, int element);
/// What the process has in RAM for it: the peak, what our allocator keeps for reuse beside it, and
/// on the heap the graph of a step of training.
int64_t resident_bytes(const config::Model& model, const plan::Parts& parts);

/// Tokens of a row where nobody says how many: 512, or what the model has room for; of a prompt
/// with 128 more to come.
int usual_length(const config::Model& model, bool training);

/// Presets of the subject's family that are smaller, largest first; of gpt and llama where it has
/// none. Those that are far too large for the budget are left out: each is measured in turn. None
/// where the subject has weights, or its recipe takes no other preset.
plan::Smaller smaller_presets(const Subject& than, const plan::Settings& settings,
                              const plan::Budget& budget);

}  // namespace lmxlab
