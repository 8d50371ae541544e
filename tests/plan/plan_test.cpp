#include "lmxlab/plan/plan.h"

#include "lmxlab/base/error.h"
#include "lmxlab/config/count.h"
#include "lmxlab/config/presets.h"
#include "lmxlab/plan/chips.h"
#include "lmxlab/plan/closed.h"
#include "lmxlab/plan/words.h"

#include <gtest/gtest.h>

namespace lmxlab::plan {
namespace {

constexpr int64_t kGB = int64_t{1} << 30;

Settings chat(int bits) {
  Settings s;
  s.context = 4096 - 128, s.kv_bits = 16;
  if (bits < 16) s.bits = bits;
  return s;
}

// What everybody says of these machines.
TEST(Fit, ThirtyBillionAtFourBitsFit64GB) {
  const auto m1 = find_chip("M1 Max");
  EXPECT_EQ(m1.memory, 64 * kGB);
  EXPECT_GE(largest_that_fits(budget_of(m1), 4).parameters, 30'000'000'000);
  EXPECT_LE(largest_that_fits(budget_of(m1), 4).parameters, 120'000'000'000) << "the rule's bound";
}

TEST(Fit, SeventyBillionFit192GB) {
  const auto m2 = find_chip("m2-ultra");
  EXPECT_EQ(m2.memory, 192 * kGB);
  EXPECT_GE(largest_that_fits(budget_of(m2), 16).parameters, 70'000'000'000);
  EXPECT_GE(largest_that_fits(budget_of(m2), 4).parameters, 200'000'000'000);
  EXPECT_LE(largest_that_fits(budget_of(m2), 4).parameters, 360'000'000'000);
}

TEST(Fit, TheRuleOfThumbIsWhatIsSaid) {
  struct Said {
    const char* chip;
    int64_t sixteen, four;  // billions
  };
  for (const Said& s : {Said{"M1", 7, 28}, Said{"M1 Max", 30, 120}, Said{"M2 Ultra", 90, 360},
                        Said{"M3 Max", 60, 240}, Said{"M4 Max", 60, 240}}) {
    const auto chip = find_chip(s.chip);
    const auto rule = rule_of_thumb(chip.memory);
    EXPECT_EQ(rule.sixteen_bits, s.sixteen * 1'000'000'000) << s.chip;
    EXPECT_EQ(rule.four_bits, s.four * 1'000'000'000) << s.chip;
    EXPECT_LT(largest_that_fits(budget_of(chip), 16).parameters, rule.sixteen_bits) << s.chip;
    EXPECT_LT(largest_that_fits(budget_of(chip), 4).parameters, rule.four_bits) << s.chip;
  }
}

TEST(Fit, WhatIsAboveTheBudgetDoesNotFit) {
  const Parts parts{.weights = 1000};
  const auto measure = [&](const Settings&) { return parts; };
  EXPECT_TRUE(make_plan({}, {1000, "all of it"}, measure, recipe_words).fits());
  const auto plan = make_plan({}, {999, "a byte less"}, measure, recipe_words);
  EXPECT_FALSE(plan.fits());
  EXPECT_TRUE(plan.advice.empty());
  EXPECT_THROW(require_fit(plan, "this"), Error);
  require_fit(make_plan({}, {1000, ""}, measure, recipe_words), "that");
}

TEST(Fit, TheTableIsOfGrowingMachines) {
  for (const auto& c : chips()) {
    const auto budget = budget_of(c);
    EXPECT_LT(budget.bytes, c.memory) << c.name;
    const auto half = largest_that_fits(budget, 16), four = largest_that_fits(budget, 4);
    EXPECT_LE(half.peak, budget.bytes) << c.name;
    EXPECT_LE(four.peak, budget.bytes) << c.name;
    EXPECT_GT(double(four.parameters), 2.5 * double(half.parameters)) << c.name;
    EXPECT_LT(double(half.parameters), 0.5 * double(c.memory)) << c.name << ": two bytes each";
  }
  EXPECT_EQ(find_chip("M2 Max 64GB").memory, 64 * kGB);
  EXPECT_THROW(find_chip("M2 Max 1000GB"), Error);
  EXPECT_THROW(find_chip("Z9"), Error);
  EXPECT_THROW(find_chip("M2 Max large"), Error);
}

// Advice is asked of a model of memory in which each part shrinks as it should.
Parts simple(const Settings& s) {
  Parts p;
  p.weights = s.bits ? 100 * *s.bits / 16 : s.preset.empty() ? 100 : 30;
  if (s.mode == Mode::generate) {
    p.kv_cache = int64_t{s.batch} * s.context * s.kv_bits.value_or(16) / 64;
    return p;
  }
  p.gradients = s.mode == Mode::train ? 100 : 1;
  p.optimizer = s.mode != Mode::train ? 2 : s.factored ? 1 : s.state_bits == 8 ? 50 : 200;
  p.activations = int64_t{s.batch} * s.context / (s.checkpointing ? 4 : 1);
  return p;
}

std::vector<std::string> options_of(const Plan& plan) {
  std::vector<std::string> out;
  for (const auto& a : plan.advice) out.push_back(a.options);
  return out;
}

TEST(Advice, EachChangeAloneThatFitsIsNamedCheapestFirst) {
  Settings s;
  s.mode = Mode::train, s.batch = 8, s.context = 50;  // 100 + 100 + 200 + 400
  const auto plan = make_plan(s, {650, ""}, simple, recipe_words,
                              [] { return std::vector<std::string>{"small"}; });
  ASSERT_FALSE(plan.fits());
  EXPECT_EQ(
      options_of(plan),
      (std::vector<std::string>{
          "--set run.batch=4 --set run.accumulate=2", "--set run.gradient_checkpointing=true",
          "--set optimizer.state_bits=8", "--set optimizer.name=adafactor", "--set adapter.rank=16",
          "quantize MODEL OUT --bits 4, then --set model.preset=OUT --set adapter.rank=16",
          "--set run.context=25"}));
  EXPECT_EQ(plan.advice[0].settings.accumulate, 2) << "as many rows an update as before";
  for (const auto& a : plan.advice) {
    EXPECT_LE(a.peak, 650) << a.change;
    EXPECT_EQ(a.peak, simple(a.settings).peak()) << a.change;
    EXPECT_FALSE(a.cost.empty()) << a.change;
  }
  const auto text = report(plan);
  EXPECT_NE(text.find("it does not fit"), std::string::npos);
  EXPECT_NE(text.find("run.accumulate=2"), std::string::npos);
}

TEST(Advice, WhatTheCommandCannotBeToldIsLeftOut) {
  Settings s;
  s.mode = Mode::train, s.batch = 8, s.context = 50;
  const auto no_adapter = [](const Settings& from, const Settings& to) {
    return to.mode == from.mode ? recipe_words(from, to) : std::nullopt;
  };
  for (const auto& a : make_plan(s, {650, ""}, simple, no_adapter).advice)
    EXPECT_EQ(a.settings.mode, Mode::train) << a.options;
  const auto nothing = [](const Settings&, const Settings&) { return std::nullopt; };
  EXPECT_TRUE(make_plan(s, {650, ""}, simple, nothing).advice.empty());
}

TEST(Advice, WhereOneIsNotEnoughSeveralAreJoined) {
  Settings s;
  s.mode = Mode::train, s.batch = 8, s.context = 512;
  const auto all = [](const Settings& t) {
    auto p = simple(t);
    if (t.mode != Mode::train) p.weights = 1 << 20;  // no adapters here
    return p;
  };
  const auto plan = make_plan(s, {400, ""}, all, recipe_words);
  ASSERT_EQ(plan.advice.size(), 1u);
  const auto& a = plan.advice[0];
  EXPECT_LE(a.peak, 400);
  EXPECT_EQ(a.settings.batch, 1);
  EXPECT_TRUE(a.settings.checkpointing);
  EXPECT_NE(a.change.find(", "), std::string::npos);
}

// 8-bit state gives way to Adafactor, which is one optimizer's state in the place of another's; a
// batch of 2 is enough then.
TEST(Advice, OfJoinedChangesNoneIsOverriddenOrTooMuch) {
  Settings s;
  s.mode = Mode::train, s.batch = 8, s.context = 512;
  const auto plan = make_plan(
      s, {460, ""},
      [](const Settings& t) {
        auto p = simple(t);
        if (t.mode != Mode::train) p.weights = 1 << 20;
        if (t.state_bits == 8) p.optimizer = 190;
        return p;
      },
      recipe_words);
  ASSERT_EQ(plan.advice.size(), 1u);
  EXPECT_EQ(plan.advice[0].options,
            "--set run.batch=2 --set run.accumulate=4 --set run.gradient_checkpointing=true "
            "--set optimizer.name=adafactor");
  EXPECT_EQ(
      plan.advice[0].change,
      "a smaller batch with accumulation, gradient checkpointing, Adafactor's factored state");
}

TEST(Advice, AdaptersJoinCheckpointing) {
  Settings s;
  s.mode = Mode::train, s.batch = 1, s.context = 512;  // 100 + 100 + 200 + 512
  const auto plan = make_plan(s, {235, ""}, simple, recipe_words);
  ASSERT_EQ(plan.advice.size(), 1u);
  EXPECT_EQ(plan.advice[0].options, "--set adapter.rank=16 --set run.gradient_checkpointing=true");
}

TEST(Advice, GenerationShrinksItsCacheFirst) {
  auto s = chat(16);
  s.context = 2000;
  const auto plan = make_plan(s, {360, ""}, simple, [](const Settings& from, const Settings& to) {
    return model_words(from, to);
  });
  ASSERT_FALSE(plan.advice.empty());
  EXPECT_EQ(plan.advice[0].settings.kv_bits, 8);
}

TEST(Words, AreThoseOfTheirCommand) {
  Settings s;
  s.batch = 4, s.context = 100;
  const auto said = [&](auto&& change, const char* rows = "") {
    auto t = s;
    change(t);
    return model_words(s, t, rows).value_or("none");
  };
  EXPECT_EQ(said([](auto& t) { t.batch = 2; }, "--n"), "--n 2");
  EXPECT_EQ(said([](auto& t) { t.context = 50; }), "a prompt of 50 tokens");
  EXPECT_EQ(said([](auto& t) { t.preset = "gpt-tiny"; }), "gpt-tiny");
  EXPECT_EQ(said([](auto& t) { t.bits = 4, t.kv_bits = 8; }),
            "quantize MODEL OUT --bits 4, then OUT in its place and --kv-bits 8");
  EXPECT_EQ(said([](auto& t) { t.mode = Mode::train; }), "none");
  EXPECT_FALSE(recipe_words(s, s)) << "a recipe generates nothing";
  s.mode = Mode::train;
  auto t = s;
  t.preset = "gpt-tiny";
  EXPECT_EQ(recipe_words(s, t), "--set model.preset=gpt-tiny");
}

TEST(Closed, WeightsAreCounted) {
  const auto model = config::preset("llama-7b");
  const auto n = config::count(model).total;
  EXPECT_EQ(weight_bytes(model, 2), 2 * n);
  const double four = double(weight_bytes(model, 2, 4)) / double(n);
  EXPECT_NEAR(four, 4.5 / 8, 0.002) << "a scale and an offset of 16 bits for 64 weights";
  EXPECT_NEAR(double(weight_bytes(model, 2, 4, 128)) / double(n), 4.25 / 8, 0.002);
  EXPECT_EQ(weight_bytes(model, 2, 4, 64, 8) - weight_bytes(model, 2, 4),
            int64_t{model.vocab} * model.dim / 2)
      << "four more bits for the embedding, the head is its own";
  // LLaMA-7B with rank 16 on every projection: 39,976,960 (PEFT's own count).
  EXPECT_EQ(adapter_parameters(model, 16), 39'976'960);
}

}  // namespace
}  // namespace lmxlab::plan
