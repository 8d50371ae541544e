#include "lmxlab/kernels/rehearsal.h"

#include <mlx/mlx.h>

#include <functional>
#include <string>

#include "lmxlab/base/error.h"
#include "lmxlab/kernels/linear.h"
#include "lmxlab/kernels/memory.h"
#include "lmxlab/kernels/norm.h"
#include "lmxlab/kernels/quantized.h"

namespace mx = mlx::core;
using mx::array;

namespace lmxlab::kernels {
namespace {

struct Measured {
  size_t peak, active;
};

// What a step takes, from its inputs on.
Measured really(const std::function<array()>& step) {
  mx::synchronize();
  const size_t before = active_bytes();
  reset_peak();
  auto y = step();
  mx::eval(y);
  mx::synchronize();
  return {peak_bytes() - before, active_bytes() - before};
}
Measured rehearsed(const std::function<array()>& step) {
  const Rehearsal rehearsal;
  auto y = step();
  mx::eval(y);
  return {rehearsal.peak(), rehearsal.active()};
}

void expect_same(const std::string& what, const std::function<array()>& step) {
  really(step);  // once for what stays: streams, compiled graphs
  const auto a = really(step), b = rehearsed(step);
  // A block of less than a window whose reader is still queued is not written over (allocator.cc).
  EXPECT_EQ(a.peak, b.peak) << what;
  EXPECT_EQ(a.active, b.active) << what;
}

TEST(Rehearsal, CountsWhatAnEvaluationTakes) {
  ASSERT_TRUE(can_rehearse());
  const auto noise = [](mx::Shape s, uint64_t key) {
    return mx::random::normal(std::move(s), mx::float32, mx::random::key(key));
  };
  expect_same("random numbers", [&] { return noise({300, 1000}, 1); });
  expect_same("a chain that writes in place", [&] {
    auto x = noise({1000, 1000}, 2);
    for (int i = 0; i < 20; i++) x = mx::add(mx::multiply(x, array(0.5f)), array(1.0f));
    return x;
  });
  expect_same("views", [&] {
    const auto x = noise({512, 512}, 3);
    const auto t = mx::transpose(mx::reshape(x, {64, 8, 512}), {1, 0, 2});
    return mx::sum(mx::contiguous(t), 0);
  });
  expect_same("a softmax", [&] { return mx::softmax(noise({512, 1024}, 4), -1, true); });
  for (const int rows : {1, 40, 700}) {
    const auto text = std::to_string(rows) + " rows";
    expect_same("layers of " + text, [&] {
      const auto w = noise({800, 600}, 5), v = noise({600, 800}, 6);
      auto x = noise({rows, 600}, 7);
      for (int i = 0; i < 3; i++) {
        x = add_norm(NormKind::rms, x, linear(linear(x, w), v), {mx::ones({600})}, 1e-5f).normed;
      }
      return x;
    });
    expect_same("a gradient of " + text, [&] {
      const auto x = noise({rows, 600}, 8);
      const auto loss = [&](const std::vector<array>& w) -> std::vector<array> {
        return {mx::sum(mx::square(linear(mx::tanh(linear(x, w[0])), w[1])))};
      };
      const auto g = mx::vjp(loss, {noise({800, 600}, 9), noise({600, 800}, 10)}, {array(1.0f)});
      return mx::add(mx::sum(g.second[0]), mx::sum(g.second[1]));
    });
    const auto packed = mx::quantize(noise({768, 1024}, 11), 64, 4);
    mx::eval(packed);
    const auto w = affine_weight(packed[0], packed[1], packed[2], 64, 4);
    expect_same("packed weights and " + text, [&] {
      return quantized_linear(noise({rows, 1024}, 12), w);
    });
  }
}

TEST(Rehearsal, TakesNoMemory) {
  mx::synchronize();
  const size_t before = active_bytes();
  {
    const Rehearsal rehearsal;
    auto x = mx::zeros({1 << 15, 1 << 15});  // 4 GiB each, more than the test may have
    for (int i = 0; i < 40; i++) x = mx::matmul(x, mx::ones({1 << 15, 1 << 15}));
    mx::eval(x);
    EXPECT_GE(rehearsal.peak(), size_t{3} << 32);
    EXPECT_LT(rehearsal.peak(), size_t{6} << 32);
    EXPECT_EQ(active_bytes(), rehearsal.active()) << "inside they mean the rehearsal's";
    EXPECT_THROW(Rehearsal(), Error);
  }
  EXPECT_EQ(active_bytes(), before);
  EXPECT_FALSE(rehearsing());
  EXPECT_EQ(mx::sum(mx::ones({1000, 1000})).item<float>(), 1e6f) << "the queue works as before";
}

TEST(Rehearsal, WhatFailsIsAnErrorAsEver) {
  const Rehearsal rehearsal;
  auto x = mx::ones({300, 300});
  for (int i = 0; i < 3; i++) x = mx::matmul(x, x);
  const auto huge = mx::add(mx::zeros({1 << 30, 1 << 20}), mx::sum(x));  // no machine has it
  EXPECT_THROW(mx::eval(mx::sum(mx::exp(huge))), Error);
  mx::synchronize(mx::default_stream(mx::Device::cpu));
  auto y = mx::ones({1000, 1000});
  mx::eval(y);
  EXPECT_GE(rehearsal.active(), size_t{4'000'000}) << "and the next goes on";
}

TEST(Rehearsal, ArraysMayOutliveIt) {
  std::optional<array> x;
  {
    const Rehearsal rehearsal;
    x = mx::ones({2000, 2000});
    mx::eval(*x);
    EXPECT_GE(rehearsal.active(), size_t{16'000'000});
  }
  x.reset();
  expect_workspace(1000);  // outside it is nothing
}

}  // namespace
}  // namespace lmxlab::kernels
