#include "lmxlab/inference/generate.h"

#include "lmxlab/core/runtime.h"
#include "lmxlab/inference/naive.h"
#include "tests/inference/models.h"
#include "tests/inference/samplings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <thread>

namespace lmxlab {
namespace {

using testing::HasSubstr;
using testing_models::all;

config::Model one(const std::string& name) {
  for (auto& m : all())
    if (m.name == name) return m.config;
  throw std::runtime_error("no such model: " + name);
}

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
void expect_error(Kind kind, const std::vector<std::string>& parts, F&& body) {
  try {
    body();
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), kind) << e.what();
    for (const auto& p : parts) EXPECT_THAT(e.what(), HasSubstr(p));
  }
}

TEST(Generate, EqualsTheNaiveOracleForEveryModelAndChunk) {
  std::set<std::vector<int>> texts;
  int compared = 0;
  for (const auto& [name, config] : all()) {
    const LanguageModel model(config, 1);
    for (const auto& sampling : samplings()) {
      GenerateOptions options{.sampling = sampling, .max_tokens = 14};
      const auto prompt = prompt_of(13, config.vocab, compared);
      const auto want = naive_generate(model, prompt, options);
      ASSERT_EQ(want.size(), 14u);
      texts.insert(want);
      for (const int chunk : {1, 2, 5, 13, 512}) {
        options.prefill_chunk = chunk;
        const auto got = generate(model, prompt, options);
        EXPECT_EQ(got.tokens, want) << name << ", chunk " << chunk << ", seed " << sampling.seed;
        EXPECT_EQ(got.reason, StopReason::length);
        EXPECT_EQ(got.prompt_tokens, 13);
        ++compared;
      }
    }
  }
  EXPECT_GT(texts.size(), all().size()) << "the texts must differ to prove anything";
}

TEST(Generate, ARowOfABatchIsWhatItIsAlone) {
  for (const auto& [name, config] : all()) {
    const LanguageModel model(config, 2);
    for (const auto& sampling : samplings()) {
      std::vector<std::vector<int>> prompts;
      for (const int n : {9, 1, 17, 4, 9}) prompts.push_back(prompt_of(n, config.vocab, n));
      GenerateOptions options{.sampling = sampling, .max_tokens = 16};
      std::vector<std::vector<int>> want;
      for (size_t r = 0; r < prompts.size(); ++r) {
        auto o = options;
        o.sampling.seed += r;
        want.push_back(naive_generate(model, prompts[r], o));
      }
      // Each row ends at another step: at the first of these tokens in it.
      options.stop_tokens = {want[0][2], want[1][5], want[2][7], want[3][0]};
      for (size_t r = 0; r < want.size(); ++r) {
        const auto end = std::find_first_of(want[r].begin(), want[r].end(),
                                            options.stop_tokens.begin(), options.stop_tokens.end());
        if (end != want[r].end()) want[r].erase(end + 1, want[r].end());
      }
      for (const int chunk : {3, 512}) {
        options.prefill_chunk = chunk;
        const auto got = generate_batch(model, prompts, options);
        ASSERT_EQ(got.size(), prompts.size());
        for (size_t r = 0; r < want.size(); ++r) {
          EXPECT_EQ(got[r].tokens, want[r]) << name << ", row " << r << ", chunk " << chunk;
          const bool stopped = std::find(options.stop_tokens.begin(), options.stop_tokens.end(),
                                         want[r].back()) != options.stop_tokens.end();
          EXPECT_EQ(got[r].reason, stopped ? StopReason::stop_token : StopReason::length) << name;
        }
      }
    }
  }
}

