#include "lmxlab/inference/sampler.h"

#include "lmxlab/base/error.h"
#include "lmxlab/models/language_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

namespace lmxlab {
namespace {

using testing::HasSubstr;
constexpr float kInf = std::numeric_limits<float>::infinity();

// What sampler.h promises, in plain double arithmetic, a token at a time.
std::vector<double> expected(const SamplingOptions& o, const std::vector<float>& logits,
                             std::vector<int> text) {
  const size_t n = logits.size();
  if (o.penalty_window > 0 && text.size() > static_cast<size_t>(o.penalty_window))
    text.erase(text.begin(), text.end() - o.penalty_window);
  std::vector<double> x(logits.begin(), logits.end());
  for (const auto& [id, b] : o.logit_bias) x[static_cast<size_t>(id)] += b;
  for (size_t i = 0; i < n; ++i) {
    const auto count = std::count(text.begin(), text.end(), static_cast<int>(i));
    if (count == 0) continue;
    x[i] = x[i] > 0 ? x[i] / o.repetition_penalty : x[i] * o.repetition_penalty;
    x[i] -= o.frequency_penalty * static_cast<double>(count) + o.presence_penalty;
  }
  std::vector<size_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return x[a] > x[b]; });
  std::vector<double> p(n, 0.0);
  if (o.temperature == 0) {
    p[order[0]] = 1;
    return p;
  }
  if (o.top_k > 0 && static_cast<size_t>(o.top_k) < n) order.resize(static_cast<size_t>(o.top_k));
  const double top = x[order[0]];
  const auto normalize = [&] {
    double sum = 0;
    for (const size_t i : order) sum += p[i] = std::exp((x[i] - top) / o.temperature);
    for (const size_t i : order) p[i] /= sum;
  };
  const auto keep = [&](size_t m) {
    for (size_t i = m; i < order.size(); ++i) p[order[i]] = 0;
    order.resize(m);
    normalize();
  };
  normalize();
  size_t m = 0;
  for (double before = 0; m < order.size() && (m == 0 || o.top_p >= 1 || before < o.top_p); ++m)
    before += p[order[m]];
  keep(m);
  for (m = 0; m < order.size() && p[order[m]] >= o.min_p * p[order[0]];) ++m;
  keep(m);
  return p;
}

// The value that chi-square with `df` degrees exceeds once in a million (Wilson and Hilferty 1931).
double chi_square_limit(int df) {
  const double v = 2.0 / (9.0 * df);
  return df * std::pow(1 - v + 4.75 * std::sqrt(v), 3);
}

struct Case {
  std::string name;
  SamplingOptions options;
};

SamplingOptions plain() {
  return {.temperature = 1, .top_p = 1};
}
SamplingOptions with(const std::function<void(SamplingOptions&)>& change) {
  auto o = plain();
  change(o);
  return o;
}

std::vector<Case> cases() {
  return {
      {"plain", plain()},
      {"defaults", {}},
      {"cold", with([](auto& o) { o.temperature = 0.4f; })},
      {"hot", with([](auto& o) { o.temperature = 2.5f; })},
      {"greedy", with([](auto& o) { o.temperature = 0; })},
      {"top_k 1", with([](auto& o) { o.top_k = 1; })},
      {"top_k 5", with([](auto& o) { o.top_k = 5; })},
      {"top_k V", with([](auto& o) { o.top_k = 12; })},
      {"top_k above V", with([](auto& o) { o.top_k = 1000; })},
      {"top_p 0", with([](auto& o) { o.top_p = 0; })},
      {"top_p 0.5", with([](auto& o) { o.top_p = 0.5f; })},
      {"top_p 0.9", with([](auto& o) { o.top_p = 0.9f; })},
      {"min_p 0.2", with([](auto& o) { o.min_p = 0.2f; })},
      {"min_p 1", with([](auto& o) { o.min_p = 1; })},
      {"bias", with([](auto& o) {
         o.logit_bias = {{0, 2.0f}, {7, -1.5f}};
       })},
      {"forbidden", with([](auto& o) {
         o.logit_bias = {{3, -kInf}, {8, -kInf}};
       })},
      {"all but one forbidden", with([](auto& o) {
         for (int i = 0; i < 12; ++i)
           if (i != 9) o.logit_bias[i] = -kInf;
       })},
      {"repetition", with([](auto& o) { o.repetition_penalty = 1.7f; })},
      {"repetition below 1", with([](auto& o) { o.repetition_penalty = 0.6f; })},
      {"presence", with([](auto& o) { o.presence_penalty = 0.8f; })},
      {"frequency", with([](auto& o) { o.frequency_penalty = 0.3f; })},
      {"window 3", with([](auto& o) { o.frequency_penalty = 0.5f, o.penalty_window = 3; })},
      {"window of more than the text",
       with([](auto& o) { o.presence_penalty = 0.5f, o.penalty_window = 50; })},
      {"greedy with penalty", with([](auto& o) { o.temperature = 0, o.presence_penalty = 3; })},
      {"k, p and temperature", {.temperature = 0.7f, .top_k = 8, .top_p = 0.8f}},
      {"k, p, min_p, bias",
       {.temperature = 1.3f,
        .top_k = 9,
        .top_p = 0.95f,
        .min_p = 0.1f,
        .logit_bias = {{2, -kInf}, {5, 1.0f}}}},
      {"everything",
       {.temperature = 0.9f,
        .top_k = 10,
        .top_p = 0.9f,
        .min_p = 0.02f,
        .repetition_penalty = 1.2f,
        .presence_penalty = 0.4f,
        .frequency_penalty = 0.2f,
        .penalty_window = 4,
        .logit_bias = {{1, 0.5f}, {4, -kInf}}}},
  };
}

