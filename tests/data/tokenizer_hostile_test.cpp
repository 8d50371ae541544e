// Small files that ask for much: each is refused with one clear error, before it costs anything.
#include "lmxlab/data/gguf_vocabulary.h"
#include "lmxlab/data/tokenizer/base64.h"
#include "lmxlab/data/tokenizer/regex.h"
#include "tests/support/error_of.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

namespace lmxlab::data {
namespace {

using testing::HasSubstr;

using test::error_of;

// `body` is refused with this kind, in these words.
template <class F>
void refused(Kind kind, const std::string& words, F&& body) {
  const Error e = error_of(body);
  EXPECT_EQ(e.kind(), kind) << e.what();
  EXPECT_THAT(e.what(), HasSubstr(words));
}

Json with(const std::string& path, const Json& value) {
  Json j = Tokenizer::characters("ab").to_json();
  set_path(j, path, value);
  return j;
}

std::string little_endian(uint32_t value) {
  return {static_cast<char>(value), static_cast<char>(value >> 8), static_cast<char>(value >> 16),
          static_cast<char>(value >> 24)};
}

TEST(TokenizerHostile, DecodersThatDoubleEndlessly) {
  for (const char* step :
       {R"({"type": "BPEDecoder", "suffix": ""})",
        R"({"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaa"})"}) {
    Json steps = Json::array();
    for (int i = 0; i < 60; ++i) steps.push_back(Json::parse(step));
    const auto t = Tokenizer::from_json(
        with("decoder", Json::object({{"type", "Sequence"}, {"decoders", steps}})));
    const std::vector<int> ids(8, 0);
    refused(Kind::resource, "decoders make the text", [&] { t.decode(ids); });
    // It can be used again.
    EXPECT_EQ(t.decode(std::vector<int>{1}), "b");
  }
}

TEST(TokenizerHostile, CharacterMapThatGrowsEveryCharacter) {
  std::vector<uint32_t> units(256);
  units[0] = 1u << 10;
  units[1 ^ 'a'] = 'a' | 1u << 8 | 1u << 10;
  units[1 ^ 'a' ^ 1] = 0x80000000u;
  std::string blob = little_endian(4 * 256);
  for (const auto u : units) blob += little_endian(u);
  blob += std::string(100'000, 'b') + '\0';
  const auto map = [&](const char* type) {
    return Json::object({{"type", type}, {"precompiled_charsmap", encode_base64(blob)}});
  };
  const auto t = Tokenizer::from_json(with("normalizer", map("Precompiled")));
  EXPECT_EQ(t.encode_ids("a").size(), 100'000u);
  refused(Kind::resource, "make the text", [&] { t.encode_ids(std::string(1000, 'a')); });
}

TEST(TokenizerHostile, PaddingWithoutEnd) {
  const auto padding = [](int64_t n, const std::string& token) {
    return with("padding", Json::object({{"strategy", Json::object({{"Fixed", n}})},
                                         {"pad_id", 0},
                                         {"pad_token", token}}));
  };
  const auto encode = [](const Json& j) {
    return Tokenizer::from_json(j).encode_ids("ab", {.truncate_and_pad = true}).size();
  };
  EXPECT_EQ(encode(padding(4096, "a")), 4096u);
  refused(Kind::resource, "256 MiB", [&] { encode(padding(1 << 30, "a")); });
  refused(Kind::resource, "256 MiB", [&] { encode(padding(1 << 20, std::string(1000, 'a'))); });
}

TEST(TokenizerHostile, TemplatesThatRepeat) {
  const auto process = [](size_t items, size_t ids) {
    Json list = Json::array(), single = Json::array(), tokens = Json::array();
    for (size_t i = 0; i < ids; ++i) list.push_back(0), tokens.push_back("a");
    for (size_t i = 0; i < items; ++i)
      single.push_back(Json::parse(R"({"SpecialToken": {"id": "x", "type_id": 0}})"));
    Json special = Json::object({{"id", "x"}, {"ids", list}, {"tokens", tokens}});
    return Tokenizer::from_json(
        with("post_processor", Json::object({{"type", "TemplateProcessing"},
                                             {"single", single},
                                             {"special_tokens", Json::object({{"x", special}})}})));
  };
  EXPECT_EQ(process(256, 16).encode_ids("", {.add_special = true}).size(), 4096u);
  refused(Kind::bad_data, "post_processor.single: expected 256 items", [&] { process(257, 1); });
  refused(Kind::bad_data, "65536 ids at most", [&] { process(100, 1000); });
}

TEST(TokenizerHostile, IdsFarBeyondTheTokens) {
  EXPECT_EQ(
      Tokenizer::from_json(with("model.vocab", Json::parse(R"({"a": 1000000})"))).vocab_size(),
      1'000'001);
  refused(Kind::bad_data, "the largest id is 16777214, and there are only 1",
          [&] { Tokenizer::from_json(with("model.vocab", Json::parse(R"({"a": 16777214})"))); });
}

// Each of these unused tokens would be made of the next: taking them apart would never end.
TEST(TokenizerHostile, TokensMadeOfThemselves) {
  Json j = with("model", Json::parse(R"({"type": "BPE", "continuing_subword_prefix": "##",
      "vocab": {"#": 0, "##y": 1, "###y": 2, "####y": 3, "####": 4},
      "merges": [["#", "###y"], ["#", "####y"], ["####", "##y"]]})"));
  Tokenizer::from_json(j);
  j["lmxlab"] = Json::parse(R"({"model": {"unused": ["##y", "###y", "####y"]}})");
  refused(Kind::bad_data, "do not go together", [&] { Tokenizer::from_json(j); });
}

// "ab" is taken apart, and its "b" is a character without a token.
TEST(TokenizerHostile, UnusedTokensOfUnknownCharacters) {
  GgufVocabulary v;
  v.model = "llama";
  v.tokens = {"<unk>", "a", "ab"};
  v.token_type = {2, 1, 5};
  v.scores = {0, -1, -2};
  v.add_space_prefix = false;
  EXPECT_THAT(tokenizer_from_gguf(v).encode_ids("aba"), testing::ElementsAre(1, 0, 1));
}

// A search that just ends is no error, a thousand of them are.
TEST(TokenizerHostile, PatternsThatAreSlowEachTime) {
  const Regex slow("(?:a+)+b");
  std::string text = std::string(16, 'a') + "c";
  std::vector<size_t> ends;
  slow.cut(text, 0, ends);
  EXPECT_EQ(ends.back(), text.size());
  std::string many;
  for (int i = 0; i < 2000; ++i) many += std::string(22, 'a') + "b" + std::string(22, 'a') + "c ";
  refused(Kind::resource, "backtracks too much", [&] { slow.cut(many, 0, ends); });
  refused(Kind::unsupported, "65536 at most", [] { Regex(std::string(70'000, 'a')); });
}

TEST(TokenizerHostile, ScoresThatAreNoNumbers) {
  GgufVocabulary v;
  v.model = "t5";
  v.tokens = {"<unk>", "a", "b"};
  v.token_type = {2, 1, 1};
  v.scores = {0, -1, -2};
  EXPECT_EQ(tokenizer_from_gguf(v).vocab_size(), 3);
  for (const float score :
       {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    v.scores[1] = score;
    for (const char* model : {"t5", "llama"}) {
      v.model = model;
      refused(Kind::bad_data, "the score of piece 1 is no number", [&] { tokenizer_from_gguf(v); });
    }
  }
}

}  // namespace
}  // namespace lmxlab::data
