// What `chat` and `template` share: the template of a model, its variables, the clock.
#pragma once

#include "lmxlab/cli/model_argument.h"
#include "lmxlab/data/chat_template.h"

#include <optional>
#include <string>
#include <vector>

namespace lmxlab::cli {

/// What its folder or GGUF file says; none if it says nothing, or it is a preset.
std::optional<data::ChatTemplate> chat_template_of(const ModelPlace& place);

/// "NAME=JSON" each, as an object. @throws Error(usage) naming what is not of that form.
Json template_variables(const std::vector<std::string>& given, const std::string& command);

/// The reading of the user's clock.
data::LocalTime wall_clock();

}  // namespace lmxlab::cli
