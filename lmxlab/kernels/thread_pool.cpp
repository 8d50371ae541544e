#include "lmxlab/kernels/thread_pool.h"

#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "lmxlab/base/error.h"
#include "lmxlab/kernels/machine.h"

namespace lmxlab::kernels {
namespace {

constexpr int kMaxThreads = 256;
constexpr int64_t kMaxParts = 0xffff;
// Waking a sleeping thread takes 50 us and more on a virtual machine, and a token of decode has a
// hundred gaps. So a thread stays awake for 30 to 70 us, longer than the gap between two kernels of
// one graph, and then about 1 ms more in which whoever else wants the core gets it.
constexpr int kSpins = 1500, kYields = 1500, kSpinsApart = 16;
// A guest (see work_until) then sleeps in pieces. Its place is kept for it between two calls.
constexpr auto kNap = std::chrono::microseconds(50);
constexpr auto kKept = std::chrono::microseconds(1500);

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Until done() holds: true; or for a while.
template <class Done>
bool wait_awake(Done done) {
  for (int i = 0; i < kSpins; i++) {
    if (done()) return true;
    relax();
  }
  for (int i = 0; i < kYields; i++) {
    for (int j = 0; j < kSpinsApart; j++) {
      if (done()) return true;
      relax();
    }
    std::this_thread::yield();
  }
  return false;
}

thread_local bool inside = false;  // a part runs on this thread, or it is a worker
thread_local int index_of_thread = 0;

using Clock = std::chrono::steady_clock;

class Pool {
 public:
  static Pool& get() {
    static Pool* pool = new Pool;
    return *pool;
  }

  int size() const { return size_.load(std::memory_order_relaxed); }
  void resize(int n) { size_.store(n, std::memory_order_relaxed); }

  void run(int64_t parts, detail::Part call, void* body) {
    std::unique_lock<std::mutex> job(job_, std::defer_lock);
    if (parts == 1 || parts > kMaxParts || inside || size() == 1 || !job.try_lock()) {
      for (int64_t part = 0; part < parts; part++) {
        call(body, part);
      }
      return;
    }
    start_workers();
    call_back();
    call_ = call;
    body_ = body;
    error_ = nullptr;
    failed_.store(false, std::memory_order_relaxed);
    left_.store(static_cast<uint32_t>(parts), std::memory_order_relaxed);
    const uint32_t epoch = epoch_.load(std::memory_order_relaxed) + 1;
    // The size may change meanwhile; the caller at least sees all shares.
    const int shares = static_cast<int>(std::min<int64_t>(parts, size()));
    shares_.store(shares, std::memory_order_relaxed);
    for (int i = 0; i < shares; i++) {
      tickets_[i].value.store(Ticket{epoch, parts * i / shares, parts * (i + 1) / shares}.packed(),
                              std::memory_order_release);
    }
    epoch_.store(epoch, std::memory_order_release);
    epoch_.notify_all();
    inside = true;
    while (work_once(0)) {
    }
    inside = false;
    wait_awake([&] { return left_.load(std::memory_order_acquire) == 0; });
    for (uint32_t left; (left = left_.load(std::memory_order_acquire)) != 0;) {
      left_.wait(left, std::memory_order_acquire);
    }
    if (error_) {
      std::rethrow_exception(std::exchange(error_, nullptr));
    }
  }

  void work_until(detail::Done call, void* done) {
    const auto finished = [&] { return call(done); };
    const bool guest = !inside && size() > 1 && sit_down();
    const auto more = [&] {
      return guest && seat_.load(std::memory_order_acquire) == Seat::taken &&
             epoch_.load(std::memory_order_acquire) != guest_seen_;
    };
    while (!finished()) {
      if (more()) {
        work_as_guest();
      } else if (!wait_awake([&, n = 0]() mutable {
                   return more() || (n++ % kSpinsApart == 0 && finished());
                 })) {
        std::this_thread::sleep_for(kNap);
      }
    }
    if (guest) stand_up();
  }

 private:
  // The place of the pool's last thread: its own; wished for by a guest; kept for one; a guest sits
  // there.
  enum class Seat : uint32_t { own, wished, kept, taken };

  // @return  whether a guest may sit down, now or when the thread sees it.
  bool sit_down() {
    auto seat = seat_.load(std::memory_order_acquire);
    if (seat == Seat::kept) return seat_.compare_exchange_strong(seat, Seat::taken);
    if (seat != Seat::own) return false;
    if (std::unique_lock<std::mutex> job(job_, std::try_to_lock); job) start_workers();
    return seat_.compare_exchange_strong(seat, Seat::wished);
  }
  void stand_up() {
    auto seat = Seat::wished;
    if (seat_.compare_exchange_strong(seat, Seat::own)) return;
    left_at_.store(Clock::now(), std::memory_order_relaxed);
    seat_.store(Seat::kept);
  }
  // One part.
  void work_as_guest() {
    const int index = guest_index_.load(std::memory_order_relaxed);
    const uint32_t epoch = epoch_.load(std::memory_order_acquire);
    const int before = std::exchange(index_of_thread, index);
    inside = true;
    if (index >= size() || !work_once(index)) guest_seen_ = epoch;
    inside = false;
    index_of_thread = before;
  }
  // The last thread gives its place away, until it is called back (and no guest was faster).
  void rest(int index) {
    guest_index_.store(index, std::memory_order_relaxed);
    for (;;) {
      auto seat = seat_.load(std::memory_order_acquire);
      if (seat == Seat::own) return;
      if (seat == Seat::wished) {
        seat_.compare_exchange_strong(seat, Seat::taken);
      } else {
        seat_.wait(seat);
      }
    }
  }
  // No guest came for a while.
  void call_back() {
    auto seat = Seat::kept;
    if (seat_.load(std::memory_order_relaxed) == seat &&
        Clock::now() - left_at_.load(std::memory_order_relaxed) > kKept &&
        seat_.compare_exchange_strong(seat, Seat::own)) {
      seat_.notify_all();
    }
  }