const std::vector<float> kLogits{0.3f, -1.1f, 2.0f,  0.9f, -0.4f, 1.3f,
                                 0.0f, 1.7f,  -2.2f, 0.6f, -0.7f, 1.1f};
const std::vector<int> kText{2, 7, 7, 4, 2, 2, 8, 5};

mx::array rows_of(const std::vector<float>& logits, int rows) {
  const mx::array row(logits.begin(), {1, static_cast<int>(logits.size())});
  return mx::repeat(row, rows, 0);
}

std::vector<uint64_t> seeds_from(uint64_t first, int n) {
  std::vector<uint64_t> out(static_cast<size_t>(n));
  std::iota(out.begin(), out.end(), first);
  return out;
}

// Chi-square of counts against probabilities; also fails on a draw of what has no probability.
void expect_distribution(const std::vector<int>& drawn, const std::vector<double>& p,
                         const std::string& name) {
  std::vector<double> counts(p.size(), 0);
  for (const int t : drawn) {
    ASSERT_GE(t, 0);
    ASSERT_LT(t, static_cast<int>(p.size()));
    ++counts[static_cast<size_t>(t)];
  }
  double statistic = 0;
  int bins = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    const double e = p[i] * static_cast<double>(drawn.size());
    if (p[i] == 0) {
      EXPECT_EQ(counts[i], 0) << name << ": token " << i << " cannot come";
      continue;
    }
    ++bins;
    statistic += (counts[i] - e) * (counts[i] - e) / e;
  }
  if (bins > 1) {
    EXPECT_LT(statistic, chi_square_limit(bins - 1)) << name << ", " << bins << " bins";
  }
}

TEST(Sampler, DrawsFromTheDistributionItPromises) {
  const int rows = 20'000, vocab = static_cast<int>(kLogits.size());
  for (const auto& [name, options] : cases()) {
    SCOPED_TRACE(name);
    const std::vector<std::vector<int>> prompts(rows, kText);
    Sampler sampler(options, vocab, prompts, seeds_from(1000, rows));
    const auto p = expected(options, kLogits, kText);
    const auto logits = rows_of(kLogits, rows);
    const auto log_p =
        to_vector<float>(mx::slice(sampler.log_distribution(logits), {0, 0}, {1, vocab}));
    // A handful of float32 roundings on numbers of the size of the logits.
    const double tolerance = 32 * std::numeric_limits<float>::epsilon() * 6;
    double worst = 0;
    for (int i = 0; i < vocab; ++i) {
      const auto at = static_cast<size_t>(i);
      worst = std::max(worst, std::abs(std::exp(static_cast<double>(log_p[at])) - p[at]));
    }
    EXPECT_LE(worst, tolerance);
    expect_distribution(to_vector<int32_t>(sampler.draw(logits).tokens), p, name);
  }
}

TEST(Sampler, OfEqualLogitsTheSmallerIdsStay) {
  const std::vector<float> equal{1, 2, 2, 1, 2, 2, 1, 0};
  for (const auto& options :
       {with([](auto& o) { o.top_k = 3; }), with([](auto& o) { o.temperature = 0; }),
        with([](auto& o) { o.top_k = 6, o.top_p = 0.6f; }), with([](auto& o) { o.min_p = 1; })}) {
    const int rows = 4000, vocab = static_cast<int>(equal.size());
    const std::vector<std::vector<int>> prompts(rows);
    Sampler sampler(options, vocab, prompts, seeds_from(0, rows));
    expect_distribution(to_vector<int32_t>(sampler.draw(rows_of(equal, rows)).tokens),
                        expected(options, equal, {}), "equal logits");
  }
}

