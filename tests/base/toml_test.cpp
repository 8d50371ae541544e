#include "lmxlab/base/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

using namespace lmxlab;
using testing::HasSubstr;

namespace {

Kind parsing(std::string_view text) {
  try {
    parse_toml(text);
  } catch (const Error& e) {
    return e.kind();
  }
  return Kind::internal;
}

TEST(Toml, ReadsWhatARecipeHas) {
  const Json j = parse_toml(R"(
# a comment
title = "x"
[model]
preset = "gpt-small"
depth = 4
[[model.layers]]
repeat = 3
mixer = { kind = "attention", heads = 8 }
[[model.layers]]
ffn = "none"
[optimizer]
lr = 1e-3
betas = [0.9, 0.95]
on = true
[run]
date = 2024-05-01
big = 1_000
hex = 0xff
path = 'C:\raw'
)");
  EXPECT_EQ(j, Json::parse(R"({"title":"x","model":{"preset":"gpt-small","depth":4,"layers":[
    {"repeat":3,"mixer":{"kind":"attention","heads":8}},{"ffn":"none"}]},
    "optimizer":{"lr":0.001,"betas":[0.9,0.95],"on":true},
    "run":{"date":"2024-05-01","big":1000,"hex":255,"path":"C:\\raw"}})"));
}

TEST(Toml, RoundTrips) {
  for (const char* text :
       {"{}", R"({"a":1,"b":-2.5,"c":true,"d":"x"})", R"({"a":{"b":{"c":{}}}})",
        R"({"s":"quote \" back \\ line\n tab\t bell\u0007 del\u007f é 😀"})",
        R"({"":1,"a b":2,"a.b":{"c\"d":3},"é":4})",
        R"({"l":[],"m":[[1,2],[3]],"n":[1,{"a":[]},"x"]})",
        R"({"t":[{"a":1,"b":{"c":2,"d":[{"e":3}]}},{},{"f":[1,2]}],"after":1})",
        R"({"big":9223372036854775807,"small":-9223372036854775808,"f":1e300,"g":1e-300,"h":3.0})",
        R"({"a":{"x":1,"t":[{"k":1}],"y":{"z":2}},"b":2})"}) {
    const Json j = Json::parse(text);
    const std::string toml = dump_toml(j);
    EXPECT_EQ(parse_toml(toml), j) << toml;
  }
  const Json kept = parse_toml(dump_toml(Json::object({{"a", 3.0}})));
  EXPECT_FALSE(kept.at("a").is_integer()) << "a number stays a number";
}

TEST(Toml, NullsAreLeftOut) {
  const Json j = Json::parse(R"({"a":null,"b":{"c":null,"d":1},"t":[{"x":null,"y":{"z":null}}]})");
  EXPECT_EQ(parse_toml(dump_toml(j)), Json::parse(R"({"b":{"d":1},"t":[{"y":{}}]})"));
  try {
    dump_toml(Json::parse(R"({"a":[1,null]})"));
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), Kind::unsupported);
  }
}

TEST(Toml, NotFiniteNumbers) {
  const double infinity = std::numeric_limits<double>::infinity();
  const Json j =
      parse_toml(dump_toml(Json::object({{"a", infinity}, {"b", -infinity}, {"c", std::nan("")}})));
  EXPECT_EQ(j.at("a").as_number(), infinity);
  EXPECT_EQ(j.at("b").as_number(), -infinity);
  EXPECT_TRUE(std::isnan(j.at("c").as_number()));
}

TEST(Toml, HostileTextIsBadData) {
  for (const std::string& text :
       {std::string("a"), std::string("a ="), std::string("= 1"), std::string("a = 1\na = 2"),
        std::string("[a]\n[a]"), std::string("[a"), std::string("a = \"x"), std::string("a = [1,"),
        std::string("a = {b = 1"), std::string("a = 01"), std::string("a = 99999999999999999999"),
        std::string("a = \"\\q\""), std::string("a = '\xff'"), std::string("a = \"\0\"", 7),
        std::string("\x89PNG\r\n\x1a\n\0", 9), std::string("a = 1\n[a.b]"),
        std::string("{\"json\": 1}"), "a = " + std::string(100'000, '['),
        "a = " + std::string(1000, '[') + std::string(1000, ']')})
    EXPECT_EQ(parsing(text), Kind::bad_data) << testing::PrintToString(text.substr(0, 60));
  EXPECT_EQ(parse_toml(""), Json::object());
}

TEST(Toml, DepthOfKeysIsBounded) {
  std::string keys = "a";
  for (int i = 0; i < 200'000; ++i) keys += ".a";
  EXPECT_EQ(parsing(keys + " = 1"), Kind::bad_data);
  EXPECT_EQ(parsing("[" + keys + "]"), Kind::bad_data);
  EXPECT_EQ(parsing("[[" + keys + "]]"), Kind::bad_data);
  EXPECT_NO_THROW(parse_toml("a.b.c.d.e.f.g.h = 1"));
}

// A header and a key's dots come together in what is written.
TEST(Toml, DepthOfTablesIsBounded) {
  const auto deep = [](int header, int key) {
    std::string text = "[a";
    for (int i = 0; i < header; ++i) text += ".a";
    text += "]\n" + std::string("b");
    for (int i = 0; i < key; ++i) text += ".b";
    return text + " = {}\n";
  };
  const auto most = dump_toml(parse_toml(deep(16, 15)));
  EXPECT_EQ(dump_toml(parse_toml(most)), most);
  EXPECT_EQ(parsing(deep(16, 16)), Kind::bad_data);
}

// toml++ asserts of these that a key begins there.
TEST(Toml, WhatIsNoKey) {
  for (const char* text :
       {"[~", "[~]", "[[~t]]", "a.~ = 1", "a = \u00E9", "\u00E9 = 1", "[\u00E9]"})
    EXPECT_EQ(parsing(text), Kind::bad_data) << text;
}

TEST(Toml, ErrorsNameTheFileAndThePlace) {
  try {
    parse_toml("a = 1\nb = oops\n", "recipe.toml");
    FAIL();
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr("recipe.toml is not valid TOML"));
    EXPECT_THAT(e.what(), HasSubstr("line 2"));
  }
}

}  // namespace
