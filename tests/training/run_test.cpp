// Runs with a folder: its layout, and resuming bit for bit.
#include "lmxlab/training/run.h"

#include "lmxlab/base/files.h"
#include "lmxlab/base/json.h"
#include "lmxlab/io/safetensors.h"
#include "lmxlab/training/checkpoint.h"
#include "tests/support/temp_folder.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace lmxlab {
namespace {

Recipe small_run(const fs::path& out, const std::vector<std::string>& more = {}) {
  std::vector<std::string> overrides = {
      "model.preset=gpt-tiny", "model.dim=16",       "model.heads=2",
      "model.dropout=0.1",     "run.steps=12",       "run.batch=2",
      "run.context=16",        "run.log_every=1",    "run.checkpoint_every=4",
      "run.eval_every=4",      "run.eval_batches=3", "run.out=" + out.string()};
  overrides.insert(overrides.end(), more.begin(), more.end());
  return read_recipe("[data]\nvalidation = 0.002\n", "recipe", overrides);
}
Kind refused(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.kind();
  }
  ADD_FAILURE() << "accepted";
  return Kind::internal;
}

TEST(Run, FolderFromTheFirstMoment) {
  const test::TemporaryFolder folder;
  RunHooks hooks;
  bool started = false;
  hooks.start = [&](const RunHooks::Start& s) {
    started = true;
    for (const char* name :
         {"recipe.toml", "config.json", "tokenizer.json", "tokenizer_config.json"})
      EXPECT_TRUE(fs::exists(s.out / name)) << name;
  };
  const auto result = train_run(small_run(folder / "run"), hooks);
  EXPECT_TRUE(started);
  EXPECT_EQ(result.train.steps, 12);
  for (const char* name : {"model.safetensors", "metrics.jsonl", "loss.svg"})
    EXPECT_TRUE(fs::exists(result.out / name)) << name;
  const auto all = RunFolder(result.out).checkpoints();
  ASSERT_GE(all.size(), 2u);
  EXPECT_EQ(all.back().step, 12);
  for (const char* name :
       {"model.safetensors", "state.safetensors", "state.json", "tokenizer.json"})
    EXPECT_TRUE(fs::exists(all.back().folder / name)) << name;
  EXPECT_EQ(LanguageModel::load(all.front().folder).config().dim, 16)
      << "a checkpoint is a model folder";
  EXPECT_EQ(read_file(result.out / "model.safetensors"),
            read_file(all.back().folder / "model.safetensors"));
  const auto text = read_file(result.out / "metrics.jsonl");
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 12);
  const auto first = Json::parse(text.substr(0, text.find('\n')));
  for (const char* key :
       {"step", "loss", "lr", "grad_norm", "tokens", "tokens_per_s", "active_bytes", "peak_bytes"})
    EXPECT_TRUE(first.contains(key)) << key;
  // Everything is resolved: the folder alone gives the model.
  auto model = LanguageModel::load(result.out, true);
  EXPECT_EQ(model.config().dim, 16);
}

TEST(Run, KeepsTheLastTwoAndTheBest) {
  const test::TemporaryFolder folder;
  // A rate that makes it worse and worse: the first checkpoint stays the best.
  train_run(small_run(folder / "run", {"run.checkpoint_every=2", "run.eval_every=2",
                                       "optimizer.lr=3", "schedule.warmup=0", "optimizer.clip=0"}),
            {});
  std::vector<int64_t> steps;
  for (const auto& c : RunFolder(folder / "run").checkpoints()) steps.push_back(c.step);
  ASSERT_GE(steps.size(), 2u);
  ASSERT_LE(steps.size(), 3u);
  EXPECT_EQ(steps.back(), 12);
  EXPECT_EQ(steps[steps.size() - 2], 10);
}

TEST(Run, NumbersItsFolders) {
  const test::TemporaryFolder folder;
  auto recipe = small_run("", {"run.steps=1", "run.name=x"});
  recipe.run.out.clear();
  EXPECT_EQ(train_run(recipe, {}, {}, folder.path()).out.filename(), "x-1");
  EXPECT_EQ(train_run(recipe, {}, {}, folder.path()).out.filename(), "x-2");
}

