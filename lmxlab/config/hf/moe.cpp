// Mixtures of experts.
#include "lmxlab/config/hf/shared.h"

#include <algorithm>

namespace lmxlab::config {

void expert_sizes(Keys& k, Decoder& d, const Moe& defaults, const ExpertNames& names) {
  // A model without experts is asked too, whether it is of this class: it is not.
  if (k.reading() || !d.moe) d.moe = defaults;
  k(d.moe->experts, names.experts);
  k(d.moe->top_k, names.top_k);
  k(d.moe->hidden, names.hidden);
  // transformers adds the loss where logits of the router are asked for.
  bool balanced = d.moe->aux_loss > 0;
  float loss = k.reading() ? 0.001f : d.moe->aux_loss;
  k(balanced, {"output_router_logits"});
  k(loss, {"router_aux_loss_coef"});
  if (k.reading()) d.moe->aux_loss = balanced ? loss : 0;
  k.skip({"router_jitter_noise", "input_jitter_noise"});
}

void normalized(Keys& k, Decoder& d, const char* name) {
  bool whole = d.moe->normalize > 0;
  k(whole, {name});
  d.moe->normalize = whole ? 1.f : 0.f;
}

void first_dense(Keys& k, Decoder& d, const char* name, int otherwise) {
  int dense = otherwise;
  if (!k.reading())
    dense = static_cast<int>(std::find(d.sparse.begin(), d.sparse.end(), true) - d.sparse.begin());
  k(dense, {name});
  if (k.reading()) d.sparse = layers_where(d, [&](int i) { return i > dense; });
}

void shared_experts(Keys& k, Decoder& d, const char* name, int otherwise) {
  int shared = k.reading() || d.moe->hidden < 1 ? otherwise : d.moe->shared / d.moe->hidden;
  k(shared, {name});
  d.moe->shared = product(shared, d.moe->hidden);
}

void deepseek_router(Keys& k, Decoder& d) {
  k(d.moe->scale, {"routed_scaling_factor"});
  k(d.moe->groups, {"n_group"});
  k(d.moe->groups_kept, {"topk_group"});
  normalized(k, d, "norm_topk_prob");
}

const Moe kDeepseekV3{.experts = 256,
                      .top_k = 8,
                      .hidden = 2048,
                      .scoring = Scoring::sigmoid,
                      .selection_bias = true,
                      .normalize = 1,
                      .norm_eps = 1e-20f};
const ExpertNames kRoutedExperts{
    {"n_routed_experts", "num_local_experts"}, {"num_experts_per_tok"}, {"moe_intermediate_size"}};

void kimi_experts(Keys& k, Decoder& d, const Moe& defaults, int dense) {
  expert_sizes(k, d, defaults,
               {{"num_experts", "num_local_experts"},
                {"num_experts_per_token", "num_experts_per_tok"},
                {"moe_intermediate_size"}});
  shared_experts(k, d, "num_shared_experts", 1);
  k(d.moe->scale, {"routed_scaling_factor"});
  k(d.moe->groups, {"num_expert_group", "n_group"});
  k(d.moe->groups_kept, {"topk_group"});
  normalized(k, d, "moe_renormalize");
  first_dense(k, d, "first_k_dense_replace", dense);
  k.dense_or_sparse(d, "mlp_layer_types");
}

void deepseek_experts(Keys& k, Decoder& d, Moe defaults, const ExpertNames& names, int dense,
                      int shared) {
  expert_sizes(k, d, defaults, names);
  shared_experts(k, d, "n_shared_experts", shared);
  deepseek_router(k, d);
  first_dense(k, d, "first_k_dense_replace", dense);
  k.skip({"num_nextn_predict_layers", "num_mtp_layers", "ep_size", "moe_layer_freq", "scoring_func",
          "topk_method", "aux_loss_alpha", "seq_aux", "quantization_config"});
}

Model with_experts(Decoder d, const char* family, const Block& block) {
  d.moe->act = d.act;
  if (d.moe->normalize == 0) d.moe->norm_eps = d.moe->norm_min = 0;
  return assemble(d, family, block);
}

void qwen_layers(Keys& k, Decoder& d) {
  int step = 1;
  std::vector<int> dense;
  if (!k.reading())
    for (size_t i = 0; i < d.sparse.size(); ++i)
      if (!d.sparse[i]) dense.push_back(static_cast<int>(i));
  k(step, {"decoder_sparse_step"});
  k(dense, {"mlp_only_layers"});
  if (!k.reading()) return;
  if (step < 1) k.wrong("decoder_sparse_step: expected at least 1"), step = 1;
  d.sparse = layers_where(d, [&](int i) {
    return i % step == 0 && std::find(dense.begin(), dense.end(), i - 1) == dense.end();
  });
}
void one_width(Decoder& d) {
  if (d.moe) d.hidden = d.moe->hidden;
}
const ExpertNames kLocalExperts{
    {"num_local_experts", "num_experts"}, {"num_experts_per_tok"}, {"intermediate_size"}};

namespace {

const ExpertNames kQwen{
    {"num_experts", "num_local_experts"}, {"num_experts_per_tok"}, {"moe_intermediate_size"}};

void mixtral_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.eps = 1e-5f, d.context = 131'072, d.rope.theta = 1'000'000;
  one_width(d);
  llama_like(k, d);
  k(d.window, {"sliding_window"});
  expert_sizes(k, d, {.hidden = d.hidden}, kLocalExperts);
}
Model mixtral_model(const Decoder& d) {
  return with_experts(d, "mixtral", llama_block(d));
}

void qwen2_moe_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.qkv_bias = true, d.context = 32'768;
  llama_like(k, d);
  k(d.qkv_bias, {"qkv_bias"});
  qwen_window(k, d);
  expert_sizes(k, d,
               {.experts = 60,
                .top_k = 4,
                .hidden = 1408,
                .scoring = Scoring::softmax,
                .shared = 5632,
                .shared_gate = true},
               kQwen);
  k(d.moe->shared, {"shared_expert_intermediate_size"});
  normalized(k, d, "norm_topk_prob");
  qwen_layers(k, d);
}
Model qwen2_moe_model(const Decoder& d) {
  Block b = llama_block(d);
  attention_of(b).qkv_bias = d.qkv_bias, attention_of(b).out_bias = false;
  return with_experts(d, "qwen2_moe", b);
}
void qwen3_moe_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.context = 32'768;
  llama_like(k, d);
  k(d.attention_bias, {"attention_bias"});
  bool use = d.window.has_value();
  k(use, {"use_sliding_window"});
  k(d.window, {"sliding_window"});
  if (!use) d.window.reset();
  k.skip({"max_window_layers"});
  expert_sizes(k, d, {.experts = 128, .top_k = 8, .hidden = 768, .scoring = Scoring::softmax},
               kQwen);
  normalized(k, d, "norm_topk_prob");
  qwen_layers(k, d);
}
Model qwen3_moe_model(const Decoder& d) {
  Block b = llama_block(d);
  attention_of(b).qk_norm = b.norm;
  return with_experts(d, "qwen3_moe", b);
}

