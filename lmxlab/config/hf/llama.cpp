// Llama and its kin: RMSNorm, rotary positions.
#include "lmxlab/config/hf/shared.h"

namespace lmxlab::config {
void qwen_window(Keys& k, Decoder& d) {
  bool use = d.window.has_value();
  int first = 28;
  k(use, {"use_sliding_window"});
  k(d.window, {"sliding_window"});
  if (k.reading()) {
    k(first, {"max_window_layers"});
    if (!use) d.window.reset();
    if (d.window) d.sliding = layers_where(d, [&](int i) { return i > first; });
    k.only("use_mrope", false, "rotations by three positions are not supported");
  }
  k.layer_types(d);
}
void granite_scales(Keys& k, Decoder& d) {
  float logits = 1 / d.logit_scale,
        score = d.score_scale.value_or(1 / std::sqrt(float(d.head_dim)));
  if (k.reading()) logits = score = 1;
  k(d.embed_scale, {"embedding_multiplier"});
  k(logits, {"logits_scaling"});
  k(d.branch_scale, {"residual_multiplier"});
  k(score, {"attention_multiplier"});
  d.logit_scale = 1 / logits, d.score_scale = score;
}

void pattern_keys(Keys& k, Decoder& d, bool full_rotates) {
  k(d.window, {"sliding_window"});
  if (k.reading()) {
    int pattern = 4;
    if (d.window)
      k.pattern(pattern, {"sliding_window_pattern", "_sliding_window_pattern"});
    else
      pattern = 1, k.skip({"sliding_window_pattern"});
    d.sliding = layers_where(d, [&](int i) { return i % pattern != 0; });
  }
  k.layer_types(d);
  if (k.reading() && !full_rotates && d.window) d.rotated = d.sliding;
}
void no_rope_layers(Keys& k, Decoder& d) {
  std::vector<int> rotated;
  for (size_t i = 0; i < static_cast<size_t>(d.depth); ++i) rotated.push_back(d.rotates(i));
  if (k.reading()) {
    int interval = 4;
    rotated.clear();
    k(interval, {"no_rope_layer_interval"});
    if (interval < 1) k.wrong("no_rope_layer_interval: expected at least 1"), interval = 4;
    for (int i = 1; i <= d.depth; ++i) rotated.push_back(i % interval != 0);
  }
  k(rotated, {"no_rope_layers"});
  if (!k.reading()) return;
  if (rotated.size() < static_cast<size_t>(d.depth))
    k.wrong("no_rope_layers: expected one for each layer"),
        rotated.resize(static_cast<size_t>(d.depth));
  d.rotated.assign(rotated.begin(), rotated.begin() + d.depth);
}

namespace {

void llama_keys(Keys& k, Decoder& d) {
  llama_like(k, d);
  k(d.attention_bias, {"attention_bias"});
  k(d.mlp_bias, {"mlp_bias"});
  k.only("rope_interleaved", false, "pairs of neighbours are not what this class rotates");
}
Model llama_model(const Decoder& d) {
  return assemble(d, "llama", llama_block(d));
}

void mistral_keys(Keys& k, Decoder& d) {
  llama_like(k, d);
  if (k.reading() && !k.present("sliding_window")) d.window = 4096;  // and null is none
  k(d.window, {"sliding_window"});
}
Model mistral_model(const Decoder& d) {
  return assemble(d, "mistral", llama_block(d));
}

void qwen2_keys(Keys& k, Decoder& d) {
  llama_like(k, d);
  qwen_window(k, d);
}
Model qwen2_model(const Decoder& d) {
  Block b = llama_block(d);
  attention_of(b).qkv_bias = true, attention_of(b).out_bias = false;
  return assemble(d, "qwen2", b);
}
void qwen3_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.head_dim = 128;
  llama_like(k, d);
  k(d.attention_bias, {"attention_bias"});
  qwen_window(k, d);
}
Model qwen3_model(const Decoder& d) {
  Block b = llama_block(d);
  attention_of(b).qk_norm = RmsNorm{.eps = d.eps};
  return assemble(d, "qwen3", b);
}

void smollm3_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.rope.theta = 2'000'000, d.tie = true;
  llama_like(k, d);
  k(d.attention_bias, {"attention_bias"});
  k(d.mlp_bias, {"mlp_bias"});
  no_rope_layers(k, d);
  bool use = d.window.has_value();
  k(use, {"use_sliding_window"});
  k(d.window, {"sliding_window"});
  if (k.reading()) {
    if (!use) d.window.reset();
    if (d.window)
      d.sliding = layers_where(d, [&](int i) { return !d.rotates(static_cast<size_t>(i - 1)); });
  }
  k.layer_types(d);
}
Model smollm3_model(const Decoder& d) {
  return assemble(d, "smollm3", llama_block(d));
}

