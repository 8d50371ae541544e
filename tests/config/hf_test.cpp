#include "lmxlab/config/hf.h"
#include "lmxlab/config/count.h"
#include "lmxlab/config/presets.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

using namespace lmxlab;
using namespace lmxlab::config;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

namespace {

Json gpt2_hub() {  // the keys of the published small GPT-2
  return Json::parse(
      R"({"activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1,
    "bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12,
    "n_positions": 1024, "resid_pdrop": 0.1, "summary_type": "cls_index", "vocab_size": 50257})");
}
Json llama_hub() {
  return Json::parse(
      R"({"architectures": ["LlamaForCausalLM"], "bos_token_id": 1, "eos_token_id": 2,
    "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 11008,
    "max_position_embeddings": 2048, "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 32,
    "pad_token_id": 0, "rms_norm_eps": 1e-06, "torch_dtype": "float16", "transformers_version": "4.28.0",
    "use_cache": true, "vocab_size": 32000})");
}
Json without_ours(Json j) {
  j.erase("lmxlab");
  return j;
}
std::pair<Kind, std::string> failure(const Json& config, bool strict = false) {
  try {
    from_hf(config, strict);
  } catch (const Error& e) {
    return {e.kind(), e.what()};
  }
  ADD_FAILURE() << "no error";
  return {Kind::internal, ""};
}

TEST(ToHf, EachPresetRoundTrips) {
  for (const auto& p : presets()) {
    SCOPED_TRACE(p.name);
    const Model m = preset(p.name);
    const Json j = Json::parse(to_hf(m, "bfloat16").dump(2));
    EXPECT_EQ(j.at("torch_dtype").as_string(), "bfloat16");
    const HfForm form = hf_form(m);
    // Grok and half-turned heads of MiniMax have no class, nor has lmxlab's own.
    const bool any = p.name.ends_with("-lmxlab") || p.family == "grok" || p.name.ends_with("-456b");
    if (!any) {
      EXPECT_EQ(form.family, p.family);
    }
    EXPECT_EQ(j.at("architectures").as_array().at(0).as_string(), form.architecture);
    const HfRead read = from_hf(j, true);
    EXPECT_EQ(read.model, m);
    EXPECT_THAT(read.warnings, IsEmpty());

    if (form.model_type == kOwnType) continue;
    // Another program may leave our object out: the same function, but for biases that are zeros
    // then.
    Model plain = from_hf(without_ours(j), true).model;
    EXPECT_EQ(without_ours(to_hf(plain, "bfloat16")), without_ours(j));
    if (!form.zero_biases) {
      if (any) plain.family = m.family;  // another's class may express it
      EXPECT_EQ(plain, m);
    }
  }
}

TEST(ToHf, Gpt2Keys) {
  const Json j = to_hf(preset("gpt-shakespeare"));
  EXPECT_TRUE(hf_form(preset("gpt-shakespeare")).zero_biases);
  EXPECT_FALSE(hf_form(preset("gpt-small")).zero_biases);
  EXPECT_EQ(without_ours(j),
            Json::parse(R"({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2",
    "vocab_size": 65, "n_positions": 256, "n_ctx": 256, "n_embd": 384, "n_layer": 6, "n_head": 6, "n_inner": 1536,
    "activation_function": "gelu", "layer_norm_epsilon": 1e-05, "resid_pdrop": 0.0, "embd_pdrop": 0.0,
    "attn_pdrop": 0.0, "scale_attn_weights": true, "tie_word_embeddings": false, "initializer_range": 0.02,
    "bos_token_id": null, "eos_token_id": null, "pad_token_id": null, "torch_dtype": "float32"})"));
  EXPECT_EQ(j.at("lmxlab").at("version"), Json(1));
  EXPECT_EQ(to_hf(preset("gpt-small")).at("activation_function"), Json("gelu_new"));
}