TEST(Generate, LearnedPositionsEndEachRowAtItsOwnPlace) {
  auto config = one("learned, soft-capped logits");
  config.position = config::Learned{.length = 24};
  config.context = 24;
  const LanguageModel model(config, 3);
  const std::vector<std::vector<int>> prompts{prompt_of(20, 61, 1), prompt_of(5, 61, 2),
                                              prompt_of(24, 61, 3)};
  const GenerateOptions options{.max_tokens = 100};
  const auto got = generate_batch(model, prompts, options);
  for (size_t r = 0; r < prompts.size(); ++r) {
    auto o = options;
    o.sampling.seed += r;
    EXPECT_EQ(got[r].tokens, naive_generate(model, prompts[r], o)) << r;
    EXPECT_EQ(got[r].tokens.size(), 24 - prompts[r].size() + 1);
    EXPECT_EQ(got[r].reason, StopReason::length);
  }
  expect_error(Kind::usage, {"24", "25", "positions"},
               [&] { generate(model, prompt_of(25, 61, 1), options); });
}

TEST(Generate, NamesWhatIsWrongWithThePrompt) {
  const LanguageModel model(one("llama-tiny"), 1);
  expect_error(Kind::usage, {"token 1", "255", "got 256"}, [&] {
    generate(model, std::vector<int>{3, 256});
  });
  expect_error(Kind::usage, {"prompt 1", "token 0", "got -1"}, [&] {
    generate_batch(model, {{3}, {-1}});
  });
  expect_error(Kind::usage, {"at least one token"}, [&] { generate(model, std::vector<int>{}); });
  const auto bytes = data::Tokenizer::bytes();
  expect_error(Kind::usage, {"at least one token"},
               [&] { generate(model, std::vector<int>{}, {}, &bytes); });
  expect_error(Kind::usage, {"max_tokens", "prefill_chunk", "stop_strings"}, [&] {
    generate(model, std::vector<int>{1},
             {.max_tokens = -1, .stop_strings = {"x"}, .prefill_chunk = 0});
  });
  expect_error(Kind::usage, {"empty"},
               [&] { generate(model, std::vector<int>{1}, {.stop_strings = {""}}, &bytes); });
  expect_error(Kind::usage, {"temperature"},
               [&] { generate(model, std::vector<int>{1}, {.sampling = {.temperature = -1}}); });
  expect_error(Kind::usage, {"logprobs"},
               [&] { generate(model, std::vector<int>{1}, {.logprobs = 257}); });
  EXPECT_TRUE(generate_batch(model, {}).empty());
  const auto none = generate(model, std::vector<int>{1}, {.max_tokens = 0});
  EXPECT_TRUE(none.tokens.empty());
  EXPECT_EQ(none.reason, StopReason::length);
}

TEST(Generate, AnEmptyPromptIsBos) {
  Json tokenizer = data::Tokenizer::characters("abcdefghijklmnop").to_json();
  Json config = Json::object({{"bos_token", Json("c")}});
  const auto t = data::Tokenizer::from_json(tokenizer, config);
  ASSERT_EQ(t.bos_id(), 2);
  const LanguageModel model(one("llama-tiny"), 1);
  const GenerateOptions options{.max_tokens = 9};
  EXPECT_EQ(generate(model, std::vector<int>{}, options, &t).tokens,
            generate(model, std::vector<int>{2}, options, &t).tokens);
}

// A tokenizer of 61 characters, some of several bytes: what a model of vocabulary 61 speaks.
data::Tokenizer letters() {
  std::vector<std::string> list;
  for (char c = 'A'; c <= 'Z'; ++c) list.emplace_back(1, c);
  for (char c = 'a'; c <= 'z'; ++c) list.emplace_back(1, c);
  for (const char* s : {"é", "ß", "λ", "—", "字", "🙂", " ", ".", "\n"}) list.emplace_back(s);
  return data::Tokenizer::characters(list);
}

