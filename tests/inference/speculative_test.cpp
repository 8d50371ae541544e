#include "lmxlab/inference/speculative.h"

#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/inference/generate.h"
#include "lmxlab/models/adapters.h"
#include "lmxlab/models/quantize.h"
#include "tests/inference/models.h"
#include "tests/inference/samplings.h"
#include "tests/support/error_of.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <thread>

namespace lmxlab {
namespace {

using testing::HasSubstr;
using testing_models::small;

std::vector<int> prompt_of(int n, int vocab, int seed) {
  std::vector<int> out;
  uint32_t x = static_cast<uint32_t>(seed) * 2654435761u + 12345u;
  for (int i = 0; i < n; ++i) {
    x = x * 1664525u + 1013904223u;
    out.push_back(static_cast<int>((x >> 8) % static_cast<uint32_t>(vocab)));
  }
  return out;
}

template <class F>
std::string message_of(F&& f, Kind kind) {
  const auto e = test::error_of(f);
  EXPECT_EQ(e.kind(), kind);
  return e.what();
}

// Drafts the text that will come, and from time to time a wrong token in it: each round accepts
// another number of them.
class Knows : public DraftSource {
 public:
  Knows(std::vector<int> text, int vocab) : text_(std::move(text)), vocab_(vocab) {}
  std::vector<int> draft(const DraftRequest& r) override {
    std::vector<int> out;
    for (size_t at = r.text.size(); out.size() < size_t(r.most) && at < text_.size(); ++at)
      out.push_back(text_[at]);
    const size_t right = round_++ % (size_t(r.most) + 1);
    if (right < out.size()) out[right] = (out[right] + 1) % vocab_;
    return out;
  }

