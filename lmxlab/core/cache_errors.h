// What caches refuse, in the same words everywhere.
#pragma once

#include "lmxlab/base/error.h"

#include <string>

namespace lmxlab::core {

[[noreturn]] inline void cannot_trim(int n, int possible) {
  throw Error(Kind::unsupported, "[cache] cannot take back " + std::to_string(n) +
                                     " positions: only " + std::to_string(possible) +
                                     " can be. Mark or copy the cache before what may be undone.");
}

[[noreturn]] inline void cannot_shift(int n, int length) {
  throw Error(Kind::usage, "[cache] cannot take away the first " + std::to_string(-n) + " of " +
                               std::to_string(length) + " positions");
}
[[noreturn]] inline void cannot_join(const std::string& what) {
  throw Error(Kind::mismatch, "[cache] rows of another cache: expected " + what +
                                  ". A cache takes rows from one of the same model and options.");
}

}  // namespace lmxlab::core
