// Activations over the width: flat with muP, growing without.
#include "lmxlab/experiments/coordinate_check.h"

#include "tests/support/error_of.h"

#include <gtest/gtest.h>

namespace lmxlab {
namespace {

Recipe recipe(const std::vector<std::string>& more) {
  std::vector<std::string> overrides = {"model.depth=2",        "model.dim=32",
                                        "run.batch=4",          "run.context=32",
                                        "optimizer.name=adamw", "optimizer.lr=3e-3"};
  overrides.insert(overrides.end(), more.begin(), more.end());
  return read_recipe("", "recipe", overrides);
}
const Coordinate& layer(const CoordinateCheck& check, const std::string& name) {
  for (const auto& c : check.layers)
    if (c.layer == name) return c;
  throw std::runtime_error("no " + name);
}
const CoordinateOptions kWidths{.widths = {32, 64, 128, 256}, .steps = 4, .seeds = 2};

void print(const CoordinateCheck& check) {
  for (const auto& c : check.layers)
    std::printf("%-10s size %+.2f change %+.2f\n", c.layer.c_str(), c.size_slope, c.change_slope);
}

class Coordinates : public testing::TestWithParam<const char*> {};

TEST_P(Coordinates, AreFlatWithMupAndGrowWithout) {
  const std::string preset = std::string("model.preset=") + GetParam();
  const auto with = check_coordinates(recipe({preset, "model.mup.dim=32"}), kWidths);
  const auto without = check_coordinates(recipe({preset}), kWidths);
  print(with), print(without);
  EXPECT_TRUE(with.ok);
  EXPECT_FALSE(without.ok);
  for (const auto& c : with.layers) EXPECT_LT(c.change_slope, 0.3) << c.layer;
  EXPECT_NEAR(layer(with, "logits").change_slope, 0, 0.3);
  EXPECT_GT(layer(without, "logits").change_slope, 0.5);
  EXPECT_GT(layer(without, "mixer").change_slope, 0.8);
}
// Tied head and learned positions; untied head and rotation.
INSTANTIATE_TEST_SUITE_P(Presets, Coordinates, testing::Values("gpt-tiny", "llama-tiny"));

TEST(CoordinateCheck, RefusesWhatHasNoWidths) {
  auto r = recipe({"model.preset=gpt-tiny"});
  EXPECT_EQ(test::error_of([&] { check_coordinates(r, {.widths = {32}}); }).kind(), Kind::usage);
  r.optimizer.lr = 0;
  EXPECT_EQ(test::error_of([&] {
              check_coordinates(r, {.widths = {16, 32}, .seeds = 1});
            }).kind(),
            Kind::usage)
      << "nothing changes";
  std::stop_source stop;
  stop.request_stop();
  r.optimizer.lr = 1e-3;
  EXPECT_EQ(test::error_of([&] {
              check_coordinates(r, {.widths = {16, 32}, .seeds = 1}, stop.get_token());
            }).kind(),
            Kind::canceled);
}

}  // namespace
}  // namespace lmxlab
