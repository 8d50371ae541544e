#include "tests/cli/program.h"

#include "lmxlab/base/text.h"
#include "lmxlab/io/safetensors.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <cmath>
#include <fstream>
#include <iostream>

namespace lmxlab::test {
namespace {

namespace mx = mlx::core;

std::vector<std::string> tiny(std::vector<std::string> more) {
  std::vector<std::string> out{
      "train",          "--set", "model.preset=gpt-tiny", "--set", "run.batch=4",       "--set",
      "run.context=32", "--set", "run.eval_batches=2",    "--set", "data.file=text.txt"};
  out.insert(out.end(), more.begin(), more.end());
  return out;
}

// A folder with a text to train on.
class Train : public testing::Test {
 protected:
  void SetUp() override {
    std::string text;
    for (int i = 0; i < 400; ++i)
      text += "line " + std::to_string(i * 7919 % 1000) + " of a small text\n";
    write_file_atomic(folder / "text.txt", text);
    how.folder = folder.path();
  }
  Outcome go(const std::vector<std::string>& arguments) { return lmxlab_run(arguments, how); }
  void error(const std::vector<std::string>& arguments, int code, const std::string& kind,
             const std::vector<std::string>& says) {
    expect_error(arguments, code, kind, says, how);
  }
  size_t entries(const std::string& name) {
    size_t n = 0;
    for ([[maybe_unused]] const auto& e : fs::recursive_directory_iterator(folder / name)) ++n;
    return n;
  }