void expect_same_run(const fs::path& a, const fs::path& b) {
  EXPECT_EQ(read_file(a / "model.safetensors"), read_file(b / "model.safetensors"));
  const auto last = [](const fs::path& p) { return RunFolder(p).checkpoints().back(); };
  EXPECT_EQ(last(a).step, last(b).step);
  EXPECT_EQ(read_file(last(a).folder / "state.safetensors"),
            read_file(last(b).folder / "state.safetensors"));
  const auto losses = [](const fs::path& p) {
    std::string out;
    const auto text = read_file(p / "metrics.jsonl");
    for (size_t at = 0, end; (end = text.find('\n', at)) != std::string::npos; at = end + 1) {
      const auto j = Json::parse(std::string_view(text).substr(at, end - at));
      out += j.at("step").dump() + " " + j.at("loss").dump() + " " + j.at("lr").dump() + "\n";
    }
    return out;
  };
  EXPECT_EQ(losses(a), losses(b));
}

TEST(Run, ResumesBitForBit) {
  const test::TemporaryFolder folder;
  train_run(small_run(folder / "whole"), {});
  for (const int64_t at : {1, 4, 6, 11}) {
    const auto out = folder / ("cut" + std::to_string(at));
    std::stop_source stop;
    RunHooks hooks;
    hooks.step = [&](const StepMetrics& m, int64_t) {
      if (m.step == at) stop.request_stop();
    };
    EXPECT_EQ(train_run(small_run(out), hooks, stop.get_token()).train.stopped, "canceled");
    EXPECT_EQ(RunFolder(out).checkpoints().back().step, at) << "what was computed is saved";
    resume_run(out, {}, {});
    expect_same_run(folder / "whole", out);
  }
}

TEST(Run, ResumesForEveryOptimizer) {
  for (const std::string name : {"sgd", "lion", "adafactor", "muon", "adamw 8", "muon 8"}) {
    SCOPED_TRACE(name);
    const test::TemporaryFolder folder;
    std::vector<std::string> more = {"optimizer.name=" + name.substr(0, name.find(' ')),
                                     "run.accumulate=2", "run.steps=6", "run.checkpoint_every=2"};
    if (name.ends_with(" 8"))  // matrices large enough
      more.insert(more.end(), {"optimizer.state_bits=8", "model.dim=64"});
    train_run(small_run(folder / "whole", more), {});
    std::stop_source stop;
    RunHooks hooks;
    hooks.step = [&](const StepMetrics& m, int64_t) {
      if (m.step == 3) stop.request_stop();
    };
    train_run(small_run(folder / "cut", more), hooks, stop.get_token());
    resume_run(folder / "cut", {}, {});
    expect_same_run(folder / "whole", folder / "cut");
    if (name.ends_with(" 8")) {
      const auto state = io::SafeTensors(RunFolder(folder / "cut").checkpoints().back().folder /
                                         "state.safetensors")
                             .all();
      const auto codes = std::count_if(state.begin(), state.end(), [](const auto& entry) {
        return entry.second.dtype() == mx::int8;
      });
      EXPECT_GT(codes, 0);
      EXPECT_EQ(refused([&] { resume_run(folder / "cut", {"optimizer.state_bits=32"}, {}); }),
                Kind::mismatch);
    }
  }
}

TEST(Run, StartsOverWithoutACompleteCheckpoint) {
  const test::TemporaryFolder folder;
  train_run(small_run(folder / "whole"), {});
  train_run(small_run(folder / "cut"), {});
  fs::remove_all(folder / "cut/checkpoints");
  fs::create_directories(folder / "cut/checkpoints/.step-8.tmp");
  resume_run(folder / "cut", {}, {});
  expect_same_run(folder / "whole", folder / "cut");
  EXPECT_FALSE(fs::exists(folder / "cut/checkpoints/.step-8.tmp"));
}

