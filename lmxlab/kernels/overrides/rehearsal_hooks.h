// What a class that counts a rehearsal's blocks does for the library (hooks.h).
#pragma once

#include <algorithm>
#include <functional>
#include <utility>

#include "lmxlab/kernels/overrides/hooks.h"

namespace lmxlab::kernels::detail {

// The most that one op of a walk added, since the last reset; of the rehearsal's own thread.
class LargestOp {
 public:
  void begin_op(size_t active) { before_ = most_ = active; }
  void see(size_t active) { most_ = std::max(most_, active); }
  void end_op(size_t more) { largest_ = std::max(largest_, most_ - before_ + more); }
  size_t largest_op() const { return largest_; }
  void forget_ops() { largest_ = 0; }

 private:
  size_t before_ = 0, most_ = 0, largest_ = 0;
};

template <class Rehearsed>
RehearsalHooks hooks_of() {
  static constexpr auto of = [](void* r) -> Rehearsed& { return *static_cast<Rehearsed*>(r); };
  return {[]() -> void* { return Rehearsed::now = new Rehearsed; },
          [](void* r) {
            of(r).finish_tasks();
            Rehearsed::now = nullptr;
            of(r).end();
          },
          [] { return Rehearsed::now != nullptr; },
          [](std::function<void()> task) { Rehearsed::now->defer(std::move(task)); },
          [] { Rehearsed::now->finish_tasks(); },
          [](size_t bytes) {
            if (Rehearsed::now) Rehearsed::now->workspace(bytes);
          },
          [](void* r) { return of(r).active(); },
          [](void* r) { return of(r).peak(); },
          [](void* r) { return of(r).workspace_at_peak(); },
          [](void* r) { of(r).reset_peak(); },
          [] { Rehearsed::now->begin_op(Rehearsed::now->active()); },
          [](size_t more) { Rehearsed::now->end_op(more); },
          [](void* r) { return of(r).largest_op(); }};
}

}  // namespace lmxlab::kernels::detail
