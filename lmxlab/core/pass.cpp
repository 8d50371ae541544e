#include "lmxlab/core/pass.h"

#include "lmxlab/kernels/dropout.h"

#include <mlx/random.h>

#include <string>

namespace lmxlab::core {

mx::array Pass::drop(const mx::array& x) {
  if (!key || dropout <= 0) return x;
  auto [next, mine] = mx::random::split(*key);
  key = next;
  return kernels::dropout(x, dropout, mine, int64_t{first_row} * x.shape(-1));
}

void Pass::show(std::string_view what, const mx::array& x) const {
  if (tap) tap("layers." + std::to_string(layer) + "." + std::string(what), x);
}

}  // namespace lmxlab::core