TEST(ToHf, LlamaVariants) {
  Model m = llama({.depth = 2,
                   .dim = 64,
                   .heads = 4,
                   .kv_heads = 2,
                   .head_dim = 24,
                   .theta = 5e5f,
                   .eps = 1e-5f});
  for (auto& b : m.layers) {
    auto& a = std::get<Attention>(b.mixer);
    std::get<Rope>(a.position).scale = 1 / 3.f;
    a.qkv_bias = true;
    std::get<Mlp>(b.ffn).act = Act::gelu_tanh;
  }
  EXPECT_EQ(hf_form(m).model_type, "qwen2") << "which has no bias of the output projection";
  EXPECT_FALSE(hf_form(m).zero_biases);
  EXPECT_EQ(from_hf(to_hf(m), true).model, m);
  for (auto& b : m.layers) {
    auto& a = std::get<Attention>(b.mixer);
    a.qkv_bias = false, a.out_bias = true;
  }
  EXPECT_EQ(hf_form(m).model_type, "seed_oss") << "which has a switch for each";
  EXPECT_FALSE(hf_form(m).zero_biases);
  const Json j = to_hf(m);
  EXPECT_EQ(j.at("attention_bias"), Json(false));
  EXPECT_EQ(j.at("attention_out_bias"), Json(true));
  EXPECT_EQ(j.at("head_dim"), Json(24));
  EXPECT_EQ(j.at("hidden_act"), Json("gelu_pytorch_tanh"));
  EXPECT_EQ(j.at("rope_scaling").at("rope_type"), Json("linear"));
  EXPECT_EQ(from_hf(Json::parse(j.dump()), true).model, m);
}

TEST(ToHf, WhatNoClassExpresses) {
  const auto check = [](const char* what, auto&& change, const char* base = "llama-tiny") {
    SCOPED_TRACE(what);
    Model m = preset(base);
    change(m);
    EXPECT_EQ(hf_form(m).model_type, "lmxlab");
    const Json j = to_hf(m);
    EXPECT_EQ(j.at("vocab_size"), Json(m.vocab));
    EXPECT_EQ(from_hf(Json::parse(j.dump()), true).model, m);
  };
  const auto attention = [](Model& m) -> Attention& {
    return std::get<Attention>(m.layers[1].mixer);
  };
  check("windows", [&](Model& m) {
    attention(m).window = 8, std::get<Attention>(m.layers[0].mixer).window = 4;
  });
  check("qk_norm", [&](Model& m) {
    for (auto& b : m.layers) std::get<Attention>(b.mixer).qk_norm = LayerNorm{};
  });
  check("interleaved in a layer",
        [&](Model& m) { attention(m).position = Rope{.interleaved = true}; });
  check(
      "alibi",
      [&](Model& m) {
        for (auto& b : m.layers) std::get<Attention>(b.mixer).position = Alibi{};
      },
      "gpt-tiny");
  check("offset", [&](Model& m) {
    for (auto& b : m.layers) b.norm = RmsNorm{.weight_offset = 1};
    m.final_norm = m.layers[0].norm;
  });
  check("wiring", [&](Model& m) {
    for (auto& b : m.layers) b.wiring = Wiring::parallel;
  });
  check("final norm", [&](Model& m) { m.final_norm = RmsNorm{.eps = 0.1f}; });
  check("no mixer", [&](Model& m) { m.layers[0].mixer = Nothing{}; });
  check("not gated in a layer", [&](Model& m) { std::get<Mlp>(m.layers[1].ffn).gated = false; });
  check("softcap", [&](Model& m) { m.logit_softcap = 30.f; });
  check("embed_scale", [&](Model& m) { m.embed_scale = 8; });
  check(
      "head bias", [&](Model& m) { m.tie_head = false, m.head_bias = true; }, "gpt-tiny");
  check(
      "sinusoidal", [&](Model& m) { m.position = Sinusoidal{}; }, "gpt-tiny");
  check(
      "gated gpt",
      [&](Model& m) {
        for (auto& b : m.layers) std::get<Mlp>(b.ffn).gated = true;
      },
      "gpt-tiny");
  check(
      "narrow gpt",
      [&](Model& m) {
        for (auto& b : m.layers) std::get<Attention>(b.mixer).head_dim = 8;
      },
      "gpt-tiny");
}

