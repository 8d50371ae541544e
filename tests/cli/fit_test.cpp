// What `fit` plans and what `bench` then measures: the same models, the same options.
#include "tests/cli/program.h"
#include "tests/support/temp_folder.h"

namespace lmxlab::test {
namespace {

const char* const kMistral =
    R"({"model_type": "mistral", "hidden_size": 128, "num_hidden_layers": 2,
  "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "intermediate_size": 256,
  "vocab_size": 4096, "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "hidden_act": "silu",
  "rope_theta": 10000.0, "sliding_window": 64, "tie_word_embeddings": false})";

Json fit(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "fit");
  for (const char* more : {"--memory", "16GB", "--json"}) arguments.emplace_back(more);
  const auto o = lmxlab_run(arguments);
  EXPECT_EQ(o.code, 0) << o.err;
  return json_of(o);
}

TEST(Fit, AConfigAloneIsPlannedAndMeasured) {
  const TemporaryFolder folder;
  write_file_atomic(folder / "config.json", kMistral);
  const std::string model = folder.path().string();
  for (const std::string mode : {"train", "decode"}) {
    SCOPED_TRACE(mode);
    const auto plan = fit({model, "--mode", mode == "train" ? "train" : "generate", "--batch", "4",
                           "--context", "200"});
    const auto o = lmxlab_run({"bench", model, "--mode", mode, "--batch", "4", "--context", "200",
                               "--repeat", "1", "--json"});
    ASSERT_EQ(o.code, 0) << o.err;
    const double planned = plan.at("peak_bytes").as_number(),
                 measured = json_of(o).at("peak_bytes").as_number();
    EXPECT_NEAR(planned, measured, 0.08 * measured);
    EXPECT_EQ(plan.at("parts").at("mapped").as_integer(), 0);
    EXPECT_GE(plan.at("resident_bytes").as_number(), planned);
  }
  // Where answers are looked at, weights are needed.
  expect_error({"generate", model, "--tokens", "1"}, 3, "not_found", {"holds no weights"});
  expect_error({"quantize", model, (folder / "out").string()}, 3, "not_found",
               {"holds no weights"});
}

TEST(Fit, AConfigOfPackedWeightsAloneIsRefused) {
  const TemporaryFolder folder;
  auto config = Json::parse(kMistral, "config");
  config["quantization"] = Json::object({{"group_size", Json(64)}, {"bits", Json(4)}});
  write_file_atomic(folder / "config.json", config.dump());
  for (const std::string command : {"fit", "bench"})
    expect_error({command, folder.path().string()}, 6, "unsupported", {"packed weights", "--bits"});
}

TEST(Fit, PackingIsPlannedAsItIsGiven) {
  const TemporaryFolder folder;
  write_file_atomic(folder / "config.json", kMistral);
  const std::string model = folder.path().string();
  const auto weights = [&](std::vector<std::string> more) {
    more.insert(more.begin(), model);
    return fit(more).at("parts").at("weights").as_integer();
  };
  const int64_t matrices = 2 * (128 * (128 + 64 + 64 + 128) + 3 * 128 * 256) + 2 * 4096 * 128,
                norms = 5 * 128;
  EXPECT_EQ(weights({}), 4 * (matrices + norms));
  for (const int group : {32, 64, 128})
    EXPECT_EQ(weights({"--bits", "4", "--group-size", std::to_string(group)}),
              matrices / 2 + matrices / group * 8 + 4 * norms);
  EXPECT_EQ(weights({"--bits", "4", "--embedding-bits", "8"}) - weights({"--bits", "4"}),
            4096 * 128 / 2);
  for (const std::string command : {"fit", "bench"}) {
    expect_error({command, model, "--group-size", "32"}, 2, "usage", {"need --bits"});
    expect_error({command, model, "--bits", "4", "--group-size", "48"}, 2, "usage", {"48"});
    expect_error({command, model, "--mode", "train", "--bits", "4"}, 2, "usage", {"not trained"});
    expect_error({command, model, "--mode", "train", "--kv-bits", "8"}, 2, "usage",
                 {"--kv-bits goes with"});
  }
  expect_error({"fit", "--group-size", "32"}, 2, "usage", {"need one"});
}

