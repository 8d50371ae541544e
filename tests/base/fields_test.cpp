#include "lmxlab/base/fields.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

using namespace lmxlab;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

namespace fields_test {

enum class Colour { red, green };
struct Circle {
  static constexpr const char* kind = "circle";
  float radius = 1;
  template <class V>
  void visit(V& v) {
    v("radius", radius, "in metres");
  }
};
struct Square {
  static constexpr const char* kind = "square";
  int side = 2;
  std::optional<int> rounding = {};
  template <class V>
  void visit(V& v) {
    v("side", side), v("rounding", rounding);
  }
};
struct Scene {
  bool on = true;
  int8_t tiny = 1;
  uint32_t count = 2;
  int64_t large = 3;
  double share = 0.5;
  std::string name = "scene";
  Colour colour = Colour::red;
  std::variant<Circle, Square> shape;
  std::optional<std::variant<Circle, Square>> second = {};
  std::vector<Square> squares;
  std::vector<int> numbers = {1, 2};
  std::array<float, 2> pair = {0.25f, 0.5f};
  Json free = Json::object();
  template <class V>
  void visit(V& v) {
    v("on", on, "a switch"), v("tiny", tiny), v("count", count), v("large", large),
        v("share", share);
    v("name", name), v("colour", colour), v("shape", shape), v("second", second),
        v("squares", squares);
    v("numbers", numbers), v("pair", pair), v("free", free);
  }
};

}  // namespace fields_test

template <>
struct lmxlab::EnumNames<fields_test::Colour> {
  static constexpr std::pair<fields_test::Colour, const char*> table[] = {
      {fields_test::Colour::red, "red"}, {fields_test::Colour::green, "green"}};
};

