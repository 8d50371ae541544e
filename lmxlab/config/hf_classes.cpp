#include "lmxlab/config/hf_classes.h"

#include "lmxlab/config/presets/families.h"

#include <algorithm>
#include <cmath>

namespace lmxlab::config {
namespace {

// ---- what classes share ----

void sizes(Keys& k, Decoder& d) {
  k.require(d.vocab, {"vocab_size"});
  k(d.context, {"max_position_embeddings"});
  k.require(d.dim, {"hidden_size"});
  k.depth(d.depth, {"num_hidden_layers"});
  k.require(d.heads, {"num_attention_heads"});
  if (k.reading()) {
    d.kv_heads = d.heads;
    d.head_dim = d.heads > 0 ? d.dim / d.heads : 0;
  }
  k(d.kv_heads, {"num_key_value_heads"});
  k(d.head_dim, {"head_dim"});
  k.require(d.hidden, {"intermediate_size"});
  k(d.tie, {"tie_word_embeddings"});
  k(d.init_std, {"initializer_range"});
}
void llama_like(Keys& k, Decoder& d, bool partial = false) {
  sizes(k, d);
  k.act(d.act, {"hidden_act"});
  k(d.eps, {"rms_norm_eps"});
  k.rope(d, partial);
}

Model assemble(const Decoder& d, const char* family, const Block& block) {
  Model m{.family = family, .dim = d.dim, .vocab = d.vocab, .context = d.context};
  m.tie_head = d.tie, m.dropout = d.dropout, m.init_std = d.init_std;
  m.final_norm = block.norm;
  m.logit_softcap = d.logit_softcap;
  m.layers.assign(static_cast<size_t>(d.depth), block);
  for (size_t i = 0; i < m.layers.size(); ++i) {
    auto& a = std::get<Attention>(m.layers[i].mixer);
    if (!d.rotates(i)) a.position = NoPosition{};
    if (!d.slides(i)) continue;
    a.window = d.window;
    if (d.local_rope && d.rotates(i)) a.position = *d.local_rope;
  }
  return m;
}

/// A block of Llama: the others differ from it by a line or two.
Block llama_block(const Decoder& d) {
  const Attention attention{.heads = d.heads,
                            .kv_heads = d.kv_heads,
                            .head_dim = d.head_dim,
                            .position = d.rope,
                            .qkv_bias = d.attention_bias,
                            .out_bias = d.attention_bias,
                            .scale = d.score_scale,
                            .softcap = d.score_softcap};
  const Mlp mlp{.hidden = d.hidden, .act = d.act, .bias = d.mlp_bias};
  return {.mixer = attention, .ffn = mlp, .norm = RmsNorm{.eps = d.eps}};
}
Attention& attention_of(Block& b) {
  return std::get<Attention>(b.mixer);
}

/// Which of `depth` layers a rule of (one-based) layer numbers picks.
template <class F>
std::vector<bool> layers_where(const Decoder& d, F rule) {
  std::vector<bool> out;
  for (int i = 1; i <= d.depth; ++i) out.push_back(rule(i));
  return out;
}

// ---- GPT-2 ----

void gpt2_keys(Keys& k, Decoder& d) {
  k.require(d.vocab, {"vocab_size"});
  k.require(d.context, {"n_positions", "max_position_embeddings", "n_ctx"});
  k.constant("n_ctx", d.context);
  k.require(d.dim, {"n_embd", "hidden_size"});
  k.depth(d.depth, {"n_layer", "num_hidden_layers"});
  k.require(d.heads, {"n_head", "num_attention_heads"});
  if (k.reading()) {
    d.kv_heads = d.heads;
    d.head_dim = d.heads > 0 ? d.dim / d.heads : 0;
    d.hidden = gpt_hidden(d.dim);
    d.act = Act::gelu_tanh, d.eps = 1e-5f, d.dropout = 0.1f, d.tie = true;
    if (d.heads > 0 && d.dim % d.heads != 0)
      k.wrong("n_embd: " + std::to_string(d.dim) + " is no multiple of n_head, " +
              std::to_string(d.heads));
  }
  k(d.hidden, {"n_inner", "intermediate_size"});
  k.act(d.act, {"activation_function"}, "gelu_new");
  k(d.eps, {"layer_norm_epsilon"});
  k(d.dropout, {"resid_pdrop"});
  k.constant("embd_pdrop", d.dropout);  // we have one dropout for both
  k.constant("attn_pdrop", 0.0);
  k(d.tie, {"tie_word_embeddings"});
  k(d.init_std, {"initializer_range"});
  k.only("add_cross_attention", false, "cross attention is not supported");
  bool scaled = d.score_scale != 1.f;
  k(scaled, {"scale_attn_weights"});
  if (!scaled) d.score_scale = 1.f;
  if (k.reading()) k(d.scale_by_layer, {"scale_attn_by_inverse_layer_idx"});
}
Model gpt2_model(const Decoder& d) {
  Block b = llama_block(d);
  b.norm = LayerNorm{.eps = d.eps};
  auto& mlp = std::get<Mlp>(b.ffn);
  mlp.gated = false, mlp.bias = true;
  auto& a = attention_of(b);
  a.position = NoPosition{}, a.qkv_bias = a.out_bias = true;
  Model m = assemble(d, "gpt", b);
  m.position = Learned{d.context};
  if (d.scale_by_layer)
    for (size_t i = 0; i < m.layers.size(); ++i) {
      auto& layer = attention_of(m.layers[i]);
      layer.scale = layer.scale.value_or(1 / std::sqrt(float(layer.head_dim))) / float(i + 1);
    }
  return m;
}

// ---- Llama and its kin ----

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

/// Qwen 2 and 3: a window in the layers from max_window_layers on, if it is switched on.
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
  bool use = d.window.has_value();
  k(use, {"use_sliding_window"});
  k(d.window, {"sliding_window"});
  if (k.reading()) {
    if (rotated.size() < static_cast<size_t>(d.depth))
      k.wrong("no_rope_layers: expected one for each layer"),
          rotated.resize(static_cast<size_t>(d.depth));
    d.rotated.assign(rotated.begin(), rotated.begin() + d.depth);
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
  llama_like(k, d, true);
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

void starcoder2_keys(Keys& k, Decoder& d) {
  if (k.reading()) {
    d.context = 4096, d.act = Act::gelu_tanh, d.eps = 1e-5f, d.tie = true;
    d.attention_bias = true, d.init_std = 0.018042f;
  }
  sizes(k, d);
  k.act(d.act, {"hidden_act"});
  k(d.eps, {"norm_epsilon"});
  k.rope(d);
  k(d.attention_bias, {"use_bias"});
  k(d.window, {"sliding_window"});
  k(d.dropout, {"residual_dropout"});
  k.constant("embedding_dropout", d.dropout);
  k.skip({"layer_norm_epsilon", "norm_type", "mlp_type"});
}
Model starcoder2_model(const Decoder& d) {
  Block b = llama_block(d);
  b.norm = LayerNorm{.eps = d.eps};
  auto& mlp = std::get<Mlp>(b.ffn);
  mlp.gated = false, mlp.bias = d.attention_bias;
  return assemble(d, "starcoder2", b);
}

// ---- Gemma ----

void gemma_sizes(Keys& k, Decoder& d) {
  if (k.reading()) d.context = 8192, d.act = Act::gelu_tanh, d.tie = true;
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

const std::vector<HfClass>& hf_classes() {
  static const std::vector<HfClass> all = {
      {"gpt2", "GPT2LMHeadModel", "gpt", gpt2_keys, gpt2_model},
      {"llama", "LlamaForCausalLM", "llama", llama_keys, llama_model},
      {"mistral", "MistralForCausalLM", "mistral", mistral_keys, mistral_model},
      {"qwen2", "Qwen2ForCausalLM", "qwen2", qwen2_keys, qwen2_model},
      {"qwen3", "Qwen3ForCausalLM", "qwen3", qwen3_keys, qwen3_model},
      {"smollm3", "SmolLM3ForCausalLM", "smollm3", smollm3_keys, smollm3_model},
      {"olmo2", "Olmo2ForCausalLM", "olmo2", olmo2_keys, olmo2_model},
      {"phi3", "Phi3ForCausalLM", "phi3", phi3_keys, phi3_model},
      {"starcoder2", "Starcoder2ForCausalLM", "starcoder2", starcoder2_keys, starcoder2_model},
      {"gemma", "GemmaForCausalLM", "gemma", gemma_keys, gemma_model},
      {"gemma2", "Gemma2ForCausalLM", "gemma2", gemma2_keys, gemma2_model},
      {"gemma3_text", "Gemma3ForCausalLM", "gemma3", gemma3_keys, gemma3_model},
  };
  return all;
}

const HfClass* hf_class(std::string_view model_type) {
  for (const auto& c : hf_classes())
    if (c.model_type == model_type) return &c;
  return nullptr;
}

std::optional<Decoder> decoder_of(const Model& m) {
  Decoder d{.vocab = m.vocab, .context = m.context, .dim = m.dim};
  d.depth = static_cast<int>(m.layers.size());
  d.tie = m.tie_head, d.init_std = m.init_std, d.dropout = m.dropout;
  d.logit_softcap = m.logit_softcap;
  if (const auto* l = std::get_if<Learned>(&m.position)) d.context = l->length;
  bool ropes = false;
  for (const Block& b : m.layers) {
    const auto* a = std::get_if<Attention>(&b.mixer);
    const auto* mlp = std::get_if<Mlp>(&b.ffn);
    if (!a || !mlp) return std::nullopt;
    const auto* rope = std::get_if<Rope>(&a->position);
    d.sliding.push_back(a->window.has_value()), d.rotated.push_back(rope != nullptr);
    if (a->window) d.window = a->window;
    if (rope && a->window) d.local_rope = *rope;
    if (rope && (!a->window || !ropes)) d.rope = *rope, ropes = !a->window;
  }
  if (m.layers.empty()) return std::nullopt;
  const Block& b = m.layers[0];
  const auto& a = std::get<Attention>(b.mixer);
  const auto& mlp = std::get<Mlp>(b.ffn);
  d.heads = a.heads, d.kv_heads = a.kv_heads, d.head_dim = a.head_dim;
  d.attention_bias = a.qkv_bias || a.out_bias;
  d.score_scale = a.scale, d.score_softcap = a.softcap;
  d.hidden = mlp.hidden, d.act = mlp.act, d.mlp_bias = mlp.bias;
  if (const auto* r = std::get_if<RmsNorm>(&b.norm)) d.eps = r->eps;
  if (const auto* l = std::get_if<LayerNorm>(&b.norm)) d.eps = l->eps;
  return d;
}

}  // namespace lmxlab::config
