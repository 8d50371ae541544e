// Parts that a program brings itself: their names and parameter counts, for validation and counting
// without MLX. Their factories are registered in core/custom.h, which calls this.
#pragma once

#include "lmxlab/base/json.h"

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace lmxlab::config {

enum class Part { mixer, ffn, norm };
std::string_view part_name(Part part);

/// Parameters of a part with these values in a stream of width `dim` (of a norm: the width it
/// normalizes).
using ParameterCount = std::function<int64_t(const Json& values, int dim)>;

/// Registers a name, or replaces what stands under it. Safe from any thread.
/// @throws Error(usage) for an empty name or an empty function.
void register_custom(Part part, std::string name, ParameterCount parameters);
bool is_registered(Part part, std::string_view name);
/// The registered names, sorted.
std::vector<std::string> registered(Part part);
/// @throws Error(not_found) listing the known names.
int64_t custom_parameters(Part part, std::string_view name, const Json& values, int dim);

}  // namespace lmxlab::config
