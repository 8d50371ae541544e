// Parts of a training pass that keep their input alone, and compute the rest once more when their
// gradient is wanted (Chen et al. 2016, arXiv:1604.06174).
#pragma once

#include "lmxlab/core/pass.h"
#include "lmxlab/core/tree.h"

#include <functional>
#include <vector>

namespace lmxlab::core {

/// [B, L, D] -> [B, L, D]. It is called again in the backward pass: no state but that of `pass`.
using Stage = std::function<mx::array(const mx::array& x, Pass& pass)>;

/// stage(x, pass), of which nothing but x lives until the gradient is computed.
/// @param parameters  every parameter that the stage reads: one left out gets no gradient.
mx::array recomputed(const Stage& stage, const std::vector<Entry>& parameters, const mx::array& x,
                     Pass& pass);

/// The same for a stage that sees each position by itself. Its gradient is computed some positions
/// at a time, one lot after another, and written over the cotangent: what is wide inside is never
/// whole. Sums over positions are rounded once a lot.
mx::array recomputed_by_rows(const Stage& stage, const std::vector<Entry>& parameters,
                             const mx::array& x, Pass& pass);

}  // namespace lmxlab::core
