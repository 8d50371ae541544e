// Tiny models of transformers against what PyTorch computed from them; see
// tools/make_model_fixtures.py.
#include "lmxlab/base/files.h"
#include "lmxlab/checks/properties.h"
#include "lmxlab/config/hf.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/io/safetensors.h"
#include "lmxlab/models/names.h"
#include "lmxlab/models/quantize.h"
#include "lmxlab/training/loss.h"
#include "lmxlab/training/step.h"
#include "tests/support/shared_fixtures.h"

#include <gtest/gtest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <cmath>
#include <filesystem>

namespace lmxlab {
namespace {

namespace fs = std::filesystem;
constexpr double kEps = 1.2e-7;

fs::path fixture(const std::string& name) {
  return fs::path(LMXLAB_SOURCE_DIR) / "tests/fixtures/models" / name;
}
mx::array columns(const mx::array& tokens, int from, int to) {
  return mx::slice(tokens, {0, from}, {tokens.shape(0), to});
}
double item(const mx::array& a) {
  return static_cast<double>(mx::astype(a, mx::float32).item<float>());
}
double largest(const mx::array& a) {
  return item(mx::max(mx::abs(a)));
}
mx::array next_token_loss(const core::Transformer& model, const mx::array& ids) {
  core::Pass pass;
  const int length = ids.shape(1);
  return mx::mean(token_nll(model(columns(ids, 0, length - 1), pass), columns(ids, 1, length)));
}

// Greedy continuation of row 0 with a cache, one token a pass.
std::vector<int32_t> greedy(const LanguageModel& model, const mx::array& ids, size_t count) {
  const auto best = [](const mx::array& logits) {
    const auto last = mx::slice(logits, {0, logits.shape(1) - 1, 0}, logits.shape());
    return static_cast<int32_t>(mx::argmax(last).item<uint32_t>());
  };
  auto [logits, cache] = model(mx::slice(ids, {0, 0}, {1, ids.shape(1)}));
  eval(logits, cache);
  std::vector<int32_t> out{best(logits)};
  while (out.size() < count) {
    auto [more, next] = model(mx::array({out.back()}, mx::int32), std::move(cache));
    cache = std::move(next);
    eval(more, cache);
    out.push_back(best(more));
  }
  return out;
}

// Rounding of logits is of either sign, and a loss is the mean over tokens of differences of a few
// logits.
double loss_bound(const mx::array& logits) {
  return 32 * kEps * largest(logits);
}
// What part of the tolerance was used, for the report of the tests.
void record_share(double share) {
  testing::Test::RecordProperty("share_of_tolerance", std::to_string(share));
}

class Golden : public testing::TestWithParam<const char*> {
 protected:
  LanguageModel model = LanguageModel::load(fixture(GetParam()), true);
  io::SafeTensors reference{fixture(GetParam()) / "reference.safetensors"};
};

TEST_P(Golden, Logits) {
  const Enter enter(model.runtime());
  const auto want = reference.get("logits");
  const auto c = checks::compare("logits", model.forward(reference.get("input_ids")), want,
                                 checks::rounding_bound(model, want));
  EXPECT_TRUE(c.ok) << c.detail;
  RecordProperty("detail", c.detail);
}

TEST_P(Golden, Loss) {
  const Enter enter(model.runtime());
  const double want = item(reference.get("loss"));
  const double got = item(next_token_loss(model.transformer(), reference.get("input_ids")));
  const double bound = loss_bound(reference.get("logits"));
  EXPECT_LE(std::abs(got - want), bound) << got << " and " << want;
  record_share(std::abs(got - want) / bound);
}

TEST_P(Golden, GreedyContinuation) {
  const Enter enter(model.runtime());
  const auto want = to_vector<int32_t>(reference.get("greedy_ids"));
  EXPECT_EQ(greedy(model, reference.get("input_ids"), want.size()), want);
}

TEST_P(Golden, TenStepsOfAdamw) {
  const Enter enter(model.runtime());
  const auto ids = reference.get("train_ids");
  const auto want = to_vector<float>(reference.get("train_losses"));
  const double once = loss_bound(reference.get("logits"));
  double share = 0;
  for (const bool compiled : {false, true}) {
    OptimizerConfig adamw;
    adamw.betas = {0.9, 0.999};
    adamw.weight_decay = 0.0;
    TrainStep step(model.transformer(), adamw, {.clip = 0, .compiled = compiled});
    auto state = step.initial(0);
    const int length = ids.shape(2) - 1;
    for (size_t i = 0; i < want.size(); ++i) {
      const auto batch = mx::take(ids, static_cast<int>(i), 0);
      const auto result = step(state, {{columns(batch, 0, length), columns(batch, 1, length + 1)}},
                               1e-3f, static_cast<int64_t>(i) + 1);
      // Rounding of each step before is carried along.
      const double bound = once * static_cast<double>(i + 1), got = item(result.loss);
      share = std::max(share, std::abs(got - static_cast<double>(want[i])) / bound);
      EXPECT_LE(std::abs(got - static_cast<double>(want[i])), bound)
          << "step " << i + 1 << ": " << got << " and " << want[i] << ", compiled: " << compiled;
    }
    // The loss of the first batch has fallen by far more than the bound, so that learning was seen.
    EXPECT_LT(want[9], want[0] - 100 * static_cast<float>(once));
  }
  record_share(share);
}

INSTANTIATE_TEST_SUITE_P(Models, Golden,
                         testing::Values("gpt2_gelu_new", "gpt2_gelu_untied", "llama_gqa",
                                         "llama_bias_tied"),
                         [](const auto& test) { return std::string(test.param); });

class GoldenGradients : public Golden {};

TEST_P(GoldenGradients, OfEveryParameter) {
  const Enter enter(model.runtime());
  core::Tensors theirs;
  for (const auto& name : reference.names())
    if (name.starts_with("grad.")) theirs.emplace(name.substr(5), reference.get(name));
  // A gradient has the shape of its tensor, so it is split and turned as that is.
  const auto& config = model.config();
  const auto want = names_from_checkpoint(config::hf_form(config), theirs, config);

  const auto entries = core::collect(model.transformer());
  const auto ids = reference.get("input_ids");
  const auto loss = [&](const core::Arrays& w) -> core::Arrays {
    const core::Lend lend(entries, w);
    return {next_token_loss(model.transformer(), ids)};
  };
  std::vector<int> all(entries.size());
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int>(i);
  const auto grads = mx::value_and_grad(loss, all)(core::values(entries)).second;

  ASSERT_EQ(want.size(), entries.size());
  double overall = 0;
  for (const auto& [name, g] : want) overall = std::max(overall, largest(g));
  // Sums over width, layers (there and back) and tokens. A gradient that is zero but for rounding,
  // as that of keys' biases, is measured by those that it is a difference of.
  const double terms = static_cast<double>(2 * config.dim * static_cast<int>(config.layers.size()) *
                                           static_cast<int>(ids.size()));
  for (size_t i = 0; i < entries.size(); ++i) {
    ASSERT_TRUE(want.count(entries[i].path)) << entries[i].path;
    const auto& g = want.at(entries[i].path);
    const double size = std::max(largest(g), 1e-2 * overall);
    const auto c =
        checks::compare(entries[i].path, grads[i], g, 4 * kEps * std::sqrt(terms) * size);
    EXPECT_TRUE(c.ok) << c.name << ": " << c.detail;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenGradients, testing::Values("gpt2_gelu_new", "llama_gqa"),
                         [](const auto& test) { return std::string(test.param); });

// Further checkpoints beside the repository; their reference.json gives the tolerance.
class SharedCheckpoint : public testing::TestWithParam<const char*> {};

TEST_P(SharedCheckpoint, LogitsAndGreedyContinuation) {
  const auto root = test::shared_fixtures("checkpoints");
  if (!root) return;
  const auto folder = *root / GetParam();
  const auto model = LanguageModel::load(folder);
  const Enter enter(model.runtime());
  const io::SafeTensors reference(folder / "reference.safetensors");
  const auto facts = Json::parse(read_file(folder / "reference.json"), "reference.json");
  const auto want = reference.get("logits");
  const double bound = facts.at("atol").as_number() + facts.at("rtol").as_number() * largest(want);
  const auto c = checks::compare("logits", model.forward(reference.get("input_ids")), want, bound);
  EXPECT_TRUE(c.ok) << c.detail;
  // Through the cache, in pieces of one and of seven: positions as of the whole text.
  const auto all = reference.get("input_ids");
  const int length = all.shape(1);
  for (const int piece : {1, 5, 7}) {
    auto cache = model.make_cache();
    cache.text_length = length;
    core::Arrays parts;
    for (int t = 0; t < length; t += piece) {
      auto [logits, next] = model(columns(all, t, std::min(length, t + piece)), std::move(cache));
      cache = std::move(next);
      eval(logits, cache);
      parts.push_back(logits);
    }
    const auto cached = checks::compare("cached", mx::concatenate(parts, 1), want, bound);
    EXPECT_TRUE(cached.ok) << "pieces of " << piece << ": " << cached.detail;
  }
  std::vector<int32_t> ids;
  if (const Json* list = facts.find("greedy_ids_with_cache"))
    for (const auto& id : list->as_array()) ids.push_back(static_cast<int32_t>(id.as_integer()));
  else
    ids = to_vector<int32_t>(reference.get("greedy_ids"));
  EXPECT_EQ(greedy(model, all, ids.size()), ids);
}

// What we write of it is the same model, bit for bit: as it is, and packed.
TEST_P(SharedCheckpoint, IsTheSameFromAFolderOfOurs) {
  const auto root = test::shared_fixtures("checkpoints");
  if (!root) return;
  const auto ours = fs::path(testing::TempDir()) / ("ours_" + std::string(GetParam()));
  auto model = LanguageModel::load(*root / GetParam());
  const Enter enter(model.runtime());
  const mx::array ids = mx::reshape(mx::arange(3, 27, mx::int32), {2, 12});
  const auto again = [&](const char* what) {
    fs::remove_all(ours);
    model.save(ours);
    const auto read = LanguageModel::load(ours);
    EXPECT_TRUE(read.config() == model.config()) << what;
    EXPECT_TRUE(mx::array_equal(read.forward(ids), model.forward(ids)).item<bool>()) << what;
  };
  again("as it is");
  QuantizeOptions options{.mode = QuantMode::nvfp4};
  for (const auto& [path, weight, embedding] : core::weights_of(model.transformer()))
    if (weight->w.value.shape(-1) % 16 != 0 || weight->w.value.size() % 32 != 0)
      options.layers.push_back({path, 0});
  quantize_model(model, options);
  if (can_save_packed(model.config()))
    again("packed");
  else
    EXPECT_THROW(model.save(ours), Error);
  fs::remove_all(ours);
}

// The decays that we compute are those that the file has.
TEST(SharedCheckpointOfMinimax, HasOurDecays) {
  const auto root = test::shared_fixtures("checkpoints");
  if (!root) return;
  const auto ours = fs::path(testing::TempDir()) / "ours_minimax_decays";
  fs::remove_all(ours);
  const auto model = LanguageModel::load(*root / "minimax");
  const Enter enter(model.runtime());
  model.save(ours);
  const io::SafeTensors theirs(*root / "minimax/model.safetensors"),
      written(ours / "model.safetensors");
  for (const char* layer : {"0", "2"})
    for (const char* name : {"slope_rate", "query_decay", "key_decay", "diagonal_decay"}) {
      const auto path = "model.layers." + std::string(layer) + ".self_attn." + name;
      const auto got = written.get(path), want = theirs.get(path);
      EXPECT_EQ(got.dtype(), want.dtype()) << path;
      EXPECT_TRUE(mx::array_equal(got, want).item<bool>()) << path;
    }
  fs::remove_all(ours);
}

INSTANTIATE_TEST_SUITE_P(
    Models, SharedCheckpoint,
    testing::Values("gpt2", "llama", "llama_dynamic", "llama_linear_bias", "llama_yarn", "mistral",
                    "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "gemma3_multimodal", "phi3",
                    "phi3_longrope", "smollm3", "olmo2", "starcoder2", "arcee", "apertus", "bitnet",
                    "bloom", "codegen", "cohere", "cohere2", "ernie4_5", "exaone4", "falcon",
                    "falcon_alibi", "glm", "glm4", "gpt_bigcode", "gpt_neox", "gptj", "granite",
                    "helium", "hunyuan_v1_dense", "internlm3", "ministral", "ministral3", "mpt",
                    "nanochat", "nemotron", "olmo", "olmo3", "opt", "persimmon", "phi", "seed_oss",
                    "stablelm", "minicpm3", "youtu", "mixtral", "qwen2_moe", "qwen3_moe", "olmoe",
                    "dots1", "glm4_moe", "ernie4_5_moe", "hunyuan_v1_moe", "minimax_m2",
                    "granitemoe", "granitemoeshared", "gpt_oss", "dbrx", "deepseek_v2",
                    "deepseek_v3", "kimi_k2", "glm4_moe_lite", "deepseek_v32", "glm_moe_dsa",
                    "mamba", "mamba2", "bamba", "jamba", "lfm2", "lfm2_moe", "qwen3_next",
                    "qwen3_5_text", "qwen3_5_moe_text", "qwen3_5_multimodal", "granitemoehybrid",
                    "exaone_moe", "solar_open", "afmoe", "mellum", "phimoe", "olmo_hybrid",
                    "kimi_linear", "llama4_text", "minimax", "mimo_v2_flash", "laguna",
                    "nemotron_h", "bailing_hybrid", "falcon_h1", "longcat_flash", "gemma3n_text",
                    "gemma4_text", "gemma4_text_moe", "zamba2", "recurrent_gemma", "rwkv", "xlstm"),
    [](const auto& test) { return std::string(test.param); });

}  // namespace
}  // namespace lmxlab
