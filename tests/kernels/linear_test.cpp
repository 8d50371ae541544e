#include "lmxlab/kernels/linear.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "lmxlab/base/error.h"
#include "lmxlab/kernels/isa.h"
#include "tests/kernels/close.h"

namespace lmxlab::kernels {
namespace {

namespace mx = mlx::core;
using mx::array;
using Arrays = std::vector<array>;

array noise(mx::Shape shape, uint64_t key, mx::Dtype dtype = mx::float32) {
  return mx::astype(mx::random::normal(std::move(shape), mx::random::key(key)), dtype);
}

// In float64, by MLX's own product.
array reference(const array& x, const array& w, const array* bias) {
  auto wide = [](const array& a) { return mx::astype(a, mx::float64, mx::Device::cpu); };
  auto y = mx::matmul(wide(x), mx::transpose(wide(w), mx::Device::cpu), mx::Device::cpu);
  if (bias) y = mx::add(y, wide(*bias), mx::Device::cpu);
  return mx::astype(y, mx::float32, mx::Device::cpu);
}

// Errors of `terms` sums of normal numbers, and of the result's and the operands' rounding.
float bound(int terms, mx::Dtype dtype, bool rounds) {
  const auto n = static_cast<float>(terms);
  const float size = 5 * std::sqrt(n);
  const float own = dtype == mx::float32 ? 0 : size / (dtype == mx::bfloat16 ? 256 : 2048);
  return size * 1.2e-7f * (std::sqrt(n) + 4) + own + (rounds ? n / 256 : 0);
}

class EveryIsa : public testing::Test {
 protected:
  ~EveryIsa() override { set_isa(isas().back()); }
};
using Linear = EveryIsa;

TEST_F(Linear, AgreesWithFloat64) {
  for (const Isa isa : isas()) {
    set_isa(isa);
    for (const auto dtype : {mx::float32, mx::bfloat16, mx::float16}) {
      for (const bool mixed : {false, true}) {
        for (const int rows : {1, 5, 40}) {
          const auto x = noise({2, rows, 48}, 1, dtype);
          const auto w = noise({70, 48}, 2, mixed ? mx::float32 : dtype);
          const auto b = noise({70}, 3, mixed ? mx::float32 : dtype);
          const float limit = bound(48, dtype, mixed && dtype == mx::bfloat16);
          const auto what = std::string(name(isa)) + " rows " + std::to_string(rows);
          const auto y = linear(x, w);
          EXPECT_EQ(y.dtype(), dtype);
          expect_close(mx::astype(y, mx::float32), reference(x, w, nullptr), limit, what);
          expect_close(mx::astype(linear(x, w, b), mx::float32), reference(x, w, &b), limit,
                       what + " with bias");
        }
      }
    }
  }
}

TEST_F(Linear, GradientsAgreeWithFloat64AndKeepTheWeightsType) {
  for (const auto dtype : {mx::float32, mx::bfloat16}) {
    const auto x = noise({3, 20, 40}, 1, dtype), g = noise({3, 20, 50}, 4, dtype);
    const auto w = noise({50, 40}, 2), b = noise({50}, 3);
    auto f = [](const Arrays& v) { return Arrays{linear(v[0], v[1], v[2])}; };
    for (const bool compiled : {false, true}) {
      const std::function<Arrays(const Arrays&)> gradient = [&](const Arrays& v) {
        return mx::vjp(f, Arrays{v[0], v[1], v[2]}, Arrays{v[3]}).second;
      };
      const auto grads = compiled ? mx::compile(gradient)({x, w, b, g}) : gradient({x, w, b, g});
      ASSERT_EQ(grads.size(), 3u);
      EXPECT_EQ(grads[0].dtype(), dtype);
      EXPECT_EQ(grads[1].dtype(), mx::float32);
      const bool rounds = dtype == mx::bfloat16;
      const auto flat = [](const array& a) {
        return mx::reshape(mx::astype(a, mx::float32), {60, -1});
      };
      expect_close(flat(grads[0]), reference(flat(g), mx::transpose(w), nullptr),
                   bound(50, dtype, rounds), "dx");
      expect_close(grads[1], reference(mx::transpose(flat(g)), mx::transpose(flat(x)), nullptr),
                   bound(60, mx::float32, false), "dw");
      expect_close(grads[2], mx::sum(flat(g), 0), bound(60, mx::float32, false), "dbias");
    }
  }
}

TEST_F(Linear, SecondDerivativesAreThereToo) {
  const auto x = noise({4, 6}, 1), w = noise({5, 6}, 2);
  auto once = [](const array& a, const array& b) { return mx::sum(mx::square(linear(a, b))); };
  auto f = [&](const Arrays& v) {
    auto inner = [&](const array& b) { return once(v[0], b); };
    return Arrays{mx::sum(mx::square(mx::grad(std::function<array(const array&)>(inner))(v[1])))};
  };
  auto plain = [&](const Arrays& v) {
    auto inner = [&](const array& b) {
      return mx::sum(mx::square(mx::matmul(v[0], mx::transpose(b))));
    };
    return Arrays{mx::sum(mx::square(mx::grad(std::function<array(const array&)>(inner))(v[1])))};
  };
  const auto got = mx::vjp(f, {x, w}, {array(1.0f)}).second;
  const auto expected = mx::vjp(plain, {x, w}, {array(1.0f)}).second;
  for (size_t i = 0; i < 2; i++) {
    expect_close(got[i], expected[i], 1e-5f * mx::max(mx::abs(expected[i])).item<float>(), "d2");
  }
}

TEST_F(Linear, ReadsAnyViewAndNothing) {
  const auto big = noise({30, 80}, 1), w = noise({80, 50}, 2);
  const auto expected = reference(big, mx::transpose(w), nullptr);
  expect_close(linear(big, mx::transpose(w)), expected, bound(80, mx::float32, false),
               "transposed");
  const auto every_second = mx::slice(big, {0, 0}, {30, 80}, {2, 2});
  const auto part = mx::slice(noise({60, 40}, 3), {60 - 1, 0}, {-61, 40}, {-1, 1});
  expect_close(linear(every_second, part), reference(every_second, part, nullptr),
               bound(40, mx::float32, false), "strided and reversed");
  EXPECT_EQ(linear(mx::zeros({0, 80}), mx::transpose(w)).shape(), (mx::Shape{0, 50}));
  EXPECT_EQ(linear(mx::zeros({2, 0, 80}), mx::transpose(w)).shape(), (mx::Shape{2, 0, 50}));
  const auto none = linear(mx::zeros({3, 0}), mx::zeros({4, 0}));
  expect_close(none, mx::zeros({3, 4}), 0, "no columns");
}

TEST_F(Linear, AgreesWithItsPlainForm) {  // what other devices run, and vmap
  const auto x = noise({7, 20}, 1), w = noise({9, 20}, 2);
  auto f = [&](const Arrays& v) { return Arrays{linear(v[0], w)}; };
  const auto rows = mx::vmap(f, {0})({mx::expand_dims(x, 1)})[0];
  expect_close(mx::squeeze(rows, 1), linear(x, w), bound(20, mx::float32, false), "vmap");
}

TEST_F(Linear, SaysWhatDoesNotFit) {
  EXPECT_THROW(linear(mx::zeros({2, 3}), mx::zeros({4, 5})), Error);
  EXPECT_THROW(linear(mx::zeros({2, 5}), mx::zeros({4, 5}), mx::zeros({3})), Error);
}

TEST_F(Linear, ProductsOfABatch) {
  for (const auto dtype : {mx::float32, mx::bfloat16}) {
    const auto a = noise({4, 20, 30}, 1, dtype), b = noise({4, 50, 30}, 2, dtype);
    const auto bt = mx::swapaxes(b, -1, -2);
    const auto expected = mx::matmul(mx::astype(a, mx::float32), mx::astype(bt, mx::float32));
    expect_close(mx::astype(kernels::matmul(a, bt), mx::float32), expected, bound(30, dtype, false),
                 "batch");
  }
}

}  // namespace
}  // namespace lmxlab::kernels
