#include "lmxlab/inference/generation_config.h"

#include "lmxlab/base/files.h"
#include "lmxlab/data/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <unistd.h>

namespace lmxlab {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class GenerationConfig : public testing::Test {
 protected:
  GenerationConfig() { fs::create_directories(folder); }
  ~GenerationConfig() override { fs::remove_all(folder); }
  void write(const char* name, const std::string& text) { write_file_atomic(folder / name, text); }
  void expect_bad(const std::string& text, const std::string& part) {
    write("generation_config.json", text);
    try {
      read_generation_config(folder), eos_tokens(folder);
      FAIL() << "no error for " << text;
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), Kind::bad_data) << e.what();
      EXPECT_THAT(e.what(), HasSubstr("generation_config.json"));
      EXPECT_THAT(e.what(), HasSubstr(part));
    }
  }
  fs::path folder =
      fs::temp_directory_path() / ("lmxlab-generation-config-" + std::to_string(getpid()));
};

TEST_F(GenerationConfig, WithoutAFileTheDefaultsHold) {
  const auto o = read_generation_config(folder);
  EXPECT_EQ(o, SamplingOptions{});
  EXPECT_EQ(o.temperature, 0.8f);
  EXPECT_EQ(o.top_p, 0.95f);
  EXPECT_THAT(eos_tokens(folder), IsEmpty());
}

TEST_F(GenerationConfig, ReadsWhatItsMakersWant) {
  write(
      "generation_config.json",
      R"({"do_sample": true, "temperature": 0.6, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "repetition_penalty": 1.1,
            "eos_token_id": [7, 9], "bos_token_id": 1, "transformers_version": "4.40.0"})");
  const auto o = read_generation_config(folder);
  EXPECT_EQ(o, (SamplingOptions{.temperature = 0.6f,
                                .top_k = 40,
                                .top_p = 0.9f,
                                .min_p = 0.05f,
                                .repetition_penalty = 1.1f}));
  EXPECT_THAT(eos_tokens(folder), ElementsAre(7, 9));
}

TEST_F(GenerationConfig, DoSampleFalseIsGreedy) {
  write("generation_config.json", R"({"do_sample": false, "temperature": 0.6, "top_k": null})");
  EXPECT_EQ(read_generation_config(folder).temperature, 0);
  EXPECT_EQ(read_generation_config(folder).top_k, 0);
}

TEST_F(GenerationConfig, TheEndIsLookedForInOrder) {
  auto tokenizer = data::Tokenizer::from_json(data::Tokenizer::characters("abcd").to_json(),
                                              Json::object({{"eos_token", Json("d")}}));
  tokenizer.save(folder);
  EXPECT_THAT(eos_tokens(folder), ElementsAre(3));
  write("config.json", R"({"eos_token_id": 2})");
  EXPECT_THAT(eos_tokens(folder), ElementsAre(2));
  write("generation_config.json", R"({"eos_token_id": null})");
  EXPECT_THAT(eos_tokens(folder), ElementsAre(2));
  write("generation_config.json", R"({"eos_token_id": 1})");
  EXPECT_THAT(eos_tokens(folder), ElementsAre(1));
}

TEST_F(GenerationConfig, NamesTheFileAndTheMember) {
  expect_bad("[1]", "object");
  expect_bad("{", "generation_config.json");
  expect_bad(R"({"temperature": "hot"})", "temperature");
  expect_bad(R"({"temperature": -1})", "temperature");
  expect_bad(R"({"top_k": -5})", "top_k");
  expect_bad(R"({"top_p": 2})", "top_p");
  expect_bad(R"({"do_sample": 1})", "do_sample");
  expect_bad(R"({"eos_token_id": "x"})", "eos_token_id");
  expect_bad(R"({"eos_token_id": [1, -2]})", "eos_token_id");
}

}  // namespace
}  // namespace lmxlab
