#include "lmxlab/config/validate.h"
#include "lmxlab/config/presets.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

using namespace lmxlab;
using namespace lmxlab::config;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

namespace {

Model tiny(int depth = 12) {
  return preset("llama-tiny", {.depth = depth});
}
Attention& attention(Model& m, size_t layer) {
  return std::get<Attention>(m.layers.at(layer).mixer);
}
std::vector<std::string> problems(const Model& m) {
  return check(m).list();
}

TEST(Validate, OneLayerAndRunsOfLayers) {
  Model m = tiny();
  attention(m, 3).kv_heads = 3;
  EXPECT_THAT(problems(m),
              ElementsAre("layers.3.mixer.kv_heads: 4 heads are no multiple of 3 key/value heads"));
  for (const size_t i : {0, 2, 4, 5}) attention(m, i).kv_heads = 3;
  EXPECT_THAT(
      problems(m),
      ElementsAre("layers.0,2-5.mixer.kv_heads: 4 heads are no multiple of 3 key/value heads"));
  for (size_t i = 0; i < 12; ++i) attention(m, i).kv_heads = 3;
  EXPECT_THAT(
      problems(m),
      ElementsAre("layers.0-11.mixer.kv_heads: 4 heads are no multiple of 3 key/value heads"));
}

TEST(Validate, EverythingAtOnce) {
  Model m = tiny();
  m.dim = 0, m.vocab = -1, m.context = 0, m.dropout = 1, m.head_bias = true, m.tie_head = true;
  m.logit_softcap = -1.f, m.embed_scale = 0, m.init_std = -1;
  m.position = Learned{0};
  m.final_norm = LayerNorm{.eps = -1};
  attention(m, 0).window = 0;
  attention(m, 0).softcap = 0.f;
  attention(m, 1).scale = std::nanf("");
  std::get<Mlp>(m.layers[2].ffn).hidden = 0;
  const auto list = problems(m);
  for (const char* path :
       {"dim:", "vocab:", "context:", "dropout:", "head_bias:", "logit_softcap:", "embed_scale:",
        "init_std:", "position.length:", "final_norm.eps:", "layers.0.mixer.window:",
        "layers.0.mixer.softcap:", "layers.1.mixer.scale:", "layers.2.ffn.hidden:"})
    EXPECT_THAT(list, Contains(testing::StartsWith(path))) << path;
  EXPECT_EQ(list.size(), 14u);
  try {
    validate(m, Kind::bad_data);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), Kind::bad_data);
    EXPECT_THAT(e.what(), HasSubstr("14 problems"));
  }
  EXPECT_THROW(validate(Model{}), Error) << "a model without layers";
}

TEST(Validate, Rope) {
  Model m = tiny(2);
  const auto with = [&](Rope r, int head_dim) {
    attention(m, 0).position = r, attention(m, 0).head_dim = head_dim;
    return problems(m);
  };
  EXPECT_THAT(with({}, 16), IsEmpty());
  EXPECT_THAT(with({}, 15),
              ElementsAre("layers.0.mixer.head_dim: rotary positions need an even head, got 15"));
  EXPECT_THAT(with({.dims = 8}, 15), IsEmpty());
  EXPECT_THAT(with({.dims = 16}, 16), IsEmpty());
  EXPECT_THAT(with({.dims = 18}, 16),
              ElementsAre(HasSubstr("18 rotated dimensions are more than the head's 16")));
  EXPECT_THAT(with({.dims = 7}, 16), ElementsAre(HasSubstr("even number of dimensions, got 7")));
  EXPECT_THAT(with({.dims = -2}, 16), ElementsAre(HasSubstr("at least 0")));
  EXPECT_THAT(with({.theta = 0}, 16), ElementsAre(HasSubstr("mixer.position.theta")));
  EXPECT_THAT(with({.theta = INFINITY}, 16), ElementsAre(HasSubstr("mixer.position.theta")));
  EXPECT_THAT(with({.scale = 0}, 16), ElementsAre(HasSubstr("mixer.position.scale")));
  attention(m, 0).position = Alibi{}, attention(m, 0).head_dim = 15;
  EXPECT_THAT(problems(m), IsEmpty());
}

