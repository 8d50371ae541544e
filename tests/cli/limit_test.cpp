// Under a limit from outside no command dies: it fits as planned, or is refused beforehand with
// advice, and the first advice works.
#include "lmxlab/io/safetensors.h"
#include "tests/cli/program.h"

#include <mlx/ops.h>

#include <algorithm>
#include <sstream>

namespace lmxlab::test {
namespace {

namespace mx = mlx::core;
using Words = std::vector<std::string>;

class Limit : public testing::Test {
 protected:
  // Small weights that take much: of the wide one 800 KB of results a token, of the other 400 KB of
  // keys and values.
  static void SetUpTestSuite() {
    made_ = new TemporaryFolder;
    make("wide", {"model.hidden=65536"});
    make("keys", {"model.layers.*.mixer.heads=96", "model.layers.*.mixer.kv_heads=96",
                  "model.layers.*.mixer.head_dim=512", "model.context=8192"});
  }
  static void TearDownTestSuite() { delete std::exchange(made_, nullptr); }
  static void make(const std::string& name, Words keys) {
    keys.insert(keys.end(),
                {"model.preset=llama-tiny", "model.depth=1", "data.tokenizer=byte",
                 "data.validation=0", "run.batch=1", "run.context=16", "run.eval_every=0"});
    Words train{"train", "--json", "--out", model(name), "--steps", "1"};  // no sample at the end
    for (const auto& key : keys) train.insert(train.end(), {"--set", key});
    const auto done = lmxlab_run(train);
    ASSERT_EQ(done.code, 0) << done.err;
    write_file_atomic(fs::path(model(name)) / "chat_template.jinja",
                      "{% for m in messages %}{{ m.content }}{% endfor %}");
  }
  static std::string model(const std::string& name) { return (*made_ / name).string(); }

  Limit() {
    how.address_space = rlim_t{2} << 30;
    how.folder = folder.path();
    how.environment = {{"LMXLAB_WEIGHT_CACHE", (folder / "weights").string()}};
  }

  // The first way out of an error: what stands between "1) CHANGE, " and ": PEAK".
  static std::string first_advice(const std::string& error) {
    const auto one = error.find("1) ");
    if (one == error.npos) return "";
    auto end = error.find("; 2) ", one);
    end = error.rfind(": ", std::min(end, error.rfind(" (")));
    // A change may have a comma of its own.
    const auto text = error.substr(one + 3, end - one - 3);
    const auto quantized = text.find(", quantize ");
    return text.substr((quantized != text.npos ? quantized : text.rfind(", ")) + 2);
  }

  // The arguments with that advice, which may need another command first.
  Words follow(Words arguments, const std::string& advice) {
    std::istringstream in(advice);
    Words words{std::istream_iterator<std::string>(in), {}};
    if (words.empty()) return {};
    if (words[0] == "quantize") {  // "quantize --bits 4, then its folder"
      const auto packed = (folder / "packed").string();
      fs::remove_all(packed);
      const auto made = lmxlab_run({"quantize", arguments[1], packed, "--bits", "4"}, how);
      EXPECT_EQ(made.code, 0) << made.err;
      arguments[1] = packed;
      return arguments;
    }
    if (words[0][0] != '-') {  // another model
      arguments[1] = words[0];
      return arguments;
    }
    for (size_t i = 0; i < words.size(); ++i) {
      if (i + 1 == words.size() || words[i + 1].starts_with("--")) {
        arguments.push_back(words[i]);
        continue;
      }
      const auto key = words[i + 1].substr(0, words[i + 1].find('=') + 1);
      bool there = false;
      for (size_t k = 0; k + 1 < arguments.size(); ++k)
        if (arguments[k] == words[i] && arguments[k + 1].starts_with(key))
          arguments[k + 1] = words[i + 1], there = true;
      if (!there) arguments.insert(arguments.end(), {words[i], words[i + 1]});
      ++i;
    }
    return arguments;
  }

