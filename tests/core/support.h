// Arrays of known numbers, and their values on the host.
#pragma once

#include "lmxlab/base/random.h"
#include "lmxlab/models/language_model.h"

#include <gtest/gtest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <cmath>
#include <string>
#include <vector>

namespace lmxlab::test {

inline constexpr double kEps = 1.2e-7;  // of float32

/// Uniform in [-range, range), from a fixed sequence.
inline mx::array some(const mx::Shape& shape, uint64_t seed, double range = 1) {
  HostRandom random(seed);
  size_t n = 1;
  for (const auto d : shape) n *= static_cast<size_t>(d);
  std::vector<float> values(n);
  for (auto& v : values)
    v = static_cast<float>(range * (static_cast<double>(random.below(1u << 20)) / (1 << 19) - 1));
  return mx::array(values.data(), shape, mx::float32);
}

inline std::vector<float> floats(const mx::array& a) {
  return to_vector<float>(mx::astype(a, mx::float32));
}

/// |got - want| <= bound everywhere; says where it is worst.
inline void expect_close(const mx::array& got, const std::vector<double>& want, double bound,
                         const std::string& what = "") {
  const auto g = floats(got);
  ASSERT_EQ(g.size(), want.size()) << what;
  size_t worst = 0;
  double off = 0;
  for (size_t i = 0; i < g.size(); ++i) {
    const double d = std::abs(static_cast<double>(g[i]) - want[i]);
    if (std::isnan(d) || d > off) off = std::isnan(d) ? INFINITY : d, worst = i;
  }
  EXPECT_LE(off, bound) << what << ", element " << worst << ": " << g[worst] << " and "
                        << want[worst];
}

inline std::vector<double> doubles(const mx::array& a) {
  const auto f = floats(a);
  return {f.begin(), f.end()};
}

}  // namespace lmxlab::test
