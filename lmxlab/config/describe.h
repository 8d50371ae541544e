// A config as a table for people.
#pragma once

#include "lmxlab/config/model.h"

#include <string>

namespace lmxlab::config {

/// At most 80 columns, lines end in a newline; runs of equal layers are one row.
/// @throws as count().
std::string describe(const Model& model);

}  // namespace lmxlab::config
