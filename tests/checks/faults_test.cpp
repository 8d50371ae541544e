// Faults that are planted, and what the checks say of them.
#include "lmxlab/checks/examine.h"
#include "lmxlab/config/count.h"
#include "lmxlab/core/runtime.h"
#include "tests/checks/faulty.h"

#include <gtest/gtest.h>

#include <map>

namespace lmxlab::test {
namespace {

using checks::Check;

std::map<std::string, Check> examine(LanguageModel& model) {
  std::map<std::string, Check> out;
  const checks::Subject subject{model, 16, 24, checks::small_copy(model.config())};
  for (const auto& p : checks::properties()) out.emplace(p.key, p.run(subject));
  return out;
}

void expect_words(const Check& c, const std::vector<std::string>& words) {
  EXPECT_FALSE(c.ok) << c.name;
  const std::string said = c.detail + " | " + c.hint;
  for (const auto& w : words) EXPECT_NE(said.find(w), std::string::npos) << w << " in: " << said;
}

struct Case {
  std::string name;
  Fault fault;
  std::string by;                  // the check that names it
  std::vector<std::string> words;  // in its detail or hint
  std::vector<std::string> hold;   // what is not touched by it
};
void PrintTo(const Case& c, std::ostream* out) {
  *out << c.name;
}

class Planted : public testing::TestWithParam<Case> {};

TEST_P(Planted, IsFoundAndNamed) {
  const auto& c = GetParam();
  auto model = model_with(c.fault);
  stir(model, 0.2f);
  const auto found = examine(model);
  expect_words(found.at(c.by), c.words);
  for (const auto& key : c.hold) EXPECT_TRUE(found.at(key).ok) << key << ": " << found.at(key).hint;
  for (const auto& [key, check] : found) {
    EXPECT_EQ(check.hint.empty(), check.ok) << key << ": " << check.hint;
  }
}

const std::vector<std::string> kInOnePass = {"weights", "parameters", "causal",    "batched",
                                             "dtype",   "reach",      "gradients", "compiled"};

INSTANTIATE_TEST_SUITE_P(
    Faults, Planted,
    testing::Values(Case{"a_mask_that_sees_one_token_ahead",
                         Fault::sees_one_ahead,
                         "causal",
                         {"a position sees a later one", "position 4 knows of 5",
                          "one token ahead"},
                         {"weights", "parameters", "batched"}},
                    Case{"no_mask",
                         Fault::no_mask,
                         "causal",
                         {"position 0 knows of 5", "without its causal mask"},
                         {"weights", "parameters", "batched"}},
                    Case{"a_cache_off_by_one_at_its_end",
                         Fault::overwrites_the_last,
                         "cached",
                         {"through the cache position 8 differs",
                          "the last position before it is not seen (7)", "cache off by one"},
                         kInOnePass},
                    Case{"a_cache_off_by_one_at_its_beginning",
                         Fault::forgets_the_oldest,
                         "cached",
                         {"through the cache position 8 differs", "in layer 1, behind 8 tokens",
                          "the oldest position", "(0)", "cache off by one"},
                         kInOnePass},
                    Case{"a_cache_that_is_not_carried",
                         Fault::forgets_everything,
                         "cached",
                         {"nothing that came before is seen", "not carried"},
                         kInOnePass},
                    Case{"a_lost_rotary_offset",
                         Fault::loses_the_offset,
                         "cached",
                         {"through the cache position 8 differs", "in layer 1, behind 8 tokens",
                          "lost position offset (rotary"},
                         kInOnePass},
                    Case{"padding_that_is_seen",
                         Fault::sees_padding,
                         "padding",
                         {"behind 3 columns of padding", "padding is looked at"},
                         {"causal", "cached", "batched", "operations", "boundaries"}},
                    Case{"a_gradient_that_is_stopped",
                         Fault::stops_a_gradient,
                         "reach",
                         {"v_proj", "gets no gradient"},
                         {"causal", "cached", "batched", "padding", "joined"}}),
    [](const auto& tested) { return tested.param.name; });

TEST(Healthy, NothingIsFound) {
  auto model = model_with(Fault::none);
  stir(model, 0.2f);
  for (const auto& [key, check] : examine(model)) {
    EXPECT_TRUE(check.ok) << key << ": " << check.detail;
    EXPECT_EQ(check.hint, "") << key;
    EXPECT_NE(check.detail, "") << key;
  }
}

// What is consistent with itself only a reference shows.
class AgainstReference : public testing::Test {
 protected:
  AgainstReference() : model(made()), ids(mx::remainder(mx::arange(2 * 12), mx::array(61))) {
    const Enter enter(model.runtime());
    ids = mx::reshape(mx::multiply(ids, mx::array(7)), {2, 12});
    ids = mx::astype(mx::remainder(ids, mx::array(61)), mx::int32);
    logits = model.forward(ids);
    mx::eval(logits);
  }
  static LanguageModel made() {
    auto config = config::preset(
        "llama-tiny",
        {.depth = 2, .dim = 32, .heads = 4, .kv_heads = 2, .hidden = 64, .vocab = 61});
    for (auto& l : config.layers) std::get<config::Attention>(l.mixer).qkv_bias = true;
    LanguageModel out(config, 5);
    stir(out, 0.2f);
    return out;
  }
  core::Param& param(const std::string& end) {
    for (const auto& e : core::collect(model.transformer()))
      if (e.path.ends_with(end)) return *e.param;
    throw Error(Kind::internal, "no " + end);
  }
  // Heads of rows, in another order.
  void swap_heads(const std::string& end, const std::vector<int>& order, int width, int axis) {
    std::vector<int32_t> at;
    for (const int h : order)
      for (int i = 0; i < width; ++i) at.push_back(h * width + i);
    auto& p = param(end);
    p.value =
        mx::take(p.value, mx::array(at.data(), {static_cast<int>(at.size())}, mx::int32), axis);
  }
  // The others find nothing.
  void expect_consistent() {
    for (const auto& [key, check] : examine(model)) EXPECT_TRUE(check.ok) << key << check.detail;
  }

