// MLX's `compile` keeps its tracing without a compiler, and starts no process to look for one.
#include <gtest/gtest.h>
#include <mlx/mlx.h>
#include <stdlib.h>

namespace mx = mlx::core;

TEST(Compiler, IsNotLookedForAndTracingStays) {
  const std::string path = getenv("PATH") ? getenv("PATH") : "";
  setenv("PATH", "/nowhere", 1);
  EXPECT_EQ(system("g++ --version > /dev/null 2>&1"), 0) << "a process was started";
  int runs = 0;
  const auto f = mx::compile(std::function([&](const std::vector<mx::array>& in) {
    ++runs;
    return std::vector<mx::array>{mx::add(mx::multiply(in[0], in[0]), mx::array(1.0f))};
  }));
  for (int i = 0; i < 6; ++i) EXPECT_EQ(f({mx::array(2.0f)})[0].item<float>(), 5.0f);
  EXPECT_LE(runs, 2)
      << "the function was called again: nothing was traced";  // twice until streams exist
  setenv("PATH", path.c_str(), 1);
  EXPECT_EQ(system("exit 3") >> 8, 3) << "other commands go to the system's own";
}
