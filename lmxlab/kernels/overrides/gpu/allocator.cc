// The allocator of MLX's CUDA build, in front of which this one stands for rehearsals alone
// (kernels/rehearsal.h): blocks that are counted but not there. All else goes its way. libmlx calls
// these exported functions through its symbol table, so the program's definitions win.
#include <mlx/allocator.h>
#include <mlx/memory.h>
#include <mlx/scheduler.h>
#include <mlx/stream.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <mutex>
#include <unordered_set>
#include <utility>
#include <vector>

#include "lmxlab/base/error.h"
#include "lmxlab/kernels/overrides/gpu/queue.h"
#include "lmxlab/kernels/overrides/next.h"
#include "lmxlab/kernels/overrides/rehearsal_hooks.h"

namespace {

using lmxlab::kernels::detail::next;
using lmxlab::kernels::detail::Queue;
using mlx::core::allocator::Allocator;
using mlx::core::allocator::Buffer;

// As MLX's CUDA allocator counts: by pages, and by powers of two below one.
size_t counted(size_t n) {
  constexpr size_t kLeast = 8, kPage = 16384;
  if (n == 0) return 0;
  if (n <= kLeast) return kLeast;
  return n < kPage ? std::bit_ceil(n) : (n + kPage - 1) / kPage * kPage;
}

class Rehearsed : public lmxlab::kernels::detail::LargestOp {
 public:
  static thread_local Rehearsed* now;

  void add(size_t n) {
    std::lock_guard<std::mutex> lock(mutex_);
    active_ += n, blocks_++;
    peak_ = std::max(peak_, active_);
    see(active_);
  }
  void remove(size_t n) {
    std::unique_lock<std::mutex> lock(mutex_);
    active_ -= n;
    const bool last = --blocks_ == 0 && over_;
    lock.unlock();
    if (last) delete this;
  }
  void end() {
    std::unique_lock<std::mutex> lock(mutex_);
    over_ = true;
    const bool last = blocks_ == 0;
    lock.unlock();
    if (last) delete this;
  }
  void defer(std::function<void()> task) { tasks_.push_back(std::move(task)); }
  void finish_tasks() { std::exchange(tasks_, {}).clear(); }
  void workspace(size_t) {}  // what a card's kernels take for themselves is not known
  size_t workspace_at_peak() { return 0; }
  size_t active() {
    std::lock_guard<std::mutex> lock(mutex_);
    return active_;
  }
  size_t peak() {
    std::lock_guard<std::mutex> lock(mutex_);
    return peak_;
  }
  void reset_peak() {
    std::lock_guard<std::mutex> lock(mutex_);
    peak_ = active_;
    forget_ops();
  }

 private:
  std::vector<std::function<void()>> tasks_;  // of the rehearsal's own thread
  std::mutex mutex_;
  size_t active_ = 0, peak_ = 0, blocks_ = 0;
  bool over_ = false;
};
thread_local Rehearsed* Rehearsed::now = nullptr;

// Begins as MLX's CUDA buffers do, which Buffer::raw_ptr() reads: host memory, on no device.
struct Block {
  void* data;
  size_t size;
  int device = -1;
  Rehearsed* owner;
};

class Front final : public Allocator {
 public:
  // Leaked: blocks are given back after static destructors too.
  static Front& get() {
    static Front* front = new Front;
    return *front;
  }

  Buffer malloc(size_t n) override {
    if (!Rehearsed::now) return behind_.malloc(n);
    constexpr size_t kThere = size_t{1} << 20;
    void* const data = std::aligned_alloc(64, (std::clamp<size_t>(n, 1, kThere) + 63) / 64 * 64);
    if (!data)
      throw lmxlab::Error(lmxlab::Kind::resource,
                          "[memory] a rehearsal gets no memory from the system.");
    std::memset(data, 0, std::min<size_t>(n, 4096));
    auto* const block = new Block{data, n, -1, Rehearsed::now};
    block->owner->add(counted(n));
    std::lock_guard<std::mutex> lock(mutex_);
    blocks_.insert(block);
    live_.store(blocks_.size(), std::memory_order_release);
    return Buffer{block};
  }
  void free(Buffer buffer) override {
    if (!rehearsed(buffer.ptr())) return behind_.free(buffer);
    auto* const block = static_cast<Block*>(buffer.ptr());
    {
      std::lock_guard<std::mutex> lock(mutex_);
      blocks_.erase(block);
      live_.store(blocks_.size(), std::memory_order_release);
    }
    block->owner->remove(counted(block->size));
    std::free(block->data);
    delete block;
  }
  size_t size(Buffer buffer) const override {
    return rehearsed(buffer.ptr()) ? static_cast<const Block*>(buffer.ptr())->size
                                   : behind_.size(buffer);
  }
  Buffer make_buffer(void* data, size_t n) override { return behind_.make_buffer(data, n); }
  void release(Buffer buffer) override { behind_.release(buffer); }

 private:
  Front() : behind_(next<Allocator& (*)()>("_ZN3mlx4core9allocator9allocatorEv")()) {}

  bool rehearsed(const void* block) const {
    if (live_.load(std::memory_order_acquire) == 0) return false;
    std::lock_guard<std::mutex> lock(mutex_);
    return blocks_.count(block) > 0;
  }

  Allocator& behind_;
  mutable std::mutex mutex_;
  std::unordered_set<const void*> blocks_;
  std::atomic<size_t> live_{0};
};

const auto rehearsal_hooks = lmxlab::kernels::detail::hooks_of<Rehearsed>();
const bool rehearses = (lmxlab::kernels::detail::register_rehearsal(&rehearsal_hooks), true);

}  // namespace

namespace mlx::core {

allocator::Allocator& allocator::allocator() {
  return Front::get();
}
// Asked after every op of an evaluation.
size_t get_active_memory() {
  static const auto theirs = next<size_t (*)()>("_ZN3mlx4core17get_active_memoryEv");
  if (Rehearsed::now) return Rehearsed::now->active();
  const size_t limit = Queue::limit.load(std::memory_order_relaxed);
  if (limit == SIZE_MAX || !Queue::evaluating()) return theirs();
  // With more parts of the queue under way MLX waits for one of them and does not ask.
  constexpr int kUnderWay = 10;
  while (scheduler::n_active_tasks() >= kUnderWay) scheduler::wait_for_one();
  const size_t held = theirs();
  if (held <= limit) return held;
  // The first wait ends before the thread that gives buffers back is through with them, so that the
  // next op would find its inputs held, and take a buffer where it could write over one.
  synchronize();
  synchronize();
  return theirs();
}
size_t get_peak_memory() {
  static const auto theirs = next<size_t (*)()>("_ZN3mlx4core15get_peak_memoryEv");
  return Rehearsed::now ? Rehearsed::now->peak() : theirs();
}
void reset_peak_memory() {
  static const auto theirs = next<void (*)()>("_ZN3mlx4core17reset_peak_memoryEv");
  Rehearsed::now ? Rehearsed::now->reset_peak() : theirs();
}

}  // namespace mlx::core
