// Models with recurrent mixers, alone or beside attention.
#include "lmxlab/config/hf/shared.h"

#include <algorithm>

namespace lmxlab::config {

Mamba2 mamba2_keys_of(Keys& k, const Decoder& d, const Mamba2& defaults, const Mamba2Names& names) {
  Mamba2 m = recurrent_of(k, d, defaults);
  k(m.heads, names.heads);
  k(m.head_dim, names.head_dim);
  k(m.groups, names.groups);
  k(m.state, names.state);
  k(m.conv, names.conv);
  k(m.in_bias, names.in_bias);
  m.out_bias = m.in_bias;
  k(m.conv_bias, names.conv_bias);
  m.norm_eps = d.eps;
  k.limits(m.dt_min, m.dt_max, "time_step_limit");
  return m;
}

namespace {

/// "auto": a sixteenth of the width.
void rank(Keys& k, int& value, const Decoder& d, const char* name) {
  const int automatic = (d.dim + 15) / 16;
  if (k.reading()) value = automatic;
  k.number_or_word(value, {name});
}

void mamba_sizes(Keys& k, Decoder& d) {
  k.require(d.vocab, {"vocab_size"});
  k.require(d.dim, {"hidden_size", "d_model"});
  k.depth(d.depth, {"num_hidden_layers", "n_layer"});
  k(d.eps, {"layer_norm_epsilon"});
  k(d.init_std, {"initializer_range"});
  k.skip({"hidden_act", "rescale_prenorm_residual", "residual_in_fp32", "time_step_scale",
          "time_step_min", "time_step_max", "time_step_floor", "time_step_init_scheme",
          "use_mambapy", "use_associative_scan", "use_mamba_kernels", "chunk_size", "rms_norm",
          "norm_before_gate", "fused_add_norm", "ssm_cfg", "pad_vocab_size_multiple"});
}
/// Blocks of a mixer and nothing else.
Model mixers_alone(const Decoder& d, const char* family) {
  Block b = llama_block(d);
  b.ffn = Nothing{};
  return assemble(d, family, b);
}

void mamba_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.eps = 1e-5f, d.init_std = 0.1f, d.tie = true;
  mamba_sizes(k, d);
  Mamba m = recurrent_of(k, d, Mamba{});
  if (k.reading()) {
    int expand = 2;
    k(expand, {"expand"});
    m.inner = product(expand, d.dim);
    k.skip({"intermediate_size"});
  } else {
    k.constant("expand", d.dim > 0 ? m.inner / d.dim : 2);
    k.constant("intermediate_size", m.inner);
  }
  k(m.state, {"state_size"});
  k(m.conv, {"conv_kernel"});
  rank(k, m.dt_rank, d, "time_step_rank");
  k(m.bias, {"use_bias"});
  k(m.conv_bias, {"use_conv_bias"});
  k(d.tie, {"tie_word_embeddings"});
  d.recurrent = m;
}
Model mamba_model(const Decoder& d) {
  return mixers_alone(d, "mamba");
}

void mamba2_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.eps = 1e-5f, d.init_std = 0.1f;
  mamba_sizes(k, d);
  const Mamba2 m = mamba2_keys_of(k, d, {.heads = 128, .head_dim = 64, .groups = 8, .state = 128},
                                  {{"num_heads"},
                                   {"head_dim"},
                                   {"n_groups"},
                                   {"state_size"},
                                   {"conv_kernel"},
                                   {"use_bias"},
                                   {"use_conv_bias"}});
  k.constant("expand", d.dim > 0 ? product(m.heads, m.head_dim) / d.dim : 2);
  k.skip({"time_step_rank"});
  k(d.tie, {"tie_word_embeddings"});
  d.recurrent = m;
}
Model mamba2_model(const Decoder& d) {
  return mixers_alone(d, "mamba2");
}

