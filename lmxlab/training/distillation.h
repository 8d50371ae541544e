// Learning from a teacher: its distribution of the next token in the place of the token.
#pragma once

#include "lmxlab/models/language_model.h"
#include "lmxlab/training/objective.h"
#include "lmxlab/training/objectives/distill.h"
#include "lmxlab/training/recipe.h"

#include <memory>

namespace lmxlab {

/// (1 - h) T^2 divergence(teacher, student at temperature T) + h -log p(next token), h:
/// hard_labels; counted by the tokens that are learned (Hinton et al. 2015, arXiv:1503.02531). The
/// teacher may be the model itself before it was packed. Its weights are evaluated now.
/// @cost  the teacher's forward pass in every step. Metrics: divergence, nats a token
std::shared_ptr<const Objective> distill_objective(std::shared_ptr<LanguageModel> teacher,
                                                   const ObjectiveConfig& config);

/// What both kinds of teacher make of a divergence: temperature, weights and the data's own tokens.
Objective::Value with_hard_labels(const objectives::Mean& divergence,
                                  const objectives::Logits& student, const mx::array& labels,
                                  float temperature, float hard_labels);

}  // namespace lmxlab
