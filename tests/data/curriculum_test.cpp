// What comes first: rows by difficulty, rows that get longer; and what follows is known by the
// place.
#include "lmxlab/data/curriculum.h"

#include "tests/support/error_of.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

namespace lmxlab::data {
namespace {

// Row i is one token, i.
Rows numbered(int count) {
  return {count, [](std::span<const uint32_t> rows) -> Batch {
            const std::vector<int32_t> ids(rows.begin(), rows.end());
            const mx::array a(ids.data(), {static_cast<int>(ids.size()), 1}, mx::int32);
            return {a, a};
          }};
}
std::vector<int> ids_of(const Batch& batch) {
  auto a = mx::contiguous(mx::astype(batch.inputs, mx::int32));
  a.eval();
  return {a.data<int32_t>(), a.data<int32_t>() + a.size()};
}
mx::array counted(int n) {
  auto a = mx::arange(n, mx::int32);
  a.eval();
  return a;
}

TEST(Competence, IsThePapers) {
  const Competence c{.start = 0.1, .power = 2, .batches = 100};
  EXPECT_DOUBLE_EQ(c.at(0), 0.1);
  // Platanios et al. 2019, eq. 8 at half of the time: sqrt(0.5 (1 - 0.01) + 0.01).
  EXPECT_NEAR(c.at(50), std::sqrt(0.505), 1e-12);
  EXPECT_EQ(c.at(100), 1);
  const Competence linear{.start = 0.2, .power = 1, .batches = 10};  // eq. 7
  EXPECT_NEAR(linear.at(5), 0.6, 1e-12);
}

TEST(Curriculum, DrawsFromTheEasiest) {
  constexpr int kRows = 200, kBatch = 8, kBatches = 60;
  std::vector<double> difficulty;
  for (int i = 0; i < kRows; ++i) difficulty.push_back(double((i * 77) % kRows));
  std::vector<int> rank(kRows);  // place of a row among the easiest
  for (int i = 0; i < kRows; ++i) rank[size_t(i)] = int(difficulty[size_t(i)]);
  const Competence c{.start = 0.1, .power = 2, .batches = kBatches};
  auto source = easiest_first(numbered(kRows), difficulty, kBatch, 7, c);
  std::set<int> early;
  for (int n = 0; n < kBatches; ++n) {
    const auto ids = ids_of(source->next());
    EXPECT_EQ(std::set<int>(ids.begin(), ids.end()).size(), size_t(kBatch)) << "a row came twice";
    for (const int id : ids) {
      EXPECT_LT(rank[size_t(id)], std::ceil(c.at(n) * kRows)) << "batch " << n;
      if (n < 10) early.insert(id);
    }
  }
  EXPECT_GT(early.size(), 30u);  // not the same few
  // Then every row once an epoch.
  std::vector<int> all;
  for (int n = 0; n < kRows / kBatch; ++n)
    for (const int id : ids_of(source->next())) all.push_back(id);
  std::sort(all.begin(), all.end());
  std::vector<int> each(kRows);
  std::iota(each.begin(), each.end(), 0);
  EXPECT_EQ(all, each);
}

TEST(Curriculum, GoesOnWhereItWas) {
  const auto tokens = counted(2000);
  std::vector<double> difficulty(50);
  std::iota(difficulty.begin(), difficulty.end(), 0.0);
  const auto sources = [&](int which) {
    return which == 0 ? easiest_first(numbered(50), difficulty, 4, 3, {.batches = 20})
                      : growing_windows(tokens, 4, 32, 3, {.from = 8, .stages = 3, .batches = 20});
  };
  for (const int which : {0, 1})
    for (const int stop : {0, 1, 7, 19, 20, 21, 40}) {
      auto a = sources(which), b = sources(which);
      for (int n = 0; n < stop; ++n) a->next();
      b->restore(a->position());
      for (int n = 0; n < 30; ++n) ASSERT_EQ(ids_of(a->next()), ids_of(b->next())) << stop;
      b->restore({0, 5});  // back
      auto c = sources(which);
      for (int n = 0; n < 5; ++n) c->next();
      ASSERT_EQ(ids_of(b->next()), ids_of(c->next()));
      EXPECT_EQ(test::error_of([&] { b->restore({1, 0}); }).kind(), Kind::mismatch);
    }
}

TEST(Curriculum, RowsGetLonger) {
  EXPECT_EQ(growing_lengths(64, {.from = 16, .stages = 4, .batches = 100}),
            (std::vector<int>{16, 24, 40, 48}));  // 16, 28, 40, 52, down to multiples of 8
  EXPECT_EQ(growing_lengths(6, {.from = 2, .stages = 2, .batches = 10}), (std::vector<int>{2, 4}));
  auto source = growing_windows(counted(5000), 6, 64, 1, {.from = 16, .stages = 4, .batches = 10});
  std::vector<mx::Shape> shapes;
  for (int n = 0; n < 12; ++n) shapes.push_back(source->next().inputs.shape());
  const mx::Shape a{24, 16}, b{16, 24}, c{9, 40}, d{8, 48}, whole{6, 64};
  EXPECT_EQ(shapes, (std::vector<mx::Shape>{a, a, b, b, b, c, c, d, d, d, whole, whole}));
  for (const auto& growth :
       {Growth{.from = 0, .batches = 9}, Growth{.from = 64, .batches = 9},
        Growth{.from = 8, .stages = 0, .batches = 9}, Growth{.from = 8, .stages = 4, .batches = 3}})
    EXPECT_EQ(test::error_of([&] { growing_lengths(64, growth); }).kind(), Kind::usage);
}

TEST(Curriculum, RareTokensAreHard) {
  // 0 fifteen times, 1 once: rows of two.
  std::vector<int32_t> ids(17, 0);
  ids[5] = 1;
  const auto rows = window_rows(mx::array(ids.data(), {17}, mx::int32), 2);
  ASSERT_EQ(rows.count, 8);
  const auto got = rarity(rows);
  const double common = -std::log(15.0 / 16), rare = -std::log(1.0 / 16);
  for (size_t i = 0; i < got.size(); ++i)
    EXPECT_NEAR(got[i], i == 2 ? (common + rare) / 2 : common, 1e-12) << i;
}

TEST(Curriculum, WindowsAreThoseOfTheText) {
  for (const bool strided : {false, true}) {
    auto tokens = counted(101);
    if (strided) tokens = mx::slice(counted(202), {0}, {202}, {2});
    tokens.eval();
    const auto rows = window_rows(tokens, 10);
    ASSERT_EQ(rows.count, 10);
    const std::vector<uint32_t> some{7, 0};
    auto [inputs, targets] = rows.batch(some);
    const int by = strided ? 2 : 1;
    EXPECT_TRUE(
        mx::array_equal(mx::take(inputs, 0, 0), mx::multiply(mx::arange(70, 80), mx::array(by)))
            .item<bool>());
    EXPECT_TRUE(
        mx::array_equal(mx::take(targets, 1, 0), mx::multiply(mx::arange(1, 11), mx::array(by)))
            .item<bool>());
  }
}

TEST(Curriculum, RefusesWhatDoesNotFit) {
  const std::vector<double> three{1, 2, 3};
  const auto kind = [&](Rows rows, int batch, Competence c) {
    return test::error_of([&] { easiest_first(std::move(rows), three, batch, 1, c); }).kind();
  };
  EXPECT_EQ(kind(numbered(4), 1, {.batches = 5}), Kind::mismatch);
  EXPECT_EQ(kind(numbered(3), 4, {.batches = 5}), Kind::usage);
  EXPECT_EQ(kind(numbered(3), 1, {.start = 0, .batches = 5}), Kind::usage);
}

}  // namespace
}  // namespace lmxlab::data