/// Mamba-2 beside attention, under the keys of Bamba.
void mamba2_in_hybrid(Keys& k, Decoder& d) {
  d.recurrent = mamba2_keys_of(k, d, {.heads = 128, .groups = 1, .state = 256},
                               {{"mamba_n_heads"},
                                {"mamba_d_head"},
                                {"mamba_n_groups"},
                                {"mamba_d_state"},
                                {"mamba_d_conv"},
                                {"mamba_proj_bias"},
                                {"mamba_conv_bias"}});
  const auto& m = std::get<Mamba2>(*d.recurrent);
  k.constant("mamba_expand", d.dim > 0 ? product(m.heads, m.head_dim) / d.dim : 2);
}

void bamba_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.eps = 1e-5f, d.context = 262'144;
  sizes(k, d, false);
  k.act(d.act, {"hidden_act"});
  k(d.eps, {"rms_norm_eps"});
  k.rope(d, {.share = 0.5f});
  k(d.attention_bias, {"attention_bias"});
  k(d.mlp_bias, {"mlp_bias"});
  mamba2_in_hybrid(k, d);
  std::vector<int> attention;
  if (!k.reading())
    for (size_t i = 0; i < static_cast<size_t>(d.depth); ++i)
      if (!d.recurs(i)) attention.push_back(static_cast<int>(i));
  k(attention, {"attn_layer_indices"});
  recurrent_where(k, d, [&](int i) {
    return std::find(attention.begin(), attention.end(), i) == attention.end();
  });
  k.skip({"mamba_chunk_size", "num_logits_to_keep", "z_loss_coefficient", "layer_types",
          "attn_rotary_emb"});
}
Model bamba_model(const Decoder& d) {
  return assemble(d, "bamba", llama_block(d));
}

void jamba_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.context = 262'144;
  sizes(k, d, false);
  k.act(d.act, {"hidden_act"});
  k(d.eps, {"rms_norm_eps"});
  Mamba m = recurrent_of(k, d, Mamba{.norms = MambaNorms::learned});
  if (k.reading()) {
    int expand = 2;
    k(expand, {"mamba_expand"});
    m.inner = product(expand, d.dim);
  } else {
    k.constant("mamba_expand", d.dim > 0 ? m.inner / d.dim : 2);
  }
  k(m.state, {"mamba_d_state"});
  k(m.conv, {"mamba_d_conv"});
  rank(k, m.dt_rank, d, "mamba_dt_rank");
  k(m.bias, {"mamba_proj_bias"});
  k(m.conv_bias, {"mamba_conv_bias"});
  m.norm_eps = d.eps;
  d.recurrent = m;
  // One attention layer in each period, and one with experts.
  const auto cycle = [&](const char* period_key, const char* offset_key, int period, int offset,
                         const std::vector<bool>& picked) {
    if (!k.reading()) {
      const auto first = std::find(picked.begin(), picked.end(), true);
      const auto second = first == picked.end() ? first : std::find(first + 1, picked.end(), true);
      offset = static_cast<int>(first - picked.begin());
      period =
          second == picked.end() ? std::max(d.depth, offset + 1) : static_cast<int>(second - first);
    }
    k(period, {period_key});
    k(offset, {offset_key});
    if (period < 1) k.wrong(std::string(period_key) + ": expected at least 1"), period = 1;
    return layers_where(d, [&](int i) { return (i - 1) % period == offset; });
  };
  std::vector<bool> attends;
  for (size_t i = 0; i < static_cast<size_t>(d.depth); ++i) attends.push_back(!d.recurs(i));
  const auto attention = cycle("attn_layer_period", "attn_layer_offset", 8, 4, attends);
  recurrent_where(k, d, [&](int i) { return !attention[static_cast<size_t>(i)]; });
  if (!k.reading() && !d.moe) d.moe = Moe{.experts = 1, .top_k = 1, .hidden = d.hidden};
  expert_sizes(k, d, {.experts = 16, .top_k = 2, .hidden = d.hidden, .scoring = Scoring::softmax},
               {{"num_experts"}, {"num_experts_per_tok"}, {"intermediate_size"}});
  const auto sparse = cycle("expert_layer_period", "expert_layer_offset", 2, 1, d.sparse);
  if (k.reading()) d.sparse = sparse, d.rotated.assign(static_cast<size_t>(d.depth), false);
  if (d.moe->experts == 1) d.moe.reset();
  k.skip({"use_mamba_kernels", "use_mambapy", "use_associative_scan",
          "calc_logits_for_entire_prompt", "num_logits_to_keep", "mamba_inner_layernorms",
          "sliding_window", "n_ctx"});
}
Model jamba_model(const Decoder& d) {
  return d.moe ? with_experts(d, "jamba", llama_block(d)) : assemble(d, "jamba", llama_block(d));
}

