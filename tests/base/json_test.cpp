#include "lmxlab/base/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

using namespace lmxlab;
using testing::HasSubstr;

namespace {

Kind kind_of(auto&& body) {
  try {
    body();
  } catch (const Error& e) {
    return e.kind();
  }
  return Kind::internal;  // nothing here throws it on purpose
}
Kind parsing(std::string_view text) {
  return kind_of([&] { Json::parse(text); });
}

TEST(Json, RoundTrips) {
  for (const char* text : {"null", "true", "false", "0", "-1", "9223372036854775807",
                           "-9223372036854775808", "0.5", "1e-05", "\"\"", R"("a\"\\\n\u0001é😀")",
                           "[]", "{}", "[1,2.5,\"x\",null,[],{}]", R"({"b":1,"a":{"c":[true]}})"}) {
    const Json j = Json::parse(text);
    EXPECT_EQ(j.dump(), text);
    EXPECT_EQ(Json::parse(j.dump(2)), j);
  }
}

TEST(Json, RandomValuesRoundTrip) {
  std::mt19937_64 random(7);
  const auto make = [&](auto&& self, int depth) -> Json {
    switch (random() % (depth > 4 ? 6 : 8)) {
      case 0: return Json();
      case 1: return Json(random() % 2 == 0);
      case 2: return Json(static_cast<int64_t>(random()));
      case 3: {
        const auto bits = random();
        double d;
        std::memcpy(&d, &bits, sizeof d);
        return std::isfinite(d) ? Json(d) : Json(0.1);
      }
      case 4: return Json(static_cast<float>(random() % 1000) / 7);
      case 5: {
        std::string s;
        for (auto n = random() % 8; n > 0; --n) s += static_cast<char>(random() % 128);
        return Json(s);
      }
      case 6: {
        Json::Array items;
        for (auto n = random() % 5; n > 0; --n) items.push_back(self(self, depth + 1));
        return Json(items);
      }
      default: {
        Json o = Json::object();
        for (auto n = random() % 5; n > 0; --n)
          o["k" + std::to_string(random() % 100)] = self(self, depth + 1);
        return o;
      }
    }
  };
  for (int i = 0; i < 500; ++i) {
    const Json j = make(make, 0);
    ASSERT_EQ(Json::parse(j.dump()), j) << j.dump();
    ASSERT_EQ(Json::parse(j.dump(3)), j) << j.dump();
  }
}

TEST(Json, FloatsByTheirShortestDecimal) {
  EXPECT_EQ(Json(1e-5f).dump(), "1e-05");
  EXPECT_EQ(Json(0.1f).dump(), "0.1");
  EXPECT_EQ(Json(10000.f).dump(), "10000.0");
  std::mt19937 random(3);
  for (int i = 0; i < 2000; ++i) {
    const uint32_t bits = random();
    float f;
    std::memcpy(&f, &bits, sizeof f);
    if (std::isfinite(f)) {
      ASSERT_EQ(static_cast<float>(Json::parse(Json(f).dump()).as_number()), f) << f;
    }
  }
}

TEST(Json, NumbersAtTheEdges) {
  EXPECT_TRUE(Json::parse("9223372036854775807").is_integer());
  EXPECT_FALSE(Json::parse("9223372036854775808").is_integer());
  EXPECT_TRUE(Json::parse("9223372036854775808").is_number());
  for (const char* large : {"9223372036854775808", "-9223372036854775809",
                            "123456789012345678901234567890", "18446744073709551615"}) {
    const Json v = Json::parse(large);
    ASSERT_TRUE(v.digits()) << large;
    EXPECT_EQ(*v.digits(), large);
    EXPECT_EQ(v.dump(), large);
    EXPECT_EQ(v.as_number(), std::strtod(large, nullptr));
    EXPECT_EQ(v, Json::parse(large));
  }
  EXPECT_FALSE(Json::parse("9223372036854775807").digits());
  EXPECT_FALSE(Json::parse("1e19").digits());
  EXPECT_NE(Json::parse("9223372036854775808"), Json::parse("9223372036854775809"));
  EXPECT_EQ(Json::parse("3.0").as_integer(), 3);
  EXPECT_EQ(Json::parse("-0.0").as_integer(), 0);
  EXPECT_EQ(kind_of([] { Json::parse("3.5").as_integer(); }), Kind::bad_data);
  EXPECT_EQ(kind_of([] { Json::parse("1e300").as_integer(); }), Kind::bad_data);
  EXPECT_EQ(kind_of([] { Json(std::nan("")).as_integer(); }), Kind::bad_data);
  EXPECT_EQ(parsing("1e999"), Kind::bad_data);
  EXPECT_EQ(Json(std::nan("")).dump(), "null");
  EXPECT_EQ(Json(std::numeric_limits<double>::infinity()).dump(), "null");
  EXPECT_EQ(Json(1), Json(1.0));
  EXPECT_NE(Json(1), Json(true));
}

