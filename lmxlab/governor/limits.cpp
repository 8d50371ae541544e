#include "lmxlab/governor/limits.h"

#include "lmxlab/kernels/machine.h"
#include "lmxlab/kernels/memory.h"

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
  if (backend == Backend::cuda) return {budget.bytes, {}, {}};
  if (backend != Backend::metal) return {};
  const bool wire = ram >= kLarge && weights <= ram / 2 && weights <= budget.bytes;
  return {budget.bytes, budget.bytes / 8, wire ? weights : 0};
}

void set_memory_limits(const plan::Budget& budget, int64_t weights) {
  const auto on = backend();
  const auto limits =
      memory_limits(on, budget, weights, static_cast<int64_t>(kernels::memory_size()));
  const auto bytes = [](int64_t n) { return static_cast<size_t>(std::max<int64_t>(0, n)); };
  if (limits.memory) {
    const auto own = mx::get_memory_limit();  // no more than MLX itself would take
    mx::set_memory_limit(on == Backend::cuda ? std::min(own, bytes(*limits.memory))
                                             : bytes(*limits.memory));
  }
  if (limits.cache) mx::set_cache_limit(bytes(*limits.cache));
  if (limits.wired) mx::set_wired_limit(bytes(*limits.wired));
}

void limit_queue(const plan::Plan& plan) {
  const auto room = plan.budget.bytes - plan.parts.mapped - plan.parts.largest_op;
  kernels::set_queue_limit(static_cast<size_t>(std::max<int64_t>(0, room)));
  // CUDA's allocator takes kept buffers for smaller ones, up to 32 KB too large.
  const auto spare = plan.budget.bytes - plan.parts.peak();
  if (backend() == Backend::cuda)
    mx::set_cache_limit(static_cast<size_t>(std::max<int64_t>(0, spare)));
}

}  // namespace lmxlab
