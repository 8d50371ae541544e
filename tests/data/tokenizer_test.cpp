#include "lmxlab/data/tokenizer.h"
#include "lmxlab/base/files.h"
#include "lmxlab/base/text.h"
#include "tests/support/error_of.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <functional>
#include <random>
#include <thread>

namespace lmxlab::data {
namespace {

namespace mx = mlx::core;
using testing::ElementsAre;
using testing::HasSubstr;

fs::path fixture(const std::string& name) {
  return fs::path(LMXLAB_SOURCE_DIR) / "tests/fixtures/tokenizers" / (name + ".json");
}
Json read_fixture(const std::string& name) {
  return Json::parse(read_file(fixture(name)), name);
}
Tokenizer golden(const std::string& name) {
  const Json file = read_fixture(name);
  return Tokenizer::from_json(file.at("tokenizer"), file.at("config"));
}
std::vector<int> ints(const Json& list) {
  std::vector<int> out;
  for (const Json& j : list.as_array()) out.push_back(static_cast<int>(j.as_integer()));
  return out;
}
std::string shakespeare() {
  return read_file(fs::path(LMXLAB_SOURCE_DIR) / "lmxlab/data/tinyshakespeare.txt");
}

// A folder of its own for one test, removed with it.
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

using test::error_of;

std::string stream(const Tokenizer& t, const std::vector<int>& ids, bool skip_special) {
  StreamDecoder decoder(t, skip_special);
  std::string out;
  for (const int id : ids) {
    const std::string part = decoder.push(id);
    EXPECT_EQ(invalid_utf8_at(part), std::string::npos);
    out += part;
  }
  return out + decoder.finish();
}

class Golden : public testing::TestWithParam<const char*> {};

TEST_P(Golden, IdsAndTextAreTheLibrarys) {
  const Json file = read_fixture(GetParam());
  const Tokenizer t = golden(GetParam());
  size_t cases = 0;
  for (const Json& c : file.at("cases").as_array()) {
    const std::string& text = c.at("text").as_string();
    const std::vector<int> ids = ints(c.at("ids"));
    const std::vector<int> around = c.contains("ids_special") ? ints(c.at("ids_special")) : ids;
    const std::string& decoded = c.at("decoded").as_string();
    const std::string& skipped =
        (c.contains("decoded_skip") ? c.at("decoded_skip") : c.at("decoded")).as_string();
    EXPECT_EQ(t.encode_ids(text), ids) << Json(text).dump();
    EXPECT_EQ(t.encode_ids(text, {.add_special = true}), around) << Json(text).dump();
    EXPECT_EQ(t.decode(ids), decoded) << Json(text).dump();
    EXPECT_EQ(t.decode(around, true), skipped) << Json(text).dump();
    EXPECT_EQ(stream(t, ids, false), decoded) << Json(text).dump();
    EXPECT_EQ(stream(t, around, true), skipped) << Json(text).dump();
    ++cases;
  }
  EXPECT_GE(cases, 20u);
}

TEST_P(Golden, SavedAndLoadedIsTheSame) {
  const Folder folder;
  const Json file = read_fixture(GetParam());
  const Tokenizer t = golden(GetParam());
  t.save(folder.path);
  const std::string first = read_file(folder.path / "tokenizer.json");
  const Tokenizer again = Tokenizer::load(folder.path);
  again.save(folder.path);
  EXPECT_EQ(read_file(folder.path / "tokenizer.json"), first);
  EXPECT_EQ(again.fingerprint(), t.fingerprint());
  EXPECT_EQ(again.bos_id(), t.bos_id());
  EXPECT_EQ(again.eos_id(), t.eos_id());
  EXPECT_EQ(Tokenizer::load(folder.path / "tokenizer.json").eos_id(), t.eos_id());
  EXPECT_EQ(again.config().at("tokenizer_class").as_string(), "PreTrainedTokenizerFast");
  for (const Json& c : file.at("cases").as_array())
    EXPECT_EQ(again.encode_ids(c.at("text").as_string()), ints(c.at("ids")));
}

INSTANTIATE_TEST_SUITE_P(Files, Golden,
                         testing::Values("byte_level", "string_merges", "prefix_space", "llama3",
                                         "ignore_merges", "o200k", "scripts", "characters", "bytes",
                                         "parts_llama", "parts_suffix", "parts_prefix",
                                         "parts_unigram", "parts_wordpiece", "parts_words",
                                         "parts_splits"),
                         [](const auto& p) { return std::string(p.param); });

TEST(Tokenizer, EncodeGivesAnArrayThatNeedsNoEval) {
  const auto t = Tokenizer::characters("hello world");
  const mx::array ids = t.encode("hello");
  EXPECT_TRUE(ids.is_available());
  EXPECT_FALSE(ids.has_primitive());
  EXPECT_EQ(ids.dtype(), mx::int32);
  EXPECT_EQ(ids.shape(), mx::Shape({5}));
  EXPECT_THAT(std::vector<int>(ids.data<int>(), ids.data<int>() + 5), ElementsAre(3, 2, 4, 4, 5));
  EXPECT_EQ(t.decode(ids), "hello");
  EXPECT_EQ(t.decode(mx::astype(ids, mx::int64)), "hello");
  EXPECT_EQ(t.decode(mx::slice(ids, {4}, {-6}, {-1})), "olleh");
  const mx::array none = t.encode("");
  EXPECT_TRUE(none.is_available());
  EXPECT_EQ(none.shape(), mx::Shape({0}));
  EXPECT_EQ(t.decode(none), "");
  EXPECT_EQ(error_of([&] { t.decode(mx::reshape(ids, {1, 5})); }).kind(), Kind::usage);
  EXPECT_EQ(error_of([&] { t.decode(mx::astype(ids, mx::float32)); }).kind(), Kind::usage);
}

TEST(Tokenizer, CharactersAreSortedAndUnknownOnesAreNamed) {
  const std::string text = shakespeare();
  const auto t = Tokenizer::characters(text);
  EXPECT_EQ(t.vocab_size(), 65);  // as in every character model of this text
  EXPECT_EQ(t.token(0), "\n");
  EXPECT_EQ(t.token(64), "z");
  EXPECT_EQ(t.token_id("A"), 13);
  EXPECT_EQ(t.decode(t.encode_ids(text)), text);
  const Error e = error_of([&] { t.encode("caf\n\xC3\xA9"); });
  EXPECT_EQ(e.kind(), Kind::bad_data);
  EXPECT_THAT(e.what(), HasSubstr("'\xC3\xA9' (U+00E9) at byte 4 (character 4"));
  const auto wide = Tokenizer::characters(
      "\xF0\x9F\x98\x80"
      "b\xC3\xA9");
  EXPECT_THAT(wide.encode_ids("b\xC3\xA9\xF0\x9F\x98\x80"), ElementsAre(0, 1, 2));
  EXPECT_THAT(error_of([&] { wide.encode("\xC3\xA9z"); }).what(),
              HasSubstr("at byte 2 (character 1"));
  EXPECT_EQ(error_of([] { Tokenizer::characters(""); }).kind(), Kind::bad_data);
  EXPECT_EQ(error_of([] { Tokenizer::characters("a\xFF"); }).kind(), Kind::bad_data);
  EXPECT_THAT(Tokenizer::characters(std::vector<std::string>{"z", "a"}).encode_ids("az"),
              ElementsAre(1, 0));
  for (const auto& list : {std::vector<std::string>{"a", "a"}, {"ab"}, {""}, {}, {"\xC3"}})
    EXPECT_EQ(error_of([&] { Tokenizer::characters(list); }).kind(), Kind::usage);
}

TEST(Tokenizer, BytesTakeAnything) {
  const auto t = Tokenizer::bytes();
  EXPECT_EQ(t.vocab_size(), 256);
  std::string all;
  std::vector<int> ids;
  for (int b = 0; b < 256; ++b) all += static_cast<char>(b), ids.push_back(b);
  EXPECT_EQ(t.encode_ids(all), ids);
  EXPECT_EQ(t.encode_ids("\xF0\x9F"), (std::vector<int>{0xF0, 0x9F}));
}

// One U+FFFD for each longest part that could have begun a character, as Unicode recommends
// (section 3.9, table 3-8).
TEST(Tokenizer, BrokenBytesDecodeAsUnicodeRecommends) {
  const auto t = Tokenizer::bytes();
  const std::string bad = "\xEF\xBF\xBD";
  const auto decoded = [&](std::vector<int> ids) {
    const std::string whole = t.decode(ids);
    EXPECT_EQ(stream(t, ids, false), whole);
    return whole;
  };
  EXPECT_EQ(decoded({0x61, 0xF1, 0x80, 0x80, 0xE1, 0x80, 0xC2, 0x62, 0x80, 0x63, 0x80, 0xBF, 0x64}),
            "a" + bad + bad + bad + "b" + bad + "c" + bad + bad + "d");
  EXPECT_EQ(decoded({0xC0, 0xAF, 0xE0, 0x80, 0xBF, 0xF0, 0x81, 0x82, 0x41}),
            bad + bad + bad + bad + bad + bad + bad + bad + "A");
  EXPECT_EQ(decoded({0xED, 0xA0, 0x80, 0xF4, 0x91, 0x92, 0x93, 0xFF, 0x41, 0x80, 0xBF, 0x42}),
            bad + bad + bad + bad + bad + bad + bad + bad + "A" + bad + bad + "B");
  EXPECT_EQ(decoded({0xF0, 0x9F, 0x98}), bad);
}

TEST(StreamDecoder, HoldsHalfACharacterBack) {
  StreamDecoder d(Tokenizer::bytes());
  EXPECT_EQ(d.push(0xF0), "");
  EXPECT_EQ(d.push(0x9F), "");
  EXPECT_EQ(d.push(0x98), "");
  EXPECT_EQ(d.push(0x80), "\xF0\x9F\x98\x80");
  EXPECT_EQ(d.push('a'), "a");
  EXPECT_EQ(d.push(0xC3), "");
  EXPECT_EQ(d.finish(), "\xEF\xBF\xBD");
  EXPECT_EQ(d.push('b'), "b");
  EXPECT_EQ(d.finish(), "");
}

TEST(Tokenizer, SpecialTokensOnRequest) {
  const auto t = golden("llama3");
  const int end = *t.token_id("<|endoftext|>");
  EXPECT_TRUE(t.is_special(end));
  EXPECT_FALSE(t.is_special(*t.token_id("<mask>")));
  EXPECT_EQ(t.encode_ids("<|endoftext|>"), std::vector<int>{end});
  const auto plain = t.encode_ids("<|endoftext|><mask>", {.special = false});
  for (size_t i = 0; i + 1 < plain.size(); ++i) EXPECT_LT(plain[i], end);
  EXPECT_EQ(plain.back(), t.token_id("<mask>"));  // added, but not special
  EXPECT_EQ(t.decode(plain), "<|endoftext|><mask>");
  EXPECT_EQ(t.bos_id(), 0);
  EXPECT_EQ(t.eos_id(), 1);
  EXPECT_EQ(golden("byte_level").bos_id(), 0);  // named by an object
  EXPECT_EQ(golden("bytes").eos_id(), std::nullopt);
}

TEST(Tokenizer, IdsWithoutTokens) {
  const auto t = Tokenizer::characters("abc");
  EXPECT_EQ(t.decode(std::vector<int>{0, 3, -1, 2}), "ac");
  EXPECT_EQ(error_of([&] { t.token(3); }).kind(), Kind::usage);
  EXPECT_EQ(error_of([&] { t.token(-1); }).kind(), Kind::usage);
  EXPECT_EQ(t.token_id("d"), std::nullopt);
}

TEST(Tokenizer, TextThatIsNotUtf8) {
  const Error e = error_of([] { golden("byte_level").encode("ab\xC3"); });
  EXPECT_EQ(e.kind(), Kind::bad_data);
  EXPECT_THAT(e.what(), HasSubstr("at byte 2"));
}

TEST(Tokenizer, FingerprintTellsTokenizersApart) {
  EXPECT_EQ(Tokenizer::bytes().fingerprint(), Tokenizer::bytes().fingerprint());
  EXPECT_EQ(Tokenizer::bytes().fingerprint().size(), 16u);
  EXPECT_NE(Tokenizer::characters("ab").fingerprint(), Tokenizer::characters("abc").fingerprint());
}

TEST(Tokenizer, ManyThreadsShareOne) {
  const auto t = golden("byte_level");
  const std::string text = shakespeare().substr(0, 100'000);
  const auto expected = t.encode_ids(text);
  std::vector<std::thread> threads;
  std::vector<std::vector<int>> got(4);
  for (size_t i = 0; i < got.size(); ++i)
    threads.emplace_back([&, i, copy = t] { got[i] = copy.encode_ids(text); });
  for (auto& thread : threads) thread.join();
  for (const auto& ids : got) EXPECT_EQ(ids, expected);
}

TEST(Tokenizer, KeepsTheRestOfItsConfig) {
  const Folder folder;
  const Json config = Json::parse(
      R"({"chat_template": "{{ x }}", "eos_token": "b", "bos_token": null,
          "tokenizer_class": "Other", "auto_map": {}})");
  const auto t = Tokenizer::from_json(Tokenizer::characters("ab").to_json(), config);
  t.save(folder.path / "new");
  const Json saved = Json::parse(read_file(folder.path / "new/tokenizer_config.json"));
  EXPECT_EQ(saved.at("chat_template").as_string(), "{{ x }}");
  EXPECT_EQ(saved.at("tokenizer_class").as_string(), "PreTrainedTokenizerFast");
  EXPECT_FALSE(saved.contains("auto_map"));
  EXPECT_EQ(t.eos_id(), 1);
  EXPECT_EQ(t.bos_id(), std::nullopt);
}

TEST(Tokenizer, UnsupportedPartsAreNamed) {
  const Json good = read_fixture("llama3").at("tokenizer");
  const auto with = [&](const char* path, const char* value) {
    Json j = good;
    set_path(j, path, Json::parse(value));
    return error_of([&] { Tokenizer::from_json(j); });
  };
  const std::tuple<const char*, const char*, const char*> cases[] = {
      {"normalizer", R"({"type": "NFX"})", "normalizer NFX"},
      {"normalizer", R"({"type": "Sequence", "normalizers": [{"type": "Upper"}]})",
       "normalizers.0: the normalizer Upper"},
      {"pre_tokenizer", R"({"type": "Metaspaces"})", "pre-tokenizer Metaspaces"},
      {"pre_tokenizer",
       R"({"type": "Split", "pattern": {"Regex": "a\\y"}, "behavior": "Isolated"})", "\\y"},
      {"post_processor", R"({"type": "Bert"})", "post-processor Bert"},
      {"decoder", R"({"type": "WordPieces"})", "decoder WordPieces"},
      {"model.type", R"("Unigrams")", "model Unigrams"},
      {"model.dropout", "0.5", "dropout"},
      {"truncation", R"({"max_length": 5, "new_thing": 1})", "new_thing"},
      {"version", R"("2.0")", "2.0"},
      {"model.new_thing", "1", "new_thing"},
  };
  for (const auto& [path, value, words] : cases) {
    const Error e = with(path, value);
    EXPECT_EQ(e.kind(), Kind::unsupported) << e.what();
    EXPECT_THAT(e.what(), HasSubstr(words));
  }
}

TEST(Tokenizer, DamageIsNamed) {
  const Json good = read_fixture("llama3").at("tokenizer");
  const auto with = [&](const char* path, const char* value) {
    Json j = good;
    if (path == std::string_view("model.vocab"))  // what names its ids is checked first
      j.erase("added_tokens"), j.erase("post_processor");
    set_path(j, path, Json::parse(value));
    return error_of([&] { Tokenizer::from_json(j); });
  };
  const std::tuple<const char*, const char*, const char*> cases[] = {
      {"model.vocab", R"({"a": 0, "b": 0})", "the id 0 stands twice"},
      {"model.vocab", R"({"a": -1})", "got -1"},
      {"model.vocab", R"({"a": 3000000000})", "got 3000000000"},
      {"model.vocab", R"({"a": "x"})", "got a string"},
      {"model.vocab", "{}", "is not in vocab"},
      {"model.merges", R"([["a", "nowhere"]])", "\"nowhere\" is not in vocab"},
      {"model.merges", R"(["a b c"])", "one space"},
      {"model.merges", R"([["a"]])", "expected two tokens"},
      {"pre_tokenizer", R"({"type": "Split", "pattern": {"String": "a"}, "behavior": "Kept"})",
       "expected one of Removed"},
      {"pre_tokenizer", R"({"type": "Metaspace", "replacement": "ab"})", "one character"},
      {"pre_tokenizer", R"({"type": "FixedLength", "length": 0})", "1 or more"},
      {"normalizer", R"({"type": "Precompiled", "precompiled_charsmap": "AAA"})", "base64"},
      {"normalizer", R"({"type": "Precompiled", "precompiled_charsmap": "/////w=="})",
       "character map"},
      {"truncation", R"({"max_length": -1})", "got -1"},
      {"padding", "{}", "strategy"},
      {"added_tokens.0.id", "7", "before"},
      {"added_tokens.0.content", R"("")", "empty"},
      {"added_tokens.0.lstrip", "1", "true or false"},
      {"pre_tokenizer", R"({"type": "Split", "pattern": {"Regex": "(a"}, "behavior": "Isolated"})",
       "does not compile"},
      {"pre_tokenizer", "[]", "expected an object"},
      {"post_processor",
       R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x"}}]})",
       "not among special_tokens"},
      {"post_processor.processors.1.special_tokens.<s>.ids", "[99999]",
       "no token has the id 99999"},
      {"decoder", R"({"kind": "ByteLevel"})", "\"type\" is missing"},
  };
  for (const auto& [path, value, words] : cases) {
    const Error e = with(path, value);
    EXPECT_EQ(e.kind(), Kind::bad_data) << e.what();
    EXPECT_THAT(e.what(), HasSubstr(words));
  }
}

TEST(Tokenizer, TruncationAndPaddingOnRequest) {
  Json j = Tokenizer::characters("abc").to_json();
  set_path(j, "truncation", Json::parse(R"({"max_length": 3, "strategy": "LongestFirst",
      "stride": 0, "direction": "Left"})"));
  set_path(j, "padding", Json::parse(R"({"strategy": {"Fixed": 5}, "direction": "Left",
      "pad_to_multiple_of": 4, "pad_id": 2, "pad_type_id": 1, "pad_token": "c"})"));
  const auto t = Tokenizer::from_json(j);
  EXPECT_THAT(t.encode_ids("ababb"), ElementsAre(0, 1, 0, 1, 1));
  EXPECT_THAT(t.encode_ids("aabab", {.truncate_and_pad = true}),
              ElementsAre(2, 2, 2, 2, 2, 1, 0, 1));
  const Encoding pair = t.encode_pair("aaaa", "b", {.truncate_and_pad = true});
  EXPECT_THAT(pair.ids, ElementsAre(2, 2, 2, 2, 2, 0, 0, 1));
  EXPECT_THAT(pair.type_ids, ElementsAre(1, 1, 1, 1, 1, 0, 0, 1));
  EXPECT_EQ(Tokenizer::from_json(t.to_json()).fingerprint(), t.fingerprint());
  set_path(j, "truncation.strategy", "OnlySecond");
  EXPECT_EQ(error_of([&] {
              Tokenizer::from_json(j).encode_ids("ababb", {.truncate_and_pad = true});
            }).kind(),
            Kind::usage);
}

// A chain of steps that doubles a text each time must not eat the memory.
TEST(Tokenizer, GrowthIsBounded) {
  Json j = Tokenizer::characters("ab").to_json();
  Json steps = Json::array();
  for (int i = 0; i < 60; ++i)
    steps.push_back(Json::parse(
        R"({"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"})"));
  set_path(j, "normalizer", Json::object({{"type", "Sequence"}, {"normalizers", steps}}));
  EXPECT_EQ(error_of([&] { Tokenizer::from_json(j).encode_ids("aaaaaaaa"); }).kind(),
            Kind::resource);
}

TEST(Tokenizer, ScriptsAreCutApart) {
  Json j = Tokenizer::from_json(read_fixture("parts_words").at("tokenizer")).to_json();
  set_path(j, "normalizer", Json());
  set_path(j, "pre_tokenizer", Json::object({{"type", "UnicodeScripts"}}));
  set_path(j, "model", Json::parse(R"({"type": "WordLevel", "unk_token": "<unk>", "vocab":
      {"<unk>": 0, "abc ": 1, "\u0414\u0430": 2, "\u6f22\u304b\u30fc ": 3, "12": 4}})"));
  set_path(j, "added_tokens", Json::array());
  set_path(j, "post_processor", Json());
  EXPECT_THAT(Tokenizer::from_json(j).encode_ids(" abc \u0414\u0430\u6f22\u304b\u30fc 12"),
              ElementsAre(1, 2, 3, 4));
}

TEST(Tokenizer, UnknownTokenWhereTheModelHasOne) {
  Json j = Tokenizer::characters("ab?").to_json();
  set_path(j, "model.unk_token", "?");
  EXPECT_THAT(Tokenizer::from_json(j).encode_ids("axyb"), ElementsAre(1, 0, 0, 2));
  set_path(j, "model.fuse_unk", true);
  EXPECT_THAT(Tokenizer::from_json(j).encode_ids("axyb"), ElementsAre(1, 0, 2));
}

TEST(Tokenizer, FoldersWithoutOne) {
  const Folder folder;
  EXPECT_EQ(error_of([&] { Tokenizer::load(folder.path); }).kind(), Kind::not_found);
  EXPECT_EQ(error_of([&] { Tokenizer::load(folder.path / "none"); }).kind(), Kind::not_found);
  write_file_atomic(folder.path / "tokenizer.model", "x");
  EXPECT_EQ(error_of([&] { Tokenizer::load(folder.path); }).kind(), Kind::bad_data);
  for (const char* content : {"", "{", "{}", "[]", "\xFF", "null"}) {
    write_file_atomic(folder.path / "tokenizer.json", content);
    EXPECT_EQ(error_of([&] { Tokenizer::load(folder.path); }).kind(), Kind::bad_data) << content;
  }
  write_file_atomic(folder.path / "tokenizer.json", "");
  EXPECT_EQ(error_of([&] { Tokenizer::load(folder.path); }).kind(), Kind::bad_data);
  write_file_atomic(folder.path / "tokenizer.json", Tokenizer::bytes().to_json().dump());
  write_file_atomic(folder.path / "tokenizer_config.json", "[1]");
  EXPECT_EQ(error_of([&] { Tokenizer::load(folder.path); }).kind(), Kind::bad_data);
}

// Whatever stands in the file, loading it and using it ends well or with an Error.
TEST(TokenizerHostile, DamagedFiles) {
  std::mt19937 random(7);
  size_t loaded = 0, refused = 0;
  const auto attempt = [&](const std::string& content) {
    try {
      const auto t = Tokenizer::from_json(Json::parse(content));
      const auto ids = t.encode_ids("Hello <s> w\xC3\xB6rld [TOOL] 123\n", {.add_special = true});
      t.decode(ids);
      t.fingerprint();
      ++loaded;
    } catch (const Error& e) {
      EXPECT_NE(e.kind(), Kind::internal) << e.what();
      ++refused;
    }
  };
  for (const char* name : {"llama3", "string_merges", "characters", "parts_llama", "parts_unigram",
                           "parts_wordpiece"}) {
    const std::string whole = read_fixture(name).at("tokenizer").dump();
    for (size_t i = 0; i < 60; ++i) attempt(whole.substr(0, random() % whole.size()));
    // Half of the blows fall on the first bytes, where the parts are described.
    for (size_t i = 0; i < 500; ++i) {
      std::string broken = whole;
      for (size_t k = 0, blows = 1 + random() % 3; k < blows; ++k) {
        const size_t at =
            random() % (i % 2 ? broken.size() : std::min<size_t>(broken.size(), 2500));
        static constexpr std::string_view spice = "\"{}[]:,0-9\\x\xFF(*+?";
        const char byte = i % 3 ? spice[random() % spice.size()] : static_cast<char>(random());
        if (random() % 3 == 0) {
          broken.erase(at, 1 + random() % 5);
        } else {
          broken[at] = byte;
        }
      }
      attempt(broken);
    }
  }
  EXPECT_GT(loaded, 20u);
  EXPECT_GT(refused, 500u);
}

// Every value of a good file replaced by one of another type.
TEST(TokenizerHostile, ValuesOfOtherTypes) {
  size_t changed = 0;
  const std::function<void(Json&, Json&)> walk = [&](Json& root, Json& here) {
    const Json kept = here;
    for (const Json& other : {Json(), Json(true), Json(-1), Json(1e300), Json("\xC3\xA9"),
                              Json::array(), Json::object()}) {
      here = other;
      try {
        const auto t = Tokenizer::from_json(root);
        t.decode(t.encode_ids("Hi <s>", {.add_special = true}));
      } catch (const Error& e) {
        EXPECT_NE(e.kind(), Kind::internal) << e.what();
      }
      ++changed;
    }
    here = kept;
    size_t i = 0;  // the first members stand for the others
    if (here.is_array())
      for (Json& item : here.as_array())
        if (i++ < 3) walk(root, item);
    if (here.is_object())
      for (auto& [_, item] : here.as_object())
        if (i++ < 12) walk(root, item);
  };
  for (const char* name : {"llama3", "parts_llama", "parts_unigram", "parts_wordpiece",
                           "parts_words", "parts_suffix", "parts_splits"}) {
    Json root = read_fixture(name).at("tokenizer");
    walk(root, root);
  }
  EXPECT_GT(changed, 2000u);
}

}  // namespace
}  // namespace lmxlab::data
