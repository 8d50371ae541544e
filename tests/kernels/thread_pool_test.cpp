#include "lmxlab/kernels/thread_pool.h"

#include <gtest/gtest.h>
#include <mlx/device.h>
#include <mlx/stream.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <numeric>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "lmxlab/base/error.h"
#include "lmxlab/kernels/machine.h"
#include "lmxlab/kernels/tasks.h"

namespace lmxlab::kernels {
namespace {

struct Threads {  // n threads for the time of a test
  explicit Threads(int n) { set_threads(n); }
  ~Threads() { set_threads(0); }
};

TEST(ThreadPool, EveryItemOnce) {
  for (int n : {1, 2, 3, 8}) {
    const Threads scope(n);
    for (int64_t total : {1, 2, 7, 100, 4097}) {
      std::vector<std::atomic<int>> hits(total);
      parallel_for(total, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) {
          hits[i]++;
        }
      });
      for (int64_t i = 0; i < total; i++) {
        ASSERT_EQ(hits[i], 1) << "item " << i << " of " << total << ", " << n << " threads";
      }
    }
  }
}

TEST(ThreadPool, ManyJobsInARowLoseNoPart) {
  const Threads scope(4);
  std::atomic<int64_t> sum{0};
  for (int job = 0; job < 20000; job++) {
    parallel_parts(1 + job % 9, [&](int64_t part) { sum += part + 1; });
  }
  int64_t expected = 0;
  for (int job = 0; job < 20000; job++) {
    const int64_t n = 1 + job % 9;
    expected += n * (n + 1) / 2;
  }
  EXPECT_EQ(sum, expected);
}

TEST(ThreadPool, TheCutDoesNotDependOnTiming) {
  const Threads scope(3);
  auto cut = [] {
    std::mutex mutex;
    std::vector<std::pair<int64_t, int64_t>> pieces;
    parallel_for(1000, 10, [&](int64_t begin, int64_t end) {
      const std::lock_guard lock(mutex);
      pieces.emplace_back(begin, end);
    });
    std::sort(pieces.begin(), pieces.end());
    return pieces;
  };
  const auto first = cut();
  EXPECT_EQ(first.size(), 12u);
  for (int i = 0; i < 100; i++) {
    ASSERT_EQ(cut(), first);
  }
  std::vector<std::pair<int64_t, int64_t>> nested;
  parallel_parts(2, [&](int64_t part) {
    if (part == 0) {
      nested = cut();
    }
  });
  EXPECT_EQ(nested, first);
}

TEST(ThreadPool, TheFirstExceptionComesBackAndThePoolGoesOn) {
  const Threads scope(4);
  for (int i = 0; i < 200; i++) {
    EXPECT_THROW(parallel_parts(8,
                                [](int64_t part) {
                                  if (part == 5) {
                                    throw std::runtime_error("part 5");
                                  }
                                }),
                 std::runtime_error);
    std::atomic<int> done{0};
    parallel_parts(8, [&](int64_t) { done++; });
    ASSERT_EQ(done, 8);
  }
}

TEST(ThreadPool, NestedAndConcurrentCallsFinish) {
  const Threads scope(4);
  std::atomic<int64_t> count{0};
  std::vector<std::thread> callers;
  for (int t = 0; t < 3; t++) {
    callers.emplace_back([&] {
      for (int i = 0; i < 500; i++) {
        parallel_parts(4, [&](int64_t) { parallel_parts(3, [&](int64_t) { count++; }); });
      }
    });
  }
  for (auto& caller : callers) {
    caller.join();
  }
  EXPECT_EQ(count, 3 * 500 * 12);
}

TEST(ThreadPool, SeveralThreadsDoTakePart) {
  const Threads scope(2);
  std::atomic<int> arrived{0};
  // Both parts wait for each other: one thread alone could never finish.
  parallel_parts(2, [&](int64_t) {
    arrived++;
    while (arrived < 2) {
      std::this_thread::yield();
    }
  });
  EXPECT_EQ(arrived, 2);
}

