// One mixer with a cache of its own: its input in pieces, and rows and positions of it.
#pragma once

#include "lmxlab/core/cache.h"
#include "lmxlab/core/mixer.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <memory>
#include <vector>

namespace lmxlab::test {

/// Row i of [B, S, D], from a position on.
inline mx::array row(const mx::array& x, int i, int from = 0) {
  return mx::slice(x, {i, from, 0}, {i + 1, x.shape(1), x.shape(2)});
}
/// [B, S, D] -> [B, to - from, D].
inline mx::array positions(const mx::array& x, int from, int to) {
  return mx::slice(x, {0, from, 0}, {x.shape(0), to, x.shape(2)});
}

inline core::Cache cache_of(const core::Mixer& mixer, const core::CacheOptions& options = {}) {
  std::vector<std::unique_ptr<core::LayerCache>> layers;
  layers.push_back(mixer.make_cache(options));
  core::Cache out(std::move(layers));
  out.max_kv = options.max_kv;
  return out;
}

/// The outputs of x in pieces of these sizes, over and over.
inline mx::array through(const core::Mixer& mixer, core::Cache& cache, const mx::array& x,
                         std::vector<int> sizes) {
  core::Arrays parts;
  for (int at = 0, i = 0; at < x.shape(1); ++i) {
    const int n = std::min(sizes[static_cast<size_t>(i) % sizes.size()], x.shape(1) - at);
    core::Pass pass{.offset = cache.length(), .cache = &cache, .pads = cache.pads};
    parts.push_back(mixer(positions(x, at, at + n), pass));
    cache.advance(n), at += n;
    auto all = cache.arrays();
    all.push_back(parts.back());
    mx::eval(all);
  }
  return mx::concatenate(parts, 1);
}

}  // namespace lmxlab::test
