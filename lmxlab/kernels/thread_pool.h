// The process's one pool of threads for kernels.
//
// The cut into parts depends on the size of the work and on threads() alone, never on timing, so a
// kernel's result is the same each time; a different number of threads may change the order of sums
// and so the last bits. Nested calls, and calls while another thread's work is in the pool, run the
// same parts one after another in the caller. The pool is never destroyed: MLX's stream threads
// outlive static destructors. It does not survive fork().
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

namespace lmxlab::kernels {

/// Threads that share the work, the caller included. At first usable_cpus().
int threads();
/// @param n  1 to 256; 0 means usable_cpus() again. Takes effect with the next call.
/// @throws Error(usage) outside that range.
void set_threads(int n);

/// Whether this thread runs a part now: whatever it starts runs on it alone.
bool in_part();
/// Which of threads() runs the current part, from 0: a scratch each is enough. 0 outside of parts.
int slot();

namespace detail {
using Part = void (*)(void* body, int64_t part);
void run_parts(int64_t parts, Part call, void* body);
using Done = bool (*)(void* done);
void work_until(Done call, void* done);
}  // namespace detail

/// Calls body(part) for every part in [0, parts), each once, and returns when all are done.
/// The first exception is rethrown here once no part runs any more; parts not yet begun are skipped
/// then.
/// @cost  about 2 us when the workers are awake, a wake-up (10 to 50 us) when they sleep.
template <class F>
void parallel_parts(int64_t parts, F&& body) {
  using Body = std::remove_reference_t<F>;
  detail::run_parts(
      parts, [](void* f, int64_t part) { (*static_cast<Body*>(f))(part); },
      const_cast<void*>(static_cast<const void*>(std::addressof(body))));
}

/// Waits until done() holds, and works on parts meanwhile, in the place of one of the pool's
/// threads. For a thread that prepares work and then waits for it, again and again: with a core of
/// its own it would be one thread more than there are cores, and push another off in the middle of
/// a part, for which all the rest wait. The pool's thread comes back when that place has been empty
/// for a millisecond or two. One thread at a time has it; others only wait.
/// @param done  called every microsecond and after every part
template <class F>
void work_until(F&& done) {
  using Body = std::remove_reference_t<F>;
  detail::work_until([](void* f) -> bool { return (*static_cast<Body*>(f))(); },
                     const_cast<void*>(static_cast<const void*>(std::addressof(done))));
}

/// Calls body(begin, end) on pieces that cover [0, total); a piece has at least `grain` items,
/// where there are so many.
template <class F>
void parallel_for(int64_t total, int64_t grain, F&& body) {
  if (total <= 0) {
    return;
  }
  const int64_t n = threads();
  const int64_t fit = total / (grain > 0 ? grain : 1);
  // As many for each thread.
  const int64_t parts = n == 1 || fit < 2 ? 1 : fit < n ? fit : fit < 4 * n ? fit / n * n : 4 * n;
  if (parts == 1) {
    return body(int64_t{0}, total);
  }
  parallel_parts(parts,
                 [&](int64_t part) { body(total * part / parts, total * (part + 1) / parts); });
}

}  // namespace lmxlab::kernels
