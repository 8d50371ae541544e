// Starts a step of generation with little work on the host.
#pragma once

#include <mlx/array.h>

#include <vector>

namespace lmxlab::kernels {

/// Queues what the outputs need, as mx::async_eval does, where all of it runs on one CPU stream;
/// elsewhere it is mx::async_eval. What MLX looks up in hash tables for every edge of the graph is
/// left out, which is half of what a token of a small model costs the host.
///
/// Outputs must be kept until they are available, or given to a step that is started after this
/// one: their buffers are not held by the queue, not for what reads them either, so that the next
/// step may be started before this one is done and still write into them.
/// @throws what an op throws while it is queued; outputs that were not reached stay unevaluated.
void start_step(const std::vector<mlx::core::array>& outputs);

/// Waits for an output; where it comes from a CPU stream, the calling thread helps to make it.
/// @throws what a task threw
void wait_for(const mlx::core::array& output);

/// Waits for all steps that this thread started, and drops what they held.
void finish_steps();

}  // namespace lmxlab::kernels