// A head of one number is in the class's name; of a family without such a class the form is ours.
TEST(ToHf, AScoreIsInTheNameOfTheClass) {
  for (const auto& [name, architecture] :
       std::vector<std::pair<const char*, std::string>>{{"llama-tiny", "Llama"},
                                                        {"gpt-tiny", "GPT2"},
                                                        {"gemma3-tiny", "Gemma3Text"},
                                                        {"mamba-tiny", "Lmxlab"}}) {
    Model m = preset(name);
    m.score = true;
    Json json = to_hf(m);
    const auto written = json.at("architectures").as_array()[0];
    EXPECT_EQ(written, Json(architecture + "ForSequenceClassification"));
    EXPECT_EQ(from_hf(json).model, m) << name;
    Json other = json;
    other["architectures"] = Json::array({Json("LlamaForCausalLM")});
    EXPECT_EQ(failure(other).first, Kind::mismatch);
    if (architecture == "Lmxlab") continue;
    json.erase("lmxlab");
    const auto read = from_hf(json, true);
    EXPECT_TRUE(read.model.score);
    EXPECT_EQ(read.form.architecture, architecture + "ForSequenceClassification");
    json.erase("id2label");
    EXPECT_EQ(failure(json).first, Kind::unsupported) << "transformers' default are two labels";
    json["num_labels"] = Json(1);
    EXPECT_TRUE(from_hf(json, true).model.score);
  }
}

TEST(FromHf, PublishedConfigs) {
  const HfRead g = from_hf(gpt2_hub(), true);
  EXPECT_EQ(count(g.model).total, 124'439'808);
  EXPECT_EQ(g.model.dropout, 0.1f);
  Model expected = preset("gpt-small");
  expected.dropout = 0.1f;
  EXPECT_EQ(g.model, expected);
  EXPECT_EQ(from_hf(llama_hub(), true).model, preset("llama-7b"));
}

TEST(FromHf, OldAndNewSpellings) {
  Json old = llama_hub();
  old["rope_theta"] = 500000.0,
  old["rope_scaling"] = Json::object({{"type", "linear"}, {"factor", 4.0}});
  old["num_key_value_heads"] = 8, old["mlp_bias"] = true, old["attention_bias"] = true;
  Json fresh = llama_hub();
  fresh.erase("torch_dtype");
  fresh["dtype"] = "float16";
  fresh["rope_parameters"] =
      Json::object({{"rope_theta", 500000.0}, {"rope_type", "linear"}, {"factor", 4.0}});
  fresh["num_key_value_heads"] = 8, fresh["mlp_bias"] = true, fresh["attention_bias"] = true;
  const Model m = from_hf(old, true).model;
  EXPECT_EQ(m, from_hf(fresh, true).model);
  const auto& a = std::get<Attention>(m.layers[0].mixer);
  EXPECT_EQ(std::get<Rope>(a.position).theta, 500000.f);
  EXPECT_EQ(std::get<Rope>(a.position).scale, 0.25f);
  EXPECT_EQ(a.kv_heads, 8);
  EXPECT_TRUE(a.qkv_bias && a.out_bias && std::get<Mlp>(m.layers[0].ffn).bias);

  for (const char* none : {"default", "none"}) {
    fresh["rope_parameters"] = Json::object({{"rope_theta", 1e4}, {"rope_type", none}});
    EXPECT_EQ(
        std::get<Rope>(std::get<Attention>(from_hf(fresh, true).model.layers[0].mixer).position)
            .scale,
        1.f);
  }
  old["rope_scaling"] = Json();
  EXPECT_NO_THROW(from_hf(old, true));
}