void olmoe_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.eps = 1e-5f, d.context = 4096;
  one_width(d);
  llama_like(k, d);
  k(d.attention_bias, {"attention_bias"});
  k(d.clip, {"clip_qkv"});
  expert_sizes(
      k, d, {.experts = 64, .top_k = 8, .hidden = d.hidden, .scoring = Scoring::softmax},
      {{"num_experts", "num_local_experts"}, {"num_experts_per_tok"}, {"intermediate_size"}});
  normalized(k, d, "norm_topk_prob");
}
Model olmoe_model(const Decoder& d) {
  Block b = llama_block(d);
  // The clip comes behind the norm there, and nothing that is normed is clipped in released models.
  attention_of(b).qk_norm = b.norm, attention_of(b).qk_norm_joint = true;
  return with_experts(d, "olmoe", b);
}

void dots1_keys(Keys& k, Decoder& d) {
  llama_like(k, d);
  k(d.attention_bias, {"attention_bias"});
  if (k.reading()) {
    int first = 62;
    k(d.window, {"sliding_window"});
    k(first, {"max_window_layers"});
    if (d.window) d.sliding = layers_where(d, [&](int i) { return i > first; });
  } else {
    k(d.window, {"sliding_window"});
  }
  k.layer_types(d);
  Moe defaults = kDeepseekV3;
  defaults.normalize = 0;
  deepseek_experts(k, d, defaults, kRoutedExperts, 0, 0);
}
Model dots1_model(const Decoder& d) {
  Block b = llama_block(d);
  attention_of(b).qk_norm = b.norm;
  return with_experts(d, "dots1", b);
}