 private:
  std::vector<int> text_;
  int vocab_;
  size_t round_ = 0;
};

std::vector<testing_models::Named> families() {
  auto out = testing_models::all();
  for (const char* name :
       {"gemma3-tiny", "gpt-oss-tiny", "mixtral-tiny", "deepseek-v2-tiny", "minicpm3-tiny",
        "mamba-tiny", "mamba2-tiny", "rwkv-tiny", "xlstm-tiny", "recurrent-gemma-tiny",
        "jamba-tiny", "zamba2-tiny", "lfm2-tiny", "qwen3-next-tiny", "minimax-tiny",
        "kimi-linear-tiny", "falcon-h1-tiny"}) {
    auto m = config::preset(name);
    m.init_std = 0.2f;
    out.push_back({name, m});
  }
  return out;
}

// Adapters on in the model, off in the draft: one set of weights, the text of the model alone.
TEST(Speculative, ABaseDraftsForItsAdapters) {
  for (const char* name : {"llama-tiny", "mamba2-tiny"}) {
    auto config = config::preset(name);
    config.init_std = 0.2f;
    LanguageModel model(config, 3);
    EXPECT_THROW(DraftModel(model, CacheOptions{}), Error) << "there is no adapter";
    attach_adapter(model, {.rank = 4}, "one", 1);
    attach_adapter(model, {.rank = 2}, "off", 2);
    use_adapters(model, {"one"});
    {
      const Enter enter(model.runtime());
      for (auto& e : core::collect_trainable(model.transformer()))  // B is zero at first
        e.param->value = mx::add(e.param->value, mx::array(0.02f));
    }
    DraftModel draft(model, CacheOptions{});
    const auto prompt = prompt_of(9, config.vocab, 1);
    for (const float temperature : {0.0f, 0.9f}) {
      GenerateOptions options;
      options.sampling.temperature = temperature, options.max_tokens = 40;
      const auto plain = generate(model, prompt, options);
      {
        const AdaptersOff off(model);
        EXPECT_NE(generate(model, prompt, options).tokens, plain.tokens) << name;
      }
      options.draft = &draft, options.num_draft_tokens = 3;
      GenerateStats stats;
      EXPECT_EQ(generate(model, prompt, options, nullptr, &stats).tokens, plain.tokens) << name;
      EXPECT_GT(stats.accepted_tokens, 0) << name;
      EXPECT_LT(stats.accepted_tokens, stats.draft_tokens) << name;
    }
    for (const auto& a : adapters_of(model)) EXPECT_EQ(a.on, a.name == "one");
  }
}

void expect_plain_text(const std::string& name, const LanguageModel& model,
                       const CacheOptions& cache = {}) {
  const int vocab = model.config().vocab;
  const LanguageModel other(small({.heads = 2, .kv_heads = 1, .head_dim = 8}), 5);
  int accepted = 0, drafted = 0, n = 0;
  for (const auto& sampling : samplings()) {
    GenerateOptions options{.sampling = sampling, .max_tokens = 24, .logprobs = 2};
    options.kv_bits = cache.kv_bits, options.max_kv = cache.max_kv;
    const auto prompt = prompt_of(11, vocab, 1);
    const auto want = generate(model, prompt, options);
    auto text = prompt;
    text.insert(text.end(), want.tokens.begin(), want.tokens.end());
    Knows knows(text, vocab);
    PromptLookup lookup(1);
    DraftModel itself(model, model);
    for (DraftSource* source : std::vector<DraftSource*>{&knows, &lookup, &itself}) {
      options.draft = source, options.num_draft_tokens = 1 + n++ % 5;
      GenerateStats stats;
      const auto got = generate(model, prompt, options, nullptr, &stats);
      EXPECT_EQ(got.tokens, want.tokens)
          << name << ", seed " << sampling.seed << ", " << options.num_draft_tokens;
      ASSERT_EQ(got.logprobs.size(), want.logprobs.size());
      for (size_t i = 0; i < want.logprobs.size(); ++i)
        EXPECT_NEAR(got.logprobs[i], want.logprobs[i], 2e-3f) << name;
      accepted += stats.accepted_tokens, drafted += stats.draft_tokens;
    }
  }
  EXPECT_GT(accepted, 40) << name;
  EXPECT_GT(drafted, accepted) << name << ": something must be taken back";
}

TEST(Speculative, IsThePlainTextInEveryFamily) {
  for (const auto& [name, config] : families()) expect_plain_text(name, LanguageModel(config, 1));
}

TEST(Speculative, IsThePlainTextOfPackedWeightsAndCaches) {
  for (const char* name : {"llama-tiny", "qwen3-next-tiny"}) {
    auto config = config::preset(name);
    config.init_std = 0.2f;
    LanguageModel model(config, 1);
    quantize_model(model, {.bits = 4, .group_size = 32});
    interleave_model(model);
    expect_plain_text(name + std::string(", 4 bits"), model);
  }
  const LanguageModel model(small({.heads = 2, .kv_heads = 1, .head_dim = 32}), 1);
  for (const CacheOptions& cache :
       {CacheOptions{.kv_bits = 16}, CacheOptions{.kv_bits = 8}, CacheOptions{.max_kv = 9}})
    expect_plain_text("a cache of " + std::to_string(cache.kv_bits) + " bits", model, cache);
}

// How far what was seen is from what is expected: a standard normal value, nearly, if only chance
// made the difference (Wilson and Hilferty's cube root of chi-square).
double surprise(const std::map<std::vector<int>, int>& seen,
                const std::map<std::vector<int>, double>& expected, int draws) {
  double chi = 0, rare_expected = 0;
  int rare_seen = draws, cells = 0;
  for (const auto& [tokens, p] : expected) {
    const double e = p * draws;
    if (e < 5) {
      rare_expected += e;
      continue;
    }
    const auto at = seen.find(tokens);
    const int s = at == seen.end() ? 0 : at->second;
    chi += (s - e) * (s - e) / e, rare_seen -= s, ++cells;
  }
  if (rare_expected > 1) chi += std::pow(rare_seen - rare_expected, 2) / rare_expected, ++cells;
  const double f = cells - 1;
  return (std::cbrt(chi / f) - (1 - 2 / (9 * f))) / std::sqrt(2 / (9 * f));
}

TEST(Speculative, SampledTextHasTheModelsDistribution) {
  constexpr int kVocab = 6, kDraws = 2500;
  auto config = small({.heads = 4, .kv_heads = 2, .head_dim = 8});
  config.vocab = kVocab;
  const LanguageModel model(config, 1);
  auto smaller = small({.heads = 2, .kv_heads = 1, .head_dim = 8});
  smaller.vocab = kVocab, smaller.layers.pop_back(), smaller.init_std = 0.1f;
  const LanguageModel other(smaller, 2);
  const std::vector<int> prompt{1, 4, 2};
  SamplingOptions sampling{.temperature = 1.3f,
                           .top_k = 5,
                           .top_p = 0.97f,
                           .min_p = 0.01f,
                           .repetition_penalty = 1.2f,
                           .presence_penalty = 0.2f};
  // What is to be expected of three tokens, from the model alone.
  std::map<std::vector<int>, double> expected{{{}, 1.0}};
  for (int length = 0; length < 3; ++length) {
    std::vector<std::vector<int>> texts;
    std::vector<int32_t> ids;
    for (const auto& [made, p] : expected) {
      auto& text = texts.emplace_back(prompt);
      text.insert(text.end(), made.begin(), made.end());
      ids.insert(ids.end(), text.begin(), text.end());
    }
    const Enter enter(model.runtime());
    const int rows = int(texts.size()), n = int(texts[0].size());
    const auto logits = model.forward(mx::array(ids.data(), {rows, n}, mx::int32));
    const Sampler sampler(sampling, kVocab, texts, std::vector<uint64_t>(texts.size(), 0));
    const auto log_p = to_vector<float>(sampler.log_distribution(
        mx::squeeze(mx::slice(logits, {0, n - 1, 0}, {rows, n, kVocab}), 1)));
    std::map<std::vector<int>, double> longer;
    size_t at = 0;
    for (const auto& [made, p] : expected)
      for (int id = 0; id < kVocab; ++id, ++at) {
        auto tokens = made;
        tokens.push_back(id);
        longer[tokens] = p * std::exp(double(log_p[at]));
      }
    expected = std::move(longer);
  }
  double sum = 0;
  for (const auto& [tokens, p] : expected) sum += p;
  ASSERT_NEAR(sum, 1, 1e-5);

  std::map<std::vector<int>, int> seen, unchecked;
  DraftModel draft(other, model);
  GenerateOptions options{.sampling = sampling, .max_tokens = 3, .draft = &draft};
  options.num_draft_tokens = 2;
  int accepted = 0, drafted = 0;
  for (int seed = 0; seed < kDraws; ++seed) {
    options.sampling.seed = uint64_t(seed);
    GenerateStats stats;
    const auto got = generate(model, prompt, options, nullptr, &stats).tokens;
    ++seen[got];
    accepted += stats.accepted_tokens, drafted += stats.draft_tokens;
    // The fault that this test is for: what was drafted stays, whatever the model says.
    auto text = prompt;
    text.push_back(got[0]);
    auto kept = draft.draft({text, 2, options.sampling, 1});
    kept.insert(kept.begin(), got[0]);
    ++unchecked[kept];
  }
  EXPECT_GT(accepted, drafted / 5);
  EXPECT_LT(accepted, drafted * 9 / 10);
  constexpr double kOneInThousand = 3.09;
  EXPECT_LT(surprise(seen, expected, kDraws), kOneInThousand);
  EXPECT_GT(surprise(unchecked, expected, kDraws), kOneInThousand);
}

// Wrong ones, slowly.
class Slow : public DraftSource {
  std::vector<int> draft(const DraftRequest& r) override {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    return {r.text.back()};
  }
};

TEST(Speculative, IsSwitchedOffWhereItDoesNotPay) {
  for (const char* name : {"llama-tiny", "mamba2-tiny", "gemma3-tiny"}) {
    auto config = config::preset(name);
    config.init_std = 0.2f;
    const LanguageModel model(config, 1);
    const auto prompt = prompt_of(9, config.vocab, 2);
    GenerateOptions options{.sampling = {.temperature = 0.8f, .seed = 6}, .max_tokens = 110};
    options.sampling.repetition_penalty = 1.1f;
    const auto want = generate(model, prompt, options).tokens;
    Slow slow;
    PromptLookup lookup;
    for (DraftSource* source : std::vector<DraftSource*>{&slow, &lookup}) {
      options.draft = source;
      GenerateStats stats;
      EXPECT_EQ(generate(model, prompt, options, nullptr, &stats).tokens, want) << name;
      if (source == &slow) {
        EXPECT_GT(stats.draft_tokens, 4) << "it is tried";
        EXPECT_LT(stats.draft_tokens, 30) << name;
      }
    }
  }
}

TEST(Speculative, EndsWhereThePlainTextDoes) {
  const LanguageModel model(small({.heads = 4, .kv_heads = 2, .head_dim = 8}), 3);
  const auto prompt = prompt_of(9, 61, 2);
  GenerateOptions options{.sampling = {.temperature = 0}, .max_tokens = 30};
  const auto whole = generate(model, prompt, options).tokens;
  DraftModel itself(model, model);
  options.draft = &itself, options.num_draft_tokens = 4;
  for (int n = 0; n <= 12; ++n) {
    options.max_tokens = n;
    const auto got = generate(model, prompt, options);
    EXPECT_EQ(got.tokens, std::vector<int>(whole.begin(), whole.begin() + n));
    EXPECT_EQ(got.reason, StopReason::length);
  }
  options.max_tokens = 30, options.stop_tokens = {whole[7]};
  const auto end = std::find(whole.begin(), whole.end(), whole[7]) + 1;
  const auto got = generate(model, prompt, options);
  EXPECT_EQ(got.tokens, std::vector<int>(whole.begin(), end));
  EXPECT_EQ(got.reason, StopReason::stop_token);
}

TEST(Speculative, APromptCacheGoesOnBehindIt) {
  for (const char* name : {"llama-tiny", "mamba2-tiny", "gemma3-tiny"}) {
    auto config = config::preset(name);
    config.init_std = 0.2f;
    const LanguageModel model(config, 1);
    const auto prompt = prompt_of(9, config.vocab, 2);
    GenerateOptions options{.sampling = {.temperature = 0}, .max_tokens = 10};
    auto text = prompt;
    for (const int id : generate(model, prompt, options).tokens) text.push_back(id);
    text.push_back(7);
    const auto want = generate(model, text, options).tokens;
    PromptCache kept;
    DraftModel itself(model, model);
    options.draft = &itself, options.num_draft_tokens = 3, options.reuse = &kept;
    generate(model, prompt, options);
    EXPECT_EQ(int(kept.tokens.size()), kept.cache.length());
    GenerateStats stats;
    EXPECT_EQ(generate(model, text, options, nullptr, &stats).tokens, want) << name;
    EXPECT_GT(stats.reused_tokens, 9) << name;
  }
}

// Taking back costs no copy of keys and values: their buffers stay where they are.
TEST(Speculative, WritesKeysInPlace) {
  const LanguageModel model(small({.heads = 4, .kv_heads = 2, .head_dim = 8}), 3);
  const auto prompt = prompt_of(9, 61, 2);
  GenerateOptions options{.sampling = {.temperature = 0}, .max_tokens = 40};
  auto text = prompt;
  for (const int id : generate(model, prompt, options).tokens) text.push_back(id);
  Knows knows(text, 61);
  Slow slow;
  for (const int n : {3, 0}) {
    options.draft = n ? static_cast<DraftSource*>(&knows) : &slow;
    options.num_draft_tokens = n, options.max_tokens = n ? 40 : 110;
    TokenStream stream(model, {prompt}, options);
    ASSERT_TRUE(stream.next());
    const auto places = [&] {
      mx::eval(stream.cache()->arrays());
      std::vector<const void*> out;
      for (const auto& a : stream.cache()->arrays()) out.push_back(a.data<float>());
      return out;
    };
    ASSERT_TRUE(stream.next());
    const auto first = places();
    for (int at = 2; stream.next(); ++at)  // not each time: steps shall run ahead
      if (at % 7 == 0) {
        EXPECT_EQ(places(), first) << at;
      }
    EXPECT_GT(stream.stats().draft_tokens, stream.stats().accepted_tokens);
  }
}

TEST(Speculative, RefusesWhatCannotBe) {
  const LanguageModel model(small({.heads = 4, .kv_heads = 2, .head_dim = 8}), 1);
  auto other = small({.heads = 4, .kv_heads = 2, .head_dim = 8});
  other.vocab = 62;
  EXPECT_THAT(message_of([&] { DraftModel(LanguageModel(other), model); }, Kind::mismatch),
              testing::AllOf(HasSubstr("62"), HasSubstr("61")));
  PromptLookup lookup;
  GenerateOptions options{.draft = &lookup};
  EXPECT_THAT(message_of(
                  [&] {
                    generate_batch(model, {{1}, {2}}, options);
                  },
                  Kind::usage),
              HasSubstr("one prompt"));
  options.num_draft_tokens = 33;
  EXPECT_THAT(message_of([&] { generate(model, std::vector{1}, options); }, Kind::usage),
              HasSubstr("num_draft_tokens"));
  auto longer = small({.heads = 4, .kv_heads = 2, .head_dim = 8});
  for (auto& block : longer.layers)
    std::get<config::Attention>(block.mixer).position =
        config::Rope{.scaling = config::DynamicNtk{.factor = 2, .original = 8}};
  options.num_draft_tokens = 3;
  EXPECT_THAT(message_of([&] { generate(LanguageModel(longer), std::vector{1}, options); },
                         Kind::unsupported),
              HasSubstr("depend on the length"));
  class Wrong : public DraftSource {
    std::vector<int> draft(const DraftRequest&) override { return {61}; }
  } wrong;
  options.draft = &wrong;
  EXPECT_THAT(message_of([&] { generate(model, std::vector{1}, options); }, Kind::usage),
              HasSubstr("ids from 0 to 60"));
}

TEST(PromptLookup, FindsTheLatestPlaceOfTheLongestRun) {
  PromptLookup lookup;
  const auto draft = [&](std::vector<int> text, int most) {
    return lookup.draft({.text = text, .most = most});
  };
  EXPECT_EQ(draft({1, 2, 3, 4, 5, 9, 1, 2, 3}, 2), (std::vector{4, 5}));
  EXPECT_EQ(draft({1, 2, 3, 4, 7, 3, 5, 1, 2, 3}, 3), (std::vector{4, 7, 3})) << "the longest run";
  EXPECT_EQ(draft({3, 4, 3, 5, 3}, 1), (std::vector{5})) << "the latest place";
  EXPECT_EQ(draft({6, 6}, 4), (std::vector{6}));
  EXPECT_EQ(draft({1, 2, 3}, 4), std::vector<int>());
  EXPECT_EQ(draft({1}, 4), std::vector<int>());
}

// Plain tokens take 1; n drafted ones and the pass over them so much.
template <class F>
int rounds_of(Pace& pace, F cost, int accepted, int tokens) {
  int rounds = 0;
  for (int made = 0; made < tokens;) {
    const int n = pace.drafts();
    if (n == 0) {
      pace.plain(1), ++made;
    } else {
      const int stay = std::min(n, accepted);
      pace.round(n, stay, cost(n)), ++rounds, made += stay + 1;
    }
  }
  return rounds;
}

TEST(Pace, DraftsWhereItPaysAndAsMany) {
  Pace all;
  EXPECT_EQ(all.drafts(), 0) << "what a plain token costs must be known first";
  rounds_of(
      all, [](int) { return 2.0; }, 100, 300);
  EXPECT_EQ(all.drafts(), Pace::kMost);
  Pace cliff;  // passes over more than six tokens are made another way
  rounds_of(
      cliff, [](int n) { return n > 6 ? 8.0 : 2.0; }, 100, 300);
  EXPECT_EQ(cliff.drafts(), 6);
  Pace few;
  rounds_of(
      few, [](int n) { return 1 + 0.2 * n; }, 1, 400);
  EXPECT_LE(few.drafts(), 3);
  EXPECT_GE(few.drafts(), 1);
}

TEST(Pace, StopsWhereItDoesNotPay) {
  Pace pace;
  const int rounds = rounds_of(
      pace, [](int) { return 3.0; }, 1, 4000);
  EXPECT_GT(rounds, 10) << "it tries again";
  EXPECT_LT(rounds, 80) << "ever less often";
  // What pays at last is taken up again.
  rounds_of(
      pace, [](int) { return 2.0; }, 100, 4000);
  EXPECT_GT(pace.drafts(), 0);
}

TEST(Pace, NoiseDoesNotTurnItOnAndOff) {
  Pace pace;
  rounds_of(
      pace, [](int) { return 1.5; }, 100, 400);
  ASSERT_GT(pace.drafts(), 0);
  // A round of nine tokens takes hardly more than nine plain ones: it has paid, so it goes on.
  int turns = 0;
  for (int i = 0; i < 200; ++i) {
    const int n = pace.drafts();
    if (n == 0) ++turns, pace.plain(1);
    if (n > 0) pace.round(n, n, (n + 1) * 1.03);
  }
  EXPECT_EQ(turns, 0);
  // And what has not paid has to do so clearly.
  Pace late;
  rounds_of(
      late, [](int) { return 30.0; }, 100, 100);
  ASSERT_EQ(late.drafts(), 0);
  int rounds = 0;
  for (int i = 0; i < 1000; ++i) {
    const int n = late.drafts();
    if (n == 0) late.plain(1);
    if (n > 0) late.round(n, n, (n + 1) * 0.97), ++rounds;
  }
  EXPECT_LT(rounds, 100);
}

TEST(Pace, AFixedNumberStays) {
  Pace pace(3);
  rounds_of(
      pace, [](int) { return 100.0; }, 0, 100);
  EXPECT_EQ(pace.drafts(), 3);
}

}  // namespace
}  // namespace lmxlab
