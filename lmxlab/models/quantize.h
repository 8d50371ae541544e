// A model with packed weights: its layers stay, the weights inside them change.
#pragma once

#include "lmxlab/models/language_model.h"

#include <functional>

namespace lmxlab {

struct QuantizeOptions {
  int bits = 4;            ///< of linear layers: 2, 3, 4, 5, 6 or 8
  int group_size = 64;     ///< inputs that share a scale and a bias: 32, 64 or 128
  int embedding_bits = 0;  ///< of the embedding, and the head that is tied to it; 0: as `bits`
};

/// Packs every linear layer and the embedding in MLX's affine format; scales and biases keep the
/// type of the weights. Norms stay. What it packs is frozen, and evaluated layer by layer, so that
/// full weights and packed ones are never both held for more than one.
/// @throws Error(usage) for other bits or groups, or a weight whose inputs are no whole groups;
///   the model is unchanged then.
/// @param progress  called with (done, all) before each weight. What it throws leaves as it was
///   thrown; the model is then partly packed.
void quantize_model(LanguageModel& model, const QuantizeOptions& options = {},
                    const std::function<void(int, int)>& progress = {});

/// Lays packed weights as this machine's kernels read them fastest, one after another; answers and
/// sizes stay, but for rounding. `separate_model` undoes it: before a model is saved for others.
void interleave_model(LanguageModel& model);
void separate_model(LanguageModel& model);

}  // namespace lmxlab
