// The matrix engine on memory: every instruction set, every type, against sums in float64.
#include "lmxlab/kernels/gemm.h"

#include <gtest/gtest.h>

#include <cfloat>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "lmxlab/kernels/isa.h"
#include "lmxlab/kernels/peaks.h"
#include "lmxlab/kernels/thread_pool.h"

namespace lmxlab::kernels {
namespace {

uint16_t bf16_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
float of_bf16(uint16_t x) {
  const uint32_t bits = uint32_t{x} << 16;
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}

// A matrix of any type, with room between its lines; `values` is what its elements are.
struct Stored {
  std::vector<float> values;  // [rows, columns]
  std::vector<float> f32;
  std::vector<uint16_t> bf16;
  MatrixView view;

  Stored(int64_t rows, int64_t columns, Type type, bool transposed, int64_t pad, unsigned seed)
      : values(static_cast<size_t>(rows * columns)) {
    const int64_t row = transposed ? 1 : columns + pad, column = transposed ? rows + pad : 1;
    const auto size = static_cast<size_t>((rows + pad) * (columns + pad) + 1);
    f32.assign(size, NAN), bf16.assign(size, 0x7fc0);
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < rows; i++) {
      for (int64_t j = 0; j < columns; j++) {
        float x = normal(engine);
        if (type == Type::bf16) x = of_bf16(bf16_of(x));
        values[static_cast<size_t>(i * columns + j)] = x;
        const auto at = static_cast<size_t>(1 + i * row + j * column);  // misaligned
        f32[at] = x, bf16[at] = bf16_of(x);
      }
    }
    const void* data = type == Type::bf16 ? static_cast<const void*>(bf16.data() + 1)
                                          : static_cast<const void*>(f32.data() + 1);
    view = {data, type, row, column};
  }
};

struct Case {
  int64_t m, n, k;
  Type a, b, c;
  bool ta, tb, add;
};

// How often the error is of what the derivation allows; 1 is the most.
double worst_error(const Case& t, std::string& where) {
  const Stored a(t.m, t.k, t.a, t.ta, 3, 1), b(t.k, t.n, t.b, t.tb, 3, 2);
  const auto size = static_cast<size_t>(t.m * t.n);
  std::vector<float> c32(size, 0.5f);
  std::vector<uint16_t> c16(size, bf16_of(0.5f));
  const bool half = t.c == Type::bf16;
  void* const to = half ? static_cast<void*>(c16.data()) : static_cast<void*>(c32.data());
  gemm(t.m, t.n, t.k, a.view, b.view, {to, t.c, t.n}, t.add);
  // Operands of bfloat16 make the other round to it as well.
  const bool rounded = packs_bf16() && t.a != t.b;
  double worst = 0;
  for (int64_t i = 0; i < t.m; i++) {
    for (int64_t j = 0; j < t.n; j++) {
      double sum = t.add ? 0.5 : 0, magnitude = std::abs(sum);
      for (int64_t p = 0; p < t.k; p++) {
        const double x = a.values[static_cast<size_t>(i * t.k + p)];
        const double y = b.values[static_cast<size_t>(p * t.n + j)];
        sum += x * y, magnitude += std::abs(x * y);
      }
      const auto at = static_cast<size_t>(i * t.n + j);
      const double got = half ? of_bf16(c16[at]) : c32[at];
      // Sums of k roundings that go up as often as down; a rounding of the result, of an operand.
      double bound =
          FLT_EPSILON * (std::sqrt(static_cast<double>(t.k)) + 4) * (magnitude + FLT_MIN);
      if (half) bound += std::abs(sum) / 256;
      if (rounded) bound += magnitude / 256;
      const double ratio = std::abs(got - sum) / bound;
      if (!(ratio <= worst)) {
        worst = ratio;
        where = std::to_string(i) + ", " + std::to_string(j) + ": expected " + std::to_string(sum) +
                ", got " + std::to_string(got);
      }
    }
  }
  return worst;
}

class EveryIsa : public testing::Test {
 protected:
  ~EveryIsa() override {
    set_isa(isas().back());
    set_threads(0);
  }
};
using Engine = EveryIsa;

TEST_F(Engine, AgreesWithSumsInFloat64) {
  const int64_t shapes[][3] = {{1, 1, 1},      {3, 5, 7},    {8, 70, 40},   {9, 33, 64},
                               {14, 32, 8},    {15, 33, 9},  {32, 32, 32},  {33, 31, 65},
                               {70, 1, 50},    {16, 64, 96}, {48, 40, 31},  {100, 70, 50},
                               {37, 129, 600}, {5, 3, 2500}, {29, 31, 2500}};
  for (const Isa isa : isas()) {
    set_isa(isa);
    for (const auto& s : shapes) {
      for (int variant = 0; variant < 32; variant++) {
        const auto type = [&](int bit) { return variant >> bit & 1 ? Type::bf16 : Type::f32; };
        const bool one_type = s[0] * s[1] * s[2] > 100'000;
        const Case t{s[0],
                     s[1],
                     s[2],
                     type(0),
                     one_type ? type(0) : type(1),
                     type(2),
                     (variant & 8) != 0,
                     (variant & 16) != 0,
                     (variant & 5) == 5};
        std::string where;
        EXPECT_LE(worst_error(t, where), 1)
            << name(isa) << " m n k " << t.m << " " << t.n << " " << t.k << ", variant " << variant
            << ", worst at " << where;
      }
    }
  }
}

TEST_F(Engine, ADepthOfZeroGivesZerosOrAddsNothing) {
  std::vector<float> c(6, 2.0f);
  const MatrixView none{c.data(), Type::f32, 0, 1};
  gemm(2, 3, 0, none, none, {c.data(), Type::f32, 3}, true);
  EXPECT_EQ(c, std::vector<float>(6, 2.0f));
  gemm(2, 3, 0, none, none, {c.data(), Type::f32, 3});
  EXPECT_EQ(c, std::vector<float>(6, 0.0f));
  gemm(0, 3, 4, none, none, {c.data(), Type::f32, 3});
}

TEST_F(Engine, ReadsAVectorGivenForEveryRow) {  // strides of 0: a broadcast cotangent
  const float one = 2;
  const std::vector<float> b(40 * 50, 0.5f);
  for (const Isa isa : isas()) {
    set_isa(isa);
    std::vector<float> c(30 * 50);
    gemm(30, 50, 40, {&one, Type::f32, 0, 0}, {b.data(), Type::f32, 50, 1},
         {c.data(), Type::f32, 50});
    for (const float x : c) ASSERT_EQ(x, 40.0f) << name(isa);
  }
}

TEST_F(Engine, WritesTheSameBitsEachTime) {
  const Stored a(130, 300, Type::bf16, false, 0, 1), b(300, 200, Type::bf16, true, 0, 2);
  for (const Isa isa : isas()) {
    set_isa(isa);
    std::vector<float> first(130 * 200), again(130 * 200);
    gemm(130, 200, 300, a.view, b.view, {first.data(), Type::f32, 200});
    for (int i = 0; i < 20; i++) {
      gemm(130, 200, 300, a.view, b.view, {again.data(), Type::f32, 200});
      ASSERT_EQ(first, again) << name(isa);
    }
  }
}

TEST_F(Engine, ABatchIsItsProductsOneByOne) {
  for (const int64_t m : {4, 20, 70}) {
    const int64_t batch = 9, n = 40, k = 33;
    const Stored a(batch * m, k, Type::f32, false, 0, 1), b(batch * k, n, Type::f32, false, 0, 2);
    std::vector<float> all(static_cast<size_t>(batch * m * n)), one(all.size());
    gemm_batched(batch, {m * k, k * n, m * n}, m, n, k, a.view, b.view, {all.data(), Type::f32, n});
    set_threads(1);
    for (int64_t i = 0; i < batch; i++) {
      const auto* const pa = static_cast<const float*>(a.view.data) + i * m * k;
      const auto* const pb = static_cast<const float*>(b.view.data) + i * k * n;
      gemm(m, n, k, {pa, Type::f32, k, 1}, {pb, Type::f32, n, 1},
           {one.data() + i * m * n, Type::f32, n});
    }
    set_threads(0);
    for (size_t i = 0; i < all.size(); i++) {
      ASSERT_NEAR(all[i], one[i], 40 * FLT_EPSILON * std::sqrt(33.0)) << i;
    }
  }
}

TEST_F(Engine, WorksAfterThePeaksWereMeasured) {  // which use the same tile registers
  const Stored a(200, 64, Type::bf16, false, 0, 1), b(64, 64, Type::bf16, false, 0, 2);
  std::vector<float> before(200 * 64), after(before);
  gemm(200, 64, 64, a.view, b.view, {before.data(), Type::f32, 64});
  measure_peaks();
  gemm(200, 64, 64, a.view, b.view, {after.data(), Type::f32, 64});
  EXPECT_EQ(before, after);
}

TEST_F(Engine, FromInsideAPartItRunsThere) {
  const Stored a(64, 64, Type::f32, false, 0, 1), b(64, 64, Type::f32, false, 0, 2);
  std::vector<std::vector<float>> c(16, std::vector<float>(64 * 64));
  parallel_parts(16, [&](int64_t i) {
    gemm(64, 64, 64, a.view, b.view, {c[static_cast<size_t>(i)].data(), Type::f32, 64});
  });
  for (const auto& each : c) EXPECT_EQ(each, c[0]);
}

}  // namespace
}  // namespace lmxlab::kernels
