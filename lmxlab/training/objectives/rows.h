// Sums over positions whose vocabulary-wide arrays are made some rows at a time. Private to
// objectives.
#pragma once

#include "lmxlab/training/objectives/logprobs.h"

#include <functional>
#include <vector>

namespace lmxlab::objectives {

using Arrays = std::vector<mx::array>;

/// [n, W] of x [B, L, W] or [B, L]
mx::array flat_rows(const mx::array& x);

/// What stands at some rows of logits that are flat: [n, V] float32
mx::array made(const Logits& rows);

/// The rows [first, last) of flat arrays and logits.
mx::array cut(const mx::array& x, int first, int last);
Logits cut(const Logits& logits, int first, int last);

/// A loss of the rows [first, last), from the student's logits [n, V] float32 there.
struct RowLoss {
  std::function<mx::array(const mx::array& z, int first, int last)> sum;    // 0-d
  std::function<mx::array(const mx::array& z, int first, int last)> slope;  // d sum / d z: [n, V]
};

/// The loss of all rows, `rows` of them at a time, one lot after another, forwards and backwards.
/// Slopes are written out because automatic ones keep some twenty arrays of a lot.
/// @param student  x flat: [N, V] or [N, D]; nothing else gets a gradient
mx::array sum_by_rows(const Logits& student, int rows, RowLoss loss);

}  // namespace lmxlab::objectives
