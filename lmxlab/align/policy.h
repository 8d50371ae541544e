// What a policy makes of rows that it wrote: log-probabilities, and the objective made of them.
// Private to align.
#pragma once

#include "lmxlab/align/grpo.h"
#include "lmxlab/core/transformer.h"

namespace lmxlab::align {

/// log p of the targets that are learned, of logits divided by a temperature; 0 elsewhere.
/// @return  [B, L] float32, lazy. Under OneOrder what the engine's tempered log-probabilities are.
mx::array policy_logprobs(const core::Transformer& model, const data::Batch& batch,
                          core::Pass& pass, float temperature);

/// Batch::beside of `grpo_objective`.
struct Beside {
  mx::array advantages;                   // [B]
  mx::array old_logprobs;                 // [B, L]
  mx::array fresh;                        // [B] float32: 1 where no update lies between
  std::optional<mx::array> ref_logprobs;  // [B, L], with a beta
  std::vector<mx::array> arrays() const;
};
std::shared_ptr<const Objective> grpo_objective(const GrpoConfig& config);

/// @throws Error(unsupported) naming what of a model has no one order of sums.
void expect_one_order(LanguageModel& model);

}  // namespace lmxlab::align
