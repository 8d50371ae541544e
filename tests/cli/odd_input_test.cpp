// What people type by mistake, and what broke once.
#include "tests/cli/program.h"

#include <sys/stat.h>

namespace lmxlab::test {
namespace {

TEST(OddInput, TokenizerTrainTakesSeveralFiles) {
  TemporaryFolder folder;
  write_file_atomic(folder / "a", "aa aa aa");
  write_file_atomic(folder / "b", "bb bb bb");
  const auto o =
      lmxlab_run({"tokenizer", "train", (folder / "a").string(), "--out", (folder / "t").string(),
                  "--vocab-size", "258", "--json", (folder / "b").string()});
  EXPECT_EQ(o.code, 0) << o.err;
  EXPECT_EQ(json_of(o).at("vocab_size").as_integer(), 258);
}

TEST(OddInput, TokenizerTrainKeepsTheTokenizerOfAModel) {
  TemporaryFolder folder;
  write_file_atomic(folder / "a", "aa aa aa");
  write_file_atomic(folder / "config.json", "{}");
  expect_error({"tokenizer", "train", (folder / "a").string(), "--out", folder.path().string()}, 2,
               "usage", {"holds a model"});
}

TEST(OddInput, SeveralProblemsAreOneLine) {
  const auto o = lmxlab_run({"tokenizer", "train", "--min-frequency", "-1"});
  EXPECT_EQ(o.code, 2);
  EXPECT_EQ(std::count(o.err.begin(), o.err.end(), '\n'), 1) << o.err;
  for (const char* word : {"FILE", "--out", "--min-frequency"})
    EXPECT_NE(o.err.find(word), std::string::npos) << o.err;
}

TEST(OddInput, EmptyAndHugeArguments) {
  expect_error({"generate", "llama-tiny", "--tokens", "1", "--stop", ""}, 2, "usage", {"--stop"});
  expect_error({"logits", "llama-tiny", "--tokens-file", "x", "--out", ""}, 2, "usage", {"--out"});
  expect_error({"train", "--out", ""}, 2, "usage", {"--out"});
  expect_error({"tokenizer", "train", "x", "--out", ""}, 2, "usage", {"--out"});
  expect_error({"bench", "llama-tiny", "--batch", "99999999999"}, 2, "usage", {"2147483647"});
  expect_error({"bench", "llama-tiny", "--batch"}, 2, "usage", {"--batch"});
}

TEST(OddInput, AnOptionAndItsLongFormAreNotBothTaken) {
  expect_error({"train", "--steps", "2", "--set", "run.steps=3"}, 2, "usage", {"run.steps"});
  expect_error({"train", "--set", "run.accumulate=1000000000"}, 2, "usage", {"run.accumulate"});
}

TEST(OddInput, APipeThatNobodyWritesIsNoDataFile) {
  TemporaryFolder folder;
  const auto pipe = (folder / "pipe").string();
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  expect_error({"train", "--data", pipe, "--out", (folder / "run").string()}, 2, "usage", {"pipe"});
}

TEST(OddInput, IdsOutsideTheVocabularyAreNotDecoded) {
  TemporaryFolder folder;
  write_file_atomic(folder / "ids.json", "[[1, 99999]]");
  expect_error({"tokenize", "byte", "--json-file", (folder / "ids.json").string(), "--decode"}, 4,
               "bad_data", {"99999"});
}

}  // namespace
}  // namespace lmxlab::test