TEST(ThreadPool, NumberOfThreads) {
  EXPECT_GE(usable_cpus(), 1);
  EXPECT_EQ(threads(), usable_cpus());
  set_threads(5);
  EXPECT_EQ(threads(), 5);
  set_threads(0);
  EXPECT_EQ(threads(), usable_cpus());
  EXPECT_THROW(set_threads(-1), Error);
  EXPECT_THROW(set_threads(257), Error);
}

// Jobs of one thread after another for a while; who ran their parts.
class Jobs {
 public:
  explicit Jobs(int jobs) : thread_([this, jobs] { run(jobs); }) {}
  ~Jobs() { thread_.join(); }
  bool done() const { return done_; }
  std::set<std::thread::id> ran() {
    const std::lock_guard lock(mutex_);
    return ran_;
  }
  int64_t parts() const { return parts_; }

 private:
  void run(int jobs) {
    for (int j = 0; j < jobs; j++) {
      parallel_parts(8, [&](int64_t) {
        const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(20);
        while (std::chrono::steady_clock::now() < until) {
        }
        parts_++;
        const std::lock_guard lock(mutex_);
        ran_.insert(std::this_thread::get_id());
      });
    }
    done_ = true;
  }

  std::mutex mutex_;
  std::set<std::thread::id> ran_;
  std::atomic<int64_t> parts_{0};
  std::atomic<bool> done_{false};
  std::thread thread_;
};

TEST(WorkUntil, TheWaitingThreadWorksAndOthersComeBack) {
  const Threads scope(2);
  const auto self = std::this_thread::get_id();
  bool helped = false;
  for (int i = 0; i < 20; i++) {  // the seat is given when the pool's thread sees the wish
    Jobs jobs(200);
    work_until([&] { return jobs.done(); });
    EXPECT_EQ(jobs.parts(), 1600);
    helped |= jobs.ran().contains(self);
    EXPECT_LE(jobs.ran().size(), 3u);  // the caller's, the pool's own before and the guest
  }
  EXPECT_TRUE(helped);
  bool back = false;
  for (int i = 0; i < 20; i++) {
    Jobs jobs(200);
    while (!jobs.done()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    EXPECT_EQ(jobs.parts(), 1600);
    EXPECT_FALSE(jobs.ran().contains(self));
    back |= jobs.ran().size() == 2;
  }
  EXPECT_TRUE(back);
}

TEST(WorkUntil, SeveralWaitAndOneHelps) {
  const Threads scope(2);
  for (int i = 0; i < 20; i++) {
    Jobs jobs(100);
    std::thread other([&] { work_until([&] { return jobs.done(); }); });
    work_until([&] { return jobs.done(); });
    other.join();
    EXPECT_EQ(jobs.parts(), 800);
  }
  set_threads(1);
  Jobs alone(10);
  work_until([&] { return alone.done(); });
  EXPECT_EQ(alone.parts(), 80);
  EXPECT_EQ(alone.ran().size(), 1u);
}

TEST(Tasks, EachRunsAndTheFirstErrorIsThrown) {
  Tasks tasks;
  std::vector<int> ran;
  {
    const Collect here(&tasks);
    for (int i = 0; i < 4; i++) {
      queue_task(mlx::core::default_stream(mlx::core::Device::cpu), [&ran, i] {
        ran.push_back(i);
        if (i % 2 == 1) throw std::runtime_error(std::to_string(i));
      });
    }
  }
  EXPECT_EQ(tasks.size(), 4u);
  EXPECT_TRUE(ran.empty());
  try {
    tasks.run();
    ADD_FAILURE();
  } catch (const std::runtime_error& e) {
    EXPECT_STREQ(e.what(), "1");
  }
  EXPECT_EQ(ran, (std::vector<int>{0, 1, 2, 3}));
}

}  // namespace
}  // namespace lmxlab::kernels
