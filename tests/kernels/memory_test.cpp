#include "lmxlab/kernels/memory.h"

#include <gtest/gtest.h>
#include <mlx/backend/cpu/encoder.h>
#include <mlx/mlx.h>
#include <mlx/primitives.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <thread>
#include <vector>

#include "lmxlab/base/error.h"
#include "lmxlab/kernels/dense.h"
#include "lmxlab/kernels/machine.h"
#include "lmxlab/kernels/op.h"
#include "lmxlab/kernels/overrides/pages.h"
#include "lmxlab/kernels/thread_pool.h"
#include "tests/support/memory_map.h"

namespace mx = mlx::core;
using mx::array;

namespace lmxlab::kernels {
namespace {

TEST(Memory, OursIsRunning) {
  EXPECT_TRUE(own_allocator());
  EXPECT_EQ(allocator_name(), "lmxlab");
}

TEST(Memory, DataLieOnCacheLines) {
  for (int n : {1, 3, 16, 17, 1000, 5000, 70000, 300000, 3000000}) {
    auto x = mx::ones({n});
    mx::eval(x);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(x.data<float>()) % 64, 0u) << n;
    EXPECT_EQ(x.buffer_size(), size_t(n) * 4) << "what MLX takes for the buffer's size";
  }
}

// Pieces of many sizes, each full of its own byte, given back in another order than taken.
TEST(Memory, PiecesOfPagesAreApart) {
  struct Piece {
    char* data;
    size_t bytes;
    char mark;
  };
  std::vector<Piece> pieces;
  const auto give_back = [&](size_t i) {
    const auto [data, bytes, mark] = pieces[i];
    EXPECT_TRUE(std::all_of(data, data + bytes, [=](char c) { return c == mark; })) << bytes;
    pages::give(data, bytes);
    pieces.erase(pieces.begin() + static_cast<ptrdiff_t>(i));
  };
  for (size_t i = 0; i < 300; i++) {
    const size_t bytes = size_t{1} << (i * 7 % 23) | i;
    auto* const data = static_cast<char*>(pages::take(bytes));
    ASSERT_NE(data, nullptr);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(data) % 64, 0u);
    pieces.push_back({data, bytes, static_cast<char>(i)});
    std::fill_n(data, bytes, pieces.back().mark);
    if (i % 3 == 2) give_back(i * 31 % pieces.size());
  }
  while (!pieces.empty()) give_back(pieces.size() / 2);
}

#ifdef __linux__  // others do not tell
// A piece here and there does not keep the room between them.
TEST(Memory, PagesGoBackWhenNothingLiesOnThem) {
  constexpr size_t kPiece = 4160, kPieces = 5000;
  const auto before = test::anonymous_bytes();
  std::vector<void*> pieces;
  for (size_t i = 0; i < kPieces; i++) {
    pieces.push_back(pages::take(kPiece));
    ASSERT_NE(pieces.back(), nullptr);
    std::memset(pieces.back(), 1, kPiece);
  }
  EXPECT_GE(test::anonymous_bytes(), before + kPiece * kPieces / 10 * 9);
  for (size_t i = 0; i < kPieces; i++)
    if (i % 500 != 0) pages::give(pieces[i], kPiece);
  if (test::kOwnMemoryTells) {
    EXPECT_LE(test::anonymous_bytes(), before + (4 << 20)) << "ten pieces are left";
  }
  for (size_t i = 0; i < kPieces; i += 500) {
    EXPECT_EQ(static_cast<char*>(pieces[i])[kPiece - 1], 1);
    pages::give(pieces[i], kPiece);
  }
}
#endif

TEST(Memory, SizesAreCountedAsAskedFor) {
  mx::synchronize();
  const auto before = active_bytes();
  {
    auto x = mx::ones({1000});
    auto y = mx::ones({1001, 1000});
    mx::eval(x, y);
    mx::synchronize();
    EXPECT_EQ(active_bytes() - before, 1000u * 4 + 1001 * 1000 * 4);
  }
  mx::synchronize();
  EXPECT_EQ(active_bytes(), before);
}

TEST(Memory, PagesThatWentOutComeBack) {
  auto a = mx::arange(0, 1 << 20, mx::int32);
  a.eval();
  page_out(a.data<int32_t>(), a.nbytes());
  page_out(a.data<int32_t>() + 1, 5);  // no whole page
  EXPECT_TRUE(mx::array_equal(a, mx::arange(0, 1 << 20, mx::int32)).item<bool>());
}

TEST(Memory, TooMuchIsAnErrorAndTheProcessGoesOn) {
  auto big = mx::zeros({1 << 20, 1 << 18}) + array(1.0f);
  try {
    mx::eval(big);
    FAIL() << "1 TiB was had";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), Kind::resource);
    EXPECT_EQ(std::string(error.what()).rfind("[memory] cannot allocate 1099511627776 bytes", 0),
              0u)
        << error.what();
  }
  EXPECT_EQ(mx::sum(mx::ones({1000})).item<float>(), 1000.0f);
}