  Pool() : size_(usable_cpus()) {}

  // Under job_. A worker more than the size takes no parts; it only sleeps.
  void start_workers() {
    while (workers_ < size() - 1) {
      sigset_t all, before;  // signals belong to the program's own threads
      sigfillset(&all);
      pthread_sigmask(SIG_SETMASK, &all, &before);
      try {
        std::thread([this, index = workers_ + 1] { loop(index); }).detach();
        workers_++;
      } catch (const std::system_error&) {
        resize(workers_ + 1);  // the system gives no more threads: go on with those there are
      }
      pthread_sigmask(SIG_SETMASK, &before, nullptr);
    }
  }

  // Parts [next, end) of a job that nobody has begun: a thread's share. It takes them in their
  // order, so that what lies one behind another in memory is read so; whoever is done takes the
  // last ones of others. A claim succeeds only for the job it was read from, and that job cannot
  // end before the claimed part does.
  struct Ticket {
    uint32_t epoch;
    int64_t next, end;

    uint64_t packed() const {
      return uint64_t{epoch} << 32 | static_cast<uint64_t>(end) << 16 | static_cast<uint64_t>(next);
    }
    static Ticket of(uint64_t v) {
      return {static_cast<uint32_t>(v >> 32), static_cast<int64_t>(v & kMaxParts),
              static_cast<int64_t>(v >> 16 & kMaxParts)};
    }
  };

  // @return  a part of thread i's share, or -1.
  int64_t claim(int i, bool own) {
    auto& value = tickets_[i].value;
    uint64_t packed = value.load(std::memory_order_acquire);
    for (;;) {
      auto t = Ticket::of(packed);
      if (t.next >= t.end) return -1;
      const int64_t part = own ? t.next++ : --t.end;
      if (value.compare_exchange_weak(packed, t.packed(), std::memory_order_acq_rel,
                                      std::memory_order_acquire)) {
        return part;
      }
    }
  }

  bool work_once(int self) {
    int64_t part = claim(self, true);
    for (int i = 0, n = shares_.load(std::memory_order_relaxed); part < 0 && i < n; i++) {
      if (i != self) part = claim(i, false);
    }
    if (part < 0) return false;
    if (!failed_.load(std::memory_order_relaxed)) {
      try {
        call_(body_, part);
      } catch (...) {
        std::lock_guard<std::mutex> lock(error_mutex_);
        if (!error_) {
          error_ = std::current_exception();
        }
        failed_.store(true, std::memory_order_relaxed);
      }
    }
    if (left_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
      left_.notify_one();
    }
    return true;
  }

  void loop(int index) {
    inside = true;
    index_of_thread = index;
    uint32_t seen = 0;
    for (;;) {
      const auto wished = [&] {
        return index == size() - 1 && seat_.load(std::memory_order_acquire) == Seat::wished;
      };
      if (!wait_awake([&] { return epoch_.load(std::memory_order_acquire) != seen || wished(); })) {
        epoch_.wait(seen, std::memory_order_acquire);
      }
      if (wished()) rest(index);
      seen = epoch_.load(std::memory_order_acquire);
      if (index < size()) {
        while (work_once(index)) {
        }
      }
    }
  }

  std::atomic<int> size_, shares_{0};
  int workers_ = 0;
  std::mutex job_, error_mutex_;
  struct alignas(64) Share {
    std::atomic<uint64_t> value{0};
  };
  Share tickets_[kMaxThreads];
  alignas(64) std::atomic<uint32_t> epoch_{0};
  alignas(64) std::atomic<uint32_t> left_{0};
  alignas(64) std::atomic<Seat> seat_{Seat::own};
  std::atomic<int> guest_index_{0};
  std::atomic<Clock::time_point> left_at_{};
  uint32_t guest_seen_ = 0;  // the guest's
  std::atomic<bool> failed_{false};
  detail::Part call_ = nullptr;
  void* body_ = nullptr;
  std::exception_ptr error_;
};

}  // namespace

bool in_part() {
  return inside;
}

int slot() {
  return index_of_thread;
}

int threads() {
  return Pool::get().size();
}

void set_threads(int n) {
  if (n < 0 || n > kMaxThreads) {
    throw Error(Kind::usage, "[threads] the number of threads is out of range: expected 0 to " +
                                 std::to_string(kMaxThreads) + ", got " + std::to_string(n) + ".");
  }
  Pool::get().resize(n == 0 ? usable_cpus() : n);
}

void detail::work_until(Done call, void* done) {
  Pool::get().work_until(call, done);
}

void detail::run_parts(int64_t parts, Part call, void* body) {
  if (parts > 0) {
    Pool::get().run(parts, call, body);
  }
}

}  // namespace lmxlab::kernels
