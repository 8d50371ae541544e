// Gemma.
#include "lmxlab/config/hf/shared.h"

namespace lmxlab::config {
namespace {

void gemma_sizes(Keys& k, Decoder& d) {
  if (k.reading()) d.context = 8192, d.act = Act::gelu_tanh, d.tie = true, d.head_dim = 256;
  sizes(k, d);
  k(d.eps, {"rms_norm_eps"});
  k(d.attention_bias, {"attention_bias"});
  k.only("use_bidirectional_attention", false, "attention to later tokens is not supported");
}
Block gemma_block(const Decoder& d) {
  Block b = llama_block(d);
  b.norm = RmsNorm{.eps = d.eps, .weight_offset = 1};
  return b;
}
Model gemma_assemble(const Decoder& d, const char* family, const Block& b) {
  Model m = assemble(d, family, b);
  m.embed_scale = std::sqrt(static_cast<float>(d.dim));
  return m;
}

void gemma_keys(Keys& k, Decoder& d) {
  gemma_sizes(k, d);
  k.act(d.act, {"hidden_act"});
  if (d.act == Act::gelu) d.act = Act::gelu_tanh;  // what early files mean by "gelu"
  if (k.reading()) k.act(d.act, {"hidden_activation"});
  k.rope(d);
}
Model gemma_model(const Decoder& d) {
  return gemma_assemble(d, "gemma", gemma_block(d));
}

/// Scores are divided by the root of query_pre_attn_scalar, an integer.
void gemma_scores(Keys& k, Decoder& d) {
  k.act(d.act, {"hidden_activation"});
  k.skip({"hidden_act"});
  int scalar = 256;
  if (!k.reading()) {
    const float s = d.score_scale.value_or(1 / std::sqrt(static_cast<float>(d.head_dim)));
    scalar = static_cast<int>(std::lround(1 / (s * s)));
  }
  k(scalar, {"query_pre_attn_scalar"});
  if (k.reading()) {
    if (scalar < 1) k.wrong("query_pre_attn_scalar: expected at least 1"), scalar = 256;
    d.score_scale = 1 / std::sqrt(static_cast<float>(scalar));
  }
  k(d.score_softcap, {"attn_logit_softcapping"});
  k(d.logit_softcap, {"final_logit_softcapping"});
  k(d.window, {"sliding_window"});
}
void gemma2_keys(Keys& k, Decoder& d) {
  gemma_sizes(k, d);
  if (k.reading()) {
    d.window = 4096;
    if (!k.present("attn_logit_softcapping")) d.score_softcap = 50.f;  // null is none
    if (!k.present("final_logit_softcapping")) d.logit_softcap = 30.f;
  }
  gemma_scores(k, d);
  k.rope(d);
  if (k.reading()) d.sliding = layers_where(d, [](int i) { return i % 2 == 1; });
  k.layer_types(d);
}
Model gemma2_model(const Decoder& d) {
  Block b = gemma_block(d);
  b.wiring = Wiring::sandwich;
  return gemma_assemble(d, "gemma2", b);
}
void gemma3_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.rope.theta = 1'000'000, d.window = 4096;
  gemma_sizes(k, d);
  if (k.reading() && !k.present("max_position_embeddings")) d.context = 131'072;
  gemma_scores(k, d);
  k.rope_by_layer(d);
  if (k.reading()) {
    int pattern = 6;
    k(pattern, {"sliding_window_pattern", "_sliding_window_pattern"});
    if (pattern < 1) k.wrong("sliding_window_pattern: expected at least 1"), pattern = 6;
    d.sliding = layers_where(d, [&](int i) { return i % pattern != 0; });
  }
  k.layer_types(d);
}
Model gemma3_model(const Decoder& d) {
  Block b = gemma_block(d);
  b.wiring = Wiring::sandwich;
  attention_of(b).qk_norm = b.norm;
  return gemma_assemble(d, "gemma3", b);
}

}  // namespace

std::vector<HfClass> gemma_classes() {
  return {
      {"gemma", "GemmaForCausalLM", "gemma", gemma_keys, gemma_model},
      {"gemma2", "Gemma2ForCausalLM", "gemma2", gemma2_keys, gemma2_model},
      {"gemma3_text", "Gemma3ForCausalLM", "gemma3", gemma3_keys, gemma3_model},
  };
}
}  // namespace lmxlab::config
