// Parts of a program's own: register a factory under a name, and say {"kind": "custom", "name":
// ..., "values": ...} in the config. See examples/custom_mixer.cpp.
#pragma once

#include "lmxlab/config/model.h"
#include "lmxlab/core/mixer.h"
#include "lmxlab/core/norm.h"

#include <functional>
#include <memory>
#include <string>

namespace lmxlab::core {

using MixerFactory = std::function<std::unique_ptr<Mixer>(const Json& values, const Build& build)>;
using FfnFactory = std::function<std::unique_ptr<Ffn>(const Json& values, const Build& build)>;
using NormFactory = std::function<std::unique_ptr<CustomNorm>(const Json& values, int dim)>;

/// Each may be called from any thread; @throws Error(usage) if the name is taken. The parameters
/// are counted from a part built without evaluation, so that `count` and the plan know it.
void register_mixer(const std::string& name, MixerFactory factory);
void register_ffn(const std::string& name, FfnFactory factory);
void register_norm(const std::string& name, NormFactory factory);

/// @throws Error(not_found) naming the registered ones.
std::unique_ptr<Mixer> make_custom_mixer(const config::Custom& config, const Build& build);
std::unique_ptr<Ffn> make_custom_ffn(const config::Custom& config, const Build& build);
std::unique_ptr<CustomNorm> make_custom_norm(const config::Custom& config, int dim);

}  // namespace lmxlab::core
