#include "lmxlab/governor/limits.h"

#include "lmxlab/kernels/machine.h"

#include <mlx/mlx.h>

#include <algorithm>

namespace lmxlab {
namespace {

namespace mx = mlx::core;

Backend backend() {
  if (mx::metal::is_available()) return Backend::metal;
  return mx::gpu::is_available() ? Backend::cuda : Backend::cpu;
}

}  // namespace

MemoryLimits memory_limits(Backend backend, const plan::Budget& budget, int64_t weights,
                           int64_t ram) {
  constexpr int64_t kLarge = int64_t{24} << 30;
  if (backend != Backend::metal) return {};
  const bool wire = ram >= kLarge && weights <= ram / 2 && weights <= budget.bytes;
  return {budget.bytes, budget.bytes / 8, wire ? weights : 0};
}

void set_memory_limits(const plan::Budget& budget, int64_t weights) {
  const auto limits =
      memory_limits(backend(), budget, weights, static_cast<int64_t>(kernels::memory_size()));
  const auto bytes = [](int64_t n) { return static_cast<size_t>(std::max<int64_t>(0, n)); };
  if (limits.memory) mx::set_memory_limit(bytes(*limits.memory));
  if (limits.cache) mx::set_cache_limit(bytes(*limits.cache));
  if (limits.wired) mx::set_wired_limit(bytes(*limits.wired));
}

}  // namespace lmxlab
