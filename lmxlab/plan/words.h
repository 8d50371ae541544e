// What changes of a plan are called where they are asked for.
#pragma once

#include "lmxlab/plan/plan.h"

#include <optional>
#include <string>
#include <vector>

namespace lmxlab::plan {

/// Keys of a recipe, as `--set` takes them: "run.batch=4"; none for what no recipe says. Of QLoRA,
/// model.preset=OUT is the folder that packing has made.
std::optional<std::vector<std::string>> recipe_keys(const Settings& from, const Settings& to);
/// The same as words: "--set run.batch=4", and what packs the weights before.
std::optional<std::string> recipe_words(const Settings& from, const Settings& to);

/// Of `generate` and what else takes a MODEL.
/// @param rows  the option that says how many rows there are, "--n"; empty: none does
std::optional<std::string> model_words(const Settings& from, const Settings& to,
                                       const std::string& rows = "");

}  // namespace lmxlab::plan
