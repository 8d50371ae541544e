#include "lmxlab/kernels/rehearsal.h"

#include <mlx/mlx.h>

#include <atomic>
#include <functional>
#include <utility>

#include "lmxlab/base/error.h"
#include "lmxlab/kernels/memory.h"
#include "lmxlab/kernels/overrides/hooks.h"

namespace lmxlab::kernels {
namespace {

constinit std::atomic<const detail::RehearsalHooks*> hooks{nullptr};

}  // namespace

void detail::register_rehearsal(const RehearsalHooks* given) {
  hooks = given;
}

void detail::defer_task(std::function<void()> task) {
  if (rehearsing()) hooks.load()->defer(std::move(task));
}
void detail::finish_deferred_tasks() {
  if (rehearsing()) hooks.load()->finish();
}

void detail::begin_op() {
  if (rehearsing()) hooks.load()->begin_op();
}
void detail::end_op(size_t more) {
  if (rehearsing()) hooks.load()->end_op(more);
}

bool can_rehearse() {
  return hooks.load() && (own_allocator() || mlx::core::gpu::is_available());
}

bool rehearsing() {
  const auto* h = hooks.load(std::memory_order_relaxed);
  return h && h->running();
}

template <class T>
mlx::core::array host_array(const T* numbers, mlx::core::Shape shape) {
  const mlx::core::Dtype type = mlx::core::TypeToDtype<T>();
  if (!rehearsing()) return mlx::core::array(numbers, std::move(shape), type);
  auto out = mlx::core::zeros(std::move(shape), type);
  out.eval();
  return out;
}
template mlx::core::array host_array(const int32_t*, mlx::core::Shape);
template mlx::core::array host_array(const float*, mlx::core::Shape);

void wait_for_stream(const mlx::core::Stream& stream) {
  if (!rehearsing()) return mlx::core::synchronize(stream);
  hooks.load()->finish();
}

void expect_workspace(size_t bytes) {
  if (const auto* h = hooks.load(std::memory_order_relaxed)) h->workspace(bytes);
}

Rehearsal::Rehearsal() {
  if (!can_rehearse()) {
    throw Error(Kind::unsupported,
                "[rehearsal] the memory of a step is known beforehand where the program's own "
                "allocator stands in front of MLX's, which is on Linux.");
  }
  if (rehearsing()) throw Error(Kind::internal, "[rehearsal] one inside another");
  state_ = hooks.load()->begin();
}
Rehearsal::~Rehearsal() {
  hooks.load()->end(state_);
}
size_t Rehearsal::active() const {
  return hooks.load()->active(state_);
}
size_t Rehearsal::peak() const {
  return hooks.load()->peak(state_);
}
size_t Rehearsal::workspace_at_peak() const {
  return hooks.load()->workspace_at_peak(state_);
}
size_t Rehearsal::largest_op() const {
  return hooks.load()->largest_op(state_);
}
void Rehearsal::reset_peak() {
  hooks.load()->reset_peak(state_);
}

}  // namespace lmxlab::kernels
