// Tokenizers that are no tokenizer.json: SentencePiece models, files of ranks, GGUF vocabularies.
#include "lmxlab/base/files.h"
#include "lmxlab/base/text.h"
#include "lmxlab/data/gguf_vocabulary.h"
#include "lmxlab/data/tokenizer/base64.h"
#include "tests/support/error_of.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ctime>
#include <random>

namespace lmxlab::data {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::vector<int> ints(const Json& list) {
  std::vector<int> out;
  for (const Json& j : list.as_array()) out.push_back(static_cast<int>(j.as_integer()));
  return out;
}

using test::error_of;

std::string stream(const Tokenizer& t, const std::vector<int>& ids) {
  StreamDecoder decoder(t);
  std::string out;
  for (const int id : ids) {
    const std::string part = decoder.push(id);
    EXPECT_EQ(invalid_utf8_at(part), std::string::npos);
    out += part;
  }
  return out + decoder.finish();
}

struct Folder {
  fs::path path;
  Folder() {
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    path = fs::path(testing::TempDir()) /
           (std::string("lmxlab_") + test->test_suite_name() + "_" + test->name());
    fs::remove_all(path);
    fs::create_directories(path);
  }
  ~Folder() { fs::remove_all(path); }
};

Json sentencepiece_fixture() {
  return Json::parse(
      read_file(fs::path(LMXLAB_SOURCE_DIR) / "tests/fixtures/tokenizers/sentencepiece.json"),
      "sentencepiece.json");
}

TEST(SentencePiece, IdsAndTextAreTheLibrarys) {
  const Json all = sentencepiece_fixture();
  for (const Json& m : all.at("models").as_array()) {
    SCOPED_TRACE(m.at("name").as_string());
    const auto t = Tokenizer::from_bytes(decode_base64(m.at("model").as_string(), "model"), "m");
    const auto again = Tokenizer::from_json(Json::parse(t.to_json().dump()));
    EXPECT_EQ(t.vocab_size(), m.at("size").as_integer());
    for (const Json& c : m.at("cases").as_array()) {
      const std::string& text = c.at("text").as_string();
      const auto ids = ints(c.at("ids"));
      EXPECT_EQ(t.encode_ids(text, {.special = false}), ids) << Json(text).dump();
      EXPECT_EQ(again.encode_ids(text, {.special = false}), ids) << Json(text).dump();
      EXPECT_EQ(t.decode(ids), c.at("decoded").as_string()) << Json(text).dump();
      EXPECT_EQ(again.decode(ids), c.at("decoded").as_string()) << Json(text).dump();
      EXPECT_EQ(stream(t, ids), c.at("decoded").as_string()) << Json(text).dump();
    }
    EXPECT_EQ(again.fingerprint(), t.fingerprint());
  }
}

// Cut anywhere and struck anywhere: it loads and works, or one Error says what is wrong.
TEST(SentencePiece, DamagedFiles) {
  std::mt19937 random(11);
  size_t loaded = 0, refused = 0;
  const auto attempt = [&](const std::string& bytes) {
    try {
      const auto t = Tokenizer::from_bytes(bytes, "damaged");
      t.decode(t.encode_ids("Hello  <u> w\xC3\xB6rld \xEF\xAC\x81\n", {.add_special = true}));
      ++loaded;
    } catch (const Error& e) {
      EXPECT_NE(e.kind(), Kind::internal) << e.what();
      ++refused;
    }
  };
  const Json all = sentencepiece_fixture();
  for (const Json& m : all.at("models").as_array()) {
    const std::string whole = decode_base64(m.at("model").as_string(), "model");
    for (size_t i = 0; i < 40; ++i) attempt(whole.substr(0, random() % whole.size()));
    for (size_t i = 0; i < 200; ++i) {
      std::string broken = whole;
      for (size_t k = 0, blows = 1 + random() % 4; k < blows; ++k) {
        const size_t at = i % 2
                              ? random() % broken.size()
                              : broken.size() - 1 - random() % std::min<size_t>(broken.size(), 400);
        broken[at] = static_cast<char>(random());
      }
      attempt(broken);
    }
  }
  EXPECT_GT(loaded, 50u);
  EXPECT_GT(refused, 100u);
  EXPECT_EQ(error_of([] { Tokenizer::from_bytes("", "empty"); }).kind(), Kind::bad_data);
  // A piece of 2^60 bytes.
  EXPECT_EQ(error_of([] {
              Tokenizer::from_bytes("\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x0F", "long");
            }).kind(),
            Kind::bad_data);
}

// Ranks of the 256 bytes and a few merges.
std::string ranks() {
  std::string out;
  int rank = 0;
  for (int b = 0; b < 256; ++b)
    out +=
        encode_base64(std::string(1, static_cast<char>(b))) + " " + std::to_string(rank++) + "\n";
  for (const char* token : {"ab", "bc", "abc", "aa", "aaa", " a", "\xC3\xA9", "abcd"})
    out += encode_base64(token) + " " + std::to_string(rank++) + "\n";
  return out;
}

TEST(Tiktoken, MergesByRank) {
  const TiktokenOptions options{R"( ?\p{L}+|\s++$|\s|[^\s\p{L}]{1,3}+)", {{"<|end|>", 300}}, ""};
  const auto t = Tokenizer::from_bytes(ranks(), "ranks", options);
  EXPECT_EQ(t.vocab_size(), 301);
  EXPECT_THAT(t.encode_ids("abc"), ElementsAre(258));
  EXPECT_THAT(t.encode_ids("abcd"), ElementsAre(263));        // a token, though no merge makes it
  EXPECT_THAT(t.encode_ids("xabcd"), ElementsAre('x', 263));  // and abc + d makes it here
  EXPECT_THAT(t.encode_ids("bcab"), ElementsAre(257, 256));
  EXPECT_THAT(t.encode_ids("aaaaa"), ElementsAre(259, 260));  // of equal ranks the leftmost first
  EXPECT_THAT(t.encode_ids(" a\xC3\xA9"), ElementsAre(261, 262));
  EXPECT_THAT(t.encode_ids("a<|end|>"), ElementsAre('a', 300));
  EXPECT_THAT(t.encode_ids("<|end|>", {.special = false}),
              ElementsAre('<', '|', 'e', 'n', 'd', '|', '>'));
  for (const char* text : {"", "ab  cd \xF0\x9F\x98\x80 ?!?!?", "a\n\n \n", "\xE2\x80\x8B"}) {
    const auto ids = t.encode_ids(text);
    EXPECT_EQ(t.decode(ids), text);
    EXPECT_EQ(stream(t, ids), text);
  }
  EXPECT_EQ(t.decode(std::vector<int>{0xC3, 0xF0, 0x9F, 'x'}), "\uFFFD\uFFFDx");
  // Saved as tokenizer.json it is the same, ties included.
  const auto again = Tokenizer::from_json(Json::parse(t.to_json().dump()));
  std::mt19937 random(2);
  for (int i = 0; i < 300; ++i) {
    std::string text;
    for (size_t n = random() % 30; n > 0; --n) text += "abcd a"[random() % 6];
    EXPECT_EQ(again.encode_ids(text), t.encode_ids(text)) << text;
  }
}

TEST(Tiktoken, WrongInput) {
  const auto kind = [](std::string_view bytes, const TiktokenOptions& options) {
    return error_of([&] { Tokenizer::from_bytes(bytes, "ranks", options); }).kind();
  };
  const TiktokenOptions good{"a|b", {}, ""};
  EXPECT_EQ(kind(ranks(), {}), Kind::usage);  // no pattern
  EXPECT_EQ(kind(ranks(), {"(", {}, ""}), Kind::bad_data);
  EXPECT_EQ(kind(ranks(), {"a", {}, "NFX"}), Kind::usage);
  EXPECT_EQ(kind(ranks(), {"a", {{"x", 0}}, ""}), Kind::usage);  // an ordinary token's id
  EXPECT_EQ(kind(ranks(), {"a", {{"x", 300}, {"y", 300}}, ""}), Kind::usage);
  EXPECT_EQ(kind("YQ== 0\nYQ== 1\n", good), Kind::bad_data);
  EXPECT_EQ(kind("YQ== 0\nYg== 0\n", good), Kind::bad_data);
  EXPECT_EQ(kind("YQ== 0\nYg==\n", good), Kind::bad_data);
  EXPECT_EQ(kind("YQ== 0\nY* 1\n", good), Kind::bad_data);
  EXPECT_EQ(kind("YQ== 0\nYg== 99999999999\n", good), Kind::bad_data);
  EXPECT_EQ(kind("YQ== 0\nYg== -1\n", good), Kind::bad_data);
  EXPECT_EQ(kind(Tokenizer::bytes().to_json().dump(), good), Kind::usage);
  EXPECT_EQ(kind("\x7F"
                 "ELF nothing we know",
                 good),
            Kind::bad_data);
}

TEST(Tekken, SpecialTokensComeFirst) {
  Json vocab = Json::array();
  for (int b = 0; b < 256; ++b)
    vocab.push_back(
        Json::object({{"rank", b},
                      {"token_bytes", encode_base64(std::string(1, static_cast<char>(b)))},
                      {"token_str", Json()}}));
  vocab.push_back(
      Json::object({{"rank", 256}, {"token_bytes", encode_base64("ab")}, {"token_str", "ab"}}));
  vocab.push_back(
      Json::object({{"rank", 257}, {"token_bytes", encode_base64("cd")}, {"token_str", "cd"}}));
  Json root = Json::object(
      {{"config", Json::object({{"pattern", R"(\p{L}+|[^\p{L}]+)"},
                                {"num_vocab_tokens", 258},
                                {"default_vocab_size", 267},
                                {"default_num_special_tokens", 10}})},
       {"vocab", vocab},
       {"special_tokens",
        Json::array({Json::object({{"rank", 1}, {"token_str", "<s>"}, {"is_control", true}}),
                     Json::object({{"rank", 2}, {"token_str", "</s>"}, {"is_control", true}})})}});
  const auto t = Tokenizer::from_bytes(root.dump(), "tekken.json");
  EXPECT_THAT(t.encode_ids("ab"), ElementsAre(266));
  EXPECT_THAT(t.encode_ids("cd"), ElementsAre('c' + 10, 'd' + 10));  // beyond the size in use
  EXPECT_THAT(t.encode_ids("<s>a"), ElementsAre(1, 'a' + 10));
  for (const auto& [path, value] : std::initializer_list<std::pair<const char*, Json>>{
           {"config.default_num_special_tokens", Json(300)},
           {"config.pattern", Json(1)},
           {"config.default_vocab_size", Json()},
           {"vocab.3.rank", Json(-1)},
           {"vocab.3.token_bytes", Json("?")},
           {"special_tokens.0.rank", Json(10)},
           {"special_tokens.1.rank", Json(1)},
           {"special_tokens.1.token_str", Json("<s>")}}) {
    Json broken = root;
    set_path(broken, path, value);
    EXPECT_EQ(error_of([&] { Tokenizer::from_bytes(broken.dump(), "tekken.json"); }).kind(),
              Kind::bad_data)
        << path;
  }
}

TEST(TokenizerFiles, TheKindIsFoundByLooking) {
  const Folder folder;
  const auto put = [&](const char* name, const std::string& content) {
    write_file_atomic(folder.path / name, content);
  };
  put("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\nhello\nwor\n##ld\n!\n");
  auto t = Tokenizer::load(folder.path);
  EXPECT_THAT(t.encode_ids("Hello world! \xF0\x9F\x98\x80", {.add_special = true}),
              ElementsAre(2, 4, 5, 6, 7, 1, 3));
  EXPECT_EQ(t.decode(std::vector<int>{4, 5, 6, 7}), "hello world!");
  put("tokenizer_config.json", R"({"do_lower_case": false, "eos_token": "[SEP]"})");
  t = Tokenizer::load(folder.path);
  EXPECT_THAT(t.encode_ids("Hello hello"), ElementsAre(1, 4));
  EXPECT_EQ(t.eos_id(), 3);
  put("vocab.json", R"({"a": 0, "b": 1, "ab": 2, "Ġ": 3, "Ġab": 4, "<|endoftext|>": 5})");
  put("merges.txt", "#version: 0.2\na b\nĠ ab\n");
  t = Tokenizer::load(folder.path);
  EXPECT_THAT(t.encode_ids("ab ab<|endoftext|>"), ElementsAre(2, 4, 5));
  put("merges.txt", "a b c\n");
  EXPECT_EQ(error_of([&] { Tokenizer::load(folder.path); }).kind(), Kind::bad_data);
  const std::string model = decode_base64(
      sentencepiece_fixture().at("models").as_array()[0].at("model").as_string(), "model");
  put("tokenizer.model", model);
  t = Tokenizer::load(folder.path);
  EXPECT_EQ(t.decode(t.encode_ids("Hello, world!")), "Hello, world!");
  put("tokenizer.model", ranks());
  EXPECT_EQ(error_of([&] { Tokenizer::load(folder.path); }).kind(), Kind::usage);
  t = Tokenizer::load(folder.path, {R"(\p{L}+|\s+)", {}, "NFC"});
  EXPECT_THAT(t.encode_ids("e\u0301"), ElementsAre(262));
  put("tokenizer.json", Tokenizer::bytes().to_json().dump());
  EXPECT_EQ(Tokenizer::load(folder.path).vocab_size(), 256);
  EXPECT_EQ(tokenizer_file(folder.path), folder.path / "tokenizer.json");
}

GgufVocabulary byte_vocabulary() {
  GgufVocabulary v;
  v.model = "gpt2", v.pre = "llama-bpe";
  const auto bytes = Tokenizer::bytes();
  for (int b = 0; b < 256; ++b) v.tokens.push_back(bytes.token(b)), v.token_type.push_back(1);
  for (const char* t : {"ab", "Ġab", "<s>", "</s>"}) v.tokens.emplace_back(t);
  v.token_type.insert(v.token_type.end(), {1, 1, 3, 3});
  v.merges = {"a b", "Ġ ab"};
  v.bos_token_id = 258, v.eos_token_id = 259;
  return v;
}

TEST(Gguf, ByteLevel) {
  GgufVocabulary v = byte_vocabulary();
  const auto t = tokenizer_from_gguf(v);
  EXPECT_THAT(t.encode_ids("ab ab</s>"), ElementsAre(256, 257, 259));
  EXPECT_THAT(t.encode_ids("ab", {.add_special = true}), ElementsAre(258, 256));
  EXPECT_THAT(t.encode_ids("</s>", {.special = false}), ElementsAre('<', '/', 's', '>'));
  EXPECT_EQ(t.bos_id(), 258);
  EXPECT_EQ(t.eos_id(), 259);
  v.add_bos_token = false, v.add_eos_token = true;
  EXPECT_THAT(tokenizer_from_gguf(v).encode_ids("ab", {.add_special = true}),
              ElementsAre(256, 259));
  v.pre = "smollm";
  EXPECT_THAT(tokenizer_from_gguf(v).encode_ids("12"), ElementsAre('1', '2'));
  v.pre = "lama-bpe";
  const Error e = error_of([&] { tokenizer_from_gguf(v); });
  EXPECT_EQ(e.kind(), Kind::unsupported);
  EXPECT_THAT(e.what(), HasSubstr("llama-bpe"));
  // Every pattern we list compiles.
  for (const char* pre : {"default", "gpt-2", "falcon", "starcoder", "llama3", "qwen2", "tekken",
                          "gpt-4o", "deepseek-v3", "bloom", "viking"}) {
    v.pre = pre;
    const auto other = tokenizer_from_gguf(v);
    EXPECT_EQ(other.decode(other.encode_ids("Hi, ab  12345\n\u4E2D\u6587!")),
              "Hi, ab  12345\n\u4E2D\u6587!")
        << pre;
  }
}

TEST(Gguf, SentencePieceAndBert) {
  GgufVocabulary v;
  v.model = "llama";
  v.tokens = {"<unk>", "<s>", "</s>"};
  v.token_type = {2, 3, 3};
  for (int b = 0; b < 256; ++b) {
    char name[8];
    std::snprintf(name, sizeof name, "<0x%02X>", b);
    v.tokens.emplace_back(name), v.token_type.push_back(6);
  }
  for (const char* t : {"\u2581", "a", "b", "ab", "\u2581ab", "<u> x"}) v.tokens.emplace_back(t);
  v.token_type.insert(v.token_type.end(), {1, 1, 1, 1, 1, 4});
  for (size_t i = 0; i < v.tokens.size(); ++i) v.scores.push_back(-static_cast<float>(i));
  v.bos_token_id = 1, v.eos_token_id = 2, v.unknown_token_id = 0;
  const auto t = tokenizer_from_gguf(v);
  const auto ids = t.encode_ids("ab \xC3\xA9<u> x", {.add_special = true});
  EXPECT_THAT(ids, ElementsAre(1, 263, 259, 3 + 0xC3, 3 + 0xA9, 264));
  EXPECT_EQ(t.decode(ids, true), "ab \xC3\xA9<u> x");
  v.add_space_prefix = false, v.add_bos_token = false;
  EXPECT_THAT(tokenizer_from_gguf(v).encode_ids("ab", {.add_special = true}), ElementsAre(262));

  GgufVocabulary bert;
  bert.model = "bert";
  bert.tokens = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "\u2581hello", "\u2581wor", "ld", "\u2581!"};
  bert.token_type = {3, 3, 3, 3, 1, 1, 1, 1};
  bert.unknown_token_id = 1, bert.cls_token_id = 2, bert.seperator_token_id = 3;
  EXPECT_THAT(tokenizer_from_gguf(bert).encode_ids("Hello world! \u4E2D", {.add_special = true}),
              ElementsAre(2, 4, 5, 6, 7, 1, 3));

