// Multi-token prediction beside torch (tools/make_mtp_golden.py), and what must hold of it.
#include "lmxlab/training/multi_token.h"

#include "lmxlab/base/files.h"
#include "lmxlab/base/text.h"
#include "lmxlab/config/count.h"
#include "lmxlab/config/presets.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/io/safetensors.h"
#include "lmxlab/models/language_model.h"
#include "lmxlab/training/run.h"
#include "lmxlab/training/step.h"
#include "tests/support/error_of.h"
#include "tests/support/temp_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <cmath>

namespace lmxlab {
namespace {

using testing::HasSubstr;

constexpr float kWeight = 0.3f;

io::Tensors golden() {
  return io::SafeTensors(fs::path(LMXLAB_SOURCE_DIR) / "tests/training/fixtures/mtp.safetensors")
      .all();
}
config::Model golden_config() {
  config::Block block;
  block.mixer = config::Attention{
      .heads = 2, .kv_heads = 1, .head_dim = 8, .position = config::Rope{.theta = 10000}};
  block.ffn = config::Mlp{.hidden = 24, .act = config::Act::silu, .gated = true};
  block.norm = config::RmsNorm{.eps = 1e-5f};
  config::Model m;
  m.dim = 16, m.vocab = 13, m.context = 64;
  m.layers = {block}, m.mtp_heads = {block, block};
  m.final_norm = block.norm;
  return m;
}
mx::array columns(const mx::array& x, int from, int to) {
  return mx::slice(x, {0, from}, {x.shape(0), to});
}

struct Case {
  data::Batch batch;  // documents: the column where each text begins, as in a step
};
Case case_of(const std::string& name, const io::Tensors& g) {
  if (name == "plain") {
    const auto& t = g.at("plain.tokens");
    return {{columns(t, 0, 12), columns(t, 1, 13)}};
  }
  const auto& t = g.at("packed.tokens");
  const auto last = mx::zeros({2, 1}, t.dtype());
  data::Batch batch{t, mx::concatenate({columns(t, 1, 12), last}, 1), g.at("packed.learned")};
  const auto ids = to_vector<int32_t>(g.at("packed.documents"));
  std::vector<int32_t> starts;
  for (int i = 0; i < 24; ++i) {
    const bool begins = i % 12 == 0 || ids[size_t(i)] != ids[size_t(i - 1)] || ids[size_t(i)] < 0;
    starts.push_back(begins ? i % 12 : starts.back());
  }
  batch.documents = mx::array(starts.data(), {2, 12}, mx::int32);
  return {batch};
}

struct Outcome {
  Objective::Value value;
  core::Arrays gradients;
};
Outcome outcome(core::Transformer& model, const data::Batch& batch, bool recompute = false) {
  const auto entries = core::collect_trainable(model);
  std::vector<int> all;
  for (size_t i = 0; i < entries.size(); ++i) all.push_back(static_cast<int>(i));
  const auto objective = mtp_objective(static_cast<int>(model.mtp_heads.size()), kWeight);
  const auto f = [&](const core::Arrays& p) -> core::Arrays {
    const core::Lend lend(entries, p);
    core::Pass pass;
    pass.starts = batch.documents, pass.recompute = recompute;
    const auto v = (*objective)(model, batch, pass);
    core::Arrays out{v.loss, v.units};
    out.insert(out.end(), v.metrics.begin(), v.metrics.end());
    return out;
  };
  auto [out, gradients] = mx::value_and_grad(f, all)(core::values(entries));
  mx::eval(out), mx::eval(gradients);
  return {{out[0], out[1], {out.begin() + 2, out.end()}}, gradients};
}

// Sums of some hundred products of numbers near one, in float32: 200 roundings of 2^-24, of the
// largest number of an array.
void expect_near(const std::string& what, const mx::array& got, const mx::array& want) {
  ASSERT_EQ(got.shape(), want.shape()) << what;
  const auto a = to_vector<float>(got), b = to_vector<float>(want);
  float largest = 0, worst = 0;
  size_t at = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    largest = std::max(largest, std::abs(b[i]));
    if (!(std::abs(a[i] - b[i]) <= worst)) worst = std::abs(a[i] - b[i]), at = i;
  }
  EXPECT_GT(largest, 0) << what << ": nothing is compared";
  EXPECT_LE(worst, 200 * std::ldexp(largest, -24))
      << what << "[" << at << "]: " << a[at] << ", torch " << b[at];
}

class MultiTokenGolden : public testing::TestWithParam<const char*> {};

TEST_P(MultiTokenGolden, LossesAndGradientsAreTorchs) {
  const std::string name = GetParam();
  const auto g = golden();
  LanguageModel model(golden_config());
  auto& transformer = model.transformer();
  const auto entries = core::collect_trainable(transformer);
  for (const auto& e : entries) e.param->value = g.at("weight." + e.path);
  const auto batch = case_of(name, g).batch;
  for (const bool recompute : {false, true}) {
    const auto got = outcome(transformer, batch, recompute);
    const auto of = [&](const std::string& key) { return g.at(name + "." + key); };
    expect_near("loss", got.value.loss, of("loss"));
    expect_near("main", got.value.metrics[0], of("main"));
    const double units = static_cast<double>(got.value.units.item<float>());
    for (int k = 1; k <= 2; ++k) {
      const auto n = std::to_string(k);
      const auto share = mx::divide(mx::array(static_cast<float>(units)), of("count_" + n));
      expect_near("head " + n, got.value.metrics[size_t(2 * k - 1)],
                  mx::multiply(of("head_" + n), share));
      EXPECT_FLOAT_EQ(got.value.metrics[size_t(2 * k)].item<float>(),
                      mx::multiply(of("hits_" + n), share).item<float>());
    }
    for (size_t i = 0; i < entries.size(); ++i)
      expect_near("gradient of " + entries[i].path, got.gradients[i],
                  of("gradient." + entries[i].path));
  }
}
INSTANTIATE_TEST_SUITE_P(Cases, MultiTokenGolden, testing::Values("plain", "packed"),
                         [](const auto& i) { return std::string(i.param); });

std::vector<int32_t> numbers(int n, int vocab) {
  std::vector<int32_t> out;
  for (int i = 0; i < n; ++i) out.push_back((i * i + 3 * i + i / 5) % vocab);
  return out;
}

// lmxlab's heads saw their labels (W6): there was no causal mask.
TEST(MultiToken, AHeadSeesNothingBehindTheTokenItReads) {
  for (const char* name : {"gpt-tiny", "llama-tiny", "gemma3-tiny", "mamba2-tiny",
                           "deepseek-v3-tiny", "qwen3-next-tiny"}) {
    auto config = config::preset(name);
    config.init_std = 0.2f;
    config.mtp_heads.assign(2, config::mtp_block(config));
    const LanguageModel model(config, 3);
    const Enter enter(model.runtime());
    constexpr int kLength = 12, kChanged = 7;
    auto ids = numbers(kLength, config.vocab);
    const auto heads = [&] {
      const mx::array tokens(ids.data(), {1, kLength}, mx::int32);
      auto pass = model.make_pass();
      auto h = model.transformer().hidden(tokens, pass);
      core::Arrays out;
      for (int k = 1; k <= 2; ++k) {
        auto own = model.transformer().mtp_pass(k - 1, pass);
        h = model.transformer().mtp(k - 1, mx::slice(h, {0, 0, 0}, {1, kLength - k, h.shape(2)}),
                                    columns(tokens, k, kLength), own);
        out.push_back(h);
      }
      return out;
    };
    const auto before = heads();
    ids[kChanged] = (ids[kChanged] + 1) % config.vocab;
    const auto after = heads();
    for (int k = 1; k <= 2; ++k) {
      const auto a = to_vector<float>(before[size_t(k - 1)]),
                 b = to_vector<float>(after[size_t(k - 1)]);
      const size_t dim = size_t(config.dim);
      // Position i reads up to token i + k.
      for (size_t i = 0; i < a.size() / dim; ++i) {
        const bool same = std::equal(a.begin() + long(i * dim), a.begin() + long((i + 1) * dim),
                                     b.begin() + long(i * dim));
        if (int(i) + k > kChanged) continue;
        EXPECT_EQ(same, int(i) + k < kChanged) << name << ", head " << k << ", " << i;
      }
    }
  }
}

// Packed, two texts learn what they learn alone; batches add up to one that has both.
TEST(MultiToken, PackedTextsAreThoseAlone) {
  LanguageModel model(golden_config(), 5);
  auto& transformer = model.transformer();
  const auto ids = numbers(14, 13);
  const auto row = [&](int from, int to) {
    return mx::array(ids.data() + from, {1, to - from}, mx::int32);
  };
  const auto flags = [](std::vector<bool> v) {
    std::vector<uint8_t> bytes(v.begin(), v.end());
    return mx::astype(mx::array(bytes.data(), {1, int(bytes.size())}, mx::uint8), mx::bool_);
  };
  const auto alone = [&](int from, int to) {
    std::vector<bool> loss(size_t(to - from), true);
    loss.back() = false;
    return outcome(transformer, {row(from, to), row(from + 1, to + 1), flags(loss)});
  };
  std::vector<bool> both(13, true);
  both[7] = both[12] = false;
  data::Batch packed{row(0, 13), row(1, 14), flags(both)};
  std::vector<int32_t> starts(13, 0);
  std::fill(starts.begin() + 8, starts.end(), 8);
  packed.documents = mx::array(starts.data(), {1, 13}, mx::int32);
  const auto a = alone(0, 8), b = alone(8, 13), c = outcome(transformer, packed);
  expect_near("loss", c.value.loss, mx::add(a.value.loss, b.value.loss));
  EXPECT_EQ(c.value.units.item<float>(), 11);
  const auto entries = core::collect_trainable(transformer);
  for (size_t i = 0; i < entries.size(); ++i)
    expect_near(entries[i].path, c.gradients[i], mx::add(a.gradients[i], b.gradients[i]));
}

TEST(MultiToken, CountsItsHeads) {
  for (const char* name : {"gpt-tiny", "llama-tiny", "deepseek-v3-tiny", "mamba2-tiny"}) {
    auto config = config::preset(name);
    const auto without = config::count(config);
    config.mtp_heads.assign(2, config::mtp_block(config));
    const auto with = config::count(config);
    const LanguageModel model(config);
    EXPECT_EQ(with.total, model.parameter_count()) << name;
    EXPECT_EQ(with.active, without.active) << name;
    EXPECT_EQ(with.total - without.total, with.mtp) << name;
    EXPECT_GT(config::mtp_flops_per_token(config, 32), 0) << name;
  }
}

// With the same seed the model begins as it would without heads.
TEST(MultiToken, HeadsLeaveTheModelAsItIs) {
  auto config = config::preset("llama-tiny");
  const LanguageModel plain(config, 4);
  config.mtp_heads = {config::mtp_block(config)};
  const LanguageModel with(config, 4);
  const auto ids = numbers(9, config.vocab);
  const mx::array tokens(ids.data(), {1, 9}, mx::int32);
  EXPECT_EQ(to_vector<float>(plain.forward(tokens)), to_vector<float>(with.forward(tokens)));
}

std::string refusal(const std::string& toml, Kind kind = Kind::usage) {
  const auto e = test::error_of([&] { resolve_run(read_recipe(toml, "test")); });
  EXPECT_EQ(e.kind(), kind);
  return e.what();
}

TEST(MultiToken, ContradictionsOfARecipe) {
  const std::string head = "[objective]\nkind = \"mtp\"\n";
  EXPECT_THAT(refusal(head + "heads = 0"), HasSubstr("objective.heads: expected 1 to 16, got 0"));
  EXPECT_THAT(refusal(head + "weight = -1"), HasSubstr("objective.weight"));
  EXPECT_THAT(refusal("[objective]\nheads = 2"), HasSubstr("objective.heads: pretrain does not"));
  EXPECT_THAT(refusal(head + "heads = 3\n[run]\ncontext = 3"), HasSubstr("run.context: 3 tokens"));
  EXPECT_THAT(refusal(head + "[adapter]\nrank = 2"), HasSubstr("optimizer.only"));
  EXPECT_THAT(refusal(head + "beta = 0.5"), HasSubstr("objective.beta: mtp does not use it"));
  EXPECT_THAT(refusal(head + "[model]\npreset = \"gemma3n-tiny\"\n[run]\ncontext = 8"),
              HasSubstr("mtp_heads"));
}

RunResult train(const Recipe& recipe) {
  return train_run(recipe, {}, {}, "unused");
}

const char* kRun = R"(
[model]
preset = "llama-tiny"
[optimizer]
name = "adamw"
lr = 3e-3
[schedule]
name = "constant"
[objective]
kind = "mtp"
heads = 2
[data]
validation = 0.002
[run]
steps = 8
batch = 2
context = 24
checkpoint_every = 4
eval_every = 0
)";

