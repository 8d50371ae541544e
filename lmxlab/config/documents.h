// Which models can read several texts in one row without one seeing another.
#pragma once

#include "lmxlab/config/model.h"

#include <optional>
#include <string>

namespace lmxlab::config {

/// What would carry something from one text of a row into the next, "layers.0.mixer (mamba)"; none:
/// masks alone keep them apart. A state is carried; so is a rotation or a chunk that depends on the
/// length of all of the row.
std::optional<std::string> carries_over(const Model& model);

}  // namespace lmxlab::config