  GgufVocabulary t5;
  t5.model = "t5";
  t5.tokens = {"<pad>", "</s>", "<unk>", "\u2581", "a", "\u2581a", "b"};
  t5.token_type = {3, 3, 2, 1, 1, 1, 1};
  t5.scores = {0, 0, 0, -2, -3, -4, -3};
  t5.eos_token_id = 1;
  auto twice = t5;
  twice.tokens[3] = "a";
  EXPECT_THAT(error_of([&] { tokenizer_from_gguf(twice); }).what(),
              HasSubstr("\"a\" stands twice"));
  EXPECT_THAT(tokenizer_from_gguf(t5).encode_ids("a b", {.add_special = true}),
              ElementsAre(5, 3, 6, 1));
}

TEST(Gguf, WrongInput) {
  const auto kind = [](auto&& change) {
    GgufVocabulary v = byte_vocabulary();
    change(v);
    return error_of([&] { tokenizer_from_gguf(v); }).kind();
  };
  EXPECT_EQ(kind([](auto& v) { v.tokens.clear(); }), Kind::bad_data);
  EXPECT_EQ(kind([](auto& v) { v.scores = {1}; }), Kind::bad_data);
  EXPECT_EQ(kind([](auto& v) { v.token_type.pop_back(); }), Kind::bad_data);
  EXPECT_EQ(kind([](auto& v) { v.token_type[0] = 9; }), Kind::bad_data);
  EXPECT_EQ(kind([](auto& v) { v.eos_token_id = 260; }), Kind::bad_data);
  EXPECT_EQ(kind([](auto& v) { v.tokens[0] = v.tokens[1]; }), Kind::bad_data);
  EXPECT_EQ(kind([](auto& v) { v.tokens[0] = "\xFF"; }), Kind::bad_data);
  EXPECT_EQ(kind([](auto& v) { v.merges[0] = "ab"; }), Kind::bad_data);
  EXPECT_EQ(kind([](auto& v) { v.merges[0] = "a nowhere"; }), Kind::bad_data);
  EXPECT_EQ(kind([](auto& v) { v.model = "rwkv"; }), Kind::unsupported);
}

