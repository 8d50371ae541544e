// Multi-token prediction as an objective: heads beside the model learn what comes behind the next
// token (DeepSeek-V3, arXiv:2412.19437, 2.2).
#pragma once

#include "lmxlab/training/objective.h"
#include "lmxlab/training/recipe.h"

#include <memory>

namespace lmxlab {

/// The model with the heads that the objective asks for: its own, or `heads` (1) new ones of its
/// own kind of block (config::mtp_block). @throws Error(mismatch) if it has another number of them.
config::Model with_mtp_heads(config::Model model, const ObjectiveConfig& objective);

/// For objectives that do not go through them: heads have no gradient then, but a weight decay
/// would reach them.
void freeze_mtp_heads(core::Transformer& model);

/// -log p of the next token + weight / D * sum over the D heads of -log p of theirs (eq. 24 and
/// 25), counted by the next tokens that are learned. A head learns what is learned of its target as
/// a next token, in the text that it stands in.
/// Metrics: main_loss, of the next tokens alone; of each head mtp_loss_K, the mean over what it
/// predicts, and mtp_accuracy_K, the share of those that are its most likely token.
/// @param heads  of the models that it is given
/// @cost  of each head about a block and the output head; the accuracy one more product of that
std::shared_ptr<const Objective> mtp_objective(int heads, float weight);

}  // namespace lmxlab
