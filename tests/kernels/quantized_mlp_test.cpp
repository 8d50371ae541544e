#include "lmxlab/kernels/quantized_mlp.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include "lmxlab/base/error.h"
#include "lmxlab/kernels/fused.h"
#include "lmxlab/kernels/isa.h"
#include "lmxlab/kernels/op.h"
#include "tests/support/random_quant.h"

namespace mx = mlx::core;
using mx::array;

namespace lmxlab::kernels {
namespace {

array noise(mx::Shape shape, mx::Dtype dtype) {
  auto x = mx::astype(mx::random::normal(std::move(shape), mx::random::key(7)), dtype);
  mx::eval(x);
  return x;
}

struct Layer {
  QuantizedWeight gate, up, down;

  array by_steps(const array& x, bool gated_too) const {
    if (!gated_too)
      return quantized_linear(activate(Activation::gelu, quantized_linear(x, up)), down);
    const auto y = quantized_linears(x, {gate, up});
    return quantized_linear(gated(Activation::silu, y[0], y[1]), down);
  }
  array at_once(const array& x, bool gated_too) const {
    return gated_too ? quantized_mlp(x, gate, up, down, Activation::silu)
                     : quantized_mlp(x, std::nullopt, up, down, Activation::gelu);
  }
};

void expect_the_same(const Layer& layer, int in, const std::string& name) {
  for (const auto dtype : {mx::float32, mx::bfloat16, mx::float16}) {
    for (const int rows : {1, 3, 8, 9}) {
      const auto x = noise({rows, in}, dtype);
      for (const bool gated_too : {true, false}) {
        const auto y = layer.at_once(x, gated_too);
        ASSERT_EQ(std::string(y.primitive().name()) == "lmxlab::QuantizedMlp", rows <= 8);
        EXPECT_EQ(y.dtype(), dtype);
        EXPECT_TRUE(mx::array_equal(y, layer.by_steps(x, gated_too), true).item<bool>())
            << name << ", " << rows << " rows, gate " << gated_too;
      }
    }
  }
}

TEST(QuantizedMlp, TheBitsOfItsSteps) {
  const auto before = isa();
  for (const auto set : isas()) {
    set_isa(set);
    for (const int hidden : {256, 160, 32}) {  // parts of 128, and what is left
      const auto make = [&](int out, int in, uint64_t seed) {
        auto w = test::random_affine(4, 32, mx::bfloat16, out, in, seed);
        mx::eval(w.packed, *w.scales, *w.biases);
        return w;
      };
      expect_the_same({make(hidden, 96, 1), make(hidden, 96, 2), make(64, hidden, 3)}, 96,
                      "affine, hidden " + std::to_string(hidden));
    }
    for (const auto f : test::block_formats()) {
      const auto make = [&](int out, int in, uint64_t seed) {
        return test::random_blocks(f, out, in, seed);
      };
      const Layer layer{make(512, 256, 1), make(512, 256, 2), make(40, 512, 3)};
      expect_the_same(layer, 256, test::describe(layer.up));
    }
  }
  set_isa(before);
}

TEST(QuantizedMlp, IsOneStepOfTheGraphForFewRows) {
  const auto w = [](int out, int in) { return test::random_blocks(QuantFormat::q8_0, out, in, 3); };
  const Layer layer{w(64, 32), w(64, 32), w(32, 64)};
  const auto x = noise({1, 2, 32}, mx::float32);
  const auto y = layer.at_once(x, true);
  EXPECT_STREQ(y.primitive().name(), "lmxlab::QuantizedMlp");
  EXPECT_EQ(y.shape(), (mx::Shape{1, 2, 32}));
  EXPECT_EQ(layer.at_once(mx::zeros({0, 32}), true).shape(), (mx::Shape{0, 32}));
  set_fused(false);
  const auto plain = layer.at_once(x, true);
  set_fused(true);
  EXPECT_TRUE(mx::allclose(plain, y, 1e-2, 1e-2).item<bool>());
}

TEST(QuantizedMlp, GradientsReachX) {
  const auto w = [](int out, int in) { return test::random_blocks(QuantFormat::q8_0, out, in, 3); };
  const Layer layer{w(64, 32), w(64, 32), w(32, 64)};
  const auto x = noise({2, 32}, mx::float32);
  const auto at_once = mx::grad([&](const array& v) { return mx::sum(layer.at_once(v, true)); })(x);
  const auto steps = mx::grad([&](const array& v) { return mx::sum(layer.by_steps(v, true)); })(x);
  EXPECT_TRUE(mx::allclose(at_once, steps, 1e-4, 1e-4).item<bool>());
  const auto twice = mx::vmap([&](const array& v) { return layer.at_once(v, true); })(x);
  EXPECT_TRUE(mx::allclose(twice, layer.by_steps(x, true), 1e-4, 1e-4).item<bool>());
}

TEST(QuantizedMlp, WrongSizesAreErrors) {
  const auto w = [](int out, int in) { return test::random_blocks(QuantFormat::q8_0, out, in, 3); };
  const auto x = noise({2, 32}, mx::float32);
  EXPECT_THROW(quantized_mlp(x, w(64, 32), w(64, 32), w(32, 96), Activation::silu), Error);
  EXPECT_THROW(quantized_mlp(x, w(96, 32), w(64, 32), w(32, 64), Activation::silu), Error);
  EXPECT_THROW(quantized_mlp(x, std::nullopt, w(64, 64), w(32, 64), Activation::silu), Error);
}

}  // namespace
}  // namespace lmxlab::kernels
