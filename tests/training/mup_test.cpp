// muP: scales and rates against Microsoft's package, factors in configs, and runs.
#include "lmxlab/training/mup.h"

#include "lmxlab/base/files.h"
#include "lmxlab/config/presets.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/training/optimizer.h"
#include "lmxlab/training/run.h"
#include "tests/support/error_of.h"
#include "tests/support/temp_folder.h"
#include "tests/training/mup_golden.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <cmath>

namespace lmxlab {
namespace {

config::Model llama_of(int dim, int heads = 4, bool tie = false) {
  return config::llama({.depth = 2,
                        .dim = dim,
                        .heads = heads,
                        .hidden = 4 * dim,
                        .vocab = 65,
                        .context = 32,
                        .tie_head = tie});
}
Json base_of(int dim) {
  return Json::object({{"dim", Json(dim)}, {"hidden", Json(4 * dim)}});
}

TEST(Mup, RatiosAsThePackage) {
  int heads = 0;
  for (const auto& g : golden::mup_rows) {
    const auto model = llama_of(g.width);
    const auto ratio = mup_ratios(model, mup_base(model, base_of(g.base))).at(g.path);
    const std::string where = std::to_string(g.width) + " " + g.path;
    // A factor behind a matrix is one in its initial weights and in its rate: lemma J.1.
    EXPECT_NEAR(ratio.init, g.init * g.output, 1e-12) << where;
    EXPECT_NEAR(ratio.lr, g.lr * g.output, 1e-12) << where;
    // The optimizer divides the decay by the ratio of rates.
    EXPECT_NEAR(g.lr * g.decay, 1, 1e-12) << where;
    heads += g.output != 1;
  }
  EXPECT_EQ(heads, 2);
}

TEST(Mup, FactorsOfScoresAndTiedLogits) {
  const auto wide = llama_of(128, 4, true);  // heads of 32
  const auto by_head_dim = with_mup(wide, mup_base(wide, base_of(32)));
  EXPECT_FLOAT_EQ(by_head_dim.logit_scale, 0.25f);
  for (const auto& b : by_head_dim.layers)  // 1 / d, and 1 / sqrt(8) at the base
    EXPECT_FLOAT_EQ(std::get<config::Attention>(b.mixer).scale.value(), std::sqrt(8.f) / 32);
  auto sizes = base_of(32);
  sizes["head_dim"] = Json(32);
  const auto by_heads = with_mup(wide, mup_base(wide, sizes));
  EXPECT_FALSE(std::get<config::Attention>(by_heads.layers[0].mixer).scale)
      << "heads of one size: scores as they were";
  EXPECT_EQ(with_mup(llama_of(128), mup_base(llama_of(128), base_of(32))).logit_scale, 1)
      << "an untied head has its factor in its weights";
  EXPECT_EQ(with_mup(wide, mup_base(wide, base_of(128))), wide);
}

TEST(Mup, ARouterIsAHead) {
  const auto model = config::tiny("mixtral");
  const auto ratios = mup_ratios(model, mup_base(model, Json::object({{"dim", model.dim / 2}})));
  int routers = 0, experts = 0;
  for (const auto& [path, ratio] : ratios) {
    if (path.ends_with("gate.weight") && path.find("experts") == std::string::npos) {
      EXPECT_DOUBLE_EQ(ratio.init, 0.5) << path;
      EXPECT_DOUBLE_EQ(ratio.lr, 0.5) << path;
      ++routers;
    }
    experts += path.find("experts.") != std::string::npos;
  }
  EXPECT_EQ(routers, static_cast<int>(model.layers.size()));
  EXPECT_GT(experts, 0);
}

TEST(Mup, InitialWeightsAreThoseOfTheBaseScaled) {
  const auto model = llama_of(256);
  const auto ratios = mup_ratios(model, mup_base(model, base_of(64)));
  LanguageModel scaled(model, 3), plain(model, 3);
  scale_init(scaled, ratios);
  const Enter enter(scaled.runtime());
  const auto a = core::collect(scaled.transformer()), b = core::collect(plain.transformer());
  for (size_t i = 0; i < a.size(); ++i) {
    const auto deviation = [](const mx::array& w) {
      return static_cast<double>(mx::sqrt(mx::mean(mx::square(w))).item<float>());
    };
    EXPECT_NEAR(deviation(a[i].param->value),
                deviation(b[i].param->value) * ratios.at(a[i].path).init, 1e-6)
        << a[i].path;
  }
  // The variance of a hidden matrix goes with 1 / fan_in, and not with its square.
  EXPECT_NEAR(ratios.at("model.layers.0.mlp.down_proj.weight").init, 0.5, 1e-12);
}

TEST(Mup, ARatioOfRatesIsAnotherRate) {
  for (const auto name : {OptimizerName::adamw, OptimizerName::lion}) {
    OptimizerConfig config{.name = name, .weight_decay = 0.1};
    auto whole = config, part = config;
    part.weight_decay = 0.4;
    auto info = param_info("layers.0.up.weight", {8, 4}, config), slow = info;
    slow.lr_ratio = 0.25;
    const auto both = make_optimizer(whole, {info, slow}), alone = make_optimizer(part, {info});
    const auto w = mx::random::normal({8, 4}, mx::float32, 0, 1, mx::random::key(1));
    const auto g = mx::random::normal({8, 4}, mx::float32, 0, 1, mx::random::key(2));
    std::vector<mx::array> two{w, w}, one{w};
    auto state = both->init(two), other = alone->init(one);
    for (int t = 1; t <= 3; ++t) {
      const mx::array step(static_cast<float>(t));
      both->update(two, {g, g}, state, mx::array(0.02f), step);
      alone->update(one, {g}, other, mx::array(0.005f), step);
    }
    EXPECT_LT(mx::max(mx::abs(mx::subtract(two[1], one[0]))).item<float>(), 1e-6);
    EXPECT_GT(mx::max(mx::abs(mx::subtract(two[1], two[0]))).item<float>(), 1e-3);
  }
  auto info = param_info("layers.0.up.weight", {8, 4}, {});
  info.lr_ratio = 0.5;
  for (const auto name : {OptimizerName::sgd, OptimizerName::adafactor, OptimizerName::muon})
    EXPECT_THROW(make_optimizer({.name = name}, {info}), Error) << enum_name(name);
}

TEST(Mup, RefusesWhatItDoesNotKnow) {
  const auto kind = [](const config::Model& m, const Json& sizes) {
    try {
      mup_base(m, sizes);
    } catch (const Error& e) {
      return e.kind();
    }
    return Kind::internal;
  };
  EXPECT_EQ(kind(config::tiny("mamba2"), base_of(32)), Kind::unsupported);
  EXPECT_EQ(kind(llama_of(64), Json::object({{"depth", Json(1)}})), Kind::usage);
  EXPECT_EQ(kind(llama_of(64), Json::object({{"wide", Json(1)}})), Kind::usage);
  EXPECT_EQ(kind(llama_of(64), Json(64)), Kind::usage);
  EXPECT_THROW(read_recipe("[model]\npreset = \"gpt-tiny\"\nmup = {dim = 32}\n"
                           "[optimizer]\nname = \"muon\"\n",
                           "recipe"),
               Error);
}

Recipe small_run(const fs::path& out, const std::vector<std::string>& more) {
  std::vector<std::string> overrides = {"model.preset=gpt-tiny",
                                        "model.dim=32",
                                        "model.heads=2",
                                        "run.steps=6",
                                        "run.batch=2",
                                        "run.context=16",
                                        "run.checkpoint_every=3",
                                        "run.eval_every=0",
                                        "run.out=" + out.string()};
  overrides.insert(overrides.end(), more.begin(), more.end());
  return read_recipe("[data]\nvalidation = 0.002\n", "recipe", overrides);
}

TEST(Mup, AtItsOwnWidthNothingChanges) {
  const test::TemporaryFolder folder;
  train_run(small_run(folder / "plain", {}), {});
  train_run(small_run(folder / "mup", {"model.mup.dim=32"}), {});
  EXPECT_EQ(read_file(folder / "plain" / "model.safetensors"),
            read_file(folder / "mup" / "model.safetensors"));
}

TEST(Mup, ARunResumesWithTheSameFactors) {
  const test::TemporaryFolder folder;
  const std::vector<std::string> mup{"model.mup.dim=16"};
  train_run(small_run(folder / "whole", mup), {});
  std::stop_source stop;
  RunHooks hooks;
  hooks.step = [&](const StepMetrics& m, int64_t) {
    if (m.step == 4) stop.request_stop();
  };
  train_run(small_run(folder / "parts", mup), hooks, stop.get_token());
  EXPECT_FALSE(fs::exists(folder / "parts" / "result.json")) << "interrupted";
  resume_run(folder / "parts", {}, {});
  EXPECT_EQ(read_file(folder / "whole" / "model.safetensors"),
            read_file(folder / "parts" / "model.safetensors"));
  EXPECT_TRUE(fs::exists(folder / "parts" / "result.json"));
  // The folder is an ordinary model: its factors are in its config.
  const auto model = LanguageModel::load(folder / "parts", true);
  EXPECT_FLOAT_EQ(model.config().logit_scale, 0.5f);
  EXPECT_FLOAT_EQ(std::get<config::Attention>(model.config().layers[0].mixer).scale.value(),
                  std::sqrt(8.f) / 16);
  // A trained model begins with weights of its own.
  auto again = small_run(folder / "again", {});
  again.model = Json::object(
      {{"preset", Json((folder / "whole").string())}, {"mup", Json::object({{"dim", Json(16)}})}});
  EXPECT_THROW(train_run(again, {}), Error);
}

}  // namespace
}  // namespace lmxlab