TEST(Generate, StreamedTextJoinedIsTheText) {
  const LanguageModel model(one("window 5"), 5);
  const LanguageModel bytes_model(one("llama-tiny"), 5);
  const auto check = [](const LanguageModel& m, const data::Tokenizer& t, uint64_t seed) {
    std::vector<std::vector<int>> prompts{{1, 2, 3}, {4}};
    GenerateOptions options{
        .sampling = {.temperature = 1.5f, .seed = seed}, .max_tokens = 60, .logprobs = 2};
    std::vector<std::string> text(2);
    std::vector<std::vector<int>> tokens(2);
    std::vector<int> ends(2, 0);
    const auto got = stream_generate_batch(m, prompts, options, &t, [&](const TokenEvent& e) {
      const auto r = static_cast<size_t>(e.row);
      EXPECT_EQ(invalid_utf8_at(e.text), std::string::npos);
      EXPECT_EQ(ends[r], 0) << "nothing comes after the last event";
      text[r] += e.text, tokens[r].push_back(e.token);
      ends[r] += e.finished.has_value();
      EXPECT_EQ(e.top.size(), 2u);
      EXPECT_GE(e.top[0].second, e.top[1].second);
      EXPECT_GE(e.top[0].second, e.logprob);
    });
    for (size_t r = 0; r < 2; ++r) {
      EXPECT_EQ(text[r], got[r].text);
      EXPECT_EQ(tokens[r], got[r].tokens);
      EXPECT_EQ(got[r].text, t.decode(got[r].tokens));
      EXPECT_EQ(ends[r], 1);
      EXPECT_EQ(got[r].logprobs.size(), 60u);
    }
  };
  for (uint64_t seed = 0; seed < 5; ++seed) {
    check(model, letters(), seed);
    check(bytes_model, data::Tokenizer::bytes(), seed);  // mostly no UTF-8 at all
  }
}

TEST(Generate, StopStringsAreCutWhereverTheyFall) {
  const LanguageModel model(one("window 5"), 6);
  const auto t = letters();
  const std::vector<int> prompt{7, 8};
  const auto greedy =
      GenerateOptions{.sampling = {.temperature = 1.2f, .seed = 9}, .max_tokens = 40};
  const auto whole = generate(model, prompt, greedy, &t);
  int cut = 0;
  for (size_t from = 0; from < 38; ++from)
    for (const size_t n : {1, 2, 4}) {
      if (from + n > whole.tokens.size()) continue;
      const std::string stop = t.decode(std::span(whole.tokens).subspan(from, n));
      auto options = greedy;
      options.stop_strings = {"never this one", stop, stop + stop + stop + "!"};
      std::string streamed;
      const auto got = stream_generate(model, prompt, options, &t,
                                       [&](const TokenEvent& e) { streamed += e.text; });
      const auto at = whole.text.find(stop);
      EXPECT_EQ(got.text, whole.text.substr(0, at)) << "stop: " << stop;
      EXPECT_EQ(streamed, got.text);
      EXPECT_EQ(got.reason, StopReason::stop_string);
      // No token more than needed to complete it.
      EXPECT_EQ(t.decode(got.tokens), whole.text.substr(0, at + stop.size()));
      ++cut;
    }
  EXPECT_GT(cut, 100);
  // What only looked like the start of a stop string comes out at the end.
  auto options = greedy;
  options.stop_strings = {t.decode(std::span(whole.tokens).last(3)) + "?"};
  EXPECT_EQ(generate(model, prompt, options, &t).text, whole.text);
}

TEST(Generate, EachRowHasItsOwnStopString) {
  const LanguageModel model(one("alibi"), 6);
  const auto t = letters();
  const std::vector<std::vector<int>> prompts{{1}, {2, 3, 4, 5}, {6, 7}};
  GenerateOptions options{.sampling = {.temperature = 1.2f, .seed = 1}, .max_tokens = 30};
  const auto whole = generate_batch(model, prompts, options, &t);
  options.stop_strings = {t.decode(std::span(whole[0].tokens).subspan(3, 2)),
                          t.decode(std::span(whole[2].tokens).subspan(11, 3))};
  const auto got = generate_batch(model, prompts, options, &t);
  for (size_t r = 0; r < 3; ++r) {
    const auto at = std::min(whole[r].text.find(options.stop_strings[0]),
                             whole[r].text.find(options.stop_strings[1]));
    EXPECT_EQ(got[r].text, whole[r].text.substr(0, at));
    EXPECT_EQ(got[r].reason,
              at == std::string::npos ? StopReason::length : StopReason::stop_string);
  }
}