TEST(Json, HostileTextIsBadData) {
  for (const std::string& text : {std::string(),
                                  std::string(" "),
                                  std::string("{"),
                                  std::string("["),
                                  std::string("\""),
                                  std::string("{\"a\"}"),
                                  std::string("{\"a\":}"),
                                  std::string("[1,]"),
                                  std::string("{\"a\":1,}"),
                                  std::string("nul"),
                                  std::string("tru"),
                                  std::string("01"),
                                  std::string("+1"),
                                  std::string("1."),
                                  std::string(".5"),
                                  std::string("NaN"),
                                  std::string("Infinity"),
                                  std::string("'a'"),
                                  std::string("{a:1}"),
                                  std::string("1 2"),
                                  std::string("[1] x"),
                                  std::string("\"\\x\""),
                                  std::string("\"\\u12\""),
                                  std::string("\"\\ud800\""),
                                  std::string("\"\n\""),
                                  std::string("\"\xff\""),
                                  std::string("\"\xc0\x80\""),
                                  std::string("\"\xed\xa0\x80\""),
                                  std::string("[1\0]", 4),
                                  std::string("// c\n1"),
                                  std::string("\x89PNG\r\n\x1a\n"),
                                  std::string(1, '\0')})
    EXPECT_EQ(parsing(text), Kind::bad_data) << testing::PrintToString(text);
}

TEST(Json, TruncatedAtEveryByte) {
  const std::string whole = R"({"a":[1,2.5e3,true,null,"\u00e9\ud83d\ude00"],"b":{"c":"d"}})";
  for (size_t n = 0; n < whole.size(); ++n)
    EXPECT_EQ(parsing(whole.substr(0, n)), Kind::bad_data) << n;
  EXPECT_NO_THROW(Json::parse(whole));
}

TEST(Json, DepthIsBounded) {
  const auto nested = [](size_t n) { return std::string(n, '[') + std::string(n, ']'); };
  EXPECT_NO_THROW(Json::parse(nested(512)));
  EXPECT_EQ(parsing(nested(513)), Kind::bad_data);
  EXPECT_EQ(parsing(std::string(2'000'000, '[')), Kind::bad_data);
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += "{\"a\":";
  EXPECT_EQ(parsing(objects), Kind::bad_data);
}

TEST(Json, ErrorsNameTheTextAndThePlace) {
  try {
    Json::parse("{\n  \"a\": 1,\n  oops\n}", "config.json");
    FAIL();
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr("config.json is not valid JSON"));
    EXPECT_THAT(e.what(), HasSubstr("line 3"));
  }
}

TEST(Json, TheLastOfEqualKeysCounts) {
  const Json j = Json::parse(R"({"a": 1, "b": 2, "a": 3})");
  EXPECT_EQ(j.at("a"), Json(3));
  EXPECT_EQ(j.size(), 2u);
  EXPECT_EQ(j, Json::parse(R"({"b": 2, "a": 3})"));
}

TEST(Json, ObjectsKeepOrderAndCompareWithoutIt) {
  const Json a = Json::parse(R"({"z":1,"a":2})");
  EXPECT_EQ(a.as_object()[0].first, "z");
  EXPECT_EQ(a, Json::parse(R"({"a":2,"z":1})"));
  EXPECT_NE(a, Json::parse(R"({"a":2})"));
  EXPECT_NE(a, Json::parse(R"({"a":2,"y":1})"));
}

