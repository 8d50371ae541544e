// The properties of checks/ over every family and over every part that a config can name: what is
// listed is tested.
#include "lmxlab/checks/properties.h"
#include "lmxlab/config/presets.h"
#include "tests/support/temp_folder.h"

#include <gtest/gtest.h>

#include <functional>

namespace lmxlab {
namespace {

struct Case {
  std::string name;
  config::Model config;
};
void PrintTo(const Case& c, std::ostream* out) {
  *out << c.name;
}

// Of 32 or 64 columns weights can be packed; of others they cannot.
config::Model small(bool packable) {
  const int dim = packable ? 32 : 24, hidden = packable ? 64 : 40;
  return config::preset(
      "llama-tiny",
      {.depth = 2, .dim = dim, .heads = 4, .kv_heads = 2, .hidden = hidden, .vocab = 61});
}
config::Attention& mixer(config::Model& m, size_t i) {
  return std::get<config::Attention>(m.layers[i].mixer);
}
config::Mlp& ffn(config::Model& m, size_t i) {
  return std::get<config::Mlp>(m.layers[i].ffn);
}

std::vector<Case> cases(bool packable = false) {
  std::vector<Case> out;
  for (const auto& family : config::families()) {
    out.push_back({"tiny_" + family, config::tiny(family, {.dim = 32, .vocab = 71})});
  }
  const auto add = [&](const std::string& name, const std::function<void(config::Model&)>& change) {
    auto m = small(packable);
    change(m);
    out.push_back({name, m});
  };
  const auto every = [](config::Model& m,
                        const std::function<void(config::Attention&, config::Mlp&)>& change) {
    for (size_t i = 0; i < m.layers.size(); ++i) change(mixer(m, i), ffn(m, i));
  };
  for (const auto wiring : {config::Wiring::pre, config::Wiring::post, config::Wiring::branch,
                            config::Wiring::sandwich, config::Wiring::parallel})
    add("wiring_" + enum_name(wiring), [&](auto& m) {
      for (auto& l : m.layers) l.wiring = wiring;
    });
  for (const auto act : {config::Act::silu, config::Act::gelu, config::Act::gelu_tanh,
                         config::Act::relu, config::Act::relu2})
    for (const bool gated : {false, true})
      add(std::string(gated ? "gated_" : "plain_") + enum_name(act),
          [&](auto& m) { every(m, [&](auto&, auto& f) { f.act = act, f.gated = gated; }); });
  add("mha", [&](auto& m) { every(m, [](auto& a, auto&) { a.kv_heads = 4; }); });
  add("mqa", [&](auto& m) { every(m, [](auto& a, auto&) { a.kv_heads = 1; }); });
  add("qk_norm", [&](auto& m) { every(m, [](auto& a, auto&) { a.qk_norm = config::RmsNorm{}; }); });
  add("biases", [&](auto& m) {
    every(m, [](auto& a, auto& f) { a.qkv_bias = a.out_bias = f.bias = true; });
  });
  add("softcap", [&](auto& m) {
    every(m, [](auto& a, auto&) { a.softcap = 3.0f; });
    m.logit_softcap = 2.0f;
  });
  add("window_5", [&](auto& m) { every(m, [](auto& a, auto&) { a.window = 5; }); });
  add("window_1", [&](auto& m) { every(m, [](auto& a, auto&) { a.window = 1; }); });
  add("window_alternating", [&](auto& m) { mixer(m, 0).window = 4; });
  add("window_softcap",
      [&](auto& m) { every(m, [](auto& a, auto&) { a.window = 6, a.softcap = 4.0f; }); });
  add("alibi", [&](auto& m) { every(m, [](auto& a, auto&) { a.position = config::Alibi{}; }); });
  add("alibi_window", [&](auto& m) {
    every(m, [](auto& a, auto&) { a.position = config::Alibi{}, a.window = 7; });
  });
  add("no_position",
      [&](auto& m) { every(m, [](auto& a, auto&) { a.position = config::NoPosition{}; }); });
  add("rope_partial",
      [&](auto& m) { every(m, [](auto& a, auto&) { a.position = config::Rope{.dims = 4}; }); });
  add("rope_interleaved", [&](auto& m) {
    every(m, [](auto& a, auto&) { a.position = config::Rope{.interleaved = true, .scale = 0.5f}; });
  });
  add("sinusoidal", [&](auto& m) {
    m.position = config::Sinusoidal{};
    every(m, [](auto& a, auto&) { a.position = config::NoPosition{}; });
  });
  add("layer_norm", [&](auto& m) {
    for (auto& l : m.layers) l.norm = config::LayerNorm{};
    m.final_norm = config::LayerNorm{.bias = false};
  });
  add("norm_offset", [&](auto& m) {
    for (auto& l : m.layers) l.norm = config::RmsNorm{.weight_offset = 1};
    m.embed_scale = 4.9f;
  });
  // One such layer and one of attention, so that kinds of cache stand side by side.
  const auto recurrent = [&](const std::string& name, const config::Mixer& of) {
    add(name, [&](auto& m) { m.layers[0].mixer = of; });
    add(name + "_alone", [&](auto& m) {
      for (auto& l : m.layers) l.mixer = of;
    });
  };
  recurrent("mamba2", config::Mamba2{.heads = 4, .head_dim = 8, .groups = 2, .state = 6});
  recurrent("mamba2_no_norm", config::Mamba2{.heads = 3,
                                             .head_dim = 8,
                                             .state = 6,
                                             .conv = 2,
                                             .in_bias = true,
                                             .conv_bias = false,
                                             .out_bias = true,
                                             .norm = false,
                                             .dt_min = 1e-4f});
  for (const auto stored : {config::DeltaProjections::joint, config::DeltaProjections::parts,
                            config::DeltaProjections::separate})
    recurrent("gated_delta_" + enum_name(stored),
              config::GatedDelta{.heads = 4,
                                 .key_heads = 2,
                                 .key_dim = 6,
                                 .value_dim = 8,
                                 .allow_neg_eigval = stored == config::DeltaProjections::separate,
                                 .projections = stored});
  recurrent("short_conv", config::ShortConv{});
  recurrent("short_conv_bias", config::ShortConv{.conv = 2, .bias = true});
  recurrent("kimi_delta", config::KimiDelta{.heads = 3, .head_dim = 6});
  recurrent("kimi_delta_bounded",
            config::KimiDelta{.heads = 2, .head_dim = 8, .low_rank = false, .lower_bound = -4.0f});
  for (const auto norms :
       {config::MambaNorms::none, config::MambaNorms::plain, config::MambaNorms::learned})
    recurrent("mamba_" + enum_name(norms),
              config::Mamba{.inner = 20, .state = 5, .dt_rank = 3, .norms = norms});
  recurrent("lightning", config::Lightning{.heads = 3, .head_dim = 6});
  recurrent(
      "lightning_rounded",
      config::Lightning{.heads = 3, .head_dim = 6, .decays = config::Decays::bfloat16, .block = 4});
  recurrent("rg_lru", config::RgLru{.width = 20, .heads = 4});
  recurrent("rwkv_time", config::RwkvTime{.inner = 20});
  recurrent("rwkv_channel", config::RwkvChannel{.hidden = 20});
  recurrent("rwkv_channel_plain", config::RwkvChannel{.hidden = 20, .gate = false});
  config::Rwkv7 goose{
      .heads = 3, .head_dim = 6, .decay_rank = 4, .rate_rank = 3, .value_rank = 2, .gate_rank = 5};
  recurrent("rwkv7", goose);
  add("rwkv7_values", [&](auto& m) {
    m.layers[0].mixer = goose;
    goose.values_from = 0;
    m.layers[1].mixer = goose;
  });
  recurrent("mamba3",
            config::Mamba3{.heads = 4, .head_dim = 6, .groups = 2, .state = 8, .angles = 3});
  recurrent("mamba3_norm",
            config::Mamba3{.heads = 3, .head_dim = 8, .state = 6, .angles = 3, .norm = true});
  recurrent("mlstm", config::Mlstm{.heads = 3, .key_dim = 4, .value_dim = 6});
  for (const bool queries : {false, true}) {
    config::Mla latent{.heads = 3, .kv_rank = 10, .nope_dim = 6, .rope_dim = 4, .v_dim = 5};
    if (queries) latent.q_rank = 12;
    recurrent(queries ? "mla" : "mla_without_query_latent", latent);
    if (!queries) continue;
    latent.indexer = config::Indexer{.heads = 3, .head_dim = 6, .top_k = 4};
    recurrent("mla_indexer", latent);
    latent.indexer->loss = 0.7f;
    recurrent("mla_indexer_that_learns", latent);
    add("mla_indexer_shared", [&](auto& m) {
      m.layers[0].mixer = latent;
      latent.indexer->shared = true, latent.indexer->loss = 0;
      m.layers[1].mixer = latent;
    });
  }
  config::Nsa sparse{.heads = 4,
                     .kv_heads = 2,
                     .head_dim = 6,
                     .block = 4,
                     .stride = 2,
                     .hidden = 5,
                     .selected_block = 4,
                     .selected = 3,
                     .local = 1,
                     .window = 5};
  recurrent("nsa", sparse);
  sparse.position = config::NoPosition{}, sparse.stride = 4, sparse.selected_block = 8;
  sparse.selected = 1, sparse.first = 0;
  recurrent("nsa_one_block", sparse);
  add("recurrent_window", [&](auto& m) {
    m.layers[0].mixer = config::Mamba2{.heads = 2, .head_dim = 8, .state = 4};
    mixer(m, 1).window = 5;
  });
  add("laurel", [&](auto& m) {
    for (auto& l : m.layers) l.wiring = config::Wiring::sandwich, l.laurel = 6;
  });
  add("layer_scale", [&](auto& m) {
    for (auto& l : m.layers) l.layer_scale = true;
  });
  add("clip", [&](auto& m) { every(m, [](auto& a, auto&) { a.clip = 0.05f; }); });
  add("no_ffn", [&](auto& m) { m.layers[0].ffn = config::Nothing{}; });
  add("no_mixer", [&](auto& m) { m.layers[1].mixer = config::Nothing{}; });
  add("tied", [&](auto& m) { m.tie_head = true; });
  add("head_bias", [&](auto& m) { m.head_bias = true; });
  add("moe", [&](auto& m) { m.layers[1].ffn = config::Moe{.experts = 6, .hidden = 20}; });
  add("moe_widths", [&](auto& m) {
    for (auto& l : m.layers) l.ffn = config::Moe{.experts = 5, .widths = {4, 4, 12, 12, 20}};
  });
  add("moe_sigmoid", [&](auto& m) {
    for (auto& l : m.layers)
      l.ffn = config::Moe{.experts = 8,
                          .top_k = 3,
                          .hidden = 12,
                          .scoring = config::Scoring::sigmoid,
                          .selection_bias = true,
                          .groups = 4,
                          .groups_kept = 2,
                          .normalize = 1,
                          .scale = 2.5f,
                          .shared = 16,
                          .aux_loss = 0.01f,
                          .z_loss = 0.001f,
                          .bias_rate = 0.001f};
  });
  add("dropout", [&](auto& m) { m.dropout = 0.3f; });
  return out;
}

class Family : public testing::TestWithParam<Case> {
 protected:
  // Longer than every window above, and than twice.
  static constexpr int kLength = 17;
  void expect(const checks::Check& c) {
    EXPECT_TRUE(c.ok) << GetParam().name << ", " << c.name << ": " << c.detail;
  }
};

TEST_P(Family, IsCausal) {
  LanguageModel model(GetParam().config, 1);
  expect(checks::causal(model, kLength));
}
TEST_P(Family, CachedEqualsFull) {
  LanguageModel model(GetParam().config, 2);
  expect(checks::cached_equals_full(model, kLength));
}
// Windows and blocks are short above; chunks of scans are of 64.
TEST_P(Family, CachedEqualsFullAtBoundaries) {
  LanguageModel model(GetParam().config, 2);
  expect(checks::cached_at_boundaries(model, 72));
}
TEST_P(Family, JoinedEqualsAlone) {
  LanguageModel model(GetParam().config, 8);
  expect(checks::joined_equals_alone(model, kLength));
}
TEST_P(Family, CacheOperations) {
  LanguageModel model(GetParam().config, 3);
  expect(checks::cache_operations(model, kLength));
}
TEST_P(Family, BatchedEqualsSingle) {
  LanguageModel model(GetParam().config, 4);
  expect(checks::batched_equals_single(model, kLength));
}
TEST_P(Family, PaddingChangesNothing) {
  LanguageModel model(GetParam().config, 5);
  expect(checks::padding_invariance(model, kLength));
}
TEST_P(Family, KeepsTheDtype) {
  expect(checks::dtype_kept(GetParam().config));
}
TEST_P(Family, ParametersAreCounted) {
  LanguageModel model(GetParam().config, 6);
  expect(checks::parameters_counted(model));
}
TEST_P(Family, SavesAndLoads) {
  const test::TemporaryFolder folder;
  LanguageModel model(GetParam().config, 7);
  expect(checks::save_load(model, folder.path()));
}
TEST_P(Family, GradientsAreDerivatives) {
  expect(checks::gradients(GetParam().config, 9));
}
TEST_P(Family, GradientsReachEveryParameter) {
  expect(checks::gradients_reach(GetParam().config, 9));
}
TEST_P(Family, RecomputedEqualsKept) {
  expect(checks::recomputed_equals_kept(GetParam().config, 9));
}
TEST_P(Family, CompiledEqualsEager) {
  expect(checks::compiled_equals_eager(GetParam().config, 9, 5));
}

class Packable : public testing::TestWithParam<Case> {};

TEST_P(Packable, QuantizedStaysClose) {
  LanguageModel model(GetParam().config, 9);
  const auto c = checks::quantized_close(model, 17);
  EXPECT_TRUE(c.ok) << GetParam().name << ": " << c.detail;
  EXPECT_NE(c.detail.find("4 bits"), std::string::npos) << c.detail;
}

const auto name_of = [](const auto& tested) {
  std::string name = tested.param.name;
  for (auto& c : name)
    if (c == '-') c = '_';
  return name;
};
INSTANTIATE_TEST_SUITE_P(All, Family, testing::ValuesIn(cases()), name_of);
INSTANTIATE_TEST_SUITE_P(All, Packable, testing::ValuesIn(cases(true)), name_of);

}  // namespace
}  // namespace lmxlab
