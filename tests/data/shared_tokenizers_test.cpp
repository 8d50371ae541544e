// The tokenizers beside the repository, one for each part of the library, with its results.
#include "lmxlab/base/files.h"
#include "lmxlab/base/text.h"
#include "lmxlab/data/gguf_vocabulary.h"
#include "lmxlab/data/tokenizer.h"
#include "lmxlab/data/tokenizer/unicode.h"
#include "tests/support/shared_fixtures.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>

namespace lmxlab::data {
namespace {

std::vector<int> ints(const Json& list) {
  std::vector<int> out;
  for (const Json& j : list.as_array()) out.push_back(static_cast<int>(j.as_integer()));
  return out;
}
std::vector<std::string> strings(const Json& list) {
  std::vector<std::string> out;
  for (const Json& j : list.as_array()) out.push_back(j.as_string());
  return out;
}

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

struct Counts {
  size_t cases = 0, pairs = 0;
};

void compare(const Tokenizer& t, const Json& expected, Counts& counts) {
  const EncodeOptions plain{.truncate_and_pad = true};
  const EncodeOptions around{.add_special = true, .truncate_and_pad = true};
  for (const Json& c : expected.at("cases").as_array()) {
    const std::string& text = c.at("text").as_string();
    SCOPED_TRACE(Json(text).dump());
    const std::vector<int> ids = ints(c.at("ids"));
    const Encoding got = t.encode_all(text, plain);
    EXPECT_EQ(got.ids, ids);
    EXPECT_EQ(t.encode_ids(text, plain), ids);
    EXPECT_EQ(got.tokens, strings(c.at("tokens")));
    const Encoding with = t.encode_all(text, around);
    EXPECT_EQ(with.ids, c.contains("ids_template") ? ints(c.at("ids_template")) : ids);
    EXPECT_EQ(t.encode_ids(text, around), with.ids);
    if (c.contains("type_ids_template")) {
      EXPECT_EQ(with.type_ids, ints(c.at("type_ids_template")));
    }
    const std::string& decoded = c.at("decoded").as_string();
    const std::string& skipped =
        (c.contains("decoded_skip") ? c.at("decoded_skip") : c.at("decoded")).as_string();
    EXPECT_EQ(t.decode(ids), decoded);
    EXPECT_EQ(t.decode(ids, true), skipped);
    EXPECT_EQ(stream(t, ids, false), decoded);
    EXPECT_EQ(stream(t, ids, true), skipped);
    ++counts.cases;
  }
  for (const Json& p : expected.at("pairs").as_array()) {
    const std::string &first = p.at("text").as_string(), &second = p.at("pair").as_string();
    SCOPED_TRACE(Json(first).dump() + " and " + Json(second).dump());
    const Encoding got = t.encode_pair(first, second, around);
    EXPECT_EQ(got.ids, ints(p.at("ids")));
    EXPECT_EQ(got.type_ids, ints(p.at("type_ids")));
    ++counts.pairs;
  }
}

TEST(SharedTokenizers, EqualTheLibrary) {
  const auto shared = test::shared_fixtures("tokenizers/json");
  if (!shared) return;
  const auto& root = *shared;
  Counts counts;
  size_t files = 0;
  for (const auto& entry : fs::directory_iterator(root)) {
    const fs::path folder = entry.path();
    SCOPED_TRACE(folder.filename().string());
    const Json expected = Json::parse(read_file(folder / "expected.json"), "expected.json");
    const Tokenizer t = Tokenizer::load(folder);
    compare(t, expected, counts);
    // Written and read again it is the same.
    const Tokenizer again = Tokenizer::from_json(t.to_json());
    EXPECT_EQ(again.fingerprint(), t.fingerprint());
    Counts ignored;
    compare(again, expected, ignored);
    ++files;
  }
  EXPECT_GE(files, 30u);
  std::cout << counts.cases << " texts and " << counts.pairs << " pairs of " << files
            << " tokenizers\n";
}

// What a GGUF file can say of a tokenizer encodes as the tokenizer; of others it says that it
// cannot.
TEST(SharedTokenizers, AsAGgufVocabulary) {
  const auto shared = test::shared_fixtures("tokenizers/json");
  if (!shared) return;
  std::vector<std::string> said;
  for (const auto& entry : fs::directory_iterator(*shared)) {
    const std::string name = entry.path().filename().string();
    SCOPED_TRACE(name);
    const Json expected = Json::parse(read_file(entry.path() / "expected.json"), "expected.json");
    const Tokenizer t = Tokenizer::load(entry.path());
    std::optional<Tokenizer> again;
    try {
      again = tokenizer_from_gguf(gguf_vocabulary_of(t));
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), Kind::unsupported) << e.what();
      continue;
    }
    said.push_back(name);
    for (const Json& c : expected.at("cases").as_array()) {
      const std::string& text = c.at("text").as_string();
      // Normal forms are not said, and a text in that form needs none.
      if (name == "bpe_qwen_nfc" && normalized(text, NormalForm::nfc) != text) continue;
      // A space in front goes before every text, here only before one that has none.
      const bool in_front =
          name == "bpe_bytelevel_prefix_space" || name == "bpe_byte_fallback_metaspace_first";
      if (in_front && (text.starts_with(' ') || text.starts_with('<'))) continue;
      EXPECT_EQ(again->encode_ids(text), t.encode_ids(text)) << Json(text).dump();
    }
  }
  std::sort(said.begin(), said.end());
  EXPECT_EQ(said,
            (std::vector<std::string>{"bpe_byte_fallback_gemma", "bpe_byte_fallback_llama",
                                      "bpe_byte_fallback_metaspace_first", "bpe_bytelevel_gpt2",
                                      "bpe_bytelevel_prefix_space", "bpe_deepseek",
                                      "bpe_digits_bytelevel", "bpe_ignore_merges", "bpe_qwen_nfc",
                                      "bpe_split_llama3", "template_types", "truncation_padding"}));
}

}  // namespace
}  // namespace lmxlab::data
