#include "lmxlab/models/adapters.h"

#include "lmxlab/base/files.h"
#include "lmxlab/config/presets.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/inference/prompt_cache.h"
#include "lmxlab/models/quantize.h"
#include "tests/support/temp_folder.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <cmath>

namespace lmxlab {
namespace {

namespace mx = mlx::core;

const mx::array& tokens() {
  static const auto ids = mx::array({1, 5, 9, 2, 7, 33, 12, 60, 4, 4, 21, 8}, {2, 6});
  return ids;
}
std::vector<float> logits(const LanguageModel& model) {
  return to_vector<float>(model.forward(tokens()));
}
double largest(const std::vector<float>& a) {
  double most = 0;
  for (const float x : a) most = std::max(most, std::abs(double(x)));
  return most;
}
double difference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double most = 0;
  for (size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(double(a[i]) - b[i]));
  return most;
}
LanguageModel model_of(const std::string& preset) {
  return LanguageModel(config::preset(preset), 3);
}
// As if it had been trained: B, and DoRA's lengths, are something.
void stir(LanguageModel& model, const std::string& name) {
  const Enter enter(model.runtime());
  uint64_t seed = 100;
  for (const auto& e : core::collect(model.transformer())) {
    if (e.path.find(".adapter." + name + ".") == e.path.npos) continue;
    auto& v = e.param->value;
    const auto noise = mx::random::normal(v.shape(), mx::float32, 0, 0.1f, mx::random::key(seed++));
    if (e.path.ends_with(".b")) v = noise;
    if (e.path.ends_with(".magnitude")) v = mx::multiply(v, mx::add(mx::array(1.0f), noise));
    v.eval();
  }
}
int64_t trainable(LanguageModel& model) {
  return core::count(core::collect_trainable(model.transformer()));
}

struct Case {
  const char* preset;
  bool dora;
};
class Adapters : public testing::TestWithParam<Case> {
 protected:
  LanguageModel model = model_of(GetParam().preset);
  AdapterOptions options{.rank = 4, .alpha = 12, .dora = GetParam().dora};
};

TEST_P(Adapters, ANewOneChangesNothingAndTrainsAlone) {
  const auto before = logits(model);
  const auto info = attach_adapter(model, options);
  EXPECT_GT(info.layers, 0);
  EXPECT_EQ(trainable(model), info.parameters);
  const auto after = logits(model);
  EXPECT_LE(difference(after, before), 2e-6 * largest(before));  // DoRA: m / |W| is 1, nearly
  EXPECT_THROW(attach_adapter(model, options), Error);
}

TEST_P(Adapters, OffIsTheBaseToTheBit) {
  const auto before = logits(model);
  attach_adapter(model, options), stir(model, "default");
  const auto on = logits(model);
  EXPECT_GT(difference(on, before), 1e-3 * largest(before));
  use_adapters(model, {});
  EXPECT_EQ(logits(model), before);
  use_adapters(model, {"default"});
  EXPECT_EQ(logits(model), on);
  detach_adapter(model, "default");
  EXPECT_EQ(logits(model), before);
}

TEST_P(Adapters, MergedIsAdapterOnAndComesApartAgain) {
  const auto before = logits(model);
  attach_adapter(model, options), stir(model, "default");
  const auto on = logits(model);
  auto merged = merge_adapter(model, "default");
  EXPECT_TRUE(adapters_of(model).empty());
  EXPECT_LE(difference(logits(model), on), 1e-5 * largest(on));
  EXPECT_LE(merged.max_error, 0);  // float32 holds it as it was computed
  unmerge_adapter(model, std::move(merged));
  EXPECT_EQ(logits(model), on);
  use_adapters(model, {});
  EXPECT_EQ(logits(model), before);
}

TEST_P(Adapters, SurvivesBothFiles) {
  attach_adapter(model, options, "mine"), stir(model, "mine");
  const auto on = logits(model);
  const test::TemporaryFolder temp;
  for (const auto format : {AdapterFormat::peft, AdapterFormat::mlx}) {
    const auto folder = temp.path() / (format == AdapterFormat::peft ? "peft" : "mlx");
    save_adapter(model, "mine", folder, format);
    auto other = model_of(GetParam().preset);
    const auto info = load_adapter(other, folder, "theirs");
    EXPECT_EQ(info.name, "theirs");
    EXPECT_LE(difference(logits(other), on), 1e-5 * largest(on)) << folder;
  }
}

TEST_P(Adapters, GradientsReachAllOfItAndNothingElse) {
  attach_adapter(model, options), stir(model, "default");
  const Enter enter(model.runtime());
  auto& transformer = model.transformer();
  const auto entries = core::collect_trainable(transformer);
  const auto loss = [&](const std::vector<mx::array>& v) {
    const core::Lend lend(entries, v);
    auto pass = model.make_pass();
    const auto y = transformer(tokens(), pass);
    return mx::mean(mx::square(y));
  };
  const auto values = core::values(entries);
  std::vector<int> all(values.size());
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int>(i);
  const auto [value, gradients] = mx::value_and_grad(loss, all)(values);
  for (size_t i = 0; i < gradients.size(); ++i)
    EXPECT_GT(mx::max(mx::abs(gradients[i])).item<float>(), 0) << entries[i].path;
}

INSTANTIATE_TEST_SUITE_P(Families, Adapters,
                         testing::Values(Case{"llama-tiny", false}, Case{"llama-tiny", true},
                                         Case{"phi3-tiny", false}, Case{"phi3-tiny", true},
                                         Case{"gpt-tiny", false}, Case{"deepseek-v3-tiny", false},
                                         Case{"mamba-tiny", false}, Case{"jamba-tiny", false},
                                         Case{"glm4-tiny", false}),
                         [](const auto& test) {
                           std::string name = test.param.preset;
                           for (char& c : name)
                             if (c == '-') c = '_';
                           return name + (test.param.dora ? "_dora" : "");
                         });

TEST(Adapters, AddUpAndSwitchWithoutLoading) {
  auto model = model_of("llama-tiny");
  attach_adapter(model, {.rank = 2, .targets = {"q_proj"}}, "a", 1), stir(model, "a");
  attach_adapter(model, {.rank = 3, .targets = {"*.mlp.*"}}, "b", 2), stir(model, "b");
  const auto both = logits(model);
  use_adapters(model, {"a"});
  const auto a = logits(model);
  use_adapters(model, {"b"});
  const auto b = logits(model);
  EXPECT_NE(a, b);
  use_adapters(model, {"a", "b"});
  EXPECT_EQ(logits(model), both);
  EXPECT_THROW(use_adapters(model, {"c"}), Error);
  ASSERT_EQ(adapters_of(model).size(), 2u);
  EXPECT_THROW(model.save(test::TemporaryFolder().path() / "x"), Error);
}

TEST(Adapters, RanksByLayerAndScales) {
  auto model = model_of("llama-tiny");
  attach_adapter(model, {.rank = 4,
                         .alpha = 8,
                         .rslora = true,
                         .last_layers = 1,
                         .targets = {"q_proj", "v_proj"},
                         .ranks = {{"v_proj", 2}}});
  int layers = 0;
  struct Finder : core::Visitor {
    std::function<void(const std::string&, core::Linear&)> f;
    void linear(const std::string& path, core::Linear& l) override { f(path, l); }
  } finder;
  finder.f = [&](const std::string& path, core::Linear& l) {
    if (l.adapters.empty()) return;
    ++layers;
    const int rank = path.ends_with("v_proj") ? 2 : 4;
    EXPECT_EQ(l.adapters[0].a.value.shape(0), rank) << path;
    EXPECT_FLOAT_EQ(l.adapters[0].scale, 8 / std::sqrt(float(rank)));
    EXPECT_TRUE(path.starts_with("model.layers.1.")) << path;
  };
  model.transformer().visit(finder);
  EXPECT_EQ(layers, 2);
  // Ranks and scales that differ survive both files.
  stir(model, "default");
  const auto on = logits(model);
  const test::TemporaryFolder temp;
  save_adapter(model, "default", temp.path() / "peft");
  save_adapter(model, "default", temp.path() / "mlx", AdapterFormat::mlx);
  for (const char* folder : {"peft", "mlx"}) {
    auto other = model_of("llama-tiny");
    load_adapter(other, temp.path() / folder);
    EXPECT_LE(difference(logits(other), on), 1e-5 * largest(on)) << folder;
  }
}

TEST(Adapters, BesideAndInPackedWeights) {
  for (const bool dora : {false, true}) {
    auto model = model_of("llama-tiny");
    quantize_model(model, {.bits = 8, .group_size = 32});
    const auto before = logits(model);
    attach_adapter(model, {.rank = 4, .alpha = 8, .dora = dora}), stir(model, "default");
    const auto on = logits(model);
    EXPECT_GT(difference(on, before), 1e-3 * largest(before));
    auto merged = merge_adapter(model, "default");
    EXPECT_GT(merged.max_error, 0);
    EXPECT_LT(merged.max_error, 0.02);
    EXPECT_LE(difference(logits(model), on), 0.1 * largest(on));  // packed anew
    unmerge_adapter(model, std::move(merged));
    EXPECT_EQ(logits(model), on);
    use_adapters(model, {});
    EXPECT_EQ(logits(model), before);
  }
}

TEST(Adapters, APromptCacheBelongsToTheAdaptersThatWereOn) {
  auto model = model_of("llama-tiny");
  attach_adapter(model, {.rank = 2}), stir(model, "default");
  const test::TemporaryFolder temp;
  const auto path = temp / "cache.safetensors";
  auto [logits_of, cache] = model(mx::array({1, 2, 3}));
  eval(logits_of, cache);
  save_prompt_cache(path, model, {.tokens = {1, 2, 3}, .cache = std::move(cache), .kv_bits = 0});
  load_prompt_cache(path, model);
  use_adapters(model, {});
  EXPECT_THROW(load_prompt_cache(path, model), Error);
}

TEST(Adapters, WrongInput) {
  auto model = model_of("llama-tiny");
  EXPECT_THROW(attach_adapter(model, {.rank = 0}), Error);
  EXPECT_THROW(attach_adapter(model, {.dropout = 1}), Error);
  EXPECT_THROW(attach_adapter(model, {.targets = {"c_attn"}}), Error);
  EXPECT_THROW(attach_adapter(model, {}, "a.b"), Error);
  EXPECT_TRUE(adapters_of(model).empty());
  const test::TemporaryFolder temp;
  const auto folder = temp.path();
  EXPECT_THROW(load_adapter(model, folder), Error);
  write_file_atomic(folder / "adapter_config.json", R"({"peft_type":"IA3"})");
  EXPECT_THROW(load_adapter(model, folder), Error);
  write_file_atomic(folder / "adapter_config.json", "{");
  EXPECT_THROW(load_adapter(model, folder), Error);
  attach_adapter(model, {.rank = 2}), stir(model, "default");
  save_adapter(model, "default", folder);
  auto other = LanguageModel(config::preset("gpt-tiny"), 1);
  EXPECT_THROW(load_adapter(other, folder), Error);
  EXPECT_TRUE(adapters_of(other).empty());
}

}  // namespace
}  // namespace lmxlab
