// Products of groups of rows, and the rows' way there and back.
#include "lmxlab/kernels/grouped.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <numeric>

#include "lmxlab/base/error.h"
#include "lmxlab/kernels/combine.h"
#include "lmxlab/kernels/fused.h"
#include "lmxlab/kernels/thread_pool.h"
#include "tests/kernels/reference.h"

namespace lmxlab::kernels {
namespace {

namespace mx = mlx::core;
using mx::array;
using Arrays = std::vector<array>;

array ids_of(int n, int experts, int key, bool sorted) {
  const auto ids =
      mx::astype(mx::random::randint(0, experts, {n}, mx::int32, mx::random::key(key)), mx::uint32);
  return sorted ? mx::sort(ids) : ids;
}

// Value and gradients of sum(f * slope).
Arrays all_of(const std::function<array(const Arrays&)>& f, const Arrays& in, const array& slope) {
  std::vector<int> every(in.size());
  std::iota(every.begin(), every.end(), 0);
  const auto loss = [&](const Arrays& v) -> Arrays {
    const auto y = f(v);
    return {mx::sum(mx::multiply(mx::astype(y, mx::float32), slope)), y};
  };
  auto [value, grads] = mx::value_and_grad(loss, every)(in);
  grads.insert(grads.begin(), value[1]);
  return grads;
}

double largest(const array& x) {
  return mx::max(mx::abs(mx::astype(x, mx::float32))).item<float>();
}

// Against ordinary ops in float32, forwards and backwards; each type, few rows of one and many.
TEST(GroupedLinear, EqualsOrdinaryOps) {
  for (const auto dtype : kFloats) {
    for (const auto wdtype : {dtype, mx::float32}) {
      for (const auto& [n, experts, in, out] :
           {std::tuple{5, 7, 33, 18}, {64, 3, 48, 64}, {300, 9, 40, 24}, {700, 2, 64, 48}}) {
        for (const bool sorted : {true, false}) {
          const auto ids = ids_of(n, experts, n, sorted);
          const Arrays v{noise({n, in}, 1, dtype), noise({experts, out, in}, 2, wdtype)};
          const auto slope = noise({n, out}, 3);
          const auto f = [&, sorted = sorted](const Arrays& a) {
            return grouped_linear(a[0], a[1], ids, sorted);
          };
          const auto got = all_of(f, v, slope);
          set_fused(false);
          const auto want =
              all_of(f, {mx::astype(v[0], mx::float32), mx::astype(v[1], mx::float32)}, slope);
          set_fused(true);
          EXPECT_EQ(got[0].dtype(), dtype);
          EXPECT_EQ(got[1].dtype(), dtype);
          EXPECT_EQ(got[2].dtype(), wdtype);
          for (size_t i = 0; i < 3; i++) {
            // Sums of up to 700 terms; both operands of a product may be rounded to 16 bits.
            const double bound =
                8 * std::max(unit(dtype), 16 * unit(mx::float32)) * largest(want[i]);
            expect_near(
                got[i], values(want[i]), [&](size_t) { return bound; },
                name(dtype) + " " + std::to_string(n) + ", output " + std::to_string(i));
          }
        }
      }
    }
  }
}

// A result does not depend on who computes it.
TEST(GroupedLinear, ThreadsChangeNothingButTheOrderOfSums) {
  const int n = 900;
  const auto ids = ids_of(n, 5, 4, true);
  const auto x = noise({n, 64}, 1), w = noise({5, 48, 64}, 2);
  const auto y = grouped_linear(x, w, ids, true);
  mx::eval(y);
  const int before = threads();
  for (const int some : {1, 3, 8}) {
    set_threads(some);
    expect_near(
        grouped_linear(x, w, ids, true), values(y), [](size_t) { return 1e-4; },
        std::to_string(some) + " threads");
  }
  set_threads(before);
}

// Rows of no expert, at the ends, next to each other and between others: as if only the rest was
// there.
TEST(GroupedLinear, AbsentRowsGiveZeros) {
  constexpr int kExperts = 4, kRows = 90, kIn = 64, kOut = 24;
  auto ids = ids_of(kRows, kExperts + 2, 7, false);
  ids = mx::minimum(ids, array(uint32_t{kExperts}));
  const auto there = mx::expand_dims(mx::less(ids, array(uint32_t{kExperts})), 1);
  const auto known = mx::minimum(ids, array(uint32_t{kExperts - 1}));
  const auto zero = array(0.0f);
  const Arrays v{noise({kRows, kIn}, 1), noise({kExperts, kOut, kIn}, 2)};
  const auto slope = noise({kRows, kOut}, 3);
  const auto parts = mx::quantize(mx::reshape(v[1], {kExperts * kOut, kIn}), 64, 8);
  const auto packed = affine_weight(parts[0], parts[1], parts[2], 64, 8);
  for (const bool of_ours : {true, false}) {
    set_fused(of_ours);
    const auto got = all_of(
        [&](const Arrays& a) { return grouped_linear(a[0], a[1], ids, false, true); }, v, slope);
    const auto want = all_of(
        [&](const Arrays& a) {
          return mx::where(there, grouped_linear(a[0], a[1], known, false), zero);
        },
        v, slope);
    for (size_t i = 0; i < 3; i++)
      expect_near(
          got[i], values(want[i]),
          [&](size_t) { return 64 * unit(mx::float32) * largest(want[i]); },
          "output " + std::to_string(i));
    const auto few = grouped_linear(v[0], packed, kExperts, ids, false, Activations::float32, true);
    const auto all = grouped_linear(v[0], packed, kExperts, known, false, Activations::float32);
    expect_near(
        few, values(mx::where(there, all, zero)),
        [&](size_t) { return 64 * unit(mx::float32) * largest(all); }, "packed");
  }
  set_fused(true);
}

TEST(GroupedLinear, UnknownExpertsAreAnError) {
  const auto x = noise({4, 8}, 1), w = noise({3, 8, 8}, 2);
  const array ids({0u, 1u, 2u, 3u}, mx::uint32);
  EXPECT_ANY_THROW(mx::eval(grouped_linear(x, w, ids, true)));  // as MLX's stream hands it on
}

TEST(CombineRows, EqualsOrdinaryOps) {
  on_every_isa([](const std::string& isa) {
    for (const auto dtype : kFloats) {
      for (const auto& [tokens, k, width] : {std::tuple{1, 1, 5}, {7, 3, 33}, {200, 2, 64}}) {
        const int n = tokens * k;
        const auto order = mx::argsort(noise({n}, 5)), place = mx::argsort(order);
        const Arrays v{noise({n, width}, 1, dtype), noise({tokens, k}, 2)};
        const auto combine = [&](const Arrays& a) {
          return combine_rows(a[0], a[1], place, order);
        };
        const auto spread = [&](const Arrays& a) { return spread_rows(a[0], place, order); };
        const auto check = [&](const auto& f, const Arrays& in, const mx::Shape& shape) {
          const auto slope = noise(shape, 3);
          const auto got = all_of(f, in, slope);
          Arrays wide;
          for (const auto& a : in) wide.push_back(mx::astype(a, mx::float32));
          set_fused(false);
          const auto want = all_of(f, wide, slope);
          set_fused(true);
          for (size_t i = 0; i < got.size(); i++) {
            const double bound = 4 * unit(dtype) * std::max(1.0, largest(want[i]));
            expect_near(
                got[i], values(want[i]), [&](size_t) { return bound; },
                isa + " " + name(dtype) + ", output " + std::to_string(i));
          }
        };
        check(combine, v, {tokens, width});
        check(spread, {noise({tokens, width}, 4, dtype)}, {n, width});
      }
    }
  });
}

TEST(CombineRows, WhatDoesNotFitIsAnError) {
  const auto y = noise({6, 4}, 1), w = noise({3, 2}, 2);
  const auto order = mx::arange(6, mx::uint32), few = mx::arange(5, mx::uint32);
  EXPECT_THROW(combine_rows(y, w, few, order), Error);
  EXPECT_THROW(combine_rows(y, w, order, mx::astype(order, mx::int32)), Error);
  EXPECT_THROW(combine_rows(noise({5, 4}, 1), w, order, order), Error);
  EXPECT_THROW(spread_rows(noise({4, 4}, 1), order, order), Error);
}

}  // namespace
}  // namespace lmxlab::kernels
