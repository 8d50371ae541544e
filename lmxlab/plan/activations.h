// What a block makes of a token, by arithmetic: coefficients of what our layers keep and hold at
// once, seen in rehearsals of blocks alone. Private to plan.
#pragma once

#include "lmxlab/config/model.h"

namespace lmxlab::plan {

/// Bytes, a token's where nothing else is said.
struct Made {
  double kept = 0;      // backward needs them
  double passing = 0;   // there at once, at most, where nothing is kept
  double backward = 0;  // there at once beside what is kept, as gradients pass through it
  double scores = 0;    // a key: of heads whose scores are whole in memory
  double cut = 0;    // a state or a window holds them behind a prompt, since it was cut from them
  double state = 0;  // a row's: states and windows, which each step makes anew
};

/// @param element  bytes of a number of the computation; scans and whole scores have four
/// @param fused  scores are whole only where a kernel has no form for them
Made made_by(const config::Model& model, const config::Block& block, double element, bool fused);

}  // namespace lmxlab::plan