void lfm2_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.eps = 1e-5f, d.tie = true, d.context = 128'000, d.rope.theta = 1'000'000;
  sizes(k, d, false);
  k(d.eps, {"norm_eps"});
  k.rope(d);
  ShortConv conv = recurrent_of(k, d, ShortConv{});
  k(conv.conv, {"conv_L_cache"});
  k(conv.bias, {"conv_bias"});
  d.recurrent = conv;
  k.layer_kinds(d, "conv");
  k.skip({"full_attn_idxs", "conv_dim", "conv_dim_out", "conv_use_xavier_init", "block_dim",
          "block_mlp_init_scale", "block_norm_eps", "block_out_init_scale", "block_use_swiglu",
          "block_use_xavier_init", "num_heads", "use_pos_enc", "theta", "tie_embedding",
          "block_ff_dim"});
}
void lfm2_dense_keys(Keys& k, Decoder& d) {
  lfm2_keys(k, d);
  if (!k.reading()) return k.constant("block_auto_adjust_ff_dim", false);
  // What is said of the width is what a gated FFN takes two thirds of.
  bool adjust = true;
  float factor = 1;
  int multiple = 256;
  k(d.hidden, {"block_ff_dim"});
  k(adjust, {"block_auto_adjust_ff_dim"});
  k(factor, {"block_ffn_dim_multiplier"});
  k(multiple, {"block_multiple_of"});
  if (!adjust) return;
  if (multiple < 1) k.wrong("block_multiple_of: expected at least 1"), multiple = 1;
  d.hidden = whole(double(factor * static_cast<float>(product(2, d.hidden) / 3)));
  d.hidden = product((int64_t{d.hidden} + multiple - 1) / multiple, multiple);
}
Block lfm2_block(const Decoder& d) {
  Block b = llama_block(d);
  attention_of(b).qk_norm = b.norm;
  return b;
}
Model lfm2_model(const Decoder& d) {
  return assemble(d, "lfm2", lfm2_block(d));
}
void lfm2_moe_keys(Keys& k, Decoder& d) {
  lfm2_keys(k, d);
  Moe defaults{.experts = 32, .top_k = 4, .hidden = 1792, .scoring = Scoring::sigmoid};
  defaults.selection_bias = true, defaults.normalize = 1, defaults.norm_eps = 1e-6f;
  expert_sizes(k, d, defaults,
               {{"num_experts"}, {"num_experts_per_tok"}, {"moe_intermediate_size"}});
  k(d.moe->scale, {"routed_scaling_factor"});
  k(d.moe->selection_bias, {"use_expert_bias"});
  normalized(k, d, "norm_topk_prob");
  first_dense(k, d, "num_dense_layers", 2);
}
Model lfm2_moe_model(const Decoder& d) {
  return with_experts(d, "lfm2_moe", lfm2_block(d));
}

