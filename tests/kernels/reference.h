// What the tests of elementwise kernels share: results against float64, on every instruction set.
#pragma once

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "lmxlab/kernels/isa.h"

namespace lmxlab::kernels {

using Doubles = std::vector<double>;

inline const std::vector<mlx::core::Dtype> kFloats{mlx::core::float32, mlx::core::bfloat16,
                                                   mlx::core::float16};

/// The largest relative error of rounding to it.
inline double unit(mlx::core::Dtype dtype) {
  return dtype == mlx::core::float32 ? 0x1p-24 : dtype == mlx::core::bfloat16 ? 0x1p-8 : 0x1p-11;
}
inline std::string name(mlx::core::Dtype dtype) {
  return dtype == mlx::core::float32 ? "f32" : dtype == mlx::core::bfloat16 ? "bf16" : "f16";
}

inline mlx::core::array noise(mlx::core::Shape shape, int key,
                              mlx::core::Dtype dtype = mlx::core::float32) {
  return mlx::core::astype(mlx::core::random::normal(std::move(shape), mlx::core::random::key(key)),
                           dtype);
}

/// In row-major order.
inline Doubles values(const mlx::core::array& x) {
  auto y = mlx::core::contiguous(mlx::core::astype(x, mlx::core::float32));
  mlx::core::eval(y);
  return {y.data<float>(), y.data<float>() + y.size()};
}

/// |got - expected| <= bound(i) everywhere; the worst element, as a share of its bound, is printed.
inline void expect_near(const mlx::core::array& got, const Doubles& expected,
                        const std::function<double(size_t)>& bound, const std::string& what) {
  const auto g = values(got);
  ASSERT_EQ(g.size(), expected.size()) << what;
  double worst = 0;
  size_t at = 0;
  for (size_t i = 0; i < g.size(); i++) {
    if (std::isnan(g[i]) && std::isnan(expected[i])) continue;
    const double share = std::abs(g[i] - expected[i]) / bound(i);
    if (!(share <= worst)) worst = share, at = i;
  }
  EXPECT_LE(worst, 1.0) << what << ", worst at " << at << ": expected " << expected[at] << ", got "
                        << g[at] << ", bound " << bound(at);
}

inline bool same_bits(const mlx::core::array& a, const mlx::core::array& b) {
  return a.dtype() == b.dtype() && a.shape() == b.shape() &&
         mlx::core::array_equal(a, b, true).item<bool>();
}

/// Calls f on each instruction set that there is; the best is back afterwards.
inline void on_every_isa(const std::function<void(const std::string& name)>& f) {
  for (const Isa one : isas()) {
    set_isa(one);
    f(std::string(name(one)));
  }
  set_isa(isas().back());
}

/// A view of x's elements that is not contiguous: every second one of a longer last axis, which
/// begins at an odd element.
inline mlx::core::array gappy(const mlx::core::array& x) {
  const auto wide = mlx::core::stack({x, x}, -1);
  auto shape = x.shape();
  shape.back() *= 2;
  auto flat = mlx::core::contiguous(mlx::core::reshape(wide, shape));
  mlx::core::eval(flat);
  mlx::core::Shape start(shape.size(), 0), step(shape.size(), 1);
  start.back() = 1, step.back() = 2;
  return mlx::core::slice(flat, start, shape, step);
}

/// x in memory that begins one element later than a buffer does.
inline mlx::core::array shifted(const mlx::core::array& x) {
  const auto flat = mlx::core::reshape(x, {-1});
  auto longer = mlx::core::concatenate({mlx::core::zeros({1}, x.dtype()), flat});
  mlx::core::eval(longer);
  const auto n = static_cast<int>(x.size());
  return mlx::core::reshape(mlx::core::slice(longer, {1}, {n + 1}), x.shape());
}

}  // namespace lmxlab::kernels