TEST(MultiToken, ARunIsSavedAndResumedBitForBit) {
  const test::TemporaryFolder folder;
  const auto whole = folder / "whole", parts = folder / "parts";
  const auto run = [&](const std::string& out, int steps) {
    return train(
        read_recipe(kRun, "test", {"run.out=" + out, "run.steps=" + std::to_string(steps)}));
  };
  const auto result = run(whole.string(), 8);
  ASSERT_TRUE(result.train.val_loss);
  run(parts.string(), 4);
  resume_run(parts, {"run.steps=8"}, {}, {});
  EXPECT_EQ(read_file(whole / "model.safetensors"), read_file(parts / "model.safetensors"));

  const auto model = LanguageModel::load(whole);
  EXPECT_EQ(model.config().mtp_heads.size(), 2u);
  const io::SafeTensors file(whole / "model.safetensors");
  const auto names = file.all();
  const auto n = std::to_string(model.config().layers.size());
  for (const char* part : {"enorm", "hnorm", "eh_proj", "shared_head.norm", "self_attn.q_proj"})
    EXPECT_TRUE(names.contains("model.layers." + n + "." + part + ".weight")) << part;
  const auto lines = split(read_file(whole / "metrics.jsonl"), '\n');
  const auto last = Json::parse(lines[lines.size() - 2], "metrics");
  for (const char* key : {"main_loss", "mtp_loss_1", "mtp_loss_2", "mtp_accuracy_1",
                          "val_main_loss", "val_mtp_accuracy_2"})
    EXPECT_TRUE(last.contains(key)) << key;
  const double main = last.at("main_loss").as_number();
  // Its own divisor is 24 tokens a row; the heads' means are over 23 and 22.
  const double heads =
      last.at("mtp_loss_1").as_number() * 23 / 24 + last.at("mtp_loss_2").as_number() * 22 / 24;
  EXPECT_NEAR(last.at("loss").as_number(), main + 0.15 * heads, 1e-5);
}

