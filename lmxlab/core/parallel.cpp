#include "lmxlab/core/parallel.h"

#include "lmxlab/kernels/elementwise.h"

#include <mlx/ops.h>

namespace lmxlab::core {
namespace {

mx::array times(const mx::array& x, float factor) {
  return factor == 1 ? x : kernels::scale(x, factor);
}

}  // namespace

Parallel::Parallel(const config::Parallel& c, const Build& b)
    : attention(c.attention, b), mamba(c.mamba, b), config_(c) {}

std::unique_ptr<LayerCache> Parallel::make_cache(const CacheOptions& options) const {
  std::vector<std::unique_ptr<LayerCache>> parts;
  parts.push_back(attention.make_cache(options)), parts.push_back(mamba.make_cache(options));
  return std::make_unique<CompositeCache>(std::move(parts));
}

Arrays Parallel::project(const mx::array& x, Pass& pass) const {
  auto out = attention.project(times(x, config_.attention_in), pass);
  for (const auto& a : mamba.project(times(x, config_.mamba_in), pass)) out.push_back(a);
  return out;
}

mx::array Parallel::mix(const Arrays& projected, Pass& pass) const {
  const auto last = projected.end() - 1;
  return mx::concatenate({attention.mix({projected.begin(), last}, pass), mamba.mix({*last}, pass)},
                         -1);
}

mx::array Parallel::finish(const mx::array& mixed, Pass& pass) const {
  const int width = config_.attention.heads * config_.attention.value_dim();
  const auto parts = mx::split(mixed, mx::Shape{width}, -1);
  return kernels::add(times(attention.finish(parts[0], pass), config_.attention_out),
                      times(mamba.finish(parts[1], pass), config_.mamba_out));
}

}  // namespace lmxlab::core