TEST(Memory, MoreThanTheMachineHasLeftIsRefusedBeforeItIsTouched) {
  const auto room = memory_room();
  const auto before = set_memory_limit(SIZE_MAX / 2);
  const auto rows = static_cast<int>(room.bytes / (4 << 20) + 256);
  EXPECT_THROW(mx::eval(mx::ones({rows, 1 << 20})), Error);
  set_memory_limit(before);
  EXPECT_EQ(mx::sum(mx::ones({1000})).item<float>(), 1000.0f);
}

TEST(Memory, TheLimitIsHard) {
  mx::synchronize();
  const auto before = set_memory_limit(active_bytes() + (8 << 20));
  EXPECT_NO_THROW(mx::eval(mx::ones({1 << 20})));
  EXPECT_THROW(mx::eval(mx::ones({3 << 20})), Error);
  set_memory_limit(before);
  EXPECT_NO_THROW(mx::eval(mx::ones({3 << 20})));
}

// The sanitizers map more address space than any limit lets through.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
int under_address_space_limit() {
  mx::eval(mx::ones({1000}));
  const rlimit limit{size_t{2} << 30, size_t{2} << 30};
  if (setrlimit(RLIMIT_AS, &limit) != 0) {
    return 3;
  }
  try {
    mx::eval(mx::ones({700, 1 << 20}));  // 2.9 GB
    return 4;
  } catch (const Error& error) {
    fprintf(stderr, "%s\n", error.what());
    if (error.kind() != Kind::resource) {
      return 5;
    }
  }
  return mx::sum(mx::ones({1000})).item<float>() == 1000.0f ? 0 : 6;
}

// In a process of its own: the limit on the address space cannot be taken back.
TEST(MemoryDeathTest, AddressSpaceLimit) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(_exit(under_address_space_limit()), testing::ExitedWithCode(0),
              "\\[memory\\] cannot allocate .*RLIMIT_AS");
}
#elif defined(__SANITIZE_ADDRESS__)
TEST(MemoryDeathTest, TheSanitizerKnowsWhereAnArrayEnds) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  auto x = mx::ones({1001});
  mx::eval(x);
  const volatile float* const data = x.data<float>();
  EXPECT_EQ(data[1000], 1.0f);
  EXPECT_DEATH((void)data[1001], "use-after-poison");
}
#endif

Arrays residual_step(const Arrays& weights, const array& x) {
  std::vector<int> all;
  for (size_t i = 0; i < weights.size(); i++) {
    all.push_back(static_cast<int>(i));
  }
  auto step = mx::value_and_grad(
      [&](const Arrays& w) -> Arrays {
        auto h = x;
        for (const auto& m : w) {
          h = h + mx::tanh(mx::matmul(h, m));
        }
        return {mx::mean(mx::square(h))};
      },
      all);
  auto [value, grads] = step(weights);
  grads.push_back(value[0]);
  return grads;
}

TEST(Memory, ThePeakOfAStepIsTheSameEachTime) {
  Arrays weights;
  for (int i = 0; i < 6; i++) {
    weights.push_back(mx::random::normal({128, 128}, mx::random::key(i)) * array(0.05f));
  }
  auto x = mx::random::normal({512, 128}, mx::random::key(9));
  mx::eval(weights);
  mx::eval(x);
  mx::synchronize();
  const auto base = active_bytes();
  std::vector<size_t> peaks;
  for (int i = 0; i < 10; i++) {
    reset_peak();
    EXPECT_EQ(active_bytes(), base) << "repetition " << i;
    mx::eval(residual_step(weights, x));
    mx::synchronize();
    peaks.push_back(peak_bytes() - base);
  }
  EXPECT_EQ(peaks, std::vector<size_t>(10, peaks[0]));
  EXPECT_GE(peaks[0], 12u * 512 * 128 * 4);  // what the backward pass needs is kept
  mx::synchronize();
  EXPECT_EQ(active_bytes(), base) << "something leaked";
}

TEST(Memory, FreedBlocksAreReused) {
  clear_cache();
  const float* first = nullptr;
  {
    auto x = mx::ones({1 << 20});
    mx::eval(x);
    mx::synchronize();
    first = x.data<float>();
  }
  EXPECT_GE(cache_bytes(), 4u << 20);
  auto y = mx::ones({(1 << 20) - 100});  // of the same size class
  mx::eval(y);
  EXPECT_EQ(y.data<float>(), first);
  y = array(0.0f);
  mx::synchronize();
  clear_cache();
  EXPECT_EQ(cache_bytes(), 0u);
}

TEST(Memory, GrowingSizesReuseBlocks) {
  clear_cache();
  int moves = 0;
  const float* last = nullptr;
  for (int n = 100000; n < 125000; n += 500) {
    auto x = mx::ones({n});
    mx::eval(x);
    mx::synchronize();
    moves += x.data<float>() != last;
    last = x.data<float>();
  }
  EXPECT_LE(moves, 5);  // an octave has eight classes
}

