// GRPO in a recipe: [objective] kind = "grpo" with the tables [grpo] and [[rewards]].
#pragma once

#include "lmxlab/align/grpo.h"
#include "lmxlab/training/run.h"

#include <memory>

namespace lmxlab::align {

/// The tables of a recipe. @throws Error(usage) with every key that is unknown or out of range.
GrpoConfig grpo_config(const Recipe& recipe);
std::shared_ptr<Reward> recipe_reward(const Recipe& recipe);
std::vector<RewardConfig> reward_configs(const Recipe& recipe);

/// RunHooks::method. Held-out questions are answered greedily where a run validates: val_success
/// and val_reward among the metrics.
std::unique_ptr<RunMethod> grpo_method(LanguageModel& model, const Recipe& recipe,
                                       const RunData& data);

/// What is planned: steps on batches as wide as the longest prompt and completion, and completions
/// written between them. Makes tokens of all prompts.
TrainSubject grpo_subject(const RunParts& parts, const Recipe& recipe);

}  // namespace lmxlab::align
