// MLX's own definition of what this program defines too.
#pragma once

#include <dlfcn.h>

namespace lmxlab::kernels::detail {

/// By the name in the symbol table; looked up at each call, so keep it.
template <class Function>
Function next(const char* symbol) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, symbol));
}

}  // namespace lmxlab::kernels::detail
