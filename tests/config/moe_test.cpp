// Mixtures of experts as data: contradictions, counts, descriptions.
#include "lmxlab/base/text.h"
#include "lmxlab/config/count.h"
#include "lmxlab/config/describe.h"
#include "lmxlab/config/presets.h"
#include "lmxlab/config/validate.h"

#include <gtest/gtest.h>

#include <functional>

namespace lmxlab::config {
namespace {

Model with(const Moe& moe) {
  Model m;
  m.layers = {Block{.mixer = Nothing{}, .ffn = moe}};
  return m;
}

TEST(MoeConfig, EveryContradictionIsNamed) {
  EXPECT_TRUE(check(with({})).empty());
  const std::pair<const char*, std::function<void(Moe&)>> faults[] = {
      {"ffn.experts", [](Moe& m) { m.experts = 0, m.zero_experts = 4; }},
      {"ffn.top_k", [](Moe& m) { m.top_k = 0; }},
      {"ffn.top_k", [](Moe& m) { m.top_k = 9; }},
      {"ffn.hidden", [](Moe& m) { m.hidden = 0; }},
      {"ffn.experts", [](Moe& m) { m.experts = 1 << 20, m.hidden = 1 << 12; }},
      {"ffn.latent", [](Moe& m) { m.latent = -1; }},
      {"ffn.zero_experts", [](Moe& m) { m.zero_experts = -1; }},
      {"ffn.shared", [](Moe& m) { m.shared = -1; }},
      {"ffn.groups", [](Moe& m) { m.groups = 3; }},
      {"ffn.groups", [](Moe& m) { m.groups = 0; }},
      {"ffn.groups_kept", [](Moe& m) { m.groups = 2, m.groups_kept = 3; }},
      {"ffn.groups_kept", [](Moe& m) { m.groups_kept = 0; }},
      {"ffn.group_score", [](Moe& m) { m.groups = 8, m.groups_kept = 4; }},
      {"ffn.top_k", [](Moe& m) { m.groups = 4, m.top_k = 3; }},
      {"ffn.act", [](Moe& m) { m.clamp = 7.0f, m.act = Act::gelu; }},
      {"ffn.act", [](Moe& m) { m.alpha = 1.7f, m.gated = false; }},
      {"ffn.clamp", [](Moe& m) { m.clamp = 0.0f; }},
      {"ffn.alpha", [](Moe& m) { m.alpha = 0; }},
      {"ffn.scale", [](Moe& m) { m.scale = 0; }},
      {"ffn.router_softcap", [](Moe& m) { m.router_softcap = -1.0f; }},
      {"ffn.router_norm", [](Moe& m) { m.router_norm = -1.0f; }},
      {"ffn.normalize", [](Moe& m) { m.norm_eps = 1e-6f; }},
      {"ffn.normalize", [](Moe& m) { m.normalize = -1; }},
      {"ffn.jitter", [](Moe& m) { m.scoring = Scoring::sparsemixer, m.jitter = 0; }},
      {"ffn.scoring", [](Moe& m) { m.scoring = Scoring::sparsemixer, m.selection_bias = true; }},
      {"ffn.shared_gate", [](Moe& m) { m.shared_gate = true; }},
      {"ffn.shared_bias", [](Moe& m) { m.shared_bias = true; }},
      {"ffn.bias_rate", [](Moe& m) { m.bias_rate = 0.001f; }},
      {"ffn.aux_loss", [](Moe& m) { m.aux_loss = -0.1f; }},
      {"ffn.widths",
       [](Moe& m) {
         m.widths = {1, 2, 3};
       }},
      {"ffn.widths", [](Moe& m) { m.widths = {0, 1, 1, 1, 1, 1, 1, 1}; }},
      {"ffn.widths", [](Moe& m) { m.widths = {4, 4, 4, 4, 2, 2, 2, 2}; }},
      {"ffn.widths", [](Moe& m) { m.widths = {1, 1, 1, 1, 1, 1, 1, 1 << 29}; }},
      {"ffn.bias", [](Moe& m) { m.widths = {2, 2, 2, 2, 4, 4, 4, 4}, m.bias = true; }},
  };
  for (const auto& [path, fault] : faults) {
    Moe moe;
    fault(moe);
    const auto problems = check(with(moe));
    const auto text = join(problems.list(), "\n");
    EXPECT_EQ(problems.list().size(), 1u) << path << ": " << text;
    EXPECT_TRUE(text.starts_with(std::string("layers.0.") + path + ":")) << text;
  }
}

// Released models' own numbers.
TEST(MoeConfig, CountsOfReleasedModels) {
  auto mixtral = preset(
      "llama-tiny",
      {.depth = 32, .dim = 4096, .heads = 32, .kv_heads = 8, .hidden = 14336, .vocab = 32000});
  mixtral.tie_head = false;
  for (auto& b : mixtral.layers) b.ffn = Moe{.experts = 8, .top_k = 2, .hidden = 14336};
  EXPECT_EQ(count(mixtral).total, 46'702'792'704);
  EXPECT_EQ(count(mixtral).active, 12'879'925'248);
  const int64_t idle = int64_t{6} * 3 * 4096 * 14336;
  EXPECT_EQ(count(mixtral).total - count(mixtral).active, 32 * idle);

  auto qwen = preset(
      "llama-tiny",
      {.depth = 48, .dim = 2048, .heads = 32, .kv_heads = 4, .hidden = 768, .vocab = 151936});
  qwen.tie_head = false;
  for (auto& b : qwen.layers) {
    auto& a = std::get<Attention>(b.mixer);
    a.head_dim = 128, a.qk_norm = RmsNorm{};
    b.ffn =
        Moe{.experts = 128, .top_k = 8, .hidden = 768, .scoring = Scoring::softmax, .normalize = 1};
  }
  EXPECT_EQ(count(qwen).total, 30'532'122'624);
  EXPECT_NEAR(double(count(qwen).active), 3.35e9, 0.01e9);

  auto dense = mixtral;
  for (auto& b : dense.layers) b.ffn = Mlp{.hidden = 2 * 14336};
  EXPECT_EQ(count(dense).active, count(dense).total);
  // Two experts are as much work as a dense FFN twice as wide; the router comes on top.
  EXPECT_DOUBLE_EQ(flops_per_token(mixtral, 100) - flops_per_token(dense, 100),
                   32 * 2.0 * 4096 * 8);
  EXPECT_EQ(count(with({.experts = 4, .top_k = 5, .zero_experts = 2})).active,
            count(with({.experts = 4, .top_k = 5, .zero_experts = 2})).total);
}

// What a token costs is its choice: active and FLOPs are those of the mean expert.
TEST(MoeConfig, WidthsAreCountedAndDescribed) {
  const auto mixed = with({.experts = 4, .top_k = 2, .widths = {2, 2, 6, 10}});
  const auto even = with({.experts = 4, .top_k = 2, .hidden = 5});
  EXPECT_TRUE(check(mixed).empty());
  EXPECT_EQ(count(mixed).total, count(even).total);
  EXPECT_EQ(count(mixed).active, count(even).active);
  EXPECT_DOUBLE_EQ(flops_per_token(mixed, 8), flops_per_token(even, 8));
  EXPECT_NE(describe(mixed).find("2 of 4 experts gated mlp 2 of 2 and 1 of 6 and"),
            std::string::npos)
      << describe(mixed);
  EXPECT_TRUE(from_json<Model>(to_json(mixed), "again") == mixed);
}

TEST(MoeConfig, IsDescribedAndReadBack) {
  Moe moe{.experts = 64,
          .top_k = 6,
          .hidden = 128,
          .scoring = Scoring::sigmoid,
          .selection_bias = true,
          .groups = 8,
          .groups_kept = 4,
          .normalize = 1,
          .scale = 2.5f,
          .shared = 256,
          .bias_rate = 0.001f};
  moe.clamp = 7.0f, moe.alpha = 1.702f, moe.up_offset = 1;
  const auto text = describe(with(moe));
  std::string flat;
  for (const char c : text)
    if (c != '\n' && !(c == ' ' && flat.ends_with(' '))) flat += c;
  for (const char* phrase :
       {"6 of 64 experts gated mlp 128", "clamped at 7", "router sigmoid", "4 of 8 groups by top2",
        "weights times 2.5", "shared expert 256", "bias rate 0.001", "of them a token"})
    EXPECT_NE(flat.find(phrase), std::string::npos) << phrase << "\n" << text;
  const auto again = from_json<Model>(to_json(with(moe)), "again");
  EXPECT_TRUE(again == with(moe));
  EXPECT_EQ(std::get<Moe>(again.layers[0].ffn).bias_rate, 0.001f);
}

}  // namespace
}  // namespace lmxlab::config
