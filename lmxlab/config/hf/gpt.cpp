// GPT-2 and its kin: LayerNorm, most of them with biases.
#include "lmxlab/config/hf/shared.h"
#include "lmxlab/config/presets/families.h"

namespace lmxlab::config {
namespace {

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

// ---- blocks with LayerNorm ----

Block layer_norm_block(const Decoder& d, bool bias = true) {
  Block b = llama_block(d);
  b.norm = LayerNorm{.eps = d.eps, .bias = bias};
  return b;
}
/// A plain FFN and biases everywhere.
Block plain_block(const Decoder& d, bool biases) {
  Block b = layer_norm_block(d);
  mlp_of(b).gated = false, mlp_of(b).bias = biases;
  attention_of(b).qkv_bias = attention_of(b).out_bias = biases;
  return b;
}

/// GPT-J and CodeGen.
void gptj_keys(Keys& k, Decoder& d) {
  k.require(d.vocab, {"vocab_size"});
  k(d.context, {"n_positions", "max_position_embeddings"});
  k.constant("n_ctx", d.context);
  k.require(d.dim, {"n_embd", "hidden_size"});
  k.depth(d.depth, {"n_layer", "num_hidden_layers"});
  k.require(d.heads, {"n_head", "num_attention_heads"});
  if (k.reading()) {
    d.kv_heads = d.heads, d.head_dim = d.heads > 0 ? d.dim / d.heads : 0;
    d.hidden = gpt_hidden(d.dim), d.act = Act::gelu_tanh, d.eps = 1e-5f, d.rope.dims = 64;
  }
  k(d.hidden, {"n_inner"});
  k.act(d.act, {"activation_function"}, "gelu_new");
  k(d.eps, {"layer_norm_epsilon"});
  if (!k.reading() && d.rope.dims == 0) d.rope.dims = d.head_dim;
  k(d.rope.dims, {"rotary_dim"});
  k(d.dropout, {"resid_pdrop"});
  k.constant("embd_pdrop", d.dropout);
  k(d.tie, {"tie_word_embeddings"});
  k(d.init_std, {"initializer_range"});
  k.skip({"rotary", "scale_attn_weights", "n_special"});
}
Model gptj_assemble(const Decoder& d, const char* family) {
  Block b = plain_block(d, true);
  b.wiring = Wiring::parallel;
  auto& a = attention_of(b);
  a.qkv_bias = a.out_bias = false;
  Rope rope{.dims = d.rope.dims};
  rope.interleaved = true;
  a.position = rope;
  Model m = assemble(d, family, b);
  m.head_bias = !m.tie_head;
  return m;
}
Model gptj_model(const Decoder& d) {
  return gptj_assemble(d, "gptj");
}
Model codegen_model(const Decoder& d) {
  return gptj_assemble(d, "codegen");
}

void gpt_neox_keys(Keys& k, Decoder& d) {
  if (k.reading())
    d.act = Act::gelu, d.eps = 1e-5f, d.attention_bias = true, d.wiring = Wiring::twin;
  sizes(k, d, false);
  k.act(d.act, {"hidden_act"}, "gelu_new");
  k(d.eps, {"layer_norm_eps"});
  k.rope(d, {.share = 0.25f, .theta_key = "rotary_emb_base", .share_key = "rotary_pct"});
  k(d.attention_bias, {"attention_bias"});
  bool parallel = d.wiring == Wiring::twin;
  k(parallel, {"use_parallel_residual"});
  d.wiring = parallel ? Wiring::twin : Wiring::pre;
  k(d.dropout, {"hidden_dropout"});
  k.skip({"classifier_dropout"});
}
Model gpt_neox_model(const Decoder& d) {
  Block b = plain_block(d, true);
  b.wiring = d.wiring;
  attention_of(b).qkv_bias = attention_of(b).out_bias = d.attention_bias;
  return assemble(d, "gpt_neox", b);
}

void gpt_bigcode_keys(Keys& k, Decoder& d) {
  gpt2_keys(k, d);
  bool multi = d.kv_heads == 1;
  if (k.reading()) multi = true;
  k(multi, {"multi_query"});
  if (k.reading() && multi) d.kv_heads = 1;
  k.skip({"num_key_value_heads", "attention_softmax_in_fp32", "scale_attention_softmax_in_fp32",
          "inference_runner", "max_batch_size", "max_sequence_length", "pad_key_length",
          "pre_allocate_kv_cache", "validate_runner_input"});
}
Model gpt_bigcode_model(const Decoder& d) {
  Model m = gpt2_model(d);
  m.family = "gpt_bigcode";
  return m;
}

void bloom_keys(Keys& k, Decoder& d) {
  k.require(d.vocab, {"vocab_size"});
  k(d.context, {"seq_length"});
  k.require(d.dim, {"hidden_size", "n_embed"});
  k.depth(d.depth, {"n_layer", "num_hidden_layers"});
  k.require(d.heads, {"n_head", "num_attention_heads"});
  if (k.reading()) {
    d.kv_heads = d.heads, d.head_dim = d.heads > 0 ? d.dim / d.heads : 0;
    d.hidden = gpt_hidden(d.dim), d.act = Act::gelu_tanh, d.eps = 1e-5f, d.tie = true;
  }
  k(d.eps, {"layer_norm_epsilon"});
  k(d.dropout, {"hidden_dropout"});
  k(d.tie, {"tie_word_embeddings"});
  k(d.init_std, {"initializer_range"});
  k.only("apply_residual_connection_post_layernorm", false,
         "a stream that goes through the norm is not supported");
  k.skip({"slow_but_exact", "offset_alibi", "skip_bias_add", "skip_bias_add_qkv", "unk_token_id",
          "masked_softmax_fusion", "bias_dropout_fusion", "attention_softmax_in_fp32"});
}
Model bloom_model(const Decoder& d) {
  Block b = plain_block(d, true);
  attention_of(b).position = Alibi{};
  Model m = assemble(d, "bloom", b);
  m.embed_norm = b.norm;
  return m;
}

void opt_keys(Keys& k, Decoder& d) {
  k.require(d.vocab, {"vocab_size"});
  k(d.context, {"max_position_embeddings"});
  k.require(d.dim, {"hidden_size"});
  k.depth(d.depth, {"num_hidden_layers"});
  k.require(d.heads, {"num_attention_heads"});
  if (k.reading()) {
    d.kv_heads = d.heads, d.head_dim = d.heads > 0 ? d.dim / d.heads : 0;
    d.act = Act::relu, d.eps = 1e-5f, d.tie = true, d.attention_bias = true, d.dropout = 0.1f;
  }
  k.require(d.hidden, {"ffn_dim"});
  k.act(d.act, {"activation_function"});
  k(d.attention_bias, {"enable_bias"});
  k(d.dropout, {"dropout"});
  k(d.tie, {"tie_word_embeddings"});
  k(d.init_std, {"init_std"});
  int inner = d.dim;
  k(inner, {"word_embed_proj_dim"});
  if (inner != d.dim) k.refuse("word_embed_proj_dim: embeddings of another width than the stream");
  k.only("do_layer_norm_before", true, "norms behind the branches, without a last one");
  k.only("layer_norm_elementwise_affine", true, "norms without weights");
  k.only("_remove_final_layer_norm", false, "no norm before the head");
  k.skip({"layerdrop", "prefix"});
}
Model opt_model(const Decoder& d) {
  Block b = plain_block(d, d.attention_bias);
  attention_of(b).position = NoPosition{};
  Model m = assemble(d, "opt", b);
  m.position = Learned{d.context, 2};
  return m;
}

void mpt_keys(Keys& k, Decoder& d) {
  k.require(d.vocab, {"vocab_size"});
  k(d.context, {"max_seq_len"});
  k.require(d.dim, {"d_model"});
  k.depth(d.depth, {"n_layers"});
  k.require(d.heads, {"n_heads"});
  k.constant("expansion_ratio", 4);  // the class has its own, whatever is said
  if (k.reading()) {
    d.kv_heads = d.heads, d.head_dim = d.heads > 0 ? d.dim / d.heads : 0;
    d.hidden = gpt_hidden(d.dim), d.act = Act::gelu, d.eps = 1e-5f, d.tie = true;
  }
  Alibi alibi = d.alibi.value_or(Alibi{});
  k.inside("attn_config", [&](Keys& a) {
    a(d.clip, {"clip_qkv"});
    a(d.score_scale, {"softmax_scale"});
    int most = static_cast<int>(std::lround(alibi.max));
    a(most, {"alibi_bias_max"});
    alibi.max = static_cast<float>(most);
    a.only("qk_ln", false, "norms of queries and keys");
    a.only("prefix_lm", false, "attention to later tokens");
    a.only("alibi", true, "positions other than ALiBi");
    a.skip({"attn_type", "attn_impl", "attn_uses_sequence_id", "attn_pdrop"});
  });
  d.alibi = Alibi{.max = alibi.max, .strided = true};
  k(d.eps, {"layer_norm_epsilon"});
  k(d.dropout, {"resid_pdrop"});
  k.constant("emb_pdrop", d.dropout);
  k(d.tie, {"tie_word_embeddings"});
  k.only("no_bias", true, "biases");
  k.skip({"learned_pos_emb", "norm_type", "embedding_fraction", "init_device", "logit_scale",
          "verbose", "use_norm_bias", "init_config"});
}
Model mpt_model(const Decoder& d) {
  Block b = layer_norm_block(d, false);
  mlp_of(b).gated = false;
  attention_of(b).position = d.alibi.value_or(Alibi{.strided = true});
  return assemble(d, "mpt", b);
}

void falcon_keys(Keys& k, Decoder& d) {
  k.require(d.vocab, {"vocab_size"});
  k(d.context, {"max_position_embeddings"});
  k.require(d.dim, {"hidden_size", "n_embed"});
  k.depth(d.depth, {"num_hidden_layers", "n_layer"});
  k.require(d.heads, {"num_attention_heads", "n_head"});
  if (k.reading()) {
    d.head_dim = d.heads > 0 ? d.dim / d.heads : 0;
    d.hidden = gpt_hidden(d.dim), d.act = Act::gelu, d.eps = 1e-5f, d.tie = true;
    d.wiring = Wiring::parallel;
  }
  // The old form has one key head or all of them; the new one any number, and two norms.
  bool grouped = d.wiring == Wiring::twin || (d.kv_heads != 1 && d.kv_heads != d.heads);
  bool multi = true, parallel = d.wiring != Wiring::pre, alibi = d.alibi.has_value();
  int kv_heads = d.kv_heads, norms = d.wiring == Wiring::twin ? 2 : 1;
  if (k.reading()) kv_heads = d.heads, grouped = false;
  if (!k.reading() && !grouped) multi = d.kv_heads == 1, kv_heads = d.heads;
  k(grouped, {"new_decoder_architecture"});
  k(multi, {"multi_query"});
  k(kv_heads, {"num_kv_heads", "n_head_kv"});
  k(parallel, {"parallel_attn"});
  if (k.reading()) norms = grouped ? 2 : 1;
  k(norms, {"num_ln_in_parallel_attn"});
  k(alibi, {"alibi"});
  k(d.attention_bias, {"bias"});
  k(d.hidden, {"ffn_hidden_size"});
  k.act(d.act, {"activation"});
  k(d.eps, {"layer_norm_epsilon"});
  k.rope(d);
  k(d.dropout, {"hidden_dropout"});
  k(d.tie, {"tie_word_embeddings"});
  k(d.init_std, {"initializer_range"});
  if (!k.reading()) return;
  d.kv_heads = grouped ? kv_heads : multi ? 1 : d.heads;
  d.alibi = alibi ? std::optional(Alibi{.rounded = true}) : std::nullopt;
  d.wiring = !parallel && !grouped   ? Wiring::pre
             : grouped && norms == 2 ? Wiring::twin
                                     : Wiring::parallel;
}
Model falcon_model(const Decoder& d) {
  Block b = plain_block(d, d.attention_bias);
  b.wiring = d.wiring;
  if (d.alibi) attention_of(b).position = *d.alibi;
  return assemble(d, "falcon", b);
}

void phi_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.act = Act::gelu_tanh, d.eps = 1e-5f;
  sizes(k, d, false);
  k.act(d.act, {"hidden_act"}, "gelu_new");
  k(d.eps, {"layer_norm_eps"});
  k.rope(d, {.share = 0.5f});
  k(d.qk_norm, {"qk_layernorm"});
  k(d.dropout, {"resid_pdrop"});
  k.constant("embd_pdrop", d.dropout);
}
Model phi_model(const Decoder& d) {
  Block b = plain_block(d, true);
  b.wiring = Wiring::parallel;
  if (d.qk_norm) attention_of(b).qk_norm = b.norm;
  Model m = assemble(d, "phi", b);
  m.head_bias = !m.tie_head;
  return m;
}

void persimmon_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.act = Act::relu2, d.eps = 1e-5f, d.qk_norm = true, d.rope.theta = 25'000;
  sizes(k, d, false);
  k.act(d.act, {"hidden_act"});
  k(d.eps, {"layer_norm_eps"});
  k.rope(d, {.share = 0.5f});
  k(d.qk_norm, {"qk_layernorm"});
  k(d.dropout, {"hidden_dropout"});
}
Model persimmon_model(const Decoder& d) {
  Block b = plain_block(d, true);
  if (d.qk_norm) attention_of(b).qk_norm = b.norm;
  return assemble(d, "persimmon", b);
}