TEST(FromHf, Gpt2ScalesOfScores) {
  Json j = gpt2_hub();
  j["scale_attn_by_inverse_layer_idx"] = true;
  const Model m = from_hf(j, true).model;
  EXPECT_FLOAT_EQ(*std::get<Attention>(m.layers[0].mixer).scale, 1 / 8.f);
  EXPECT_FLOAT_EQ(*std::get<Attention>(m.layers[3].mixer).scale, 1 / 32.f);
  j["scale_attn_weights"] = false;
  EXPECT_FLOAT_EQ(*std::get<Attention>(from_hf(j, true).model.layers[1].mixer).scale, 0.5f);
  j["add_cross_attention"] = true;
  EXPECT_EQ(failure(j).first, Kind::unsupported);
}

TEST(FromHf, MissingKeysAllAtOnce) {
  const auto [kind, text] =
      failure(Json::parse(R"({"model_type": "llama", "vocab_size": 10, "hidden_size": "x"})"));
  EXPECT_EQ(kind, Kind::bad_data);
  for (const char* key :
       {"num_hidden_layers: missing", "num_attention_heads: missing", "intermediate_size: missing",
        "hidden_size: expected an integer, got \"x\""})
    EXPECT_THAT(text, HasSubstr(key));
  EXPECT_THAT(text, Not(HasSubstr("vocab_size")));
  EXPECT_THAT(failure(Json::parse(R"({"model_type": "gpt2"})")).second, HasSubstr("5 problems"));
}

TEST(FromHf, UnreadKeysWarnOrFail) {
  Json j = llama_hub();
  j["router_jitter_noise"] = 0.1, j["use_mystery"] = true;
  const auto warnings = from_hf(j).warnings;
  ASSERT_EQ(warnings.size(), 2u);
  EXPECT_THAT(warnings[0], HasSubstr("\"router_jitter_noise\""));
  const auto [kind, text] = failure(j, true);
  EXPECT_EQ(kind, Kind::bad_data);
  EXPECT_THAT(text, HasSubstr("use_mystery"));
  Json inner = llama_hub();
  inner["rope_parameters"] =
      Json::object({{"rope_theta", 1e4}, {"rope_type", "default"}, {"twist", 2}});
  EXPECT_THAT(from_hf(inner).warnings, ElementsAre(HasSubstr("rope_parameters.twist")));
  Json saved = to_hf(preset("gpt-tiny"));
  saved["something_new"] = 1;
  EXPECT_THAT(from_hf(saved).warnings, ElementsAre(HasSubstr("something_new")));
}

TEST(FromHf, Unsupported) {
  Json spiral = llama_hub();
  spiral["rope_scaling"] = Json::object({{"rope_type", "spiral"}, {"factor", 8.0}});
  const auto [twisted, why] = failure(spiral);
  EXPECT_EQ(twisted, Kind::unsupported);
  EXPECT_THAT(why, HasSubstr("spiral"));
  Json part = llama_hub();
  part["partial_rotary_factor"] = 0.5;
  EXPECT_EQ(failure(part).first, Kind::unsupported);
  const auto [kind, text] = failure(Json::parse(R"({"model_type": "xyz9"})"));
  EXPECT_EQ(kind, Kind::unsupported);
  EXPECT_THAT(text, HasSubstr("known: llama, mistral"));
  Json act = gpt2_hub();
  act["activation_function"] = "gelu_nw";
  EXPECT_THAT(failure(act).second, HasSubstr("did you mean \"gelu_new\"?"));
}