/// Qwen3-Next and 3.5: gated delta nets, and gated attention in each fourth layer.
void qwen_hybrid_keys(Keys& k, Decoder& d, DeltaProjections projections) {
  if (k.reading()) d.head_dim = 256, d.context = 32'768;
  llama_like(k, d, {.share = 0.25f});
  k(d.attention_bias, {"attention_bias"});
  GatedDelta g = recurrent_of(
      k, d, GatedDelta{.heads = 32, .key_heads = 16, .key_dim = 128, .value_dim = 128});
  k(g.heads, {"linear_num_value_heads"});
  k(g.key_heads, {"linear_num_key_heads"});
  k(g.key_dim, {"linear_key_head_dim"});
  k(g.value_dim, {"linear_value_head_dim"});
  k(g.conv, {"linear_conv_kernel_dim"});
  g.norm_eps = d.eps, g.projections = projections;
  d.recurrent = g;
  if (k.reading()) {
    int every = 4;
    k.pattern(every, {"full_attention_interval"});
    recurrent_where(k, d, [&](int i) { return (i + 1) % every != 0; });
  }
  k.layer_kinds(d, "linear_attention");
  k.skip({"mtp_num_hidden_layers", "mtp_use_dedicated_embeddings", "attn_output_gate",
          "mamba_ssm_dtype"});
}
Block qwen_hybrid_block(const Decoder& d) {
  Block b = llama_block(d);
  b.norm = RmsNorm{.eps = d.eps, .weight_offset = 1};
  attention_of(b).qk_norm = b.norm, attention_of(b).gate = true;
  attention_of(b).gate_bias = d.attention_bias;
  return b;
}
const Moe kQwenExperts{.experts = 512,
                       .top_k = 10,
                       .hidden = 512,
                       .scoring = Scoring::softmax,
                       .normalize = 1,
                       .shared = 512,
                       .shared_gate = true};
void qwen_experts(Keys& k, Decoder& d, const Moe& defaults) {
  expert_sizes(
      k, d, defaults,
      {{"num_experts", "num_local_experts"}, {"num_experts_per_tok"}, {"moe_intermediate_size"}});
  k(d.moe->shared, {"shared_expert_intermediate_size"});
}
void qwen3_next_keys(Keys& k, Decoder& d) {
  qwen_hybrid_keys(k, d, DeltaProjections::joint);
  qwen_experts(k, d, kQwenExperts);
  normalized(k, d, "norm_topk_prob");
  qwen_layers(k, d);
}
Model qwen3_next_model(const Decoder& d) {
  return with_experts(d, "qwen3_next", qwen_hybrid_block(d));
}
void qwen3_5_keys(Keys& k, Decoder& d) {
  qwen_hybrid_keys(k, d, DeltaProjections::parts);
}
Model qwen3_5_model(const Decoder& d) {
  return assemble(d, "qwen3_5", qwen_hybrid_block(d));
}
void qwen3_5_moe_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.hidden = 5632;  // no layer is dense
  qwen_hybrid_keys(k, d, DeltaProjections::parts);
  Moe defaults = kQwenExperts;
  defaults.experts = 256, defaults.top_k = 8;
  qwen_experts(k, d, defaults);
  k.skip({"norm_topk_prob"});
}
Model qwen3_5_moe_model(const Decoder& d) {
  return with_experts(d, "qwen3_5_moe", qwen_hybrid_block(d));
}

void granitemoehybrid_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.hidden = 11'008;
  sizes(k, d, false);
  k.act(d.act, {"hidden_act"});
  k(d.eps, {"rms_norm_eps"});
  k.rope(d);
  k(d.attention_bias, {"attention_bias"});
  granite_scales(k, d);
  mamba2_in_hybrid(k, d);
  k.layer_kinds(d, "linear_attention");
  std::string position = !k.reading() && d.rotates_somewhere() ? "rope" : "nope";
  k(position, {"position_embedding_type"});
  if (k.reading()) d.rotated.assign(static_cast<size_t>(d.depth), position == "rope");
  // The shared FFN is all there is where there are no experts.
  const bool dense = !k.reading() && !d.moe;
  int shared = dense ? d.hidden : d.moe ? d.moe->shared : 1024;
  if (dense)
    k.constant("num_local_experts", 0);
  else
    expert_sizes(k, d, {.hidden = d.hidden},
                 {{"num_local_experts"}, {"num_experts_per_tok"}, {"intermediate_size"}});
  k(shared, {"shared_intermediate_size"});
  if (d.moe && d.moe->experts > 0)
    d.moe->shared = shared;
  else
    d.moe.reset(), d.hidden = shared;
  k.skip({"mamba_chunk_size", "normalization_function", "logits_to_keep", "init_method",
          "layers_block_type"});
}
Model granitemoehybrid_model(const Decoder& d) {
  return d.moe ? with_experts(d, "granitemoehybrid", llama_block(d))
               : assemble(d, "granitemoehybrid", llama_block(d));
}

