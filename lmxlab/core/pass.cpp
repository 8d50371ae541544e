#include "lmxlab/core/pass.h"

#include "lmxlab/base/error.h"

#include <mlx/ops.h>
#include <mlx/random.h>

#include <string>

namespace lmxlab::core {

mx::array Pass::drop(const mx::array& x) {
  if (!key || dropout <= 0) return x;
  auto [next, mine] = mx::random::split(*key);
  key = next;
  const auto keep = mx::random::bernoulli(mx::array(1 - dropout), x.shape(), mine);
  const mx::array scale(1 / (1 - dropout), x.dtype());
  return mx::where(keep, mx::multiply(x, scale), mx::array(0.0f, x.dtype()));
}

void Pass::show(std::string_view what, const mx::array& x) const {
  if (tap) tap("layers." + std::to_string(layer) + "." + std::string(what), x);
}

}  // namespace lmxlab::core
