// Plans of this program on this machine: what a use of a model takes, rehearsed where that can be
// (Linux, CPU) and by arithmetic elsewhere, against what the machine has.
#pragma once

#include "lmxlab/models/language_model.h"
#include "lmxlab/plan/plan.h"
#include "lmxlab/training/trainer.h"

#include <filesystem>
#include <optional>

namespace lmxlab {

/// What this process may still take. RAM: three quarters of it, and what is free now; a limit set
/// from outside: nearly all it leaves; Metal: its recommended working set; CUDA: free memory.
plan::Budget machine_budget();
/// Of a machine with so much memory.
plan::Budget memory_budget(int64_t bytes);

/// What is planned: a config, or the weights in a folder or GGUF file.
struct Subject {
  config::Model config;
  std::filesystem::path weights = {};  // empty: new ones, of `dtype`
  std::optional<DType> dtype = {};     // of new weights: float32; of computing, where it is given
  TrainOptions training = {};          // the rest of a run's settings
  int new_tokens = 128;                // that a generation has room for
  int max_kv = 0;                      // GenerateOptions
  std::optional<int> bits = {};        // weights are packed to first; none: as they are
  int group_size = 64, embedding_bits = 0;  // of those (QuantizeOptions)
  size_t held = 0;                          // bytes besides, tokens of a run's data
};

/// New weights are made now, and not with the first result that needs them: plans count them whole.
void evaluate_weights(LanguageModel& model);

/// Of its weights, those in a file's mapping and as they lie there: before anything is computed.
int64_t mapped_bytes(LanguageModel& model);

/// @throws Error(usage) for settings that cannot be, what loading throws.
plan::Parts measure(const Subject& subject, const plan::Settings& settings);
/// What the process has in RAM for it: the peak, and what our allocator keeps for reuse beside it.
int64_t resident_bytes(const plan::Parts& parts);
/// Bytes that a token of decode reads, by its plan: the weights without the embedding's other rows,
/// and the cache.
int64_t decode_bytes(const config::Model& model, const plan::Parts& parts);

/// Smaller presets of a family, largest first; those with so many parameters at most.
plan::Smaller smaller_presets(const config::Model& than);

}  // namespace lmxlab
