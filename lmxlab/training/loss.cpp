#include "lmxlab/training/loss.h"

#include <mlx/ops.h>

namespace lmxlab {

mx::array token_nll(const mx::array& logits, const mx::array& targets) {
  const auto z = mx::astype(logits, mx::float32);
  const auto at = mx::expand_dims(mx::astype(targets, mx::int32), -1);
  const auto picked = mx::squeeze(mx::take_along_axis(z, at, -1), -1);
  return mx::subtract(mx::logsumexp(z, -1), picked);
}

}  // namespace lmxlab