TEST(FromHf, BothDescriptionsMustAgree) {
  for (const char* name : {"gpt-shakespeare", "llama-tiny"}) {
    const Json good = to_hf(preset(name));
    const bool gpt = good.at("model_type") == Json("gpt2");
    const std::vector<std::pair<const char*, Json>> changes =
        gpt ? std::vector<std::pair<const char*, Json>>{{"n_embd", 390},
                                                        {"activation_function", "gelu_new"},
                                                        {"n_inner", 7},
                                                        {"vocab_size", 66},
                                                        {"n_positions", 512},
                                                        {"tie_word_embeddings", true},
                                                        {"layer_norm_epsilon", 1e-6}}
            : std::vector<std::pair<const char*, Json>>{
                  {"rope_theta", 5e5},      {"num_key_value_heads", 4}, {"rms_norm_eps", 1e-3},
                  {"attention_bias", true}, {"hidden_act", "gelu"},     {"intermediate_size", 256}};
    for (const auto& [key, value] : changes) {
      Json bad = good;
      bad[key] = value;
      const auto [kind, text] = failure(bad);
      EXPECT_EQ(kind, Kind::mismatch) << key;
      EXPECT_THAT(text, HasSubstr(key));
      Json shorter = good;
      shorter["num_layers_of_another_program"] = 1;
      EXPECT_NO_THROW(from_hf(shorter));
    }
  }
  Json scaled = to_hf(preset("gpt-tiny"));
  scaled["scale_attn_by_inverse_layer_idx"] = true;
  EXPECT_EQ(failure(scaled).first, Kind::mismatch);
  Json typed = to_hf(preset("llama-tiny"));
  typed["model_type"] = "gpt2";
  EXPECT_EQ(failure(typed).first, Kind::mismatch);
  Json own = to_hf([] {
    Model m = preset("llama-tiny");
    m.embed_scale = 2;
    return m;
  }());
  own["hidden_size"] = 65;
  EXPECT_EQ(failure(own).first, Kind::mismatch);
}

TEST(FromHf, TransformersMayDropDefaults) {
  Json j = to_hf(preset("gpt-small"));
  for (const char* key :
       {"tie_word_embeddings", "scale_attn_weights", "n_ctx", "layer_norm_epsilon"})
    j.erase(key);
  j["n_inner"] = Json();
  EXPECT_EQ(from_hf(j, true).model, preset("gpt-small"));
}

TEST(FromHf, HostileInput) {
  EXPECT_EQ(failure(Json()).first, Kind::bad_data);
  EXPECT_EQ(failure(Json::parse("[1]")).first, Kind::bad_data);
  EXPECT_EQ(failure(Json::object()).first, Kind::bad_data);
  EXPECT_EQ(failure(Json::parse(R"({"model_type": 3})")).first, Kind::bad_data);
  EXPECT_EQ(failure(Json::parse(R"({"model_type": "lmxlab"})")).first, Kind::bad_data);
  for (const char* ours :
       {"null", "3", "{}", R"({"version": 1})", R"({"version": "1", "config": {}})",
        R"({"version": 0, "config": {}})", R"({"version": 1, "config": []})",
        R"({"version": 1, "config": {}})", R"({"version": 1, "config": {"layers": [1]}})"}) {
    Json j = to_hf(preset("gpt-tiny"));
    j["lmxlab"] = Json::parse(ours);
    EXPECT_EQ(failure(j).first, Kind::bad_data) << ours;
  }
  Json newer = to_hf(preset("gpt-tiny"));
  newer["lmxlab"]["version"] = 2;
  EXPECT_EQ(failure(newer).first, Kind::unsupported);
  // Every key, replaced by every kind of nonsense: an Error or a model, never anything else.
  for (const Json& base :
       {gpt2_hub(), llama_hub(), to_hf(preset("gpt-tiny")), to_hf(preset("llama-tiny"))})
    for (const auto& [key, _] : base.as_object())
      for (const char* nonsense :
           {"null", "true", "-1", "0", "3.5", "1e300", "2147483647", "99999999999999999999",
            "\"x\"", "[]", "{}", "[[[{}]]]", R"({"rope_type": 3})",
            R"({"rope_type": "linear", "factor": 0})"}) {
        Json j = base;
        j[key] = Json::parse(nonsense);
        try {
          from_hf(j, true);
        } catch (const Error& e) {
          EXPECT_NE(e.kind(), Kind::internal) << key << " = " << nonsense << ": " << e.what();
        }
      }
}

}  // namespace
