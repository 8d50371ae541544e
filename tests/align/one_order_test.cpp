// That sums have one order: a token's log-probability is the same to the bit however it came about.
#include "lmxlab/kernels/one_order.h"

#include "lmxlab/align/policy.h"
#include "lmxlab/align/rollout.h"
#include "lmxlab/base/random.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/kernels/attention.h"
#include "lmxlab/kernels/fused.h"
#include "lmxlab/kernels/isa.h"
#include "lmxlab/models/adapters.h"
#include "lmxlab/models/quantize.h"
#include "lmxlab/training/step.h"
#include "tests/inference/models.h"

#include <gtest/gtest.h>
#include <mlx/ops.h>
#include <mlx/random.h>
#include <mlx/transforms.h>

#include <cstring>

namespace lmxlab::align {
namespace {

using Ids = std::vector<int32_t>;

int below(HostRandom& random, int n) {
  return static_cast<int>(random.below(static_cast<uint64_t>(n)));
}
std::vector<Ids> texts(HostRandom& random, int rows, int longest, int vocab) {
  std::vector<Ids> out(static_cast<size_t>(rows));
  for (auto& row : out) {
    row.resize(static_cast<size_t>(2 + below(random, longest - 1)));
    for (auto& id : row) id = below(random, vocab);
  }
  return out;
}

std::vector<testing_models::Named> models() {
  std::vector<testing_models::Named> out;
  for (auto& m : testing_models::all()) {
    LanguageModel model(m.config, 1);
    try {
      expect_one_order(model);
    } catch (const Error&) {
      continue;
    }
    out.push_back(std::move(m));
  }
  auto llama = config::preset("llama-tiny");  // more than a block of everything
  llama.vocab = 1500;
  std::get<config::Mlp>(llama.layers[0].ffn).hidden = 1600;
  out.push_back({"llama, 1500 words", llama});
  // Experts of every kind of choice, recurrent mixers, and both beside attention.
  for (const char* name :
       {"mixtral-tiny", "phimoe-tiny", "qwen2-moe-tiny", "ernie4-5-moe-tiny", "granite-tiny",
        "gemma3n-tiny", "mamba-tiny", "mamba2-tiny", "qwen3-next-tiny", "qwen3-5-tiny", "lfm2-tiny",
        "minimax-tiny", "falcon-h1-tiny", "recurrent-gemma-tiny", "rwkv-tiny", "zamba2-tiny",
        "nemotron-h-tiny", "granitemoehybrid-tiny"}) {
    auto preset = config::preset(name);
    preset.init_std = 0.1f;
    out.push_back({name, preset});
  }
  const auto with = [&](const char* name, const config::Mixer& mixer) {
    auto m = testing_models::small({.heads = 4, .kv_heads = 2, .head_dim = 8});
    m.layers[0].mixer = mixer;
    out.push_back({name, m});
  };
  with("kimi_delta", config::KimiDelta{.heads = 4, .head_dim = 8});
  with("rwkv7", config::Rwkv7{.heads = 4, .head_dim = 8});
  return out;
}

/// Logits [V] of every position of a row: through the whole rows together, padded at their right,
/// as training has them.
std::vector<std::vector<float>> trained(const LanguageModel& model, const std::vector<Ids>& rows) {
  size_t longest = 0;
  for (const auto& r : rows) longest = std::max(longest, r.size());
  Ids all;
  for (auto r : rows) {
    r.resize(longest, 0);
    all.insert(all.end(), r.begin(), r.end());
  }
  const Enter enter(model.runtime());
  const auto y = model.forward(
      mx::array(all.begin(), {static_cast<int>(rows.size()), static_cast<int>(longest)}));
  const auto v = to_vector<float>(y);
  const size_t vocab = static_cast<size_t>(y.shape(2));
  std::vector<std::vector<float>> out;
  for (size_t r = 0; r < rows.size(); ++r)
    out.emplace_back(
        v.begin() + static_cast<std::ptrdiff_t>(r * longest * vocab),
        v.begin() + static_cast<std::ptrdiff_t>((r * longest + rows[r].size()) * vocab));
  return out;
}

/// The same in pieces of random lengths through a cache, padded at the left.
std::vector<std::vector<float>> cached(const LanguageModel& model, const std::vector<Ids>& rows,
                                       HostRandom& random) {
  size_t longest = 0;
  for (const auto& r : rows) longest = std::max(longest, r.size());
  longest += random.below(4);
  Ids pads;
  for (const auto& r : rows) pads.push_back(static_cast<int32_t>(longest - r.size()));
  const int n = static_cast<int>(rows.size());
  const Enter enter(model.runtime());
  auto cache = model.make_cache(mx::array(pads.begin(), {n}), {.kv_bits = 0});
  std::vector<std::vector<float>> out(rows.size());
  for (size_t from = 0; from < longest;) {
    const size_t to = std::min(longest, from + 1 + random.below(random.below(3) == 0 ? 20 : 3));
    Ids piece;
    for (size_t r = 0; r < rows.size(); ++r)
      for (size_t i = from; i < to; ++i) {
        const auto pad = static_cast<size_t>(pads[r]);
        piece.push_back(i < pad ? 0 : rows[r][i - pad]);
      }
    auto [y, next] =
        model(mx::array(piece.begin(), {n, static_cast<int>(to - from)}), std::move(cache));
    cache = std::move(next);
    const auto v = to_vector<float>(y);
    const size_t vocab = static_cast<size_t>(y.shape(2));
    for (size_t r = 0; r < rows.size(); ++r)
      for (size_t i = from; i < to; ++i) {
        if (i < static_cast<size_t>(pads[r])) continue;
        const auto at =
            v.begin() + static_cast<std::ptrdiff_t>((r * (to - from) + i - from) * vocab);
        out[r].insert(out[r].end(), at, at + static_cast<std::ptrdiff_t>(vocab));
      }
    from = to;
  }
  return out;
}

size_t different(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  size_t n = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i)
    n += std::memcmp(&a[i], &b[i], sizeof(float)) != 0;
  return n;
}

/// Every row of random batches, whole, in pieces and alone.
void expect_one_answer(const LanguageModel& model) {
  const int vocab = model.config().vocab;
  HostRandom random(5);
  const kernels::OneOrder order;
  for (int round = 0; round < 4; ++round) {
    const auto rows = texts(random, 1 + below(random, round == 0 ? 1 : 11), 60, vocab);
    const auto whole = trained(model, rows);
    const auto pieces = cached(model, rows, random);
    for (size_t r = 0; r < rows.size(); ++r) {
      EXPECT_EQ(different(whole[r], pieces[r]), 0u) << "row " << r << " of " << rows.size();
      EXPECT_EQ(different(whole[r], trained(model, {rows[r]})[0]), 0u) << "alone, row " << r;
    }
  }
}

// The engine's own, with the temperature, against what a step computes.
void expect_same_logprobs(const LanguageModel& model) {
  const int vocab = model.config().vocab;
  HostRandom random(6);
  const kernels::OneOrder order;
  GrpoConfig config;
  config.temperature = 0.7, config.max_completion_length = 20;
  auto options = generation(config, data::Tokenizer::bytes(), false);
  options.stop_tokens = {0, 1, 2, 3};  // rows end at different times
  std::vector<std::vector<int>> prompts;
  for (const auto& p : texts(random, 9, 30, vocab)) prompts.emplace_back(p.begin(), p.end());
  const auto written = generate_batch(model, prompts, options);
  std::vector<Row> rows;
  for (size_t i = 0; i < prompts.size(); ++i) {
    Row row;
    row.ids.assign(prompts[i].begin(), prompts[i].end());
    row.prompt = static_cast<int>(prompts[i].size());
    row.ids.insert(row.ids.end(), written[i].tokens.begin(), written[i].tokens.end());
    row.old_logprobs = written[i].logprobs;
    rows.push_back(row);
  }
  const Enter enter(model.runtime());
  for (const int each : {9, 3, 1}) {  // rows of a batch
    for (size_t from = 0; from < rows.size(); from += static_cast<size_t>(each)) {
      std::vector<const Row*> some;
      std::vector<Row> got(rows.begin() + static_cast<std::ptrdiff_t>(from),
                           rows.begin() + static_cast<std::ptrdiff_t>(from) + each);
      std::vector<Row*> to;
      for (auto& r : got) some.push_back(&r), to.push_back(&r);
      const auto batch = batch_of(some, 64);
      core::Pass pass;
      pass.dtype = mx::float32;  // as a step has it
      take_tokens(policy_logprobs(model.transformer(), batch, pass, 0.7f), to, &Row::ref_logprobs);
      for (const auto& r : got) EXPECT_EQ(different(r.ref_logprobs, r.old_logprobs), 0u);
    }
  }
}

class OneOrderOf : public testing::TestWithParam<std::string> {
 protected:
  config::Model config() const {
    for (const auto& m : models())
      if (m.name == GetParam()) return m.config;
    throw Error(Kind::internal, "no model " + GetParam());
  }
};
std::vector<std::string> names() {
  std::vector<std::string> out;
  for (const auto& m : models()) out.push_back(m.name);
  return out;
}

TEST_P(OneOrderOf, LogitsAreThoseOfAnyBatchCacheAndCut) {
  expect_one_answer(LanguageModel(config(), 3));
}
TEST_P(OneOrderOf, RolloutAndTrainingSayTheSame) {
  expect_same_logprobs(LanguageModel(config(), 3));
}

INSTANTIATE_TEST_SUITE_P(Models, OneOrderOf, testing::ValuesIn(names()), [](const auto& of) {
  std::string n = of.param;
  for (char& c : n)
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  return n;
});

struct Packed {
  std::string model;
  QuantizeOptions how;
  bool adapter = false, dora = false;
};
class PackedOneOrder : public testing::TestWithParam<Packed> {};

// Of every way to pack, where rows of the tile's size are interleaved too, and with an adapter
// beside.
TEST_P(PackedOneOrder, HoldsInRolloutAndTraining) {
  const auto& c = GetParam();
  auto config = config::preset(c.model);
  config.init_std = 0.1f;
  if (c.model == "llama-tiny" &&
      c.how.mode == QuantMode::affine)  // more than a block of everything
    config.vocab = 1504, std::get<config::Mlp>(config.layers[0].ffn).hidden = 1600;
  LanguageModel model(config, 3);
  quantize_model(model, c.how);
  interleave_model(model);
  if (c.adapter) {
    attach_adapter(model, {.rank = 4, .dora = c.dora});
    const Enter enter(model.runtime());
    for (auto& e : core::collect_trainable(model.transformer()))  // B is zero at first
      e.param->value = mx::add(e.param->value, mx::array(0.01f));
  }
  expect_one_order(model);
  expect_one_answer(model);
  expect_same_logprobs(model);
}
INSTANTIATE_TEST_SUITE_P(
    Ways, PackedOneOrder,
    testing::Values(Packed{"llama-tiny", {.bits = 4, .group_size = 32}},
                    Packed{"llama-tiny", {.bits = 4, .group_size = 32}, true},
                    Packed{"llama-tiny", {.bits = 3, .group_size = 32}, true, true},
                    Packed{"llama-tiny", {.bits = 5, .group_size = 32}},
                    Packed{"llama-tiny", {.bits = 8, .group_size = 64, .embedding_bits = 8}},
                    Packed{"llama-tiny", {.mode = QuantMode::mxfp4}},
                    Packed{"llama-tiny", {.mode = QuantMode::mxfp8}},
                    Packed{"mixtral-tiny", {.bits = 4, .group_size = 32}, true},
                    Packed{"mixtral-tiny", {.mode = QuantMode::mxfp4}},
                    Packed{"mamba2-tiny", {.bits = 4, .group_size = 32}, true},
                    Packed{"qwen3-next-tiny", {.bits = 4, .group_size = 32}, true},
                    Packed{"qwen3-5-tiny", {.bits = 8, .group_size = 32}}),
    [](const auto& of) { return "p" + std::to_string(of.index); });

TEST(OneOrder, HoldsWithAdaptersAndEveryInstructionSet) {
  LanguageModel model(config::preset("llama-tiny"), 3);
  attach_adapter(model, {.rank = 4});
  {
    const Enter enter(model.runtime());
    for (auto& e : core::collect_trainable(model.transformer()))  // B is zero at first
      e.param->value = mx::add(e.param->value, mx::array(0.01f));
  }
  const auto before = kernels::isa();
  for (const auto isa : kernels::isas()) {
    kernels::set_isa(isa);
    HostRandom random(7);
    const kernels::OneOrder order;
    const auto rows = texts(random, 5, 40, model.config().vocab);
    const auto whole = trained(model, rows), pieces = cached(model, rows, random);
    for (size_t r = 0; r < rows.size(); ++r)
      EXPECT_EQ(different(whole[r], pieces[r]), 0u) << kernels::name(isa);
  }
  kernels::set_isa(before);
}

// A checkpoint of 16 bits, which our kernels widen as they read it.
TEST(OneOrder, HoldsForWeightsOf16Bits) {
  for (const auto dtype : {DType::f16, DType::bf16}) {
    LanguageModel model(config::preset("llama-tiny"), 3, dtype);
    attach_adapter(model, {.rank = 4});
    expect_one_order(model);
    expect_one_answer(model);
    expect_same_logprobs(model);
  }
}

struct MaskCase {
  std::string name;
  kernels::AttentionMask mask;
  int queries = 9, keys = 9;
};
class OneOrderAttention : public testing::TestWithParam<MaskCase> {};

// The same numbers but for rounding, gradients too.
TEST_P(OneOrderAttention, IsAttention) {
  const auto& c = GetParam();
  const int B = 2, H = 6, K = 2, D = 20;
  const auto draw = [](int seed, mx::Shape shape) {
    return mx::random::normal(shape, mx::random::key(static_cast<uint64_t>(seed)));
  };
  const std::vector<mx::array> in{draw(1, {B, H, c.queries, D}), draw(2, {B, K, c.keys, D}),
                                  draw(3, {B, K, c.keys, D})};
  const auto weight = draw(4, {B, H, c.queries, D});
  const auto all = [&](bool on) {
    const kernels::OneOrder order(on);
    const auto f = [&](const std::vector<mx::array>& x) {
      return mx::sum(mx::multiply(weight, kernels::attention(x[0], x[1], x[2], 0.3f, c.mask)));
    };
    auto out = mx::grad(f, std::vector<int>{0, 1, 2})(in);
    out.push_back(kernels::attention(in[0], in[1], in[2], 0.3f, c.mask));
    mx::eval(out);
    return out;
  };
  const auto one = all(true), other = all(false);
  for (size_t i = 0; i < one.size(); ++i) {
    const auto a = to_vector<float>(one[i]), b = to_vector<float>(other[i]);
    ASSERT_EQ(a.size(), b.size());
    for (size_t j = 0; j < a.size(); ++j) ASSERT_NEAR(a[j], b[j], 2e-5) << i << " at " << j;
  }
}
INSTANTIATE_TEST_SUITE_P(
    Masks, OneOrderAttention,
    testing::Values(MaskCase{"all", {}, 9, 13}, MaskCase{"causal", {.causal = true}},
                    MaskCase{"after_a_cache", {.causal = true}, 5, 70},
                    MaskCase{"window", {.causal = true, .window = 4}, 9, 12},
                    MaskCase{"softcap", {.causal = true, .softcap = 2}},
                    MaskCase{"padding", {.causal = true, .padding = mx::array({3, 0})}},
                    MaskCase{"texts",
                             {.causal = true,
                              .padding = mx::array({0, 0, 0, 3, 3, 5, 5, 5, 8,  //
                                                    0, 1, 1, 1, 4, 4, 4, 4, 4},
                                                   {2, 9})}}),
    [](const auto& of) { return of.param.name; });

TEST(OneOrder, IsNotWhatHappensAnyway) {
  const LanguageModel model(config::preset("llama-tiny"), 3);
  HostRandom random(5);
  const auto rows = texts(random, 5, 60, model.config().vocab);
  const auto whole = trained(model, rows), pieces = cached(model, rows, random);
  size_t n = 0;
  for (size_t r = 0; r < rows.size(); ++r) n += different(whole[r], pieces[r]);
  EXPECT_GT(n, 0u);
}

TEST(OneOrder, RefusesWhatHasNone) {
  const auto refused = [](config::Model c) {
    LanguageModel model(c, 1);
    try {
      expect_one_order(model);
    } catch (const Error& e) {
      return e.kind() == Kind::unsupported;
    }
    return false;
  };
  EXPECT_FALSE(refused(config::preset("llama-tiny")));
  kernels::set_fused(false);  // as on other devices
  EXPECT_TRUE(refused(config::preset("llama-tiny")));
  kernels::set_fused(true);
  auto dropping = config::preset("llama-tiny");
  dropping.dropout = 0.1f;
  EXPECT_TRUE(refused(dropping));
  auto mamba3 = config::preset("mamba2-tiny");
  mamba3.layers[0].mixer = config::Mamba3{};
  EXPECT_TRUE(refused(mamba3));
  for (const char* name :
       {"deepseek-v3-tiny", "xlstm-tiny", "bloom-tiny", "gpt-oss-tiny", "llama4-tiny"})
    EXPECT_TRUE(refused(config::preset(name))) << name;
}

}  // namespace
}  // namespace lmxlab::align
