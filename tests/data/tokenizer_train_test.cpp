#include "lmxlab/data/tokenizer_train.h"
#include "lmxlab/base/files.h"
#include "tests/support/error_of.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

namespace lmxlab::data {
namespace {

using testing::HasSubstr;

Json fixture() {
  return Json::parse(
      read_file(fs::path(LMXLAB_SOURCE_DIR) / "tests/fixtures/tokenizers/train.json"),
      "train.json");
}
std::vector<std::string> strings(const Json& list) {
  std::vector<std::string> out;
  for (const Json& j : list.as_array()) out.push_back(j.as_string());
  return out;
}
std::string shakespeare() {
  return read_file(fs::path(LMXLAB_SOURCE_DIR) / "lmxlab/data/tinyshakespeare.txt");
}

using test::error_of;
fs::path temporary(const std::string& name, std::string_view content) {
  const fs::path path = fs::path(testing::TempDir()) / ("lmxlab_train_" + name);
  write_file_atomic(path, content);
  return path;
}

TEST(TrainBpe, MergesAreTheLibrarys) {
  const Json all = fixture();
  for (const Json& run : all.at("runs").as_array()) {
    SCOPED_TRACE(run.at("name").as_string());
    TrainOptions options;
    options.vocab_size = static_cast<int>(run.at("vocab_size").as_integer());
    options.special_tokens = strings(run.at("special_tokens"));
    options.min_frequency = run.at("min_frequency").as_integer();
    const Tokenizer t = [&] {
      if (!run.at("texts").is_null()) return train_bpe(strings(run.at("texts")), options);
      const fs::path file = temporary(
          "source.txt",
          shakespeare().substr(0, static_cast<size_t>(all.at("source_bytes").as_integer())));
      return train_bpe(std::vector<fs::path>{file}, options);
    }();
    const Json model = t.to_json().at("model");
    const auto& expected = run.at("merges").as_array();
    const auto& got = model.at("merges").as_array();
    ASSERT_EQ(got.size(), expected.size());
    for (size_t i = 0; i < got.size(); ++i) ASSERT_EQ(got[i], expected[i]) << "merge " << i;
    EXPECT_EQ(t.vocab_size(), run.at("size").as_integer());
    const auto first = strings(run.at("first"));
    for (size_t i = 0; i < first.size(); ++i) EXPECT_EQ(t.token(static_cast<int>(i)), first[i]);
  }
}

TEST(TrainBpe, ReadsBackItsText) {
  const std::string text = shakespeare().substr(0, 50'000);
  TrainOptions options;
  options.vocab_size = 600;
  options.special_tokens = {"<s>", "</s>"};
  options.bos_token = "<s>", options.eos_token = "</s>";
  double last = 0;
  size_t calls = 0;
  const auto t = train_bpe(std::vector<std::string>{text}, options, [&](double f) {
    EXPECT_GE(f, last);
    last = f, ++calls;
  });
  EXPECT_EQ(last, 1);
  EXPECT_GT(calls, 50u);
  const auto ids = t.encode_ids(text);
  EXPECT_LT(ids.size(), text.size() / 2);
  EXPECT_EQ(t.decode(ids), text);
  EXPECT_EQ(t.decode(t.encode_ids("日本語 \xF0\x9F\x98\x80")), "日本語 \xF0\x9F\x98\x80");
  EXPECT_EQ(t.bos_id(), 0);
  EXPECT_EQ(t.eos_id(), 1);
  EXPECT_EQ(t.encode_ids("</s>"), std::vector<int>{1});
}

// Texts longer than a chunk are cut for the threads; a cut must not show.
TEST(TrainBpe, ChunksDoNotShow) {
  std::string text = shakespeare();
  for (size_t i = 0; i < text.size(); i += 997) text.insert(i, i % 2 ? "  \n\n" : "e\xCC\x81 ");
  text += text;
  TrainOptions options;
  options.vocab_size = 700;
  std::vector<std::string>
      pieces;  // the same text as one sequence, and cut by hand at ends of words
  for (size_t at = 0; at < text.size();) {
    size_t to = std::min(text.size(), at + 10'000);
    while (to < text.size() &&
           !(std::isalpha(static_cast<unsigned char>(text[to - 1])) && text[to] == ' '))
      ++to;
    pieces.push_back(text.substr(at, to - at));
    at = to;
  }
  const auto whole = train_bpe(std::vector<std::string>{text}, options);
  EXPECT_EQ(whole.fingerprint(), train_bpe(pieces, options).fingerprint());
  EXPECT_EQ(whole.fingerprint(), train_bpe(std::vector<std::string>{text}, options).fingerprint());
}

TEST(TrainBpe, WrongInput) {
  TrainOptions options;
  options.vocab_size = 300;
  const std::vector<std::string> text{"some text"};
  const auto with = [&](auto&& change) {
    TrainOptions o = options;
    change(o);
    return error_of([&] { train_bpe(text, o); });
  };
  EXPECT_EQ(with([](auto& o) { o.vocab_size = 255; }).kind(), Kind::usage);
  EXPECT_THAT(with([](auto& o) { o.vocab_size = 256, o.special_tokens = {"<s>"}; }).what(),
              HasSubstr("at least 257"));
  EXPECT_EQ(with([](auto& o) { o.special_tokens = {"<s>", "<s>"}; }).kind(), Kind::usage);
  EXPECT_EQ(with([](auto& o) { o.special_tokens = {""}; }).kind(), Kind::usage);
  EXPECT_EQ(with([](auto& o) { o.eos_token = "</s>"; }).kind(), Kind::usage);
  EXPECT_EQ(with([](auto& o) { o.min_frequency = -1; }).kind(), Kind::usage);
  options.vocab_size = 256;
  EXPECT_EQ(train_bpe(text, options).vocab_size(), 256);
  EXPECT_EQ(error_of([&] {
              train_bpe(std::vector<std::string>{"", ""}, options);
            }).kind(),
            Kind::bad_data);
  EXPECT_EQ(error_of([&] { train_bpe(std::vector<std::string>{}, options); }).kind(),
            Kind::bad_data);
  const fs::path binary = temporary("binary", "abc\xFFzz");
  const Error e = error_of([&] { train_bpe(std::vector<fs::path>{binary}, options); });
  EXPECT_EQ(e.kind(), Kind::bad_data);
  EXPECT_THAT(e.what(), HasSubstr(binary.string() + " is not UTF-8 at byte 3"));
  EXPECT_EQ(
      error_of([&] { train_bpe(std::vector<fs::path>{temporary("empty", "")}, options); }).kind(),
      Kind::bad_data);
  EXPECT_EQ(error_of([&] { train_bpe(std::vector<fs::path>{"no/such/file"}, options); }).kind(),
            Kind::not_found);
  EXPECT_EQ(error_of([&] {
              train_bpe(text, options, [](double) { throw Error(Kind::canceled, "enough"); });
            }).kind(),
            Kind::canceled);
}

}  // namespace
}  // namespace lmxlab::data
