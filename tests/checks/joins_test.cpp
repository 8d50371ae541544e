// Rows that join a running batch, whatever their cache keeps of keys and values.
#include "lmxlab/checks/support.h"
#include "lmxlab/config/presets.h"
#include "lmxlab/core/runtime.h"
#include "tests/checks/faulty.h"

#include <gtest/gtest.h>

namespace lmxlab::test {
namespace {

using checks::columns;
using checks::go_on;
using checks::row;

class Joined : public testing::TestWithParam<CacheOptions> {
 protected:
  static LanguageModel made() {
    auto config = config::preset(
        "llama-tiny",
        {.depth = 3, .dim = 64, .heads = 2, .kv_heads = 1, .hidden = 96, .vocab = 61});
    std::get<config::Attention>(config.layers[1].mixer).window = 7;
    config.layers[2].mixer = config::Mamba2{.heads = 4, .head_dim = 8, .groups = 2, .state = 6};
    LanguageModel model(config, 3);
    stir(model, 0.1f);
    return model;
  }
};

TEST_P(Joined, GivesWhatEachGivesAlone) {
  const auto model = made();
  const Enter enter(model.runtime());
  constexpr int kLong = 14, kShort = 5, kSteps = 6;
  const auto tokens = checks::some_tokens(model.config(), 2, kLong + 2 * kSteps, 4);
  const auto first = row(tokens, 0), second = row(tokens, 1);
  Cache a = model.make_cache({}, GetParam()), b = model.make_cache({}, GetParam());
  go_on(model, columns(first, 0, kLong), a);
  go_on(model, columns(second, 0, kShort), b);
  Cache alone_a = a, alone_b = b;
  const auto expect = [&](const mx::array& got, const mx::array& want, const std::string& what) {
    const auto c = checks::compare("", got, want, checks::rounding_bound(model, want));
    EXPECT_TRUE(c.ok) << what << ": " << c.detail;
  };

  Cache batch = b;
  batch.join(a);
  EXPECT_EQ(batch.length(), kLong);
  EXPECT_EQ(batch.rows(), 2);
  EXPECT_EQ(to_vector<int32_t>(*batch.pads), (std::vector<int32_t>{kLong - kShort, 0}));
  EXPECT_EQ(b.length(), kShort) << "the other stays as it was";
  for (int i = 0; i < kSteps; ++i) {
    const auto of_b = columns(second, kShort + i, kShort + i + 1),
               of_a = columns(first, kLong + i, kLong + i + 1);
    const auto both = go_on(model, mx::concatenate({of_b, of_a}, 0), batch);
    expect(row(both, 0), go_on(model, of_b, alone_b), "the short one, step " + std::to_string(i));
    expect(row(both, 1), go_on(model, of_a, alone_a), "the long one, step " + std::to_string(i));
  }
  batch.keep({0});
  EXPECT_FALSE(batch.pads);
  EXPECT_EQ(batch.length(), kShort + kSteps);
  for (int i = kSteps; i < 2 * kSteps; ++i) {
    const auto next = columns(second, kShort + i, kShort + i + 1);
    expect(go_on(model, next, batch), go_on(model, next, alone_b), "after the long one left");
  }
  // What is left is saved and restored as any cache.
  Cache again = model.make_cache({}, GetParam());
  for (int l = 0; l < batch.layers(); ++l)
    again.layer(l)->restore(batch.layer(l)->arrays(), batch.length());
  again.advance(batch.length());
  const auto next = columns(second, 20, 23);
  expect(go_on(model, next, again), go_on(model, next, alone_b), "restored");
}

INSTANTIATE_TEST_SUITE_P(Options, Joined,
                         testing::Values(CacheOptions{}, CacheOptions{.kv_bits = 16},
                                         CacheOptions{.kv_bits = 8}, CacheOptions{.kv_bits = 4},
                                         CacheOptions{.max_kv = 6},
                                         CacheOptions{.kv_bits = 8, .max_kv = 9}),
                         [](const auto& tested) {
                           return "bits_" + std::to_string(tested.param.kv_bits) + "_most_" +
                                  std::to_string(tested.param.max_kv);
                         });

TEST(Join, RefusesWhatDoesNotFit) {
  auto model = model_with(Fault::none);
  const Enter enter(model.runtime());
  const auto tokens = checks::some_tokens(model.config(), 2, 6, 4);
  Cache cache = model.make_cache(), other = model.make_cache();
  EXPECT_THROW(cache.join(other), Error) << "both are empty";
  go_on(model, tokens, cache);
  EXPECT_THROW(cache.join(other), Error) << "one is empty";
  Cache limited = model.make_cache({}, {.max_kv = 3}),
        packed = model.make_cache({}, {.kv_bits = 16});
  go_on(model, tokens, limited), go_on(model, tokens, packed);
  EXPECT_THROW(cache.join(limited), Error);
  EXPECT_THROW(cache.join(packed), Error);
  LanguageModel deeper(config::preset("llama-tiny", {.depth = 3, .vocab = 61}), 1);
  Cache foreign = deeper.make_cache();
  go_on(deeper, tokens, foreign);
  EXPECT_THROW(cache.join(foreign), Error);
  EXPECT_EQ(cache.rows(), 2);
  EXPECT_EQ(cache.length(), 6);
  EXPECT_FALSE(cache.pads);
  EXPECT_THROW(cache.keep({}), Error);
  EXPECT_THROW(cache.keep({2}), Error);
  EXPECT_THROW(cache.keep({-1}), Error);
  cache.join(Cache(cache));
  EXPECT_EQ(cache.rows(), 4);
  EXPECT_FALSE(cache.pads) << "all are as long";
  cache.keep({3, 0});
  EXPECT_EQ(cache.rows(), 2);
}

}  // namespace
}  // namespace lmxlab::test