// Heads for a model that has none, with everything else frozen.
TEST(MultiToken, HeadsAloneTrainBesideAFrozenModel) {
  const test::TemporaryFolder folder;
  const auto base = folder / "base", out = folder / "heads";
  LanguageModel(config::preset("llama-tiny", {.vocab = 65}), 3).save(base);
  const std::string recipe = R"(
[optimizer]
name = "adamw"
only = ["model.mtp_heads.*"]
[objective]
kind = "mtp"
[data]
tokenizer = "char"
validation = 0.002
[run]
steps = 3
batch = 2
context = 16
eval_every = 0
)";
  train(read_recipe(recipe, "test", {"model.preset=" + base.string(), "run.out=" + out.string()}));
  const auto before = LanguageModel::load(base), after = LanguageModel::load(out);
  ASSERT_EQ(after.config().mtp_heads.size(), 1u);
  const auto ids = numbers(9, 65);
  const mx::array tokens(ids.data(), {1, 9}, mx::int32);
  EXPECT_EQ(to_vector<float>(before.forward(tokens)), to_vector<float>(after.forward(tokens)));

  // And further training of the model alone leaves its heads as they are.
  const auto more = folder / "more";
  train(read_recipe(
      "[run]\nsteps = 2\nbatch = 2\ncontext = 16\neval_every = 0\n[data]\nvalidation = 0.002",
      "test", {"model.preset=" + out.string(), "run.out=" + more.string()}));
  const auto a = io::SafeTensors(out / "model.safetensors").all(),
             b = io::SafeTensors(more / "model.safetensors").all();
  EXPECT_EQ(to_vector<float>(a.at("model.layers.2.eh_proj.weight")),
            to_vector<float>(b.at("model.layers.2.eh_proj.weight")));
  EXPECT_NE(to_vector<float>(a.at("model.layers.0.mlp.up_proj.weight")),
            to_vector<float>(b.at("model.layers.0.mlp.up_proj.weight")));
  EXPECT_THAT(
      refusal("[objective]\nkind = \"mtp\"\nheads = 2\n[model]\npreset = \"" + out.string() + "\"",
              Kind::mismatch),
      HasSubstr("the model has 1 heads already"));
}

