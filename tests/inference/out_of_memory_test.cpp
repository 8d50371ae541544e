// A request that is refused memory fails alone: the model serves the next one.
#include "lmxlab/base/error.h"
#include "lmxlab/inference/generate.h"
#include "lmxlab/kernels/memory.h"
#include "tests/inference/models.h"

#include <gtest/gtest.h>

#include <iostream>

namespace lmxlab {
namespace {

struct Limit {
  size_t before = kernels::memory_limit();
  ~Limit() { kernels::set_memory_limit(before); }
};

LanguageModel served(int heads = 4, int context = 4096) {
  auto config = testing_models::small({.heads = heads, .kv_heads = heads, .head_dim = 32});
  config.dim = 128, config.context = context;
  for (auto& layer : config.layers) layer.ffn = config::Mlp{.hidden = 512};
  return LanguageModel(config, 1);
}
std::vector<int> prompt(int n) {
  std::vector<int> ids;
  for (int i = 0; i < n; ++i) ids.push_back(i * 7 % 61);
  return ids;
}
void expect_refused(const std::function<void()>& f) {
  try {
    f();
    ADD_FAILURE() << "there was memory enough";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), Kind::resource) << e.what();
    EXPECT_NE(std::string(e.what()).find("[memory] cannot allocate"), std::string::npos)
        << e.what();
  }
}

TEST(OutOfMemory, TheNextSmallerRequestIsServed) {
  const auto model = served();
  const GenerateOptions few{.max_tokens = 8};
  const auto large = prompt(2000), small = prompt(16);
  const auto first = generate(model, small, few).tokens;
  const auto active = kernels::active_bytes();
  GenerateStats of_small, of_large;
  generate(model, small, few, nullptr, &of_small);
  const auto whole = generate(model, large, few, nullptr, &of_large).tokens;
  const auto least = static_cast<size_t>(of_small.peak_bytes),
             most = static_cast<size_t>(of_large.peak_bytes);
  ASSERT_GT(most - active, 2 * (least - active));
  int refused = 0;
  for (size_t part = 0; part < 8; ++part) {
    SCOPED_TRACE(std::to_string(part) + " eighths of the way to enough");
    const Limit limit;
    kernels::set_memory_limit(least + (most - least) * part / 8);
    try {
      generate(model, large, few);
    } catch (const Error& e) {
      ++refused;
      EXPECT_EQ(e.kind(), Kind::resource) << e.what();
    }
    EXPECT_EQ(generate(model, small, few).tokens, first);
    kernels::set_memory_limit(limit.before);
    EXPECT_LE(kernels::active_bytes(), active + 4096) << "something was left behind";
    EXPECT_EQ(generate(model, large, few).tokens, whole);
  }
  std::cout << refused << " of 8 requests were refused\n";
  EXPECT_GE(refused, 6);
}

// In the middle of an answer, where the cache has to grow: by 10 MiB for each array.
TEST(OutOfMemory, AnAnswerEndsInItsMiddle) {
  constexpr int kContext = 1024;
  const auto model = served(64, kContext);
  const auto small = prompt(16);
  const auto first = generate(model, small, {.max_tokens = 8}).tokens;
  const auto active = kernels::active_bytes();
  const Limit limit;
  {
    TokenStream stream(model, {prompt(5)}, {.max_tokens = 100'000});
    int taken = 0;
    expect_refused([&] {
      while (stream.next())
        if (++taken == kContext - 50)  // its context is there; more is not to be had
          kernels::set_memory_limit(kernels::active_bytes() + (9 << 20));
    });
    EXPECT_GE(taken, kContext - 8);
    EXPECT_EQ(stream.results()[0].tokens.size(), static_cast<size_t>(taken))
        << "what was made stays";
    EXPECT_FALSE(stream.next()) << "it is over";
    EXPECT_EQ(generate(model, small, {.max_tokens = 8}).tokens, first)
        << "while the broken one still lives";
  }
  kernels::set_memory_limit(limit.before);
  EXPECT_LE(kernels::active_bytes(), active + 4096) << "something was left behind";
}

// The literal loop: logits and a cache by hand.
TEST(OutOfMemory, ThePassItselfFailsAlone) {
  const auto model = served();
  const auto ids = prompt(4000);
  const mx::array tokens(ids.begin(), {1, 4000}, mx::int32);
  const auto small = prompt(16);
  const auto first = generate(model, small, {.max_tokens = 8}).tokens;
  const Limit limit;
  kernels::set_memory_limit(kernels::active_bytes() + (1 << 20));
  expect_refused([&] {
    auto [logits, cache] = model(tokens);
    eval(logits, cache);
  });
  EXPECT_EQ(generate(model, small, {.max_tokens = 8}).tokens, first);
}

}  // namespace
}  // namespace lmxlab
