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
/// What our allocator (own_allocator()) keeps beside a peak for fresh blocks: a hundredth of it, or
/// 24 MB, without which a prompt of a small model is read a sixth slower.
size_t kept_beside(size_t peak);
void clear_cache();

/// Gives pages of a mapped file back to the system, which reads them again where they are touched
/// again: what was read once need not stay resident. A hint; other memory keeps its content.
void page_out(const void* data, size_t bytes);

/// The most that active_bytes() may reach. With our allocator (own_allocator()) a larger request is
/// an Error(resource), and so is one that the machine, the cgroup or RLIMIT_AS cannot serve,
/// whatever the limit; with MLX's own it is MLX's guideline (get_memory_limit in its
/// documentation).
size_t memory_limit();
/// @return  the limit before.
size_t set_memory_limit(size_t bytes);

/// On CUDA MLX queues ops far ahead of the card, and what they use is held until the card is done.
/// Where active_bytes() is above this, an evaluation waits for the card after each op and holds no
/// more than its graph needs; no limit unless set. On the other back ends nothing.
void set_queue_limit(size_t bytes);

/// Whether the arrays that MLX makes come from our allocator: found by letting MLX make one (once).
bool own_allocator();
/// Whether MLX's float32 matrix product on the CPU is ours: found in the running program's symbol
/// table.
bool own_gemm();
/// Calls of our matrix product so far, over all threads.
uint64_t gemm_calls();

/// What a thread takes memory for.
enum class MemoryUse : uint8_t {
  graph,  // to evaluate a graph: streams finish before a large block is taken
  task,   // inside a queued task, which would be waiting for itself: nobody is waited for. Nor do
          // parts on the pool's other threads wait
  step,  // a step of generation, of many small blocks: the stream need not finish for them, and the
         // peak is known to 8 MiB, from above
};

/// While one lives this thread takes memory for that.
class MemoryFor {
 public:
  explicit MemoryFor(MemoryUse use);
  ~MemoryFor();
  MemoryFor(const MemoryFor&) = delete;
  MemoryFor& operator=(const MemoryFor&) = delete;
  static MemoryUse now();

 private:
  MemoryUse before_;
};

/// Tell the allocator, for its peak: a step of generation begins; all but the last are over.
void step_begins();
void steps_are_over();

/// One line for a report, e.g. "lmxlab" or "MLX (CPU)".
std::string allocator_name();
/// e.g. "lmxlab (amx), 2 threads", or the library's file name.
std::string gemm_name();

}  // namespace lmxlab::kernels
