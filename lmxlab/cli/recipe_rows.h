// data inspect RECIPE: the rows that a run trains on, in its order, before there is a run.
#pragma once

#include "lmxlab/cli/context.h"

#include <string>
#include <vector>

namespace lmxlab::cli {

/// @param from  a recipe's file, or a run's folder
/// @param set   overrides, as train takes them
/// @param count  rows that are shown
void inspect_recipe(const std::string& from, const std::vector<std::string>& set, int count,
                    Context& context);

}  // namespace lmxlab::cli
