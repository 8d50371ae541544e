#include "lmxlab/kernels/dropout.h"

#include "lmxlab/base/error.h"
#include "lmxlab/kernels/thread_pool.h"
#include "tests/kernels/reference.h"

namespace mx = mlx::core;
using mx::array;
using Arrays = std::vector<array>;

namespace lmxlab::kernels {
namespace {

// Philox 4x32-10 written plainly.
std::array<uint32_t, 4> philox(std::array<uint32_t, 4> c, std::array<uint32_t, 2> k) {
  for (int round = 0; round < 10; round++) {
    const uint64_t p = uint64_t{0xD2511F53} * c[0], q = uint64_t{0xCD9E8D57} * c[2];
    c = {static_cast<uint32_t>(q >> 32) ^ c[1] ^ k[0], static_cast<uint32_t>(q),
         static_cast<uint32_t>(p >> 32) ^ c[3] ^ k[1], static_cast<uint32_t>(p)};
    k[0] += 0x9E3779B9, k[1] += 0xBB67AE85;
  }
  return c;
}

TEST(Dropout, TheReferenceIsPhilox) {
  // From the known answers of Random123 1.14.
  EXPECT_EQ(philox({0, 0, 0, 0}, {0, 0}),
            (std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const uint32_t all = 0xffffffff;
  EXPECT_EQ(philox({all, all, all, all}, {all, all}),
            (std::array<uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
}

TEST(Dropout, TheMaskIsThatOfTheGenerator) {
  const auto key = mx::random::key(42);
  const auto* k = key.data<uint32_t>();
  const float rate = 0.3f;
  on_every_isa([&](const std::string& isa) {
    for (const auto dtype : kFloats) {
      for (int n : {1, 15, 17, 127, 128, 200, 20001}) {
        const auto x = noise({n}, 1, dtype);
        const auto v = values(x), y = values(dropout(x, rate, key));
        for (size_t i = 0; i < v.size(); i++) {
          const auto counter = static_cast<uint32_t>(i / 128 * 16 + i % 16);
          const uint32_t word = philox({counter, 0, 0, 0}, {k[0], k[1]})[i % 128 / 32];
          const uint32_t half = i % 32 < 16 ? word & 0xffff : word >> 16;
          const double exact = std::round(double(rate) * 0x1p16) * 0x1p-16;
          const double expected = half >= exact * 0x1p16 ? v[i] / (1 - exact) : 0;
          ASSERT_NEAR(y[i], expected, 2 * unit(dtype) * std::abs(expected))
              << isa << " " << name(dtype) << " " << n << " at " << i;
        }
      }
    }
  });
}

TEST(Dropout, Statistics) {
  constexpr int kRows = 400, kWidth = 1000;
  for (const float rate : {0.1f, 0.5f, 0.9f}) {
    const auto kept = values(dropout(mx::ones({kRows, kWidth}), rate, mx::random::key(7)));
    const double p = 1 - rate, deviation = std::sqrt(p * (1 - p));
    double total = 0, neighbours = 0, above = 0;
    for (size_t i = 0; i < kept.size(); i++) {
      const auto centred = [&](size_t at) { return (kept[at] > 0) - p; };
      total += centred(i);
      if (i > 0) neighbours += centred(i) * centred(i - 1);
      if (i >= 16) above += centred(i) * centred(i - 16);  // the other half of a word
    }
    // Five standard deviations of the sums of independent draws.
    const double root = std::sqrt(double(kept.size()));
    EXPECT_LT(std::abs(total), 5 * deviation * root) << rate;
    EXPECT_LT(std::abs(neighbours), 5 * deviation * deviation * root) << rate;
    EXPECT_LT(std::abs(above), 5 * deviation * deviation * root) << rate;
  }
  const auto a = values(dropout(mx::ones({1000}), 0.5f, mx::random::key(1)));
  const auto b = values(dropout(mx::ones({1000}), 0.5f, mx::random::key(2)));
  int equal = 0;
  for (size_t i = 0; i < a.size(); i++) equal += a[i] == b[i];
  EXPECT_NEAR(equal, 500, 5 * std::sqrt(250.0));
}

TEST(Dropout, GradientAndTangentHaveTheSameMask) {
  const auto key = mx::random::key(3);
  const auto x = noise({50, 70}, 1), t = noise({50, 70}, 2);
  const auto own = [&](const Arrays& v) -> Arrays { return {dropout(v[0], 0.25f, key)}; };
  const auto expected = dropout(t, 0.25f, key);
  EXPECT_TRUE(same_bits(mx::vjp(own, {x}, {t}).second[0], expected));
  EXPECT_TRUE(same_bits(mx::jvp(own, {x}, {t}).second[0], expected));
  const auto broadcast = mx::grad([&](const array& v) { return mx::sum(own({v})[0]); })(x);
  EXPECT_TRUE(same_bits(broadcast, dropout(mx::ones({50, 70}), 0.25f, key)));
  std::function<Arrays(const Arrays&)> keyed = [](const Arrays& v) -> Arrays {
    return {dropout(v[0], 0.25f, v[1])};
  };
  EXPECT_TRUE(same_bits(mx::compile(keyed)({t, key})[0], expected));
  EXPECT_TRUE(same_bits(mx::checkpoint(keyed)({t, key})[0], expected));
}

TEST(Dropout, DependsOnNeitherThreadsNorLayout) {
  const auto key = mx::random::key(3);
  const auto x = noise({300, 257}, 1);
  auto one = dropout(x, 0.25f, key);
  mx::eval(one);
  mx::synchronize();
  set_threads(1);
  auto alone = dropout(x, 0.25f, key);
  mx::eval(alone);
  mx::synchronize();
  set_threads(0);
  EXPECT_TRUE(same_bits(one, alone));
  EXPECT_TRUE(same_bits(one, dropout(gappy(x), 0.25f, key)));
  EXPECT_TRUE(same_bits(one, dropout(shifted(x), 0.25f, key)));
  EXPECT_TRUE(same_bits(one, dropout(mx::multiply(x, array(1.0f)), 0.25f, key)));  // in place
}

TEST(Dropout, APartHasItsShareOfTheMask) {
  const auto key = mx::random::key(3);
  const auto x = noise({300, 256}, 1), whole = dropout(x, 0.25f, key);
  for (const int row : {1, 128, 299}) {
    const auto cut = [&](const array& a) { return mx::slice(a, {row, 0}, {300, 256}); };
    EXPECT_TRUE(same_bits(dropout(cut(x), 0.25f, key, row * 256), cut(whole))) << row;
    const auto f = [&](const array& v) { return mx::sum(dropout(v, 0.25f, key, row * 256)); };
    EXPECT_TRUE(same_bits(mx::grad(f)(cut(x)), cut(dropout(mx::ones({300, 256}), 0.25f, key))));
  }
  EXPECT_THROW(dropout(x, 0.25f, key, 100), Error);
  EXPECT_THROW(dropout(x, 0.25f, key, -128), Error);
}

TEST(Dropout, Edges) {
  const auto key = mx::random::key(3);
  const auto x = noise({8}, 1);
  EXPECT_TRUE(same_bits(dropout(x, 0, key), x));
  EXPECT_EQ(dropout(mx::zeros({0, 3}), 0.5f, key).size(), 0u);
  EXPECT_THROW(dropout(x, 1, key), Error);
  EXPECT_THROW(dropout(x, NAN, key), Error);
  EXPECT_THROW(dropout(x, 0.5f, array({1, 2})), Error);
}

}  // namespace
}  // namespace lmxlab::kernels
