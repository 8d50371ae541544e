#include "lmxlab/eval/answers.h"

#include "tests/support/error_of.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace lmxlab {
namespace {

using Answer = std::optional<std::string>;

TEST(Answers, AreTheLastBoxOrTheLastNumber) {
  const AnswerFinder find;
  EXPECT_EQ(find("so 3 + 4 = 7."), Answer("7"));
  EXPECT_EQ(find("It costs $1,200.50 in all"), Answer("1200.5"));
  EXPECT_EQ(find("x = -12.00"), Answer("-12"));
  EXPECT_EQ(find("pages 10-12"), Answer("12"));
  EXPECT_EQ(find("1, 2, 3"), Answer("3"));
  EXPECT_EQ(find("version 1.2.3"), Answer("3"));
  EXPECT_EQ(find("0.05 of it"), Answer("0.05"));
  EXPECT_EQ(find(R"(first \boxed{3}, then \boxed{ \frac{1}{2} } of 9)"), Answer(R"(\frac{1}{2})"));
  EXPECT_EQ(find(R"(\boxed{4} and \boxed{cut off)"), Answer("4"));
  EXPECT_EQ(find(R"(\boxed{never closed 8)"), Answer("8"));
  EXPECT_EQ(find("none"), Answer());
  EXPECT_EQ(find(""), Answer());
}

TEST(Answers, AreWhatAPatternSays) {
  const AnswerFinder group("answer: *(\\w+)");
  EXPECT_EQ(group("answer: no. Wait. answer:  yes, 3"), Answer("yes"));
  EXPECT_EQ(group("reply: yes"), Answer());
  EXPECT_EQ(AnswerFinder("[A-D]")("A or B"), Answer("B"));
  EXPECT_EQ(AnswerFinder("b(x)?")("ab"), Answer("b")) << "the group took no part";
  EXPECT_EQ(AnswerFinder("x*")("ä"), Answer("")) << "empty matches end";
  EXPECT_EQ(test::error_of([] { AnswerFinder("("); }).kind(), Kind::usage);
}

TEST(Answers, TheMajorityWinsAndOfEqualOnesTheFirst) {
  const auto vote = majority({Answer("7"), Answer(), Answer("8"), Answer("8"), Answer("9")});
  ASSERT_TRUE(vote);
  EXPECT_EQ(vote->answer, "8");
  EXPECT_EQ(vote->votes, 2);
  EXPECT_EQ(vote->first, 2u);
  EXPECT_EQ(majority({Answer("b"), Answer("a"), Answer("a"), Answer("b")})->answer, "b");
  EXPECT_FALSE(majority({Answer(), Answer()}));
  EXPECT_FALSE(majority({}));
}

// Every choice of k among n, counted.
double counted(int n, int c, int k) {
  std::vector<int> pick(static_cast<size_t>(n), 0);
  std::fill(pick.end() - k, pick.end(), 1);
  int all = 0, right = 0;
  do {
    ++all;
    right += std::any_of(pick.begin(), pick.begin() + c, [](int p) { return p == 1; });
  } while (std::next_permutation(pick.begin(), pick.end()));
  return double(right) / all;
}

TEST(PassAtK, IsTheShareOfChoicesWithARightOne) {
  for (int n = 1; n <= 7; ++n)
    for (int c = 0; c <= n; ++c)
      for (int k = 1; k <= n; ++k)
        EXPECT_NEAR(pass_at_k(n, c, k), counted(n, c, k), 1e-12) << n << " " << c << " " << k;
  EXPECT_NEAR(pass_at_k(2000, 20, 100), 0.643, 5e-4) << "binomials of these overflow";
  EXPECT_EQ(test::error_of([] { pass_at_k(3, 1, 4); }).kind(), Kind::usage);
  EXPECT_EQ(test::error_of([] { pass_at_k(3, 4, 1); }).kind(), Kind::usage);
}

}  // namespace
}  // namespace lmxlab
