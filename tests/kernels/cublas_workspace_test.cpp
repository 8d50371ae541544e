#include "lmxlab/kernels/cublas_workspace.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <vector>

namespace mx = mlx::core;
using mx::array;

namespace lmxlab::kernels {
namespace {

array zeros(mx::Shape shape) {
  return mx::zeros(std::move(shape));
}
// As an op of a graph finds its inputs: views have strides once they are evaluated.
std::optional<CublasProduct> asked(std::vector<array> inputs, const mx::Shape& out) {
  mx::eval(inputs);
  return cublas_product(inputs, array(out, mx::float32, nullptr, {}));
}

TEST(CublasWorkspace, RowsAndColumnsOfTwoMatrices) {
  const auto plain = asked({zeros({64, 128}), zeros({128, 32})}, {64, 32});
  ASSERT_TRUE(plain);
  EXPECT_EQ(plain->rows, 64u);
  EXPECT_EQ(plain->columns, 32u);
  EXPECT_EQ(plain->inner, 128u);
  EXPECT_EQ(plain->batch, 1);
  EXPECT_FALSE(plain->a.transposed || plain->b.transposed || plain->by_pointers || plain->bias);
  EXPECT_EQ(plain->a.leading, 128);
  EXPECT_EQ(plain->b.leading, 32);

  // Weights (out, in), and what is not a matrix as it lies and so is copied in rows.
  const auto weights = asked(
      {mx::slice(zeros({64, 200}), {0, 0}, {64, 128}), mx::transpose(zeros({32, 128}))}, {64, 32});
  ASSERT_TRUE(weights);
  EXPECT_TRUE(weights->b.transposed);
  EXPECT_EQ(weights->b.leading, 128);
  EXPECT_FALSE(weights->a.transposed);
  EXPECT_EQ(weights->a.leading, 128);
}

TEST(CublasWorkspace, RowsOfAllTextsAreOneProduct) {
  const auto b = mx::broadcast_to(mx::transpose(zeros({32, 128})), {3, 128, 32});
  const auto p = asked({zeros({3, 64, 128}), b}, {3, 64, 32});
  ASSERT_TRUE(p);
  EXPECT_EQ(p->rows, 192u);
  EXPECT_EQ(p->batch, 1);
  EXPECT_FALSE(p->by_pointers);
}

TEST(CublasWorkspace, HeadsAtOneStrideAndByPointers) {
  const auto keys = mx::swapaxes(zeros({2, 4, 64, 16}), 2, 3);
  const auto heads = asked({zeros({2, 4, 64, 16}), keys}, {2, 4, 64, 64});
  ASSERT_TRUE(heads);
  EXPECT_EQ(heads->batch, 8);
  EXPECT_EQ(heads->a.batch_stride, 64 * 16);
  EXPECT_TRUE(heads->b.transposed);
  EXPECT_FALSE(heads->by_pointers);

  // Two queries for each key: the keys' stride is 0 there.
  const auto shared = mx::broadcast_to(zeros({2, 2, 1, 16, 64}), {2, 2, 2, 16, 64});
  const auto grouped = asked({zeros({2, 2, 2, 64, 16}), shared}, {2, 2, 2, 64, 64});
  ASSERT_TRUE(grouped);
  EXPECT_TRUE(grouped->by_pointers);
  EXPECT_EQ(grouped->batch, 8);
}

TEST(CublasWorkspace, VectorsHaveKernelsOfTheirOwn) {
  EXPECT_FALSE(asked({zeros({1, 128}), mx::transpose(zeros({32, 128}))}, {1, 32}));
  EXPECT_TRUE(asked({zeros({1, 128}), zeros({128, 32})}, {1, 32}));
  EXPECT_FALSE(asked({zeros({64, 128}), zeros({128, 1})}, {64, 1}));
}

TEST(CublasWorkspace, WhatIsAdded) {
  const auto row = mx::broadcast_to(zeros({32}), {64, 32});
  const auto biased = asked({zeros({64, 128}), zeros({128, 32}), row}, {64, 32});
  ASSERT_TRUE(biased);
  EXPECT_TRUE(biased->bias);
  EXPECT_FALSE(biased->c);
  const auto added = asked({zeros({64, 128}), zeros({128, 32}), zeros({64, 32})}, {64, 32});
  ASSERT_TRUE(added);
  EXPECT_FALSE(added->bias);
  ASSERT_TRUE(added->c);
  EXPECT_EQ(added->c->leading, 32);
}

}  // namespace
}  // namespace lmxlab::kernels