TEST(Sampler, StepsOfOneRowAreIndependent) {
  const std::vector<float> logits{0.0f, 0.5f, 1.0f, -0.5f};
  const std::vector<std::vector<int>> prompts(1);
  Sampler sampler(plain(), 4, prompts, {7});
  std::vector<mx::array> tokens;
  for (int i = 0; i < 6000; ++i) tokens.push_back(sampler.draw(rows_of(logits, 1)).tokens);
  const auto drawn = to_vector<int32_t>(mx::concatenate(tokens));
  const auto p = expected(plain(), logits, {});
  expect_distribution(drawn, p, "steps");
  std::vector<int> pairs;
  for (size_t i = 0; i + 1 < drawn.size(); i += 2) pairs.push_back(drawn[i] * 4 + drawn[i + 1]);
  std::vector<double> joint;
  for (const double a : p)
    for (const double b : p) joint.push_back(a * b);
  expect_distribution(pairs, joint, "pairs of steps");
}

TEST(Sampler, NeighbouringSeedsAreIndependent) {
  const std::vector<float> logits{0.0f, 0.5f, 1.0f, -0.5f};
  const int rows = 20'000;
  const std::vector<std::vector<int>> prompts(rows);
  Sampler sampler(plain(), 4, prompts, seeds_from(0, rows));
  const auto drawn = to_vector<int32_t>(sampler.draw(rows_of(logits, rows)).tokens);
  const auto p = expected(plain(), logits, {});
  std::vector<int> pairs;
  for (size_t i = 0; i + 1 < drawn.size(); i += 2) pairs.push_back(drawn[i] * 4 + drawn[i + 1]);
  std::vector<double> joint;
  for (const double a : p)
    for (const double b : p) joint.push_back(a * b);
  expect_distribution(pairs, joint, "pairs of rows");
}

TEST(Sampler, PenaltiesFollowTheTextAndTheWindow) {
  const int vocab = static_cast<int>(kLogits.size());
  for (const int window : {0, 1, 3, 6, 40}) {
    SCOPED_TRACE(window);
    const auto options = with([&](auto& o) {
      o.repetition_penalty = 1.3f, o.frequency_penalty = 0.4f, o.presence_penalty = 0.25f;
      o.penalty_window = window;
    });
    std::vector<std::vector<int>> texts{{2, 7, 7}, {}, {1, 1, 1, 1, 1, 1, 9, 3, 0}};
    Sampler sampler(options, vocab, texts, {5, 6, 7});
    for (int step = 0; step < 20; ++step) {
      const auto logits = rows_of(kLogits, 3);
      const auto log_p = to_vector<float>(sampler.log_distribution(logits));
      for (size_t r = 0; r < 3; ++r) {
        const auto p = expected(options, kLogits, texts[r]);
        for (size_t i = 0; i < p.size(); ++i)
          ASSERT_NEAR(std::exp(log_p[r * p.size() + i]), p[i],
                      192 * std::numeric_limits<float>::epsilon())
              << "row " << r << " step " << step << " token " << i;
      }
      const auto drawn = to_vector<int32_t>(sampler.draw(logits).tokens);
      for (size_t r = 0; r < 3; ++r) texts[r].push_back(drawn[r]);
    }
  }
}

TEST(Sampler, ARowDrawsTheSameAloneAndAmongOthers) {
  const int vocab = static_cast<int>(kLogits.size()), steps = 30;
  SamplingOptions options{.temperature = 1.2f,
                          .top_k = 10,
                          .top_p = 0.97f,
                          .frequency_penalty = 0.2f,
                          .penalty_window = 5};
  const std::vector<std::vector<int>> prompts{{1, 2}, {3}, {}, {4, 4, 4}};
  const std::vector<uint64_t> seeds{11, 12, 13, uint64_t{1} << 63};
  std::vector<std::vector<int>> alone(4), together(4);
  for (size_t r = 0; r < 4; ++r) {
    Sampler sampler(options, vocab, {&prompts[r], 1}, {seeds[r]});
    for (int i = 0; i < steps; ++i)
      alone[r].push_back(sampler.draw(rows_of(kLogits, 1)).tokens.item<int32_t>());
  }
  Sampler sampler(options, vocab, prompts, seeds);
  std::vector<int> rows{0, 1, 2, 3};
  for (int i = 0; i < steps; ++i) {
    if (i == steps / 2) sampler.reorder(rows = {3, 1});
    const auto drawn =
        to_vector<int32_t>(sampler.draw(rows_of(kLogits, static_cast<int>(rows.size()))).tokens);
    for (size_t c = 0; c < rows.size(); ++c)
      together[static_cast<size_t>(rows[c])].push_back(drawn[c]);
  }
  EXPECT_EQ(together[1], alone[1]);
  EXPECT_EQ(together[3], alone[3]);
  for (size_t r : {0, 2}) {
    alone[r].resize(steps / 2);
    EXPECT_EQ(together[r], alone[r]);
  }
  EXPECT_NE(alone[0], std::vector<int>(alone[0].size(), alone[0][0]));
}

