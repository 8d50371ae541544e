#include "lmxlab/training/recipe.h"

#include "lmxlab/config/presets.h"

#include <gtest/gtest.h>

namespace lmxlab {
namespace {

std::string failure(const std::function<void()>& f, Kind kind) {
  try {
    f();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), kind) << e.what();
    return e.what();
  }
  ADD_FAILURE() << "expected an error";
  return "";
}
Recipe read(const std::string& toml, const std::vector<std::string>& overrides = {}) {
  return read_recipe(toml, "recipe.toml", overrides);
}

TEST(Recipe, NothingIsTheDefaultRun) {
  EXPECT_EQ(to_json(read("")), to_json(default_recipe()));
  const auto r = default_recipe();
  EXPECT_EQ(r.run.steps, 2000);
  EXPECT_EQ(r.run.batch, 12);
  EXPECT_EQ(r.run.context, 64);
  const auto m = resolve_model(r.model, 65, r.run.context);
  EXPECT_EQ(m.layers.size(), 4u);
  EXPECT_EQ(m.dim, 128);
  EXPECT_EQ(m.vocab, 65);
  EXPECT_EQ(std::get<config::Attention>(m.layers[0].mixer).heads, 4);
}

TEST(Recipe, WrittenAndReadAgain) {
  auto r = read(
      "[model]\npreset = 'llama-tiny'\ndepth = 3\n[optimizer]\nname = 'lion'\nlr = "
      "1e-4\n[schedule]\nname = 'wsd'\n[run]\nsteps = 7\nname = 'x'");
  r.optimizer = with_defaults(r.optimizer);
  r.model = to_json(resolve_model(r.model, 65, 64));
  auto again = read(write_recipe(r));
  EXPECT_EQ(resolve_model(again.model, 65, 64), resolve_model(r.model, 65, 64));
  r.model = Json(), again.model = Json();  // TOML leaves out what is null, and sorts
  EXPECT_EQ(to_json(again), to_json(r));
}

TEST(Recipe, EveryPresetSurvivesTheWay) {
  for (const auto& p : config::presets()) {
    Recipe r;
    r.model = to_json(config::preset(p.name));
    EXPECT_EQ(resolve_model(read(write_recipe(r)).model, 0, 1), config::preset(p.name)) << p.name;
  }
}

TEST(Recipe, OverridesGoOnTop) {
  const auto r = read(
      "[run]\nsteps = 5\n",
      {"run.steps=9", "run.dtype=bf16", "data.file=some file.txt", "optimizer.betas=[0.8,0.95]"});
  EXPECT_EQ(r.run.steps, 9);
  EXPECT_EQ(r.run.dtype, ComputeType::bf16);
  EXPECT_EQ(r.data.file, "some file.txt");
  EXPECT_EQ((*r.optimizer.betas)[0], 0.8);
}

TEST(Recipe, UnknownKeysNameTheNearest) {
  const auto text =
      failure([] { read("[run]\nstpes = 5\nbatch = 'many'\n[optimiser]\nlr = 1\n"); }, Kind::usage);
  EXPECT_NE(text.find("run.stpes"), std::string::npos) << text;
  EXPECT_NE(text.find("\"steps\""), std::string::npos) << text;
  EXPECT_NE(text.find("run.batch"), std::string::npos) << text;
  EXPECT_NE(text.find("\"optimizer\""), std::string::npos) << text;
  EXPECT_NE(failure([] { read("", {"run.setps=3"}); }, Kind::usage).find("\"steps\""),
            std::string::npos);
  failure([] { read("", {"run.steps"}); }, Kind::usage);
  failure([] { read("[run\nsteps=3"); }, Kind::bad_data);
}