void glm4_moe_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.eps = 1e-5f, d.context = 131'072;
  llama_like(k, d, {.share = 0.5f});
  k(d.attention_bias, {"attention_bias"});
  k(d.qk_norm, {"use_qk_norm"});
  deepseek_experts(k, d, kDeepseekV3, kRoutedExperts, 1, 1);
}
Model glm4_moe_model(const Decoder& d) {
  Block b = llama_block(d);
  attention_of(b).out_bias = false;
  if (d.qk_norm) attention_of(b).qk_norm = b.norm;
  return with_experts(d, "glm4_moe", b);
}

void ernie_moe_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.eps = 1e-5f, d.tie = true, d.rope.theta = 500'000, d.context = 131'072;
  llama_like(k, d);
  k(d.attention_bias, {"use_bias"});
  d.mlp_bias = d.attention_bias;
  expert_sizes(k, d,
               {.experts = 64,
                .top_k = 6,
                .hidden = 1536,
                .scoring = Scoring::softmax,
                .selection_bias = true,
                .normalize = 1,
                .norm_min = 1e-12f},
               {{"moe_num_experts"}, {"moe_k"}, {"moe_intermediate_size"}});
  shared_experts(k, d, "moe_num_shared_experts", 2);
  k(d.moe->norm_min, {"moe_norm_min"});
  d.moe->bias = d.moe->shared_bias = d.attention_bias;
  // Layers from `first` to `last`, each interval-th.
  int first = 1, last = -1, interval = 1;
  if (!k.reading()) {
    const auto sparse = std::find(d.sparse.begin(), d.sparse.end(), true);
    first = static_cast<int>(sparse - d.sparse.begin()), last = d.depth - 1;
  }
  k(first, {"moe_layer_start_index"});
  k(last, {"moe_layer_end_index"});
  k(interval, {"moe_layer_interval"});
  if (!k.reading()) return;
  if (last == -1) last = d.depth - 1;
  if (interval < 1) k.wrong("moe_layer_interval: expected at least 1"), interval = 1;
  d.sparse =
      layers_where(d, [&](int i) { return i % interval == 0 && i - 1 >= first && i - 1 <= last; });
}
Model ernie_moe_model(const Decoder& d) {
  Block b = llama_block(d);
  if (auto* r = std::get_if<Rope>(&attention_of(b).position)) r->interleaved = true;
  return with_experts(d, "ernie4_5_moe", b);
}

void hunyuan_moe_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.eps = 1e-5f;
  one_width(d);
  llama_like(k, d);
  k(d.attention_bias, {"attention_bias"});
  expert_sizes(
      k, d,
      {.experts = 1, .top_k = 1, .hidden = d.hidden, .scoring = Scoring::softmax, .normalize = 1},
      {{"num_experts"}, {"moe_topk"}, {"intermediate_size"}});
  d.moe->shared = d.moe->hidden;
  k.skip({"use_qk_norm", "eod_token_id", "sep_token_id"});
}
Model hunyuan_moe_model(const Decoder& d) {
  Block b = llama_block(d);
  attention_of(b).qk_norm = b.norm, attention_of(b).qk_norm_late = true;
  return with_experts(d, "hunyuan_v1_moe", b);
}

