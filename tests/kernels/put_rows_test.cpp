#include "lmxlab/kernels/put_rows.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include "lmxlab/base/error.h"
#include "lmxlab/kernels/memory.h"
#include "tests/kernels/reference.h"

namespace lmxlab::kernels {
namespace {

namespace mx = mlx::core;

TEST(PutRows, PartsMakeTheWhole) {
  for (const auto dtype : {mx::float32, mx::bfloat16}) {
    const auto x = mx::astype(noise({300, 33}, 1), dtype);
    const auto part = [&](int from, int to) { return mx::slice(x, {from, 0}, {to, 33}); };
    auto y = put_rows(std::nullopt, part(0, 128), 0, 300);
    y = put_rows(y, part(128, 256), 128, 300);
    y = put_rows(y, mx::swapaxes(mx::contiguous(mx::swapaxes(part(256, 300), 0, 1)), 0, 1), 256,
                 300);
    EXPECT_TRUE(same_bits(y, x));
  }
}

TEST(PutRows, WhatSomebodyHoldsStays) {
  const auto before = noise({40, 8}, 1), part = noise({10, 8}, 2);
  const auto kept = mx::multiply(before, mx::array(1.0f));
  const auto after = put_rows(before, part, 20, 40);
  EXPECT_TRUE(same_bits(before, kept));
  EXPECT_TRUE(same_bits(after, mx::slice_update(kept, part, mx::Shape{20, 0}, mx::Shape{30, 8})));
}

TEST(PutRows, InPlace) {
  const auto part = noise({1000, 1000}, 2);
  auto y = mx::multiply(noise({4000, 1000}, 1), mx::array(1.0f));
  mx::eval(part, y);
  mx::synchronize();
  reset_peak();
  const auto before = active_bytes();
  for (int i = 0; i < 4; i++) y = put_rows(y, part, i * 1000, 4000);
  mx::eval(y);
  if (own_allocator()) {
    EXPECT_LT(peak_bytes(), before + (1 << 20));
  }
}

TEST(PutRows, WhatDoesNotFitIsAnError) {
  const auto x = noise({4, 8}, 1), part = noise({2, 8}, 2);
  EXPECT_THROW(put_rows(x, part, 3, 4), Error);
  EXPECT_THROW(put_rows(x, part, -1, 4), Error);
  EXPECT_THROW(put_rows(x, part, 0, 5), Error);
  EXPECT_THROW(put_rows(x, mx::astype(part, mx::bfloat16), 0, 4), Error);
}

}  // namespace
}  // namespace lmxlab::kernels