TEST(Sampler, ReportsTheLogProbabilitiesOfTheModel) {
  const int vocab = static_cast<int>(kLogits.size());
  SamplingOptions options{.temperature = 0.3f, .top_k = 2, .logit_bias = {{2, -kInf}}};
  const std::vector<std::vector<int>> prompts(2);
  Sampler sampler(options, vocab, prompts, {1, 2}, 4);
  const auto d = sampler.draw(rows_of(kLogits, 2));
  const auto p = expected(plain(), kLogits, {});
  const auto tokens = to_vector<int32_t>(d.tokens), ids = to_vector<int32_t>(*d.top_ids);
  const auto own = to_vector<float>(*d.logprobs), top = to_vector<float>(*d.top_logprobs);
  const float tolerance = 64 * std::numeric_limits<float>::epsilon();
  EXPECT_THAT(ids, testing::ElementsAre(2, 7, 5, 11, 2, 7, 5, 11));
  for (size_t i = 0; i < ids.size(); ++i)
    EXPECT_NEAR(top[i], std::log(p[static_cast<size_t>(ids[i])]), tolerance);
  for (size_t r = 0; r < 2; ++r)
    EXPECT_NEAR(own[r], std::log(p[static_cast<size_t>(tokens[r])]), tolerance);
}

TEST(Sampler, ReportsThoseOfTheTemperature) {
  const int vocab = static_cast<int>(kLogits.size());
  const auto options = with([](auto& o) { o.temperature = 0.3f; });
  const std::vector<std::vector<int>> prompts(2);
  Sampler sampler(options, vocab, prompts, {1, 2}, 2, true);
  const auto d = sampler.draw(rows_of(kLogits, 2));
  const auto p = expected(options, kLogits, {});
  const auto tokens = to_vector<int32_t>(d.tokens), ids = to_vector<int32_t>(*d.top_ids);
  const auto own = to_vector<float>(*d.logprobs), top = to_vector<float>(*d.top_logprobs);
  const float tolerance = 256 * std::numeric_limits<float>::epsilon();
  for (size_t i = 0; i < ids.size(); ++i)
    EXPECT_NEAR(top[i], std::log(p[static_cast<size_t>(ids[i])]), tolerance);
  for (size_t r = 0; r < 2; ++r)
    EXPECT_NEAR(own[r], std::log(p[static_cast<size_t>(tokens[r])]), tolerance);
  const auto greedy = with([](auto& o) { o.temperature = 0; });
  EXPECT_THROW(Sampler(greedy, vocab, prompts, {1, 2}, 0, true), Error);
}

TEST(Sampler, HalfPrecisionLogitsAreComputedWithInFloat32) {
  const int vocab = 2000;
  std::vector<float> logits(vocab, 1.0f);
  const std::vector<std::vector<int>> prompts(1);
  Sampler sampler(with([](auto& o) { o.top_p = 0.999f; }), vocab, prompts, {1});
  const auto log_p =
      to_vector<float>(sampler.log_distribution(mx::astype(rows_of(logits, 1), mx::bfloat16)));
  const auto kept = std::count_if(log_p.begin(), log_p.end(), [](float x) { return x > -kInf; });
  EXPECT_NEAR(static_cast<double>(kept), 1998, 2);
}

TEST(Sampler, NamesEveryFaultOfTheOptions) {
  SamplingOptions o{.temperature = -1,
                    .top_k = -2,
                    .top_p = 1.5f,
                    .min_p = std::nanf(""),
                    .repetition_penalty = 0,
                    .presence_penalty = kInf,
                    .penalty_window = -3,
                    .logit_bias = {{-1, 0.0f}, {5, 0.0f}, {1, kInf}, {2, std::nanf("")}}};
  try {
    validate(o, 5);
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), Kind::usage);
    for (const char* part :
         {"temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty",
          "penalty_window", "got -1", "got 5", "logit_bias of 1", "logit_bias of 2"})
      EXPECT_THAT(e.what(), HasSubstr(part));
  }
  SamplingOptions none = plain();
  none.logit_bias = {{0, -kInf}, {1, -kInf}};
  EXPECT_THROW(validate(none, 2), Error);
  EXPECT_NO_THROW(validate(none, 3));
  EXPECT_NO_THROW(validate(SamplingOptions{}, 1));
  const std::vector<std::vector<int>> prompts(2);
  EXPECT_THROW(Sampler(plain(), 5, prompts, {1}), Error);
  EXPECT_THROW(Sampler(plain(), 5, prompts, {1, 2}, 6), Error);
}

}  // namespace
}  // namespace lmxlab
