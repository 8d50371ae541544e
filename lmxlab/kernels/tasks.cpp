#include "lmxlab/kernels/tasks.h"

#include <mlx/scheduler.h>

#include <exception>
#include <utility>

namespace lmxlab::kernels {
namespace {
thread_local Tasks* collected = nullptr;
}

void Tasks::run() {
  std::exception_ptr error;
  for (auto& task : all_) {
    try {
      task();
    } catch (...) {
      if (!error) error = std::current_exception();
    }
  }
  if (error) std::rethrow_exception(error);
}

Collect::Collect(Tasks* into) : before_(std::exchange(collected, into)) {}
Collect::~Collect() {
  collected = before_;
}

void queue_task(const mlx::core::Stream& stream, Task task) {
  if (collected) return collected->add(std::move(task));
  mlx::core::scheduler::enqueue(stream, std::move(task));
}

}  // namespace lmxlab::kernels