void minimax_m2_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.context = 196'608, d.rope.theta = 5'000'000;
  one_width(d);
  llama_like(k, d, {.share = 1.f, .share_key = "partial_rotary_factor"});
  expert_sizes(k, d,
               {.experts = 256,
                .top_k = 8,
                .hidden = d.hidden,
                .scoring = Scoring::sigmoid,
                .selection_bias = true,
                .normalize = 1},
               kLocalExperts);
  k.skip({"use_qk_norm", "qk_norm_type", "scoring_func", "use_routing_bias", "num_mtp_modules",
          "mtp_transformer_layers", "attn_type_list", "shared_intermediate_size", "rotary_dim",
          "use_mtp"});
}
Model minimax_m2_model(const Decoder& d) {
  Block b = llama_block(d);
  attention_of(b).qk_norm = b.norm, attention_of(b).qk_norm_joint = true;
  return with_experts(d, "minimax_m2", b);
}

void granitemoe_keys(Keys& k, Decoder& d) {
  one_width(d);
  llama_like(k, d);
  k(d.attention_bias, {"attention_bias"});
  granite_scales(k, d);
  expert_sizes(k, d, {.hidden = d.hidden}, kLocalExperts);
}
Model granitemoe_model(const Decoder& d) {
  return with_experts(d, "granitemoe", llama_block(d));
}
void granitemoeshared_keys(Keys& k, Decoder& d) {
  granitemoe_keys(k, d);
  k(d.moe->shared, {"shared_intermediate_size"});
}
Model granitemoeshared_model(const Decoder& d) {
  return with_experts(d, "granitemoeshared", llama_block(d));
}

void gpt_oss_keys(Keys& k, Decoder& d) {
  if (k.reading()) {
    d.eps = 1e-5f, d.context = 131'072, d.rope.theta = 150'000, d.attention_bias = true;
    d.window = 128, d.head_dim = 64;
  }
  one_width(d);
  llama_like(k, d);
  k(d.attention_bias, {"attention_bias"});
  k(d.window, {"sliding_window"});
  if (k.reading()) d.sliding = layers_where(d, [](int i) { return i % 2 == 1; });
  k.layer_types(d);
  Moe defaults{.experts = 128, .top_k = 4, .hidden = d.hidden, .bias = true, .clamp = 7.f};
  defaults.alpha = 1.702f, defaults.up_offset = 1, defaults.router_bias = true;
  expert_sizes(k, d, defaults, kLocalExperts);
  k(d.moe->clamp, {"swiglu_limit"});
  k(d.moe->alpha, {"swiglu_alpha"});
  k.skip({"initial_context_length", "experts_per_token"});
}
Model gpt_oss_model(const Decoder& d) {
  Block b = llama_block(d);
  attention_of(b).sinks = true;
  return with_experts(d, "gpt_oss", b);
}

void dbrx_keys(Keys& k, Decoder& d) {
  k.require(d.vocab, {"vocab_size"});
  k(d.context, {"max_seq_len"});
  k.require(d.dim, {"d_model"});
  k.depth(d.depth, {"n_layers"});
  k.require(d.heads, {"n_heads"});
  if (k.reading()) {
    d.head_dim = d.heads > 0 ? d.dim / d.heads : 0;
    d.eps = 1e-5f, d.rope.theta = 10'000;
  }
  if (k.reading() || !d.moe)
    d.moe =
        Moe{.experts = 4, .top_k = 1, .hidden = 3584, .scoring = Scoring::softmax, .normalize = 1};
  k.inside("attn_config", [&](Keys& a) {
    a(d.kv_heads, {"kv_n_heads"});
    a(d.clip, {"clip_qkv"});
    a(d.rope.theta, {"rope_theta"});  // the class's own key counts more
    a.skip({"attn_pdrop"});
  });
  k.inside("ffn_config", [&](Keys& f) {
    f(d.moe->experts, {"moe_num_experts"});
    f(d.moe->top_k, {"moe_top_k"});
    f(d.moe->hidden, {"ffn_hidden_size"});
    std::optional<float> norm = d.moe->normalize;
    if (d.moe->normalize == 0) norm.reset();
    if (f.reading() && f.present("moe_normalize_expert_weights")) norm.reset();  // null is none
    f(norm, {"moe_normalize_expert_weights"});
    d.moe->normalize = norm.value_or(0.f);
    f.inside("ffn_act_fn", [&](Keys& act) { act.act(d.act, {"name"}); });
    f.skip({"moe_jitter_eps", "moe_loss_weight", "hidden_size", "uniform_expert_assignment"});
  });
  k(d.tie, {"tie_word_embeddings"});
  k(d.dropout, {"resid_pdrop"});
  k.constant("emb_pdrop", d.dropout);
  k(d.init_std, {"initializer_range"});
  k.skip({"num_key_value_heads", "output_router_logits"});
  k.rope(d);
}
Model dbrx_model(const Decoder& d) {
  Block b = llama_block(d);
  b.norm = LayerNorm{.eps = d.eps, .bias = false};
  return with_experts(d, "dbrx", b);
}

