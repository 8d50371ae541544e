// The tokenizers beside the repository, one for each part of the library, with its results.
#include "lmxlab/base/files.h"
#include "lmxlab/base/text.h"
#include "lmxlab/data/tokenizer.h"
#include "tests/support/shared_fixtures.h"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace lmxlab::data
