// The queue of MLX's CPU streams, which libmlx calls through its symbol table: in a rehearsal
// (kernels/rehearsal.h) tasks are dropped, elsewhere they go their way.
#include <dlfcn.h>
#include <mlx/scheduler.h>

#include <functional>
#include <utility>

#include "lmxlab/kernels/rehearsal.h"

namespace mlx::core::scheduler {

void Scheduler::enqueue(Stream stream, std::function<void()> task) {
  if (lmxlab::kernels::rehearsing()) {
    task = nullptr;  // with the buffers that it holds
    // The task that would have said that one has ended is dropped too.
    while (n_active_tasks() > 0) notify_task_completion(stream);
    return;
  }
  using Function = void (*)(Scheduler*, Stream, std::function<void()>);
  static const auto theirs = reinterpret_cast<Function>(
      dlsym(RTLD_NEXT, "_ZN3mlx4core9scheduler9Scheduler7enqueueENS0_6StreamESt8functionIFvvEE"));
  theirs(this, stream, std::move(task));
}

}  // namespace mlx::core::scheduler
