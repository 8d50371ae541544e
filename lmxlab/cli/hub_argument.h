// Hub names on the command line, and pulls that show how far they are.
#pragma once

#include "lmxlab/cli/context.h"
#include "lmxlab/io/hub.h"

#include <string>

namespace lmxlab::cli {

/// As the environment says it. @throws Error(usage)
io::HubSettings hub_settings();

/// Pulls, after saying how large it is.
/// @param plan  whether a model that does not fit in this machine's memory is refused first
/// @throws as io::pull, Error(resource) with the ways out.
io::Pulled pull(const io::HubName& name, io::HubPart part, const Context& context,
                bool plan = true);

/// Where the files of a hub name are: in the cache, or pulled into it. What exists as a file or
/// folder, or is no such name, is returned as it is.
std::string local_path(const std::string& argument, io::HubPart part, const Context& context);

}  // namespace lmxlab::cli