void stablelm_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.eps = 1e-5f, d.context = 4096;
  sizes(k, d, false);
  k.act(d.act, {"hidden_act"});
  k(d.eps, {"layer_norm_eps"});
  k.rope(d, {.share = 0.25f});
  k(d.attention_bias, {"use_qkv_bias"});
  k(d.qk_norm, {"qk_layernorm"});
  bool parallel = d.wiring == Wiring::parallel;
  k(parallel, {"use_parallel_residual"});
  d.wiring = parallel ? Wiring::parallel : Wiring::pre;
  k(d.dropout, {"hidden_dropout"});
}
Model stablelm_model(const Decoder& d) {
  Block b = layer_norm_block(d);
  b.wiring = d.wiring;
  auto& a = attention_of(b);
  a.out_bias = false;
  if (d.qk_norm) a.qk_norm = LayerNorm{.eps = d.eps, .bias = false}, a.qk_norm_by_head = true;
  return assemble(d, "stablelm", b);
}

void nemotron_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.act = Act::relu2, d.eps = 1e-5f, d.context = 4096;
  sizes(k, d);
  k.act(d.act, {"hidden_act"});
  k(d.eps, {"norm_eps"});
  k.rope(d, {.share = 0.5f});
  k(d.attention_bias, {"attention_bias"});
  k(d.mlp_bias, {"mlp_bias"});
}
Model nemotron_model(const Decoder& d) {
  Block b = layer_norm_block(d);
  std::get<LayerNorm>(b.norm).weight_offset = 1;
  mlp_of(b).gated = false;
  return assemble(d, "nemotron", b);
}

