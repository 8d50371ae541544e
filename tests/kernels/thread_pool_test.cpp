#include "lmxlab/kernels/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

#include "lmxlab/base/error.h"
#include "lmxlab/kernels/machine.h"

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

}  // namespace
}  // namespace lmxlab::kernels