TEST(Generate, StopTokensEndItUnlessIgnored) {
  const LanguageModel model(one("alibi"), 7);
  const auto t = letters();
  const std::vector<int> prompt{1, 2};
  GenerateOptions options{.sampling = {.temperature = 1, .seed = 2}, .max_tokens = 20};
  const auto whole = generate(model, prompt, options, &t);
  options.stop_tokens = {whole.tokens[6]};
  const auto first = static_cast<size_t>(
      std::find(whole.tokens.begin(), whole.tokens.end(), whole.tokens[6]) - whole.tokens.begin());
  const auto got = generate(model, prompt, options, &t);
  EXPECT_EQ(got.reason, StopReason::stop_token);
  EXPECT_EQ(got.tokens, std::vector<int>(whole.tokens.begin(),
                                         whole.tokens.begin() + static_cast<ptrdiff_t>(first) + 1));
  EXPECT_EQ(got.text, t.decode(std::span(whole.tokens).first(first)))
      << "the stop token is no text";
  options.ignore_eos = true;
  EXPECT_EQ(generate(model, prompt, options, &t).tokens, whole.tokens);
}

TEST(Generate, LogProbabilitiesAreThoseOfTheModel) {
  const LanguageModel model(one("llama-tiny"), 8);
  const auto prompt = prompt_of(6, 256, 1);
  const GenerateOptions options{
      .sampling = {.temperature = 0.5f, .top_k = 5, .seed = 1}, .max_tokens = 10, .logprobs = 3};
  std::vector<TokenEvent> events;
  const auto got = stream_generate(model, prompt, options, nullptr,
                                   [&](const TokenEvent& e) { events.push_back(e); });
  auto text = prompt;
  text.insert(text.end(), got.tokens.begin(), got.tokens.end());
  const auto logits = to_vector<float>(
      model.forward(mx::array(text.begin(), {1, static_cast<int>(text.size())}, mx::int32)));
  double worst = 0;
  for (size_t i = 0; i < got.tokens.size(); ++i) {
    const float* row = logits.data() + (prompt.size() + i - 1) * 256;
    double sum = 0;
    for (int v = 0; v < 256; ++v) sum += std::exp(static_cast<double>(row[v]));
    const auto log_p = [&](int id) { return static_cast<double>(row[id]) - std::log(sum); };
    worst = std::max(worst, std::abs(got.logprobs[i] - log_p(got.tokens[i])));
    std::vector<float> sorted(row, row + 256);
    std::sort(sorted.rbegin(), sorted.rend());
    for (size_t n = 0; n < 3; ++n) {
      worst = std::max(worst, std::abs(events[i].top[n].second - log_p(events[i].top[n].first)));
      EXPECT_NEAR(row[events[i].top[n].first], sorted[n], 1e-4);
    }
  }
  EXPECT_LT(worst,
            256 * std::numeric_limits<float>::epsilon() * 4);  // sums of the width of the model
}

TEST(Generate, AStopRequestEndsItBetweenTwoSteps) {
  const LanguageModel model(one("llama-tiny"), 1);
  std::stop_source source;
  GenerateOptions options{.max_tokens = 1000, .stop = source.get_token()};
  int seen = 0, last = 0;
  const auto got =
      stream_generate_batch(model, {{1, 2}, {3}}, options, nullptr, [&](const TokenEvent& e) {
        last += e.finished.has_value();
        if (e.token >= 0 && ++seen == 10) source.request_stop();
      });
  EXPECT_EQ(last, 2);
  for (const auto& g : got) {
    EXPECT_EQ(g.reason, StopReason::canceled);
    EXPECT_EQ(g.tokens.size(), 5u);
  }
  const auto none = generate(model, std::vector<int>{1}, options);  // requested before it began
  EXPECT_TRUE(none.tokens.empty());
  EXPECT_EQ(none.reason, StopReason::canceled);
}

