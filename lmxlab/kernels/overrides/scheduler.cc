// The queue of MLX's CPU streams, which libmlx calls through its symbol table: in a rehearsal
// (kernels/rehearsal.h) tasks are not run, elsewhere they go their way.
#include <mlx/event.h>
#include <mlx/scheduler.h>

#include <functional>
#include <utility>

#include "lmxlab/kernels/overrides/hooks.h"
#include "lmxlab/kernels/overrides/next.h"
#include "lmxlab/kernels/rehearsal.h"

namespace mlx::core::scheduler {

void Scheduler::enqueue(Stream stream, std::function<void()> task) {
  if (lmxlab::kernels::rehearsing()) {
    lmxlab::kernels::detail::defer_task(std::move(task));
    // The task that would have said that one has ended is not run either.
    while (n_active_tasks() > 0) notify_task_completion(stream);
    return;
  }
  using Function = void (*)(Scheduler*, Stream, std::function<void()>);
  static const auto theirs = lmxlab::kernels::detail::next<Function>(
      "_ZN3mlx4core9scheduler9Scheduler7enqueueENS0_6StreamESt8functionIFvvEE");
  theirs(this, stream, std::move(task));
}

// The end of an evaluation, which its caller waits for.
void Scheduler::signal_event(Stream stream, Event event, std::function<void(Event&)> task) {
  lmxlab::kernels::detail::finish_deferred_tasks();
  using Function = void (*)(Scheduler*, Stream, Event, std::function<void(Event&)>);
  static const auto theirs = lmxlab::kernels::detail::next<Function>(
      "_ZN3mlx4core9scheduler9Scheduler12signal_eventENS0_"
      "6StreamENS0_5EventESt8functionIFvRS4_EE");
  theirs(this, stream, std::move(event), std::move(task));
}

}  // namespace mlx::core::scheduler

// An evaluation that fails waits for its streams.
void mlx::core::synchronize(Stream stream) {
  if (lmxlab::kernels::rehearsing()) return lmxlab::kernels::detail::finish_deferred_tasks();
  using Function = void (*)(Stream);
  static const auto theirs =
      lmxlab::kernels::detail::next<Function>("_ZN3mlx4core11synchronizeENS0_6StreamE");
  theirs(stream);
}
