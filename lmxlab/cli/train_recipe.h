// What the commands that take a recipe do with it first.
#pragma once

#include "lmxlab/cli/context.h"
#include "lmxlab/plan/plan.h"
#include "lmxlab/training/recipe.h"

#include <string>
#include <vector>

namespace lmxlab::cli {

/// Names of the hub become folders.
void make_local(Recipe& recipe, const Context& context);

/// How a run of this recipe is told of another plan, with --set; none where the recipe refuses
/// that.
/// @param overrides  that it has already
plan::Words recipe_words(std::string toml, std::string name, std::vector<std::string> overrides);

}  // namespace lmxlab::cli
