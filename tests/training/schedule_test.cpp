#include "lmxlab/training/schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <iostream>

#include "lmxlab/base/files.h"

namespace lmxlab {
namespace {

const fs::path kFixture = fs::path(LMXLAB_SOURCE_DIR) / "tests/fixtures/optimizers/schedules.json";

std::vector<std::string> problems_of(const ScheduleConfig& config) {
  Problems problems;
  check(config, problems);
  return problems.list();
}

TEST(Schedule, EqualsTransformersAtEveryStep) {
  // The fixture has nine decimals, and a float near 1 is exact to 2^-24.
  const double tolerance = 0.5e-9 + 0x1p-24;
  double worst = 0;
  std::string where = "none";
  size_t values = 0;
  const Json cases = Json::parse(read_file(kFixture));
  for (const auto& entry : cases.as_array()) {
    const auto config = from_json<ScheduleConfig>(entry.at("schedule"), "schedule");
    EXPECT_THAT(problems_of(config), testing::IsEmpty());
    const int64_t total = entry.at("total").as_integer();
    const auto& expected = entry.at("values").as_array();
    ASSERT_EQ(expected.size(), static_cast<size_t>(total));
    for (int64_t step = 0; step < total; ++step, ++values) {
      const double got = learning_rate(config, 1.0f, step, total);
      const double off = std::abs(got - expected[static_cast<size_t>(step)].as_number());
      if (!(off <= worst)) {
        worst = off;
        where = entry.at("schedule").dump() + " total " + std::to_string(total) + " step " +
                std::to_string(step) + ": " + std::to_string(got);
      }
    }
  }
  EXPECT_GT(values, 1000u);
  EXPECT_LE(worst, tolerance) << where;
  std::cout << "worst of " << values << " values: " << worst << " of " << tolerance << ", " << where
            << "\n";
}

TEST(Schedule, NeverNanNeverNegativeNeverAbovePeak) {
  for (const auto name :
       {ScheduleName::constant, ScheduleName::linear, ScheduleName::cosine, ScheduleName::wsd})
    for (const int64_t warmup : {int64_t{0}, int64_t{1}, int64_t{2}, int64_t{7}, int64_t{1} << 40})
      for (const int64_t total : {int64_t{0}, int64_t{1}, int64_t{2}, int64_t{7}, int64_t{1} << 40})
        for (const double decay : {0.01, 0.5, 1.0, 5.0, 1e15})
          for (const auto shape : {DecayShape::linear, DecayShape::cosine, DecayShape::sqrt})
            for (const int64_t step :
                 {int64_t{-1}, int64_t{0}, int64_t{1}, int64_t{2}, int64_t{6}, int64_t{7},
                  int64_t{8}, (int64_t{1} << 40) - 1, int64_t{1} << 40, int64_t{1} << 50}) {
              ScheduleConfig config{name, warmup, 0};
              if (name == ScheduleName::wsd) config.decay_steps = decay, config.decay_shape = shape;
              const float lr = learning_rate(config, 2.0f, step, total);
              ASSERT_TRUE(lr >= 0 && lr <= 2)
                  << to_json(config).dump() << " total " << total << " step " << step << ": " << lr;
              if (step >= 0 && step < total) {
                // cos near pi and the subtraction 1 - x may underflow to 0 only in the longest runs
                ASSERT_GT(lr, total > 100 ? -1.0f : 0.0f)
                    << to_json(config).dump() << " total " << total << " step " << step;
              }
            }
}

TEST(Schedule, FirstAndLastSteps) {
  ScheduleConfig config{ScheduleName::cosine, 4, 0.1};
  EXPECT_EQ(learning_rate(config, 8, 0, 20), 2);
  EXPECT_EQ(learning_rate(config, 8, 3, 20), 8);
  EXPECT_EQ(learning_rate(config, 8, 4, 20), 8);
  EXPECT_LT(learning_rate(config, 8, 5, 20), 8);
  EXPECT_GT(learning_rate(config, 8, 19, 20), 0.8f);
  EXPECT_FLOAT_EQ(learning_rate(config, 8, 20, 20), 0.8f);
  EXPECT_FLOAT_EQ(learning_rate(config, 8, 2000, 20), 0.8f);

  config.warmup = 30;  // longer than the run: it only rises
  EXPECT_FLOAT_EQ(learning_rate(config, 30, 19, 20), 20);
  config.warmup = 0;
  EXPECT_EQ(learning_rate(config, 8, 0, 1), 8);

  ScheduleConfig wsd{ScheduleName::wsd, 2};
  wsd.decay_steps = 0.25;
  EXPECT_EQ(learning_rate(wsd, 1, 15, 20), 1);
  EXPECT_FLOAT_EQ(learning_rate(wsd, 1, 16, 20), 0.8f);
  EXPECT_FLOAT_EQ(learning_rate(wsd, 1, 19, 20), 0.2f);
  wsd.decay_steps = 100;  // more than there are: the decay begins after the warmup
  EXPECT_EQ(learning_rate(wsd, 1, 2, 20), 1);
  EXPECT_FLOAT_EQ(learning_rate(wsd, 1, 11, 20), 0.5f);
}

TEST(Schedule, ReportsUnusedAndImpossibleOptions) {
  using testing::ElementsAre;
  using testing::HasSubstr;
  ScheduleConfig config{ScheduleName::constant, -1, 0.5};
  config.decay_steps = 2.5;
  config.decay_shape = DecayShape::cosine;
  EXPECT_THAT(problems_of(config),
              ElementsAre(HasSubstr("schedule.warmup"), HasSubstr("constant never decays"),
                          HasSubstr("whole steps"), HasSubstr("decay_steps: only wsd"),
                          HasSubstr("decay_shape: only wsd")));
  config = {ScheduleName::wsd, 0, std::nan("")};
  config.decay_steps = -1;
  EXPECT_THAT(problems_of(config),
              ElementsAre(HasSubstr("min_lr_ratio"), HasSubstr("more than 0")));
  EXPECT_THAT(problems_of({}), testing::IsEmpty());
}

}  // namespace
}  // namespace lmxlab
