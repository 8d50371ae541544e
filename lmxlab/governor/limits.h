// What MLX is told of this machine's memory: one policy, set before a run's first big allocation.
#pragma once

#include "lmxlab/plan/plan.h"

#include <cstdint>
#include <optional>

namespace lmxlab {

enum class Backend { cpu, metal, cuda };

/// Bytes; none: as it is. On a CPU our allocator has its own limits, all of RAM and an eighth of
/// it; MLX's for a card are 95 % of it or the budget, and kept blocks go before one is refused.
struct MemoryLimits {
  std::optional<int64_t> memory, cache, wired;
};

/// On Metal: no more than the budget, where MLX would go half as far again and the system would
/// page; an eighth of it for blocks that are kept. Weights are wired where they are half of the
/// RAM at most and the Mac has 24 GB: a small one would freeze.
MemoryLimits memory_limits(Backend backend, const plan::Budget& budget, int64_t weights,
                           int64_t ram);

/// Tells MLX, of this machine and back end.
void set_memory_limits(const plan::Budget& budget, int64_t weights);

/// What is to run, on a card: its queue runs ahead while there is room for an op more in the
/// budget, and blocks are kept for reuse in what the plan leaves of it.
void limit_queue(const plan::Plan& plan);

}  // namespace lmxlab
