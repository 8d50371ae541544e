#include "lmxlab/data/build.h"

#include "lmxlab/base/error.h"
#include "lmxlab/base/files.h"
#include "lmxlab/base/random.h"
#include "lmxlab/data/corpus.h"
#include "lmxlab/data/tokenizer_train.h"
#include "lmxlab/io/safetensors.h"
#include "tests/support/temp_folder.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <cstring>

namespace lmxlab::data {
namespace {

std::vector<int> ids_of(const mx::array& a) {
  const auto wide = mx::contiguous(mx::astype(a, mx::int32));
  std::vector<int> out(wide.size());
  mx::eval(wide);
  std::copy_n(wide.data<int32_t>(), wide.size(), out.begin());
  return out;
}

class Build : public testing::Test {
 protected:
  BuildResult build(const std::vector<std::string>& inputs, const std::string& out,
                    BuildOptions options = {}) {
    std::vector<fs::path> paths;
    for (const auto& name : inputs) paths.push_back(folder / name);
    return build_token_file(paths, folder / out, tokenizer, options);
  }
  std::string message(const std::vector<std::string>& inputs, BuildOptions options = {}) {
    try {
      build(inputs, "failed", options);
    } catch (const Error& e) {
      EXPECT_FALSE(fs::exists(folder / "failed"));
      for (const auto& entry : fs::directory_iterator(folder.path()))
        EXPECT_EQ(entry.path().filename().string().find("failed"), std::string::npos);
      return e.what();
    }
    return "no error";
  }
  void write(const std::string& name, const std::string& content) {
    write_file_atomic(folder / name, content);
  }

  test::TemporaryFolder folder;
  Tokenizer tokenizer = train_bpe(
      std::vector<std::string>{std::string(tiny_shakespeare())},
      {.vocab_size = 1000, .special_tokens = {"<end>"}, .bos_token = {}, .eos_token = "<end>"});
};

TEST_F(Build, TextLinesAndTokens) {
  write("a.txt", "To be, or not to be\n");
  write("b.jsonl", "{\"text\": \"that is\"}\n\n\"the question\"\n");
  write("c.bin", std::string("\1\0\2\0\xe7\3", 6));
  const auto made = build({"a.txt", "b.jsonl", "c.bin"}, "out", {.end_of_document = 0});
  EXPECT_EQ(made.documents, 4);
  auto want = tokenizer.encode_ids("To be, or not to be\n");
  std::vector<int64_t> begins{0};
  const auto end = [&] { begins.push_back(static_cast<int64_t>(want.size())); };
  want.push_back(0), end();
  for (const char* text : {"that is", "the question"}) {
    for (const int id : tokenizer.encode_ids(text)) want.push_back(id);
    want.push_back(0), end();
  }
  for (const int id : {1, 2, 999}) want.push_back(id);
  end();
  EXPECT_EQ(made.tokens, static_cast<int64_t>(want.size()));
  EXPECT_EQ(made.bytes, static_cast<int64_t>(fs::file_size(folder / "out")));
  EXPECT_TRUE(is_token_file(folder / "out"));
  const auto tokens = token_file(folder / "out", tokenizer.vocab_size());
  EXPECT_EQ(tokens.dtype(), mx::uint16);
  EXPECT_EQ(ids_of(tokens), want);
  const io::SafeTensors file(folder / "out");
  EXPECT_EQ(file.metadata().at("tokenizer"), tokenizer.fingerprint());
  const auto documents = file.get("documents");
  ASSERT_EQ(documents.dtype(), mx::int64);
  EXPECT_EQ(std::vector<int64_t>(documents.data<int64_t>(), documents.data<int64_t>() + 5), begins);
}

// Large texts are cut into pieces; no cut changes a token, and no number of threads a byte.
TEST_F(Build, PiecesAndThreads) {
  std::string text;
  for (int i = 0; i < 6; ++i) text += tiny_shakespeare();
  write("big.txt", text);
  std::string lines;
  HostRandom random(3);
  while (lines.size() < 3'000'000) {
    const auto from = random.below(tiny_shakespeare().size() - 4000);
    lines += Json(tiny_shakespeare().substr(from, random.below(4000))).dump() + "\n";
  }
  write("big.jsonl", lines);
  std::string first;
  for (const int threads : {1, 2, 7}) {
    build({"big.txt", "big.jsonl"}, "out", {.threads = threads, .end_of_document = 0});
    const auto bytes = read_file(folder / "out");
    if (first.empty()) first = bytes;
    EXPECT_EQ(bytes, first) << threads;
  }
  build({"big.txt"}, "text");
  EXPECT_EQ(ids_of(token_file(folder / "text")), tokenizer.encode_ids(text));
}

TEST_F(Build, HeadersOfLlmC) {
  const auto header = [](uint32_t magic, uint32_t version, uint32_t count) {
    std::string h(1024, '\0');
    for (const auto& [i, v] : {std::pair(0, magic), {1, version}, {2, count}})
      std::memcpy(h.data() + 4 * i, &v, 4);
    return h;
  };
  write("narrow.bin", header(20240520, 1, 3) + std::string("\5\0\6\0\7\0", 6));
  write("wide.bin", header(20240801, 7, 2) + std::string("\5\0\0\0\6\0\0\0", 8));
  build({"narrow.bin", "wide.bin"}, "out");
  EXPECT_EQ(ids_of(token_file(folder / "out")), (std::vector<int>{5, 6, 7, 5, 6}));
  write("lies.bin", header(20240520, 1, 30) + std::string("\5\0\6\0\7\0", 6));
  EXPECT_NE(message({"lies.bin"}).find("its header says 30 tokens, the file has 3"),
            std::string::npos);
}

TEST_F(Build, NamesWhatIsWrong) {
  write("good.txt", "To be");
  const auto expect = [&](const std::string& name, const std::string& content,
                          const std::string& part) {
    write(name, content);
    const auto text = message({"good.txt", name});
    EXPECT_NE(text.find(part), std::string::npos) << text << "\nexpected: " << part;
  };
  expect("a.jsonl", "\"x\"\n\n{\"txt\": 1}\n", "a.jsonl, line 3: expected a string");
  expect("b.jsonl", "\"x\"\n{\n", "b.jsonl, line 2");
  expect("c.bin", "abc", "odd number of bytes");
  expect("d.bin", "\xff\xff", "has the id 65535");
  expect("e.txt", "\xff", "e.txt");
  EXPECT_NE(message({"none.txt"}).find("there is no file"), std::string::npos);
  EXPECT_NE(message({}).find("at least one input"), std::string::npos);
  EXPECT_NE(message({"good.txt"}, {.end_of_document = 1000}).find("below 1000"), std::string::npos);
  std::stop_source source;
  source.request_stop();
  EXPECT_NE(message({"good.txt"}, {.stop = source.get_token()}).find("interrupted"),
            std::string::npos);
  write("empty.txt", ""), write("empty.jsonl", "");
  const auto made = build({"empty.txt", "empty.jsonl"}, "out");
  EXPECT_EQ(made.documents, 1);
  EXPECT_EQ(made.tokens, 0);
}

}  // namespace
}  // namespace lmxlab::data
