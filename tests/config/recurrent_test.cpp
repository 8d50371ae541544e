#include "lmxlab/config/count.h"
#include "lmxlab/config/describe.h"
#include "lmxlab/config/hf.h"
#include "lmxlab/config/presets.h"
#include "lmxlab/config/validate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

using namespace lmxlab;
using namespace lmxlab::config;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

namespace {

Model with(const Mixer& mixer) {
  Model m = preset("llama-tiny", {.depth = 2});
  m.layers[0].mixer = mixer;
  return m;
}

const std::vector<Mixer> kMixers{
    Mamba2{.heads = 4, .head_dim = 8, .groups = 2, .state = 6, .dt_min = 0.001f, .dt_max = 0.5f},
    GatedDelta{.heads = 4, .key_heads = 2, .key_dim = 8, .value_dim = 16},
    ShortConv{.bias = true},
    KimiDelta{.heads = 2, .head_dim = 8, .lower_bound = -5.0f},
    Mamba{.inner = 32, .norms = MambaNorms::learned},
    Lightning{.heads = 4, .head_dim = 8},
    RgLru{.width = 40, .heads = 4},
    RwkvTime{.inner = 24},
    RwkvChannel{.hidden = 72},
    Mlstm{.heads = 4, .key_dim = 6, .value_dim = 8},
    RwkvChannel{.hidden = 72, .gate = false},
    Rwkv7{.heads = 4, .head_dim = 6, .decay_rank = 5},
    Mamba3{.heads = 4, .head_dim = 8, .groups = 2, .state = 6, .angles = 3, .norm = true},
    Lightning{.heads = 4, .head_dim = 8, .decays = Decays::bfloat16, .block = 16}};

TEST(Recurrent, IsWrittenReadAndDescribed) {
  for (const auto& mixer : kMixers) {
    const Model m = with(mixer);
    const std::string kind = std::visit([](const auto& x) { return std::string(x.kind); }, mixer);
    EXPECT_THAT(check(m).list(), IsEmpty()) << kind;
    EXPECT_TRUE(from_json<Model>(to_json(m), "model") == m) << kind;
    const auto text = describe(m);
    EXPECT_THAT(text, HasSubstr("of states")) << kind;
    EXPECT_THAT(text, HasSubstr(kind == "short_conv" ? "convolution of 3" : kind.substr(0, 4)));
  }
}

TEST(Recurrent, StatesTakeTheSameBytesAtEveryLength) {
  const int64_t dim = with(ShortConv{}).dim;
  const std::vector<int64_t> states{4 * 6 * 8, 4 * 8 * 16, 0,         2 * 8 * 8, 32 * 16,
                                    4 * 8 * 8, 40,         48,        0,         4 * 6 * 9,
                                    0,         4 * 6 * 6,  4 * 6 * 8, 4 * 8 * 8};
  const std::vector<int64_t> beside{0, 0, 0, 0, 0, 0, 0, 24, 0, 4, 0, 0, 4 * (6 + 8 + 3), 0};
  const std::vector<int64_t> windows{
      3 * (32 + 24), 3 * (32 + 64), 2 * dim, 3 * 48, 3 * 32, 0, 3 * 40,
      dim,           dim,           0,       dim,    dim,    0, 15 * 64};
  for (size_t i = 0; i < kMixers.size(); ++i) {
    Model m = with(kMixers[i]);
    EXPECT_EQ(state_bytes(m, 2), 4 * (states[i] + beside[i]) + 2 * windows[i]) << i;
    const int64_t keys = kv_bytes_per_token(m, 2);
    EXPECT_EQ(kv_bytes(m, 100, 2), state_bytes(m, 2) + 100 * keys) << i;
    m.layers = {m.layers[0]};
    EXPECT_EQ(kv_bytes_per_token(m, 2), 0) << i;
    EXPECT_DOUBLE_EQ(flops_per_token(m, 10), flops_per_token(m, 100'000)) << i;
    const double products = i == 11 ? 4 : i == 1 || i == 3 || i == 12 ? 3 : 2;
    Model none = m;
    none.layers[0].mixer = Nothing{};
    EXPECT_DOUBLE_EQ(flops_per_token(m, 10) - flops_per_token(none, 10),
                     2 * double(count(m).mixer) + 2 * products * double(states[i]))
        << i;
  }
}

TEST(Recurrent, ContradictionsAreSaid) {
  EXPECT_THAT(
      check(with(Mamba2{.heads = 4, .groups = 3, .conv = 1, .dt_min = 1, .dt_max = 0.5f})).list(),
      ElementsAre("layers.0.mixer.groups: 4 heads are no multiple of 3 groups",
                  "layers.0.mixer.conv: expected at least 2 positions, got 1",
                  HasSubstr("layers.0.mixer.dt_max: expected more than dt_min")));
  EXPECT_THAT(check(with(GatedDelta{.heads = 4, .key_heads = 3})).list(),
              ElementsAre("layers.0.mixer.key_heads: 4 heads are no multiple of 3 key heads"));
  EXPECT_THAT(check(with(KimiDelta{.lower_bound = 1.0f})).list(),
              ElementsAre(HasSubstr("layers.0.mixer.lower_bound: expected a number below 0")));
  EXPECT_THAT(check(with(Mamba{.inner = 0, .norm_eps = -1})).list(),
              Contains("layers.0.mixer.inner: expected at least 1, got 0"));
  EXPECT_THAT(check(with(Lightning{.heads = 1 << 20, .head_dim = 1 << 20})).list(),
              ElementsAre(HasSubstr("more than an array's dimension can be")));
  EXPECT_THAT(check(with(Lightning{.block = 1})).list(),
              ElementsAre("layers.0.mixer.block: expected at least 2 positions, got 1"));
  EXPECT_THAT(check(with(RgLru{.width = 10, .heads = 4, .conv = 1, .act = Act::xielu})).list(),
              ElementsAre("layers.0.mixer.heads: 10 channels are no multiple of 4 heads",
                          "layers.0.mixer.conv: expected at least 2 positions, got 1",
                          HasSubstr("layers.0.mixer.act: a gate has no xielu")));
  EXPECT_THAT(check(with(RwkvTime{.inner = 0})).list(),
              ElementsAre("layers.0.mixer.inner: expected at least 1, got 0"));
  EXPECT_THAT(check(with(RwkvChannel{.hidden = 0})).list(),
              ElementsAre("layers.0.mixer.hidden: expected at least 1, got 0"));
  EXPECT_THAT(check(with(Rwkv7{.rate_rank = 0})).list(),
              ElementsAre("layers.0.mixer.rate_rank: expected at least 1, got 0"));
  EXPECT_THAT(check(with(Rwkv7{.values_from = 0})).list(),
              ElementsAre(HasSubstr("layers.0.mixer.values_from: expected an earlier layer")));
  auto lent = with(Rwkv7{.heads = 2});
  lent.layers[1].mixer = Rwkv7{.heads = 4, .head_dim = 32, .values_from = 0};
  EXPECT_THAT(check(lent).list(), IsEmpty());
  std::get<Rwkv7>(lent.layers[1].mixer).heads = 3;
  EXPECT_THAT(check(lent).list(),
              ElementsAre("layers.1.mixer.values_from: layer 0 has values of another width"));
  EXPECT_THAT(check(with(Mamba3{.heads = 4, .groups = 3, .state = 7, .angles = 4})).list(),
              ElementsAre("layers.0.mixer.groups: 4 heads are no multiple of 3 groups",
                          "layers.0.mixer.angles: expected at most half of the state's 7 numbers, "
                          "got 4"));
  EXPECT_THAT(check(with(Mlstm{.key_dim = 0, .gate_cap = 0, .eps = -1})).list(),
              ElementsAre("layers.0.mixer.key_dim: expected at least 1, got 0",
                          HasSubstr("layers.0.mixer.gate_cap: expected a positive number"),
                          HasSubstr("layers.0.mixer.eps: expected a number of at least 0")));
  EXPECT_THROW(count(with(Lightning{.heads = 1 << 20, .head_dim = 1 << 20})), Error);
  EXPECT_THROW(count(with(Mamba2{.groups = 1 << 30, .state = 1 << 30})), Error);
}

// Each as published; without what the class's defaults say already.
TEST(Recurrent, PublishedModelsHaveTheirParameters) {
  const auto read = [](const char* text) { return from_hf(Json::parse(text), true); };
  const auto gemma = read(R"({"model_type": "recurrent_gemma", "vocab_size": 256000,
    "hidden_size": 2560, "num_hidden_layers": 26, "num_attention_heads": 10, "num_key_value_heads": 1,
    "intermediate_size": 15360, "hidden_activation": "gelu_pytorch_tanh"})");
  EXPECT_EQ(count(gemma.model).total, 2'682'862'080);
  EXPECT_EQ(layer_pattern(gemma.model).letters, "RRWRRWRRWRRWRRWRRWRRWRRWRR");
  EXPECT_EQ(gemma.model.embed_scale, 50.5f);  // sqrt(2560) in bfloat16
  const auto rwkv = read(R"({"model_type": "rwkv", "vocab_size": 50277, "hidden_size": 768,
    "num_hidden_layers": 12, "rescale_every": 6})");
  EXPECT_EQ(count(rwkv.model).total, 169'342'464);
  EXPECT_EQ(rwkv.model.layers.size(), 24u);
  const auto xlstm = read(R"({"model_type": "xlstm", "vocab_size": 50304, "hidden_size": 4096,
    "num_hidden_layers": 32, "num_heads": 8})");
  EXPECT_EQ(count(xlstm.model).total, 6'865'424'896);
  for (const auto& m : {gemma, rwkv, xlstm}) {
    Json written = to_hf(m.model, "bfloat16");
    EXPECT_EQ(hf_form(m.model).model_type, m.form.model_type);
    written.erase("lmxlab");
    EXPECT_TRUE(from_hf(written).model == m.model) << m.form.model_type;
  }
}

// MiniMax's class rounds its decays to the type of the weights.
TEST(Recurrent, DecaysAreRoundedAsTheFileIs) {
  const auto read = [](const std::string& more) {
    const auto text = R"({"model_type": "minimax", "vocab_size": 64, "hidden_size": 64,
      "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
      "intermediate_size": 64)" +
                      more + "}";
    return from_hf(Json::parse(text), true).model;
  };
  const auto mixer = [](const Model& m) { return std::get<Lightning>(m.layers[1].mixer); };
  EXPECT_EQ(mixer(read("")).decays, Decays::exact);
  EXPECT_EQ(mixer(read("")).block, 256);
  EXPECT_EQ(mixer(read(R"(, "torch_dtype": "float32")")).decays, Decays::exact);
  EXPECT_EQ(mixer(read(R"(, "torch_dtype": "float16")")).decays, Decays::float16);
  const auto m = read(R"(, "dtype": "bfloat16", "block_size": 32)");
  EXPECT_EQ(mixer(m).decays, Decays::bfloat16);
  EXPECT_EQ(mixer(m).block, 32);
  EXPECT_EQ(hf_form(m).model_type, "minimax");
  for (const char* type : {"float32", "bfloat16"})  // decays stay those of the file it came from
    EXPECT_TRUE(from_hf(to_hf(m, type)).model == m) << type;
}

TEST(Recurrent, WhatClassesOfRecurrencesCannotSay) {
  const auto type_of = [](const auto& change) {
    auto m = from_hf(Json::parse(R"({"model_type": "xlstm", "vocab_size": 64, "hidden_size": 60,
      "num_hidden_layers": 2, "num_heads": 3, "qk_dim_factor": 0.55, "ffn_proj_factor": 1.31,
      "ffn_round_up_to_multiple_of": 1})"))
                 .model;
    change(m);
    return hf_form(m).model_type;
  };
  EXPECT_EQ(type_of([](Model&) {}), "xlstm");
  EXPECT_EQ(type_of([](Model& m) { m.tie_head = true; }), "lmxlab");
  EXPECT_EQ(type_of([](Model& m) { std::get<Mlstm>(m.layers[1].mixer).gate_cap = 7; }), "lmxlab");
  EXPECT_EQ(type_of([](Model& m) { m.layers[0].mixer = RwkvTime{}; }), "lmxlab");
  for (const char* wrong :
       {R"("weight_mode": "fused")", R"("use_bias": true)", R"("num_heads": 7)"})
    EXPECT_THROW(from_hf(Json::parse(std::string(R"({"model_type": "xlstm", "vocab_size": 64,
      "hidden_size": 64, "num_hidden_layers": 2, )") +
                                     wrong + "}")),
                 Error)
        << wrong;
  EXPECT_THROW(from_hf(Json::parse(R"({"model_type": "recurrent_gemma", "vocab_size": 64,
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "block_types": ["recurrent", "other"]})")),
               Error);
}

}  // namespace
