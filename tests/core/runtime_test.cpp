// Threads: one model from several, two models side by side, graphs that change hands.
#include "lmxlab/core/runtime.h"

#include "lmxlab/config/presets.h"
#include "tests/core/support.h"

#include <atomic>
#include <thread>

namespace lmxlab {
namespace {

config::Model tiny() {
  return config::preset(
      "llama-tiny", {.depth = 2, .dim = 32, .heads = 4, .kv_heads = 2, .hidden = 48, .vocab = 53});
}

mx::array tokens(int seed, int length = 9) {
  HostRandom random(static_cast<uint64_t>(seed));
  std::vector<int32_t> ids(static_cast<size_t>(length));
  for (auto& id : ids) id = static_cast<int32_t>(random.below(53));
  return mx::array(ids.data(), {length}, mx::int32);
}

// Logits after a prefix and three single tokens, with the public interface alone.
std::vector<float> run(const LanguageModel& model, int seed) {
  auto [logits, cache] = model(tokens(seed));
  eval(logits, cache);
  for (int i = 0; i < 3; ++i) {
    auto [more, next] = model(tokens(seed + 100 + i, 1), std::move(cache));
    cache = std::move(next);
    logits = more;
    eval(logits, cache);
  }
  return to_vector<float>(logits);
}

// Runs the function in its own thread; what it throws fails the test.
template <class F>
std::thread in_thread(F f) {
  return std::thread([f] {
    try {
      f();
    } catch (const std::exception& e) {
      ADD_FAILURE() << e.what();
    }
  });
}

TEST(Threads, OneModelFromFour) {
  const LanguageModel model(tiny(), 1);
  constexpr int kThreads = 4, kCalls = 6;
  std::vector<std::vector<float>> want, got(kThreads * kCalls);
  for (int i = 0; i < kThreads * kCalls; ++i) want.push_back(run(model, i));
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t)
    threads.push_back(in_thread([&, t] {
      for (int i = t * kCalls; i < (t + 1) * kCalls; ++i)
        got[static_cast<size_t>(i)] = run(model, i);
    }));
  for (auto& t : threads) t.join();
  for (size_t i = 0; i < got.size(); ++i) EXPECT_EQ(got[i], want[i]) << "call " << i;
}

TEST(Threads, ANewModelFromFour) {
  // The first evaluation of lazy weights happens in whichever thread comes first.
  const LanguageModel model(tiny(), 2), same(tiny(), 2);
  std::vector<std::vector<float>> got(4);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < got.size(); ++t)
    threads.push_back(in_thread([&, t] { got[t] = run(model, 5); }));
  for (auto& t : threads) t.join();
  const auto want = run(same, 5);
  for (const auto& g : got) EXPECT_EQ(g, want);
}

TEST(Threads, TwoModelsSideBySide) {
  const LanguageModel a(tiny(), 3), b(tiny(), 4);
  const auto want_a = run(a, 1), want_b = run(b, 1);
  EXPECT_NE(want_a, want_b);
  std::atomic<int> right = 0;
  const auto repeat = [&](const LanguageModel& model, const std::vector<float>& want) {
    for (int i = 0; i < 10; ++i) right += run(model, 1) == want;
  };
  auto one = in_thread([&] { repeat(a, want_a); }), two = in_thread([&] { repeat(b, want_b); });
  one.join(), two.join();
  EXPECT_EQ(right, 20);
}

TEST(Threads, TwoModelsInTurnInEachThread) {
  const LanguageModel a(tiny(), 3), b(tiny(), 4);
  const auto want_a = run(a, 1), want_b = run(b, 1);
  std::atomic<int> right = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t)
    threads.push_back(in_thread([&] {
      for (int i = 0; i < 5; ++i) right += (run(a, 1) == want_a) + (run(b, 1) == want_b);
    }));
  for (auto& t : threads) t.join();
  EXPECT_EQ(right, 30);
}

