#include "lmxlab/data/rows.h"

#include "lmxlab/base/random.h"
#include "tests/support/error_of.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <map>

namespace lmxlab::data {
namespace {

std::vector<TokenSample> random_samples(HostRandom& random, size_t count, uint64_t longest) {
  std::vector<TokenSample> out(count);
  for (size_t i = 0; i < count; ++i) {
    out[i].sample = i;
    for (uint64_t n = random.below(longest + 1); n > 0; --n) {
      out[i].ids.push_back(static_cast<int>(1 + random.below(1000)));
      out[i].loss.push_back(random.below(2) == 0);
    }
  }
  return out;
}
template <class T>
std::vector<T> values(const std::optional<mx::array>& a) {
  if (!a) return {};
  return std::vector<T>(a->data<T>(), a->data<T>() + a->size());
}

TEST(Packing, BestFitDecreasing) {
  const std::vector<size_t> lengths{3, 7, 5, 2, 0, 11, 3};
  const auto got = pack(lengths, 10);
  using Rows = std::vector<std::vector<PackedPiece>>;
  EXPECT_EQ(got.rows, (Rows{{{1, 0, 7}, {0, 0, 3}}, {{2, 0, 5}, {6, 0, 3}, {3, 0, 2}}}));
  EXPECT_EQ(got.tokens, 20);
  EXPECT_EQ(got.dropped, 1);
  EXPECT_EQ(got.fill(), 1.0);
  const auto cut = pack(lengths, 10, {.cut = true});
  EXPECT_EQ(cut.cut, 1);
  EXPECT_EQ(cut.dropped, 0);
  EXPECT_EQ(cut.tokens, 31);
  EXPECT_EQ(cut.rows[0], (std::vector<PackedPiece>{{5, 0, 10}}));
  EXPECT_EQ(pack(lengths, 10, {.together = false}).rows.size(), 5u);
  EXPECT_EQ(test::error_of([&] { pack(lengths, 0); }).kind(), Kind::usage);
}

// Every token and its mark come once, documents are apart, positions begin at 0.
TEST(Packing, KeepsEveryTokenAndMark) {
  HostRandom random(5);
  for (int round = 0; round < 300; ++round) {
    SCOPED_TRACE(round);
    const int context = static_cast<int>(1 + random.below(40));
    const PackOptions options{.cut = random.below(2) == 0, .together = random.below(4) != 0};
    const auto samples =
        random_samples(random, 1 + random.below(30), 1 + random.below(uint64_t(2 * context)));
    const auto packing = pack(samples, context, options);
    std::map<size_t, size_t> next;  // of each sample, the token that must come
    int64_t tokens = 0;
    for (const auto& row : packing.rows) {
      size_t used = 0;
      for (const auto& p : row) {
        EXPECT_LT(p.begin, p.end);
        used += p.end - p.begin;
        EXPECT_TRUE(p.begin == 0 || samples[p.sample].ids.size() > size_t(context));
      }
      EXPECT_LE(used, size_t(context));
      EXPECT_TRUE(options.together || row.size() == 1);
      tokens += static_cast<int64_t>(used);
    }
    EXPECT_EQ(tokens, packing.tokens);
    if (packing.rows.empty()) continue;

    RowBatches batches(packed_rows(samples, packing), 1, {.shuffle = false});
    std::vector<std::vector<uint8_t>> seen;
    for (const auto& s : samples) seen.emplace_back(s.ids.size());
    size_t row = 0;
    while (const auto batch = batches.next()) {
      const auto inputs = values<int32_t>(batch->inputs), targets = values<int32_t>(batch->targets),
                 documents = values<int32_t>(batch->documents),
                 positions = values<int32_t>(batch->positions);
      const auto loss = values<bool>(batch->loss);
      // A sample alone in its row begins at 0 and is the one document: nothing need be said.
      ASSERT_EQ(documents.size(), options.together ? inputs.size() : 0u);
      ASSERT_EQ(positions.size(), documents.size());
      size_t at = 0;
      int32_t document = 0;
      for (const auto& p : packing.rows[row++]) {
        const auto& s = samples[p.sample];
        for (size_t i = p.begin; i < p.end; ++i, ++at) {
          EXPECT_EQ(inputs[at], s.ids[i]);
          if (options.together) {
            EXPECT_EQ(documents[at], document);
            EXPECT_EQ(positions[at], int32_t(i - p.begin));
          }
          const bool last = i + 1 == p.end;
          EXPECT_EQ(loss[at], !last && s.loss[i + 1]);
          EXPECT_EQ(targets[at], last ? 0 : s.ids[i + 1]);
          EXPECT_FALSE(seen[p.sample][i]) << "a token came twice";
          seen[p.sample][i] = 1;
        }
        ++document;
      }
      for (; at < inputs.size(); ++at) {
        if (options.together) {
          EXPECT_EQ(documents[at], -1);
        }
        EXPECT_EQ(loss[at], false);
      }
    }
    EXPECT_EQ(row, packing.rows.size());
    for (size_t i = 0; i < samples.size(); ++i)
      for (const auto s : seen[i])
        EXPECT_EQ(s, options.cut || samples[i].ids.size() <= size_t(context));
  }
}

TEST(Packing, EpochsAreShuffledAndGoOnWhereTheyWere) {
  HostRandom random(1);
  const auto samples = random_samples(random, 60, 9);
  const auto packing = pack(samples, 16);
  const auto take = [&](RowBatches& b) {
    std::vector<int> out;
    while (const auto batch = b.next())
      for (const int v : values<int32_t>(batch->inputs)) out.push_back(v);
    return out;
  };
  const BatchOptions options{.seed = 3, .epochs = 2};
  RowBatches a(packed_rows(samples, packing), 3, options),
      b(packed_rows(samples, packing), 3, options);
  const auto all = take(a);
  EXPECT_EQ(take(b), all);
  RowBatches c(packed_rows(samples, packing), 3, options),
      d(packed_rows(samples, packing), 3, options);
  for (int i = 0; i < 5; ++i) c.next();
  d.restore(c.position());
  EXPECT_EQ(take(c), take(d));
  const auto half = all.size() / 2;
  EXPECT_NE(std::vector<int>(all.begin(), all.begin() + std::ptrdiff_t(half)),
            std::vector<int>(all.begin() + std::ptrdiff_t(half), all.end()));
  EXPECT_EQ(test::error_of([&] { RowBatches(packed_rows(samples, packing), 1000); }).kind(),
            Kind::usage);
  EXPECT_EQ(test::error_of([&] { packed_rows({}, packing); }).kind(), Kind::mismatch);
  EXPECT_EQ(test::error_of([&] { d.restore({0, 1000}); }).kind(), Kind::mismatch);
  auto [inputs, targets] = *RowBatches(packed_rows(samples, packing), 3).next();
  EXPECT_EQ(inputs.shape(), (mx::Shape{3, 16}));
}

}  // namespace
}  // namespace lmxlab::data
