// Compares float32 arrays; a failure prints the worst element.
#pragma once

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <cmath>
#include <string>

namespace lmxlab::kernels {

inline void expect_close(const mlx::core::array& got, const mlx::core::array& expected, float bound,
                         const std::string& what) {
  ASSERT_EQ(got.shape(), expected.shape()) << what;
  auto g = mlx::core::contiguous(got), e = mlx::core::contiguous(expected);
  mlx::core::eval(g, e);
  float worst = -1;
  size_t at = 0;
  for (size_t i = 0; i < g.size(); i++) {
    const float error = std::abs(g.data<float>()[i] - e.data<float>()[i]);
    if (!(error <= worst)) {
      worst = error;
      at = i;
    }
  }
  EXPECT_LE(worst, bound) << what << ", worst at " << at << ": expected " << e.data<float>()[at]
                          << ", got " << g.data<float>()[at];
}

}  // namespace lmxlab::kernels
