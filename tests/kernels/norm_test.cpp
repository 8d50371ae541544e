#include "lmxlab/kernels/norm.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <cfloat>
#include <cmath>

#include "lmxlab/base/error.h"
#include "lmxlab/kernels/thread_pool.h"
#include "tests/kernels/close.h"

namespace mx = mlx::core;
using mx::array;
using Arrays = std::vector<array>;

namespace lmxlab::kernels {
namespace {

constexpr float kEps = 1e-5f;

array noise(mx::Shape shape, int key) {
  return mx::random::normal(std::move(shape), mx::random::key(key));
}

// In double on the CPU; with the weights' sums of magnitudes to hold errors against.
std::vector<double> reference(const Arrays& in, bool centered) {
  auto f = [](const array& a) { return mx::astype(a, mx::float64, mx::Device::cpu); };
  auto x = f(in[0]), w = f(in[1]);
  if (centered) x = x - mx::mean(x, -1, true);
  auto y = x * mx::rsqrt(mx::mean(mx::square(x), -1, true) + array(double(kEps), mx::float64)) * w;
  if (centered) y = y + f(in[2]);
  y = mx::contiguous(y);
  mx::eval(y);
  return {y.data<double>(), y.data<double>() + y.size()};
}

array fused_norm(const Arrays& in, bool centered) {
  return centered ? layer_norm(in[0], in[1], in[2], kEps) : rms_norm(in[0], in[1], kEps);
}

array plain(const Arrays& in, bool centered) {
  return centered ? mx::fast::layer_norm(in[0], in[1], in[2], kEps)
                  : mx::fast::rms_norm(in[0], in[1], kEps);
}

Arrays inputs(int rows, int width, bool centered) {
  Arrays in{noise({rows, width}, 1) + array(0.5f), noise({width}, 2)};
  if (centered) in.push_back(noise({width}, 3));
  return in;
}

TEST(Norm, AgreesWithDouble) {
  for (bool centered : {false, true}) {
    for (int width : {1, 3, 16, 17, 64, 100, 128, 515}) {
      for (int rows : {1, 5, 200}) {
        const auto in = inputs(rows, width, centered);
        auto y = fused_norm(in, centered);
        mx::eval(y);
        const auto expected = reference(in, centered);
        // Rounding of the mean moves every element by eps times the inverse deviation; 1 /
        // sqrt(eps) bounds that.
        const double inverse = width == 1 && centered ? 1 / std::sqrt(kEps) : 4;
        for (size_t i = 0; i < y.size(); i++) {
          ASSERT_NEAR(y.data<float>()[i], expected[i],
                      8 * FLT_EPSILON * (4 + std::abs(expected[i])) * inverse)
              << "rows " << rows << " width " << width << " at " << i;
        }
      }
    }
  }
}

TEST(Norm, GradientsAgreeWithOrdinaryOps) {
  for (bool centered : {false, true}) {
    for (int width : {3, 16, 100, 128}) {
      for (int rows : {1, 7, 300}) {
        const auto in = inputs(rows, width, centered);
        const auto t = noise({rows, width}, 9);
        std::vector<int> all(in.size());
        for (size_t i = 0; i < all.size(); i++) all[i] = static_cast<int>(i);
        auto loss = [&](auto f) {
          return mx::grad([&, f](const Arrays& v) { return mx::sum(f(v, centered) * t); }, all)(in);
        };
        const auto own = loss(fused_norm), expected = loss(plain);
        for (size_t i = 0; i < in.size(); i++) {
          const float size = mx::max(mx::abs(expected[i])).item<float>() + 1;
          expect_close(own[i], expected[i],
                       16 * FLT_EPSILON * size * std::sqrt(float(i == 0 ? width : rows)),
                       "input " + std::to_string(i) + " rows " + std::to_string(rows) + " width " +
                           std::to_string(width));
        }
      }
    }
  }
}

TEST(Norm, OnlyTheAskedGradients) {
  const auto in = inputs(20, 32, true);
  const auto t = noise({20, 32}, 9);
  auto loss = [&](const Arrays& v) { return mx::sum(layer_norm(in[0], v[0], in[2], kEps) * t); };
  auto plain_loss = [&](const Arrays& v) {
    return mx::sum(mx::fast::layer_norm(in[0], v[0], in[2], kEps) * t);
  };
  expect_close(mx::grad(loss, {0})({in[1]})[0], mx::grad(plain_loss, {0})({in[1]})[0],
               256 * FLT_EPSILON, "weight");
}

TEST(Norm, GradientBitsDoNotDependOnTheNumberOfThreads) {
  const auto in = inputs(1000, 96, true);
  const auto t = noise({1000, 96}, 9);
  auto gradients = [&](int n) {
    set_threads(n);
    auto g =
        mx::grad([&](const Arrays& v) { return mx::sum(fused_norm(v, true) * t); }, {0, 1, 2})(in);
    mx::eval(g);
    mx::synchronize();
    return g;
  };
  const auto one = gradients(1), three = gradients(3);
  set_threads(0);
  for (size_t i = 0; i < one.size(); i++) {
    EXPECT_TRUE(mx::array_equal(one[i], three[i]).item<bool>()) << "input " << i;
  }
}

TEST(Norm, WorksInEveryTransformation) {
  for (bool centered : {false, true}) {
    const auto in = inputs(24, 40, centered);
    const float bound = 64 * FLT_EPSILON * 4;
    auto view = in;
    view[0] = mx::transpose(noise({40, 24}, 7));
    expect_close(fused_norm(view, centered), plain(view, centered), bound, "a view");
    auto per_row = [&](auto f) {
      return mx::vmap([&, f](const Arrays& v) -> Arrays {
        auto all = in;
        all[0] = v[0];
        return {f(all, centered)};
      })({in[0]})[0];
    };
    expect_close(per_row(fused_norm), per_row(plain), bound, "vmap");
    auto own = [&](const Arrays& v) -> Arrays { return {fused_norm(v, centered)}; };
    auto ref = [&](const Arrays& v) -> Arrays { return {plain(v, centered)}; };
    Arrays tangents;
    for (const auto& a : in) tangents.push_back(noise(a.shape(), 11));
    expect_close(mx::jvp(own, in, tangents).second[0], mx::jvp(ref, in, tangents).second[0],
                 4 * bound, "jvp");
    auto twice = [&](auto f) {
      return mx::grad([&, f](const array& x) {
        return mx::sum(mx::square(mx::grad([&, f](const array& u) {
          auto all = in;
          all[0] = u;
          return mx::sum(mx::square(f(all, centered)));
        })(x)));
      })(in[0]);
    };
    const auto second = twice(plain);
    expect_close(twice(fused_norm), second, bound * (1 + mx::max(mx::abs(second)).item<float>()),
                 "second derivative");
    EXPECT_TRUE(mx::array_equal(mx::compile(own)(in)[0], fused_norm(in, centered)).item<bool>());
    auto half = in;
    half[0] = mx::astype(in[0], mx::bfloat16);
    EXPECT_EQ(fused_norm(half, centered).dtype(), mx::bfloat16);
  }
}

TEST(Norm, WrongShapesAreErrors) {
  EXPECT_THROW(rms_norm(mx::ones({2, 8}), mx::ones({7}), kEps), Error);
  EXPECT_THROW(layer_norm(mx::ones({2, 8}), mx::ones({8}), mx::ones({1, 8}), kEps), Error);
}

}  // namespace
}  // namespace lmxlab::kernels