TEST(Memory, TheCacheKeepsToItsLimit) {
  const auto before = set_cache_limit(16 << 20);
  for (int i = 0; i < 12; i++) {
    mx::eval(mx::ones({i + 1, 1 << 20}));
  }
  mx::synchronize();
  EXPECT_LE(cache_bytes(), 16u << 20);
  EXPECT_GT(cache_bytes(), 0u);
  set_cache_limit(0);
  EXPECT_EQ(cache_bytes(), 0u);
  mx::eval(mx::ones({1 << 20}));
  mx::synchronize();
  EXPECT_EQ(cache_bytes(), 0u);
  EXPECT_EQ(set_cache_limit(before), 0u);
}

TEST(Memory, TwoThreadsEvaluate) {
  std::vector<std::thread> threads;
  std::vector<float> sums(2);
  for (int t = 0; t < 2; t++) {
    threads.emplace_back([t, &sums] {
      float sum = 0;
      for (int i = 0; i < 50; i++) {
        auto x = mx::ones({200, 200 + t});
        sum += mx::sum(mx::matmul(x, mx::transpose(x))).item<float>();
      }
      mx::synchronize();
      sums[t] = sum;
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(sums[0], 50.0f * 200 * 200 * 200);
  EXPECT_EQ(sums[1], 50.0f * 200 * 200 * 201);
}

// A kernel that takes a large workspace on the stream's own thread: the allocator must not wait for
// that stream there.
class WithWorkspace : public mx::Primitive {
 public:
  using Primitive::Primitive;
  void eval_cpu(const Arrays&, Arrays& out) override {
    out[0].set_data(mx::allocator::malloc(out[0].nbytes()));
    mx::cpu::get_command_encoder(stream()).dispatch([y = out[0].data<float>()] {
      auto workspace = mx::allocator::malloc(1 << 20);
      *y = 1.0f;
    });
  }
  void eval_gpu(const Arrays&, Arrays&) override { throw std::logic_error("CPU only"); }
  const char* name() const override { return "WithWorkspace"; }
};

TEST(Memory, AKernelMayTakeAWorkspaceOnTheStreamsThread) {
  for (auto stream : {mx::default_stream(mx::Device::cpu), mx::new_stream(mx::Device::cpu),
                      mx::new_thread_unsafe_stream(mx::Device::cpu)}) {
    array y({1}, mx::float32, std::make_shared<WithWorkspace>(stream), {});
    mx::eval(y);
    auto more = mx::ones({1 << 20});  // the caller waits for the stream in turn
    mx::eval(more);
    EXPECT_EQ(y.item<float>(), 1.0f);
  }
}

// The same for ops of ours, on a stream that nobody has waited for yet, when only the task knows
// where it runs.
class TakesMemory : public Op {
 public:
  const char* name() const override { return "TakesMemory"; }
  Arrays plain(const Arrays& in) const override { return in; }
  void eval_cpu(const Arrays&, Arrays& out) override {
    give(out[0]);
    task([y = out[0].data<float>()] {
      *y = MemoryFor::now() == MemoryUse::task;
      if (*y == 0.0f) return;  // rather than wait for ever
      const Scratch<char> all(1 << 20);
      parallel_parts(8, [](int64_t) { const Scratch<char> of_a_part(1 << 20); });
    });
  }
};

TEST(Memory, ATaskMayTakeAWorkspaceOnANewStream) {
  reset_peak();  // from here on small arrays are taken without waiting
  const mx::StreamContext on(mx::new_thread_unsafe_stream(mx::Device::cpu));
  array y({1}, mx::float32, std::make_shared<TakesMemory>(), {});
  EXPECT_EQ(y.item<float>(), 1.0f);
}

TEST(Memory, AMatrixProductMayTakeAWorkspaceOnANewStream) {
  const auto x = mx::ones({64, 1024});
  mx::eval(x);
  reset_peak();
  const mx::StreamContext on(mx::new_thread_unsafe_stream(mx::Device::cpu));
  EXPECT_EQ(mx::max(mx::matmul(x, mx::transpose(x))).item<float>(), 1024.0f);
}

// Refused on the stream's thread: MLX carries the message to the caller.
class Greedy : public WithWorkspace {
 public:
  using WithWorkspace::WithWorkspace;
  void eval_cpu(const Arrays&, Arrays& out) override {
    out[0].set_data(mx::allocator::malloc(out[0].nbytes()));
    mx::cpu::get_command_encoder(stream()).dispatch(
        [] { auto workspace = mx::allocator::malloc(size_t{1} << 44); });
  }
};

TEST(Memory, AnErrorOnTheStreamsThreadReachesTheCaller) {
  array y({1}, mx::float32, std::make_shared<Greedy>(mx::default_stream(mx::Device::cpu)), {});
  try {
    mx::eval(y);
    mx::synchronize();
    FAIL() << "no exception";
  } catch (const std::exception& error) {
    EXPECT_NE(std::string(error.what()).find("[memory] cannot allocate"), std::string::npos)
        << error.what();
  }
  EXPECT_EQ(mx::sum(mx::ones({1000})).item<float>(), 1000.0f);
}

}  // namespace
}  // namespace lmxlab::kernels