TEST(Validate, PositionsOfTheModel) {
  Model m = tiny(1);
  m.context = 100, m.position = Learned{99};
  EXPECT_THAT(
      problems(m),
      ElementsAre("position.length: 99 learned positions are fewer than the context of 100"));
  m.position = Learned{100};
  EXPECT_THAT(problems(m), IsEmpty());
  m.position = Sinusoidal{};
  EXPECT_THAT(problems(m), IsEmpty());
  m.dim = 63;
  EXPECT_THAT(problems(m), ElementsAre("dim: sinusoidal positions need an even width, got 63"));
}

TEST(Validate, WhatIsFine) {
  Model m = tiny(4);
  for (const Act act : {Act::silu, Act::gelu, Act::gelu_tanh, Act::relu, Act::relu2})
    for (const bool gated : {false, true}) {
      m.layers[0].ffn = Mlp{.hidden = 8, .act = act, .gated = gated};
      EXPECT_THAT(problems(m), IsEmpty());
    }
  for (const Wiring w : {Wiring::pre, Wiring::post, Wiring::branch, Wiring::sandwich,
                         Wiring::parallel, Wiring::twin, Wiring::chain}) {
    m.layers[1].wiring = m.layers[2].wiring = w;
    m.layers[1].mixer = Nothing{}, m.layers[2].ffn = Nothing{};
    EXPECT_THAT(problems(m), IsEmpty());
  }
  m.dropout = 0.999f;
  m.tie_head = false, m.head_bias = true;
  attention(m, 3).window = 1;
  attention(m, 3).head_dim = 256;       // heads need not divide the stream
  m.vocab = 2'000'000, m.dim = 65'536;  // more than 2^31 elements, but no dimension is
  EXPECT_THAT(problems(m), IsEmpty());
}

TEST(Validate, DimensionsThatNoArrayHas) {
  Model m = tiny(1);
  attention(m, 0).heads = attention(m, 0).kv_heads = 1 << 20;
  attention(m, 0).head_dim = 1 << 12;
  EXPECT_THAT(problems(m), ElementsAre(HasSubstr("heads * head_dim is 4294967296")));
}

TEST(Validate, DropoutRange) {
  Model m = tiny(1);
  for (const float bad : {-0.1f, 1.f, 2.f, std::numeric_limits<float>::quiet_NaN()}) {
    m.dropout = bad;
    EXPECT_THAT(problems(m), ElementsAre(testing::StartsWith("dropout: "))) << bad;
  }
}

TEST(Validate, UnknownCustomParts) {
  Model m = tiny(2);
  m.layers[0].ffn = Custom{"validate-no-such-ffn"};
  m.layers[1].norm = Custom{"validate-no-such-norm"};
  attention(m, 1).qk_norm = Custom{"validate-no-such-norm"};
  m.final_norm = Custom{"validate-no-such-norm"};
  const auto list = problems(m);
  ASSERT_EQ(list.size(), 4u);
  EXPECT_THAT(list[0], testing::StartsWith("final_norm: no norm is registered as"));
  EXPECT_THAT(list[1], testing::StartsWith("layers.0.ffn: no ffn is registered as"));
  EXPECT_THAT(list[2], testing::StartsWith("layers.1.mixer.qk_norm: no norm"));
}

TEST(ModelFields, ReadsChangesAndReportsPaths) {
  Json j = to_json(tiny(4));
  set_path(j, "layers.*.ffn.act", Json("relu2"));
  set_path(j, "layers.3.mixer.window", Json(512));
  set_path(j, "layers.1.mixer", Json("none"));
  const auto m = from_json<Model>(j, "model");
  EXPECT_EQ(std::get<Mlp>(m.layers[2].ffn).act, Act::relu2);
  EXPECT_EQ(std::get<Attention>(m.layers[3].mixer).window, 512);
  EXPECT_TRUE(std::holds_alternative<Nothing>(m.layers[1].mixer));

  set_path(j, "layers.0.mixer.windw", Json(1));
  set_path(j, "layers.2.ffn.kind", Json("mpl"));
  set_path(j, "dim", Json("wide"));
  try {
    from_json<Model>(j, "model");
    FAIL();
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr("3 problems"));
    EXPECT_THAT(e.what(), HasSubstr("layers.0.mixer.windw: unknown key; did you mean \"window\"?"));
    EXPECT_THAT(e.what(),
                HasSubstr("layers.2.ffn.kind: \"mpl\" is unknown; did you mean \"mlp\"?"));
    EXPECT_THAT(e.what(), HasSubstr("dim: expected an integer, got \"wide\""));
  }
}

}  // namespace
