// The allocator of MLX's CPU build, replaced: libmlx calls these exported functions through its
// symbol table, so the program's definitions win. What is different from MLX's own:
// - a block that cannot be had is an Error(resource), found out before the system overcommits and
//   its OOM killer comes;
// - data lie on 64-byte lines;
// - the calling thread lets its own streams finish before it takes a block above 64 KiB, or has
//   taken as much in smaller ones (in a step of generation 256 KiB and 8 MiB), so the peak depends
//   on the program and not on how far the graph ran ahead of the kernels;
// - freed blocks are kept by size class, so growing sizes find one, up to an eighth of RAM (at most
//   4 GiB);
// - set_memory_limit() is hard. MLX documents a guideline, past which "allocations will result in
//   an exception" once RAM is used up; its CPU build never throws, and a limit that can be passed
//   protects nobody. Default: all of RAM.
#include <mlx/allocator.h>
#include <mlx/backend/cpu/encoder.h>
#include <mlx/memory.h>
#include <mlx/scheduler.h>
#include <mlx/stream.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "lmxlab/base/error.h"
#include "lmxlab/kernels/machine.h"
#include "lmxlab/kernels/memory.h"
#include "lmxlab/kernels/overrides/hooks.h"
#include "lmxlab/kernels/overrides/pages.h"
#include "lmxlab/kernels/overrides/rehearsal_hooks.h"
#include "lmxlab/kernels/rehearsal.h"
#include "lmxlab/kernels/thread_pool.h"

namespace {

using lmxlab::Error;
using lmxlab::Kind;
using lmxlab::kernels::MemoryFor;
using lmxlab::kernels::MemoryUse;

// What is taken without waiting for the streams: blocks up to `block`, and `window` bytes of them.
struct Small {
  size_t block, window;
};
constexpr Small kSmall{size_t{64} << 10, size_t{64} << 10};
constexpr Small kSmallInStep{size_t{256} << 10, size_t{8} << 20};
constexpr size_t kChecked = size_t{256} << 10;  // from here on the machine's room is looked at
constexpr size_t kStride = size_t{64} << 20;    // taken between two looks

class Rehearsed;

// In front of the data, on the line before. MLX reads `size` there, 8 bytes before the data; it
// must be what was asked for, since `contiguous` copies out of buffers that look much larger than
// the array.
struct alignas(64) Block {
  size_t capacity;       // bytes from the data on
  Block *newer, *older;  // all cached blocks, by age
  Block *above, *below;  // cached blocks of one class
  size_t small;          // taken without waiting for the streams, in this step (Ledger)
  Rehearsed* rehearsed;  // whose it is, if it is not there
  size_t size;

  char* data() { return reinterpret_cast<char*>(this + 1); }
  void* handle() { return &size; }
  static Block* of(void* handle) {
    return reinterpret_cast<Block*>(static_cast<char*>(handle) - offsetof(Block, size));
  }
};
static_assert(sizeof(Block) == 64 && offsetof(Block, size) == 56);

// Eight classes an octave, and from 1 MiB on 32: at most an eighth, or a 32nd, of a block is not
// used. A block that is used again has all its pages, needed or not.
constexpr int kFine = 20, kFirstFine = 8 + (kFine - 9) * 8;
int class_of(size_t n) {
  if (n <= 512) {
    return static_cast<int>((std::max<size_t>(n, 1) - 1) / 64);
  }
  const int octave = std::bit_width(n - 1) - 1;  // 2^octave <= n - 1
  if (octave < kFine) return 8 + (octave - 9) * 8 + static_cast<int>((n - 1) >> (octave - 3) & 7);
  return kFirstFine + (octave - kFine) * 32 + static_cast<int>((n - 1) >> (octave - 5) & 31);
}
size_t capacity_of(int index) {
  if (index < 8) {
    return size_t(index + 1) * 64;
  }
  const int bits = index < kFirstFine ? 3 : 5;
  const int at = index < kFirstFine ? index - 8 : index - kFirstFine;
  const int octave = (index < kFirstFine ? 9 : kFine) + (at >> bits);
  return (size_t{1} << octave) + (size_t((at & ((1 << bits) - 1)) + 1) << (octave - bits));
}
constexpr int kClasses = kFirstFine + (47 - kFine) * 32;
constexpr size_t kLargest = size_t{1} << 46;

std::string amount(size_t bytes) {
  const double mib = double(bytes) / (1 << 20);
  return std::to_string(bytes) + " bytes (" + std::to_string(size_t(mib + 0.5)) + " MiB)";
}

[[noreturn]] void refuse(size_t n, const std::string& why) {
  throw Error(Kind::resource, "[memory] cannot allocate " + amount(n) + ": " + why);
}

Block* take_from_system(size_t capacity) {
  void* const memory = lmxlab::kernels::pages::take(capacity + sizeof(Block));
  if (!memory) return nullptr;
  auto* const block = new (memory) Block{};
  block->capacity = capacity;
  return block;
}

void allow(Block* block, size_t n) noexcept {
  lmxlab::kernels::pages::allow(block->data(), n, block->capacity);
}

void give_to_system(Block* block) noexcept {
  allow(block, block->capacity);
  lmxlab::kernels::pages::give(block, block->capacity + sizeof(Block));
}

// Freed blocks, newest first in each class. Not thread-safe: the allocator's mutex is around it.
class Cache {
 public:
  size_t bytes() const { return bytes_; }