namespace fields_test {
namespace {

std::vector<std::string> faults(std::string_view json, Scene* out = nullptr) {
  Scene scene;
  Problems problems;
  from_json(Json::parse(json), scene, "", problems);
  if (out) *out = scene;
  return problems.list();
}

TEST(Fields, RoundTripsThroughJsonAndToml) {
  Scene s;
  s.on = false, s.tiny = -128, s.count = 4'000'000'000u, s.large = INT64_MIN, s.share = 0.1,
  s.name = "é\n";
  s.colour = Colour::green, s.shape = Square{.side = 5, .rounding = 1}, s.second = Circle{0.1f};
  s.squares = {Square{}, Square{.side = 9}}, s.numbers = {}, s.pair = {1e-5f, 3},
  s.free = Json::parse(R"({"a":[1]})");
  EXPECT_TRUE(same_fields(from_json<Scene>(Json::parse(to_json(s).dump()), "s"), s));
  EXPECT_TRUE(same_fields(from_json<Scene>(parse_toml(dump_toml(to_json(s))), "s"), s));
  EXPECT_FALSE(same_fields(s, Scene{}));
  EXPECT_EQ(
      to_json(Scene{}).dump(),
      R"({"on":true,"tiny":1,"count":2,"large":3,"share":0.5,"name":"scene","colour":"red",)"
      R"("shape":{"kind":"circle","radius":1.0},"second":null,"squares":[],"numbers":[1,2],"pair":[0.25,0.5],"free":{}})");
}

TEST(Fields, AbsentMembersKeepTheirDefaults) {
  Scene s;
  EXPECT_THAT(faults(R"({"squares":[{}], "shape":{"kind":"square"}})", &s), IsEmpty());
  EXPECT_EQ(s.numbers.size(), 2u);
  EXPECT_EQ(s.squares.at(0).side, 2);
  EXPECT_EQ(std::get<Square>(s.shape).side, 2);
}

TEST(Fields, VariantsByKindByNameOrInPlace) {
  Scene s;
  s.shape = Square{.side = 7, .rounding = 3};
  Problems problems;
  from_json(Json::parse(R"({"shape":{"rounding":4}})"), s, "", problems);
  EXPECT_EQ(std::get<Square>(s.shape).side, 7)
      << "without a kind the alternative is changed in place";
  EXPECT_EQ(std::get<Square>(s.shape).rounding, 4);
  from_json(Json::parse(R"({"shape":{"kind":"square","rounding":null}})"), s, "", problems);
  EXPECT_EQ(std::get<Square>(s.shape).side, 7);
  EXPECT_FALSE(std::get<Square>(s.shape).rounding);
  from_json(Json::parse(R"({"shape":"circle","second":"square"})"), s, "", problems);
  EXPECT_EQ(std::get<Circle>(s.shape).radius, 1);
  EXPECT_TRUE(std::holds_alternative<Square>(*s.second));
  from_json(Json::parse(R"({"second":null})"), s, "", problems);
  EXPECT_FALSE(s.second);
  EXPECT_THAT(problems.list(), IsEmpty());
}

TEST(Fields, EveryFaultWithItsPath) {
  EXPECT_THAT(
      faults(
          R"({"on":1,"name":3,"colour":"rde","shape":{"kind":"circl"},"squares":[{"side":"x"},{"sid":1}],
                         "numbers":{},"pair":[1],"share":"much","nmae":"x"})"),
      ElementsAre(
          "on: expected true or false, got an integer",
          HasSubstr("share: expected a number, got \"much\""), HasSubstr("name: expected a string"),
          "colour: expected one of red, green, got \"rde\"",
          "shape.kind: \"circl\" is unknown; did you mean \"circle\"?",
          "squares.0.side: expected an integer, got \"x\"",
          "squares.1.sid: unknown key; did you mean \"side\"?",
          "numbers: expected a list, got an object", "pair: expected a list of 2, got an array",
          "nmae: unknown key; did you mean \"name\"?"));
  EXPECT_THAT(faults("[]"), ElementsAre("the document: expected a table, got an array"));
  EXPECT_THAT(faults(R"({"shape":3,"second":{"kind":4}})"),
              ElementsAre("shape: expected a table with a kind, got an integer",
                          "second.kind: expected a string"));
}

TEST(Fields, IntegersInTheirRange) {
  Scene s;
  EXPECT_THAT(faults(R"({"tiny":-128,"count":4294967295,"large":9223372036854775807})", &s),
              IsEmpty());
  EXPECT_EQ(s.tiny, -128);
  EXPECT_THAT(faults(R"({"tiny":128})"), ElementsAre("tiny: 128 is out of range"));
  EXPECT_THAT(faults(R"({"count":-1})"), ElementsAre("count: -1 is out of range"));
  EXPECT_THAT(faults(R"({"count":4294967296})"), ElementsAre("count: 4294967296 is out of range"));
  EXPECT_THAT(faults(R"({"large":3.0})", &s), IsEmpty());
  EXPECT_EQ(s.large, 3);
  for (const char* number : {"3.5", "1e18", "1e300", "-1e300", "9223372036854775808"})
    EXPECT_THAT(faults(std::string(R"({"large":)") + number + "}"),
                ElementsAre("large: expected an integer, got a number"))
        << number;
  Problems problems;
  Scene n;
  from_json(Json::object({{"large", std::numeric_limits<double>::quiet_NaN()}}), n, "", problems);
  EXPECT_EQ(problems.list().size(), 1u);
}

TEST(Fields, ThrowsWithNameAndKind) {
  try {
    from_json<Scene>(Json::parse(R"({"on":1})"), "scene.json", Kind::usage);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), Kind::usage);
    EXPECT_STREQ(e.what(), "scene.json: on: expected true or false, got an integer");
  }
}

TEST(Fields, HelpListsEachFieldWithItsDefault) {
  const auto help = describe_fields<Scene>();
  ASSERT_EQ(help.size(), 13u);
  EXPECT_EQ(help[0].name, "on");
  EXPECT_EQ(help[0].value, "true");
  EXPECT_EQ(help[0].help, "a switch");
  EXPECT_EQ(help[6].value, "\"red\"");
}

TEST(Enums, NamesBothWays) {
  EXPECT_EQ(enum_name(Colour::green), "green");
  EXPECT_EQ(enum_value<Colour>("green"), Colour::green);
  EXPECT_EQ(enum_value<Colour>("blue"), std::nullopt);
  EXPECT_THAT(enum_names<Colour>(), ElementsAre("red", "green"));
}

}  // namespace
}  // namespace fields_test
