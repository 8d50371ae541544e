#include "lmxlab/base/text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

using namespace lmxlab;
using testing::ElementsAre;

namespace {

TEST(Text, Nearest) {
  const std::vector<std::string> names{"gpt-small", "gpt-medium", "llama-7b"};
  EXPECT_EQ(nearest("gpt-smal", names), "gpt-small");
  EXPECT_EQ(nearest("lama7b", names), "llama-7b");
  EXPECT_EQ(nearest("gpt-small", names), "gpt-small");
  EXPECT_EQ(nearest("bert", names), "");
  EXPECT_EQ(nearest("", {}), "");
  EXPECT_EQ(nearest("ab", {"xy"}), "xy") << "two changes are allowed in any name";
  EXPECT_EQ(nearest("ab", {"xyz"}), "");
  EXPECT_EQ(suggestion("gpt-smal", names), "did you mean \"gpt-small\"?");
  EXPECT_EQ(suggestion("bert-base-uncased", names), "known: gpt-small, gpt-medium, llama-7b");
}

TEST(Text, JoinSplitTrim) {
  EXPECT_EQ(join({}, ", "), "");
  EXPECT_EQ(join({"a"}, ", "), "a");
  EXPECT_EQ(join({"a", "", "b"}, "-"), "a--b");
  EXPECT_THAT(split("", '.'), ElementsAre(""));
  EXPECT_THAT(split("a", '.'), ElementsAre("a"));
  EXPECT_THAT(split(".a..b.", '.'), ElementsAre("", "a", "", "b", ""));
  EXPECT_EQ(trim("  a b\t\r\n"), "a b");
  EXPECT_EQ(trim(" \n"), "");
  EXPECT_EQ(trim(""), "");
  EXPECT_EQ(trim("x"), "x");
}

TEST(Text, SizesForPeople) {
  EXPECT_EQ(human_bytes(0), "0 B");
  EXPECT_EQ(human_bytes(999), "999 B");
  EXPECT_EQ(human_bytes(1536), "1.54 KB");
  EXPECT_EQ(human_bytes(43'100'160), "43.1 MB");
  EXPECT_EQ(human_bytes(2e12), "2.00 TB");
  EXPECT_EQ(human_bytes(-2e6), "-2.00 MB");
  EXPECT_EQ(human_count(7), "7");
  EXPECT_EQ(human_count(124'439'808), "124.4M");
  EXPECT_EQ(human_count(6'738'415'616), "6.7B");
  EXPECT_EQ(human_seconds(0), "0s");
  EXPECT_EQ(human_seconds(59.4), "59s");
  EXPECT_EQ(human_seconds(59.6), "1m 00s");
  EXPECT_EQ(human_seconds(125.4), "2m 05s");
  EXPECT_EQ(human_seconds(3600), "1h 00m");
  EXPECT_EQ(human_seconds(7384), "2h 03m");
  EXPECT_EQ(human_seconds(-1), "?");
  EXPECT_EQ(human_seconds(std::nan("")), "?");
  EXPECT_EQ(human_seconds(std::numeric_limits<double>::infinity()), "?");
}

TEST(Text, Commas) {
  EXPECT_EQ(with_commas(0), "0");
  EXPECT_EQ(with_commas(999), "999");
  EXPECT_EQ(with_commas(1000), "1,000");
  EXPECT_EQ(with_commas(124439808), "124,439,808");
  EXPECT_EQ(with_commas(-999), "-999");
  EXPECT_EQ(with_commas(-1000), "-1,000");
  EXPECT_EQ(with_commas(std::numeric_limits<int64_t>::min()), "-9,223,372,036,854,775,808");
}

TEST(Text, ShortestReadsBack) {
  EXPECT_EQ(shortest(0.1f), 0.1);
  EXPECT_EQ(shortest(1e-5f), 1e-5);
  EXPECT_EQ(shortest(16777216.f), 16777216.0);
  EXPECT_TRUE(std::isnan(shortest(std::nanf(""))));
  EXPECT_TRUE(std::isinf(shortest(INFINITY)));
  std::mt19937 random(5);
  for (int i = 0; i < 5000; ++i) {
    const uint32_t bits = random();
    float f;
    std::memcpy(&f, &bits, sizeof f);
    if (std::isfinite(f)) {
      ASSERT_EQ(static_cast<float>(shortest(f)), f) << f;
    }
  }
}

TEST(Utf8, EveryCodePointIsValidAndSurrogatesAreNot) {
  for (char32_t c = 0; c <= 0x10FFFF; c += c < 0x3000 ? 1 : 61) {
    std::string s;
    append_utf8(s, c);
    const bool surrogate = c >= 0xD800 && c <= 0xDFFF;
    ASSERT_EQ(invalid_utf8_at(s), surrogate ? 0 : std::string::npos) << static_cast<uint32_t>(c);
    ASSERT_EQ(s.size(), c < 0x80 ? 1u : c < 0x800 ? 2u : c < 0x10000 ? 3u : 4u);
  }
}

TEST(Utf8, TheFirstBadByte) {
  EXPECT_EQ(invalid_utf8_at(""), std::string::npos);
  for (const char* bad :
       {"\x80", "\xbf", "\xc0\x80", "\xc1\xbf", "\xe0\x80\x80", "\xe0\x9f\xbf", "\xed\xa0\x80",
        "\xf0\x80\x80\x80", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff", "\xc3", "\xe2\x82",
        "\xf0\x9f\x98", "\xc3(", "\xe2(\xac", "\xf0\x9f(\x80"}) {
    EXPECT_EQ(invalid_utf8_at(bad), 0u) << testing::PrintToString(std::string(bad));
    EXPECT_EQ(invalid_utf8_at(std::string("h\xc3\xa9") + bad), 3u);
    EXPECT_EQ(invalid_utf8_at(std::string(bad) + "tail"), 0u);
  }
}

}  // namespace