TEST(Threads, AGraphIsEvaluatedInAnother) {
  const LanguageModel model(tiny(), 5);
  const auto full = [&] {
    auto [logits, cache] = model(tokens(7));
    eval(logits, cache);
    return to_vector<float>(logits);
  }();
  std::optional<std::pair<mx::array, Cache>> lazy;
  in_thread([&] { lazy = model(tokens(7)); }).join();
  eval(lazy->first, lazy->second);  // the thread that built it has ended
  EXPECT_EQ(to_vector<float>(lazy->first), full);

  const auto here = model(tokens(7));
  std::vector<float> there;
  in_thread([&] {
    eval(here.first, here.second);
    there = to_vector<float>(here.first);
  }).join();
  EXPECT_EQ(there, full);
}

TEST(Threads, ACacheOutlivesItsThread) {
  const LanguageModel model(tiny(), 6);
  const auto all = tokens(8, 12);
  const auto part = [&](int from, int to) { return mx::slice(all, {from}, {to}); };
  auto [full, unused] = model(all);
  eval(full, unused);
  std::optional<Cache> cache;
  std::vector<float> last;
  for (int at = 0; at < 12; at += 3)  // every piece in a thread of its own
    in_thread([&, at] {
      auto [logits, next] =
          cache ? model(part(at, at + 3), std::move(*cache)) : model(part(at, at + 3));
      cache = std::move(next);
      eval(logits, *cache);
      last = to_vector<float>(logits);
    }).join();
  const auto want = to_vector<float>(full);
  ASSERT_EQ(cache->length(), 12);
  // Sums of 32 terms in another order, over 2 layers.
  double off = 0, size = 0;
  for (size_t i = 0; i < last.size(); ++i) {
    const double w = static_cast<double>(want[want.size() - last.size() + i]);
    off = std::max(off, std::abs(static_cast<double>(last[i]) - w)),
    size = std::max(size, std::abs(w));
  }
  EXPECT_LE(off, 32 * test::kEps * 8 * size);
}

TEST(Threads, ModelsComeAndGo) {
  for (int i = 0; i < 20; ++i) {
    std::vector<float> in_a_thread;
    in_thread([&] { in_a_thread = run(LanguageModel(tiny(), 9), 2); }).join();
    EXPECT_EQ(in_a_thread, run(LanguageModel(tiny(), 9), 2));
  }
}

TEST(Runtime, EnteringNests) {
  const auto a = std::make_shared<Runtime>(), b = std::make_shared<Runtime>();
  const Enter none(nullptr);
  std::thread([&] {
    const auto value = [] { return mx::add(mx::array(1.0f), mx::array(2.0f)).item<float>(); };
    {
      const Enter first(a), again(a);
      EXPECT_EQ(value(), 3);
      {
        const Enter other(b);
        EXPECT_EQ(value(), 3);
      }
      EXPECT_EQ(value(), 3);
    }
    EXPECT_EQ(value(), 3);
  }).join();
}

TEST(Runtime, AnotherThreadWaits) {
  const auto runtime = std::make_shared<Runtime>();
  std::atomic<bool> inside = false;
  std::optional<Enter> enter(std::in_place, runtime);
  std::thread other([&] {
    const Enter mine(runtime);
    inside = true;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_FALSE(inside);
  enter.reset();
  other.join();
  EXPECT_TRUE(inside);
}

TEST(ToVector, ReadsAnyStrides) {
  const auto x = mx::reshape(mx::arange(24, mx::float32), {2, 3, 4});
  const auto y = mx::slice(mx::transpose(x, {2, 0, 1}), {1, 0, 0}, {4, 2, 3}, {2, 1, 2});
  EXPECT_EQ(to_vector<float>(y), (std::vector<float>{1, 9, 13, 21, 3, 11, 15, 23}));
  EXPECT_EQ(to_vector<float>(mx::broadcast_to(mx::array({1.0f, 2.0f}), {2, 2})),
            (std::vector<float>{1, 2, 1, 2}));
  EXPECT_EQ(to_vector<int32_t>(mx::array(5)), std::vector<int32_t>{5});
  EXPECT_EQ(to_vector<bool>(mx::array({true, false})), (std::vector<bool>{true, false}));
  EXPECT_TRUE(to_vector<float>(mx::zeros({0, 3})).empty());
}

}  // namespace
}  // namespace lmxlab
