#include "lmxlab/data/tokenizer/bpe.h"

#include "lmxlab/base/error.h"
#include "lmxlab/data/tokenizer/regex.h"
#include "lmxlab/data/tokenizer/unicode.h"

#include <gtest/gtest.h>

#include <chrono>
#include <map>
#include <random>

namespace lmxlab::data {
namespace {

// Slow twin: look for the best pair in the whole list, merge its leftmost place, again.
std::vector<int> naive(const Bpe::Data& data, std::string_view piece) {
  std::vector<std::string> parts;
  for (size_t at = 0, length = 0; at < piece.size(); at += length) {
    code_point(piece, at, length);
    parts.emplace_back(piece.substr(at, length));
  }
  std::map<std::pair<std::string, std::string>, size_t> ranks;
  for (size_t i = 0; i < data.merges.size(); ++i) ranks[data.merges[i]] = i;
  for (;;) {
    size_t best = data.merges.size(), where = 0;
    for (size_t i = 0; i + 1 < parts.size(); ++i)
      if (const auto it = ranks.find({parts[i], parts[i + 1]});
          it != ranks.end() && it->second < best)
        best = it->second, where = i;
    if (best == data.merges.size()) break;
    parts[where] += parts[where + 1];
    parts.erase(parts.begin() + static_cast<long>(where) + 1);
  }
  std::map<std::string, int> ids(data.vocab.begin(), data.vocab.end());
  std::vector<int> out;
  for (const auto& p : parts) out.push_back(ids.at(p));
  return out;
}

// Random merges over a few letters, one of them wide; later merges use the tokens of earlier ones.
Bpe::Data random_model(std::mt19937& random, size_t merges) {
  Bpe::Data data;
  std::vector<std::string> tokens{"a", "b", "c", "\xC3\xA9", "\xE6\xBC\xA2"};
  for (const auto& t : tokens) data.vocab.emplace_back(t, static_cast<int>(data.vocab.size()));
  for (size_t i = 0; i < merges; ++i) {
    const std::string left = tokens[random() % tokens.size()],
                      right = tokens[random() % tokens.size()];
    const std::string both = left + right;
    if (both.size() > 20 || std::find(tokens.begin(), tokens.end(), both) != tokens.end()) continue;
    tokens.push_back(both);
    data.vocab.emplace_back(both, static_cast<int>(data.vocab.size()));
    data.merges.emplace_back(left, right);
  }
  std::shuffle(data.merges.begin(), data.merges.end(), random);
  return data;
}

TEST(Bpe, EqualsTheNaiveLoop) {
  std::mt19937 random(1);
  for (int round = 0; round < 60; ++round) {
    const Bpe::Data data = random_model(random, 5 + random() % 60);
    const Bpe bpe(data);
    for (int k = 0; k < 20; ++k) {
      std::string word;
      for (size_t n = random() % 90; n > 0; --n) word += data.vocab[random() % 5].first;
      const auto expected = naive(data, word);
      for (int again = 0; again < 2; ++again) {  // the second time from the cache
        std::vector<int> ids;
        bpe.encode(word, ids);
        ASSERT_EQ(ids, expected) << word;
      }
    }
  }
}

TEST(Bpe, CacheOverflowsWithoutHarm) {
  std::mt19937 random(3);
  const Bpe::Data data = random_model(random, 40);
  const Bpe bpe(data);
  std::vector<std::string> words;
  for (int i = 0; i < 80'000; ++i) {
    auto& w = words.emplace_back();
    for (int k = 0; k < 12; ++k) w += data.vocab[random() % 5].first;
  }
  for (const auto& w : words) {
    std::vector<int> ids;
    bpe.encode(w, ids);
    std::string back;
    for (const int id : ids) back += data.vocab[static_cast<size_t>(id)].first;
    ASSERT_EQ(back, w);
  }
}

// Sixteen times the length must not take much more than sixteen times as long: a quadratic loop
// would take 256 times.
TEST(Bpe, LongWordsTakeLinearithmicTime) {
  std::mt19937 random(5);
  const Bpe::Data data = [&] {
    Bpe::Data d;
    std::string token = "a";
    d.vocab = {{"a", 0}, {"b", 1}, {"ab", 2}, {"ba", 3}};
    for (int i = 0; i < 14; ++i) {
      d.merges.emplace_back(token, token);
      token += token;
      d.vocab.emplace_back(token, static_cast<int>(d.vocab.size()));
    }
    d.merges.emplace_back("a", "b");
    d.merges.emplace_back("b", "a");
    return d;
  }();
  const Bpe bpe(data);
  const auto seconds = [&](const std::string& word) {
    double best = 1e9;
    for (int i = 0; i < 3; ++i) {
      std::vector<int> ids;
      const auto start = std::chrono::steady_clock::now();
      bpe.encode(word, ids);
      best = std::min(
          best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
      EXPECT_FALSE(ids.empty());
    }
    return best;
  };
  std::string mixed;
  for (size_t i = 0; i < (1u << 20); ++i) mixed += random() % 8 ? 'a' : 'b';
  for (const std::string& word : {std::string(1 << 20, 'a'), mixed}) {
    const double small = seconds(word.substr(0, 1 << 16)), large = seconds(word);
    EXPECT_LT(large, 80 * small) << small << " s for 64 KiB, " << large << " s for 1 MiB";
  }
}

std::vector<std::string> pieces(const std::string& pattern, const std::string& text) {
  std::vector<size_t> ends;
  Regex(pattern).cut(text, 0, ends);
  std::vector<std::string> out;
  size_t begin = 0;
  for (const size_t end : ends) out.push_back(text.substr(begin, end - begin)), begin = end;
  return out;
}

TEST(Regex, CutsMatchesAndWhatIsBetween) {
  using V = std::vector<std::string>;
  EXPECT_EQ(pieces("b+", "abbcb"), (V{"a", "bb", "c", "b"}));
  EXPECT_EQ(pieces("x*", "ab"), (V{"a", "b"}));              // empty matches cut
  EXPECT_EQ(pieces("", "a\xC3\xA9"), (V{"a", "\xC3\xA9"}));  // between characters, not bytes
  EXPECT_EQ(pieces("b", ""), V{});
}

TEST(Regex, RubysMeaning) {
  using V = std::vector<std::string>;
  EXPECT_EQ(pieces(R"(\s+)", "a\u00A0\u3000b\u180Ec"), (V{"a", "\u00A0\u3000", "b\u180Ec"}));
  EXPECT_EQ(pieces(R"(\w+)", "e\u0301_1\u00BD!"), (V{"e\u0301_1\u00BD", "!"}));
  EXPECT_EQ(pieces(R"([\w]+)", "e\u0301_1\u00BD!"),
            (V{"e\u0301_1", "\u00BD!"}));                             // no fractions in a class
  EXPECT_EQ(pieces(R"(\h+)", "xBEEF x"), (V{"x", "BEEF", " x"}));     // hexadecimal digits
  EXPECT_EQ(pieces(R"(\d{1,3}+)", "x1234567"), (V{"x", "1234567"}));  // repeated, not possessive
  EXPECT_EQ(pieces(R"((?:ab){1,2}+)", "xababab"), (V{"x", "ababab"}));
  EXPECT_EQ(pieces(R"(x{,2}y)", "xxxy"), (V{"x", "xxy"}));
  EXPECT_EQ(pieces(R"(\p{Han}+)", "\u3001\u6F22\u3005"),
            (V{"\u3001", "\u6F22\u3005"}));  // the script, not its extensions
  EXPECT_EQ(pieces(R"([\p{Yi}]+)", "\uA000\u3002"), (V{"\uA000", "\u3002"}));
  EXPECT_EQ(pieces(R"(\p{^L}+)", "ab12c"), (V{"ab", "12", "c"}));
  EXPECT_EQ(pieces(R"(\u00e9|\x{e8})", "a\u00E9\u00E8"), (V{"a", "\u00E9", "\u00E8"}));
  EXPECT_EQ(pieces(R"(^b$)", "a\nb\nc"), (V{"a\n", "b", "\nc"}));  // lines, always
  EXPECT_EQ(pieces(R"([\]\[a]+)", "x[a]y"), (V{"x", "[a]", "y"}));
}

TEST(Regex, ClassesInClassesAndBoundaries) {
  using V = std::vector<std::string>;
  EXPECT_EQ(pieces("[a[bc]]+", "xabcx"), (V{"x", "abc", "x"}));
  EXPECT_EQ(pieces("[^a[bc]]+", "xyabc"), (V{"xy", "abc"}));
  EXPECT_EQ(pieces("[a[^b-z]]+", "abAB1c"), (V{"a", "b", "AB1", "c"}));
  EXPECT_EQ(pieces("[a-z&&[^aeiou]]+", "hello"), (V{"h", "e", "ll", "o"}));
  EXPECT_EQ(pieces("[^a-z&&[^aeiou]]+", "hElloh"), (V{"h", "E", "ll", "o", "h"}));
  EXPECT_EQ(pieces(R"([\W_]+)", "ab_-c"), (V{"ab", "_-", "c"}));
  EXPECT_EQ(pieces("[[:digit:]a]+", "b12ac"), (V{"b", "12a", "c"}));
  EXPECT_EQ(pieces("[[:^digit:]]+", "b12a"), (V{"b", "12", "a"}));
  EXPECT_EQ(pieces(R"(\b)", "ab cd"), (V{"ab", " ", "cd"}));
  EXPECT_EQ(pieces(R"(\B)", "ab"), (V{"a", "b"}));
  EXPECT_EQ(pieces("(?m:a.b)", "a\nb"), (V{"a\nb"}));
  EXPECT_EQ(pieces(R"( ?[^(\s|[.,!?])]+)", "to be, or"), (V{"to", " be", ",", " or"}));
}

TEST(Regex, RustsPatterns) {
  EXPECT_EQ(ruby_of_rust(R"(\p{N}{1,3}+|\s++$|[$^]|^a|\$)"),
            R"((?>\p{N}{1,3})|\s++\z|[$^]|\Aa|\$)");
  EXPECT_EQ(ruby_of_rust("(?s:a.)"), "(?m:a.)");
}

TEST(Regex, MatchesAsOnigurumaIterates) {
  std::vector<Regex::Match> found;
  Regex("x*").matches("axb", found);
  std::vector<std::pair<size_t, size_t>> got;
  for (const auto& m : found) got.emplace_back(m.begin, m.end);
  EXPECT_EQ(got, (std::vector<std::pair<size_t, size_t>>{{0, 0}, {1, 2}, {3, 3}}));
}

TEST(Regex, RefusesWhatItCannotKeep) {
  const auto kind = [](const char* pattern) {
    try {
      Regex r(pattern);
    } catch (const Error& e) {
      return e.kind();
    }
    return Kind::internal;
  };
  for (const char* p : {R"(\Ga)", R"(\Ka)", "(?~a)", "(?s:a)", R"((a)\k<1>)"})
    EXPECT_EQ(kind(p), Kind::unsupported) << p;
  for (const char* p :
       {"(a", "a)", "[a", "*a", "a{2,1}", "\\", R"(\p{Nonesuch})", "(?<n>a", "\xFF"})
    EXPECT_EQ(kind(p), Kind::bad_data) << p;
}

TEST(Regex, RunawayPatternIsAnError) {
  std::vector<size_t> ends;
  try {
    Regex("(?:a+)+b|(a|aa)+$c").cut(std::string(200, 'a'), 0, ends);
    FAIL() << "it must not end by itself";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), Kind::resource) << e.what();
  }
}

}  // namespace
}  // namespace lmxlab::data