  TemporaryFolder folder;
  Spawn how;
};

TEST_F(Train, TakesWhatItMayAndNoMore) {
  error(tiny({"--memory", "much"}), 2, "usage", {"--memory \"much\"", "16GB"});
  error(tiny({"--steps", "2", "--out", "small", "--memory", "2MB"}), 7, "resource",
        {"--memory 2MB", "run.batch="});
  EXPECT_FALSE(fs::exists(folder / "small" / "model.safetensors"));
  const auto free = go(tiny({"--steps", "2", "--out", "free", "--json"}));
  ASSERT_EQ(free.code, 0) << free.err;
  // Our allocator holds to the limit: a run that goes over its plan ends with an error.
  const double planned = json_of(free).at("planned_bytes").as_number() / (1 << 20);
  const auto held = go(tiny({"--steps", "2", "--out", "held", "--json", "--memory",
                             std::to_string(planned + 0.001) + "MB"}));
  ASSERT_EQ(held.code, 0) << held.err;
  EXPECT_EQ(json_of(held).at("loss"), json_of(free).at("loss"));
  EXPECT_LE(json_of(held).at("peak_bytes").as_number(),
            json_of(held).at("planned_bytes").as_number());
}

TEST_F(Train, FromNothingToText) {
  const auto o = go(tiny({"--steps", "6", "--out", "r", "--json", "--set", "run.log_every=2"}));
  ASSERT_EQ(o.code, 0) << o.err;
  const Json r = json_of(o);
  EXPECT_EQ(r.at("steps").as_integer(), 6);
  EXPECT_EQ(r.at("out").as_string(), "r");
  for (const char* key :
       {"loss", "val_loss", "seconds", "tokens_per_s", "peak_bytes", "planned_bytes"})
    EXPECT_GT(r.at(key).as_number(), 0) << key;
  for (const char* word : {" planned", " now, ", " kept"})
    EXPECT_NE(o.err.find(word), std::string::npos) << "memory while it runs: " << o.err;
  for (const char* file : {"recipe.toml", "config.json", "tokenizer.json", "metrics.jsonl",
                           "model.safetensors", "loss.svg"})
    EXPECT_TRUE(fs::exists(folder / "r" / file)) << file;
  for (const auto& line : split(std::string(trim(read_file(folder / "r/metrics.jsonl"))), '\n')) {
    const Json m = Json::parse(line);
    for (const char* key : {"step", "loss", "lr", "grad_norm", "tokens", "tokens_per_s",
                            "active_bytes", "peak_bytes", "cache_bytes", "planned_bytes"})
      EXPECT_TRUE(m.contains(key)) << key << " in " << line;
  }

  const auto g =
      go({"generate", "r", "--prompt", "line ", "--max-tokens", "200", "--seed", "3", "--json"});
  ASSERT_EQ(g.code, 0) << g.err;
  EXPECT_EQ(json_of(g).at("generated_tokens").as_integer(), 200);
  const auto text = json_of(g).at("text").as_string();
  EXPECT_EQ(
      go({"generate", "r", "--prompt", "line ", "--max-tokens", "200", "--seed", "3", "--quiet"})
          .out,
      text + (text.ends_with('\n') ? "" : "\n"));
  const auto stop = text.substr(80, 3);
  const Json stopped = json_of(go({"generate", "r", "--prompt", "line ", "--max-tokens", "200",
                                   "--seed", "3", "--stop", stop, "--json"}));
  EXPECT_EQ(stopped.at("stop_reason").as_string(), "stop_string");
  EXPECT_EQ(stopped.at("text").as_string(), text.substr(0, text.find(stop)));
  error({"generate", "r", "--prompt", "\xc3\xa9"}, 4, "bad_data", {"\xc3\xa9"});

  EXPECT_EQ(json_of(go({"count", "r", "--json"})).at("parameters"),
            json_of(go({"info", "r", "--json"})).at("parameters"));
  EXPECT_EQ(go({"doctor", "r"}).code, 0);
}

TEST_F(Train, PlainOutputIsTheSampleAndTheRestIsOnStderr) {
  const auto o = go(tiny({"--steps", "4", "--set", "run.sample_every=2"}));
  ASSERT_EQ(o.code, 0) << o.err;
  EXPECT_GT(o.out.size(), 100u);
  for (const char* word : {"parameters", "held out", "after step 2", "4/4", "runs/shakespeare-1",
                           "loss.svg", " generate runs/shakespeare-1 --prompt "})
    EXPECT_NE(o.err.find(word), std::string::npos) << word << " in\n" << o.err;
  EXPECT_EQ(o.err.find('\x1b'), std::string::npos);
  EXPECT_EQ(o.err.find('\r'), std::string::npos);
  const auto quiet = go(tiny({"--steps", "2", "--quiet"}));
  EXPECT_EQ(quiet.err, "");
  EXPECT_TRUE(fs::exists(folder / "runs/shakespeare-2"));
}

TEST_F(Train, BarOnATerminal) {
  for (const int columns : {40, 120}) {
    how.terminal_columns = columns;
    how.environment = {{"NO_COLOR", ""}, {"TERM", "xterm"}, {"LC_ALL", "C.UTF-8"}};
    const auto o = go(tiny({"--steps", "8", "--json"}));
    ASSERT_EQ(o.code, 0) << o.err;
    EXPECT_NE(o.err.find("8/8"), std::string::npos);
    EXPECT_NE(o.err.find("\x1b["), std::string::npos);
    // What is drawn between two returns must fit, or the terminal would scroll. (A block is three
    // bytes.)
    for (auto piece : split(o.err, '\r')) {
      if (piece.find("/8  loss") == std::string::npos) continue;
      piece = piece.substr(0, piece.find('\x1b'));
      const auto width = std::count_if(piece.begin(), piece.end(), [](char c) {
        return (static_cast<unsigned char>(c) & 0xc0) != 0x80;
      });
      EXPECT_LT(width, columns) << piece;
    }
    how.environment[0].second = "1";
    const auto plain = go(tiny({"--steps", "2", "--json"}));
    EXPECT_EQ(plain.err.find("\x1b[1m"), std::string::npos);
  }
}

TEST_F(Train, LogitsCachedAndWhole) {
  ASSERT_EQ(go(tiny({"--steps", "2", "--out", "r", "--quiet"})).code, 0);
  std::vector<int32_t> ids;
  for (int i = 0; i < 2 * 20; ++i) ids.push_back(i * 5 % 17);
  const auto save = [&](const std::string& name, const mx::array& a) {
    io::write_safetensors(folder / name, {{"input_ids", a}});
  };
  save("in.safetensors", mx::array(ids.begin(), {2, 20}, mx::int32));
  const auto o =
      go({"logits", "r", "--tokens-file", "in.safetensors", "--out", "a.safetensors", "--json"});
  ASSERT_EQ(o.code, 0) << o.err;
  const Json r = json_of(o);
  EXPECT_EQ(r.at("batch").as_integer(), 2);
  EXPECT_EQ(r.at("length").as_integer(), 20);
  const int vocab = int(r.at("vocab").as_integer());
  const auto whole = io::SafeTensors(folder / "a.safetensors").get("logits");
  EXPECT_EQ(whole.shape(), (mx::Shape{2, 20, vocab}));
  EXPECT_EQ(whole.dtype(), mx::float32);
  for (const std::string n : {"1", "7", "64"}) {
    ASSERT_EQ(go({"logits", "r", "--tokens-file", "in.safetensors", "--out", "b.safetensors",
                  "--cached", n})
                  .code,
              0);
    const auto pieces = io::SafeTensors(folder / "b.safetensors").get("logits");
    const double worst = mx::max(mx::abs(mx::subtract(whole, pieces))).item<float>();
    const double largest = mx::max(mx::abs(whole)).item<float>();
    EXPECT_LE(worst, 8 * 0x1p-23 * std::sqrt(64.0) * largest)
        << "pieces of " << n;  // eps * sqrt(width) * max
  }
  ids[33] = vocab;
  save("bad.safetensors", mx::array(ids.begin(), {2, 20}, mx::int32));
  error({"logits", "r", "--tokens-file", "bad.safetensors", "--out", "c.safetensors"}, 4,
        "bad_data", {"input_ids[1, 13]", std::to_string(vocab)});
  const auto wide =
      mx::add(mx::multiply(mx::array(ids.begin(), {2, 20}, mx::int64), mx::array(int64_t{0})),
              mx::array(int64_t{1} << 32));
  save("wide.safetensors", wide);
  error({"logits", "r", "--tokens-file", "wide.safetensors", "--out", "c.safetensors"}, 4,
        "bad_data", {"4294967296"});
  io::write_safetensors(folder / "none.safetensors", {{"ids", mx::zeros({1, 2}, mx::int32)}});
  error({"logits", "r", "--tokens-file", "none.safetensors", "--out", "c.safetensors"}, 4,
        "bad_data", {"input_ids"});
  EXPECT_FALSE(fs::exists(folder / "c.safetensors"));
  error({"logits", "r", "--tokens-file", "in.safetensors", "--out", "absent/x"}, 3, "not_found",
        {"absent"});
  how.largest_file = 1000;
  error({"logits", "r", "--tokens-file", "in.safetensors", "--out", "c.safetensors"}, 7, "resource",
        {"c.safetensors"});
  EXPECT_FALSE(fs::exists(folder / "c.safetensors"));
}

TEST_F(Train, InterruptedThenResumed) {
  Spawn spawn = how;
  Child child(program(),
              tiny({"--steps", "100000", "--out", "r", "--json", "--set", "run.eval_every=0",
                    "--set", "run.log_every=1"}),
              spawn);
  ASSERT_TRUE(child.wait_until(
      [&](const Outcome& o) { return o.err.find("folder") != std::string::npos; }));
  for (int i = 0; i < 600 && (!fs::exists(folder / "r/metrics.jsonl") ||
                              fs::file_size(folder / "r/metrics.jsonl") < 500);
       ++i)
    ::usleep(100'000);
  child.signal(SIGINT);
  const auto o = child.wait();
  EXPECT_EQ(o.code, 130) << o.err;
  EXPECT_NE(o.err.find("train --resume r"), std::string::npos) << o.err;
  const Json r = json_of(o);
  EXPECT_EQ(r.at("error").at("kind").as_string(), "canceled");
  const int64_t steps = r.at("steps").as_integer();
  EXPECT_GT(steps, 0);
  EXPECT_TRUE(fs::exists(folder / "r/checkpoints" / ("step-" + std::to_string(steps)) /
                         "model.safetensors"));
  error({"train", "--out", "r"}, 2, "usage", {"r", "--resume"});
  error({"train", "--resume", "r", "--set", "run.batch=5"}, 5, "mismatch", {"run.batch"});
  error({"train", "--resume", "r", "--out", "s"}, 5, "mismatch", {"s"});
  error({"train", "--resume", "nowhere"}, 3, "not_found", {"nowhere"});
  const Json again =
      json_of(go({"train", "--resume", "r", "--steps", std::to_string(steps + 3), "--json"}));
  EXPECT_EQ(again.at("steps").as_integer(), steps + 3);
}

TEST_F(Train, SecondInterruptEndsItAtOnce) {
  Child child(program(),
              tiny({"--set", "model.preset=gpt-30m", "--set", "run.batch=64", "--set",
                    "run.context=128", "--out", "r"}),
              how);
  ASSERT_TRUE(
      child.wait_until([](const Outcome& o) { return o.err.find("folder") != std::string::npos; }));
  child.signal(SIGINT);
  ::usleep(100'000);  // the first one is being heeded: a step takes longer than that
  child.signal(SIGINT);
  const auto o = child.wait();
  EXPECT_EQ(o.code, 130);
  EXPECT_EQ(o.out, "");
}

TEST_F(Train, SetTakesLists) {
  ASSERT_EQ(go(tiny({"--steps", "1", "--out", "r", "--quiet", "--set",
                     "optimizer.betas=[0.5, 0.75]", "--set", "run.name=\"a b\""}))
                .code,
            0);
  const Json recipe = parse_toml(read_file(folder / "r/recipe.toml"));
  EXPECT_EQ(recipe.at("optimizer").at("betas"), Json::array({Json(0.5), Json(0.75)}));
  EXPECT_EQ(recipe.at("run").at("name").as_string(), "a b");
}

TEST_F(Train, BadRecipes) {
  const auto recipe = [&](const std::string& text) {
    std::ofstream(folder / "r.toml", std::ios::binary) << text;
    return std::vector<std::string>{"train", "r.toml", "--out", "x", "--steps", "1"};
  };
  error({"train", "absent.toml"}, 3, "not_found", {"absent.toml"});
  error(recipe(""), 4, "bad_data", {"r.toml", "empty"});
  error(recipe("[run]\nsteps = "), 4, "bad_data", {"r.toml"});
  error(recipe(std::string("\x7f"
                           "ELF\x02\x01\0\0\xff\xfe",
                           10)),
        4, "bad_data", {"r.toml"});
  error(recipe("[run]\nstps = 3\n"), 2, "usage", {"run.stps", "did you mean \"steps\"?"});
  error(recipe("[rum]\nsteps = 3\n"), 2, "usage", {"rum", "\"run\""});
  error(recipe("[run]\nbatch = \"many\"\ncontext = []\n"), 2, "usage",
        {"run.batch", "run.context"});
  error(recipe("[model]\npreset = \"gpt-tiny\"\nheads = 7\n"), 2, "usage", {"7 heads"});
  error(recipe("[model]\npreset = \"gtp-tiny\"\n"), 3, "not_found", {"gpt-tiny"});
  error(recipe("[model]\npreset = \"gpt-tiny\"\nvocab = 10\n"), 5, "mismatch", {"10"});
  error(recipe("[data]\nfile = \"absent.txt\"\n"), 3, "not_found", {"absent.txt"});
  std::ofstream(folder / "short.txt") << "too short";
  error(recipe("[data]\nfile = \"short.txt\"\n"), 2, "usage", {"64"});
  std::ofstream(folder / "empty.txt");
  error(recipe("[data]\nfile = \"empty.txt\"\n"), 4, "bad_data", {"empty"});
  std::ofstream(folder / "binary.txt", std::ios::binary) << std::string(5000, '\xff');
  error(recipe("[data]\nfile = \"binary.txt\"\n"), 4, "bad_data", {"UTF-8"});
  error({"train", "--set", "run.steps"}, 2, "usage", {"key=value"});
  error({"train", "--set", "optimizer.lrr=1"}, 2, "usage", {"optimizer.lrr"});
  error(tiny({"--steps", "1", "--out", "text.txt/run"}), 7, "resource", {"text.txt"});
  error(tiny({"--steps", "1", "--out", "/proc/lmxlab-run"}), 7, "resource", {"/proc/lmxlab-run"});
  // A fault found before the first step leaves no folder behind.
  EXPECT_FALSE(fs::exists(folder / "x"));
}

// The file-size limit stands for a disk that fills up: a write in the middle of a checkpoint fails.
TEST_F(Train, DiskFullLosesNothing) {
  ASSERT_EQ(go(tiny({"--steps", "2", "--out", "r", "--quiet"})).code, 0);
  const auto before = read_file(folder / "r/model.safetensors");
  how.largest_file = before.size() / 2;
  error({"train", "--resume", "r", "--steps", "4"}, 7, "resource", {"write"});
  EXPECT_EQ(read_file(folder / "r/model.safetensors"), before);
  for (const auto& e : fs::recursive_directory_iterator(folder / "r")) {
    if (e.path().filename().string().starts_with(".")) continue;
    if (e.path().filename() == "model.safetensors") {
      EXPECT_EQ(e.file_size(), before.size()) << e.path();
    }
  }
  how.largest_file = RLIM_INFINITY;
  const Json r = json_of(go({"train", "--resume", "r", "--steps", "4", "--json"}));
  EXPECT_EQ(r.at("steps").as_integer(), 4);
  EXPECT_NE(read_file(folder / "r/model.safetensors"), before);
}

// macOS has no such limit, and the sanitizers map more address space than any lets through.
#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
// Under limits from far too little to enough: one clear error or a run to its end, and what was
// there before can always be gone on from.
TEST_F(Train, RefusedMemoryLosesNothing) {
  const auto steps = [&](const std::string& n) {
    return tiny({"--steps", n, "--out", "r", "--json", "--set", "run.checkpoint_every=4", "--set",
                 "run.batch=64", "--set", "run.context=64"});
  };
  auto whole = steps("8");
  whole[std::find(whole.begin(), whole.end(), "r") - whole.begin()] = "whole";
  ASSERT_EQ(go(whole).code, 0);
  ASSERT_EQ(go(steps("4")).code, 0);
  const auto begun = read_file(folder / "r/model.safetensors");
  int refused = 0;
  for (rlim_t limit = rlim_t{60} << 20;; limit += limit / 8) {
    how.address_space = limit;
    const auto o = go({"train", "--resume", "r", "--steps", "8", "--json"});
    how.address_space = RLIM_INFINITY;
    if (o.code == 0) break;
    ASSERT_LT(limit, rlim_t{64} << 30) << o.err;
    if (o.code == 127) continue;  // not even the program's libraries fit
    ++refused;
    SCOPED_TRACE(std::to_string(limit >> 20) + " MiB");
    EXPECT_EQ(o.code, 7) << o.err;
    EXPECT_EQ(json_of(o).at("error").at("kind").as_string(), "resource") << o.out;
    EXPECT_TRUE(fs::exists(folder / "r/checkpoints/step-4/model.safetensors"));
    EXPECT_EQ(read_file(folder / "r/model.safetensors"), begun);
  }
  std::cout << refused << " runs were refused memory\n";
  EXPECT_GE(refused, 3);
  EXPECT_TRUE(read_file(folder / "r/model.safetensors") ==
              read_file(folder / "whole/model.safetensors"));
}
#endif

TEST_F(Train, NeedsNoCompiler) {
  fs::create_directory(folder / "tmp");
  fs::create_directory(folder / "bin");
  how.environment = {{"PATH", (folder / "bin").string()},
                     {"TMPDIR", (folder / "tmp").string()},
                     {"HOME", (folder / "tmp").string()}};
  const auto o = go(tiny({"--steps", "3", "--json"}));
  EXPECT_EQ(o.code, 0) << o.err;
  EXPECT_EQ(entries("tmp"), 0u);
}

}  // namespace
}  // namespace lmxlab::test
