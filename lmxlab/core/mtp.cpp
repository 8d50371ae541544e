#include "lmxlab/core/mtp.h"

#include <mlx/ops.h>

namespace lmxlab::core {

MtpHead::MtpHead(const config::Block& c, const config::Norm& n, const Build& b)
    : enorm(n, b.dim),
      hnorm(n, b.dim),
      eh_proj(2 * b.dim, b.dim, false, b.std, b.init),
      block(c, b),
      norm(n, b.dim) {}

mx::array MtpHead::operator()(const mx::array& hidden, const mx::array& embedded,
                              Pass& pass) const {
  Residual stream(eh_proj(mx::concatenate({enorm(embedded), hnorm(hidden)}, -1)));
  block(stream, pass);
  return norm(stream.value());
}

}  // namespace lmxlab::core