  void put(Block* block) noexcept {
    Block*& top = tops_[class_of(block->capacity)];
    block->above = nullptr;
    block->below = top;
    if (top) {
      top->above = block;
    }
    top = block;
    block->newer = nullptr;
    block->older = newest_;
    (newest_ ? newest_->newer : oldest_) = block;
    newest_ = block;
    bytes_ += block->capacity;
  }

  // The request's own class, or the next above it.
  Block* get(int index) noexcept {
    for (int i = index; i <= index + 1 && i < kClasses; i++) {
      if (Block* block = tops_[i]) {
        remove(block, i);
        return block;
      }
    }
    return nullptr;
  }

  // Gives the oldest back to the system until at most `keep` bytes are left.
  void shrink(size_t keep) noexcept {
    while (bytes_ > keep) {
      Block* block = oldest_;
      remove(block, class_of(block->capacity));
      give_to_system(block);
    }
  }

 private:
  void remove(Block* block, int index) noexcept {
    (block->above ? block->above->below : tops_[index]) = block->below;
    if (block->below) {
      block->below->above = block->above;
    }
    (block->newer ? block->newer->older : newest_) = block->older;
    (block->older ? block->older->newer : oldest_) = block->newer;
    bytes_ -= block->capacity;
  }

  Block* tops_[kClasses] = {};
  Block *newest_ = nullptr, *oldest_ = nullptr;
  size_t bytes_ = 0;
};

// Whether this is for a task's own use: a part of one may run on any thread.
bool of_task() {
  return MemoryFor::now() == MemoryUse::task || lmxlab::kernels::in_part();
}

// The streams that the calling thread may put work on. Only those are waited for: another thread's
// stream may wait for something that this thread has yet to queue, and a stream's own thread (where
// a kernel may take a workspace) must not wait for itself, nor a thread of the pool for its caller.
// A thread-unsafe stream is everybody's, so the first to see one marks its thread with a task.
class OwnStreams {
 public:
  // @return  false on a stream's own thread, which waits for nobody.
  static bool drain() {
    thread_local OwnStreams own;
    if (lmxlab::kernels::rehearsing() || on_stream_thread_ || of_task()) return false;
    own.update();
    for (const auto& stream : own.list_) {
      wait(stream);
    }
    return true;
  }

 private:
  static void wait(mlx::core::Stream stream) {
    auto done = std::make_shared<std::atomic<bool>>(false);
    mlx::core::scheduler::enqueue(stream, [done] { done->store(true, std::memory_order_release); });
    lmxlab::kernels::work_until([&] { return done->load(std::memory_order_acquire); });
  }

  void update() {
    const auto all = mlx::core::get_streams();
    for (; seen_ < all.size(); seen_++) {
      const auto& stream = all[seen_];
      if (stream.device != mlx::core::Device::cpu) {
        continue;
      }
      try {
        mlx::core::cpu::get_command_encoder(stream);
      } catch (const std::exception&) {
        continue;  // of another thread
      }
      mlx::core::scheduler::enqueue(stream, [] { on_stream_thread_ = true; });
      list_.push_back(stream);
    }
  }

