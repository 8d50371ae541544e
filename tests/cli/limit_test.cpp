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
  // @param model  what they are about; none: the first of them
  Words follow(Words arguments, std::string advice, std::string model = "") {
    if (model.empty()) model = arguments[1];
    const std::string pack = "quantize MODEL OUT --bits 4, then ", instead = "OUT in its place";
    if (advice.starts_with(pack)) {
      const auto packed = (folder / "packed").string();
      fs::remove_all(packed);
      const auto made = lmxlab_run({"quantize", model, packed, "--bits", "4"}, how);
      EXPECT_EQ(made.code, 0) << made.err;
      advice = advice.substr(pack.size());
      if (advice.starts_with(instead)) advice = packed + advice.substr(instead.size());
      if (const auto at = advice.find("=OUT"); at != advice.npos)
        advice.replace(at, 4, "=" + packed);
    }
    std::istringstream in(advice);
    const Words words{std::istream_iterator<std::string>(in), {}};
    for (size_t i = 0; i < words.size(); ++i) {
      const auto& word = words[i];
      if (word == "and") continue;
      if (!word.starts_with("--")) {  // another model
        arguments[1] = word;
        continue;
      }
      const auto there = std::find(arguments.begin(), arguments.end(), word);
      const bool flag = i + 1 == words.size() || words[i + 1].starts_with("--");
      if (flag)
        arguments.push_back(word);
      else if (there != arguments.end() && word != "--set")  // of a key the last one counts
        *(there + 1) = words[++i];
      else
        arguments.insert(arguments.end(), {word, words[++i]});
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

// Each kind of advice is the first one where just it fits; its words are taken as they stand, and
// what they say is planned, and trained where it is a run.
TEST_F(Limit, EachKindOfAdviceWorksAsItStands) {
  how.address_space = RLIM_INFINITY;
  const auto recipe = [&](const std::string& name, const std::string& preset) {
    const auto path = (folder / (name + ".toml")).string();
    write_file_atomic(path, "[model]\npreset = \"" + preset +
                                "\"\n[data]\ntokenizer = \"byte\"\nvalidation = 0\n[run]\n"
                                "steps = 1\nbatch = 1\ncontext = 16\neval_every = 0\n");
    return path;
  };
  const auto anew = recipe("anew", "llama-tiny"), larger = recipe("larger", "gpt-10m"),
             tuned = recipe("tuned", model("wide"));
  struct Case {
    std::string change, options;  // that are advised
    Words command;
    std::string more;  // of the command
  };
  const std::string checkpoints = "--set run.gradient_checkpointing=true ",
                    adafactor = "--set optimizer.name=adafactor ";
  for (const auto& c : std::vector<Case>{
           {"a smaller batch with accumulation",
            "--set run.batch=4 --set run.accumulate=2",
            {"fit", anew},
            "--set run.batch=8 --set run.context=64"},
           {"gradient checkpointing",
            "--set run.gradient_checkpointing=true",
            {"fit", anew},
            "--set run.context=128 --set model.depth=8"},
           {"optimizer state of 8 bits",
            "--set optimizer.state_bits=8",
            {"fit", anew},
            checkpoints + "--set model.depth=8 --set model.hidden=2048"},
           {"Adafactor's factored state",
            "--set optimizer.state_bits=32 --set optimizer.name=adafactor",
            {"fit", anew},
            checkpoints +
                "--set model.depth=8 --set model.hidden=2048 --set optimizer.state_bits=8"},
           {"LoRA", "--set adapter.rank=16", {"fit", tuned}, checkpoints + adafactor},
           {"QLoRA",
            "quantize MODEL OUT --bits 4, then --set model.preset=OUT --set adapter.rank=16",
            {"fit", tuned},
            checkpoints + adafactor + "--set run.context=128"},
           {"QLoRA",
            "quantize MODEL OUT --bits 4, then --set model.preset=OUT",
            {"fit", tuned},
            checkpoints + adafactor + "--set run.context=128 --set adapter.rank=16"},
           {"a shorter context",
            "--set run.context=64",
            {"fit", anew},
            checkpoints + adafactor + "--set run.context=128 --set model.depth=8"},
           {"a smaller model",
            "--set model.preset=gpt-shakespeare-small",
            {"fit", larger},
            checkpoints + adafactor},
           {"a smaller batch with accumulation",
            "--batch 4 --accumulate 2",
            {"fit", "llama-tiny"},
            "--mode train --batch 8 --context 64"},
           {"gradient checkpointing",
            "--gradient-checkpointing",
            {"fit", "llama-10m"},
            "--mode train --context 128"},
           {"optimizer state of 8 bits",
            "--state-bits 8",
            {"fit", "llama-10m"},
            "--mode train --context 16 --gradient-checkpointing"},
           {"Adafactor's factored state",
            "--state-bits 32 --optimizer adafactor",
            {"fit", "llama-10m"},
            "--mode train --context 16 --gradient-checkpointing --state-bits 8"},
           {"LoRA",
            "--mode lora",
            {"fit", model("wide")},
            "--mode train --context 16 --gradient-checkpointing --optimizer adafactor"},
           {"a cache of 8 bits", "--kv-bits 8", {"fit", "llama-10m"}, "--context 100 --batch 16"},
           {"weights of 4 bits", "--bits 4", {"fit", "smollm2-135m"}, "--context 16 --kv-bits 8"},
           {"a shorter context",
            "--context 200",
            {"fit", "smollm2-135m"},
            "--context 400 --kv-bits 8 --bits 4"},
           {"a smaller model", "llama-tiny", {"fit", "llama-10m"}, "--context 16"}}) {
    SCOPED_TRACE(c.change + ": " + c.options);
    const auto command = follow(c.command, c.more);
    const auto tuned_from = c.command[1] == tuned ? model("wide") : "";
    auto wanted = follow(command, c.options, tuned_from);
    wanted.insert(wanted.end(), {"--json", "--memory", "16GB"});
    const auto planned = lmxlab_run(wanted);
    ASSERT_EQ(planned.code, 0) << planned.err;
    const auto room = json_of(planned).at("peak_bytes").as_number();
    // Three quarters of that are what may be used.
    const Words memory{"--memory", Json(room / 0.75 / (1 << 20) + 0.001).dump() + "MB", "--json"};
    auto tight = command;
    tight.insert(tight.end(), memory.begin(), memory.end());
    const auto refused = lmxlab_run(tight);
    ASSERT_EQ(refused.code, 7) << refused.err;
    const auto advice = json_of(refused).at("advice").as_array();
    ASSERT_FALSE(advice.empty());
    EXPECT_EQ(advice[0].at("change").as_string(), c.change);
    const auto said = advice[0].at("options").as_string();
    EXPECT_EQ(said, c.options);
    expect_fits(follow(tight, said, tuned_from));
    if (!c.command[1].ends_with(".toml")) continue;
    auto run = follow(command, said, tuned_from);
    run[0] = "train";
    run.insert(run.end(), {"--json", "--out", (folder / "run").string()});
    expect_fits(run);
    fs::remove_all(folder / "run");
  }
}

// A key that stands in the way, and layers in the place of a preset.
TEST_F(Limit, WhatARecipeRefusesIsNotAdvised) {
  how.address_space = RLIM_INFINITY;
  const auto path = (folder / "own.toml").string();
  const auto advice = [&](const std::string& model, const std::string& memory,
                          const std::string& optimizer = "") {
    write_file_atomic(path,
                      "[data]\nvalidation = 0\n[run]\nbatch = 1\ncontext = 16\n"
                      "gradient_checkpointing = true\n[optimizer]\n" +
                          optimizer + "\n" + model);
    const auto all = json_of(lmxlab_run({"fit", path, "--memory", memory, "--json"})).at("advice");
    std::string out;
    for (const auto& a : all.as_array()) out += a.at("options").as_string() + "\n";
    return out;
  };
  const std::string preset = "[model]\npreset = \"gpt-10m\"\n",
                    layers = "[model]\ndim = 256\n[[model.layers]]\nrepeat = 3\n";
  const auto offered = advice(preset, "60MB");
  EXPECT_NE(offered.find("optimizer.name=adafactor"), std::string::npos) << offered;
  EXPECT_NE(offered.find("model.preset=gpt"), std::string::npos) << offered;
  const auto bound = advice(preset, "60MB", "name = \"adamw\"\nbetas = [0.9, 0.95]");
  EXPECT_EQ(bound.find("adafactor"), std::string::npos) << bound;
  EXPECT_NE(bound.find("model.preset=gpt"), std::string::npos) << bound;
  const auto own = advice(layers, "9.5MB");
  EXPECT_NE(own.find("optimizer.name=adafactor"), std::string::npos) << own;
  EXPECT_EQ(own.find("model.preset"), std::string::npos) << own;
}

TEST_F(Limit, WeightsArePackedInMemory) {
  how.address_space = rlim_t{600} << 20;
  const Words generate{"generate", "smollm2-135m", "--tokens", "1", "--max-tokens", "2"};
  const auto refused = lmxlab_run(generate, how);
  EXPECT_NE(refused.err.find("1) weights of 4 bits, quantize MODEL OUT"), std::string::npos)
      << refused.err;
  expect_a_way_out(generate);
  auto automatic = generate;
  automatic.insert(automatic.end(), {"--auto-fit", "--json"});
  const auto o = lmxlab_run(automatic, how);
  ASSERT_EQ(o.code, 0) << o.err;
  EXPECT_NE(o.err.find("warning: --auto-fit: weights of 4 bits"), std::string::npos) << o.err;
  EXPECT_EQ(json_of(o).at("peak_bytes"), json_of(o).at("planned_bytes"));
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
  // Of thousands of arrays at a time, and of many models.
  EXPECT_EQ(lmxlab_run({"fit", "llama-7b", "--mode", "lora"}, how).code, 7);
  expect_fits({"fit"});
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
