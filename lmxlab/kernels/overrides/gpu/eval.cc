// Evaluations of MLX's CUDA build: in a rehearsal the graph is walked (kernels/graph_walk.h), else
// they go their way.
#include <mlx/backend/cpu/encoder.h>
#include <mlx/transforms.h>

#include <utility>
#include <vector>

#include "lmxlab/kernels/graph_walk.h"
#include "lmxlab/kernels/overrides/gpu/queue.h"
#include "lmxlab/kernels/overrides/hooks.h"
#include "lmxlab/kernels/overrides/next.h"
#include "lmxlab/kernels/rehearsal.h"

using lmxlab::kernels::detail::next;
using lmxlab::kernels::detail::Queue;

namespace {

const lmxlab::kernels::detail::QueueHooks queue_hooks{[](size_t bytes) { Queue::limit = bytes; }};
const bool registered = (lmxlab::kernels::detail::register_queue(&queue_hooks), true);

}  // namespace

namespace mlx::core {

void eval(std::vector<array> outputs) {
  if (lmxlab::kernels::rehearsing()) return lmxlab::kernels::walk_graph(std::move(outputs));
  static const auto theirs =
      next<void (*)(std::vector<array>)>("_ZN3mlx4core4evalESt6vectorINS0_5arrayESaIS2_EE");
  const Queue::Evaluating here;
  theirs(std::move(outputs));
}
void async_eval(std::vector<array> outputs) {
  if (lmxlab::kernels::rehearsing()) return lmxlab::kernels::walk_graph(std::move(outputs));
  static const auto theirs =
      next<void (*)(std::vector<array>)>("_ZN3mlx4core10async_evalESt6vectorINS0_5arrayESaIS2_EE");
  const Queue::Evaluating here;
  theirs(std::move(outputs));
}

// Ops of a card's stream that are walked allocate as on the CPU, whose encoder they ask for.
cpu::CommandEncoder& cpu::get_command_encoder(Stream stream) {
  using Function = cpu::CommandEncoder& (*)(Stream);
  static const auto theirs = next<Function>("_ZN3mlx4core3cpu19get_command_encoderENS0_6StreamE");
  if (lmxlab::kernels::rehearsing() && stream.device == Device::gpu)
    return theirs(default_stream(Device::cpu));
  return theirs(stream);
}

}  // namespace mlx::core
