// Properties that every model must have, whatever its parts. The tests run them over all families,
// `doctor` on a model at hand. Each says what it compared, and where the worst element is.
#pragma once

#include "lmxlab/models/language_model.h"

#include <filesystem>
#include <string>
#include <vector>

namespace lmxlab::checks {

struct Check {
  std::string name;
  bool ok = false;
  std::string detail;
};

/// Compares two arrays of the same shape: |a - b| <= bound everywhere, and no NaN.
Check compare(const std::string& name, const mx::array& a, const mx::array& b, double bound);
/// What rounding may do to a model's logits: 32 eps sqrt(D * layers) * max|logit| (sums of D terms,
/// added up over the layers, in the type of activations).
double rounding_bound(const LanguageModel& model, const mx::array& logits);

/// Changing a token changes no logit before it, and some logit from it on.
Check causal(LanguageModel& model, int length);
/// A pass in pieces of any size through the cache gives the logits of one pass.
Check cached_equals_full(LanguageModel& model, int length);
/// A cache that was trimmed, copied or reordered continues as if it had never been otherwise.
Check cache_operations(LanguageModel& model, int length);
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
/// Directional derivatives of the loss against central differences, for every parameter.
Check gradients(const config::Model& config, int length);
/// Compiled steps give the bits of eager ones, parameter by parameter.
Check compiled_equals_eager(const config::Model& config, int length, int steps);

/// Those that need no more than the model: causal, cached, batched, padded, counted.
std::vector<Check> check_model(LanguageModel& model, int length);

}  // namespace lmxlab::checks