  size_t seen_ = 0;
  std::vector<mlx::core::Stream> list_;
  static thread_local bool on_stream_thread_;
};
thread_local bool OwnStreams::on_stream_thread_ = false;

// Live bytes and their peak. Between two drains the stream frees blocks at moments of its own. For
// the peak to be a property of the program, small blocks count as if none of them were freed before
// the next drain (which comes before they are more than a window), or before the end of the step of
// generation after the one that took them; large ones are only taken after a drain, and what tasks
// take is in the stream's own order: both count exactly.
class Ledger {
 public:
  static const Small& small_ones() {
    return MemoryFor::now() == MemoryUse::step ? kSmallInStep : kSmall;
  }
  bool ends_window(size_t n) const {
    const auto& most = small_ones();
    return n > most.block || window_small_ + n > most.window;
  }
  void close_window() {
    peak_ = std::max(peak_, window_peak());
    base_small_ = small_;
    window_small_ = freed_in_step_ = 0;
    window_large_ = active_ - small_;
  }
  /// @return  the step that it belongs to if it counts as small, else 0.
  size_t add(size_t n) {
    active_ += n;
    if (n <= small_ones().block && !of_task()) {
      small_ += n;
      window_small_ += n;
      return step_;
    }
    window_large_ = std::max(window_large_, active_ - small_);
    return 0;
  }
  void remove(size_t n, size_t step) {
    active_ -= n;
    if (step == 0) return;
    small_ -= n;
    if (step == step_) freed_in_step_ += n;
  }
  void begin_step() {
    step_++;
    freed_in_step_ = 0;
  }
  /// The steps before the last that began are over.
  void end_steps() {
    peak_ = std::max(peak_, window_peak());
    base_small_ = small_ + freed_in_step_;
    window_small_ = 0;
  }
  void reset_peak() {
    close_window();
    peak_ = active_;
  }
  const size_t& active() const { return active_; }
  size_t peak() const { return std::max(peak_, window_peak()); }

 private:
  size_t window_peak() const { return base_small_ + window_small_ + window_large_; }

  size_t active_ = 0, peak_ = 0;
  size_t small_ = 0;          // live bytes of small blocks
  size_t base_small_ = 0;     // the same at the last drain
  size_t window_small_ = 0;   // taken since then
  size_t window_large_ = 0;   // the most live bytes of large blocks since then
  size_t step_ = 1;           // of generation, the last that began
  size_t freed_in_step_ = 0;  // small ones that it took itself, since the last drain
};

thread_local uint64_t blocks_taken = 0;

// Blocks that are counted but not there, but for the bytes that the host may write itself: numbers,
// short lists of tokens. It lives until its last block is given back.
class Rehearsed : public lmxlab::kernels::detail::LargestOp {
 public:
  static thread_local Rehearsed* now;

  ~Rehearsed() {
    for (void* const memory : free_) std::free(memory);
  }

  Block* take(size_t n) {
    const bool large = n > kThere;
    void* memory = nullptr;
    if (large) {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!free_.empty()) memory = free_.back(), free_.pop_back();
    }
    if (!memory)
      memory = std::aligned_alloc(64, sizeof(Block) + (large ? kThere : (n + 63) / 64 * 64));
    if (!memory) refuse(n, "the system gives no more memory.");
    auto* const block = new (memory) Block{};
    std::memset(block->data(), 0, std::min<size_t>(n, 4096));
    block->rehearsed = this;
    block->size = n;
    const bool drains = ends_window(n);
    if (drains) finish_tasks();
    std::lock_guard<std::mutex> lock(mutex_);
    if (drains) ledger_.close_window();
    const size_t before = ledger_.peak();
    block->small = ledger_.add(n);
    if (ledger_.peak() > before) workspace_ = 0;
    see(ledger_.active());
    blocks_++;
    return block;
  }
  static void give(Block* block) {
    Rehearsed* self = block->rehearsed;
    {
      std::lock_guard<std::mutex> lock(self->mutex_);
      self->ledger_.remove(block->size, block->small);
      if (block->size > kThere)
        self->free_.push_back(block);
      else
        std::free(block);
      if (--self->blocks_ > 0 || !self->over_) self = nullptr;
    }
    delete self;
  }
  /// Of the task that is queued next: taken when the queue comes to it, and what earlier tasks
  /// held is given back.
  void workspace(size_t n) { tasks_.push_back({nullptr, n}); }
  void end() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      over_ = true;
      if (blocks_ > 0) return;
    }
    delete this;
  }
  /// A task in the stream's queue: it holds buffers until the queue is waited for.
  void defer(std::function<void()> task) { tasks_.push_back({std::move(task), 0}); }
  void finish_tasks() {
    for (auto& task : std::exchange(tasks_, {})) {
      if (task.workspace) take_workspace(task.workspace);
      task.holds = nullptr;
    }
  }

  size_t active() {
    std::lock_guard<std::mutex> lock(mutex_);
    return ledger_.active();
  }
  size_t peak() {
    std::lock_guard<std::mutex> lock(mutex_);
    return ledger_.peak();
  }
  size_t workspace_at_peak() {
    std::lock_guard<std::mutex> lock(mutex_);
    return workspace_;
  }
  void reset_peak() {
    std::lock_guard<std::mutex> lock(mutex_);
    ledger_.reset_peak();
    workspace_ = 0;
    forget_ops();
  }
  void step(bool begins) {
    std::lock_guard<std::mutex> lock(mutex_);
    begins ? ledger_.begin_step() : ledger_.end_steps();
  }

 private:
  bool ends_window(size_t n) {
    std::lock_guard<std::mutex> lock(mutex_);
    return ledger_.ends_window(n);
  }

  // Of a block, at most; larger ones are used again. A model of 80 layers has ten thousand at a
  // time.
  static constexpr size_t kThere = size_t{64} << 10;

  void take_workspace(size_t n) {
    const MemoryFor task(MemoryUse::task);
    std::lock_guard<std::mutex> lock(mutex_);
    const size_t before = ledger_.peak();
    ledger_.remove(n, ledger_.add(n));
    if (ledger_.peak() > before) workspace_ = n;
  }

  struct Task {
    std::function<void()> holds;  // its buffers, and never runs
    size_t workspace;
  };
  std::vector<Task> tasks_;  // of the rehearsal's own thread
  std::mutex mutex_;
  std::vector<void*> free_;  // large ones: the system maps and unmaps them slowly
  Ledger ledger_;
  size_t workspace_ = 0;  // at the peak
  size_t blocks_ = 0;
  bool over_ = false;
};
thread_local Rehearsed* Rehearsed::now = nullptr;

