// Fixtures too large for the project, in ../shared/fixtures beside it. Who cloned only the project
// has none of them: their tests then compare nothing, and say so. In CI they must be there.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <optional>
#include <string>

namespace lmxlab::test {

inline std::optional<std::filesystem::path> shared_fixtures(const std::string& part) {
  const auto path =
      std::filesystem::path(LMXLAB_SOURCE_DIR).parent_path() / "shared/fixtures" / part;
  if (std::filesystem::exists(path)) return path;
  const char* set = std::getenv("CI");
  const std::string ci = set ? set : "";
  if (!ci.empty() && ci != "0" && ci != "false")
    ADD_FAILURE() << path << " is absent, but must be there in CI";
  std::cout << path << " is absent: nothing was compared with it\n";
  return std::nullopt;
}

}  // namespace lmxlab::test