void olmo2_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.eps = 1e-5f;
  llama_like(k, d);
  k(d.attention_bias, {"attention_bias"});
}
Model olmo2_model(const Decoder& d) {
  Block b = llama_block(d);
  b.wiring = Wiring::branch;
  attention_of(b).qk_norm = b.norm, attention_of(b).qk_norm_joint = true;
  return assemble(d, "olmo2", b);
}

void phi3_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.eps = 1e-5f, d.context = 4096;
  llama_like(k, d, {.share = 1.f});
  k(d.window, {"sliding_window"});
  k(d.dropout, {"resid_pdrop"});
  k.constant("embd_pdrop", d.dropout);
  if (const auto* l = std::get_if<LongRope>(&d.rope.scaling))
    k.constant("original_max_position_embeddings", l->original);
  else
    k.skip({"original_max_position_embeddings"});
}
Model phi3_model(const Decoder& d) {
  return assemble(d, "phi3", llama_block(d));
}

// ---- one line or two from Llama ----

/// Of the classes that rotate pairs of neighbours.
Block interleaved_block(const Decoder& d) {
  Block b = llama_block(d);
  if (auto* r = std::get_if<Rope>(&attention_of(b).position)) r->interleaved = true;
  return b;
}
void with_biases(Keys& k, Decoder& d) {
  llama_like(k, d);
  k(d.attention_bias, {"attention_bias"});
  k(d.mlp_bias, {"mlp_bias"});
}

void arcee_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.act = Act::relu2, d.eps = 1e-5f, d.context = 4096;
  with_biases(k, d);
}
Model arcee_model(const Decoder& d) {
  Block b = llama_block(d);
  mlp_of(b).gated = false;
  return assemble(d, "arcee", b);
}

void apertus_keys(Keys& k, Decoder& d) {
  if (k.reading()) {
    d.act = Act::xielu, d.eps = 1e-5f, d.context = 65'536;
    if (!k.present("rope_parameters") && !k.present("rope_theta") && !k.present("rope_scaling"))
      d.rope.theta = 12'000'000, d.rope.scaling = Llama3Scaling{.factor = 8, .original = 8192};
  }
  llama_like(k, d);
  k(d.attention_bias, {"attention_bias"});
  k.skip({"post_norm", "qk_norm", "mlp_bias"});
}
Model apertus_model(const Decoder& d) {
  Block b = llama_block(d);
  mlp_of(b).gated = false;
  attention_of(b).qk_norm = b.norm;
  return assemble(d, "apertus", b);
}

void ernie_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.eps = 1e-5f, d.tie = true, d.rope.theta = 500'000;
  llama_like(k, d);
  k(d.attention_bias, {"use_bias"});
  d.mlp_bias = d.attention_bias;
}
Model ernie_model(const Decoder& d) {
  return assemble(d, "ernie4_5", interleaved_block(d));
}

void exaone4_keys(Keys& k, Decoder& d) {
  if (k.reading()) {
    d.eps = 1e-5f;
    if (!k.present("sliding_window")) d.window = 4096;
  }
  llama_like(k, d);
  pattern_keys(k, d, false);
}
Model exaone4_model(const Decoder& d) {
  Block b = llama_block(d);
  b.wiring = Wiring::branch;
  attention_of(b).qk_norm = b.norm;
  return assemble(d, "exaone4", b);
}

