#include "lmxlab/models/gguf_save.h"

#include "lmxlab/checks/properties.h"
#include "lmxlab/config/presets.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/io/gguf.h"
#include "lmxlab/kernels/quantized.h"
#include "lmxlab/models/quantize.h"
#include "tests/support/shared_fixtures.h"
#include "tests/support/temp_folder.h"

#include <gtest/gtest.h>
#include <mlx/ops.h>

namespace lmxlab {
namespace {

mx::array some_ids() {
  const std::vector<int> ids{1, 50, 7, 22, 9, 3, 60, 11};
  return mx::array(ids.begin(), {1, 8}, mx::int32);
}

mx::array logits_of(const LanguageModel& model) {
  const kernels::WithActivations exact(kernels::Activations::float32);
  const Enter enter(model.runtime());
  auto logits = model.forward(some_ids());
  mx::eval(logits);
  return logits;
}

// Every class of transformers that has an architecture: a model of it, saved and read back, is the
// same function.
class GgufSave : public testing::TestWithParam<const char*> {};

TEST_P(GgufSave, ReadsBackAsTheSameModel) {
  const auto folder = test::shared_fixtures("checkpoints");
  if (!folder) return;
  auto model = LanguageModel::load(*folder / GetParam());
  const test::TemporaryFolder out;
  const auto saved = save_gguf(model, out / "x.gguf", {.type = "f32", .name = "it"});
  const io::Gguf file(out / "x.gguf");
  EXPECT_EQ(file.tensors().size(), static_cast<size_t>(saved.tensors));
  EXPECT_EQ(file.at("general.name").as_string(), "it");
  const auto again = LanguageModel::load(out / "x.gguf");
  EXPECT_TRUE(again.warnings().empty());
  const auto want = logits_of(model);
  const auto c =
      checks::compare("logits", logits_of(again), want, checks::rounding_bound(model, want));
  EXPECT_TRUE(c.ok) << c.detail;
  const bool cut = again.config().context < model.config().context;
  EXPECT_EQ(cut, !saved.warnings.empty());
}

INSTANTIATE_TEST_SUITE_P(Classes, GgufSave,
                         testing::Values("gpt2", "llama", "llama_yarn", "llama_dynamic",
                                         "llama_linear_bias", "mistral", "qwen2", "qwen3",
                                         "smollm3", "olmo2", "phi3", "phi3_longrope", "starcoder2",
                                         "gemma", "gemma3_text"),
                         [](const auto& it) { return std::string(it.param); });

TEST(GgufSaved, WhatNoArchitectureSays) {
  const test::TemporaryFolder out;
  const auto message = [&](LanguageModel model, const GgufSaveOptions& options = {}) {
    try {
      save_gguf(model, out / "x.gguf", options);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("no error");
  };
  EXPECT_NE(message(LanguageModel(config::preset("llama-tiny"), 1), {.type = "q7"}).find("q4_k_m"),
            std::string::npos);
  auto odd = config::preset("llama-tiny");
  odd.logit_softcap = 30.f;
  EXPECT_NE(message(LanguageModel(odd, 1)).find("no architecture"), std::string::npos);
  if (const auto folder = test::shared_fixtures("checkpoints")) {
    // llama.cpp knows by heart what scores are divided by, and this one has another number.
    const auto text = message(LanguageModel::load(*folder / "gemma2"), {.type = "f32"});
    EXPECT_NE(text.find("model.layers.0.mixer.scale is 0.204"), std::string::npos) << text;
  }
  EXPECT_FALSE(fs::exists(out / "x.gguf"));
  EXPECT_TRUE(fs::is_empty(out.path()));
}

// Types of a mix: the head and every third layer's values get more bits; rows of no whole blocks of
// 256 another type.
TEST(GgufSaved, TypesOfAMix) {
  auto c = config::preset("llama-tiny");
  c.dim = 256;
  c.layers.resize(8, c.layers[0]);
  for (auto& b : c.layers) {
    auto& a = std::get<config::Attention>(b.mixer);
    a.heads = 4, a.kv_heads = 2, a.head_dim = 64;
    std::get<config::Mlp>(b.ffn).hidden = 160;
  }
  LanguageModel model(c, 3);
  const test::TemporaryFolder out;
  save_gguf(model, out / "x.gguf", {.type = "q4_k_m"});
  const io::Gguf file(out / "x.gguf");
  const auto type = [&](const std::string& name) { return file.tensor(name).type->name; };
  EXPECT_EQ(type("token_embd.weight"), c.tie_head ? "Q6_K" : "Q4_K");
  EXPECT_EQ(type("blk.0.attn_q.weight"), "Q4_K");
  EXPECT_EQ(type("blk.0.attn_v.weight"), "Q6_K");
  EXPECT_EQ(type("blk.1.attn_v.weight"), "Q4_K");
  EXPECT_EQ(type("blk.3.attn_v.weight"), "Q6_K");
  EXPECT_EQ(type("blk.0.ffn_down.weight"), "Q8_0");
  EXPECT_EQ(type("blk.1.ffn_down.weight"), "Q5_0");
  EXPECT_EQ(type("blk.0.attn_norm.weight"), "F32");
  EXPECT_EQ(file.at("general.file_type").as_integer(), 15);
}

// Packed and laid out as our kernels read fastest: the numbers are the same.
TEST(GgufSaved, OfInterleavedWeights) {
  auto c = config::preset("llama-tiny");
  c.vocab = 512;
  LanguageModel model(c, 4);
  quantize_model(model, {.bits = 4, .group_size = 32});
  const auto want = logits_of(model);
  interleave_model(model);
  const test::TemporaryFolder out;
  save_gguf(model, out / "x.gguf", {.type = "f32"});
  const auto again = LanguageModel::load(out / "x.gguf");
  const auto got =
      checks::compare("logits", logits_of(again), want, checks::rounding_bound(again, want));
  EXPECT_TRUE(got.ok) << got.detail;
}

// A weight in blocks of the wanted type is not rounded once more.
TEST(GgufSaved, BlocksStayAsTheyAre) {
  auto model = LanguageModel(config::preset("llama-tiny"), 5);
  const test::TemporaryFolder out;
  save_gguf(model, out / "a.gguf", {.type = "q8_0"});
  auto packed = LanguageModel::load(out / "a.gguf");
  int calls = 0, last = 0;
  save_gguf(packed, out / "b.gguf", {.type = "q8_0", .progress = [&](int done, int all) {
                                       EXPECT_EQ(done, calls++);
                                       last = all;
                                     }});
  EXPECT_EQ(calls, last);
  EXPECT_EQ(read_file(out / "a.gguf"), read_file(out / "b.gguf"));
  save_gguf(packed, out / "c.gguf", {.type = "f32"});
  const auto again = LanguageModel::load(out / "c.gguf");
  const auto want = logits_of(again);
  const auto c =
      checks::compare("logits", logits_of(packed), want, checks::rounding_bound(again, want));
  EXPECT_TRUE(c.ok) << c.detail;
}

}  // namespace
}  // namespace lmxlab
