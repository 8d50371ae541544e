// What the commands that take a recipe do with it first.
#pragma once

#include "lmxlab/cli/context.h"
#include "lmxlab/training/recipe.h"

namespace lmxlab::cli {

/// Names of the hub become folders.
void make_local(Recipe& recipe, const Context& context);

}  // namespace lmxlab::cli
