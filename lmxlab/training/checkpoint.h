// The run folder and its checkpoints. A checkpoint is written under a name that begins with a dot
// and renamed, so it is there whole or not at all, whenever the process dies.
#pragma once

#include "lmxlab/base/json.h"
#include "lmxlab/training/trainer.h"

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace lmxlab {

/// checkpoints/step-N: a model folder (config.json, model.safetensors, the tokenizer),
/// state.safetensors, state.json. Of a model with adapters, those alone in PEFT's files. What
/// trains is in state.safetensors once more as it is in the tree where the files have it otherwise:
/// adapters, and weights of which a moving average is saved.
struct CheckpointInfo {
  int64_t step = 0;
  std::filesystem::path folder;
  std::optional<double> val_loss = {};
};

class RunFolder {
 public:
  explicit RunFolder(std::filesystem::path path) : path_(std::move(path)) {}
  const std::filesystem::path& path() const { return path_; }

  /// Whether the folder holds a run.
  bool exists() const;
  /// Complete checkpoints, by step. What an interrupted write left is not among them.
  std::vector<CheckpointInfo> checkpoints() const;
  /// Saves the trainer's model and state; then puts the weights at the top of the folder and
  /// removes all but the last `keep` and the best checkpoint. @throws Error(resource); the last
  /// good checkpoint is untouched then.
  /// @param base  of an adapter: where its model is
  std::filesystem::path save(Trainer& trainer, LanguageModel& model,
                             const std::string& data_fingerprint, int keep,
                             const std::string& base = "") const;
  /// Loads the last complete checkpoint into the model and the trainer. @throws Error(mismatch),
  /// Error(bad_data)
  void load(const CheckpointInfo& checkpoint, LanguageModel& model, Trainer& trainer,
            const std::string& data_fingerprint) const;
  /// Removes what an interrupted write left, and lines of metrics.jsonl after `step`.
  void clean(int64_t step) const;

 private:
  std::filesystem::path path_;
};

}  // namespace lmxlab