  LanguageModel model;
  mx::array ids;
  mx::array logits = mx::array(0.0f);
};

TEST_F(AgainstReference, TheSameModelAgrees) {
  const auto c = checks::equals_reference(model, ids, logits);
  EXPECT_TRUE(c.ok) << c.detail;
}

TEST_F(AgainstReference, SwappedHeadsOfQueries) {
  swap_heads("layers.1.self_attn.q_proj.weight", {0, 3, 2, 1}, 8, 0);
  swap_heads("layers.1.self_attn.q_proj.bias", {0, 3, 2, 1}, 8, 0);
  expect_consistent();
  expect_words(checks::equals_reference(model, ids, logits),
               {"swapped heads", "heads 1 and 3 of model.layers.1.self_attn.q_proj.weight"});
}

TEST_F(AgainstReference, SwappedHeadsOfTheOutputInEveryLayer) {
  for (const char* layer : {"0", "1"})
    swap_heads("layers." + std::string(layer) + ".self_attn.o_proj.weight", {2, 1, 0, 3}, 8, 1);
  expect_consistent();
  expect_words(checks::equals_reference(model, ids, logits),
               {"swapped heads", "heads 0 and 2 of model.layers.0.self_attn.o_proj.weight",
                "heads 0 and 2 of model.layers.1.self_attn.o_proj.weight"});
}

TEST_F(AgainstReference, ADroppedBias) {
  auto& bias = param("layers.0.self_attn.v_proj.bias");
  bias.value = mx::zeros_like(bias.value);
  expect_consistent();
  expect_words(checks::equals_reference(model, ids, logits),
               {"dropped bias", "model.layers.0.self_attn.v_proj.bias", "the first is 0"});
}

// What looks back is another: the first position, which sees itself alone, stays.
TEST_F(AgainstReference, AnotherRotation) {
  auto config = model.config();
  for (auto& l : config.layers)
    std::get<config::Attention>(l.mixer).position = config::Rope{.theta = 100};
  LanguageModel other(config, 0);
  const auto from = core::collect(model.transformer()), to = core::collect(other.transformer());
  for (size_t i = 0; i < to.size(); ++i) to[i].param->value = from[i].param->value;
  expect_words(checks::equals_reference(other, ids, logits),
               {"the first is 1", "the first positions agree", "rotary"});
}

TEST(Weights, OneThatIsNoNumber) {
  auto model = model_with(Fault::none);
  auto all = core::collect(model.transformer());
  all[3].param->value = mx::full(all[3].param->value.shape(), NAN);
  expect_words(checks::weights_finite(model), {all[3].path, "not finite"});
}

TEST(SmallCopy, HasEveryKindOfLayer) {
  const auto whole = config::preset("gpt-tiny");
  EXPECT_TRUE(checks::small_copy(whole) == whole);
  for (const auto& p : config::presets()) {
    const auto config = config::preset(p.name);
    const auto small = checks::small_copy(config);
    if (!small) {
      ADD_FAILURE() << p.name;
      continue;
    }
    EXPECT_LE(config::count(*small).total, 3'000'000) << p.name;
    LanguageModel model(*small, 0);
    EXPECT_GT(model.parameter_count(), 0) << p.name;
  }
}

TEST(Boundaries, AreWhereLayersChange) {
  auto config = model_with(Fault::none).config();
  EXPECT_TRUE(checks::boundaries(config).empty());
  std::get<config::Attention>(config.layers[0].mixer).window = 6;
  config.layers[1].mixer = config::Mamba2{.heads = 4, .head_dim = 8, .groups = 2, .state = 6};
  EXPECT_EQ(checks::boundaries(config), (std::vector<int>{6, 64}));
  LanguageModel model(config, 1);
  const auto near = checks::cached_at_boundaries(model, 40),
             far = checks::cached_at_boundaries(model, 80);
  EXPECT_TRUE(near.ok && far.ok) << near.detail << far.detail;
  EXPECT_NE(near.detail.find("beyond 40 tokens, not tried: 64"), std::string::npos) << near.detail;
  EXPECT_NE(far.detail.find("at and above 6, 64"), std::string::npos) << far.detail;
}

}  // namespace
}  // namespace lmxlab::test
