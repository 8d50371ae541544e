#include "lmxlab/config/presets.h"
#include "lmxlab/base/text.h"
#include "lmxlab/config/count.h"
#include "lmxlab/config/custom.h"
#include "lmxlab/config/describe.h"
#include "lmxlab/config/validate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

using namespace lmxlab;
using namespace lmxlab::config;
using testing::ElementsAre;
using testing::HasSubstr;

namespace {

int64_t total(std::string_view name, const Sizes& sizes = {}) {
  return count(preset(name, sizes)).total;
}
const Attention& attention(const Model& m, size_t layer = 0) {
  return std::get<Attention>(m.layers.at(layer).mixer);
}
const Mlp& mlp(const Model& m, size_t layer = 0) {
  return std::get<Mlp>(m.layers.at(layer).ffn);
}
template <class F>
std::pair<Kind, std::string> failure(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    return {e.kind(), e.what()};
  }
  ADD_FAILURE() << "no error";
  return {Kind::internal, ""};
}

TEST(Presets, PublishedCounts) {
  EXPECT_EQ(total("gpt-small"), 124'439'808);
  EXPECT_EQ(total("gpt-medium"), 354'823'168);
  EXPECT_EQ(total("llama-7b"), 6'738'415'616);
  EXPECT_EQ(total("llama-13b"), 13'015'864'320);
  EXPECT_EQ(total("smollm2-135m"), 134'515'008);
  // lmxlab's own Llama form has no biases, so its published totals are ours.
  EXPECT_EQ(total("llama-tiny"), 106'816);
  EXPECT_EQ(total("llama-10m"), 9'877'248);
  EXPECT_EQ(total("llama-30m"), 30'569'984);
}

TEST(Presets, GptFormCountsByFormula) {
  struct Row {
    const char* name;
    int64_t V, D, L, F, T;
  };
  for (const Row& r :
       {Row{"gpt-tiny", 256, 64, 2, 128, 128}, Row{"gpt-10m", 50257, 128, 16, 512, 512},
        Row{"gpt-30m", 50257, 256, 22, 1024, 512}}) {
    const int64_t layer = 4 * r.D * r.D + 4 * r.D + 2 * r.D * r.F + r.F + r.D + 4 * r.D;
    EXPECT_EQ(total(r.name), (r.V + r.T) * r.D + r.L * layer + 2 * r.D) << r.name;
  }
  // Two embeddings, six blocks of two LayerNorms and four projections without biases, a LayerNorm
  // and a head.
  EXPECT_EQ(total("gpt-shakespeare"),
            65 * 384 + 256 * 384 + 6 * (4 * 384 + 12 * 384 * 384) + 2 * 384 + 384 * 65);
  EXPECT_EQ(total("gpt-shakespeare-small"),
            65 * 128 + 64 * 128 + 4 * (4 * 128 + 12 * 128 * 128) + 2 * 128 + 128 * 65);
}

TEST(Presets, ShakespeareForm) {
  const Model m = preset("gpt-shakespeare");
  EXPECT_FALSE(m.tie_head);
  EXPECT_EQ(m.dropout, 0);
  EXPECT_EQ(mlp(m).act, Act::gelu);
  EXPECT_FALSE(mlp(m).bias || mlp(m).gated || attention(m).qkv_bias || attention(m).out_bias);
  EXPECT_TRUE(std::get<LayerNorm>(m.final_norm).bias);
  EXPECT_EQ(std::get<Learned>(m.position).length, 256);
  const Model small = preset("gpt-shakespeare-small");
  EXPECT_EQ(resize(m, {.depth = 4, .dim = 128, .heads = 4, .context = 64}), small);
}

TEST(Presets, EachIsValidCountsDescribesAndSurvivesJsonAndToml) {
  ASSERT_FALSE(presets().empty());
  for (const auto& p : presets()) {
    SCOPED_TRACE(p.name);
    const Model m = preset(p.name);
    EXPECT_EQ(m.family, p.family);
    EXPECT_TRUE(check(m).empty());
    EXPECT_EQ(from_json<Model>(Json::parse(to_json(m).dump()), "m"), m);
    EXPECT_EQ(from_json<Model>(parse_toml(dump_toml(to_json(m))), "m"), m);
    const Count n = count(m);
    int64_t layers = 0;
    for (const auto& l : n.layers) layers += l.total();
    int64_t final_norm = norm_parameters(m.final_norm, m.dim);
    if (!m.layer_inputs && !m.embed_norm && m.shared_blocks.empty()) {
      EXPECT_EQ(n.total, n.embedding + n.position + n.head + layers + final_norm);
    }
    EXPECT_EQ(n.total, n.embedding + n.position + n.head + n.mixer + n.ffn + n.norm);
    const std::string text = describe(m);
    EXPECT_THAT(text, HasSubstr(with_commas(n.total)));
    for (const auto& line : split(text, '\n')) EXPECT_LE(line.size(), 80u) << line;
  }
  EXPECT_THAT(families(), testing::IsSupersetOf({"gpt", "llama", "qwen3", "mamba2", "grok"}));
}

TEST(Presets, UnknownNameNamesTheNearest) {
  const auto [kind, text] = failure([] { preset("lama-7b"); });
  EXPECT_EQ(kind, Kind::not_found);
  EXPECT_THAT(text, HasSubstr("did you mean \"llama-7b\"?"));
  EXPECT_THAT(failure([] { preset("something-else-entirely"); }).second,
              HasSubstr("known: gpt-tiny"));
  EXPECT_EQ(failure([] { preset(""); }).first, Kind::not_found);
}

TEST(Sizes, TheSameSmaller) {
  const Model m = preset("llama-7b", {.depth = 3, .dim = 1024, .vocab = 1000, .context = 99});
  EXPECT_EQ(m.layers.size(), 3u);
  EXPECT_EQ(attention(m).heads, 32);
  EXPECT_EQ(attention(m).head_dim, 32);
  EXPECT_EQ(attention(m).kv_heads, 32);
  EXPECT_EQ(mlp(m).hidden, 2816);  // 8/3 * 1024 = 2730.7, rounded up to 256
  EXPECT_EQ(m.vocab, 1000);
  EXPECT_EQ(m.context, 99);

  const Model g = preset("gpt-tiny", {.dim = 96, .context = 32});
  EXPECT_EQ(mlp(g).hidden, 384);
  EXPECT_EQ(attention(g).head_dim, 48);
  EXPECT_EQ(std::get<Learned>(g.position).length, 32);
  EXPECT_EQ(mlp(preset("gpt-tiny", {.hidden = 100})).hidden, 100);
  EXPECT_EQ(preset("gpt-tiny", {}), preset("gpt-tiny"));
  EXPECT_EQ(mlp(preset("gpt-tiny", {.dim = 64})).hidden, 128) << "the same width changes nothing";
}

TEST(Sizes, RowOfOnePresetGivesAnother) {
  const Sizes medium = sizes_of(preset("gpt-medium"));
  EXPECT_EQ(*medium.depth, 24);
  EXPECT_EQ(*medium.hidden, 4096);
  EXPECT_EQ(preset("gpt-small", medium), preset("gpt-medium"));
  EXPECT_EQ(preset("llama-7b", sizes_of(preset("llama-13b"))), preset("llama-13b"));
}

TEST(Sizes, HeadsFollow) {
  const auto a = attention(preset("llama-10m", {.heads = 8}));
  EXPECT_EQ(a.heads, 8);
  EXPECT_EQ(a.kv_heads, 4);
  EXPECT_EQ(a.head_dim, 16);
  const auto b = attention(preset("gpt-small", {.head_dim = 32}));
  EXPECT_EQ(b.heads, 24);
  EXPECT_EQ(b.kv_heads, 24);
  const auto c = attention(preset("llama-10m", {.heads = 8, .kv_heads = 1}));
  EXPECT_EQ(c.kv_heads, 1);
  const auto d = attention(preset("gpt-small", {.dim = 512, .heads = 8, .head_dim = 64}));
  EXPECT_EQ(d.head_dim, 64);
}

TEST(Sizes, ContradictionsAreNamed) {
  const auto [kind, text] = failure([] { preset("gpt-small", {.dim = 100}); });
  EXPECT_EQ(kind, Kind::usage);
  EXPECT_THAT(text, HasSubstr("dim: 100 is not a multiple of 12 heads"));
  EXPECT_THAT(text, HasSubstr("gpt-small"));
  EXPECT_THAT(failure([] { preset("gpt-small", {.dim = 512, .heads = 8, .head_dim = 32}); }).second,
              HasSubstr("512 is not 8 heads of 32"));
  EXPECT_THAT(failure([] { preset("gpt-small", {.head_dim = 100}); }).second,
              HasSubstr("multiple of head_dim 100"));
  EXPECT_THAT(failure([] { preset("llama-10m", {.heads = 1}); }).second,
              HasSubstr("give kv_heads"));
  EXPECT_THAT(
      failure([] { preset("llama-10m", {.kv_heads = 3}); }).second,
      HasSubstr("layers.0-13.mixer.kv_heads: 4 heads are no multiple of 3 key/value heads"));
  const auto all = failure([] { preset("gpt-small", {.depth = 0, .dim = -1, .vocab = 0}); }).second;
  EXPECT_THAT(all, HasSubstr("3 problems"));
  EXPECT_EQ(failure([] { preset("gpt-small", {.depth = 2'000'000'000}); }).first, Kind::usage);
  const Model vast = preset("gpt-small", {.dim = 2'147'483'640});
  EXPECT_EQ(mlp(vast).hidden, std::numeric_limits<int>::max());
  EXPECT_EQ(failure([&] { count(vast); }).first, Kind::usage)
      << "more parameters than 64 bits count";
  EXPECT_EQ(failure([] { gpt({.dim = 10, .heads = 3}); }).first, Kind::usage);
  EXPECT_EQ(failure([] { gpt({.heads = 0}); }).first, Kind::usage);
  EXPECT_EQ(failure([] { gpt({.depth = 0}); }).first, Kind::usage);
  EXPECT_EQ(failure([] { llama({.heads = -4}); }).first, Kind::usage);
}

TEST(Sizes, PatternOfLayersRepeats) {
  Model m = preset("llama-tiny", {.depth = 3});
  std::get<Attention>(m.layers[0].mixer).window = 8;
  std::get<Attention>(m.layers[1].mixer).window = 8;
  const Model longer = resize(m, {.depth = 7});
  std::vector<bool> windows;
  for (size_t i = 0; i < 7; ++i) windows.push_back(attention(longer, i).window.has_value());
  EXPECT_THAT(windows, ElementsAre(true, true, false, true, true, false, true));
  m.layers[2].mixer = Nothing{};
  EXPECT_EQ(resize(m, {.heads = 2, .kv_heads = 1}).layers.size(), 3u);
  std::get<Mlp>(m.layers[1].ffn).hidden = 64;
  EXPECT_FALSE(sizes_of(m).hidden);
  EXPECT_EQ(sizes_of(m).heads, 4);
  m.family = "custom";  // no rule of a family: the ratio stays
  EXPECT_EQ(mlp(resize(m, {.dim = 32}), 1).hidden, 32);
}

TEST(Count, PartsByHand) {
  Model m{.dim = 8,
          .vocab = 10,
          .context = 4,
          .position = Learned{5},
          .tie_head = false,
          .head_bias = true};
  Attention a{.heads = 4, .kv_heads = 2, .head_dim = 6, .qk_norm = RmsNorm{}, .qkv_bias = true};
  m.layers = {Block{.mixer = a,
                    .ffn = Mlp{.hidden = 7, .bias = true},
                    .norm = LayerNorm{.bias = false},
                    .wiring = Wiring::sandwich},
              Block{.mixer = Nothing{}, .ffn = Mlp{.hidden = 3, .gated = false}}};
  const Count n = count(m);
  EXPECT_EQ(n.layers[0].mixer, (8 * 24 + 24) + 2 * (8 * 12 + 12) + 24 * 8 + 2 * 6);
  EXPECT_EQ(n.layers[0].ffn, 2 * (8 * 7 + 7) + 7 * 8 + 8);
  EXPECT_EQ(n.layers[0].norm, 4 * 8);
  EXPECT_EQ(n.layers[1].mixer, 0);
  EXPECT_EQ(n.layers[1].ffn, 48);
  EXPECT_EQ(n.layers[1].norm, 8);
  EXPECT_EQ(n.embedding, 80);
  EXPECT_EQ(n.position, 40);
  EXPECT_EQ(n.head, 90);
  EXPECT_EQ(n.norm, 32 + 8 + 8);
  EXPECT_EQ(n.total, n.embedding + n.position + n.mixer + n.ffn + n.norm + n.head);
}

TEST(Count, NormsOfEachWiring) {
  const auto norms = [](Wiring w, bool mixer, bool ffn) {
    Block b{.wiring = w};
    if (!mixer) b.mixer = Nothing{};
    if (!ffn) b.ffn = Nothing{};
    const auto n = block_norms(b);
    return std::pair(n.mixer, n.ffn);
  };
  for (Wiring w : {Wiring::pre, Wiring::post, Wiring::branch}) {
    EXPECT_EQ(norms(w, true, true), std::pair(1, 1));
    EXPECT_EQ(norms(w, false, true), std::pair(0, 1));
  }
  EXPECT_EQ(norms(Wiring::sandwich, true, true), std::pair(2, 2));
  EXPECT_EQ(norms(Wiring::sandwich, true, false), std::pair(2, 0));
  EXPECT_EQ(norms(Wiring::parallel, true, true), std::pair(1, 0));
}

TEST(Count, FlopsCountEveryKeyAQuerySees) {
  Model m = preset("llama-tiny");
  const auto direct = [](const Model& model, int length) {
    double sum = 2.0 * model.dim * model.vocab * length;
    for (const Block& b : model.layers) {
      const auto& a = std::get<Attention>(b.mixer);
      const double q = a.heads * a.head_dim, kv = a.kv_heads * a.head_dim;
      sum += length *
             (2 * model.dim * (2 * q + 2 * kv) + 6.0 * model.dim * std::get<Mlp>(b.ffn).hidden);
      for (int i = 0; i < length; ++i) sum += 4 * q * std::min(i + 1, a.window.value_or(length));
    }
    return sum / length;
  };
  for (const int length : {1, 2, 7, 64})
    EXPECT_DOUBLE_EQ(flops_per_token(m, length), direct(m, length)) << length;
  std::get<Attention>(m.layers[0].mixer).window = 5;
  for (const int length : {1, 4, 5, 6, 64})
    EXPECT_DOUBLE_EQ(flops_per_token(m, length), direct(m, length)) << length;
}

TEST(Count, CacheBytes) {
  Model m = preset("llama-tiny");  // 2 layers, 2 key/value heads of 16
  EXPECT_EQ(kv_bytes_per_token(m, 2), 2 * 2 * 2 * 16 * 2);
  EXPECT_EQ(kv_bytes(m, 100, 2), 100 * kv_bytes_per_token(m, 2));
  const Model wide = preset("gpt-shakespeare-small");  // 4 layers, 4 heads of 32
  EXPECT_EQ(kv_bytes(wide, 10, 2, 8), 10 * 4 * 2 * 4 * (32 + 2 * 2));
  EXPECT_EQ(kv_bytes(wide, 10, 4, 4), 10 * 4 * 2 * 4 * (16 + 2 * 4));
  std::get<Attention>(m.layers[0].mixer).window = 10;
  EXPECT_EQ(kv_bytes(m, 100, 2), (100 + 10) * 2 * 2 * 16 * 2);
  EXPECT_EQ(kv_bytes(preset("llama-7b"), 1'000'000, 4), int64_t{1'000'000} * 32 * 2 * 4096 * 4);
}

TEST(Custom, RegisteredPartsAreKnownAndCounted) {
  register_custom(Part::mixer, "test-shift", [](const Json& values, int dim) {
    const Json* taps = values.find("taps");
    return (taps ? taps->as_integer() : 1) * dim;
  });
  EXPECT_TRUE(is_registered(Part::mixer, "test-shift"));
  EXPECT_FALSE(is_registered(Part::ffn, "test-shift"));
  Model m = preset("llama-tiny");
  m.layers[1].mixer = Custom{"test-shift", Json::object({{"taps", 3}})};
  EXPECT_TRUE(check(m).empty());
  EXPECT_EQ(count(m).layers[1].mixer, 3 * 64);
  EXPECT_THAT(describe(m), HasSubstr("custom mixer test-shift"));
  EXPECT_EQ(from_json<Model>(Json::parse(to_json(m).dump()), "m"), m);

  m.layers[1].mixer = Custom{"test-shifft"};
  EXPECT_THAT(check(m).list(), ElementsAre("layers.1.mixer: no mixer is registered as "
                                           "\"test-shifft\"; did you mean \"test-shift\"?"));
  EXPECT_EQ(failure([&] { count(m); }).first, Kind::not_found);
  EXPECT_EQ(failure([] {
              register_custom(Part::ffn, "", [](const Json&, int) { return int64_t{0}; });
            }).first,
            Kind::usage);
  EXPECT_EQ(failure([] { register_custom(Part::ffn, "x", nullptr); }).first, Kind::usage);
}

TEST(Describe, EqualLayersAreOneRow) {
  Model m = preset("gpt-small");
  const std::string text = describe(m);
  EXPECT_THAT(text, HasSubstr("\n0-11 "));
  EXPECT_THAT(text, HasSubstr("attention 12 x 64"));
  EXPECT_THAT(text, HasSubstr("124,439,808"));
  std::get<Attention>(m.layers[5].mixer).window = 128;
  const std::string split_up = describe(m);
  for (const char* range : {"\n0-4 ", "\n5 ", "\n6-11 ", "window 128"})
    EXPECT_THAT(split_up, HasSubstr(range));
  m.layers[3].ffn = Custom{"unknown"};
  EXPECT_EQ(failure([&] { describe(m); }).first, Kind::not_found);
}

TEST(Describe, AHybridsPatternIsDrawn) {
  Model m = preset("llama-tiny");
  EXPECT_EQ(mixer_summary(m), "attention");
  EXPECT_EQ(ffn_summary(m), "gated mlp");
  EXPECT_EQ(describe(m).find("pattern"), std::string::npos);
  m.layers.resize(4, m.layers[0]);
  for (const int i : {0, 1, 2}) m.layers[i].mixer = GatedDelta{.heads = 4, .key_heads = 2};
  std::get<Attention>(m.layers[3].mixer).window = 8;
  m.layers[3].ffn = Moe{.experts = 8, .top_k = 2};
  EXPECT_EQ(layer_pattern(m).letters, "DDDW");
  EXPECT_EQ(layer_pattern(m).legend, "D gated_delta, W attention in a window");
  EXPECT_EQ(mixer_summary(m), "3 gated_delta, 1 attention in a window");
  EXPECT_EQ(ffn_summary(m), "2/8 experts");
  EXPECT_THAT(describe(m), HasSubstr("pattern     DDDW\n"));
}

TEST(Describe, StaysInEightyColumnsWhateverIsSet) {
  register_custom(Part::norm, std::string(90, 'n'), [](const Json&, int) { return int64_t{1}; });
  Model m = preset("llama-13b");
  Attention a{.heads = 40,
              .kv_heads = 10,
              .head_dim = 128,
              .position = Rope{.theta = 1234567, .dims = 64, .interleaved = true, .scale = 0.125f},
              .window = 4096,
              .qk_norm = RmsNorm{.weight_offset = 1},
              .qkv_bias = true,
              .scale = 0.0883883f,
              .softcap = 50.f};
  m.layers[7].mixer = a;
  m.layers[7].norm = Custom{std::string(90, 'n')};
  m.family = std::string(200, 'f');
  const auto text = describe(m);
  for (const auto& line : split(text, '\n')) EXPECT_LE(line.size(), 80u) << line;
  EXPECT_THAT(text, HasSubstr("softcap 50"));
}

}  // namespace
