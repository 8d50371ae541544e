// Parts of a training pass that keep their inputs alone, and compute the rest once more when their
// gradient is wanted (Chen et al. 2016, arXiv:1604.06174).
#pragma once

#include "lmxlab/core/pass.h"
#include "lmxlab/core/tree.h"

#include <functional>
#include <vector>

namespace lmxlab::core {

/// Arrays [B, L, ...] to others. It is called again in the backward pass: no state but that of
/// `pass`. What it adds to pass.sums comes out once, with a gradient.
using Stage = std::function<Arrays(const Arrays& in, Pass& pass)>;

/// stage(in, pass), of which nothing but `in` lives until the gradient is computed.
/// @param parameters  every parameter that the stage reads: one left out gets no gradient.
Arrays recomputed(const Stage& stage, const std::vector<Entry>& parameters, const Arrays& in,
                  Pass& pass);

/// The same for a stage that sees each position by itself; its first output has the shape and type
/// of its first input, or `passes`: is that input. Positions are computed some at a time, one lot
/// after another, forwards and backwards: what is wide inside is never whole. The first gradient is
/// written over its cotangent, the others over their inputs, unless somebody else needs those. Sums
/// over positions are rounded once a lot.
Arrays recomputed_by_rows(const Stage& stage, const std::vector<Entry>& parameters,
                          const Arrays& in, Pass& pass, bool passes = false);

}  // namespace lmxlab::core