// ---- Cohere ----

void cohere_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.eps = 1e-5f, d.tie = true, d.logit_scale = 0.0625f, d.context = 8192;
  sizes(k, d);
  k.act(d.act, {"hidden_act"});
  k(d.eps, {"layer_norm_eps"});
  k.rope(d);
  k(d.logit_scale, {"logit_scale"});
  k(d.attention_bias, {"attention_bias"});
}
void cohere1_keys(Keys& k, Decoder& d) {
  cohere_keys(k, d);
  k(d.qk_norm, {"use_qk_norm"});
}
Block cohere_block(const Decoder& d) {
  Block b = layer_norm_block(d, false);
  b.wiring = Wiring::parallel;
  auto& a = attention_of(b);
  if (auto* r = std::get_if<Rope>(&a.position)) r->interleaved = true;
  return b;
}
Model cohere_model(const Decoder& d) {
  Block b = cohere_block(d);
  if (d.qk_norm) attention_of(b).qk_norm = b.norm, attention_of(b).qk_norm_by_head = true;
  return assemble(d, "cohere", b);
}
void cohere2_keys(Keys& k, Decoder& d) {
  if (k.reading() && !k.present("sliding_window")) d.window = 4096;
  cohere_keys(k, d);
  k(d.window, {"sliding_window"});
  if (k.reading()) {
    int pattern = 4;
    k.pattern(pattern, {"sliding_window_pattern", "_sliding_window_pattern"});
    d.sliding = layers_where(d, [&](int i) { return i % pattern != 0; });
    k.skip({"order_of_interleaved_layers", "layer_switch", "rotary_pct", "use_embedding_sharing",
            "use_gated_activation", "use_parallel_block", "use_parallel_embedding",
            "position_embedding_type", "use_qk_norm"});
  }
  k.layer_types(d);
  if (k.reading()) d.rotated = d.sliding;
}
Model cohere2_model(const Decoder& d) {
  return assemble(d, "cohere2", cohere_block(d));
}

}  // namespace

