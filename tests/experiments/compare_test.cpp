// Groups of runs: what belongs together, what it is called, what is left out.
#include "lmxlab/experiments/compare.h"

#include "lmxlab/base/files.h"
#include "lmxlab/training/recipe.h"
#include "tests/support/error_of.h"
#include "tests/support/temp_folder.h"

#include <gtest/gtest.h>

#include <cmath>

namespace lmxlab {
namespace {

// A run folder as training leaves it, without the training.
class Runs {
 public:
  fs::path add(const std::string& name, std::optional<double> loss,
               const std::vector<std::string>& settings, bool finished = true) {
    const auto path = folder_ / name;
    make_directory(path);
    auto recipe = read_recipe("", "recipe", settings);
    recipe.model = to_json(resolve_model(recipe.model, 65, recipe.run.context));
    write_file_atomic(path / "recipe.toml", write_recipe(recipe));
    if (finished) {
      const Json result = Json::object({{"steps", Json(100)},
                                        {"loss", Json(1.5)},
                                        {"val_loss", loss ? Json(*loss) : Json()},
                                        {"best_val_loss", loss ? Json(*loss) : Json()},
                                        {"seconds", Json(2.0)},
                                        {"tokens", Json(1000)},
                                        {"tokens_per_s", Json(500.0)},
                                        {"flops", Json(1e9)},
                                        {"parameters", Json(12345)},
                                        {"peak_bytes", Json(1 << 20)},
                                        {"stopped", Json("")}});
      write_file_atomic(path / "result.json", result.dump());
    }
    return path;
  }
  fs::path operator/(const std::string& name) const { return folder_ / name; }

