#include "lmxlab/training/clip.h"

#include <mlx/ops.h>

namespace lmxlab {

mx::array clip_factor(const mx::array& norm, float max_norm) {
  if (!(max_norm > 0)) return mx::array(1.0f);
  return mx::minimum(mx::array(max_norm) / (norm + mx::array(1e-6f)), mx::array(1.0f));
}

}  // namespace lmxlab