/// OLMo hybrid: delta nets behind norms, and OLMo 2's attention in each fourth layer.
void olmo_hybrid_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.context = 65'536;
  sizes(k, d, false);
  k.act(d.act, {"hidden_act"});
  k(d.eps, {"rms_norm_eps"});
  k.rope(d);
  k(d.attention_bias, {"attention_bias"});
  GatedDelta defaults{.heads = d.heads, .key_heads = d.heads, .allow_neg_eigval = true};
  if (k.reading() && d.heads > 0) defaults.key_dim = product(3, d.dim) / product(4, d.heads);
  GatedDelta g = recurrent_of(k, d, defaults);
  k(g.heads, {"linear_num_value_heads"});
  k(g.key_heads, {"linear_num_key_heads"});
  k(g.key_dim, {"linear_key_head_dim"});
  if (k.reading()) g.value_dim = product(2, g.key_dim);
  k(g.value_dim, {"linear_value_head_dim"});
  k(g.conv, {"linear_conv_kernel_dim"});
  k(g.allow_neg_eigval, {"linear_allow_neg_eigval"});
  g.norm_eps = 1e-5f;
  d.recurrent = g;
  recurrent_where(k, d, [](int i) { return i % 4 != 3; });
  k.layer_kinds(d, "linear_attention");
  // Said to be none, there is no rotation.
  if (k.reading() && k.is_null("rope_parameters"))
    d.rotated.assign(static_cast<size_t>(d.depth), false);
  if (!k.reading() && !d.rotates_somewhere()) k.constant("rope_parameters", nullptr);
  k.skip({"linear_a_log_min", "linear_a_log_max", "linear_dt_min", "linear_dt_max",
          "linear_dt_init_floor", "linear_use_gate"});
}
Model olmo_hybrid_model(const Decoder& d) {
  Block b = llama_block(d);
  b.wiring = Wiring::branch;
  attention_of(b).qk_norm = b.norm, attention_of(b).qk_norm_joint = true;
  Model m = assemble(d, "olmo_hybrid", b);
  for (size_t i = 0; i < m.layers.size(); ++i)
    if (d.recurs(i)) m.layers[i].wiring = Wiring::pre;
  return m;
}

/// MiniMax-01: lightning attention, softmax attention in each second layer, and experts; what goes
/// past a branch has been through its norm.
void minimax_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.eps = 1e-5f, d.context = 131'072, d.rope.theta = 1'000'000, d.kv_heads = 8;
  one_width(d);
  llama_like(k, d);
  k(d.window, {"sliding_window"});
  Lightning m = recurrent_of(k, d, Lightning{});
  m.heads = d.heads, m.head_dim = d.head_dim;
  k(m.block, {"block_size"});
  if (k.reading()) {  // decays are buffers, in the type of the weights
    std::string type;
    k(type, {"dtype", "torch_dtype"});
    m.decays = enum_value<Decays>(type).value_or(Decays::exact);
  }
  d.recurrent = m;
  recurrent_where(k, d, [](int i) { return i % 2 != 0; });
  k.layer_kinds(d, "linear_attention");
  k(d.attention_scales.stream, {"full_attn_alpha_factor"});
  k(d.attention_scales.branch, {"full_attn_beta_factor"});
  k(d.recurrent_scales.stream, {"linear_attn_alpha_factor"});
  k(d.recurrent_scales.branch, {"linear_attn_beta_factor"});
  k(d.ffn_scales.stream, {"mlp_alpha_factor"});
  k(d.ffn_scales.branch, {"mlp_beta_factor"});
  expert_sizes(k, d, {.hidden = d.hidden}, kLocalExperts);
  k.skip({"router_jitter_noise"});
}
Model minimax_model(const Decoder& d) {
  Model m = with_experts(d, "minimax", llama_block(d));
  for (size_t i = 0; i < m.layers.size(); ++i) {
    Block& b = m.layers[i];
    const auto& mixer = d.recurs(i) ? d.recurrent_scales : d.attention_scales;
    b.wiring = Wiring::chain, b.stream_scale = mixer.stream, b.branch_scale = mixer.branch;
    b.ffn_stream_scale = d.ffn_scales.stream, b.ffn_branch_scale = d.ffn_scales.branch;
  }
  return m;
}

