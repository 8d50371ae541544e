// Checkpoints of the Python package lmxlab 0.4.0, and what it computed from them; see
// tools/make_lmxlab_fixtures.py.
#include "lmxlab/core/runtime.h"
#include "lmxlab/io/safetensors.h"
#include "lmxlab/models/language_model.h"
#include "tests/support/temp_folder.h"

#include <gtest/gtest.h>
#include <mlx/ops.h>

#include <filesystem>
#include <iostream>

namespace lmxlab {
namespace {

namespace fs = std::filesystem;

fs::path fixture(const std::string& name) {
  return fs::path(LMXLAB_SOURCE_DIR) / "tests/fixtures/lmxlab" / name;
}

config::Block block(config::Mixer mixer, config::Ffn ffn) {
  return {.mixer = std::move(mixer), .ffn = std::move(ffn), .norm = config::RmsNorm{}};
}
config::Attention attention(int kv_heads, float theta) {
  return {.heads = 4, .kv_heads = kv_heads, .head_dim = 6, .position = config::Rope{theta}};
}
const config::Mlp kMlp{.hidden = 40};
const config::Moe kMoe{.experts = 4, .top_k = 2, .hidden = 40};
const config::Mamba2 kMamba{.heads = 4, .head_dim = 12, .groups = 1, .state = 6};

config::Mla latent(int rope) {
  return {.heads = 4,
          .q_rank = 14,
          .kv_rank = 10,
          .nope_dim = 6 - rope,
          .rope_dim = rope,
          .v_dim = 6,
          .position = config::Rope{},
          .latent_norm = config::RmsNorm{}};
}

// The models of the maker, in our terms.
config::Model model_of(const std::string& name) {
  config::Model m{.family = "lmxlab", .dim = 24, .vocab = 48, .context = 64, .tie_head = false};
  m.final_norm = config::RmsNorm{};
  if (name == "llama") m.layers.assign(2, block(attention(2, 10'000), kMlp));
  if (name == "gemma") m.layers.assign(2, block(attention(1, 10'000), kMlp)), m.tie_head = true;
  if (name == "mixtral") m.layers.assign(2, block(attention(2, 1e6f), kMoe));
  if (name == "deepseek") m.layers.assign(2, block(latent(2), kMlp));
  if (name == "deepseek_v3") {
    config::Moe moe = kMoe;
    moe.selection_bias = true, moe.shared = 2 * 40;
    m.layers = {block(latent(4), kMlp), block(latent(4), moe)};
  }
  if (name == "falcon_h1") m.layers = {block(kMamba, kMlp), block(attention(2, 5e5f), kMlp)};
  if (name == "jamba") m.layers = {block(kMamba, kMlp), block(attention(2, 1e4f), kMoe)};
  if (name == "nemotron") {
    config::Moe moe{.experts = 4, .top_k = 2, .hidden = 20, .act = config::Act::relu2};
    moe.gated = false, moe.latent = 12, moe.shared = 28, moe.scale = 2.5f;
    moe.scoring = config::Scoring::sigmoid, moe.selection_bias = true;
    moe.normalize = 1, moe.norm_eps = 1e-20f;
    const config::Mlp dense{.hidden = 40, .act = config::Act::relu2, .gated = false};
    const config::Nothing none;
    m.layers = {block(kMamba, none), block(none, moe), block(attention(2, 1e4f), none),
                block(none, dense)};
  }
  return m;
}

class LmxlabCheckpoint : public testing::TestWithParam<const char*> {};

TEST_P(LmxlabCheckpoint, GivesItsLogits) {
  const auto config = model_of(GetParam());
  const auto model = LanguageModel::load(fixture(GetParam()), config);
  const io::SafeTensors file(fixture(GetParam()) / "reference.safetensors");
  auto runtime = model.runtime();
  const Enter enter(runtime);
  const auto want = file.get("logits");
  const auto got = model.forward(file.get("input_ids"));
  const auto off = mx::abs(mx::subtract(got, want));
  const int at = static_cast<int>(mx::argmax(mx::flatten(off)).item<uint32_t>());
  const double worst = double(mx::max(off).item<float>());
  const double largest = double(mx::max(mx::abs(want)).item<float>());
  std::cout << "worst " << worst << " at element " << at << ", largest " << largest << "\n";
  // As the surface of the package asks: 1e-5 of the largest logit, sums being in another order.
  EXPECT_LE(worst, 1e-5 * largest);
  EXPECT_EQ(model.warnings().empty(), GetParam() != std::string("nemotron"));
}

TEST_P(LmxlabCheckpoint, IsSavedAsOurs) {
  const auto config = model_of(GetParam());
  const auto model = LanguageModel::load(fixture(GetParam()), config);
  const test::TemporaryFolder folder;
  model.save(folder / "out");
  const auto again = LanguageModel::load(folder / "out");
  const auto tokens = mx::array({3, 1, 4, 1, 5, 9, 2, 6}, mx::int32);
  EXPECT_TRUE(mx::array_equal(model.forward(tokens), again.forward(tokens)).item<bool>());
}

INSTANTIATE_TEST_SUITE_P(All, LmxlabCheckpoint,
                         testing::Values("llama", "gemma", "mixtral", "deepseek", "deepseek_v3",
                                         "falcon_h1", "jamba", "nemotron"),
                         [](const auto& test) { return std::string(test.param); });

TEST(LmxlabCheckpoints, SayWhatDoesNotFit) {
  auto wrong = model_of("llama");
  std::get<config::Mlp>(wrong.layers[1].ffn).hidden = 44;
  try {
    LanguageModel::load(fixture("llama"), wrong);
    FAIL() << "loaded";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), Kind::mismatch);
    EXPECT_NE(std::string(e.what()).find("model.layers.1.mlp.up_proj.weight"), std::string::npos)
        << e.what();
  }
}

}  // namespace
}  // namespace lmxlab
