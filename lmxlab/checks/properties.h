// Properties that every model must have, whatever its parts. The tests run them over all families,
// `doctor` on a model at hand. Each says what it compared, where the worst element is and, where it
// fails, what is wrong in words and what is likely to cause it.
#pragma once

#include "lmxlab/checks/check.h"
#include "lmxlab/models/language_model.h"

#include <filesystem>
#include <string>
#include <vector>

namespace lmxlab::checks {

/// Changing a token changes no logit before it, and some logit from it on.
Check causal(LanguageModel& model, int length);
/// A pass in pieces of any size through the cache gives the logits of one pass.
Check cached_equals_full(LanguageModel& model, int length);
/// The lengths at which layers begin to do something else: windows, chunks of attention and of
/// scans, blocks and choices of sparse attention. Ascending.
std::vector<int> boundaries(const config::Model& config);
/// The same below, at and above each of them, as far as `most` tokens reach.
Check cached_at_boundaries(LanguageModel& model, int most);
/// A cache that was trimmed, copied or reordered continues as if it had never been otherwise.
Check cache_operations(LanguageModel& model, int length);
/// Rows of different lengths, read apart, that join a running batch and leave it, give the logits
/// that they give alone.
Check joined_equals_alone(LanguageModel& model, int length);
/// Rows of a batch do not know of each other.
Check batched_equals_single(LanguageModel& model, int length);
/// Padding at the left of a row changes nothing in it, in one pass and through the cache.
Check padding_invariance(LanguageModel& model, int length);

/// Logits have the dtype of the weights, in float32, float16 and bfloat16.
Check dtype_kept(const config::Model& config);
/// Paths and addresses of parameters are unique, and `config::count` agrees with the tree.
Check parameters_counted(LanguageModel& model);
/// Saved, loaded and saved again: the same bytes and the same logits.
Check save_load(LanguageModel& model, const std::filesystem::path& empty_folder);
/// Packed to 8 and to 4 bits, where the widths of weights allow: each number within a step of what
/// it was, logits those of the same numbers unpacked within rounding, and near those of the model.
Check quantized_close(LanguageModel& model, int length);
/// No weight is infinite or NaN.
Check weights_finite(LanguageModel& model);
/// Logits [B, T, V] that another implementation gave for input_ids [B, T]. Where they differ, it
/// looks for the change of this model that would explain it: heads in another order, biases that
/// are zero. @param bound  what may differ; 0: what rounding may do
/// @cost  a pass; if they differ up to 300 more.
Check equals_reference(LanguageModel& model, const mx::array& input_ids, const mx::array& logits,
                       double bound = 0);

/// Directional derivatives of the loss against central differences, for every parameter.
Check gradients(const config::Model& config, int length);
/// Every trainable parameter has a gradient that is not zero everywhere.
Check gradients_reach(const config::Model& config, int length);
/// Gradient checkpointing gives the gradients of the ordinary backward pass.
Check recomputed_equals_kept(const config::Model& config, int length);
/// Compiled steps give the bits of eager ones, parameter by parameter.
Check compiled_equals_eager(const config::Model& config, int length, int steps);

}  // namespace lmxlab::checks