void exaone_moe_keys(Keys& k, Decoder& d) {
  if (k.reading()) {
    d.eps = 1e-5f;
    if (!k.present("sliding_window")) d.window = 4096;
  }
  llama_like(k, d);
  pattern_keys(k, d, false);
  Moe defaults = kDeepseekV3;
  defaults.experts = 64, defaults.hidden = 1024, defaults.scale = 2.5f;
  expert_sizes(k, d, defaults, kQwen);
  shared_experts(k, d, "num_shared_experts", 1);
  deepseek_router(k, d);
  first_dense(k, d, "first_k_dense_replace", 1);
  k.dense_or_sparse(d, "mlp_layer_types");
  k.skip({"num_nextn_predict_layers"});
}
Model exaone_moe_model(const Decoder& d) {
  Block b = llama_block(d);
  attention_of(b).qk_norm = b.norm;
  return with_experts(d, "exaone_moe", b);
}

void solar_open_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.eps = 1e-5f, d.context = 131'072, d.head_dim = 128, d.hidden = 10'240;
  llama_like(k, d);
  k(d.attention_bias, {"attention_bias"});
  Moe defaults = kDeepseekV3;
  defaults.experts = 128, defaults.hidden = 1280;
  expert_sizes(k, d, defaults, kRoutedExperts);
  shared_experts(k, d, "n_shared_experts", 1);
  deepseek_router(k, d);
  k.skip({"first_k_dense_replace", "use_qk_norm", "num_nextn_predict_layers"});
}
Model solar_open_model(const Decoder& d) {
  Block b = llama_block(d);
  attention_of(b).out_bias = false;
  return with_experts(d, "solar_open", b);
}

void afmoe_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.eps = 1e-5f, d.context = 16'384, d.head_dim = 128, d.window = 1024;
  llama_like(k, d);
  k(d.attention_bias, {"attention_bias"});
  k(d.window, {"sliding_window"});
  int every = 4;
  k.pattern(every, {"global_attn_every_n_layers"});
  if (k.reading()) d.sliding = layers_where(d, [&](int i) { return i % every != 0; });
  k.layer_types(d);
  if (k.reading()) d.rotated = d.sliding;
  Moe defaults = kDeepseekV3;
  defaults.experts = 64, defaults.top_k = 6, defaults.hidden = 1408;
  expert_sizes(k, d, defaults, kQwen);
  shared_experts(k, d, "num_shared_experts", 2);
  k(d.moe->scale, {"route_scale"});
  first_dense(k, d, "num_dense_layers", 1);
  // Embeddings times the root of the width.
  bool scaled = d.embed_scale != 1;
  k(scaled, {"mup_enabled"});
  d.embed_scale = scaled ? std::sqrt(static_cast<float>(d.dim)) : 1.f;
  k.skip({"score_func", "route_norm", "n_group", "topk_group", "num_expert_groups",
          "num_limited_groups", "load_balance_coeff", "use_grouped_mm"});
}
Model afmoe_model(const Decoder& d) {
  Block b = llama_block(d);
  b.wiring = Wiring::sandwich;
  attention_of(b).qk_norm = b.norm, attention_of(b).gate = true;
  return with_experts(d, "afmoe", b);
}

