// The work that ops queue for a stream: by itself, or collected into a list.
#pragma once

#include <mlx/stream.h>

#include <cstddef>
#include <functional>
#include <vector>

namespace lmxlab::kernels {

using Task = std::function<void()>;

class Tasks {
 public:
  void add(Task task) { all_.push_back(std::move(task)); }
  size_t size() const { return all_.size(); }
  bool empty() const { return all_.empty(); }
  /// Each in its order.
  /// @throws the first exception of a task, after the last one: others may not need its output.
  void run();

 private:
  std::vector<Task> all_;
};

/// While one lives this thread's tasks go into a list, or to their streams again for nullptr.
class Collect {
 public:
  explicit Collect(Tasks* into);
  ~Collect();
  Collect(const Collect&) = delete;
  Collect& operator=(const Collect&) = delete;

 private:
  Tasks* before_;
};

/// Into the list that this thread collects, or into the stream's queue.
void queue_task(const mlx::core::Stream& stream, Task task);

}  // namespace lmxlab::kernels