TEST(Run, MovesTheEndOnly) {
  const test::TemporaryFolder folder;
  train_run(small_run(folder / "run"), {});
  EXPECT_EQ(resume_run(folder / "run", {"run.steps=14", "run.eval_every=7"}, {}).train.steps, 14);
  EXPECT_EQ(refused([&] { resume_run(folder / "run", {"run.batch=3"}, {}); }), Kind::mismatch);
  EXPECT_EQ(refused([&] { resume_run(folder / "run", {"optimizer.lr=3"}, {}); }), Kind::mismatch);
  EXPECT_EQ(refused([&] { resume_run(folder / "run", {"run.steps=3"}, {}); }), Kind::mismatch);
  EXPECT_EQ(resume_run(folder / "run", {"run.steps=14", "run.batch=2"}, {}).train.steps, 14)
      << "repeating a value is fine";
}

TEST(Run, RefusesAFolderThatHoldsARunAndOneThatHoldsNone) {
  const test::TemporaryFolder folder;
  train_run(small_run(folder / "run", {"run.steps=1"}), {});
  EXPECT_EQ(refused([&] { train_run(small_run(folder / "run"), {}); }), Kind::usage);
  EXPECT_EQ(refused([&] { resume_run(folder.path(), {}, {}); }), Kind::not_found);
}

TEST(Run, BadDataLeaveNothingBehind) {
  const test::TemporaryFolder folder;
  const auto with = [&](const std::string& set) {
    return [&, set] { train_run(small_run(folder / "run", {set}), {}); };
  };
  write_file_atomic(folder / "empty.txt", "");
  write_file_atomic(folder / "binary.txt", std::string("\x00\xff\xfe\x80", 4));
  write_file_atomic(folder / "short.txt", "too short");
  EXPECT_EQ(refused(with("data.file=" + (folder / "none.txt").string())), Kind::not_found);
  EXPECT_EQ(refused(with("data.file=" + (folder / "empty.txt").string())), Kind::bad_data);
  EXPECT_EQ(refused(with("data.file=" + (folder / "binary.txt").string())), Kind::bad_data);
  EXPECT_EQ(refused(with("data.file=" + (folder / "short.txt").string())), Kind::usage);
  EXPECT_EQ(refused(with("model.vocab=10")), Kind::mismatch);
  EXPECT_EQ(refused(with("run.batch=100000")), Kind::usage);
  EXPECT_FALSE(fs::exists(folder / "run")) << "a folder was left";
  write_file_atomic(folder / "file", "x");
  EXPECT_EQ(refused([&] { train_run(small_run(folder / "file/run"), {}); }), Kind::resource);
}

TEST(Run, TouchesNothingInAFolderOfSomebodyElse) {
  const test::TemporaryFolder folder;
  write_file_atomic(folder / "config.json", "theirs");
  write_file_atomic(folder / "tokenizer.json", "theirs");
  EXPECT_EQ(refused([&] { train_run(small_run(folder.path(), {"run.batch=100000"}), {}); }),
            Kind::usage);
  write_file_atomic(folder / "model.safetensors", "theirs");
  EXPECT_EQ(refused([&] { train_run(small_run(folder.path()), {}); }), Kind::usage);
  for (const char* name : {"config.json", "tokenizer.json", "model.safetensors"})
    EXPECT_EQ(read_file(folder / name), "theirs") << name;
}

TEST(Run, RefusesOtherDataOnResume) {
  const test::TemporaryFolder folder;
  std::string text;
  for (int i = 0; i < 2000; ++i) text += "to be or not to be ";
  write_file_atomic(folder / "data.txt", text);
  train_run(small_run(folder / "run",
                      {"data.file=" + (folder / "data.txt").string(), "data.validation=0.1"}),
            {});
  write_file_atomic(folder / "data.txt", text + "o");
  EXPECT_EQ(refused([&] { resume_run(folder / "run", {"run.steps=20"}, {}); }), Kind::mismatch);
}

}  // namespace
}  // namespace lmxlab