void glm_keys(Keys& k, Decoder& d) {
  if (k.reading())
    d.eps = 1.5625e-7f, d.attention_bias = true, d.context = 131'072, d.head_dim = 128;
  llama_like(k, d, {.share = 0.5f});
  k(d.attention_bias, {"attention_bias"});
}
Block glm_block(const Decoder& d) {
  Block b = interleaved_block(d);
  attention_of(b).out_bias = false;
  return b;
}
Model glm_model(const Decoder& d) {
  return assemble(d, "glm", glm_block(d));
}
Model glm4_model(const Decoder& d) {
  Block b = glm_block(d);
  b.wiring = Wiring::sandwich;
  return assemble(d, "glm4", b);
}

void granite_keys(Keys& k, Decoder& d) {
  with_biases(k, d);
  granite_scales(k, d);
}
Model granite_model(const Decoder& d) {
  return assemble(d, "granite", llama_block(d));
}

void helium_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.eps = 1e-8f, d.rope.theta = 100'000, d.context = 4096;
  with_biases(k, d);
}
Model helium_model(const Decoder& d) {
  Block b = interleaved_block(d);
  attention_of(b).out_bias = false;
  return assemble(d, "helium", b);
}

void hunyuan_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.eps = 1e-5f;
  llama_like(k, d);
  k(d.attention_bias, {"attention_bias"});
  k.skip({"use_qk_norm", "eod_token_id"});
}
Model hunyuan_model(const Decoder& d) {
  Block b = llama_block(d);
  attention_of(b).qk_norm = b.norm, attention_of(b).qk_norm_late = true;
  return assemble(d, "hunyuan_v1_dense", b);
}

void internlm3_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.eps = 1e-5f;
  llama_like(k, d);
  k(d.attention_bias, {"attention_bias", "qkv_bias"});
  k(d.mlp_bias, {"mlp_bias", "bias"});
}
Model internlm3_model(const Decoder& d) {
  return assemble(d, "internlm3", llama_block(d));
}

void ministral_keys(Keys& k, Decoder& d) {
  mistral_keys(k, d);
  k.layer_types(d);
}
Model ministral_model(const Decoder& d) {
  return assemble(d, "ministral", llama_block(d));
}
void ministral3_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.eps = 1e-5f;
  llama_like(k, d);
  k(d.window, {"sliding_window"});
}
Model ministral3_model(const Decoder& d) {
  return assemble(d, "ministral3", llama_block(d));
}

void nanochat_keys(Keys& k, Decoder& d) {
  if (k.reading()) {
    d.act = Act::relu2;
    if (!k.present("final_logit_softcapping")) d.logit_softcap = 15.f;  // null is none
  }
  llama_like(k, d);
  k(d.attention_bias, {"attention_bias"});
  k(d.logit_softcap, {"final_logit_softcapping"});
}
Model nanochat_model(const Decoder& d) {
  Block b = llama_block(d);
  b.norm = RmsNorm{.eps = d.eps, .weight = false};
  mlp_of(b).gated = false;
  auto& a = attention_of(b);
  a.qk_norm = b.norm, a.qk_norm_late = true;
  if (auto* r = std::get_if<Rope>(&a.position)) r->scale = -1;
  Model m = assemble(d, "nanochat", b);
  m.embed_norm = b.norm;
  return m;
}

void olmo_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.eps = 1e-5f;
  sizes(k, d);
  k.act(d.act, {"hidden_act"});
  k.rope(d);
  k(d.attention_bias, {"attention_bias"});
  k(d.clip, {"clip_qkv"});
}
Model olmo_model(const Decoder& d) {
  Block b = llama_block(d);
  b.norm = LayerNorm{.eps = 1e-5f, .bias = false, .weight = false};
  return assemble(d, "olmo", b);
}

