// Every contradiction of a config at once, each with its path.
#pragma once

#include "lmxlab/base/error.h"
#include "lmxlab/config/model.h"

namespace lmxlab::config {

/// Problems as `layers.3.mixer.kv_heads: 8 heads are no multiple of 3 key/value heads`. The same
/// problem of several layers is reported once, as `layers.0-11.mixer...` or
/// `layers.0,2,5-7.mixer...`.
Problems check(const Model& model);

/// @throws Error(kind) with every problem, if there are any.
void validate(const Model& model, Kind kind = Kind::usage);

}  // namespace lmxlab::config