TEST(Recipe, ImpossibleValuesAllAtOnce) {
  const auto text = failure(
      [] {
        read(
            "[run]\nsteps = 0\nbatch = -1\nkeep = 0\n[data]\nvalidation = 1.5\n[schedule]\nwarmup "
            "= -4");
      },
      Kind::usage);
  for (const char* key :
       {"run.steps", "run.batch", "run.keep", "data.validation", "schedule.warmup"})
    EXPECT_NE(text.find(key), std::string::npos) << key << " is not in: " << text;
}

TEST(Recipe, SizesAndPathsOfTheModel) {
  const auto r = read(
      "[model]\npreset = 'llama-tiny'\ndepth = 4\ndim = 96\n[model.layers.3.mixer]\nwindow = 16\n",
      {"model.layers.*.ffn.act=gelu", "model.tie_head=true"});
  const auto m = resolve_model(r.model, 65, 64);
  ASSERT_EQ(m.layers.size(), 4u);
  EXPECT_EQ(m.dim, 96);
  EXPECT_EQ(m.vocab, 65);
  EXPECT_TRUE(m.tie_head);
  EXPECT_EQ(std::get<config::Attention>(m.layers[3].mixer).window, 16);
  EXPECT_FALSE(std::get<config::Attention>(m.layers[2].mixer).window);
  for (const auto& l : m.layers) EXPECT_EQ(std::get<config::Mlp>(l.ffn).act, config::Act::gelu);
}

TEST(Recipe, LayersOfOnesOwn) {
  const auto r = read(R"(
[model]
dim = 48
[[model.layers]]
repeat = 2
mixer = { kind = "attention", heads = 4, window = 8 }
ffn = { kind = "mlp", act = "gelu" }
[[model.layers]]
mixer = { kind = "attention", heads = 2, position = { kind = "none" } }
ffn = { kind = "mlp", hidden = 10, gated = false }
norm = "layer"
)");
  const auto m = resolve_model(r.model, 70, 32);
  ASSERT_EQ(m.layers.size(), 3u);
  EXPECT_EQ(std::get<config::Attention>(m.layers[1].mixer).head_dim, 12);
  EXPECT_EQ(std::get<config::Attention>(m.layers[2].mixer).head_dim, 24);
  EXPECT_EQ(std::get<config::Mlp>(m.layers[0].ffn).hidden, 192);
  EXPECT_TRUE(std::holds_alternative<config::LayerNorm>(m.layers[2].norm));
  EXPECT_EQ(m.vocab, 70);
}

TEST(Recipe, ModelErrorsHavePaths) {
  const auto resolve = [](const std::string& toml) {
    return failure([&] { resolve_model(read(toml).model, 65, 64); }, Kind::usage);
  };
  EXPECT_NE(resolve("[model]\npreset = 'llama-tiny'\n[model.layers.9.mixer]\nwindow = 3\n")
                .find("index below 2"),
            std::string::npos);
  EXPECT_NE(resolve("[model]\npreset = 'llama-tiny'\n[model.layers.0.mixer]\nwidnow = 3\n")
                .find("\"window\""),
            std::string::npos);
  EXPECT_NE(resolve("[model]\npreset = 'llama-tiny'\n[model.layers.0.mixer]\nkv_heads = 3\n")
                .find("kv_heads"),
            std::string::npos);
  EXPECT_NE(resolve("[model]\npreset = 'llama-tiny'\ndepht = 3\n").find("depht"),
            std::string::npos);
  EXPECT_NE(
      resolve("[model]\npreset = 'llama-tiny'\n[[model.layers]]\nrepeat = 1\n").find("not both"),
      std::string::npos);
  failure([&] { resolve_model(read("[model]\npreset = 'lama-tiny'").model, 65, 64); },
          Kind::not_found);
}

TEST(Recipe, LearnedPositionsFollowTheContext) {
  const auto m = resolve_model(read("[run]\ncontext = 200\n").model, 65, 200);
  EXPECT_EQ(std::get<config::Learned>(m.position).length, 200);
}

}  // namespace
}  // namespace lmxlab