// Time in proportion to the length, whatever stands in the text.
TEST(TokenizerSpeed, HostileTextsTakeLinearTime) {
  std::vector<std::pair<std::string, Tokenizer>> all;
  const Json models = sentencepiece_fixture().at("models");
  for (const Json& m : models.as_array())
    all.emplace_back(m.at("name").as_string(),
                     Tokenizer::from_bytes(decode_base64(m.at("model").as_string(), "model"), "m"));
  for (const char* name : {"llama3", "parts_llama", "parts_unigram", "parts_wordpiece",
                           "parts_suffix", "parts_words"}) {
    const Json file =
        Json::parse(read_file(fs::path(LMXLAB_SOURCE_DIR) / "tests/fixtures/tokenizers" /
                              (std::string(name) + ".json")),
                    name);
    all.emplace_back(name, Tokenizer::from_json(file.at("tokenizer")));
  }
  const auto repeated = [](std::string_view part, size_t size) {
    std::string out;
    while (out.size() < size) out += part;
    return out;
  };
  for (const auto& [name, t] : all)
    for (const char* part : {"a", " ", "ab", "\xF0\x9F\x98\x80", "e\xCC\x81", "\xCC\x81\xCC\xA7",
                             "\n ", "1", "<s", "</s> "}) {
      const auto seconds = [&](size_t size) {
        const std::string text = repeated(part, size);
        const auto start = std::clock();  // of the processor: others may keep it busy
        const auto ids = t.encode_ids(text);
        t.decode(ids);
        return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
      };
      // A quadratic one takes 256 times as long, seconds, each time.
      const double small = std::max(seconds(1 << 14), 1e-3);
      double large = seconds(1 << 18);
      for (int again = 0; again < 3 && large >= 100 * small; ++again)
        large = std::min(large, seconds(1 << 18));
      EXPECT_LT(large, 100 * small) << name << " " << Json(part).dump() << ": " << small
                                    << " s for 16 KiB, " << large << " s for 256 KiB";
    }
}

}  // namespace
}  // namespace lmxlab::data