std::vector<HfClass> gpt_classes() {
  return {
      {"gpt2", "GPT2LMHeadModel", "gpt", gpt2_keys, gpt2_model},
      {"starcoder2", "Starcoder2ForCausalLM", "starcoder2", starcoder2_keys, starcoder2_model},
      {"gptj", "GPTJForCausalLM", "gptj", gptj_keys, gptj_model},
      {"codegen", "CodeGenForCausalLM", "codegen", gptj_keys, codegen_model},
      {"gpt_neox", "GPTNeoXForCausalLM", "gpt_neox", gpt_neox_keys, gpt_neox_model},
      {"gpt_bigcode", "GPTBigCodeForCausalLM", "gpt_bigcode", gpt_bigcode_keys, gpt_bigcode_model},
      {"bloom", "BloomForCausalLM", "bloom", bloom_keys, bloom_model},
      {"opt", "OPTForCausalLM", "opt", opt_keys, opt_model},
      {"mpt", "MptForCausalLM", "mpt", mpt_keys, mpt_model},
      {"falcon", "FalconForCausalLM", "falcon", falcon_keys, falcon_model},
      {"phi", "PhiForCausalLM", "phi", phi_keys, phi_model},
      {"persimmon", "PersimmonForCausalLM", "persimmon", persimmon_keys, persimmon_model},
      {"stablelm", "StableLmForCausalLM", "stablelm", stablelm_keys, stablelm_model},
      {"nemotron", "NemotronForCausalLM", "nemotron", nemotron_keys, nemotron_model},
      {"cohere", "CohereForCausalLM", "cohere", cohere1_keys, cohere_model},
      {"cohere2", "Cohere2ForCausalLM", "cohere2", cohere2_keys, cohere2_model},
  };
}
}  // namespace lmxlab::config