class OwnAllocator final : public mlx::core::allocator::Allocator {
 public:
  // Leaked: stream threads outlive static destructors.
  static OwnAllocator& get() {
    static OwnAllocator* allocator = new OwnAllocator;
    return *allocator;
  }

  mlx::core::allocator::Buffer malloc(size_t n) override {
    blocks_taken++;
    if (n > kLargest) {
      refuse(n, "no machine has so much. Use smaller sizes.");
    }
    if (Rehearsed::now) return mlx::core::allocator::Buffer{Rehearsed::now->take(n)->handle()};
    const bool drained = ends_window(n) && OwnStreams::drain();
    const int index = class_of(n);
    std::unique_lock<std::mutex> lock(mutex_);
    if (drained) ledger_.close_window();
    if (n > limit_ || ledger_.active() > limit_ - n) {
      lock.unlock();
      refuse_over_limit(n);
    }
    Block* block = cache_.get(index);
    if (!block) {
      block = take(n, capacity_of(index));
    }
    block->size = n;
    allow(block, n);
    block->small = ledger_.add(n);
    return mlx::core::allocator::Buffer{block->handle()};
  }

  void free(mlx::core::allocator::Buffer buffer) override {
    if (!buffer.ptr()) {
      return;
    }
    Block* block = Block::of(buffer.ptr());
    if (block->rehearsed) return Rehearsed::give(block);
    std::unique_lock<std::mutex> lock(mutex_);
    ledger_.remove(block->size, block->small);
    if (block->capacity > cache_limit_) {
      lock.unlock();
      return give_to_system(block);
    }
    allow(block, 0);
    cache_.put(block);
    cache_.shrink(cache_limit_);
  }

  size_t size(mlx::core::allocator::Buffer buffer) const override {
    return buffer.ptr() ? *static_cast<const size_t*>(buffer.ptr()) : 0;
  }

  size_t active() {
    if (Rehearsed::now) return Rehearsed::now->active();
    return locked(ledger_.active());
  }
  size_t peak() {
    if (Rehearsed::now) return Rehearsed::now->peak();
    std::lock_guard<std::mutex> lock(mutex_);
    return ledger_.peak();
  }
  size_t limit() { return locked(limit_); }
  void reset_peak() {
    if (Rehearsed::now) return Rehearsed::now->reset_peak();
    OwnStreams::drain();
    std::lock_guard<std::mutex> lock(mutex_);
    ledger_.reset_peak();
  }
  void step(bool begins) {
    if (Rehearsed::now) return Rehearsed::now->step(begins);
    std::lock_guard<std::mutex> lock(mutex_);
    begins ? ledger_.begin_step() : ledger_.end_steps();
  }
  size_t set_limit(size_t bytes) {
    std::lock_guard<std::mutex> lock(mutex_);
    return std::exchange(limit_, bytes);
  }
  size_t cached() {
    std::lock_guard<std::mutex> lock(mutex_);
    return cache_.bytes();
  }
  size_t set_cache_limit(size_t bytes) {
    OwnStreams::drain();
    std::lock_guard<std::mutex> lock(mutex_);
    cache_.shrink(bytes);
    return std::exchange(cache_limit_, bytes);
  }
  void clear_cache() {
    OwnStreams::drain();
    std::lock_guard<std::mutex> lock(mutex_);
    cache_.shrink(0);
  }

