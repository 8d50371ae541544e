// Sweeps, comparisons and the coordinate check from the command line.
#include "lmxlab/base/text.h"
#include "tests/cli/program.h"

#include <signal.h>

#include <algorithm>

namespace lmxlab::test {
namespace {

class SweepCommand : public testing::Test {
 protected:
  TemporaryFolder folder_;

  // A recipe of runs that take a moment.
  std::string recipe(const std::string& sweep, const std::string& run = "steps = 5\n") {
    const auto path = folder_ / "sweep.toml";
    write_file_atomic(path,
                      "[model]\npreset = \"gpt-tiny\"\ndim = 16\n[data]\nvalidation = 0.002\n"
                      "[optimizer]\nname = \"adamw\"\n"
                      "[run]\nname = \"rates\"\nbatch = 2\ncontext = 16\neval_every = 0\n" +
                          run + "[sweep]\n" + sweep);
    return path.string();
  }
  std::string out() const { return (folder_ / "out").string(); }
};

TEST_F(SweepCommand, TrainsComparesAndSkipsWhatIsDone) {
  const auto path = recipe("over.optimizer.lr = [1e-3, 1e-2]\nseeds = 3\n");
  const auto trained = lmxlab_run({"train", path, "--out", out(), "--json"});
  ASSERT_EQ(trained.code, 0) << trained.err;
  EXPECT_NE(trained.err.find("2 settings, 6 runs"), std::string::npos) << trained.err;
  EXPECT_NE(trained.err.find("run 6 of 6"), std::string::npos) << trained.err;
  const auto summary = json_of(trained);
  EXPECT_EQ(summary.at("runs"), Json(6));
  EXPECT_EQ(summary.at("failed").size(), 0u);

  const auto again = lmxlab_run({"train", "--resume", out(), "--json", "--quiet"});
  EXPECT_EQ(again.code, 0) << again.err;
  EXPECT_EQ(json_of(again).at("skipped"), Json(6));

  const auto compared = lmxlab_run({"compare", out(), "--json"});
  ASSERT_EQ(compared.code, 0) << compared.err;
  const auto groups = json_of(compared).at("groups");
  ASSERT_EQ(groups.size(), 2u);
  for (const auto& g : groups.as_array()) {
    EXPECT_EQ(g.at("runs"), Json(3));
    const auto& loss = g.at("val_loss");
    EXPECT_LT(loss.at("low").as_number(), loss.at("mean").as_number());
    EXPECT_GT(loss.at("high").as_number(), loss.at("mean").as_number());
    EXPECT_GT(loss.at("sd").as_number(), 0);
    for (const char* key : {"parameters", "flops", "seconds", "peak_bytes"})
      EXPECT_GT(g.at(key).as_number(), 0) << key;
  }
  EXPECT_EQ(groups.as_array()[1].at("name"), Json("lr=0.01"));
  EXPECT_TRUE(groups.as_array()[1].at("against_reference").at("p").is_number());
  const auto table = lmxlab_run({"compare", out(), "--sort", "val_loss", "--reference", "best"});
  EXPECT_NE(table.out.find("±"), std::string::npos);
  const auto lines = split(table.out, '\n');
  EXPECT_TRUE(lines.at(1).starts_with("lr=0.01")) << table.out;
  EXPECT_NE(lines[1].find("reference"), std::string::npos) << table.out;

  const auto plot = lmxlab_run({"compare", out(), "--plot", "flops"});
  EXPECT_NE(plot.out.find(" flops\na  lr=0.001\nb  lr=0.01\n"), std::string::npos) << plot.out;
  const auto curves = json_of(lmxlab_run({"compare", out(), "--plot", "tokens", "--json"}));
  const auto& curve = curves.at("groups").as_array()[0].at("curve").as_array();
  ASSERT_EQ(curve.size(), 2u) << "the first step and the last are logged";
  EXPECT_EQ(curve[1].as_array()[0], Json(5.0 * 2 * 16));
}

TEST_F(SweepCommand, GoesOnAfterControlCAndAfterAKill) {
  const auto path = recipe("seeds = 3\n", "steps = 1000\n");
  const auto whole = lmxlab_run({"train", path, "--out", (folder_ / "whole").string(), "--quiet"});
  ASSERT_EQ(whole.code, 0) << whole.err;
  for (const int signal : {SIGINT, SIGKILL}) {
    const auto parts = folder_ / ("parts-" + std::to_string(signal));
    Child child(program(), {"train", path, "--out", parts.string(), "--json"});
    ASSERT_TRUE(child.wait_until(
        [](const Outcome& o) { return o.err.find("run 2 of 3") != std::string::npos; }));
    child.signal(signal);
    const auto end = child.wait();
    if (signal == SIGINT) {
      EXPECT_EQ(end.code, 130) << end.err;
      EXPECT_EQ(json_of(end).at("error").at("kind"), Json("canceled"));
      EXPECT_NE(end.err.find("train --resume"), std::string::npos) << end.err;
    }
    const auto half = lmxlab_run({"compare", parts.string()});
    EXPECT_EQ(half.code, 0) << half.err;
    EXPECT_NE(half.err.find("left out"), std::string::npos) << half.err;
    // From another folder: what the recipe names was made absolute.
    const auto rest = lmxlab_run({"train", "--resume", parts.string(), "--quiet", "--json"},
                                 {.folder = folder_ / "whole"});
    ASSERT_EQ(rest.code, 0) << rest.err;
    EXPECT_EQ(json_of(rest).at("skipped"), Json(1));
    for (const char* run : {"run-s1337", "run-s1338", "run-s1339"})
      EXPECT_EQ(read_file(folder_ / "whole" / run / "model.safetensors"),
                read_file(parts / run / "model.safetensors"))
          << run;
  }
}

TEST_F(SweepCommand, AFailureIsTheExitCode) {
  const auto path = recipe("over.\"optimizer.lr\" = [1e38, 1e-3]\n", "steps = 20\n");
  const auto o = lmxlab_run({"train", path, "--out", out(), "--json", "--set", "optimizer.clip=0"});
  EXPECT_EQ(o.code, 4) << o.err;
  EXPECT_NE(o.err.find("error: [sweep] 1 of 2 runs failed"), std::string::npos) << o.err;
  const auto json = json_of(o);
  EXPECT_EQ(json.at("error").at("kind"), Json("bad_data"));
  EXPECT_EQ(json.at("failed").size(), 1u);
  const auto compared = lmxlab_run({"compare", out(), "--json"});
  EXPECT_EQ(json_of(compared).at("left_out").size(), 1u);
  expect_error({"train", "--resume", out(), "--steps", "9"}, 2, "usage", {"sweep", "--steps"});
  expect_error({"train", path, "--out", out()}, 2, "usage", {"--resume"});
  expect_error({"train", "--resume", out(), "--out", "elsewhere"}, 5, "mismatch", {"elsewhere"});
}

TEST_F(SweepCommand, FaultsComeBeforeTheFirstRun) {
  const auto path = recipe("over.\"model.dim\" = [16, 31]\n");
  expect_error({"train", path, "--out", out()}, 2, "usage", {"dim=31", "not a multiple"});
  EXPECT_FALSE(fs::exists(out()));
  expect_error({"train", path, "--out", out(), "--set", "sweep.budget.tokens=100"}, 2, "usage",
               {"run.steps", "sweep.budget"});
  expect_error({"compare", (folder_ / "none").string()}, 3, "not_found", {"recipe.toml"});
  expect_error({"compare"}, 2, "usage", {"RUN"});
  expect_error({"mup-check", path}, 2, "usage", {"[sweep]", "expected one run"});
  expect_error({"compare", out(), "--metric", "vall_loss"}, 2, "usage", {"val_loss"});
}

TEST_F(SweepCommand, TheCoordinateCheckTellsMupFromNone) {
  const auto path = folder_ / "mup.toml";
  write_file_atomic(path,
                    "[model]\npreset = \"llama-tiny\"\ndepth = 2\n"
                    "[optimizer]\nname = \"adamw\"\nlr = 3e-3\n"
                    "[run]\nbatch = 4\ncontext = 32\n");
  const std::vector<std::string> widths{"--width", "32",  "--width", "64",
                                        "--width", "128", "--json",  "--quiet"};
  std::vector<std::string> plain{"mup-check", path.string()}, mup = plain;
  plain.insert(plain.end(), widths.begin(), widths.end());
  mup.insert(mup.end(), widths.begin(), widths.end());
  mup.insert(mup.end(), {"--set", "model.mup.dim=32"});
  const auto without = lmxlab_run(plain), with = lmxlab_run(mup);
  EXPECT_EQ(without.code, 5) << without.err;
  EXPECT_EQ(json_of(without).at("ok"), Json(false));
  EXPECT_EQ(with.code, 0) << with.out;
  const auto json = json_of(with);
  EXPECT_EQ(json.at("mup"), Json(true));
  EXPECT_EQ(json.at("layers").as_array()[0].at("size").size(), 3u);
  expect_error({"mup-check", path.string(), "--width", "x"}, 2, "usage", {"--width", "x"});
  expect_error(
      {"mup-check", path.string(), "--set", "model.mup.dim=32", "--set", "optimizer.name=muon"}, 2,
      "usage", {"model.mup", "adamw or lion"});
}

}  // namespace
}  // namespace lmxlab::test
