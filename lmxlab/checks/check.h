// What a check found, and comparisons that say where two arrays differ most.
#pragma once

#include "lmxlab/models/language_model.h"

#include <optional>
#include <string>

namespace lmxlab::checks {

struct Check {
  std::string name;
  bool ok = false;
  std::string detail;     // what was compared, and the worst of it
  std::string hint = {};  // of a failed one: what is wrong in words, and the likely cause
  /// The worst number and what it may be; none where nothing was measured.
  std::optional<double> worst = {}, bound = {};
};

/// Compares two arrays of the same shape: |a - b| <= bound everywhere, and no NaN.
Check compare(const std::string& name, const mx::array& a, const mx::array& b, double bound);
/// What rounding may do to a model's logits: 32 eps sqrt(D * layers) * max|logit| (sums of D terms,
/// added up over the layers, in the type of activations).
double rounding_bound(const LanguageModel& model, const mx::array& logits);

/// Positions [from, to) of each row at which two arrays [B, L, V] differ by more than a bound.
struct Differences {
  int rows = 0, positions = 0;     // that differ somewhere
  int first_row = -1, first = -1;  // the row and position of the earliest position
  int last = -1;                   // the latest position
  int all = 0;                     // positions that were compared, rows counted
  bool any() const { return positions > 0; }
};
Differences differences(const mx::array& a, const mx::array& b, double bound);

}  // namespace lmxlab::checks