void olmo3_keys(Keys& k, Decoder& d) {
  if (k.reading() && !k.present("sliding_window")) d.window = 4096;
  olmo2_keys(k, d);
  pattern_keys(k, d, true);
  if (k.reading()) d.local_rope = Rope{.theta = d.rope.theta};
}
Model olmo3_model(const Decoder& d) {
  Model m = olmo2_model(d);
  m.family = "olmo3";
  return m;
}

void seed_oss_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.qkv_bias = true, d.head_dim = 128;
  llama_like(k, d);
  k(d.qkv_bias, {"attention_bias"});
  k(d.out_bias, {"attention_out_bias"});
  k(d.mlp_bias, {"mlp_bias"});
  k(d.dropout, {"residual_dropout"});
}
Model seed_oss_model(const Decoder& d) {
  Block b = llama_block(d);
  attention_of(b).qkv_bias = d.qkv_bias, attention_of(b).out_bias = d.out_bias;
  return assemble(d, "seed_oss", b);
}

void bitnet_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.act = Act::relu2, d.eps = 1e-5f;
  llama_like(k, d);
  k(d.attention_bias, {"attention_bias"});
}
Model bitnet_model(const Decoder& d) {
  Block b = llama_block(d);
  attention_of(b).out_norm = b.norm, mlp_of(b).norm = b.norm;
  return assemble(d, "bitnet", b);
}

}  // namespace

std::vector<HfClass> llama_classes() {
  return {
      {"llama", "LlamaForCausalLM", "llama", llama_keys, llama_model},
      {"mistral", "MistralForCausalLM", "mistral", mistral_keys, mistral_model},
      {"qwen2", "Qwen2ForCausalLM", "qwen2", qwen2_keys, qwen2_model},
      {"qwen3", "Qwen3ForCausalLM", "qwen3", qwen3_keys, qwen3_model},
      {"smollm3", "SmolLM3ForCausalLM", "smollm3", smollm3_keys, smollm3_model},
      {"olmo2", "Olmo2ForCausalLM", "olmo2", olmo2_keys, olmo2_model},
      {"phi3", "Phi3ForCausalLM", "phi3", phi3_keys, phi3_model},
      {"arcee", "ArceeForCausalLM", "arcee", arcee_keys, arcee_model},
      {"apertus", "ApertusForCausalLM", "apertus", apertus_keys, apertus_model},
      {"ernie4_5", "Ernie4_5ForCausalLM", "ernie4_5", ernie_keys, ernie_model},
      {"exaone4", "Exaone4ForCausalLM", "exaone4", exaone4_keys, exaone4_model},
      {"glm", "GlmForCausalLM", "glm", glm_keys, glm_model},
      {"glm4", "Glm4ForCausalLM", "glm4", glm_keys, glm4_model},
      {"granite", "GraniteForCausalLM", "granite", granite_keys, granite_model},
      {"helium", "HeliumForCausalLM", "helium", helium_keys, helium_model},
      {"hunyuan_v1_dense", "HunYuanDenseV1ForCausalLM", "hunyuan_v1_dense", hunyuan_keys,
       hunyuan_model},
      {"internlm3", "InternLM3ForCausalLM", "internlm3", internlm3_keys, internlm3_model},
      {"ministral", "MinistralForCausalLM", "ministral", ministral_keys, ministral_model},
      {"ministral3", "Ministral3ForCausalLM", "ministral3", ministral3_keys, ministral3_model},
      {"nanochat", "NanoChatForCausalLM", "nanochat", nanochat_keys, nanochat_model},
      {"olmo", "OlmoForCausalLM", "olmo", olmo_keys, olmo_model},
      {"olmo3", "Olmo3ForCausalLM", "olmo3", olmo3_keys, olmo3_model},
      {"seed_oss", "SeedOssForCausalLM", "seed_oss", seed_oss_keys, seed_oss_model},
      {"bitnet", "BitNetForCausalLM", "bitnet", bitnet_keys, bitnet_model},
  };
}
}  // namespace lmxlab::config