// A token of decode meets some of the experts: what it reads is less than the weights.
TEST(Fit, TheBusCarriesTheExpertsThatATokenMeets) {
  const std::vector<std::string> uses{"mixtral-tiny", "--context", "8"};
  const auto parts = fit(uses).at("parts");
  const double read = parts.at("read").as_number(), cache = parts.at("kv_cache").as_number();
  EXPECT_LT(read + cache, parts.at("weights").as_number());
  auto words = uses;
  words.insert(words.begin(), "bench");
  words.insert(words.end(), {"--repeat", "1", "--json"});
  const auto o = lmxlab_run(words);
  ASSERT_EQ(o.code, 0) << o.err;
  const auto b = json_of(o);
  const double moved = b.at("gbytes_per_s").as_number() / b.at("tokens_per_s").as_number() * 1e9;
  EXPECT_GT(moved, read);
  EXPECT_LT(moved, read + cache);

  const auto of_chip = lmxlab_run({"fit", "mixtral-tiny", "--chip", "M1", "--json"});
  ASSERT_EQ(of_chip.code, 0) << of_chip.err;
  const auto p = json_of(of_chip).at("parts");
  EXPECT_NEAR(json_of(of_chip).at("decode_tokens_per_s_bound").as_number(),
              68.25e9 / (p.at("read").as_number() + p.at("kv_cache").as_number()), 1);
  EXPECT_TRUE(fit(uses).at("decode_tokens_per_s_bound").is_null()) << "of memory alone";
}

TEST(Fit, AdaptersHaveTheRankThatIsAskedFor) {
  const auto of = [](std::vector<std::string> more) {
    more.insert(more.begin(), {"llama-tiny", "--mode", "lora"});
    return fit(more);
  };
  const auto usual = of({}), larger = of({"--rank", "32"});
  EXPECT_EQ(usual.at("rank").as_integer(), 16);
  EXPECT_EQ(larger.at("rank").as_integer(), 32);
  EXPECT_EQ(larger.at("parts").at("gradients").as_integer(),
            2 * usual.at("parts").at("gradients").as_integer());
  EXPECT_TRUE(fit({"llama-tiny"}).at("rank").is_null());
  const auto text = lmxlab_run({"fit", "llama-tiny", "--mode", "lora", "--memory", "1GB"});
  EXPECT_NE(text.out.find("rank 16"), std::string::npos) << text.out;
  expect_error({"fit", "llama-tiny", "--rank", "8"}, 2, "usage", {"--mode lora or qlora"});
  expect_error({"fit", "--rank", "8"}, 2, "usage", {"need one"});
}

TEST(Fit, AModelWithoutACacheHasNoneToPack) {
  for (const std::string command : {"fit", "bench"})
    expect_error({command, "mamba-tiny", "--kv-bits", "8"}, 2, "usage", {"no keys and values"});
  expect_error({"generate", "mamba-tiny", "--tokens", "1", "--kv-bits", "8"}, 2, "usage",
               {"no keys and values"});
}

// Steps, and for GRPO the texts that are written between them: what `train` says it will take.
TEST(Fit, ARecipeIsPlannedAsItsRun) {
  const TemporaryFolder folder;
  write_file_atomic(folder / "questions.jsonl", "{\"prompt\": \"1+1=\", \"answer\": \"2\"}\n");
  write_file_atomic(folder / "grpo.toml", R"([model]
preset = "llama-tiny"
[data]
tokenizer = "byte"
file = ")" + (folder / "questions.jsonl").string() +
                                              R"("
validation = 0
[objective]
kind = "grpo"
[grpo]
prompts = 1
group_size = 8
max_completion_length = 8
[[rewards]]
reward = "exact"
[run]
batch = 8
steps = 1
)");
  const auto recipe = (folder / "grpo.toml").string();
  const auto run =
      lmxlab_run({"train", recipe, "--json", "--quiet", "--out", (folder / "run").string()});
  ASSERT_EQ(run.code, 0) << run.err;
  const auto planned = json_of(run).at("planned_bytes").as_integer();
  EXPECT_EQ(fit({recipe}).at("peak_bytes").as_integer(), planned);
  EXPECT_GT(fit({recipe, "--set", "grpo.group_size=64"}).at("peak_bytes").as_integer(), planned);
  expect_error({"fit", recipe, "--mode", "train"}, 2, "usage", {"a recipe says how it is run"});
  expect_error({"fit", "llama-tiny", "--set", "run.batch=1"}, 2, "usage", {"--set", "llama-tiny"});
}

}  // namespace
}  // namespace lmxlab::test
