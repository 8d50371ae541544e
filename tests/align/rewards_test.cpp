#include "lmxlab/align/rewards.h"

#include "tests/support/error_of.h"
#include "tests/support/temp_folder.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <cerrno>
#include <chrono>
#include <fstream>

namespace lmxlab::align {
namespace {

using test::error_of;

data::Sample answered(const std::string& answer) {
  data::Sample s;
  s.kind = data::SampleKind::answer;
  s.prompt = Json("what?");
  s.answer = answer;
  return s;
}

double one(const std::shared_ptr<Reward>& reward, const std::string& text,
           const std::string& answer = "", int tokens = 0) {
  const auto sample = answered(answer);
  const Completion c{&sample, text, tokens, true};
  return (*reward)({&c, 1}).at(0);
}
template <class O>
std::shared_ptr<Reward> of(const O& options) {
  return make_reward(RewardConfig{options, 1});
}

TEST(Rewards, ExactMatchAfterNormalizing) {
  EXPECT_EQ(one(of(ExactMatch{}), "  Paris\n of  old ", "Paris of old"), 1);
  EXPECT_EQ(one(of(ExactMatch{}), "paris", "Paris"), 0);
  EXPECT_EQ(one(of(ExactMatch{.strip = false}), "Paris ", "Paris"), 0);
  EXPECT_EQ(one(of(ExactMatch{.ignore_case = true}), "PARIS", "Paris"), 1);
  EXPECT_EQ(one(of(ExactMatch{}), "Paris.", "Paris"), 0);
  EXPECT_EQ(one(of(ExactMatch{.ignore_punctuation = true}), "\"Paris.\"", "Paris"), 1);
  EXPECT_EQ(one(of(ExactMatch{.ignore_case = true}), "\xc3\x84rger", "\xc3\x84RGER"), 1);
}

TEST(Rewards, PatternsAreFoundOrCoverAll) {
  EXPECT_EQ(one(of(Pattern{"[0-9]+ apples"}), "I have 12 apples."), 1);
  EXPECT_EQ(one(of(Pattern{"[0-9]+ apples"}), "I have no apples."), 0);
  const auto format = of(Pattern{"<a>\\d+</a>|none", true});
  EXPECT_EQ(one(format, "<a>12</a>"), 1);
  EXPECT_EQ(one(format, "<a>12</a>\n"), 0) << "\\z is the very end";
  EXPECT_EQ(one(format, "x <a>12</a>"), 0);
  EXPECT_EQ(one(format, "none"), 1) << "the alternatives are one group";
}

TEST(Rewards, PatternsHoldTheAnswerAsItStands) {
  const auto r = of(Pattern{"answer: {answer}$"});
  EXPECT_EQ(one(r, "answer: 1.5", "1.5"), 1);
  EXPECT_EQ(one(r, "answer: 105", "1.5"), 0) << "a point of the answer is no wildcard";
  EXPECT_EQ(one(r, "answer: {answer} (a|b)", "{answer} (a|b)"), 1);
}

TEST(Rewards, PatternsThatBacktrackForeverFindNothing) {
  EXPECT_EQ(one(of(Pattern{"(a|aa)+\\1{9}b"}), std::string(4000, 'a')), 0);
}

TEST(Rewards, BadPatternsAreRefusedAtOnce) {
  EXPECT_EQ(error_of([] { of(Pattern{"(a"}); }).kind(), Kind::bad_data);
  EXPECT_EQ(error_of([] { of(Pattern{}); }).kind(), Kind::usage);
}

TEST(Rewards, NumbersAreReadFromTheEnd) {
  const auto r = of(Numeric{});
  EXPECT_EQ(one(r, "first 3, then 42", "42"), 1);
  EXPECT_EQ(one(r, "42, not 3", "42"), 0);
  EXPECT_EQ(one(r, "so \\boxed{42} of 100", "42"), 1);
  EXPECT_EQ(one(r, "\\boxed{1} and \\boxed{\\text{about } {42}}", "42"), 1);
  EXPECT_EQ(one(r, "it is 1,234,567.50.", "1234567.5"), 1);
  EXPECT_EQ(one(r, "1,23", "23"), 1) << "no thousands";
  EXPECT_EQ(one(r, "10-7", "7"), 1) << "a minus between two numbers";
  EXPECT_EQ(one(r, "it is -7", "-7"), 1);
  EXPECT_EQ(one(r, "x = .5", "0.5"), 1);
  EXPECT_EQ(one(r, "2.5e3", "2500"), 1);
  EXPECT_EQ(one(r, "#### 18", "#### 18"), 1);
  EXPECT_EQ(one(r, "none at all", "42"), 0);
  EXPECT_EQ(one(r, "1e999", "1e999"), 0) << "not finite";
  EXPECT_EQ(one(r, "", ""), 0);
}

TEST(Rewards, NumbersMayDifferByTheTolerance) {
  const auto r = of(Numeric{0.01});
  EXPECT_EQ(one(r, "100.9", "100"), 1);
  EXPECT_EQ(one(r, "101.1", "100"), 0);
  EXPECT_EQ(one(r, "0.009", "0"), 1);
  EXPECT_EQ(error_of([] { of(Numeric{-1}); }).kind(), Kind::usage);
}

TEST(Rewards, LengthsCost) {
  const auto r = of(Length{.target = 10, .penalty = 0.1, .most = 0.5});
  EXPECT_EQ(one(r, "", "", 10), 0);
  EXPECT_DOUBLE_EQ(one(r, "", "", 13), -0.3);
  EXPECT_DOUBLE_EQ(one(r, "", "", 99), -0.5);
  EXPECT_EQ(one(r, "", "", 2), 0);
  EXPECT_DOUBLE_EQ(one(of(Length{.target = 10, .penalty = 0.1, .below = true}), "", "", 8), -0.2);
}

TEST(Rewards, SumsAreWeightedAndReadFromATable) {
  const auto configs =
      from_json<std::vector<RewardConfig>>(Json::parse(R"([{"reward": {"kind": "numeric"}},
                      {"reward": {"kind": "regex", "pattern": "\\d+", "whole": true}, "weight": 0.25},
                      {"reward": {"kind": "length", "penalty": 0.5}, "weight": 2}])"),
                                           "rewards");
  const auto r = make_reward(configs);
  EXPECT_DOUBLE_EQ(one(r, "7", "7", 0), 1.25);
  EXPECT_DOUBLE_EQ(one(r, "it is 7", "7", 1), 1 - 1.0);
  EXPECT_EQ(error_of([] { make_reward(std::vector<RewardConfig>{}); }).kind(), Kind::usage);
}

// Programs.

std::vector<double> ask(const std::string& script, int count = 3, double timeout_s = 10) {
  const auto reward = external_reward({{"sh", "-c", script}, timeout_s});
  const auto sample = answered("42");
  std::vector<Completion> all;
  for (int i = 0; i < count; ++i) all.push_back({&sample, "text " + std::to_string(i), i, true});
  return (*reward)(all);
}
bool childless() {
  return ::waitpid(-1, nullptr, WNOHANG) == -1 && errno == ECHILD;
}

TEST(ExternalReward, AnswersALineEach) {
  const auto script =
      "while read -r line; do case $line in *'text 1'*) echo 0.5;; "
      "*) echo '{\"reward\": -2}';; esac; done";
  EXPECT_EQ(ask(script), (std::vector<double>{-2, 0.5, -2}));
  EXPECT_TRUE(childless());
}

TEST(ExternalReward, ReadsWhatTheHeaderSays) {
  const test::TemporaryFolder folder;
  const auto file = folder.path() / "seen";
  ask("read -r a; echo \"$a\" > " + file.string() + "; echo 1; cat > /dev/null", 1);
  std::ifstream in(file);
  std::string line;
  std::getline(in, line);
  EXPECT_EQ(Json::parse(line),
            Json::parse(R"({"prompt": "what?", "completion": "text 0", "answer": "42",
                            "tokens": 0, "ended": true})"));
}

TEST(ExternalReward, KeepsRunning) {
  const auto reward =
      external_reward({{"sh", "-c", "n=0; while read -r l; do n=$((n+1)); echo $n; done"}, 10});
  const auto sample = answered("");
  const std::vector<Completion> two(2, {&sample, "", 0, true});
  EXPECT_EQ((*reward)(two), (std::vector<double>{1, 2}));
  EXPECT_EQ((*reward)(two), (std::vector<double>{3, 4}));
  EXPECT_TRUE((*reward)({}).empty());
}

TEST(ExternalReward, TakesMoreThanAPipeHolds) {
  const auto reward =
      external_reward({{"sh", "-c", "while read -r line; do echo ${#line}; done"}, 60});
  const auto sample = answered("");
  const std::vector<Completion> many(40, {&sample, std::string(20'000, 'x'), 0, true});
  const auto got = (*reward)(many);
  ASSERT_EQ(got.size(), 40u);
  EXPECT_GT(got[39], 20'000);
}

struct Fault {
  std::string script;
  Kind kind;
  std::string says;
};
class ExternalFault : public testing::TestWithParam<Fault> {};
TEST_P(ExternalFault, IsOneClearLineAndLeavesNoProcess) {
  const auto began = std::chrono::steady_clock::now();
  const auto e = error_of([&] { ask(GetParam().script, 3, 0.4); });
  EXPECT_EQ(e.kind(), GetParam().kind) << e.what();
  EXPECT_NE(std::string(e.what()).find(GetParam().says), std::string::npos) << e.what();
  EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos) << e.what();
  EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(5));
  EXPECT_TRUE(childless());
}
INSTANTIATE_TEST_SUITE_P(
    Programs, ExternalFault,
    testing::Values(Fault{"sleep 30", Kind::resource, "took too long"},
                    Fault{"trap '' TERM INT HUP PIPE; while :; do sleep 1; done", Kind::resource,
                          "got 0"},
                    Fault{"echo 1; sleep 30", Kind::resource, "got 1"},
                    Fault{"exit 3", Kind::bad_data, "exit code 3"},
                    Fault{"echo 1; echo 2; exit 0", Kind::bad_data, "got 2"},
                    Fault{"kill -9 $$", Kind::bad_data, "signal 9"},
                    Fault{"exec >&-; sleep 30", Kind::bad_data, "closed its output"},
                    Fault{"exec <&-; sleep 30", Kind::resource, "took too long"},
                    Fault{"echo hello; sleep 30", Kind::bad_data, "line 1"},
                    Fault{"echo 1; echo '{\"score\": 1}'; sleep 30", Kind::bad_data, "line 2"},
                    Fault{"echo 1e999; sleep 30", Kind::bad_data, "finite"},
                    Fault{"echo; sleep 30", Kind::bad_data, "an empty line"},
                    Fault{"printf '\\377\\n'; sleep 30", Kind::bad_data, "'?'"},
                    Fault{"printf '1\\n2\\n3\\n4\\n'; sleep 30", Kind::bad_data, "more lines"}));

TEST(ExternalReward, ALineTooManyIsFoundByTheNextBatch) {
  const auto reward =
      external_reward({{"sh", "-c", "read -r l; echo 1; sleep 0.2; echo 2; sleep 30"}, 10});
  const auto sample = answered("");
  const Completion c{&sample, "", 0, true};
  EXPECT_EQ((*reward)({&c, 1}), std::vector<double>{1});
  ::usleep(500'000);
  EXPECT_EQ(error_of([&] { (*reward)({&c, 1}); }).kind(), Kind::bad_data);
  EXPECT_TRUE(childless());
  EXPECT_EQ((*reward)({&c, 1}), std::vector<double>{1}) << "it is started anew";
}

TEST(ExternalReward, LeavesBrokenPipesToTheCaller) {
  // A program that is gone while much is written to it; the process' own action is the default,
  // which would end it.
  ASSERT_NE(::signal(SIGPIPE, SIG_DFL), SIG_ERR);
  const auto reward = external_reward({{"sh", "-c", "exit 0"}, 10});
  const auto sample = answered("");
  const std::vector<Completion> many(40, {&sample, std::string(20'000, 'x'), 0, true});
  EXPECT_EQ(error_of([&] { (*reward)(many); }).kind(), Kind::bad_data);
  sigset_t set;
  ::sigpending(&set);
  EXPECT_EQ(::sigismember(&set, SIGPIPE), 0);
}

TEST(ExternalReward, CannotBeStarted) {
  const auto reward = external_reward({{"no-such-program-here"}, 10});
  const auto sample = answered("");
  const Completion c{&sample, "", 0, true};
  EXPECT_EQ(error_of([&] { (*reward)({&c, 1}); }).kind(), Kind::not_found);
  EXPECT_EQ(error_of([] { external_reward({{}, 10}); }).kind(), Kind::usage);
  EXPECT_EQ(error_of([] { external_reward({{"true"}, 0}); }).kind(), Kind::usage);
}

}  // namespace
}  // namespace lmxlab::align
