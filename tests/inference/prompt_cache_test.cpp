#include "lmxlab/inference/prompt_cache.h"

#include "lmxlab/base/files.h"
#include "lmxlab/base/random.h"
#include "lmxlab/config/presets.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/inference/generate.h"
#include "tests/support/temp_folder.h"

#include <gtest/gtest.h>
#include <mlx/ops.h>

namespace lmxlab {
namespace {

std::vector<int> some_tokens(size_t n, uint64_t seed) {
  HostRandom random(seed);
  std::vector<int> out;
  for (size_t i = 0; i < n; ++i) out.push_back(static_cast<int>(random.below(256)));
  return out;
}
GenerateOptions greedy(PromptCache* kept, int tokens = 12) {
  GenerateOptions o;
  o.sampling.temperature = 0;
  o.max_tokens = tokens;
  o.reuse = kept;
  return o;
}
LanguageModel model_of(const char* change = "") {
  auto config = config::preset("llama-tiny", {.head_dim = 32});
  if (std::string(change) == "window")
    for (auto& b : config.layers) std::get<config::Attention>(b.mixer).window = 9;
  return LanguageModel(config, 4);
}

// More rows of a prompt than are written at once: it is read for the first of them.
TEST(PromptCache, ServesMoreRowsOfAPrompt) {
  for (const char* preset : {"llama-tiny", "mamba2-tiny"}) {
    const LanguageModel model(config::preset(preset), 4);
    const auto prompt = some_tokens(40, 1);
    PromptCache read;
    GenerateOptions o;
    o.max_tokens = 12, o.prefill_chunk = 16;
    std::vector<std::vector<int>> expected;
    for (const auto& g : generate_batch(model, {5, prompt}, o)) expected.push_back(g.tokens);
    o.shared = &read;
    std::vector<std::vector<int>> got;
    for (const size_t rows : {2, 1, 2}) {
      const bool first = got.empty();
      GenerateStats stats;
      o.sampling.seed = got.size();
      for (const auto& g : generate_batch(model, {rows, prompt}, o, nullptr, &stats))
        got.push_back(g.tokens);
      EXPECT_EQ(stats.reused_tokens, first ? 0 : 39) << preset;
      EXPECT_EQ(read.tokens.size(), 39u);
    }
    EXPECT_EQ(got, expected) << preset;
    const auto other = some_tokens(40, 2);
    auto alone = o;
    alone.shared = nullptr;
    EXPECT_EQ(generate(model, other, o).tokens, generate(model, other, alone).tokens);
    EXPECT_THROW(generate_batch(model, {prompt, other}, o), Error);
  }
}

// States cannot go back: a prompt that goes on is not read again, another one is, from its start.
TEST(PromptCache, StatesGoOnAndAreWrittenToFiles) {
  auto config = config::preset("llama-tiny", {.head_dim = 32});
  config.layers[0].mixer = config::Mamba2{.heads = 4, .head_dim = 8, .state = 6};
  const LanguageModel model(config, 4);
  PromptCache kept;
  auto prompt = some_tokens(40, 1);
  GenerateStats stats;
  const auto first = generate(model, prompt, greedy(&kept), nullptr, &stats);
  EXPECT_EQ(first.tokens, generate(model, prompt, greedy(nullptr)).tokens);

  const test::TemporaryFolder folder;
  save_prompt_cache(folder.path() / "kept", model, kept);
  auto loaded = load_prompt_cache(folder.path() / "kept", model);
  EXPECT_EQ(loaded.tokens, kept.tokens);
  EXPECT_EQ(loaded.cache.bytes(), kept.cache.bytes());

  auto longer = prompt;
  longer.insert(longer.end(), first.tokens.begin(), first.tokens.end());
  for (const int id : some_tokens(5, 2)) longer.push_back(id);
  const auto expected = generate(model, longer, greedy(nullptr)).tokens;
  for (auto* cache : {&kept, &loaded}) {
    EXPECT_EQ(generate(model, longer, greedy(cache), nullptr, &stats).tokens, expected);
    EXPECT_GE(stats.reused_tokens, 50);
  }
  prompt.resize(17);
  for (const int id : some_tokens(9, 3)) prompt.push_back(id);
  const auto third = generate(model, prompt, greedy(&kept), nullptr, &stats);
  EXPECT_EQ(stats.reused_tokens, 0);
  EXPECT_EQ(third.tokens, generate(model, prompt, greedy(nullptr)).tokens);
}

TEST(PromptCache, GoesOnWhereAPromptBeginsAlike) {
  const auto model = model_of();
  PromptCache kept;
  auto prompt = some_tokens(40, 1);
  GenerateStats stats;
  const auto first = generate(model, prompt, greedy(&kept), nullptr, &stats);
  EXPECT_EQ(stats.reused_tokens, 0);
  EXPECT_EQ(first.tokens, generate(model, prompt, greedy(nullptr)).tokens);
  EXPECT_EQ(static_cast<int>(kept.tokens.size()), kept.cache.length());
  ASSERT_GE(kept.tokens.size(), 50u);

  // A second turn: all of it, and more.
  prompt.insert(prompt.end(), first.tokens.begin(), first.tokens.end());
  for (const int id : some_tokens(5, 2)) prompt.push_back(id);
  const auto second = generate(model, prompt, greedy(&kept), nullptr, &stats);
  EXPECT_GE(stats.reused_tokens, 50);
  EXPECT_EQ(second.tokens, generate(model, prompt, greedy(nullptr)).tokens);

  // Another text after the first 17 tokens.
  prompt.resize(17);
  for (const int id : some_tokens(9, 3)) prompt.push_back(id);
  const auto third = generate(model, prompt, greedy(&kept), nullptr, &stats);
  EXPECT_EQ(stats.reused_tokens, 17);
  EXPECT_EQ(third.tokens, generate(model, prompt, greedy(nullptr)).tokens);

  // The same once more: the last token is always read.
  const auto again = generate(model, prompt, greedy(&kept), nullptr, &stats);
  EXPECT_EQ(stats.reused_tokens, 25);
  EXPECT_EQ(again.tokens, third.tokens);

  // Nothing alike, and nothing at all.
  const auto other = some_tokens(12, 77);
  EXPECT_EQ(generate(model, other, greedy(&kept), nullptr, &stats).tokens,
            generate(model, other, greedy(nullptr)).tokens);
  EXPECT_EQ(stats.reused_tokens, 0);
  EXPECT_THROW(generate_batch(model, {{1}, {2}}, greedy(&kept)), Error);
}

TEST(PromptCache, AWindowThatForgotStartsAnew) {
  const auto model = model_of("window");
  PromptCache kept;
  auto prompt = some_tokens(30, 1);
  generate(model, prompt, greedy(&kept));
  prompt.resize(20);
  GenerateStats stats;
  const auto got = generate(model, prompt, greedy(&kept), nullptr, &stats);
  EXPECT_EQ(stats.reused_tokens, 0);
  EXPECT_EQ(got.tokens, generate(model, prompt, greedy(nullptr)).tokens);
}

TEST(PromptCache, InAFile) {
  const test::TemporaryFolder folder;
  const auto model = model_of();
  for (const int bits : {0, 8}) {
    SCOPED_TRACE(bits);
    const auto path = folder / ("kept-" + std::to_string(bits));
    auto prompt = some_tokens(30, 1);
    PromptCache kept;
    auto options = greedy(&kept);
    options.kv_bits = bits;
    const auto first = generate(model, prompt, options);
    save_prompt_cache(path, model, kept);

    auto loaded = load_prompt_cache(path, model);
    EXPECT_EQ(loaded.tokens, kept.tokens);
    prompt.insert(prompt.end(), first.tokens.begin(), first.tokens.end());
    prompt.push_back(7);
    GenerateStats stats;
    options.reuse = &loaded;
    const auto got = generate(model, prompt, options, nullptr, &stats);
    EXPECT_GE(stats.reused_tokens, 40);
    options.reuse = &kept;
    EXPECT_EQ(got.tokens, generate(model, prompt, options).tokens);
  }
  // Another model's; no such file; no cache at all.
  const LanguageModel other(config::preset("llama-tiny", {.depth = 1, .head_dim = 32}), 4);
  const auto kind_of = [&](const fs::path& path, const LanguageModel& m) {
    try {
      load_prompt_cache(path, m);
    } catch (const Error& e) {
      return e.kind();
    }
    return Kind::internal;
  };
  EXPECT_EQ(kind_of(folder / "kept-0", other), Kind::mismatch);
  EXPECT_EQ(kind_of(folder / "none", model), Kind::not_found);
  write_file_atomic(folder / "text", "hello");
  EXPECT_EQ(kind_of(folder / "text", model), Kind::bad_data);
}

// Keeping the last N positions is what a model with a window of N does.
TEST(MaxKv, IsAWindow) {
  const auto whole = model_of(), windowed = model_of("window");
  const auto prompt = some_tokens(40, 1);
  for (const int chunk : {512, 7, 1}) {
    auto options = greedy(nullptr, 20);
    options.prefill_chunk = chunk;
    const auto want = generate(windowed, prompt, options);
    options.max_kv = 9;
    EXPECT_EQ(generate(whole, prompt, options).tokens, want.tokens) << chunk;
    options.max_kv = 100;  // the narrower of the two
    EXPECT_EQ(generate(windowed, prompt, options).tokens, want.tokens) << chunk;
  }
}

}  // namespace
}  // namespace lmxlab
