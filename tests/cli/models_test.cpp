#include "lmxlab/base/text.h"
#include "lmxlab/config/presets.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/data/tokenizer.h"
#include "lmxlab/io/safetensors.h"
#include "lmxlab/models/language_model.h"
#include "tests/cli/program.h"

#include <mlx/ops.h>

#include <cmath>

namespace lmxlab::test {
namespace {

TEST(List, NamesPresetsAndFamilies) {
  const Json list = json_of(lmxlab_run({"list", "--json"}));
  const auto plain = lmxlab_run({"list"}).out;
  bool small = false;
  for (const Json& p : list.at("presets").as_array()) {
    EXPECT_NE(plain.find(p.at("name").as_string() + " "), std::string::npos);
    EXPECT_NE(plain.find(with_commas(p.at("parameters").as_integer())), std::string::npos);
    if (p.at("name").as_string() == "gpt-small")
      small = p.at("parameters").as_integer() == 124'439'808;
  }
  EXPECT_TRUE(small);
  EXPECT_EQ(list.at("families").size(), config::families().size());
}

TEST(List, OfAText) {
  const Json list = json_of(lmxlab_run({"list", "qwen3-0", "--json"}));
  EXPECT_EQ(list.at("presets").size(), 1u);
  EXPECT_EQ(list.at("families"), Json::array({Json("qwen3")}));
  const auto family = lmxlab_run({"list", "gpt_neox"}).out;
  EXPECT_NE(family.find("\n  pythia-70m "), std::string::npos) << family;
  EXPECT_EQ(family.find("llama"), std::string::npos) << family;
  expect_error({"list", "lamma-7b"}, 3, "not_found", {"lamma-7b", "did you mean \"llama-7b\"?"});
}

TEST(Count, PartsAddUp) {
  for (const auto& [name, total] :
       std::vector<std::pair<std::string, int64_t>>{{"gpt-small", 124'439'808},
                                                    {"gpt-medium", 354'823'168},
                                                    {"llama-7b", 6'738'415'616},
                                                    {"llama-13b", 13'015'864'320}}) {
    const Json n = json_of(lmxlab_run({"count", name, "--json"}));
    EXPECT_EQ(n.at("parameters").as_integer(), total);
    EXPECT_EQ(n.at("trainable").as_integer(), total);
    EXPECT_EQ(n.at("bytes").as_integer(), 4 * total);
    int64_t sum = 0;
    for (const auto& [part, value] : n.at("parts").as_object()) sum += value.as_integer();
    EXPECT_EQ(sum, total);
    EXPECT_NE(lmxlab_run({"count", name}).out.find(with_commas(total)), std::string::npos);
  }
}

TEST(Info, ShowsTheConfig) {
  const Json info = json_of(lmxlab_run({"info", "llama-tiny", "--json"}));
  EXPECT_EQ(info.at("config").at("family").as_string(), "llama");
  EXPECT_GT(info.at("parameters").as_integer(), 0);
  EXPECT_NE(lmxlab_run({"info", "llama-tiny"}).out.find("llama"), std::string::npos);
}

TEST(Model, WhatCannotBeOpened) {
  TemporaryFolder folder;
  expect_error({"info", folder.path().string()}, 3, "not_found", {"config.json"});
  write_file_atomic(folder / "config.json", "{");
  expect_error({"info", folder.path().string()}, 4, "bad_data", {"config.json"});
  write_file_atomic(folder / "config.json", R"({"model_type": "walrus"})");
  expect_error({"info", folder.path().string()}, 6, "unsupported", {"walrus"});
  expect_error({"info", "org/name"}, 3, "not_found", {"org/name", "hub"});
  expect_error({"info", "absent.gguf"}, 3, "not_found", {"absent.gguf"});
  write_file_atomic(folder / "m.gguf", "GGUF");
  expect_error({"info", (folder / "m.gguf").string()}, 4, "bad_data", {"m.gguf"});
}

TEST(Generate, PresetsTakeTokens) {
  const std::vector<std::string> command{
      "generate", "llama-tiny", "--tokens", "1,2,3", "--max-tokens", "7", "--seed", "5", "--json"};
  const Json a = json_of(lmxlab_run(command));
  EXPECT_FALSE(a.contains("text"));
  EXPECT_EQ(a.at("tokens").size(), 7u);
  EXPECT_EQ(a.at("generated_tokens").as_integer(), 7);
  EXPECT_EQ(a.at("prompt_tokens").as_integer(), 3);
  EXPECT_EQ(a.at("stop_reason").as_string(), "length");
  for (const char* key :
       {"prefill_tokens_per_s", "decode_tokens_per_s", "time_to_first_token_s", "peak_bytes",
        "planned_bytes", "active_bytes", "start_to_first_token_s", "resident_bytes"})
    EXPECT_GT(a.at(key).as_number(), 0) << key;
  EXPECT_EQ(json_of(lmxlab_run(command)).at("tokens"), a.at("tokens"));
  auto plain = command;
  plain.pop_back();
  std::string ids;
  for (const Json& id : a.at("tokens").as_array()) {
    if (!ids.empty()) ids += ",";
    ids += std::to_string(id.as_integer());
  }
  EXPECT_EQ(lmxlab_run(plain).out, ids + "\n");
  expect_error({"generate", "llama-tiny", "--prompt", "x"}, 2, "usage",
               {"no tokenizer", "--tokens"});
  expect_error({"generate", "llama-tiny", "--tokens", "1,9999999"}, 2, "usage", {"9999999"});
  expect_error({"generate", "llama-tiny"}, 2, "usage", {"--prompt"});
  expect_error({"generate", "llama-tiny", "--tokens", "1", "--kv-bits", "5"}, 2, "usage",
               {"--kv-bits", "8", "4"});
  expect_error({"generate", "llama-tiny", "--tokens", "1", "--kv-bits", "8"}, 2, "usage",
               {"kv_bits", "16 numbers", "32"});
}

TEST(Generate, KeepsKeysAndValuesPacked) {
  const fs::path folder = fs::path(testing::TempDir()) / "packed";
  config::Model config = config::preset("llama-tiny", {.heads = 2, .kv_heads = 1});  // of 32
  LanguageModel(config, 3).save(folder);
  const auto run = [&](const std::string& bits) {
    std::vector<std::string> words{"generate", folder.string(), "--tokens", "1,2,3", "--max-tokens",
                                   "40",       "--temperature", "0",        "--json"};
    if (!bits.empty()) words.insert(words.end(), {"--kv-bits", bits});
    return json_of(lmxlab_run(words));
  };
  const auto whole = run("");
  for (const char* bits : {"8", "4"}) {
    const auto packed = run(bits);
    EXPECT_EQ(packed.at("generated_tokens").as_integer(), 40);
    // The first token sees what was just computed and packed: it is the most likely one by far.
    if (bits[0] == '8') {
      EXPECT_EQ(packed.at("tokens").as_array()[0], whole.at("tokens").as_array()[0]);
    }
  }
}

TEST(Quantize, MakesAFolderForEveryCommand) {
  const fs::path root = fs::path(testing::TempDir()) / "quantize_command";
  fs::remove_all(root);
  make_directory(root);
  const auto model = (root / "model").string(), out = (root / "packed").string();
  LanguageModel(config::preset("llama-tiny"), 3).save(model);
  write_file_atomic(root / "model" / "generation_config.json", R"({"temperature": 0.5})");
  const Spawn cached{.environment = {{"LMXLAB_WEIGHT_CACHE", (root / "cache").string()}}};
  const auto run = [&](std::vector<std::string> words) { return lmxlab_run(words, cached); };
  const Json made =
      json_of(run({"quantize", model, out, "--bits", "8", "--group-size", "32", "--json"}));
  EXPECT_GT(made.at("bytes_before").as_number(), 3 * made.at("bytes_after").as_number());
  EXPECT_NEAR(made.at("bits_per_weight").as_number(), 10, 1);  // a scale and an offset a group
  EXPECT_TRUE(fs::exists(root / "packed" / "generation_config.json"));
  const auto info = run({"info", out});
  EXPECT_EQ(info.code, 0);
  EXPECT_EQ(info.err, "");
  // The same text from memory, from the cache when it is made, and when it is read.
  const std::vector<std::string> words{"generate",     out,  "--tokens",      "1,2,3",
                                       "--max-tokens", "20", "--temperature", "0"};
  const auto first = run(words);
  EXPECT_EQ(first.err.find("warning"), std::string::npos) << first.err;
  EXPECT_EQ(run(words).out, first.out);
  EXPECT_EQ(lmxlab_run(words, {.environment = {{"LMXLAB_WEIGHT_CACHE", "off"}}}).out, first.out);
  const auto elsewhere = (root / "home").string();
  EXPECT_EQ(lmxlab_run(words, {.environment = {{"LMXLAB_WEIGHT_CACHE", ""},
                                               {"XDG_CACHE_HOME", elsewhere}}})
                .out,
            first.out);
  EXPECT_EQ(fs::exists(root / "home" / "lmxlab" / "weights"), fs::exists(root / "cache"));
  EXPECT_FALSE(fs::exists("off"));
  // A cache that cannot be used is a warning.
  write_file_atomic(root / "file", "");
  const auto warned =
      lmxlab_run(words, {.environment = {{"LMXLAB_WEIGHT_CACHE", (root / "file").string()}}});
  EXPECT_EQ(warned.code, 0);
  EXPECT_EQ(warned.out, first.out);
  expect_error({"quantize", model, out}, 2, "usage", {out, "new"});
  expect_error({"quantize", out, (root / "twice").string()}, 2, "usage", {"quantized already"});
  expect_error({"quantize", model, (root / "x").string(), "--bits", "7"}, 2, "usage", {"--bits"});
  expect_error({"quantize", model, (root / "y").string(), "--group-size", "128"}, 2, "usage",
               {"smaller group"});
}

// Greedy text past the learned positions: the first part is the plain one, and it goes on.
TEST(Generate, GoesOnBeyondLearnedPositions) {
  const auto tokens = [](const std::string& n) {
    return json_of(lmxlab_run({"generate", "gpt-tiny", "--tokens", "1,2,3", "--temperature", "0",
                               "--max-tokens", n, "--json"}))
        .at("tokens")
        .as_array();
  };
  const auto shorter = tokens("125"), longer = tokens("300");
  ASSERT_EQ(shorter.size(), 125u);
  ASSERT_EQ(longer.size(), 300u);
  for (size_t i = 0; i < shorter.size(); ++i) ASSERT_EQ(shorter[i], longer[i]) << i;
}

TEST(Generate, PromptsFileKeepsTheOrder) {
  TemporaryFolder folder;
  std::string lines;
  for (int i = 0; i < 20; ++i)
    lines += "{\"tokens\": [" + std::to_string(i + 1) + (i % 2 ? ", 7, 8]}\n" : "]}\n\n");
  write_file_atomic(folder / "p.jsonl", lines);
  const auto o =
      lmxlab_run({"generate", "llama-tiny", "--prompts-file", (folder / "p.jsonl").string(),
                  "--max-tokens", "5", "--temperature", "0", "--json"});
  EXPECT_EQ(o.code, 0) << o.err;
  const auto rows = split(std::string(trim(o.out)), '\n');
  ASSERT_EQ(rows.size(), 20u);
  for (const int i : {0, 1, 15, 16, 19}) {
    const Json row = Json::parse(rows[size_t(i)]);
    EXPECT_EQ(row.at("prompt_tokens").as_integer(), i % 2 ? 3 : 1);
    const Json single = json_of(lmxlab_run({"generate", "llama-tiny", "--tokens",
                                            std::to_string(i + 1) + (i % 2 ? ",7,8" : ""),
                                            "--max-tokens", "5", "--temperature", "0", "--json"}));
    EXPECT_EQ(row.at("tokens"), single.at("tokens")) << i;
  }
  write_file_atomic(folder / "bad.jsonl",
                    "{\"tokens\": [1]}\n{\"tokens\": [1], \"prompt\": \"x\"}\n");
  expect_error({"generate", "llama-tiny", "--prompts-file", (folder / "bad.jsonl").string()}, 4,
               "bad_data", {"line 2"});
}

TEST(Bench, ReportsEachMode) {
  for (const std::string mode : {"train", "prefill", "decode"}) {
    for (const std::string model : {"gpt-tiny", "llama-tiny"}) {
      SCOPED_TRACE(model + " " + mode);
      const auto o = lmxlab_run({"bench", model, "--mode", mode, "--batch", "2", "--context", "16",
                                 "--repeat", "3", "--json"});
      ASSERT_EQ(o.code, 0) << o.err;
      const Json b = json_of(o);
      for (const char* key :
           {"tokens_per_s", "min", "max", "gflops", "gbytes_per_s", "fraction_of_bandwidth",
            "fraction_of_flops", "best_gbytes_per_s", "best_gflops", "peak_bytes"})
        EXPECT_GT(b.at(key).as_number(), 0) << key;
      EXPECT_LE(b.at("min").as_number(), b.at("tokens_per_s").as_number());
      EXPECT_GE(b.at("max").as_number(), b.at("tokens_per_s").as_number());
    }
  }
  EXPECT_EQ(json_of(lmxlab_run({"bench", "llama-tiny", "--mode", "prefill", "--context", "8",
                                "--repeat", "1", "--dtype", "bf16", "--json"}))
                .at("dtype")
                .as_string(),
            "bf16");
  const auto packed = lmxlab_run({"bench", "gpt-shakespeare-small", "--mode", "decode", "--context",
                                  "8", "--repeat", "1", "--kv-bits", "8", "--json"});
  ASSERT_EQ(packed.code, 0) << packed.err;
  EXPECT_GT(json_of(packed).at("tokens_per_s").as_number(), 0);
  expect_error({"bench", "llama-tiny", "--mode", "train", "--kv-bits", "8"}, 2, "usage",
               {"--kv-bits", "--mode prefill or decode"});
  expect_error({"bench", "gpt-tiny", "--context", "4096", "--mode", "train"}, 2, "usage",
               {"128 learned positions", "4096"});
}

TEST(Doctor, ExaminesMachineAndModel) {
  for (const std::string model : {"", "gpt-tiny", "llama-tiny"}) {
    std::vector<std::string> command{"doctor", "--json"};
    if (!model.empty()) command.push_back(model);
    const auto o = lmxlab_run(command);
    EXPECT_EQ(o.code, 0) << o.out;
    std::vector<std::string> names;
    const Json report = json_of(o);  // it must outlive the loop
    for (const Json& c : report.at("checks").as_array()) {
      names.push_back(c.at("name").as_string());
      EXPECT_TRUE(c.at("ok").as_bool()) << c.dump();
      EXPECT_NE(c.at("detail").as_string(), "");
    }
    EXPECT_EQ(names.size(), model.empty() ? 12u : 27u) << join(names, ", ");
    const Json& machine = report.at("machine");
    for (const char* key : {"cores", "memory_bytes", "read_bytes_per_s", "f32_flops",
                            "streaming_bytes_per_s", "product_f32_flops", "product_bf16_flops"})
      EXPECT_GT(machine.at(key).as_number(), 0) << key;
  }
}

TEST(Doctor, SaysWhichWeightIsNoNumber) {
  const TemporaryFolder folder;
  LanguageModel model(config::preset("gpt-tiny"), 1);
  for (auto& e : core::collect(model.transformer()))
    if (e.path == "model.layers.1.mlp.up_proj.bias")
      e.param->value = mx::full(e.param->value.shape(), NAN);
  model.save(folder / "bad");
  const auto o = lmxlab_run({"doctor", (folder / "bad").string()});
  EXPECT_EQ(o.code, 4) << o.err;
  EXPECT_NE(o.out.find("model.layers.1.mlp.up_proj.bias"), std::string::npos) << o.out;
}

// A folder with logits of its own model beside it; then heads are swapped in the file.
TEST(Doctor, ComparesWithAReference) {
  const TemporaryFolder folder;
  LanguageModel model(config::preset("llama-tiny", {.context = 64}), 1);
  for (auto& e : core::collect(model.transformer()))
    e.param->value = mx::multiply(e.param->value, mx::array(3.0f));
  const auto ids = mx::reshape(mx::arange(20, mx::int32), {2, 10});
  const auto path = (folder / "m").string();
  model.save(path);
  const auto logits = mx::astype(model.forward(ids), mx::float32);
  io::write_safetensors(folder / "m" / "reference.safetensors",
                        {{"input_ids", ids}, {"logits", logits}});
  const auto good = lmxlab_run({"doctor", path, "--only", "file,reference", "--json"});
  EXPECT_EQ(good.code, 0) << good.out;
  const Json report = json_of(good);
  EXPECT_EQ(report.at("checks").size(), 2u);
  EXPECT_FALSE(report.find("machine"));
  EXPECT_LE(report.at("checks").as_array()[1].at("worst").as_number(),
            report.at("checks").as_array()[1].at("bound").as_number());

  const int heads = std::get<config::Attention>(model.config().layers[1].mixer).heads;
  for (auto& e : core::collect(model.transformer()))
    if (e.path == "model.layers.1.self_attn.q_proj.weight") {
      auto parts = mx::split(e.param->value, heads, 0);
      std::swap(parts[0], parts[2]);
      e.param->value = mx::concatenate(parts, 0);
    }
  model.save(path);
  const auto bad = lmxlab_run({"doctor", path, "--length", "16"});
  EXPECT_EQ(bad.code, 70) << bad.out;
  EXPECT_NE(bad.out.find("FAILED  reference"), std::string::npos) << bad.out;
  EXPECT_NE(bad.out.find("swapped heads: the logits agree with heads 0 and 2 of "
                         "model.layers.1.self_attn.q_proj.weight"),
            std::string::npos)
      << bad.out;
  EXPECT_NE(bad.out.find("1 of 29 checks failed"), std::string::npos) << bad.out;
  EXPECT_NE(bad.err.find("1 check failed"), std::string::npos) << bad.err;
}

TEST(Doctor, ChecksWhatIsAsked) {
  const auto some = json_of(
      lmxlab_run({"doctor", "llama-tiny", "--only", "causal,reach", "--length", "9", "--json"}));
  EXPECT_EQ(some.at("checks").size(), 2u);
  EXPECT_EQ(some.at("checks").as_array()[0].at("name").as_string(), "causal");
  EXPECT_TRUE(some.at("copy").at("same").as_bool());
  const auto large = json_of(lmxlab_run({"doctor", "gpt-10m", "--only", "compiled", "--json"}));
  EXPECT_FALSE(large.at("copy").at("same").as_bool());
  EXPECT_LT(large.at("copy").at("parameters").as_integer(), 300'000);
  expect_error({"doctor", "llama-tiny", "--only", "casual"}, 2, "usage", {"casual", "causal"});
  expect_error({"doctor", "--only", "causal"}, 2, "usage", {"--only", "MODEL"});
  expect_error({"doctor", "--length", "9"}, 2, "usage", {"--length", "MODEL"});
  expect_error({"doctor", "llama-tiny", "--length", "3"}, 2, "usage", {"--length"});
  expect_error({"doctor", "llama-tiny", "--only", "reference"}, 3, "not_found", {"reference"});
  expect_error({"doctor", "llama-tiny", "--only", "tokenizer"}, 3, "not_found", {"tokenizer"});
}

TEST(Tokenizer, TrainedThenUsed) {
  TemporaryFolder folder;
  std::string text;
  for (int i = 0; i < 200; ++i)
    text += "the cat sat on the mat, number " + std::to_string(i) + "\n";
  write_file_atomic(folder / "t.txt", text);
  const auto dir = (folder / "tok").string();
  const auto o =
      lmxlab_run({"tokenizer", "train", (folder / "t.txt").string(), "--vocab-size", "300", "--out",
                  dir, "--special", "<eos>", "--eos", "<eos>", "--json"});
  ASSERT_EQ(o.code, 0) << o.err;
  const Json made = json_of(o);
  EXPECT_EQ(made.at("vocab_size").as_integer(), 300);
  EXPECT_EQ(made.at("out").as_string(), dir);
  EXPECT_GE(made.at("seconds").as_number(), 0);

  const auto tokenizer = data::Tokenizer::load(dir);
  const std::string sample = "the cat <eos> caf\xc3\xa9";
  const auto ids = [&](std::vector<std::string> more) {
    std::vector<std::string> command{"tokenize", dir, "--text", sample, "--json"};
    command.insert(command.end(), more.begin(), more.end());
    std::vector<int> out;
    const Json encoded = json_of(lmxlab_run(command));
    for (const Json& id : encoded.at("ids").as_array()) out.push_back(int(id.as_integer()));
    return out;
  };
  EXPECT_EQ(ids({}), tokenizer.encode_ids(sample));
  EXPECT_EQ(ids({"--no-special"}), tokenizer.encode_ids(sample, {.special = false}));
  EXPECT_NE(ids({}), ids({"--no-special"}));
  std::string list;
  for (const int id : tokenizer.encode_ids(sample)) {
    if (!list.empty()) list += ",";
    list += std::to_string(id);
  }
  for (const auto& [option, value] : {std::pair{"--tokens", list}, std::pair{"--text", sample}}) {
    const Json back = json_of(lmxlab_run({"tokenize", dir, "--decode", option, value, "--json"}));
    EXPECT_EQ(back.at("text").as_string(), sample);
    EXPECT_EQ(back.at("ids").size(), tokenizer.encode_ids(sample).size());
  }
  EXPECT_EQ(lmxlab_run({"tokenize", dir, "--text", sample}).out, list + "\n");

  write_file_atomic(folder / "texts.json", R"(["the cat", "", "mat"])");
  const Json many = json_of(lmxlab_run({"tokenize", dir, "--json-file",
                                        (folder / "texts.json").string(), "--json"}))
                        .at("ids");
  ASSERT_EQ(many.size(), 3u);
  EXPECT_EQ(many.as_array()[1].size(), 0u);
  write_file_atomic(folder / "ids.json", many.dump());
  EXPECT_EQ(json_of(lmxlab_run({"tokenize", dir, "--decode", "--json-file",
                                (folder / "ids.json").string(), "--json"}))
                .at("text"),
            Json::array({Json("the cat"), Json(""), Json("mat")}));

  expect_error({"tokenize", dir}, 2, "usage", {"--text"});
  expect_error({"tokenize", "gpt-tiny", "--text", "x"}, 3, "not_found", {"no tokenizer"});
  expect_error({"tokenizer", "train", (folder / "absent").string(), "--out", dir}, 3, "not_found",
               {"absent"});
  expect_error(
      {"tokenizer", "train", (folder / "t.txt").string(), "--vocab-size", "10", "--out", dir}, 2,
      "usage", {"10"});
  expect_error({"tokenizer", "train", (folder / "t.txt").string(), "--out",
                (folder / "t.txt" / "x").string()},
               7, "resource", {"t.txt"});
}

}  // namespace
}  // namespace lmxlab::test
