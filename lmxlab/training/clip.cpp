#include "lmxlab/training/clip.h"

#include <mlx/ops.h>

namespace lmxlab {

mx::array global_norm(const std::vector<mx::array>& grads) {
  mx::array total(0.0f);
  for (const auto& g : grads) {
    // Rows first: long float32 sums lose digits, two short ones do not.
    mx::array squares = mx::square(mx::astype(g, mx::float32));
    if (squares.ndim() > 1) squares = mx::sum(squares, -1);
    total = total + mx::sum(squares);
  }
  return mx::sqrt(total);
}

std::pair<std::vector<mx::array>, mx::array> clip_by_global_norm(
    const std::vector<mx::array>& grads, float max_norm) {
  const mx::array norm = global_norm(grads);
  if (!(max_norm > 0)) return {grads, norm};
  const mx::array scale =
      mx::minimum(mx::array(max_norm) / (norm + mx::array(1e-6f)), mx::array(1.0f));
  std::vector<mx::array> out;
  out.reserve(grads.size());
  for (const auto& g : grads)
    out.push_back(mx::astype(mx::astype(g, mx::float32) * scale, g.dtype()));
  return {std::move(out), norm};
}

}  // namespace lmxlab
