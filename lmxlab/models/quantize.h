// A model with packed weights: its layers stay, the weights inside them change.
#pragma once

#include "lmxlab/base/fields.h"
#include "lmxlab/models/language_model.h"

#include <functional>
#include <string>
#include <vector>

namespace lmxlab {

/// MLX's formats. affine: integers with a scale and an offset a group. mxfp4, nvfp4, mxfp8: small
/// floats with a scale of 8 bits a group of 32, 16 and 32.
enum class QuantMode { affine, mxfp4, nvfp4, mxfp8 };

/// Other numbers for some layers.
struct LayerBits {
  std::string pattern;  ///< of paths: "*" is any text, "model.layers.0.*", "*.down_proj"
  int bits = 0;         ///< 0: they stay as they are
};

struct QuantizeOptions {
  QuantMode mode = QuantMode::affine;
  int bits = 4;            ///< affine, of linear layers: 2, 3, 4, 5, 6 or 8
  int group_size = 64;     ///< affine, inputs that share a scale and a bias: 32, 64 or 128
  int embedding_bits = 0;  ///< of the embedding, and the head that is tied to it; 0: as `bits`
  std::vector<LayerBits> layers = {};  ///< the first whose pattern fits counts; affine ones
};

/// What packing did to a layer.
struct LayerError {
  std::string path;
  int bits = 0;             // of a weight, scales left out; 0: it stayed as it was
  double relative_rms = 0;  // of the differences, over that of the weights
  double largest = 0;       // difference
};

/// Packs every linear layer, stacks of experts and the embedding, but no router; scales and biases
/// of the affine format keep the type of the weights. Norms stay. What it packs is frozen, and
/// evaluated layer by layer, so that full weights and packed ones are never both held for more than
/// one.
/// @throws Error(usage) for other bits or groups, a weight whose inputs are no whole groups, or a
///   pattern that fits no layer; the model is unchanged then.
/// @param progress  called with (done, all) before each weight. What it throws leaves as it was
///   thrown; the model is then partly packed.
/// @param errors  filled if given, a layer each; costs another pass over the weights.
void quantize_model(LanguageModel& model, const QuantizeOptions& options = {},
                    const std::function<void(int, int)>& progress = {},
                    std::vector<LayerError>* errors = nullptr);

/// Whether a folder can hold this model's packed weights: GPT-2's cannot, whose matrices lie
/// across.
bool can_save_packed(const config::Model& config);

/// What quantize_model would leave behind, without doing it.
struct PackedBytes {
  int64_t packed = 0;  // of what it packs, with scales and offsets
  int64_t left = 0;    // of what stays as it is
  int64_t work = 0;    // on the way, at most: a matrix as numbers, and what packing it takes
};
/// @throws as quantize_model
PackedBytes packed_bytes(LanguageModel& model, const QuantizeOptions& options);

/// Lays packed weights as this machine's kernels read them fastest, one after another; answers and
/// sizes stay, but for rounding. `separate_model` undoes it: before a model is saved for others.
void interleave_model(LanguageModel& model);
void separate_model(LanguageModel& model);

}  // namespace lmxlab

template <>
struct lmxlab::EnumNames<lmxlab::QuantMode> {
  static constexpr std::pair<lmxlab::QuantMode, const char*> table[] = {
      {lmxlab::QuantMode::affine, "affine"},
      {lmxlab::QuantMode::mxfp4, "mxfp4"},
      {lmxlab::QuantMode::nvfp4, "nvfp4"},
      {lmxlab::QuantMode::mxfp8, "mxfp8"}};
};
