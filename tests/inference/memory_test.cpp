// Decoding writes into the buffers it has: they move at growth steps only, and nothing piles up.
#include "lmxlab/kernels/memory.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/inference/generate.h"
#include "lmxlab/kernels/start_step.h"
#include "tests/inference/models.h"
#include "tests/support/memory_map.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <iostream>
#include <tuple>

namespace lmxlab {
namespace {

constexpr int kTokens = 2000;

// A layer's own window, or the one that a caller asks for; and how numbers are kept.
struct Kept {
  std::optional<int> window = {};
  int bits = 0, max_kv = 0;
};
const Kept kKept[] = {{},
                      {.window = 300},
                      {.max_kv = 300},
                      {.bits = 16},
                      {.window = 300, .bits = 16},
                      {.bits = 8},
                      {.bits = 8, .max_kv = 300},
                      {.bits = 4},
                      {.window = 300, .bits = 4}};
std::string text(const Kept& k) {
  return (k.window   ? "a window"
          : k.max_kv ? "max_kv"
                     : "all positions") +
         std::string(", ") + std::to_string(k.bits) + " bits";
}

config::Model long_model(const Kept& kept) {
  config::Attention a{.heads = 2, .kv_heads = 1, .head_dim = kept.bits ? 32 : 8};
  a.window = kept.window;
  auto m = testing_models::small(a);
  m.context = 4096;
  return m;
}

// The addresses of the buffers. The handles die here, so that the next step may write in place.
std::vector<const void*> addresses(const Cache& cache) {
  eval(cache);
  std::vector<const void*> out;
  for (const auto& a : cache.arrays()) out.push_back(a.data<void>());
  return out;
}

struct Watch {
  std::vector<const void*> before = {};
  int moves = 0, last_move = 0;
  size_t first_bytes = 0, most_bytes = 0;
  void look(const Cache& cache, int step) {
    auto now = addresses(cache);
    if (!before.empty() && now != before) ++moves, last_move = step;
    before = std::move(now);
    kernels::finish_steps();  // or what the last step read is counted
    if (step == 100) first_bytes = kernels::active_bytes() - cache.bytes();
    if (step > 100) most_bytes = std::max(most_bytes, kernels::active_bytes() - cache.bytes());
  }
};

TEST(CacheMemory, TheLiteralLoopMovesABufferOnlyWhereItGrows) {
  for (const auto& kept : kKept) {
    SCOPED_TRACE(text(kept));
    const LanguageModel model(long_model(kept), 1);
    auto [logits, cache] = model(
        mx::array({1, 2, 3}), model.make_cache({}, {.kv_bits = kept.bits, .max_kv = kept.max_kv}));
    eval(logits, cache);
    Watch watch;
    watch.look(cache, 0);
    for (int step = 1; step <= kTokens; ++step) {
      const auto next_token = mx::array({step % 61});
      std::tie(logits, cache) = model(next_token, std::move(cache));
      eval(logits, cache);
      watch.look(cache, step);
    }
    // 256 positions at first; each further 256, or once to the window.
    const bool ring = kept.window || kept.max_kv;
    EXPECT_EQ(watch.moves, ring ? 1 : (kTokens + 3 - 1) / core::kGrowth);
    EXPECT_LE(watch.most_bytes, watch.first_bytes + 4096) << "memory piles up";
  }
}

TEST(CacheMemory, GenerateAllocatesOnceAndMovesNothing) {
  for (const auto& kept : kKept) {
    for (const size_t rows : {1, 3}) {
      SCOPED_TRACE(text(kept) + ", rows " + std::to_string(rows));
      const LanguageModel model(long_model(kept), 1);
      std::vector<std::vector<int>> prompts;
      for (size_t r = 0; r < rows; ++r) prompts.emplace_back(r + 1, 5);
      TokenStream stream(model, prompts,
                         {.max_tokens = kTokens, .kv_bits = kept.bits, .max_kv = kept.max_kv});
      Watch watch;
      int step = 0;
      while (const auto e = stream.next())
        if (e->row == 0 && stream.cache()) watch.look(*stream.cache(), step++);
      EXPECT_EQ(step, kTokens);
      EXPECT_EQ(watch.moves, 0) << "last at step " << watch.last_move;
      EXPECT_LE(watch.most_bytes, watch.first_bytes + 4096) << "memory piles up";
      EXPECT_EQ(stream.results()[0].tokens.size(), static_cast<size_t>(kTokens));
    }
  }
}

TEST(CacheMemory, GenerateMovesNothingWhileStepsOverlap) {
  // No eval in between: the addresses are known as soon as a step is queued, while it may still
  // run.
  config::Attention a{.heads = 8, .kv_heads = 8, .head_dim = 64};
  auto config = testing_models::small(a);
  config.dim = 512, config.context = 2048;
  for (auto& layer : config.layers) layer.ffn = config::Mlp{.hidden = 1024};
  const LanguageModel model(config, 1);
  for (const int bits : {0, 16, 8, 4}) {
    for (const int max_kv : {0, 100}) {
      SCOPED_TRACE(text({.bits = bits, .max_kv = max_kv}));
      TokenStream stream(model, {{1, 2, 3}},
                         {.max_tokens = 300, .kv_bits = bits, .max_kv = max_kv});
      std::vector<const void*> first;
      int taken = 0, moves = 0;
      while (const auto e = stream.next()) {
        std::vector<const void*> now;
        for (const auto& array : stream.cache()->arrays()) now.push_back(array.data<void>());
        if (taken++ == 0) first = now;
        moves += now != first;
      }
      EXPECT_EQ(taken, 300);
      EXPECT_EQ(moves, 0);
    }
  }
}

// 10,000 tokens through a ring: nothing grows, whatever is counted.
TEST(CacheMemory, TenThousandTokensTakeWhatAThousandTake) {
  for (const int bits : {0, 8}) {
    SCOPED_TRACE(text({.bits = bits, .max_kv = 128}));
    const LanguageModel model(long_model({.bits = bits}), 1);
    TokenStream stream(model, {{1, 2, 3}}, {.max_tokens = 10'000, .kv_bits = bits, .max_kv = 128});
    struct Reading {
      size_t active = 0, peak = 0;
      int64_t resident = 0;
    };
    const auto look = [] {
      kernels::finish_steps();
      kernels::clear_cache();  // what is kept for reuse, up to a bound, is no growth
      Reading r{kernels::active_bytes(), kernels::peak_bytes()};
#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
      r.resident = static_cast<int64_t>(test::resident_bytes());
#endif
      return r;
    };
    std::vector<Reading> readings;  // behind every 990 tokens
    int taken = 0;
    while (const auto e = stream.next())
      if (++taken % 990 == 0) readings.push_back(look());
    EXPECT_EQ(taken, 10'000);
    ASSERT_EQ(readings.size(), 10u);
    std::cout << readings.back().active << " bytes, peak " << readings.back().peak << ", resident";
    for (const auto& r : readings) std::cout << ' ' << r.resident;
    std::cout << "\n";
    // A step's arrays more or less; one of a few bytes a token would be half a megabyte.
    EXPECT_LE(readings.back().active, readings[0].active + (16 << 10));
    EXPECT_LE(readings.back().peak, readings[0].peak + (16 << 10));
    // Which blocks share a page is a matter of timing: now and then some pages more stay or go.
    // What every token leaks grows in every stretch.
    std::vector<int64_t> growth;
    for (size_t i = 1; i < readings.size(); ++i)
      growth.push_back(readings[i].resident - readings[i - 1].resident);
    std::nth_element(growth.begin(), growth.begin() + 4, growth.end());
    EXPECT_LE(growth[4], 64 << 10) << "the median of the stretches";
  }
}

}  // namespace
}  // namespace lmxlab
