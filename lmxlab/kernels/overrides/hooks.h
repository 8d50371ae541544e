// What the overriding object files (allocator.cc, gemm.cc) tell the library about themselves: each
// registers when the program starts. In a program without them (other builds of MLX, other systems)
// nothing is registered.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

namespace lmxlab::kernels::detail {

struct AllocatorHooks {
  uint64_t (*blocks_of_this_thread)();  // how many blocks this thread has asked of our allocator
  void (*step)(bool begins);  // of generation: one begins, or all before the last are over
};

struct GemmHooks {
  const void* entry;        // our cblas_sgemm
  uint64_t (*calls)();      // how often it was called
  const char* (*engine)();  // the library that computes the parts
};

// See kernels/rehearsal.h; of the calling thread.
struct RehearsalHooks {
  void* (*begin)();
  void (*end)(void* rehearsal);
  bool (*running)();
  void (*defer)(std::function<void()> task);  // running: it holds buffers until
  void (*finish)();                           // what is queued is waited for
  void (*workspace)(size_t bytes);
  size_t (*active)(void* rehearsal);
  size_t (*peak)(void* rehearsal);
  size_t (*workspace_at_peak)(void* rehearsal);
  void (*reset_peak)(void* rehearsal);
  void (*begin_op)();
  void (*end_op)(size_t more);  // it may take so much more than it did
  size_t (*largest_op)(void* rehearsal);
};

// Of a back end whose queue runs ahead of what it has done: where more memory than that is held, an
// evaluation waits after each op.
struct QueueHooks {
  void (*set_limit)(size_t bytes);
};

// A rehearsal's tasks: dropped where a stream would have been waited for. Elsewhere nothing.
void defer_task(std::function<void()> task);
void finish_deferred_tasks();
// A walk's op (graph_walk.h), whose most is kept, what it gives back itself too.
void begin_op();
void end_op(size_t more);

void register_allocator(const AllocatorHooks* hooks);
void register_rehearsal(const RehearsalHooks* hooks);
void register_queue(const QueueHooks* hooks);
void register_gemm(const GemmHooks* hooks);

}  // namespace lmxlab::kernels::detail
