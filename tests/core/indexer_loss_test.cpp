// The loss of a lightning indexer against a twin in doubles, whose it is alone, and in stages that
// are computed again.
#include "lmxlab/core/transformer.h"
#include "tests/core/mla_twin.h"

namespace lmxlab::core {
namespace {

using test::doubles;
using test::kDim;
using test::Row;
using test::some;
using test::Twin;

config::Mla learning(int top_k = 4) {
  auto c = test::sizes();
  c.indexer->top_k = top_k, c.indexer->loss = 1;
  return c;
}
std::vector<int> all_of(size_t n) {
  std::vector<int> out(n);
  std::iota(out.begin(), out.end(), 0);
  return out;
}
bool zero(const mx::array& a) {
  return mx::all(mx::equal(a, mx::array(0.0f))).item<bool>();
}
// Its divergence and what it mixes, for the input and then the parameters.
Arrays passed(const Mla& mixer, const std::vector<Entry>& entries, const Arrays& in,
              const std::optional<mx::array>& pads = {}) {
  const Lend lend(entries, std::span(in).subspan(1));
  std::vector<Sums> sums;
  Pass pass{.pads = pads, .sums = &sums};
  const auto y = mixer(in[0], pass);
  EXPECT_EQ(sums.size(), 1u);
  return {sums.at(0).arrays.at(0), y};
}

// Of 13 positions, 4 keys a query (the sparse stage) and all of them (the warm-up).
TEST(IndexerLoss, AndItsGradientsAreThoseOfTheTwin) {
  for (const int top_k : {4, 13}) {
    const auto c = learning(top_k);
    const auto mixer = test::built(c);
    const auto entries = collect(*mixer);
    const auto x = some({1, 13, kDim}, 14);
    auto in = values(entries);
    in.insert(in.begin(), x);
    const auto loss = [&](const Arrays& v) { return Arrays{passed(*mixer, entries, v)[0]}; };
    auto [value, grads] = mx::value_and_grad(loss, all_of(in.size()))(in);

    Twin twin(c, *mixer);
    const auto rows = Twin::rows(x);
    const auto choice = twin.choose(rows);
    const auto weights = twin.given(rows, choice);
    const double want = twin.divergence(rows, choice, weights);
    EXPECT_GT(want, 0.1);
    EXPECT_NEAR(value[0].item<float>(), want, 2e-5 * want);
    HostRandom random(16);
    for (size_t i = 0; i < grads.size(); ++i) {
      const std::string path = i ? entries[i - 1].path : "the input";
      if (!path.starts_with("indexer.")) {
        EXPECT_TRUE(zero(grads[i])) << path;
        continue;
      }
      EXPECT_TRUE(entries[i - 1].param->trainable) << path;
      const auto got = doubles(grads[i]);
      auto& numbers = twin.w.at(path).second;
      double most = 0;
      for (int n = 0; n < 12; ++n) {
        const size_t at = random.below(got.size());
        const double was = numbers[at], h = 1e-6;
        numbers[at] = was + h;
        const double up = twin.divergence(rows, choice, weights);
        numbers[at] = was - h;
        const double down = twin.divergence(rows, choice, weights);
        numbers[at] = was;
        const double slope = (up - down) / (2 * h);
        EXPECT_NEAR(got[at], slope, 1e-4 * std::max(0.1, std::abs(slope)))
            << path << "[" << at << "], top " << top_k;
        most = std::max(most, std::abs(slope));
      }
      EXPECT_GT(most, 1e-3) << path;
    }
  }
}

TEST(IndexerLoss, IsTheOnlyOneThatMovesTheIndexer) {
  const auto mixer = test::built(learning());
  const auto entries = collect(*mixer);
  auto in = values(entries);
  in.insert(in.begin(), some({2, 13, kDim}, 14));
  const auto slope = some({2, 13, kDim}, 15);
  const auto mixed = [&](const Arrays& v) {
    return Arrays{mx::sum(mx::multiply(passed(*mixer, entries, v)[1], slope))};
  };
  const auto grads = mx::value_and_grad(mixed, all_of(in.size()))(in).second;
  for (size_t i = 0; i < grads.size(); ++i) {
    const std::string path = i ? entries[i - 1].path : "the input";
    EXPECT_EQ(zero(grads[i]), path.starts_with("indexer.")) << path;
  }
}

TEST(IndexerLoss, LeavesOutPaddingAndChangesNoOutput) {
  const auto c = learning();
  const auto mixer = test::built(c);
  const auto entries = collect(*mixer);
  const auto x = some({3, 21, kDim}, 10);
  const int pads[] = {0, 3, 12};
  auto in = values(entries);
  in.insert(in.begin(), x);
  const mx::array padding(pads, {3}, mx::int32);
  auto got = passed(*mixer, entries, in, padding);
  double want = 0;
  for (int i = 0; i < 3; ++i) {
    const Twin twin(c, *mixer);
    const auto rows = Twin::rows(test::row(x, i, pads[i]));
    const auto choice = twin.choose(rows);
    want += twin.divergence(rows, choice, twin.given(rows, choice));
  }
  EXPECT_NEAR(got[0].item<float>(), want, 2e-5 * want);
  Pass pass{.pads = padding};
  EXPECT_TRUE(mx::array_equal((*mixer)(x, pass), got[1]).item<bool>());
}

// So many rows that heads are computed some at a time; of half as many, all at once.
TEST(IndexerLoss, SomeHeadsAtATimeAreAll) {
  const int rows = 22, length = 512;
  ASSERT_EQ(heads_at_a_time(5, rows, length, length, true), 2);
  ASSERT_EQ(heads_at_a_time(5, rows / 2, length, length, true), 5);
  const auto mixer = test::built(learning(length));
  const auto entries = collect(*mixer);
  const auto x = some({rows, length, kDim}, 14);
  const auto of = [&](const mx::array& part) {
    auto in = values(entries);
    in.insert(in.begin(), part);
    const auto loss = [&](const Arrays& v) { return Arrays{passed(*mixer, entries, v)[0]}; };
    auto [value, grads] = mx::value_and_grad(loss, all_of(in.size()))(in);
    grads[0] = value[0];  // that of the input is none
    mx::eval(grads);
    return grads;
  };
  const auto whole = of(x), one = of(mx::slice(x, {0, 0, 0}, {rows / 2, length, kDim})),
             two = of(mx::slice(x, {rows / 2, 0, 0}, {rows, length, kDim}));
  for (size_t i = 0; i < whole.size(); ++i) {
    const auto want = doubles(mx::add(one[i], two[i]));
    double most = 0;
    for (const double v : want) most = std::max(most, std::abs(v));
    test::expect_close(whole[i], want, 1e-4 * most, std::to_string(i));
  }
}

// ---- in a model ----

config::Model layers_of(const std::vector<bool>& shared) {
  config::Model m{.dim = kDim, .vocab = 31, .context = 64};
  m.init_std = 0.3f;
  for (const bool s : shared) {
    auto mixer = learning();
    mixer.indexer->shared = s, mixer.indexer->loss = 0.5f;
    m.layers.push_back({.mixer = mixer, .ffn = config::Mlp{.hidden = 24}});
  }
  m.layers.back().ffn = config::Moe{.experts = 4, .hidden = 12, .aux_loss = 0.1f};
  return m;
}

// Blocks by themselves, in two stages, by lots of positions; and, of many, several as one stage.
TEST(IndexerLoss, IsTheSameWhereBlocksAreComputedAgain) {
  for (const int rows : {2, 100, 700}) {
    Transformer model(layers_of({false, true, false, true}), 3);
    const auto entries = collect_trainable(model);
    std::vector<int32_t> ids;
    HostRandom random(4);
    for (int i = 0; i < rows * 25; ++i) ids.push_back(static_cast<int32_t>(random.below(31)));
    const mx::array tokens(ids.data(), {rows, 25}, mx::int32);
    const auto gradients = [&](bool again) {
      const auto loss = [&](const Arrays& w) -> Arrays {
        const Lend lend(entries, w);
        std::vector<Sums> sums;
        Pass pass{.recompute = again, .sums = &sums};
        const auto y = mx::mean(mx::square(model(tokens, pass)));
        EXPECT_EQ(sums.size(), 3u);
        EXPECT_EQ(sums.at(1).of, Sums::Of::indexer);
        EXPECT_EQ(sums.at(1).layer, 2);
        const auto own = indexer_loss(model.config(), sums, rows * 25);
        return {mx::add(y, own), own, sums.back().arrays[0]};
      };
      auto [value, grads] = mx::value_and_grad(loss, all_of(entries.size()))(values(entries));
      grads.insert(grads.end(), value.begin(), value.end());
      mx::eval(grads);
      return grads;
    };
    const auto kept = gradients(false), again = gradients(true);
    for (size_t i = 0; i < kept.size(); ++i) {
      const auto want = doubles(kept[i]);
      double most = 0;
      for (const double v : want) most = std::max(most, std::abs(v));
      EXPECT_GT(most, 0) << i;
      // Sums over positions are rounded once a lot.
      test::expect_close(again[i], want, rows == 2 ? 0 : 1e-4 * most, std::to_string(i));
    }
  }
}

}  // namespace
}  // namespace lmxlab::core
