// Evaluations that wait for the card after each op where much memory is held.
#pragma once

#include <atomic>
#include <cstddef>

namespace lmxlab::kernels::detail {

class Queue {
 public:
  static inline std::atomic<size_t> limit{SIZE_MAX};

  /// While one lives this thread evaluates.
  class Evaluating {
   public:
    Evaluating() { depth_++; }
    ~Evaluating() { depth_--; }
  };
  static bool evaluating() { return depth_ > 0; }

 private:
  static inline thread_local int depth_ = 0;
};

}  // namespace lmxlab::kernels::detail
