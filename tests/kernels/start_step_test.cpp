#include "lmxlab/kernels/start_step.h"

#include <cstring>
#include <vector>

#include "lmxlab/base/error.h"
#include "lmxlab/kernels/cached_attention.h"
#include "lmxlab/kernels/elementwise.h"
#include "lmxlab/kernels/memory.h"
#include "lmxlab/kernels/norm.h"
#include "lmxlab/kernels/quantized.h"
#include "tests/kernels/reference.h"
#include "tests/support/random_quant.h"

namespace mx = mlx::core;
using mx::array;
using Arrays = std::vector<array>;

namespace lmxlab::kernels {
namespace {

// Ops of ours with one and with two outputs, ops of MLX's, views, an output that is read again.
Arrays mixture(const array& x, const array& w) {
  const auto both = add_norm(NormKind::rms, x, mx::sin(x), {w}, 1e-5f);
  const auto view = mx::transpose(mx::reshape(both.normed, {4, -1}));
  return {mx::matmul(view, mx::transpose(view)), both.sum, mx::sum(both.sum)};
}

TEST(StartStep, TheSameNumbersAsEval) {
  const auto x = noise({16, 64}, 1), w = noise({64}, 2);
  mx::eval(x, w);
  auto ours = mixture(x, w), theirs = mixture(x, w);
  start_step(ours);
  mx::eval(theirs);
  for (size_t i = 0; i < ours.size(); i++) {
    EXPECT_TRUE(ours[i].status() != array::Status::unscheduled) << i;
    ours[i].wait();
    EXPECT_TRUE(ours[i].is_available()) << i;
    EXPECT_TRUE(mx::array_equal(ours[i], theirs[i]).item<bool>()) << i;
  }
  start_step(ours);  // there already
  start_step({});
}

// Steps that write into one buffer are all queued before the first of them is waited for.
TEST(StartStep, StepsAheadWriteInPlace) {
  constexpr int kSteps = 20, kWidth = 64;
  const auto q = noise({1, kSteps, 4 * kWidth}, 1), k = noise({1, kSteps, 2 * kWidth}, 2);
  const auto v = noise({1, kSteps, 2 * kWidth}, 3);
  mx::eval(q, k, v);
  const auto row = [&](const array& a, int i) {
    return mx::slice(a, {0, i, 0}, {1, i + 1, a.shape(2)});
  };
  const auto buffer = [] { return mx::zeros({1, 2, 32, kWidth}); };
  array keys = buffer(), values = buffer();
  mx::eval(keys, values);
  const auto *const at_keys = keys.data<float>(), *const at_values = values.data<float>();
  Arrays outs;
  for (int i = 0; i < kSteps; i++) {
    auto now = cached_attention(row(q, i), row(k, i), row(v, i), std::move(keys), std::move(values),
                                i, Rope{}, 0.3f, {true});
    keys = now.k, values = now.v;
    outs.push_back(mx::multiply(now.out, array(1.0f)));
    now = {outs.back(), outs.back(), outs.back()};  // no handles but those of a cache
    start_step({keys, values, outs.back()});
  }
  mx::eval(outs);
  EXPECT_EQ(keys.data<float>(), at_keys);
  EXPECT_EQ(values.data<float>(), at_values);
  const auto all = cached_attention(q, k, v, buffer(), buffer(), 0, Rope{}, 0.3f, {true});
  EXPECT_TRUE(mx::allclose(mx::concatenate(outs, 1), all.out, 1e-5, 1e-5).item<bool>());
  EXPECT_TRUE(mx::array_equal(keys, all.k).item<bool>());
}

// The same by MLX's own ops, where what reads the buffer is a view of it: as of a ring, or of
// packed keys.
TEST(StartStep, AViewOfWhatIsKeptKeepsNobodyFromWriting) {
  constexpr int kSteps = 40, kRows = 8, kWidth = 256;
  const auto rows = noise({kSteps, kWidth}, 1);
  array ring = mx::zeros({kRows, kWidth});
  mx::eval(rows, ring);
  const auto* const at = ring.data<float>();
  Arrays sums;
  for (int i = 0; i < kSteps; i++) {
    const int to = i % kRows;
    const auto row = mx::slice(rows, {i, 0}, {i + 1, kWidth});
    ring = mx::slice_update(std::exchange(ring, row), row, mx::Shape{to, 0},
                            mx::Shape{to + 1, kWidth});
    const auto seen = mx::slice(ring, {0, 0}, {std::min(i + 1, kRows), kWidth});
    sums.push_back(mx::sum(mx::exp(seen)));
    start_step({ring, sums.back()});
    EXPECT_EQ(ring.data<float>(), at) << "step " << i;
  }
  for (int i = 0; i < kSteps; i++) {
    const auto seen = mx::slice(rows, {std::max(0, i + 1 - kRows), 0}, {i + 1, kWidth});
    const auto want = mx::sum(mx::exp(seen)).item<float>();
    EXPECT_NEAR(sums[static_cast<size_t>(i)].item<float>(), want, 1e-5f * want) << "step " << i;
  }
}

TEST(StartStep, WhatSpansStreamsIsLeftToMlx) {
  const auto x = noise({8, 8}, 1);
  const auto other = mx::new_stream(mx::Device::cpu);
  const auto y = mx::exp(mx::add(x, x, other));
  start_step({y});
  EXPECT_TRUE(mx::array_equal(y, mx::exp(mx::add(x, x))).item<bool>());
}

// An op that cannot be queued: what it needs is refused. Once there is room, the rest goes on.
TEST(StartStep, AfterAnErrorNothingIsHalfDone) {
  const auto x = noise({1000}, 1);
  mx::eval(x);
  const auto sum = mx::add(x, x);
  const auto big = mx::multiply(mx::broadcast_to(mx::expand_dims(sum, 1), {1000, 1000}), x);
  const auto limit = set_memory_limit(active_bytes() + 100000);
  EXPECT_THROW(start_step({big}), Error);
  set_memory_limit(limit);
  EXPECT_TRUE(
      mx::array_equal(big, mx::multiply(mx::expand_dims(mx::add(x, x), 1), x)).item<bool>());
}

TEST(StartStep, ErrorsOfTheWorkSurface) {
  const auto w = test::random_blocks(QuantFormat::q4_0, 6, 64, 3);
  const auto rows = dequantize_rows(w, array({7}, {1}, mx::int32), mx::float32);
  array y = kernels::add(rows, rows);
  const auto both = [&] {  // at the latest where it is read
    start_step({y});
    y.wait();
  };
  EXPECT_THROW(both(), std::exception);
}

// Nobody keeps what is in between, nor the second output.
TEST(StartStep, WorkKeepsWhatItReads) {
  for (int i = 0; i < 200; i++) {
    auto x = noise({64, 32}, 1);
    for (int j = 0; j < 20; j++) {
      x = add_norm(NormKind::rms, x, noise({64, 32}, static_cast<uint64_t>(j)), {mx::ones({32})},
                   1e-5f)
              .normed;
    }
    const auto y = mx::sum(x);
    start_step({y});
    x = mx::zeros({1});
    const auto host = array(std::vector<float>(64 * 32, NAN).data(), {64, 32});  // memory anew
    ASSERT_TRUE(std::isfinite(y.item<float>()));
  }
}

}  // namespace
}  // namespace lmxlab::kernels