// Neither a gradient nor a decay reaches heads that an objective does not go through.
TEST(MultiToken, AnotherObjectiveLeavesHeadsAsTheyAre) {
  LanguageModel model(golden_config(), 3);
  const auto weight = [&] {
    return to_vector<float>(model.transformer().mtp_heads[0].eh_proj.weight.w.value);
  };
  const auto before = weight();
  const auto ids = numbers(200, 13);
  const mx::array tokens(ids.data(), {200}, mx::int32);
  TrainOptions options;
  options.optimizer.weight_decay = 0.5;
  options.run.steps = 3, options.run.batch = 2, options.run.context = 12;
  Trainer(model, tokens, mx::zeros({0}, mx::int32), options).run();
  EXPECT_EQ(weight(), before);
}

// Experts of a head are balanced as the model's are.
TEST(MultiToken, RoutersOfHeadsAreTold) {
  auto config = config::preset("mixtral-tiny");
  config.mtp_heads = {config::mtp_block(config)};
  LanguageModel model(config, 1);
  StepOptions options;
  options.objective = mtp_objective(1, kWeight);
  TrainStep step(model.transformer(), {}, options);
  auto state = step.initial(1);
  const auto ids = numbers(2 * 9, config.vocab);
  const mx::array block(ids.data(), {2, 9}, mx::int32);
  const auto result = step(state, {{columns(block, 0, 8), columns(block, 1, 9)}}, 1e-3f, 1);
  ASSERT_EQ(result.loads.size(), config.layers.size() + 1);
  EXPECT_EQ(mx::sum(result.loads.back()).item<float>(), 2 * 7 * 2);  // two experts a token
}

// The loss of tokens is that of the logits, whatever they are multiplied by.
TEST(MultiToken, LogitsAreScaledInTheLossToo) {
  auto config = golden_config();
  config.logit_scale = 0.25f, config.logit_softcap = 3.0f;
  LanguageModel model(config, 2);
  const auto ids = numbers(13, 13);
  const mx::array inputs(ids.data(), {1, 12}, mx::int32),
      targets(ids.data() + 1, {1, 12}, mx::int32);
  core::Pass pass, other;
  const Enter enter(model.runtime());
  const auto hidden = model.transformer().hidden(inputs, pass);
  const auto got = objectives::token_logprobs(head_logits(model.transformer(), hidden), targets);
  const auto want = objectives::token_logprobs({model.transformer()(inputs, other)}, targets);
  expect_near("log p", got, want);
}

}  // namespace
}  // namespace lmxlab