void mellum_keys(Keys& k, Decoder& d) {
  if (k.reading()) {
    d.context = 131'072, d.head_dim = 128, d.rope.theta = 500'000;
    if (!k.present("sliding_window")) d.window = 1024;
  }
  sizes(k, d);
  k.act(d.act, {"hidden_act"});
  k(d.eps, {"rms_norm_eps"});
  k.rope_by_type(d);
  k(d.attention_bias, {"attention_bias"});
  k(d.window, {"sliding_window"});
  if (k.reading()) d.sliding.assign(static_cast<size_t>(d.depth), false);
  k.layer_types(d);
  expert_sizes(
      k, d, {.experts = 64, .top_k = 8, .hidden = 896, .scoring = Scoring::softmax, .normalize = 1},
      kQwen);
  normalized(k, d, "norm_topk_prob");
  k.dense_or_sparse(d, "mlp_layer_types");
  k.skip({"mtp_layer_types", "mtp_mlp_layer_types", "num_nextn_predict_layers", "num_mtp_layers"});
}
Model mellum_model(const Decoder& d) {
  Block b = llama_block(d);
  attention_of(b).qk_norm = b.norm;
  return with_experts(d, "mellum", b);
}

void phimoe_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.eps = 1e-5f, d.context = 131'072, d.rope.theta = 1'000'000;
  one_width(d);
  llama_like(k, d);
  k(d.attention_bias, {"attention_bias"});
  k(d.window, {"sliding_window"});
  Moe defaults{.experts = 16, .hidden = d.hidden, .scoring = Scoring::sparsemixer};
  if (k.reading()) k(defaults.jitter, {"router_jitter_noise"});
  expert_sizes(k, d, defaults, kLocalExperts);
  if (!k.reading()) k(d.moe->jitter, {"router_jitter_noise"});
  k(d.head_bias, {"lm_head_bias"});
  if (auto* l = std::get_if<LongRope>(&d.rope.scaling)) {
    l->long_factor = l->short_factor;  // transformers' class knows the long ones' magnitude alone
    k.constant("original_max_position_embeddings", l->original);
  } else {
    k.skip({"original_max_position_embeddings"});
  }
}
Model phimoe_model(const Decoder& d) {
  Block b = llama_block(d);
  b.norm = LayerNorm{.eps = d.eps};
  Model m = with_experts(d, "phimoe", b);
  m.head_bias = d.head_bias;
  return m;
}

void llama4_keys(Keys& k, Decoder& d) {
  if (k.reading()) {
    d.eps = 1e-5f, d.context = 131'072, d.head_dim = 128, d.qk_norm = true;
    if (!k.present("attention_chunk_size")) d.window = 8192;
    d.moe.emplace(), d.moe->hidden = 8192;
  } else if (!d.moe) {
    d.moe.emplace();
  }
  // intermediate_size is that of experts; dense layers have their own.
  std::swap(d.hidden, d.moe->hidden);
  llama_like(k, d);
  std::swap(d.hidden, d.moe->hidden);
  if (k.reading()) d.hidden = 16'384;
  k(d.hidden, {"intermediate_size_mlp"});
  k(d.attention_bias, {"attention_bias"});
  k(d.window, {"attention_chunk_size"});
  no_rope_layers(k, d);
  if (k.reading()) d.sliding = d.rotated;
  k.layer_types(d, "chunked_attention");
  k(d.qk_norm, {"use_qk_norm"});
  bool tuned = k.reading() || d.temperature;
  Temperature t = d.temperature.value_or(Temperature{.scale = 0.1f, .every = 8192, .first = 1});
  k(tuned, {"attn_temperature_tuning"});
  k(t.every, {"floor_scale"});
  k(t.scale, {"attn_scale"});
  d.temperature = tuned ? std::optional(t) : std::nullopt;
  Moe defaults{.experts = 16, .top_k = 1, .hidden = d.moe->hidden, .input_scaled = true};
  defaults.scoring = Scoring::sigmoid, defaults.shared = d.moe->hidden;
  expert_sizes(k, d, defaults,
               {{"num_local_experts"}, {"num_experts_per_tok"}, {"intermediate_size"}});
  std::vector<int> layers;
  if (k.reading()) {
    int step = 1;
    k(step, {"interleave_moe_layer_step"});
    for (int i = std::max(1, step) - 1; i < d.depth; i += std::max(1, step)) layers.push_back(i);
  } else {
    for (size_t i = 0; i < d.sparse.size(); ++i)
      if (d.sparse[i]) layers.push_back(static_cast<int>(i));
  }
  k(layers, {"moe_layers"});
  if (k.reading())
    d.sparse = layers_where(
        d, [&](int i) { return std::find(layers.begin(), layers.end(), i - 1) != layers.end(); });
  k.skip({"for_llm_compressor"});
}
Model llama4_model(const Decoder& d) {
  Block b = llama_block(d);
  auto& shared = attention_of(b);
  if (auto* r = std::get_if<Rope>(&shared.position)) r->interleaved = true;
  if (d.qk_norm)
    shared.qk_norm = RmsNorm{.eps = d.eps, .weight = false}, shared.qk_norm_late = true;
  Model m = with_experts(d, "llama4", b);
  for (auto& layer : m.layers) {
    auto& a = attention_of(layer);
    a.chunked = a.window.has_value();
    // What does not rotate grows instead, and has no norms.
    if (std::holds_alternative<Rope>(a.position))
      a.temperature.reset();
    else
      a.qk_norm.reset(), a.qk_norm_late = false;
  }
  return m;
}

}  // namespace

