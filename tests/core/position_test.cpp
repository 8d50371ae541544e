#include "lmxlab/core/position.h"

#include "lmxlab/core/mask.h"
#include "tests/core/support.h"

namespace lmxlab::core {
namespace {

struct Case {
  config::Rope rope;
  int offset;
  bool padded;
  int length;
};

class Rotary : public testing::TestWithParam<Case> {};

TEST_P(Rotary, EqualsItsFormula) {
  const auto& c = GetParam();
  const int B = 2, H = 3, L = c.length, D = 8;
  const int32_t pads[] = {0, 3};
  const auto x = test::some({B, H, L, D}, 7);
  Pass pass;
  pass.offset = c.offset;
  if (c.padded) pass.pads = mx::array(pads, {B}, mx::int32);

  auto want = test::doubles(x);
  const int dims = c.rope.dims ? c.rope.dims : D;
  double furthest = 1;
  for (int b = 0; b < B; ++b)
    for (int h = 0; h < H; ++h)
      for (int l = 0; l < L; ++l)
        for (int i = 0; i < dims / 2; ++i) {
          const double position = c.rope.scale * (c.offset + l - (c.padded ? pads[b] : 0));
          const double angle =
              position * std::pow(static_cast<double>(c.rope.theta), -2.0 * i / dims);
          furthest = std::max(furthest, std::abs(angle));
          const auto row = static_cast<size_t>(((b * H + h) * L + l) * D);
          auto& first = want[row + static_cast<size_t>(c.rope.interleaved ? 2 * i : i)];
          auto& second =
              want[row + static_cast<size_t>(c.rope.interleaved ? 2 * i + 1 : i + dims / 2)];
          const double u = first, v = second;
          first = u * std::cos(angle) - v * std::sin(angle);
          second = u * std::sin(angle) + v * std::cos(angle);
        }
  const auto y = rotate(Rotation(c.rope, x.shape(3)), x, pass);
  EXPECT_EQ(y.shape(), x.shape());
  // Frequencies are rounded: an angle is off by a few eps of itself, and turns |x| <= sqrt 2 by as
  // much.
  test::expect_close(y, want, 8 * test::kEps * furthest * std::sqrt(2.0));
  EXPECT_EQ(rotate(Rotation(c.rope, x.shape(3)), mx::astype(x, mx::bfloat16), pass).dtype(),
            mx::bfloat16);
}

INSTANTIATE_TEST_SUITE_P(
    All, Rotary,
    testing::Values(Case{{}, 0, false, 5}, Case{{.interleaved = true}, 0, false, 5},
                    Case{{.dims = 4}, 3, false, 5},
                    Case{{.dims = 4, .interleaved = true}, 3, false, 5},
                    Case{{.theta = 500'000}, 1000, false, 5},
                    Case{{.theta = 500'000, .interleaved = true}, 1000, false, 5},
                    Case{{.scale = 0.25f}, 17, false, 5}, Case{{}, 0, true, 5},
                    Case{{.interleaved = true}, 9, true, 5}, Case{{.dims = 6}, 9, true, 5},
                    Case{{}, 11, false, 1}, Case{{}, 11, true, 1},
                    Case{{.interleaved = true}, 11, true, 1}, Case{{.dims = 4}, 11, true, 1}));

TEST(Alibi, Slopes) {
  const auto f = [](std::vector<double> v) { return std::vector<float>(v.begin(), v.end()); };
  EXPECT_EQ(alibi_slopes(1), f({1.0 / 256}));
  EXPECT_EQ(alibi_slopes(2), f({1.0 / 16, 1.0 / 256}));
  EXPECT_EQ(alibi_slopes(6), f({1.0 / 4, 1.0 / 16, 1.0 / 64, 1.0 / 256, 1.0 / 2, 1.0 / 8}));
  EXPECT_EQ(alibi_slopes(8),
            f({1.0 / 2, 1.0 / 4, 1.0 / 8, 1.0 / 16, 1.0 / 32, 1.0 / 64, 1.0 / 128, 1.0 / 256}));
  EXPECT_EQ(alibi_slopes(12),
            f({1.0 / 2, 1.0 / 4, 1.0 / 8, 1.0 / 16, 1.0 / 32, 1.0 / 64, 1.0 / 128, 1.0 / 256,
               std::exp2(-0.5), std::exp2(-1.5), std::exp2(-2.5), std::exp2(-3.5)}));
}

TEST(Alibi, BiasIsSlopeTimesDistance) {
  const auto keys_of = [](int columns, int start, bool ring) {
    const auto zero = mx::zeros({1, 1, columns, 1});
    return Keys{zero, zero, start, ring};
  };
  const auto check = [](const Keys& keys, int offset, int length,
                        const std::vector<int>& positions) {
    Pass pass;
    pass.offset = offset;
    std::vector<double> want;
    for (const float slope : alibi_slopes(6))
      for (int q = offset; q < offset + length; ++q)
        for (const int p : positions) want.push_back(-static_cast<double>(slope) * (q - p));
    const auto bias = alibi_bias(6, {}, 1, pass, length, keys);
    EXPECT_EQ(bias.shape(), (mx::Shape{6, length, static_cast<int>(positions.size())}));
    test::expect_close(bias, want, 0);  // powers of two and small integers are exact
  };
  check(keys_of(3, 0, false), 0, 3, {0, 1, 2});
  check(keys_of(6, 0, false), 4, 2, {0, 1, 2, 3, 4, 5});
  check(keys_of(5, 7, false), 10, 2, {7, 8, 9, 10, 11});
  check(keys_of(4, 0, true), 9, 1, {8, 9, 6, 7});
}

TEST(Sinusoids, EqualTheirFormula) {
  const int D = 12;
  const auto check = [&](const mx::array& positions) {
    std::vector<double> want;
    double furthest = 1;
    for (const int32_t p : to_vector<int32_t>(positions)) {
      for (const bool cosine : {false, true})
        for (int i = 0; i < D / 2; ++i) {
          const double angle = p * std::pow(10000.0, -2.0 * i / D);
          want.push_back(cosine ? std::cos(angle) : std::sin(angle));
        }
      furthest = std::max(furthest, std::abs(static_cast<double>(p)));
    }
    test::expect_close(sinusoids(positions, D), want, 8 * test::kEps * furthest);
  };
  Pass pass;
  check(query_positions(pass, 5));
  pass.offset = 700;
  check(query_positions(pass, 3));
  pass.pads = mx::array({0, 2}, mx::int32);
  check(query_positions(pass, 3));
  EXPECT_EQ(sinusoids(query_positions(pass, 3), D).shape(), (mx::Shape{2, 3, D}));
}

}  // namespace
}  // namespace lmxlab::core
