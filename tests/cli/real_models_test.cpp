// Commands on a model folder: measuring, converting, building data, talking, going on.
#include "lmxlab/config/presets.h"
#include "lmxlab/data/tokenizer.h"
#include "lmxlab/models/language_model.h"
#include "tests/cli/program.h"

namespace lmxlab::test {
namespace {

class ModelFolder : public testing::Test {
 protected:
  ModelFolder() {
    LanguageModel(config::preset("llama-tiny"), 3).save(folder / "m");
    data::Tokenizer::bytes().save(folder / "m");
    write_file_atomic(folder / "text.txt", std::string(500, 'x') + "To be, or not to be");
  }
  std::string path(const std::string& name) const { return (folder / name).string(); }

  TemporaryFolder folder;
};

TEST_F(ModelFolder, Perplexity) {
  const Json all =
      json_of(lmxlab_run({"perplexity", path("m"), "--file", path("text.txt"), "--json"}));
  EXPECT_EQ(all.at("tokens").as_integer(), 518);
  EXPECT_EQ(all.at("context").as_integer(), 128);
  EXPECT_NEAR(all.at("perplexity").as_number(), std::exp(all.at("nll").as_number()), 1e-6);
  EXPECT_NEAR(all.at("bits_per_byte").as_number(), all.at("nll").as_number() / std::log(2.0), 1e-6);
  const Json some = json_of(lmxlab_run(
      {"perplexity", path("m"), "--file", path("text.txt"), "--max-tokens", "100", "--json"}));
  EXPECT_EQ(some.at("tokens").as_integer(), 99);
  expect_error({"perplexity", path("m"), "--file", path("absent")}, 3, "not_found", {"absent"});
  expect_error({"perplexity", "llama-tiny", "--file", path("text.txt")}, 2, "usage", {"tokenizer"});
  expect_error({"perplexity", path("m"), "--file", path("text.txt"), "--stride", "200"}, 2, "usage",
               {"stride"});
}

TEST_F(ModelFolder, ConvertAndQuantize) {
  const Json packed =
      json_of(lmxlab_run({"quantize", path("m"), path("q"), "--mode", "mxfp4", "--layer-bits",
                          "*.down_proj=8", "--report", "--text", path("text.txt"), "--json"}));
  EXPECT_LT(packed.at("bytes_after").as_integer(), packed.at("bytes_before").as_integer());
  EXPECT_EQ(packed.at("layers").size(), 16u);
  EXPECT_NEAR(packed.at("perplexity_after").as_number(), packed.at("perplexity_before").as_number(),
              10);
  const Json dense =
      json_of(lmxlab_run({"convert", path("q"), path("d"), "--dtype", "f32", "--json"}));
  EXPECT_EQ(dense.at("tensors").as_integer(), 21);
  EXPECT_EQ(dense.at("bytes"), packed.at("bytes_before"));
  EXPECT_TRUE(fs::exists(folder / "d" / "tokenizer.json"));
  expect_error({"convert", path("q"), path("d")}, 2, "usage", {"d", "new one"});
  expect_error({"convert", "llama-tiny", path("e")}, 2, "usage", {"preset"});
  expect_error({"quantize", path("m"), path("e"), "--layer-bits", "x"}, 2, "usage", {"PATTERN=N"});
  expect_error({"quantize", path("m"), path("e"), "--layer-bits", "x=4"}, 2, "usage", {"\"x\""});
}

TEST_F(ModelFolder, ConvertToGguf) {
  // Every byte a token, which a GGUF file can say only of a pattern that cuts words.
  expect_error({"convert", path("m"), path("x.gguf"), "--format", "gguf"}, 6, "unsupported",
               {"patterns"});
  EXPECT_FALSE(fs::exists(folder / "x.gguf"));
  fs::copy(folder / "m", folder / "bare", fs::copy_options::recursive);
  fs::remove(folder / "bare" / "tokenizer.json");
  const auto run = lmxlab_run(
      {"convert", path("bare"), path("x.gguf"), "--format", "gguf", "--dtype", "q8_0", "--json"});
  EXPECT_NE(run.err.find("no tokenizer"), std::string::npos) << run.err;
  const Json made = json_of(run);
  EXPECT_EQ(made.at("tensors").as_integer(), 21);
  const Json text = json_of(lmxlab_run({"generate", path("x.gguf"), "--tokens", "1,2,3",
                                        "--max-tokens", "4", "--temperature", "0", "--json"}));
  EXPECT_EQ(text.at("tokens").size(), 4u);
  const auto before = read_file(folder / "x.gguf");
  expect_error({"convert", path("bare"), path("x.gguf"), "--format", "gguf"}, 2, "usage",
               {"x.gguf", "new file"});
  EXPECT_EQ(read_file(folder / "x.gguf"), before);
  expect_error({"convert", path("bare"), path("y"), "--dtype", "q8_0"}, 2, "usage",
               {"--format gguf"});
  expect_error({"convert", path("bare"), path("y"), "--format", "gguf", "--dtype", "q9"}, 2,
               "usage", {"q9"});
}

TEST_F(ModelFolder, DataBuild) {
  write_file_atomic(folder / "a.jsonl", "{\"text\": \"ab\"}\n\"c\"\n");
  const Json made = json_of(lmxlab_run({"data", "build", path("text.txt"), path("a.jsonl"),
                                        path("out"), "--tokenizer", path("m"), "--json"}));
  EXPECT_EQ(made.at("documents").as_integer(), 3);
  EXPECT_EQ(made.at("tokens").as_integer(), 522);
  EXPECT_EQ(made.at("bytes").as_integer(), int64_t(fs::file_size(folder / "out")));
  expect_error({"data", "build", path("text.txt"), "--tokenizer", path("m")}, 2, "usage",
               {"at least one input"});
  expect_error({"data", "build", path("text.txt"), path("text.txt"), "--tokenizer", path("m")}, 2,
               "usage", {"an input too"});
  expect_error({"data", "build", path("none"), path("o"), "--tokenizer", path("m")}, 3, "not_found",
               {"none"});
}

TEST_F(ModelFolder, PromptCache) {
  const auto run_with = [&](const std::string& prompt) {
    return json_of(lmxlab_run({"generate", path("m"), "--prompt", prompt, "--max-tokens", "8",
                               "--temperature", "0", "--prompt-cache", path("kept"), "--json"}));
  };
  const Json first = run_with("To be, or not");
  EXPECT_EQ(first.at("reused_tokens").as_integer(), 0);
  const Json again = run_with("To be, or not");
  EXPECT_EQ(again.at("reused_tokens").as_integer(), 12);
  EXPECT_EQ(again.at("tokens"), first.at("tokens"));
  expect_error({"generate", "llama-tiny", "--tokens", "1,2", "--prompt-cache", path("kept")}, 5,
               "mismatch", {"another model"});
  const Json short_memory =
      json_of(lmxlab_run({"generate", path("m"), "--prompt", "To be, or not", "--max-tokens", "8",
                          "--temperature", "0", "--max-kv", "4", "--json"}));
  EXPECT_EQ(short_memory.at("generated_tokens").as_integer(), 8);
}

TEST_F(ModelFolder, Chat) {
  const auto none = lmxlab_run({"chat", path("m")});
  EXPECT_EQ(none.code, 2);
  EXPECT_NE(none.err.find("no chat template"), std::string::npos) << none.err;
  write_file_atomic(folder / "m" / "chat_template.jinja",
                    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>");
  Spawn how;
  how.input = "Hello\n\n/stats\n\"\"\"\ntwo\nlines\n\"\"\"\n/save " + path("c.json") +
              "\n/undo\n/load " + path("c.json") + "\n/quit\nnever\n";
  const auto o = lmxlab_run(
      {"chat", path("m"), "--system", "Be brief.", "--max-tokens", "5", "--temperature", "0"}, how);
  EXPECT_EQ(o.code, 0) << o.err;
  EXPECT_NE(o.out.find("prompt tokens"), std::string::npos) << o.out;
  const Json saved = Json::parse(read_file(folder / "c.json"), "c.json").at("messages");
  ASSERT_EQ(saved.size(), 5u);
  EXPECT_EQ(saved.as_array()[0].at("content").as_string(), "Be brief.");
  EXPECT_EQ(saved.as_array()[3].at("content").as_string(), "two\nlines");
  // In a script a slip ends it, with the usual codes.
  how.input = "/sve x\n";
  const auto slip = lmxlab_run({"chat", path("m")}, how);
  EXPECT_EQ(slip.code, 2);
  EXPECT_NE(slip.err.find("/save"), std::string::npos) << slip.err;
}

}  // namespace
}  // namespace lmxlab::test
