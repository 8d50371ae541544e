#include "lmxlab/kernels/attention.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <cfloat>
#include <cmath>

#include "lmxlab/base/error.h"
#include "tests/kernels/close.h"

namespace mx = mlx::core;
using mx::array;
using Arrays = std::vector<array>;

namespace lmxlab::kernels {
namespace {

array noise(mx::Shape shape, int key) {
  return mx::random::normal(std::move(shape), mx::random::key(key));
}

TEST(Softmax, AgreesWithDouble) {
  for (bool causal : {false, true}) {
    for (int keys : {1, 5, 16, 33, 64, 200}) {
      const int queries = std::min(keys, 7);
      const float scale = 1.7f;
      auto x = noise({3, queries, keys}, keys) * array(3.0f);
      auto y = scaled_softmax(x, scale, causal);
      mx::eval(x, y);
      for (int r = 0; r < 3 * queries; r++) {
        const float* in = x.data<float>() + r * keys;
        const float* out = y.data<float>() + r * keys;
        const int n = causal ? keys - queries + r % queries + 1 : keys;
        double top = -INFINITY, total = 0;
        for (int i = 0; i < n; i++) top = std::max(top, double(scale) * in[i]);
        for (int i = 0; i < n; i++) total += std::exp(double(scale) * in[i] - top);
        for (int i = 0; i < keys; i++) {
          const double expected = i < n ? std::exp(double(scale) * in[i] - top) / total : 0;
          // An error of eps in an exponent of size z is a relative error of eps z.
          const double z = std::abs(double(scale) * in[i] - top) + std::abs(top);
          ASSERT_NEAR(out[i], expected, FLT_EPSILON * (z + 4 + std::sqrt(n)) * expected)
              << "row " << r << " key " << i << " of " << keys << (causal ? ", causal" : "");
        }
      }
    }
  }
}

TEST(Softmax, LargeScoresAndNotANumber) {
  auto y = scaled_softmax(array({1000.0f, 999.0f, -1000.0f}), 1, false);
  mx::eval(y);
  EXPECT_NEAR(y.data<float>()[0], 1 / (1 + std::exp(-1.0)), 4 * FLT_EPSILON);
  EXPECT_EQ(y.data<float>()[2], 0.0f);
  for (int at : {0, 5, 18}) {
    std::vector<float> x(19, 1.0f);
    x[at] = NAN;
    EXPECT_TRUE(mx::any(mx::isnan(scaled_softmax(array(x.data(), {19}), 1, false))).item<bool>())
        << at;
  }
}

array plain(const array& q, const array& k, const array& v, float scale, bool causal) {
  return mx::fast::scaled_dot_product_attention(q, k, v, scale, causal ? "causal" : "");
}

TEST(Attention, ValueAndGradientsAgreeWithMlx) {
  struct Case {
    int heads, groups, queries, keys, width, value;
  };
  for (const auto& c : {Case{4, 4, 64, 64, 32, 32}, Case{4, 2, 9, 9, 16, 16},
                        Case{6, 1, 5, 13, 8, 12}, Case{2, 2, 1, 31, 16, 16}}) {
    for (bool causal : {false, true}) {
      const Arrays in{noise({2, c.heads, c.queries, c.width}, 1),
                      noise({2, c.groups, c.keys, c.width}, 2),
                      noise({2, c.groups, c.keys, c.value}, 3)};
      const auto t = noise({2, c.heads, c.queries, c.value}, 4);
      const float scale = 1 / std::sqrt(float(c.width));
      const float bound = 16 * FLT_EPSILON * std::sqrt(float(c.keys * c.width));
      const auto what = "heads " + std::to_string(c.heads) + " keys " + std::to_string(c.keys) +
                        (causal ? " causal" : "");
      expect_close(attention(in[0], in[1], in[2], scale, causal),
                   plain(in[0], in[1], in[2], scale, causal), bound, what);
      auto gradients = [&](auto f) {
        return mx::grad(
            [&, f](const Arrays& v) { return mx::sum(f(v[0], v[1], v[2], scale, causal) * t); },
            {0, 1, 2})(in);
      };
      const auto own = gradients(attention), expected = gradients(plain);
      for (int i = 0; i < 3; i++) {
        const float size = 1 + mx::max(mx::abs(expected[i])).item<float>();
        expect_close(own[i], expected[i], bound * size, what + " gradient " + std::to_string(i));
      }
    }
  }
}

TEST(Attention, ViewsHalfPrecisionAndTransformations) {
  const auto x = noise({2, 10, 3, 4, 8}, 1);  // B, L, qkv, H, Dh, as one projection gives them
  auto part = [&](int i) {
    return mx::transpose(
        mx::reshape(mx::slice(x, {0, 0, i, 0, 0}, {2, 10, i + 1, 4, 8}), {2, 10, 4, 8}),
        {0, 2, 1, 3});
  };
  const Arrays in{part(0), part(1), part(2)};
  const float bound = 16 * FLT_EPSILON * std::sqrt(80.0f);
  auto own = [](const Arrays& v) -> Arrays { return {attention(v[0], v[1], v[2], 0.3f, true)}; };
  auto ref = [](const Arrays& v) -> Arrays { return {plain(v[0], v[1], v[2], 0.3f, true)}; };
  expect_close(own(in)[0], ref(in)[0], bound, "views");
  EXPECT_TRUE(mx::array_equal(mx::compile(own)(in)[0], own(in)[0]).item<bool>());
  Arrays tangents;
  for (const auto& a : in) tangents.push_back(noise(a.shape(), 5));
  expect_close(mx::jvp(own, in, tangents).second[0], mx::jvp(ref, in, tangents).second[0],
               4 * bound, "jvp");
  expect_close(mx::vmap([](const array& s) { return scaled_softmax(s, 2.0f, true); })(x),
               scaled_softmax(x, 2.0f, true), bound, "vmap");
  auto twice = [&](auto f) {
    return mx::grad([&, f](const array& q) {
      return mx::sum(mx::square(mx::grad([&, f](const array& u) {
        return mx::sum(mx::square(f({u, in[1], in[2]})[0]));
      })(q)));
    })(in[0]);
  };
  expect_close(twice(own), twice(ref), 16 * bound, "second derivative");
  Arrays half;
  for (const auto& a : in) half.push_back(mx::astype(a, mx::bfloat16));
  EXPECT_EQ(own(half)[0].dtype(), mx::bfloat16);
}

TEST(Attention, WrongShapesAreErrors) {
  const auto q = mx::ones({1, 3, 4, 8}), k = mx::ones({1, 2, 4, 8}), one = mx::ones({1, 3, 2, 8});
  EXPECT_THROW(attention(q, k, k, 1, false), Error);
  EXPECT_THROW(attention(q, one, one, 1, true), Error);
  EXPECT_THROW(scaled_softmax(mx::ones({4}), 1, true), Error);
}

}  // namespace
}  // namespace lmxlab::kernels