  void expect_fits(const Words& arguments) {
    SCOPED_TRACE(testing::PrintToString(arguments));
    const auto o = lmxlab_run(arguments, how);
    EXPECT_EQ(o.code, 0) << o.err;
  }

  // Refused before anything is made, and what it says first works.
  void expect_a_way_out(const Words& arguments) {
    SCOPED_TRACE(testing::PrintToString(arguments));
    const auto o = lmxlab_run(arguments, how);
    ASSERT_EQ(o.code, 7) << o.err;
    EXPECT_NE(o.err.find("ulimit -v"), std::string::npos) << o.err;
    const auto advice = first_advice(o.err);
    ASSERT_FALSE(advice.empty()) << o.err;
    const auto mended = follow(arguments, advice);
    const auto then = lmxlab_run(mended, how);
    EXPECT_EQ(then.code, 0) << testing::PrintToString(mended) << "\n" << o.err << then.err;
  }

  std::string tokens_file(int rows, int length) {
    const auto path = (folder / "ids.safetensors").string();
    io::write_safetensors(path, {{"input_ids", mx::zeros({rows, length}, mx::int32)}});
    return path;
  }

  const TemporaryFolder folder;
  Spawn how;

 private:
  static inline TemporaryFolder* made_ = nullptr;
};

TEST_F(Limit, Training) {
  Words train{"train", "--json", "--steps", "1"};
  for (const char* key : {"model.preset=llama-tiny", "model.depth=1", "model.hidden=16384",
                          "run.eval_every=0", "data.validation=0", "run.context=64", "run.batch=1"})
    train.insert(train.end(), {"--set", key});
  expect_fits(train);
  train.back() = "run.batch=128";
  expect_a_way_out(train);
  train.push_back("--auto-fit");
  const auto o = lmxlab_run(train, how);
  EXPECT_EQ(o.code, 0) << o.err;
  EXPECT_NE(o.err.find("warning: --auto-fit: a smaller batch"), std::string::npos) << o.err;
}

TEST_F(Limit, GenerationAndChat) {
  const Words soon{"--max-tokens", "6000", "--stop", "a", "--stop", "e",
                   "--stop",       "i",    "--stop", "o", "--stop", "u",
                   "--stop",       "t",    "--stop", "n", "--stop", "s"};
  Words generate{"generate", model("keys"), "--prompt", "Who", "--max-tokens", "3"};
  Words chat{"chat", model("keys")};
  expect_fits(generate);
  generate.resize(4);
  generate.insert(generate.end(), soon.begin(), soon.end());
  chat.insert(chat.end(), soon.begin(), soon.end());
  expect_a_way_out(generate);
  how.input = "Who?\n/quit\n";
  expect_a_way_out(chat);
  chat.push_back("--auto-fit");
  const auto o = lmxlab_run(chat, how);
  EXPECT_EQ(o.code, 0) << o.err;
  EXPECT_NE(o.err.find("warning: --auto-fit: a cache of 8 bits"), std::string::npos) << o.err;
}

TEST_F(Limit, PromptsOfAFileAreTakenAFewAtATime) {
  std::string lines;
  const auto line = Json::object({{"prompt", Json(std::string(400, 'a'))}}).dump() + "\n";
  for (int i = 0; i < 6; ++i) lines += line;
  write_file_atomic(folder / "prompts.jsonl", lines);
  const auto o = lmxlab_run({"generate", model("wide"), "--prompts-file",
                             (folder / "prompts.jsonl").string(), "--max-tokens", "1"},
                            how);
  EXPECT_EQ(o.code, 0) << o.err;
  EXPECT_EQ(std::count(o.out.begin(), o.out.end(), '\n'), 6) << o.out;
}

TEST_F(Limit, WhatReadsATextAtOnce) {
  write_file_atomic(folder / "text", std::string(5000, 'x'));
  const auto text = (folder / "text").string(), out = (folder / "logits").string();
  expect_fits({"perplexity", model("wide"), "--file", text, "--max-tokens", "100"});
  expect_a_way_out({"perplexity", model("wide"), "--file", text, "--context", "5000"});
  expect_fits({"logits", model("wide"), "--tokens-file", tokens_file(1, 16), "--out", out});
  expect_a_way_out({"logits", model("wide"), "--tokens-file", tokens_file(1, 4000), "--out", out});
}

TEST_F(Limit, Measurements) {
  const Words train{"bench", model("wide"), "--mode", "train", "--repeat", "1", "--context", "64"};
  expect_fits(train);
  auto large = train;
  large.insert(large.end(), {"--batch", "32"});
  expect_a_way_out(large);
  expect_a_way_out({"bench", model("wide"), "--mode", "prefill", "--repeat", "1", "--batch", "8",
                    "--context", "512"});
  // Lists of tokens that a rehearsal has no place for.
  EXPECT_EQ(lmxlab_run({"fit", "llama-tiny", "--batch", "8192", "--context", "64"}, how).code, 7);
  expect_fits({"fit", "gpt-small"});
  const auto o = lmxlab_run({"fit", "llama-7b", "--json"}, how);
  EXPECT_EQ(o.code, 7) << o.err;
  const auto said = json_of(o);
  const auto& advice = said.at("advice").as_array();
  ASSERT_FALSE(advice.empty());
  expect_fits({"fit", advice[0].at("options").as_string()});
}

TEST_F(Limit, PackingAndConverting) {
  auto out = [&, n = 0]() mutable { return (folder / ("out" + std::to_string(++n))).string(); };
  expect_fits({"quantize", model("wide"), out()});
  expect_fits({"convert", model("wide"), out()});
  expect_a_way_out({"quantize", "llama-7b", out()});
  expect_error({"quantize", "gpt-small", out()}, 6, "unsupported", {"GPT-2"}, how);
  // What little room will do: below, nothing fits, and above, all does.
  bool fewer = false;
  for (how.address_space = rlim_t{90} << 20; !fewer; how.address_space += rlim_t{4} << 20) {
    ASSERT_LT(how.address_space, rlim_t{800} << 20);
    const auto o = lmxlab_run({"quantize", model("wide"), out(), "--bits", "8"}, how);
    ASSERT_EQ(o.code, 7) << o.err;
    if (first_advice(o.err).empty()) continue;
    fewer = true;
    how.address_space += rlim_t{2} << 20;
    expect_a_way_out({"quantize", model("wide"), out(), "--bits", "8"});
    const auto automatic =
        lmxlab_run({"quantize", model("wide"), out(), "--bits", "8", "--auto-fit"}, how);
    EXPECT_EQ(automatic.code, 0) << automatic.err;
    EXPECT_NE(automatic.err.find("warning: --auto-fit: "), std::string::npos) << automatic.err;
    how.address_space += rlim_t{30} << 20;  // for 16 bits, and not for float32
    expect_a_way_out({"convert", model("wide"), out()});
  }
}

TEST_F(Limit, WeightsThatCannotBeMapped) {
  // A file of 3 GB, nearly all of it a hole: nobody comes to read it.
  const auto big = folder / "big";
  fs::copy(model("wide"), big);
  fs::resize_file(big / "model.safetensors", uintmax_t{3} << 30);
  write_file_atomic(folder / "text", "some text");
  const auto path = big.string(), text = (folder / "text").string(),
             out = (folder / "out").string();
  for (const Words& words : {Words{"generate", path, "--prompt", "a"},
                             {"chat", path},
                             {"quantize", path, out},
                             {"convert", path, out},
                             {"bench", path},
                             {"perplexity", path, "--file", text}}) {
    SCOPED_TRACE(words[0]);
    const auto o = lmxlab_run(words, how);
    EXPECT_EQ(o.code, 7) << o.err;
    for (const char* part : {"does not fit: it needs 3.", "ulimit -v", "Choose a smaller model"})
      EXPECT_NE(o.err.find(part), std::string::npos) << o.err;
  }
}

}  // namespace
}  // namespace lmxlab::test