void kimi_linear_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.eps = 1e-5f, d.context = 1'048'576;
  mla_like(k, d, Mla{.kv_rank = 512}, false);
  k(d.context, {"model_max_length"});
  KimiDelta m = recurrent_of(k, d, KimiDelta{.heads = 32, .head_dim = 128});
  std::vector<int> full, linear;
  if (k.reading())
    k.inside("linear_attn_config", [&](Keys& in) {
      in(m.head_dim, {"head_dim"});
      in(m.heads, {"num_heads"});
      in(m.conv, {"short_conv_kernel_size"});
      in(full, {"full_attn_layers"});
      in(linear, {"kda_layers"});
    });
  k(m.head_dim, {"linear_head_dim"});
  k(m.heads, {"linear_num_heads"});
  k(m.conv, {"linear_conv_kernel_dim"});
  m.norm_eps = d.eps;
  d.recurrent = m;
  recurrent_where(k, d, [&](int i) {  // layers are counted from 1 there
    return full.empty() ? i == 0 || i % 4 != 0
                        : std::find(full.begin(), full.end(), i + 1) == full.end();
  });
  k.layer_kinds(d, "linear_attention");
  Moe defaults = kDeepseekV3;
  defaults.hidden = 1024, defaults.scale = 2.446f;
  kimi_experts(k, d, defaults, 1);
  k.skip({"moe_layer_freq", "moe_router_activation_func", "mla_use_nope", "use_grouped_topk",
          "num_nextn_predict_layers", "norm_topk_prob", "rope_theta", "rope_scaling"});
}
Model kimi_linear_model(const Decoder& d) {
  Block b = mla_block(d);
  std::get<Mla>(b.mixer).position = NoPosition{};
  return with_experts(d, "kimi_linear", b);
}

}  // namespace

std::vector<HfClass> recurrent_classes() {
  return {
      {"mamba", "MambaForCausalLM", "mamba", mamba_keys, mamba_model},
      {"mamba2", "Mamba2ForCausalLM", "mamba2", mamba2_keys, mamba2_model},
      {"bamba", "BambaForCausalLM", "bamba", bamba_keys, bamba_model},
      {"jamba", "JambaForCausalLM", "jamba", jamba_keys, jamba_model},
      {"lfm2", "Lfm2ForCausalLM", "lfm2", lfm2_dense_keys, lfm2_model},
      {"qwen3_next", "Qwen3NextForCausalLM", "qwen3_next", qwen3_next_keys, qwen3_next_model},
      {"qwen3_5_text", "Qwen3_5ForCausalLM", "qwen3_5", qwen3_5_keys, qwen3_5_model},
      {"qwen3_5_moe_text", "Qwen3_5MoeForCausalLM", "qwen3_5_moe", qwen3_5_moe_keys,
       qwen3_5_moe_model},
      {"granitemoehybrid", "GraniteMoeHybridForCausalLM", "granitemoehybrid", granitemoehybrid_keys,
       granitemoehybrid_model},
      {"olmo_hybrid", "OlmoHybridForCausalLM", "olmo_hybrid", olmo_hybrid_keys, olmo_hybrid_model},
      {"minimax", "MiniMaxForCausalLM", "minimax", minimax_keys, minimax_model},
      {"kimi_linear", "KimiLinearForCausalLM", "kimi_linear", kimi_linear_keys, kimi_linear_model},
      {"lfm2_moe", "Lfm2MoeForCausalLM", "lfm2_moe", lfm2_moe_keys, lfm2_moe_model},
  };
}

}  // namespace lmxlab::config