std::vector<HfClass> moe_classes() {
  return {
      {"mixtral", "MixtralForCausalLM", "mixtral", mixtral_keys, mixtral_model},
      {"qwen2_moe", "Qwen2MoeForCausalLM", "qwen2_moe", qwen2_moe_keys, qwen2_moe_model},
      {"qwen3_moe", "Qwen3MoeForCausalLM", "qwen3_moe", qwen3_moe_keys, qwen3_moe_model},
      {"olmoe", "OlmoeForCausalLM", "olmoe", olmoe_keys, olmoe_model},
      {"dots1", "Dots1ForCausalLM", "dots1", dots1_keys, dots1_model},
      {"glm4_moe", "Glm4MoeForCausalLM", "glm4_moe", glm4_moe_keys, glm4_moe_model},
      {"ernie4_5_moe", "Ernie4_5_MoeForCausalLM", "ernie4_5_moe", ernie_moe_keys, ernie_moe_model},
      {"hunyuan_v1_moe", "HunYuanMoEV1ForCausalLM", "hunyuan_v1_moe", hunyuan_moe_keys,
       hunyuan_moe_model},
      {"minimax_m2", "MiniMaxM2ForCausalLM", "minimax_m2", minimax_m2_keys, minimax_m2_model},
      {"granitemoe", "GraniteMoeForCausalLM", "granitemoe", granitemoe_keys, granitemoe_model},
      {"granitemoeshared", "GraniteMoeSharedForCausalLM", "granitemoeshared", granitemoeshared_keys,
       granitemoeshared_model},
      {"gpt_oss", "GptOssForCausalLM", "gpt_oss", gpt_oss_keys, gpt_oss_model},
      {"exaone_moe", "ExaoneMoeForCausalLM", "exaone_moe", exaone_moe_keys, exaone_moe_model},
      {"solar_open", "SolarOpenForCausalLM", "solar_open", solar_open_keys, solar_open_model},
      {"afmoe", "AfmoeForCausalLM", "afmoe", afmoe_keys, afmoe_model},
      {"mellum", "MellumForCausalLM", "mellum", mellum_keys, mellum_model},
      {"phimoe", "PhimoeForCausalLM", "phimoe", phimoe_keys, phimoe_model},
      {"llama4_text", "Llama4ForCausalLM", "llama4", llama4_keys, llama4_model},
      {"dbrx", "DbrxForCausalLM", "dbrx", dbrx_keys, dbrx_model},
  };
}

}  // namespace lmxlab::config
