// Steps of the graph without their work: everything happens as in a real evaluation (the order, who
// takes whose buffer, when memory is given back), but memory is only counted and no kernel runs. So
// the peak of a step is known before there is memory for it, to the byte, whatever its ops are.
#pragma once

#include <mlx/array.h>
#include <mlx/stream.h>

#include <cstddef>
#include <cstdint>

namespace lmxlab::kernels {

/// Whether this program can: on Linux, where our allocator and our queue serve MLX, or on CUDA
/// stand in front of its own and graphs are walked (graph_walk.h). An evaluation elsewhere would do
/// the work.
bool can_rehearse();

/// While one lives, this thread's arrays take no memory and its evaluations do no work: results
/// hold zeros (up to 4 KiB) or nothing at all (beyond 64 KiB), and must not be read. Give it arrays
/// and models of its own: what it evaluates is evaluated for good, without numbers.
class Rehearsal {
 public:
  /// @throws Error(unsupported) where it cannot be, Error(internal) inside another.
  Rehearsal();
  ~Rehearsal();
  Rehearsal(const Rehearsal&) = delete;
  Rehearsal& operator=(const Rehearsal&) = delete;

  /// As active_bytes() and peak_bytes() count, which inside mean these.
  size_t active() const;
  size_t peak() const;
  /// What of the peak a task takes for itself.
  size_t workspace_at_peak() const;
  /// The most that one op adds at once, of what is walked (graph_walk.h) since the last reset; else
  /// 0.
  size_t largest_op() const;
  void reset_peak();

 private:
  void* state_;
};

/// Whether this thread is inside one.
bool rehearsing();

/// An array of the host's numbers (int32_t or float); in a rehearsal, which has no
/// place for many, of zeros. Whatever may have more than 64 KiB and is made in a run is made by it.
template <class T>
mlx::core::array host_array(const T* numbers, mlx::core::Shape shape);

/// Waits for a stream as mx::synchronize does; in a rehearsal there is nothing to wait for but what
/// the queue would hold.
void wait_for_stream(const mlx::core::Stream& stream);

/// Said by an op in eval_cpu of what its task will take for itself while it runs, and no earlier.
void expect_workspace(size_t bytes);

}  // namespace lmxlab::kernels
