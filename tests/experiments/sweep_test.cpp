// Sweeps: settings, budgets, folders, resuming, failures.
#include "lmxlab/experiments/sweep.h"

#include "lmxlab/base/files.h"
#include "lmxlab/config/count.h"
#include "lmxlab/training/checkpoint.h"
#include "tests/support/error_of.h"
#include "tests/support/temp_folder.h"

#include <gtest/gtest.h>

#include <set>

namespace lmxlab {
namespace {

std::string recipe(const std::string& sweep, const std::string& run = "steps = 4\n") {
  return "[model]\npreset = \"gpt-tiny\"\ndim = 16\nheads = 2\n"
         "[data]\nvalidation = 0.002\n"
         "[run]\nbatch = 2\ncontext = 16\neval_every = 0\ncheckpoint_every = 0\n" +
         run + "[sweep]\n" + sweep;
}
Sweep read(const std::string& sweep, const std::string& run = "steps = 4\n",
           const std::vector<std::string>& overrides = {}) {
  return read_sweep(recipe(sweep, run), "recipe", overrides);
}
std::string fault(const std::string& sweep, const std::string& run = "steps = 4\n") {
  const auto e = test::error_of([&] { read(sweep, run); });
  EXPECT_EQ(e.kind(), Kind::usage) << e.what();
  return e.what();
}
std::string state_of(const fs::path& folder, size_t run) {
  const auto json = Json::parse(read_file(folder / "sweep.json"));
  return json.at("runs").as_array().at(run).at("state").as_string();
}

TEST(Sweep, AGridIsEveryCombinationTimesEverySeed) {
  const auto s =
      read("over = { \"optimizer.lr\" = [1e-3, 3e-3], \"model.dim\" = [16, 32] }\nseeds = 3\n");
  ASSERT_EQ(s.settings.size(), 4u);
  ASSERT_EQ(s.runs.size(), 12u);
  EXPECT_EQ(s.settings[1].name, "dim=16,lr=0.003");
  EXPECT_EQ(s.runs[3].folder, "dim=16,lr=0.003-s1337");
  EXPECT_EQ(s.runs[5].folder, "dim=16,lr=0.003-s1339");
  EXPECT_EQ(s.runs[11].recipe.optimizer.lr, 3e-3);
  EXPECT_EQ(s.runs[11].recipe.model.at("dim"), Json(32));
  EXPECT_EQ(s.runs[11].recipe.run.seed, 1339u);
  EXPECT_EQ(s.runs[11].recipe.run.steps, 4);
}

TEST(Sweep, KeysMayBeTables) {
  const auto s = read("over.optimizer.lr = [1e-3, 3e-3]\nseeds = [7, 5]\n");
  ASSERT_EQ(s.runs.size(), 4u);
  EXPECT_EQ(s.runs[1].folder, "lr=0.001-s5");
  EXPECT_EQ(read("seeds = 2\n").runs[1].folder, "run-s1338") << "seeds alone are a sweep";
}

TEST(Sweep, DrawsStayInTheirRanges) {
  const std::string text =
      "method = \"random\"\nsamples = 40\nscale = { \"model.dropout\" = \"linear\" }\n"
      "over = { \"optimizer.lr\" = [1e-4, 1e-2], \"model.dropout\" = [0.0, 0.5],"
      " \"schedule.name\" = [\"cosine\", \"linear\", \"constant\"], \"run.batch\" = [1, 8] }\n";
  const auto s = read(text);
  ASSERT_EQ(s.settings.size(), 40u);
  int below = 0;
  std::set<std::string> names, schedules;
  for (const auto& r : s.runs) {
    const auto& c = r.recipe;
    EXPECT_GE(c.optimizer.lr, 1e-4);
    EXPECT_LE(c.optimizer.lr, 1e-2);
    EXPECT_LE(c.model.at("dropout").as_number(), 0.5);
    EXPECT_GE(c.run.batch, 1);
    EXPECT_LE(c.run.batch, 8);
    below += c.optimizer.lr < 1e-3;
    names.insert(r.folder), schedules.insert(enum_name(c.schedule.name));
  }
  EXPECT_GT(below, 10) << "half of a logarithmic scale";
  EXPECT_LT(below, 30);
  EXPECT_EQ(names.size(), 40u);
  EXPECT_EQ(schedules.size(), 3u);
  const auto again = read(text), other = read(text + "draw_seed = 1\n");
  EXPECT_EQ(again.runs[7].folder, s.runs[7].folder);
  EXPECT_NE(other.runs[7].folder, s.runs[7].folder);
}

TEST(Sweep, ABudgetGivesEachSettingItsSteps) {
  const auto tokens = read("over.\"run.batch\" = [1, 4]\nbudget = { tokens = 1000 }\n", "");
  EXPECT_EQ(tokens.runs[0].recipe.run.steps, 62);
  EXPECT_EQ(tokens.runs[1].recipe.run.steps, 15);
  const auto flops = read("over.\"model.dim\" = [16, 64]\nbudget = { flops = 1e9 }\n", "");
  std::vector<double> spent;
  for (const auto& r : flops.runs) {
    const auto model = resolve_run(r.recipe).config;
    spent.push_back(3 * config::flops_per_token(model, 16) * 2 * 16 *
                    static_cast<double>(r.recipe.run.steps));
  }
  for (const double f : spent) {
    EXPECT_LE(f, 1e9);
    EXPECT_GT(f, 0.95e9);
  }
  EXPECT_GT(flops.runs[0].recipe.run.steps, 3 * flops.runs[1].recipe.run.steps);
  const auto seconds = read("budget = { seconds = 5 }\n", "");
  EXPECT_EQ(seconds.runs[0].recipe.run.time_budget, 5);
}

TEST(Sweep, EveryFaultIsFoundBeforeTheFirstRun) {
  const auto both = fault("over = { \"optimizer.lr\" = [1e-3, -1], \"model.dim\" = [16, 17] }\n");
  EXPECT_NE(both.find("dim=16,lr=-1"), std::string::npos) << both;
  EXPECT_NE(both.find("dim=17,lr=0.001"), std::string::npos) << both;
  EXPECT_NE(fault("over.optimizer.lrr = [1]\n").find("optimizer.lrr"), std::string::npos);
  EXPECT_NE(fault("overs.a = [1]\n").find("over"), std::string::npos);
  EXPECT_NE(fault("over.optimizer.lr = 1\n").find("list"), std::string::npos);
  EXPECT_NE(fault("over.run.seed = [1]\n").find("sweep.seeds"), std::string::npos);
  EXPECT_NE(fault("seeds = [1, 1]\n").find("different"), std::string::npos);
  EXPECT_NE(fault("samples = 3\n").find("random"), std::string::npos);
  EXPECT_NE(fault("budget = { tokens = 9, flops = 1 }\n").find("one of"), std::string::npos);
  EXPECT_NE(fault("budget = { tokens = 1000 }\n").find("run.steps"), std::string::npos);
  EXPECT_NE(fault("budget = { tokens = 9 }\n", "").find("one step takes 32"), std::string::npos);
  EXPECT_NE(fault("method = \"random\"\nover.optimizer.lr = [0, 1]\n").find("above 0"),
            std::string::npos);
}

TEST(Sweep, TrainsEveryRunAndSaysSo) {
  const test::TemporaryFolder folder;
  const auto sweep = read("over.optimizer.lr = [1e-3, 3e-3]\nseeds = 2\n");
  std::vector<std::string> begun;
  SweepHooks hooks;
  hooks.begin = [&](const SweepRun& run, size_t, size_t) { begun.push_back(run.folder); };
  const auto result = run_sweep(sweep, hooks, {}, folder / "runs");
  EXPECT_EQ(result.out, folder / "runs" / "shakespeare-1");
  EXPECT_EQ(begun.size(), 4u);
  EXPECT_TRUE(result.failures.empty());
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(state_of(result.out, i), "done");
    const auto run = result.out / sweep.runs[i].folder;
    const auto r = Json::parse(read_file(run / "result.json"));
    EXPECT_EQ(r.at("steps").as_integer(), 4);
    EXPECT_TRUE(r.at("val_loss").is_number());
    EXPECT_GT(r.at("flops").as_number(), 0);
    EXPECT_GT(r.at("peak_bytes").as_integer(), 0);
    EXPECT_EQ(LanguageModel::load(run).config().dim, 16) << "each is a model folder";
  }
  EXPECT_NE(read_file(result.out / sweep.runs[0].folder / "model.safetensors"),
            read_file(result.out / sweep.runs[1].folder / "model.safetensors"));
  const auto again = resume_sweep(result.out, hooks);
  EXPECT_EQ(again.skipped, 4u);
  EXPECT_EQ(begun.size(), 4u) << "finished runs are not trained again";
}

TEST(Sweep, OfTimeEachRunHasAsMuch) {
  const test::TemporaryFolder folder;
  const auto sweep = read("over.model.depth = [1, 3]\nbudget = { seconds = 0.5 }\n",
                          "out = \"" + (folder / "s").string() + "\"\n");
  const auto result = run_sweep(sweep, {});
  ASSERT_TRUE(result.failures.empty());
  std::vector<int64_t> steps;
  for (const auto& run : sweep.runs) {
    const auto r = Json::parse(read_file(result.out / run.folder / "result.json"));
    EXPECT_NE(r.at("stopped").as_string().find("time"), std::string::npos);
    EXPECT_GT(r.at("seconds").as_number(), 0.2);
    EXPECT_LT(r.at("seconds").as_number(), 2);
    steps.push_back(r.at("steps").as_integer());
  }
  EXPECT_GT(steps[0], steps[1]) << "a smaller model takes more steps";
}

TEST(Sweep, KeepsPathsWhereverItIsResumed) {
  const test::TemporaryFolder folder;
  write_file_atomic(folder / "text.txt", std::string(4000, 'a') + std::string(4000, 'b'));
  const auto before = fs::current_path();
  fs::current_path(folder.path());
  const auto sweep = read("over.data.file = [\"text.txt\"]\n", "steps = 2\nout = \"s\"\n");
  EXPECT_EQ(sweep.runs[0].folder, "file=text.txt-s1337");
  RunHooks refuse;
  refuse.plan = [](const RunParts&, Recipe&, bool) -> int64_t {
    throw Error(Kind::resource, "[plan] does not fit");
  };
  EXPECT_EQ(run_sweep(sweep, {.run = refuse}).failures.size(), 1u);
  fs::current_path(before);
  EXPECT_TRUE(resume_sweep(folder / "s", {}).failures.empty());
}

TEST(Sweep, GoesOnWhereItWasInterrupted) {
  const test::TemporaryFolder folder;
  const std::string text = "over.optimizer.lr = [1e-3, 3e-3]\n";
  const auto whole = read(text, "steps = 6\nout = \"" + (folder / "whole").string() + "\"\n");
  run_sweep(whole, {});
  const auto sweep = read(text, "steps = 6\nout = \"" + (folder / "parts").string() + "\"\n");
  std::stop_source stop;
  SweepHooks hooks;
  int steps = 0;
  hooks.run.step = [&](const StepMetrics&, int64_t) {
    if (++steps == 9) stop.request_stop();  // in the middle of the second
  };
  const auto first = run_sweep(sweep, hooks, stop.get_token());
  EXPECT_TRUE(first.canceled);
  EXPECT_EQ(state_of(first.out, 0), "done");
  EXPECT_EQ(state_of(first.out, 1), "waiting");
  steps = 100;
  const auto second = resume_sweep(first.out, hooks);
  EXPECT_FALSE(second.canceled);
  EXPECT_EQ(second.skipped, 1u);
  EXPECT_EQ(steps, 103) << "from its checkpoint on";
  for (const auto& run : sweep.runs)
    EXPECT_EQ(read_file(folder / "whole" / run.folder / "model.safetensors"),
              read_file(folder / "parts" / run.folder / "model.safetensors"));
}

TEST(Sweep, AFailureIsRecordedAndTheOthersGoOn) {
  const test::TemporaryFolder folder;
  const auto sweep = read("over.optimizer.lr = [1e30, 1e-3]\n",
                          "steps = 20\nout = \"" + (folder / "s").string() + "\"\n",
                          {"optimizer.name=sgd", "optimizer.clip=0", "schedule.name=constant"});
  SweepHooks hooks;
  int refusals = 0;
  const auto result = run_sweep(sweep, hooks);
  ASSERT_EQ(result.failures.size(), 1u);
  EXPECT_EQ(result.failures[0].error.kind(), Kind::bad_data) << "it diverges";
  EXPECT_EQ(state_of(result.out, 0), "failed");
  EXPECT_EQ(state_of(result.out, 1), "done");
  hooks.begin = [&](const SweepRun&, size_t, size_t) { ++refusals; };
  const auto again = resume_sweep(result.out, hooks);
  EXPECT_EQ(refusals, 0) << "it would diverge again";
  ASSERT_EQ(again.failures.size(), 1u) << "and is still told";
  EXPECT_EQ(again.skipped, 1u);
}

TEST(Sweep, WhatDidNotFitIsTriedAgain) {
  const test::TemporaryFolder folder;
  const auto sweep = read("over.\"run.batch\" = [1, 2]\n",
                          "steps = 2\nout = \"" + (folder / "s").string() + "\"\n");
  bool fits = false;
  SweepHooks hooks;
  hooks.run.plan = [&](const RunParts&, Recipe& r, bool) -> int64_t {
    if (r.run.batch == 2 && !fits) throw Error(Kind::resource, "[plan] does not fit");
    return 0;
  };
  const auto first = run_sweep(sweep, hooks);
  ASSERT_EQ(first.failures.size(), 1u);
  EXPECT_EQ(first.failures[0].folder, "batch=2-s1337");
  fits = true;
  EXPECT_TRUE(resume_sweep(first.out, hooks).failures.empty());
  EXPECT_EQ(state_of(first.out, 1), "done");
  EXPECT_EQ(test::error_of([&] { run_sweep(sweep, hooks); }).kind(), Kind::usage)
      << "the folder holds a sweep";
  EXPECT_EQ(test::error_of([&] { resume_sweep(folder / "none", hooks); }).kind(), Kind::not_found);
}

}  // namespace
}  // namespace lmxlab
