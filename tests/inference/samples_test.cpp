// Several texts of one prompt: samples, beams, and which of them is the best.
#include "lmxlab/inference/samples.h"

#include "lmxlab/inference/beam.h"
#include "tests/inference/models.h"
#include "tests/support/error_of.h"

#include <gtest/gtest.h>
#include <mlx/ops.h>

#include <algorithm>
#include <cmath>

namespace lmxlab {
namespace {

using testing_models::small;

LanguageModel model_of(int vocab, uint64_t seed = 1) {
  auto config = small({.heads = 4, .kv_heads = 2, .head_dim = 8});
  config.vocab = vocab;
  return LanguageModel(config, seed);
}

// Log-probabilities behind a text, without a cache.
std::vector<double> next_of(const LanguageModel& model, const std::vector<int>& text) {
  const int n = int(text.size()), vocab = model.config().vocab;
  const auto all = to_vector<float>(model.forward(mx::array(text.data(), {1, n}, mx::int32)));
  std::vector<double> out(all.end() - vocab, all.end());
  double sum = 0;
  for (const double x : out) sum += std::exp(x);
  for (double& x : out) x -= std::log(sum);
  return out;
}

double logprob_of(const LanguageModel& model, std::vector<int> text, const std::vector<int>& made) {
  double sum = 0;
  for (const int id : made) sum += next_of(model, text)[size_t(id)], text.push_back(id);
  return sum;
}

TEST(Samples, ShareOnePrefillAndAreWhatTheyAreAlone) {
  for (const char* name : {"llama-tiny", "mamba2-tiny", "gemma3-tiny", "deepseek-v2-tiny"}) {
    auto config = config::preset(name);
    config.init_std = 0.2f;
    const LanguageModel model(config, 1);
    std::vector<int> first(23), second(9);
    for (size_t i = 0; i < first.size(); ++i) first[i] = int(i * 7 % 31);
    for (size_t i = 0; i < second.size(); ++i) second[i] = int(i * 5 % 29);
    GenerateOptions options{.sampling = {.temperature = 1, .top_p = 1, .seed = 5},
                            .max_tokens = 12};
    // Others between them, so that rows of one prompt do not lie together.
    const std::vector<std::vector<int>> prompts{first, second, first, first, second};
    GenerateStats stats, apart;
    const auto all = generate_batch(model, prompts, options, nullptr, &stats);
    for (size_t r = 0; r < prompts.size(); ++r) {
      auto o = options;
      o.sampling.seed += r;
      EXPECT_EQ(all[r].tokens, generate(model, prompts[r], o).tokens) << name << ", row " << r;
    }
    EXPECT_NE(all[0].tokens, all[2].tokens);
  }
}

TEST(Samples, TheirPrefillCostsOne) {
  const auto model = model_of(61);
  std::vector<int> prompt(100, 3);
  GenerateOptions options{.max_tokens = 1};
  size_t one = 0, many = 0;
  for (const int n : {1, 8}) {
    TokenStream stream(model, std::vector<std::vector<int>>(size_t(n), prompt), options);
    stream.next();
    (n == 1 ? one : many) = size_t(stream.stats().peak_bytes);
    EXPECT_EQ(stream.cache()->rows(), n);
  }
  auto others = std::vector<std::vector<int>>(8, prompt);
  for (size_t r = 0; r < 8; ++r) others[r][0] = int(r);
  TokenStream apart(model, others, options);
  apart.next();
  EXPECT_LT(many - one, (size_t(apart.stats().peak_bytes) - one) * 3 / 4);
}

TEST(Samples, AJudgeFindsThemAsProbableAsAForwardPassDoes) {
  const auto model = model_of(61), other = model_of(61, 7);
  const std::vector<int> prompt{3, 1, 4, 1, 5};
  GenerateOptions options{
      .sampling = {.temperature = 1, .top_p = 1}, .max_tokens = 9, .logprobs = 0};
  std::vector<std::vector<int>> texts;
  std::vector<double> own;
  for (const auto& g : generate_batch(model, {4, prompt}, options)) {
    texts.push_back(g.tokens);
    own.push_back(mean_logprob(g));
  }
  texts.push_back({});
  const auto same = judge(model, prompt, texts), theirs = judge(other, prompt, texts);
  for (size_t i = 0; i < own.size(); ++i) {
    EXPECT_NEAR(same[i], own[i], 1e-4);
    EXPECT_NEAR(theirs[i], logprob_of(other, prompt, texts[i]) / 9, 1e-4);
  }
  EXPECT_EQ(same[4], -INFINITY);
  EXPECT_EQ(mean_logprob(Generation{}), -INFINITY);
  EXPECT_EQ(test::error_of([] { mean_logprob(Generation{.tokens = {1}}); }).kind(), Kind::usage);
  EXPECT_EQ(test::error_of([&] { judge(model, prompt, {{61}}); }).kind(), Kind::usage);
}

// With as many beams as there are texts nothing is lost: the best is the best of all.
TEST(Beams, EnoughOfThemFindTheMostProbableTexts) {
  const auto model = model_of(4);
  const std::vector<int> prompt{1, 2, 3};
  std::vector<std::pair<double, std::vector<int>>> all;
  for (int i = 0; i < 64; ++i) {
    std::vector<int> made{i / 16, i / 4 % 4, i % 4};
    all.emplace_back(-logprob_of(model, prompt, made), made);
  }
  std::sort(all.begin(), all.end());
  const auto beams = beam_search(model, prompt, {.beams = 64, .max_tokens = 3});
  ASSERT_EQ(beams.size(), 64u);
  for (size_t i = 0; i < 64; ++i) {
    EXPECT_EQ(beams[i].tokens, all[i].second) << i;
    EXPECT_NEAR(beams[i].logprob, -all[i].first, 1e-4);
    EXPECT_NEAR(beams[i].score, beams[i].logprob / 3, 1e-6);
  }
}

TEST(Beams, OneIsTheGreedyText) {
  const auto model = model_of(61);
  const std::vector<int> prompt{1, 2, 3};
  const auto greedy = generate(model, prompt, {.sampling = {.temperature = 0}, .max_tokens = 20});
  const auto one = beam_search(model, prompt, {.beams = 1, .max_tokens = 20});
  ASSERT_EQ(one.size(), 1u);
  EXPECT_EQ(one[0].tokens, greedy.tokens);
  EXPECT_EQ(one[0].reason, StopReason::length);
  const auto more = beam_search(model, prompt, {.beams = 5, .max_tokens = 20});
  EXPECT_GE(more[0].logprob, one[0].logprob);
}

TEST(Beams, EndAndTheirLengthCountsAsAsked) {
  const auto model = model_of(8);
  const std::vector<int> prompt{1, 2, 3};
  double last = -1;
  for (const float penalty : {-1.0f, 0.0f, 3.0f}) {
    const auto beams = beam_search(
        model, prompt,
        {.beams = 4, .length_penalty = penalty, .max_tokens = 12, .stop_tokens = {2, 5}});
    ASSERT_EQ(beams.size(), 4u);
    double length = 0;
    for (const auto& b : beams) {
      length += double(b.tokens.size()) / 4;
      EXPECT_NEAR(b.score, b.logprob / std::pow(double(b.tokens.size()), penalty), 1e-9);
      EXPECT_NEAR(b.logprob, logprob_of(model, prompt, b.tokens), 1e-4);
      const bool stopped = b.tokens.back() == 2 || b.tokens.back() == 5;
      EXPECT_EQ(b.reason, stopped ? StopReason::stop_token : StopReason::length);
    }
    EXPECT_TRUE(std::is_sorted(beams.begin(), beams.end(),
                               [](const auto& a, const auto& b) { return a.score > b.score; }));
    EXPECT_GE(length, last) << "a larger penalty favours longer texts";
    last = length;
  }
  EXPECT_TRUE(beam_search(model, prompt, {.max_tokens = 0}).empty());
  EXPECT_EQ(test::error_of([&] { beam_search(model, prompt, {.beams = 0}); }).kind(), Kind::usage);
  EXPECT_EQ(test::error_of([&] { beam_search(model, std::vector<int>{9}); }).kind(), Kind::usage);
}

}  // namespace
}  // namespace lmxlab