TEST(Generate, WhatACallbackThrowsLeavesAsItWas) {
  const LanguageModel model(one("llama-tiny"), 1);
  const std::vector<int> prompt{1, 2};
  EXPECT_THROW(stream_generate(model, prompt, {}, nullptr,
                               [](const TokenEvent&) { throw std::out_of_range("mine"); }),
               std::out_of_range);
  EXPECT_EQ(generate(model, prompt, {.max_tokens = 5}).tokens.size(), 5u) << "the model goes on";
}

TEST(Generate, RunsInAnyThreadAndTwoModelsSideBySide) {
  const LanguageModel a(one("llama-tiny"), 1), b(one("gpt-tiny"), 2);
  const std::vector<int> prompt{1, 2, 3};
  const GenerateOptions options{.max_tokens = 40};
  const auto want_a = generate(a, prompt, options).tokens,
             want_b = generate(b, prompt, options).tokens;
  std::vector<std::vector<int>> got(6);
  {
    std::vector<std::jthread> threads;
    for (size_t i = 0; i < got.size(); ++i)
      threads.emplace_back([&, i] { got[i] = generate(i % 2 ? b : a, prompt, options).tokens; });
  }
  for (size_t i = 0; i < got.size(); ++i) EXPECT_EQ(got[i], i % 2 ? want_b : want_a);
}

TEST(TokenStream, StreamsOfOneModelMayAlternateAndChangeThreads) {
  const LanguageModel model(one("softcap"), 1);
  const GenerateOptions options{.max_tokens = 12};
  const auto want_a = generate(model, std::vector<int>{1}, options).tokens;
  const auto want_b = generate(model, std::vector<int>{2, 3}, options).tokens;
  TokenStream a(model, {{1}}, options), b(model, {{2, 3}}, options);
  std::vector<int> got_a, got_b;
  for (int i = 0; i < 12; ++i) {
    got_a.push_back(a.next()->token);
    std::jthread([&] { got_b.push_back(b.next()->token); });
  }
  EXPECT_EQ(got_a, want_a);
  EXPECT_EQ(got_b, want_b);
  EXPECT_FALSE(a.next());
  EXPECT_FALSE(a.next());
}

TEST(TokenStream, IsARange) {
  const LanguageModel model(one("llama-tiny"), 1);
  const GenerateOptions options{.max_tokens = 7};
  std::vector<int> got;
  TokenStream stream(model, {{5, 6}}, options);
  for (const TokenEvent& e : stream) got.push_back(e.token);
  EXPECT_EQ(got, generate(model, std::vector<int>{5, 6}, options).tokens);
  EXPECT_EQ(stream.results()[0].tokens, got);
  {
    TokenStream left(model, {{5, 6}}, options);
    left.next();
  }  // left in the middle: nothing hangs
}

TEST(Generate, HalfPrecisionModelsSpeakToo) {
  for (const DType dtype : {DType::f16, DType::bf16}) {
    const LanguageModel model(one("window 5"), 1, dtype);
    const auto got = generate_batch(model, {{1, 2, 3}, {4}}, {.max_tokens = 20, .logprobs = 1});
    for (const auto& g : got) {
      EXPECT_EQ(g.tokens.size(), 20u);
      for (const float p : g.logprobs) EXPECT_TRUE(std::isfinite(p) && p <= 0) << p;
    }
  }
}

TEST(Generate, StatsAreMeasured) {
  const LanguageModel model(one("llama-tiny"), 1);
  GenerateStats stats;
  generate_batch(model, {{1, 2, 3}, {4}}, {.max_tokens = 20}, nullptr, &stats);
  EXPECT_GT(stats.prefill_tokens_per_s, 0);
  EXPECT_GT(stats.decode_tokens_per_s, 0);
  EXPECT_GT(stats.time_to_first_token_s, 0);
  EXPECT_GE(stats.peak_bytes, model.parameter_bytes());
}

TEST(StopReason, HasNames) {
  EXPECT_EQ(enum_name(StopReason::stop_string), "stop_string");
  EXPECT_EQ(enum_names<StopReason>().size(), 4u);
}

}  // namespace
}  // namespace lmxlab
