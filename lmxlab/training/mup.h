// The maximal update parametrization (muP; Yang et al. 2022, "Tensor Programs V",
// arXiv:2203.03466): initial weights, rates and two factors change with the width so that the best
// learning rate of a narrow model, the base, is that of a wide one. At the base's width nothing
// changes.
//
// A recipe asks for it with the base's sizes, [model] mup = {dim = 64}. Which dimensions grow is
// seen by comparing the shapes of both models, as Microsoft's `mup` package does. With r how often
// a matrix's input is that of the base, for AdamW and Lion (the paper's table 3):
//
//   grows                            initial std   learning rate
//   input and output (hidden)        1 / sqrt(r)   1 / r
//   input alone (head, router)       1 / r         1 / r
//   output alone, embedding, vector  1             1
//
//   scores of attention              1 / head_dim: that of the base times its head_dim / head_dim
//   logits of a tied head            dim of the base / dim, since the embedding is not scaled
//
// The package gives an untied head the factor of a tied one, and initial weights and rates of the
// base: the same function at every step (the paper's lemma J.1), but no ordinary model in a file.
// Weight decay is decoupled: what shrinks a weight is lr * decay, which keeps its base's value, so
// the decay of a weight whose rate is divided is multiplied (the package's MuAdamW).
#pragma once

#include "lmxlab/base/json.h"
#include "lmxlab/config/model.h"
#include "lmxlab/models/language_model.h"

#include <map>
#include <string>

namespace lmxlab {

/// The same model at the base's widths. @param sizes  dim, heads, kv_heads, head_dim, hidden: what
///   is not given follows as in config::resize.
/// @throws Error(usage) for other sizes or contradictions, Error(unsupported) for parts without a
///   known rule: all but attention, MLPs and experts.
config::Model mup_base(const config::Model& model, const Json& sizes);

/// The model with muP's factors in its attention and its logits.
config::Model with_mup(config::Model model, const config::Model& base);

/// What a parameter of the base is multiplied by.
struct MupRatio {
  double init = 1, lr = 1;
};
/// Every parameter by its path in the tree. No weights are made.
std::map<std::string, MupRatio> mup_ratios(const config::Model& model, const config::Model& base);

/// Scales new weights; lazily.
void scale_init(LanguageModel& model, const std::map<std::string, MupRatio>& ratios);

}  // namespace lmxlab
