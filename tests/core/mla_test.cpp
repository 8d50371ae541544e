// Latent attention with a lightning indexer against a twin in doubles, one query and one head at a
// time; through the cache, behind padding, within a limit, and its gradients.
#include "lmxlab/core/mla.h"

#include "lmxlab/config/count.h"
#include "lmxlab/config/validate.h"
#include "lmxlab/core/block.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"
#include "tests/core/mla_twin.h"

namespace lmxlab::core {
namespace {

using test::built;
using test::cache_of;
using test::doubles;
using test::kBound;
using test::kDim;
using test::of_rows;
using test::positions;
using test::row;
using test::Row;
using test::sizes;
using test::some;
using test::through;
using test::Twin;

TEST(Indexer, OnePassIsTheTwin) {
  for (const bool interleaved : {false, true}) {
    const auto c = sizes(interleaved);
    const auto mixer = built(c);
    const auto x = some({2, 19, kDim}, 7);
    Pass pass;
    test::expect_close((*mixer)(x, pass), of_rows(Twin(c, *mixer), x), kBound);
  }
}

TEST(Indexer, ThroughTheCacheIsTheTwin) {
  const auto c = sizes();
  const auto mixer = built(c);
  const auto x = some({2, 33, kDim}, 8);
  const auto want = of_rows(Twin(c, *mixer), x);
  for (const std::vector<int>& pieces :
       {std::vector{1}, {7}, {2}, {20, 1}, {3, 1, 1, 9, 2}, {33}}) {
    auto cache = cache_of(*mixer);
    test::expect_close(through(*mixer, cache, x, pieces), want, kBound,
                       "pieces from " + std::to_string(pieces[0]));
  }
  // Back to a mark, and again.
  auto cache = cache_of(*mixer);
  through(*mixer, cache, positions(x, 0, 20), {5});
  cache.mark();
  through(*mixer, cache, some({2, 6, kDim}, 99), {1});
  ASSERT_TRUE(cache.can_trim(6));
  cache.trim(6);
  const auto rest = through(*mixer, cache, positions(x, 20, 33), {1, 4});
  test::expect_close(
      rest,
      doubles(positions(
          mx::array(std::vector<float>(want.begin(), want.end()).data(), x.shape(), mx::float32),
          20, 33)),
      kBound, "after a trim");
}

TEST(Indexer, AWindowOfTheCacheLimitsTheChoice) {
  const auto c = sizes();
  const auto mixer = built(c);
  const auto x = some({1, 30, kDim}, 9);
  for (const int limit : {3, 6, 11})
    for (const int piece : {1, 4}) {
      auto cache = cache_of(*mixer, {.max_kv = limit});
      test::expect_close(through(*mixer, cache, x, {piece}), of_rows(Twin(c, *mixer), x, limit),
                         kBound, "limit " + std::to_string(limit));
    }
}

TEST(Indexer, PaddingIsNeverChosen) {
  const auto c = sizes();
  const auto mixer = built(c);
  const auto x = some({3, 21, kDim}, 10);
  const int pads[] = {0, 3, 12};
  const mx::array padding(pads, {3}, mx::int32);
  Pass pass{.pads = padding};
  auto cache = cache_of(*mixer);
  cache.pads = padding;
  const auto whole = (*mixer)(x, pass), cached = through(*mixer, cache, x, {10, 1});
  for (int i = 0; i < 3; ++i) {
    const auto want = Twin(c, *mixer)(row(x, i, pads[i]));
    test::expect_close(row(whole, i, pads[i]), want, kBound, "row " + std::to_string(i));
    test::expect_close(row(cached, i, pads[i]), want, kBound, "cached " + std::to_string(i));
  }
  EXPECT_TRUE(mx::all(mx::isfinite(whole)).item<bool>());
}

TEST(Indexer, LaterPositionsChangeNothing) {
  const auto mixer = built(sizes());
  const auto x = some({1, 24, kDim}, 11);
  const auto other = mx::concatenate({positions(x, 0, 15), some({1, 9, kDim}, 12)}, 1);
  Pass a, b;
  const auto one = positions((*mixer)(x, a), 0, 15), two = positions((*mixer)(other, b), 0, 15);
  test::expect_close(one, doubles(two), 1e-6);
}

// So wide that not all queries of a piece are gathered for at once; one pass gathers nothing.
TEST(Indexer, ManyQueriesGatherSomeAtATime) {
  auto c = sizes();
  c.heads = 1, c.kv_rank = 1024, c.v_dim = 2000, c.indexer->top_k = 512;
  const auto mixer = built(c);
  const auto x = some({1, 640, kDim}, 21);
  Pass pass;
  const auto want = (*mixer)(x, pass);
  auto cache = cache_of(*mixer);
  const auto got = through(*mixer, cache, x, {576, 64});
  const double most = static_cast<double>(mx::max(mx::abs(want)).item<float>());
  test::expect_close(positions(got, 576, 640), doubles(positions(want, 576, 640)), 2e-5 * most);
}

// Rows of packed memory that are chosen are those that all of it would give.
TEST(Indexer, PackedRowsAreGatheredAsTheyAre) {
  auto c = sizes();
  c.kv_rank = 64, c.rope_dim = 32, c.indexer->head_dim = 64;
  const auto mixer = built(c);
  const auto x = some({2, 40, kDim}, 13);
  for (const int bits : {8, 4}) {
    auto cache = cache_of(*mixer, {.kv_bits = bits});
    through(*mixer, cache, positions(x, 0, 39), {39});
    auto* all = dynamic_cast<CompositeCache*>(cache.layer(0));
    ASSERT_TRUE(all);
    auto* memory = dynamic_cast<KeyCache*>(all->part(0));
    const auto keys = memory->append(some({2, 1, 1, 64}, 1), some({2, 1, 1, 32}, 2));
    const auto chosen = mx::array({3, 0, 39, 7, 8, 31}, {2, 1, 3}, mx::uint32);
    const auto at = mx::reshape(chosen, {2, 1, 3, 1});
    EXPECT_TRUE(mx::array_equal(mx::squeeze(chosen_rows(keys, false, chosen), 1),
                                mx::squeeze(mx::take_along_axis(keys.k, at, 2), 1))
                    .item<bool>());
    EXPECT_TRUE(mx::array_equal(mx::squeeze(chosen_rows(keys, true, chosen), 1),
                                mx::squeeze(mx::take_along_axis(keys.v, at, 2), 1))
                    .item<bool>());
  }
}

TEST(Indexer, ItsParametersAreFrozenAndTheOthersHaveTheGradientOfTheTwin) {
  const auto c = sizes();
  const auto mixer = built(c);
  const auto x = some({1, 13, kDim}, 14), slope = some({1, 13, kDim}, 15);
  const auto entries = collect(*mixer);
  const auto loss = [&](const Arrays& in) -> Arrays {
    const Lend lend(entries, std::span(in).subspan(1));
    Pass pass;
    return {mx::sum(mx::multiply((*mixer)(in[0], pass), slope))};
  };
  auto in = values(entries);
  in.insert(in.begin(), x);
  std::vector<int> all(in.size());
  std::iota(all.begin(), all.end(), 0);
  const auto grads = mx::value_and_grad(loss, all)(in).second;

  const auto g = doubles(slope);
  const auto choice = Twin(c, *mixer).choose(Twin::rows(x), 1 << 20);  // no step changes it
  const auto value = [&](const Twin& twin, const Row& flat) {
    std::vector<Row> in_rows;
    for (size_t i = 0; i < flat.size(); i += kDim)
      in_rows.emplace_back(flat.begin() + static_cast<std::ptrdiff_t>(i),
                           flat.begin() + static_cast<std::ptrdiff_t>(i) + kDim);
    const auto y = twin.mixed(in_rows, choice);
    return std::inner_product(y.begin(), y.end(), g.begin(), 0.0);
  };
  Twin twin(c, *mixer);
  auto flat = doubles(x);
  const double h = 1e-5;
  const auto slope_of = [&](double& at) {
    const double was = at;
    at = was + h;
    const double up = value(twin, flat);
    at = was - h;
    const double down = value(twin, flat);
    at = was;
    return (up - down) / (2 * h);
  };
  HostRandom random(16);
  for (size_t i = 0; i < grads.size(); ++i) {
    const std::string path = i ? entries[i - 1].path : "the input";
    const auto got = doubles(grads[i]);
    const bool index = path.starts_with("indexer.");
    if (i) {
      EXPECT_EQ(entries[i - 1].param->trainable, !index) << path;
    }
    if (index) {
      EXPECT_TRUE(std::all_of(got.begin(), got.end(), [](double v) { return v == 0; })) << path;
      continue;
    }
    double most = 0;
    for (int n = 0; n < 12; ++n) {
      const size_t at = random.below(got.size());
      const double want = slope_of(i ? twin.w[path].second[at] : flat[at]);
      EXPECT_NEAR(got[at], want, 1e-3 * std::max(1.0, std::abs(want))) << path << "[" << at << "]";
      most = std::max(most, std::abs(want));
    }
    EXPECT_GT(most, 0) << path;
  }
}

// ---- a choice that layers share ----

config::Model sharing(int layers = 4) {
  config::Model m{.dim = kDim, .vocab = 31, .context = 64};
  m.init_std = 0.3f;
  m.layers.resize(static_cast<size_t>(layers));
  for (int i = 0; i < layers; ++i) {
    auto mixer = sizes();
    mixer.indexer->shared = i % 4 != 0;
    m.layers[static_cast<size_t>(i)].mixer = mixer;
    m.layers[static_cast<size_t>(i)].ffn = config::Mlp{.hidden = 24};
  }
  config::validate(m);
  return m;
}

TEST(SharedChoice, IsThatOfTheLayerBefore) {
  const auto first = sizes();
  auto second = first;
  second.indexer->shared = true;
  const auto a = built(first, 1), b = built(second, 2);
  EXPECT_FALSE(b->indexer);
  const auto x = some({1, 17, kDim}, 17), z = some({1, 17, kDim}, 18);
  Pass pass;
  (*a)(x, pass);
  const auto got = (*b)(z, pass);
  const auto choice = Twin(first, *a).choose(Twin::rows(x), 1 << 20);
  test::expect_close(got, Twin(second, *b).mixed(Twin::rows(z), choice), kBound);
}

TEST(SharedChoice, NeedsOneWithTheSameNumberOfKeys) {
  auto m = sharing();
  std::get<config::Mla>(m.layers[2].mixer).indexer->top_k = 5;
  const auto few = config::check(m).list();
  ASSERT_EQ(few.size(), 1u);
  EXPECT_TRUE(few[0].starts_with("layers.2.mixer.indexer.top_k:")) << few[0];
  std::get<config::Mla>(m.layers[0].mixer).indexer->shared = true;
  const auto none = config::check(m).list();
  ASSERT_EQ(none.size(), 4u);
  EXPECT_TRUE(none[0].starts_with("layers.0.mixer.indexer.shared:")) << none[0];
}

// Blocks that keep their input alone pass the choice on; of many positions two are one part.
TEST(SharedChoice, GradientsAreTheSameWhereBlocksAreComputedAgain) {
  for (const int rows : {2, 700}) {
    Transformer model(sharing(), 3);
    const auto entries = collect_trainable(model);
    std::vector<int32_t> ids;
    HostRandom random(4);
    for (int i = 0; i < rows * 25; ++i) ids.push_back(static_cast<int32_t>(random.below(31)));
    const mx::array tokens(ids.data(), {rows, 25}, mx::int32);
    const auto gradients = [&](bool again) {
      const auto loss = [&](const Arrays& w) -> Arrays {
        const Lend lend(entries, w);
        Pass pass;
        pass.recompute = again;
        return {mx::mean(mx::square(model(tokens, pass)))};
      };
      std::vector<int> all(entries.size());
      std::iota(all.begin(), all.end(), 0);
      auto out = mx::value_and_grad(loss, all)(values(entries)).second;
      mx::eval(out);
      return out;
    };
    const auto kept = gradients(false), again = gradients(true);
    for (size_t i = 0; i < kept.size(); ++i) {
      const auto want = doubles(kept[i]);
      double most = 0;
      for (const double v : want) most = std::max(most, std::abs(v));
      EXPECT_GT(most, 0) << entries[i].path;
      // Sums over positions are rounded once a lot.
      test::expect_close(again[i], want, rows == 2 ? 0 : 1e-4 * most, entries[i].path);
    }
  }
}

TEST(SharedChoice, CountsItsCacheAndItsParameters) {
  const auto c = sharing();
  LanguageModel model(c, 5);
  const Enter enter(model.runtime());
  EXPECT_EQ(config::count(c).total, model.parameter_count());
  auto [logits, cache] = model(mx::zeros({1, kGrowth}, mx::int32));
  mx::eval(logits);
  EXPECT_EQ(static_cast<int64_t>(cache.bytes()), config::kv_bytes(c, kGrowth, 4));
  // One layer of four has index keys.
  EXPECT_EQ(config::kv_bytes_per_token(c, 4), 4 * (4 * (10 + 4) + 8));
  // Beyond top_k keys a token more costs what the indexer costs.
  EXPECT_DOUBLE_EQ(
      config::flops_per_token(c, 2001) * 2001 - config::flops_per_token(c, 2000) * 2000 -
          (config::flops_per_token(c, 2000) * 2000 - config::flops_per_token(c, 1999) * 1999),
      2.0 * 5 * (8 + 1));
}

}  // namespace
}  // namespace lmxlab::core