 private:
  test::TemporaryFolder folder_;
};

TEST(Compare, SeedsOfOneRecipeAreAGroup) {
  Runs runs;
  std::vector<fs::path> all;
  const double low[] = {1.61, 1.64, 1.58}, high[] = {1.52, 1.55, 1.49};
  for (int i = 0; i < 3; ++i) {
    const auto seed = "run.seed=" + std::to_string(i);
    const auto n = std::to_string(i);
    // Names, folders and intervals of writing make no other group.
    all.push_back(runs.add("a" + n, low[i],
                           {seed, "optimizer.lr=0.001", "run.name=x" + n, "run.log_every=1" + n}));
    all.push_back(runs.add("b" + n, high[i], {seed, "optimizer.lr=0.01"}));
  }
  const auto c = compare_runs(all);
  ASSERT_EQ(c.groups.size(), 2u);
  EXPECT_EQ(c.groups[0].name, "lr=0.001");
  EXPECT_EQ(c.groups[1].name, "lr=0.01");
  const auto& s = c.groups[0].metric;
  EXPECT_NEAR(s.mean, 1.61, 1e-12);
  EXPECT_NEAR(s.sd.value(), 0.03, 1e-12);
  // t of two degrees of freedom at 97.5 %.
  EXPECT_NEAR(s.high.value() - s.mean, 4.302652729749462 * 0.03 / std::sqrt(3.0), 1e-12);
  EXPECT_FALSE(c.groups[0].against);
  const auto& d = c.groups[1].against.value();
  EXPECT_NEAR(d.mean, -0.09, 1e-12);
  EXPECT_NEAR(d.d.value(), -3, 1e-9);
  EXPECT_LT(d.p.value(), 0.05);
  const auto best = compare_runs(all, {.reference = Reference::best, .sort = "val_loss"});
  EXPECT_EQ(best.groups[0].name, "lr=0.01");
  EXPECT_EQ(best.reference, 0u);
  EXPECT_GT(best.groups[1].against->mean, 0);
}

TEST(Compare, NamesSayWhatDiffersAndNotWhatFollows) {
  Runs runs;
  const auto c = compare_runs({runs.add("a", 2, {"model.preset=gpt-tiny", "model.dim=32"}),
                               runs.add("b", 1, {"model.preset=gpt-tiny", "model.dim=64"})});
  EXPECT_EQ(c.groups[0].name, "dim=32") << "heads and FFNs follow";
  const auto heads = compare_runs(
      {runs / "a", runs.add("c", 1, {"model.preset=gpt-tiny", "model.dim=32", "model.heads=8"})});
  EXPECT_NE(heads.groups[1].name.find("heads=8"), std::string::npos) << heads.groups[1].name;
  const auto depth = compare_runs(
      {runs / "a", runs.add("d", 1, {"model.preset=gpt-tiny", "model.dim=32", "model.depth=5"})});
  EXPECT_EQ(depth.groups[1].name, "depth=5");
  EXPECT_EQ(compare_runs({runs / "a"}).groups[0].name, "shakespeare");
}

TEST(Compare, SaysWhatIsLeftOut) {
  Runs runs;
  const auto good = runs.add("good", 1.5, {"run.seed=1"});
  const auto open = runs.add("open", 1.5, {"run.seed=2"}, false);
  const auto twin = runs.add("twin", 1.5, {"run.seed=1"});
  const auto c = compare_runs({good, open, twin, good});
  ASSERT_EQ(c.groups.size(), 1u);
  EXPECT_EQ(c.groups[0].metric.n, 1);
  EXPECT_FALSE(c.groups[0].metric.low) << "one run has no interval";
  ASSERT_EQ(c.left_out.size(), 2u) << "one folder given twice is one";
  EXPECT_EQ(c.left_out[0].folder, open);
  EXPECT_NE(c.left_out[1].reason.find("same setting and seed"), std::string::npos);
  EXPECT_EQ(test::error_of([&] { compare_runs({open}); }).kind(), Kind::usage);
  EXPECT_EQ(test::error_of([&] { compare_runs({runs / "none"}); }).kind(), Kind::not_found);
}

TEST(Compare, BrokenFoldersAreErrors) {
  Runs runs;
  const auto good = runs.add("good", 1.5, {"run.seed=1"}),
             bad = runs.add("bad", 1.5, {"run.seed=2"});
  write_file_atomic(bad / "result.json", "{");
  EXPECT_EQ(test::error_of([&] { compare_runs({good, bad}); }).kind(), Kind::bad_data);
  write_file_atomic(bad / "result.json", "{\"loss\": 1}");
  const auto e = test::error_of([&] { compare_runs({good, bad}); });
  EXPECT_EQ(e.kind(), Kind::bad_data);
  EXPECT_NE(std::string(e.what()).find("result.json"), std::string::npos) << e.what();
}

TEST(Compare, AMissingMetricIsNotZero) {
  Runs runs;
  const auto a = runs.add("a", {}, {"run.seed=1"}), b = runs.add("b", 1.5, {"run.seed=2"});
  EXPECT_EQ(test::error_of([&] { compare_runs({a, b}); }).kind(), Kind::usage);
  const auto c = compare_runs({a, b}, {.metric = "loss"});
  EXPECT_FALSE(c.groups[0].val_loss);
  EXPECT_EQ(c.groups[0].metric.mean, 1.5);
  EXPECT_EQ(test::error_of([&] { compare_runs({a}, {.metric = "los"}); }).kind(), Kind::usage);
}

TEST(Compare, ASweepStandsForItsRuns) {
  Runs runs;
  runs.add("sweep/lr=0.1-s1", 1.5, {"run.seed=1"});
  runs.add("sweep/lr=0.1-s2", 1.5, {"run.seed=2"}, false);
  const auto run = [](const char* folder, const char* state) {
    return Json::object({{"folder", Json(folder)}, {"state", Json(state)}});
  };
  auto failed = run("lr=0.1-s2", "failed");
  failed["error"] = Json::object({{"kind", Json("bad_data")}, {"message", Json("it diverged")}});
  const Json record = Json::object(
      {{"runs", Json(Json::Array{run("lr=0.1-s1", "done"), failed, run("lr=0.1-s3", "waiting")})}});
  write_file_atomic(runs / "sweep" / "sweep.json", record.dump());
  const auto c = compare_runs({runs / "sweep"});
  EXPECT_EQ(c.groups[0].metric.n, 1);
  ASSERT_EQ(c.left_out.size(), 2u);
  EXPECT_EQ(c.left_out[0].reason, "failed: it diverged");
  EXPECT_EQ(c.left_out[1].reason, "not finished: it has no result.json yet");
}

}  // namespace
}  // namespace lmxlab
