// Gemma.
#include "lmxlab/config/hf/shared.h"

#include <algorithm>

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

/// Layers in a window but each n-th; the last ones may have the keys and values of earlier ones.
void gemma_layers(Keys& k, Decoder& d, int every) {
  k(d.window, {"sliding_window"});
  if (k.reading()) d.sliding = layers_where(d, [&](int i) { return i % every != 0; });
  k.layer_types(d);
  k(d.kv_shared, {"num_kv_shared_layers"});
  if (d.kv_shared < 0 || d.kv_shared > d.depth) {
    k.wrong("num_kv_shared_layers: expected 0 to " + std::to_string(d.depth) + ", got " +
            std::to_string(d.kv_shared));
    d.kv_shared = 0;
  }
}
/// And a vector a layer and position.
void gemma_layer_inputs(Keys& k, Decoder& d) {
  LayerInputs l = d.layer_inputs.value_or(LayerInputs{.width = 0, .vocab = d.vocab});
  if (k.reading()) l = {.width = 256, .vocab = 262'144};
  l.act = d.act;
  k(l.width, {"hidden_size_per_layer_input"});
  k(l.vocab, {"vocab_size_per_layer_input"});
  d.layer_inputs = l.width > 0 ? std::optional(l) : std::nullopt;
}
Model gemma_with_shared_keys(const Decoder& d, const char* family, Block b) {
  auto& shared = attention_of(b);
  b.wiring = Wiring::sandwich;
  shared.qk_norm = b.norm, shared.v_norm = RmsNorm{.eps = d.eps, .weight = false};
  shared.scale = 1.f;
  Model m = gemma_assemble(d, family, b);
  m.layer_inputs = d.layer_inputs;
  const auto own = m.layers.size() - static_cast<size_t>(d.kv_shared);
  for (size_t i = own; i < m.layers.size(); ++i)
    for (size_t from = own; from-- > 0;) {
      if (d.slides(from) != d.slides(i)) continue;
      attention_of(m.layers[i]).kv_from = static_cast<int>(from);
      break;
    }
  return m;
}

/// A list, or one number for all layers.
template <class T>
void by_layer(Keys& k, const Decoder& d, std::vector<T>& values, const char* name) {
  const auto n = static_cast<size_t>(d.depth);
  if (k.reading() && k.is_number(name)) {
    T one{};
    k(one, {name});
    values.assign(n, one);
  } else {
    k(values, {name});
  }
  if (values.size() == n) return;
  k.wrong(std::string(name) + ": expected one for each of " + std::to_string(n) + " layers, got " +
          std::to_string(values.size()));
  values.assign(n, T{});
}
void gemma3n_keys(Keys& k, Decoder& d) {
  if (k.reading()) {
    d.context = 32'768, d.act = Act::gelu_tanh, d.tie = true, d.head_dim = 256, d.kv_heads = 2;
    d.window = 512, d.kv_shared = 15, d.laurel = 64, d.rope.theta = 1'000'000;
    d.local_rope = Rope{};
    if (!k.present("final_logit_softcapping")) d.logit_softcap = 30.f;  // null is none
  }
  k.require(d.vocab, {"vocab_size"});
  k(d.context, {"max_position_embeddings"});
  k.require(d.dim, {"hidden_size"});
  k.depth(d.depth, {"num_hidden_layers"});
  k.require(d.heads, {"num_attention_heads"});
  k(d.kv_heads, {"num_key_value_heads"});
  k(d.head_dim, {"head_dim"});
  const auto n = static_cast<size_t>(d.depth);
  if (k.reading()) d.layer_hidden.assign(n, 16'384);
  by_layer(k, d, d.layer_hidden, "intermediate_size");
  k(d.tie, {"tie_word_embeddings"});
  k(d.init_std, {"initializer_range"});
  k(d.eps, {"rms_norm_eps"});
  k(d.attention_bias, {"attention_bias"});
  k.act(d.act, {"hidden_activation"});
  k(d.logit_softcap, {"final_logit_softcapping"});
  k.rope_by_layer(d);
  gemma_layers(k, d, 5);
  gemma_layer_inputs(k, d);
  k(d.laurel, {"laurel_rank"});
  if (k.reading()) {
    d.layer_sparsity.assign(n, 0.f);
    for (size_t i = 0; n > 10 && i < 10; ++i) d.layer_sparsity[i] = 0.95f;
  }
  if (!k.is_null("activation_sparsity_pattern"))
    by_layer(k, d, d.layer_sparsity, "activation_sparsity_pattern");
  AltUp a = d.altup.value_or(AltUp{});
  k(a.streams, {"altup_num_inputs"});
  k(a.active, {"altup_active_idx"});
  k(a.scaled, {"altup_correct_scale"});
  if (k.reading() && k.is_null("altup_coef_clip")) a.clip.reset();
  k(a.clip, {"altup_coef_clip"});
  d.altup = a;
}
Model gemma3n_model(const Decoder& d) {
  Block b = llama_block(d);
  b.laurel = d.laurel;
  Model m = gemma_with_shared_keys(d, "gemma3n", b);
  m.altup = d.altup;
  for (size_t i = 0; i < m.layers.size(); ++i) mlp_of(m.layers[i]).sparsity = d.layer_sparsity[i];
  return m;
}

/// Heads of layers without a window, which may have others. Gemma 4's files say it by layer or for
/// all of them.
void gemma4_heads(Keys& k, Decoder& d) {
  const auto n = static_cast<size_t>(d.depth);
  const auto name = [](size_t i) { return std::to_string(i); };
  if (!k.reading()) {
    Json table = Json::object();
    for (size_t i = 0; i < n; ++i)
      if (!d.slides(i))
        table[name(i)] = Json::object(
            {{"head_dim", d.layer_head_dims[i]}, {"num_key_value_heads", d.layer_kv_heads[i]}});
    return k.constant("per_layer_config", table);
  }
  int global_dim = 512;
  std::optional<int> global_heads;
  k(global_dim, {"global_head_dim"});
  k(global_heads, {"num_global_key_value_heads"});
  d.layer_head_dims.assign(n, d.head_dim), d.layer_kv_heads.assign(n, d.kv_heads);
  if (k.present("per_layer_config"))
    return k.inside("per_layer_config", [&](Keys& layers) {
      for (size_t i = 0; i < n; ++i)
        layers.inside(name(i).c_str(), [&](Keys& layer) {
          layer(d.layer_head_dims[i], {"head_dim"});
          layer(d.layer_kv_heads[i], {"num_key_value_heads"});
        });
    });
  for (size_t i = 0; i < n; ++i) {
    if (d.slides(i)) continue;
    d.layer_head_dims[i] = global_dim;
    if (d.v_of_k && global_heads) d.layer_kv_heads[i] = *global_heads;
  }
}
void gemma4_keys(Keys& k, Decoder& d) {
  if (k.reading()) {
    d.context = 131'072, d.act = Act::gelu_tanh, d.tie = true, d.head_dim = 256, d.kv_heads = 4;
    d.window = 512, d.hidden = 9216;
    d.rope = {.theta = 1'000'000, .scaling = Proportional{.share = 0.25f}}, d.local_rope = Rope{};
  } else {
    d.hidden = d.layer_hidden[0];
    // What layers with a window have, or the first.
    const auto first = std::find(d.sliding.begin(), d.sliding.end(), true);
    const auto i = first == d.sliding.end() ? 0 : static_cast<size_t>(first - d.sliding.begin());
    d.head_dim = d.layer_head_dims[i], d.kv_heads = d.layer_kv_heads[i];
  }
  sizes(k, d);
  k(d.eps, {"rms_norm_eps"});
  k(d.attention_bias, {"attention_bias"});
  k.act(d.act, {"hidden_activation"});
  k(d.logit_softcap, {"final_logit_softcapping"});
  if (k.present("rope_parameters") || !k.reading()) k.rope_by_type(d, {.share = 1.f});
  gemma_layers(k, d, 6);
  if (k.reading() && !d.sliding.empty()) d.sliding.back() = false;  // whatever is said
  k(d.v_of_k, {"attention_k_eq_v"});
  gemma4_heads(k, d);
  gemma_layer_inputs(k, d);
  bool wide = false;
  if (!k.reading()) wide = d.kv_shared > 0 && d.layer_hidden.back() == product(2, d.hidden);
  k(wide, {"use_double_wide_mlp"});
  if (k.reading())
    for (int i = 0; i < d.depth; ++i)
      d.layer_hidden.push_back(product(d.hidden, wide && i >= d.depth - d.kv_shared ? 2 : 1));
  bool sparse = d.moe.has_value();
  k(sparse, {"enable_moe_block"});
  if (sparse) {
    Moe defaults{.scoring = Scoring::softmax, .router_norm = d.eps, .normalize = 1};
    defaults.expert_scale = true;
    expert_sizes(k, d, defaults, {{"num_experts"}, {"top_k_experts"}, {"moe_intermediate_size"}});
  }
  k.skip({"num_experts", "top_k_experts", "moe_intermediate_size"});
  if (!k.is_string("use_bidirectional_attention")) return;
  std::string both_ways;
  k(both_ways, {"use_bidirectional_attention"});
  if (both_ways == "all") k.refuse("use_bidirectional_attention: attention to later tokens");
}
Model gemma4_model(const Decoder& d) {
  Block b = llama_block(d);
  b.layer_scale = true;
  Decoder dense = d;
  dense.moe.reset();
  Model m = gemma_with_shared_keys(dense, "gemma4", b);
  for (size_t i = 0; i < m.layers.size(); ++i) {
    attention_of(m.layers[i]).v_of_k = d.v_of_k && !d.slides(i);
    if (!d.moe) continue;
    Moe moe = *d.moe;
    moe.act = d.act;
    m.layers[i].ffn = MlpAndMoe{mlp_of(m.layers[i]), moe};
  }
  return m;
}

}  // namespace

std::vector<HfClass> gemma_classes() {
  return {
      {"gemma", "GemmaForCausalLM", "gemma", gemma_keys, gemma_model},
      {"gemma2", "Gemma2ForCausalLM", "gemma2", gemma2_keys, gemma2_model},
      {"gemma3_text", "Gemma3ForCausalLM", "gemma3", gemma3_keys, gemma3_model},
      {"gemma3n_text", "Gemma3nForCausalLM", "gemma3n", gemma3n_keys, gemma3n_model},
      {"gemma4_text", "Gemma4ForCausalLM", "gemma4", gemma4_keys, gemma4_model},
  };
}
}  // namespace lmxlab::config