TEST(Json, AccessAndChange) {
  Json j;
  j["a"]["b"] = 3;
  j["list"].push_back(1);
  EXPECT_EQ(j.dump(), R"({"a":{"b":3},"list":[1]})");
  EXPECT_EQ(j.find("x"), nullptr);
  EXPECT_EQ(Json(3).find("x"), nullptr);
  j.erase("a"), j.erase("absent");
  EXPECT_EQ(j.size(), 1u);
  EXPECT_EQ(kind_of([&] { j.at("a"); }), Kind::bad_data);
  for (const Json& v :
       {Json(), Json(true), Json(1), Json(1.5), Json("s"), Json::array(), Json::object()}) {
    if (!v.is_bool()) {
      EXPECT_EQ(kind_of([&] { v.as_bool(); }), Kind::bad_data);
    }
    if (!v.is_number()) {
      EXPECT_EQ(kind_of([&] { v.as_number(); }), Kind::bad_data);
    }
    if (!v.is_integer()) {
      EXPECT_EQ(kind_of([&] { v.as_integer(); }), Kind::bad_data);
    }
    if (!v.is_string()) {
      EXPECT_EQ(kind_of([&] { v.as_string(); }), Kind::bad_data);
    }
    if (!v.is_array()) {
      EXPECT_EQ(kind_of([&] { v.as_array(); }), Kind::bad_data);
    }
    if (!v.is_object()) {
      EXPECT_EQ(kind_of([&] { v.as_object(); }), Kind::bad_data);
    }
  }
}

TEST(Json, DumpIsValidUtf8) {
  const std::string text = Json(std::string("a\xff\xc3")).dump();
  EXPECT_NO_THROW(Json::parse(text)) << text;
  const std::string key = Json::object({{"\xfe", 1}}).dump(1);
  EXPECT_NO_THROW(Json::parse(key)) << key;
}

TEST(SetPath, MembersElementsAndAll) {
  Json j = Json::parse(R"({"layers":[{"w":1},{"w":2}]})");
  set_path(j, "layers.1.w", 5);
  set_path(j, "layers.*.x", "y");
  set_path(j, "new.deep.key", true);
  EXPECT_EQ(j, Json::parse(
                   R"({"layers":[{"w":1,"x":"y"},{"w":5,"x":"y"}],"new":{"deep":{"key":true}}})"));
}

TEST(SetPath, WrongPathsAreUsageErrors) {
  const Json base = Json::parse(R"({"n":3,"l":[1]})");
  std::string deep = "a";
  for (int i = 0; i < 100'000; ++i) deep += ".a";
  for (const std::string& path :
       {std::string("n.x"), std::string("l.1"), std::string("l.-1"), std::string("l.x"),
        std::string("l.0x"), std::string("l."), std::string("l.0.a"),
        std::string("l.99999999999999999999"), deep}) {
    Json j = base;
    EXPECT_EQ(kind_of([&] { set_path(j, path, 1); }), Kind::usage) << path.substr(0, 40);
  }
}

TEST(ParseValue, JsonOrElseText) {
  EXPECT_EQ(parse_value("3"), Json(3));
  EXPECT_EQ(parse_value("1e-3"), Json(0.001));
  EXPECT_EQ(parse_value("true"), Json(true));
  EXPECT_EQ(parse_value("[1,2]"), Json::parse("[1,2]"));
  EXPECT_EQ(parse_value("adamw"), Json("adamw"));
  EXPECT_EQ(parse_value("\"3\""), Json("3"));
  EXPECT_EQ(parse_value(""), Json(""));
  EXPECT_EQ(parse_value("007"), Json("007"));
  EXPECT_EQ(parse_value("[1,"), Json("[1,"));
}

TEST(Json, WhatPythonWrites) {
  const Json j = parse_python_json(
      R"({"a": [0.0, Infinity], "b": -Infinity, "c": {"__float__": "Infinity"}, "d": "Infinity \"NaN", "e": NaN})");
  EXPECT_EQ(j.at("a").as_array()[1].as_number(), INFINITY);
  EXPECT_EQ(j.at("b").as_number(), -INFINITY);
  EXPECT_EQ(j.at("c").as_number(), INFINITY);
  EXPECT_EQ(j.at("d").as_string(), "Infinity \"NaN");
  EXPECT_TRUE(std::isnan(j.at("e").as_number()));
  EXPECT_THROW(parse_python_json("{\"a\": Infinit}"), Error);
  EXPECT_THROW(parse_python_json("{\"a\": --Infinity}"), Error);
}

}  // namespace