 private:
  OwnAllocator()
      : limit_(lmxlab::kernels::memory_size()),
        cache_limit_(std::min(limit_ / 8, size_t{4} << 30)) {}

  bool ends_window(size_t n) {
    std::lock_guard<std::mutex> lock(mutex_);
    return ledger_.ends_window(n);
  }
  size_t locked(const size_t& value) {
    std::lock_guard<std::mutex> lock(mutex_);
    return value;
  }

  void refuse_over_limit(size_t n) {
    refuse(n, "the memory limit is " + amount(limit()) + ", of which " + amount(active()) +
                  " are in use. Use smaller sizes, or raise the limit.");
  }

  // From the system, under the mutex. The machine's room is read at each large block and after each
  // kStride of small ones.
  Block* take(size_t n, size_t capacity) {
    // Blocks and what is kept of them are together no more than the peak, and a little: what the
    // process holds is then what its arrays need.
    const size_t active = ledger_.active();
    const size_t most = std::min(limit_, std::max(ledger_.peak(), active + n));
    const size_t kept =
        most + lmxlab::kernels::kept_beside(most) - std::min(active + capacity, most);
    cache_.shrink(std::min(kept, limit_ > active + capacity ? limit_ - active - capacity : 0));
    if (capacity >= kChecked) {
      if (capacity > credit_) {
        auto room = lmxlab::kernels::memory_room();
        if (n > room.bytes && cache_.bytes() > 0) {
          cache_.shrink(0);
          room = lmxlab::kernels::memory_room();
        }
        if (n > room.bytes) {
          credit_ = 0;
          refuse(n, room.bound + " has " + amount(room.bytes) + " left, and " +
                        amount(ledger_.active()) + " are in use here. Use smaller sizes.");
        }
        const size_t left = room.bytes - n;
        credit_ = std::min(left / 4, kStride);
      } else {
        credit_ -= capacity;
      }
    }
    Block* block = take_from_system(capacity);
    if (!block && cache_.bytes() > 0) {
      cache_.shrink(0);
      block = take_from_system(capacity);
    }
    if (!block) {
      refuse(n, "the system gives no more memory, and " + amount(ledger_.active()) +
                    " are in use here. Use smaller sizes.");
    }
    return block;
  }

  std::mutex mutex_;
  Cache cache_;
  size_t limit_, cache_limit_;
  Ledger ledger_;
  size_t credit_ = 0;
};

const lmxlab::kernels::detail::AllocatorHooks hooks{
    [] { return blocks_taken; }, [](bool begins) { OwnAllocator::get().step(begins); }};
const bool registered = (lmxlab::kernels::detail::register_allocator(&hooks), true);

const auto rehearsal_hooks = lmxlab::kernels::detail::hooks_of<Rehearsed>();
const bool rehearses = (lmxlab::kernels::detail::register_rehearsal(&rehearsal_hooks), true);

}  // namespace

namespace mlx::core {

allocator::Allocator& allocator::allocator() {
  return OwnAllocator::get();
}

size_t get_active_memory() {
  return OwnAllocator::get().active();
}
size_t get_peak_memory() {
  return OwnAllocator::get().peak();
}
void reset_peak_memory() {
  OwnAllocator::get().reset_peak();
}
size_t get_cache_memory() {
  return OwnAllocator::get().cached();
}
size_t set_cache_limit(size_t bytes) {
  return OwnAllocator::get().set_cache_limit(bytes);
}
void clear_cache() {
  OwnAllocator::get().clear_cache();
}
size_t get_memory_limit() {
  return OwnAllocator::get().limit();
}
size_t set_memory_limit(size_t bytes) {
  return OwnAllocator::get().set_limit(bytes);
}
size_t set_wired_limit(size_t) {
  return 0;
}  // a matter of Metal

}  // namespace mlx::core
