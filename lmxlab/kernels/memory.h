// The memory of arrays, counted; and who serves MLX in the running program: whose allocator, whose
// matrix product.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace lmxlab::kernels {

/// Bytes of all live array buffers, as asked for. Mapped files and cached buffers are not in it.
size_t active_bytes();
/// The largest active_bytes() since the start or the last reset_peak().
size_t peak_bytes();
void reset_peak();

/// Bytes kept for reuse after their arrays died.
size_t cache_bytes();
/// @return  the limit before. Buffers above the new one go back to the system at once.
size_t set_cache_limit(size_t bytes);
void clear_cache();

/// The most that active_bytes() may reach. With our allocator (own_allocator()) a larger request is
/// an Error(resource), and so is one that the machine, the cgroup or RLIMIT_AS cannot serve,
/// whatever the limit; with MLX's own it is MLX's guideline (get_memory_limit in its
/// documentation).
size_t memory_limit();
/// @return  the limit before.
size_t set_memory_limit(size_t bytes);

/// Whether the arrays that MLX makes come from our allocator: found by letting MLX make one (once).
bool own_allocator();
/// Whether MLX's float32 matrix product on the CPU is ours: found in the running program's symbol
/// table.
bool own_gemm();
/// Calls of our matrix product so far, over all threads.
uint64_t gemm_calls();

/// Memory taken while one lives, on this thread, does not wait for streams first: inside a queued
/// task that would be waiting for oneself. Parts on the pool's other threads never wait.
class InsideTask {
 public:
  InsideTask();
  ~InsideTask();
  InsideTask(const InsideTask&) = delete;
  InsideTask& operator=(const InsideTask&) = delete;
  static bool any();

 private:
  bool before_;
};

/// Memory taken while one lives, on this thread, is that of a step of generation: many small
/// blocks, for which the stream need not be waited for. The peak is then known to 8 MiB, from
/// above.
class InStep {
 public:
  InStep();
  ~InStep();
  InStep(const InStep&) = delete;
  InStep& operator=(const InStep&) = delete;
  static bool any();

 private:
  bool before_;
};

/// One line for a report, e.g. "lmxlab" or "MLX (CPU)".
std::string allocator_name();
/// e.g. "lmxlab (amx), 2 threads", or the library's file name.
std::string gemm_name();

}  // namespace lmxlab::kernels
