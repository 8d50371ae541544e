// The program under test, and what all its answers have in common.
#pragma once

#include "lmxlab/base/files.h"
#include "lmxlab/base/json.h"
#include "tests/support/process.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace lmxlab::test {

inline std::string program() {
  const char* path = std::getenv("LMXLAB_PROGRAM");
  if (!path || !*path) throw std::runtime_error("LMXLAB_PROGRAM must name the program");
  return fs::absolute(path).string();
}

inline Outcome lmxlab_run(const std::vector<std::string>& arguments, const Spawn& how = {}) {
  auto o = run(program(), arguments, how);
  EXPECT_FALSE(o.timed_out) << "timed out: " << o.err;
  EXPECT_EQ(o.signal, 0) << o.err;
  return o;
}

/// The one object on standard output.
inline Json json_of(const Outcome& o) {
  EXPECT_EQ(std::count(o.out.begin(), o.out.end(), '\n'), 1) << o.out;
  return Json::parse(o.out, "standard output");
}

/// Runs it plainly and with --json: one clear error, the right code, and every word of `says` in
/// the message.
inline void expect_error(std::vector<std::string> arguments, int code, const std::string& kind,
                         const std::vector<std::string>& says, const Spawn& how = {}) {
  SCOPED_TRACE(testing::PrintToString(arguments));
  const auto plain = lmxlab_run(arguments, how);
  EXPECT_EQ(plain.code, code) << plain.err;
  EXPECT_EQ(plain.out, "");
  const auto at = plain.err.find("error: ");
  ASSERT_NE(at, std::string::npos) << plain.err;
  EXPECT_EQ(plain.err.find("error: ", at + 1), std::string::npos) << plain.err;
  for (const auto& word : says)
    EXPECT_NE(plain.err.find(word), std::string::npos) << word << " in " << plain.err;
  arguments.push_back("--json");
  const auto with_json = lmxlab_run(arguments, how);
  EXPECT_EQ(with_json.code, code) << with_json.err;
  const Json error = json_of(with_json).at("error");
  EXPECT_EQ(error.at("kind").as_string(), kind);
  for (const auto& word : says)
    EXPECT_NE(error.at("message").as_string().find(word), std::string::npos)
        << word << " in " << error.dump();
}

}  // namespace lmxlab::test
