// Multi-head latent attention: DeepSeek and its kin.
#include "lmxlab/config/hf/shared.h"

#include <algorithm>

namespace lmxlab::config {

std::optional<float> scale_of(const Mla& mla, const Rope& rope, float mscale_all) {
  const auto* y = std::get_if<Yarn>(&rope.scaling);
  if (!y || mscale_all == 0 || !(y->factor > 1)) return std::nullopt;
  const double m = 0.1 * double(mscale_all) * std::log(double(y->factor)) + 1;
  return static_cast<float>(m * m / std::sqrt(double(mla.nope_dim) + mla.rope_dim));
}
float mscale_of(const Mla& mla) {
  const auto* rope = std::get_if<Rope>(&mla.position);
  const auto* y = rope ? std::get_if<Yarn>(&rope->scaling) : nullptr;
  if (!mla.scale || !y || !(y->factor > 1)) return 0;
  const double m = std::sqrt(double(*mla.scale) * std::sqrt(double(mla.nope_dim) + mla.rope_dim));
  return static_cast<float>((m - 1) / (0.1 * std::log(double(y->factor))));
}

void mla_sizes(Keys& k, Decoder& d, const Mla& defaults, bool interleaved_key) {
  if (k.reading() || !d.mla) d.mla = defaults;
  k.require(d.vocab, {"vocab_size"});
  k(d.context, {"max_position_embeddings"});
  k.require(d.dim, {"hidden_size"});
  k.require(d.mla->heads, {"num_attention_heads"});
  k.constant("num_key_value_heads", d.mla->heads);
  if (k.reading() && k.present("q_lora_rank")) d.mla->q_rank.reset();  // null is none
  k(d.mla->q_rank, {"q_lora_rank"});
  k(d.mla->kv_rank, {"kv_lora_rank"});
  k(d.mla->nope_dim, {"qk_nope_head_dim"});
  k(d.mla->rope_dim, {"qk_rope_head_dim"});
  k(d.mla->v_dim, {"v_head_dim"});
  k.constant("head_dim", d.mla->rope_dim);
  k.constant("qk_head_dim", d.mla->nope_dim + d.mla->rope_dim);
  k.act(d.act, {"hidden_act"});
  k(d.eps, {"rms_norm_eps"});
  k(d.mla->bias, {"attention_bias"});
  k(d.tie, {"tie_word_embeddings"});
  k(d.init_std, {"initializer_range"});
  d.head_dim = d.mla->rope_dim;
  k.rope(d);
  bool interleaved = d.rope.interleaved;
  if (k.reading()) interleaved = std::get<Rope>(defaults.position).interleaved;
  if (interleaved_key) k(interleaved, {"rope_interleave"});
  d.rope.interleaved = interleaved;
}
void mla_like(Keys& k, Decoder& d, const Mla& defaults, bool interleaved_key) {
  mla_sizes(k, d, defaults, interleaved_key);
  k.depth(d.depth, {"num_hidden_layers"});
  if (k.reading() && d.hidden > 1)
    k(d.hidden, {"intermediate_size"});  // the class has a default
  else
    k.require(d.hidden, {"intermediate_size"});
}
Block mla_block(const Decoder& d) {
  Block b = llama_block(d);
  Mla mla = *d.mla;
  mla.position = d.rope;
  mla.scale = scale_of(mla, d.rope, d.mscale_all);
  b.mixer = mla;
  return b;
}

namespace {

void minicpm3_keys(Keys& k, Decoder& d) {
  Mla defaults{.q_rank = 768, .kv_rank = 256, .nope_dim = 64, .rope_dim = 32, .v_dim = 64};
  defaults.position = Rope{};
  if (k.reading()) d.tie = true, d.eps = 1e-5f;
  mla_like(k, d, defaults, false);
  if (k.reading() && !k.present("v_head_dim") && d.mla->heads > 0)
    d.mla->v_dim = d.dim / d.mla->heads;
  k(d.mlp_bias, {"mlp_bias"});
  // Branches times scale_depth / sqrt(layers), logits divided by dim / dim_model_base.
  const float root = std::sqrt(static_cast<float>(std::max(1, d.depth)));
  float depth = d.branch_scale * root;
  int scale = static_cast<int>(std::lround(d.embed_scale));
  int base = static_cast<int>(std::lround(d.logit_scale * static_cast<float>(d.dim)));
  if (k.reading()) depth = 1.4f, scale = 12, base = 256;
  k(depth, {"scale_depth"});
  k(scale, {"scale_emb"});
  k(base, {"dim_model_base"});
  d.branch_scale = depth / root, d.embed_scale = static_cast<float>(scale);
  if (d.dim > 0) d.logit_scale = static_cast<float>(base) / static_cast<float>(d.dim);
}
Model minicpm3_model(const Decoder& d) {
  return assemble(d, "minicpm3", mla_block(d));
}

void youtu_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.tie = true, d.context = 131'072, d.rope.theta = 1'600'000;
  mla_like(k, d, {.q_rank = 1536}, true);
  k.skip({"embedding_initializer_range"});
}
Model youtu_model(const Decoder& d) {
  return assemble(d, "youtu", mla_block(d));
}

void deepseek_v2_keys(Keys& k, Decoder& d) {
  mla_like(k, d, {.q_rank = 1536}, false);
  k(d.mlp_bias, {"mlp_bias"});
  std::string method = "greedy";
  if (!k.reading() && d.moe && d.moe->groups > 1) method = "group_limited_greedy";
  k(method, {"topk_method"});
  if (method != "greedy" && method != "group_limited_greedy")
    k.refuse("topk_method: \"" + method + "\"; supported: greedy, group_limited_greedy");
  deepseek_experts(k, d,
                   {.experts = 64,
                    .top_k = 6,
                    .hidden = 1407,
                    .scoring = Scoring::softmax,
                    .group_score = GroupScore::max},
                   kRoutedExperts, 0, 2);
  if (k.reading()) {
    // Whatever is said of sums: the class never divides.
    d.moe->normalize = 0;
    if (method == "greedy") d.moe->groups = d.moe->groups_kept = 1;
  }
}
Model deepseek_v2_model(const Decoder& d) {
  return with_experts(d, "deepseek_v2", mla_block(d));
}

void deepseek_v3_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.context = 4096;
  mla_like(k, d, {.q_rank = 1536}, true);
  Moe defaults = kDeepseekV3;
  defaults.groups = 8, defaults.groups_kept = 4, defaults.scale = 2.5f;
  deepseek_experts(k, d, defaults, kRoutedExperts, 3, 1);
}
Model deepseek_v3_model(const Decoder& d) {
  return with_experts(d, "deepseek_v3", mla_block(d));
}

void glm4_moe_lite_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.eps = 1e-5f, d.context = 202'752, d.rope.theta = 1'000'000;
  mla_like(k, d, {.q_rank = 768, .nope_dim = 192, .v_dim = 256}, true);
  Moe defaults = kDeepseekV3;
  defaults.experts = 64, defaults.top_k = 4, defaults.hidden = 1536, defaults.scale = 1.8f;
  deepseek_experts(k, d, defaults, kRoutedExperts, 1, 1);
  k.dense_or_sparse(d, "mlp_layer_types");
}
Model glm4_moe_lite_model(const Decoder& d) {
  return with_experts(d, "glm4_moe_lite", mla_block(d));
}

/// LongCat-Flash (arXiv:2509.01322): a layer is two of attention and FFN, and experts beside them
/// that read what the first FFN reads.
void longcat_flash_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.eps = 1e-5f, d.context = 131'072, d.rope.theta = 10'000'000, d.hidden = 12'288;
  mla_sizes(k, d, {.q_rank = 1536}, false);
  if (k.reading() && !d.mla->q_rank) k.wrong("q_lora_rank: missing"), d.mla->q_rank = 1;
  int pairs = d.depth / 2;
  k.depth(pairs, {"num_layers"});
  d.depth = 2 * pairs;
  k(d.hidden, {"ffn_hidden_size", "intermediate_size"});
  Moe defaults{.experts = 512, .top_k = 12, .hidden = 2048, .zero_experts = 256};
  defaults.scoring = Scoring::softmax, defaults.selection_bias = true, defaults.scale = 6;
  expert_sizes(k, d, defaults,
               {{"n_routed_experts", "num_local_experts"},
                {"moe_topk", "num_experts_per_tok"},
                {"expert_ffn_hidden_size", "moe_intermediate_size"}});
  if (k.reading() && k.is_null("zero_expert_num")) d.moe->zero_experts = 0;
  k(d.moe->zero_experts, {"zero_expert_num"});
  k(d.moe->scale, {"routed_scaling_factor"});
  k.only("router_bias", false, "the bias of a router");
  k.skip({"zero_expert_type", "num_hidden_layers", "attention_method", "mla_scale_q_lora",
          "mla_scale_kv_lora"});
}
Model longcat_flash_model(const Decoder& d) {
  Block b = mla_block(d);
  auto& mla = std::get<Mla>(b.mixer);
  const auto root = [&](int rank) {
    return std::sqrt(static_cast<float>(d.dim) / static_cast<float>(std::max(1, rank)));
  };
  mla.q_scale = root(*mla.q_rank), mla.kv_scale = root(mla.kv_rank);
  Decoder dense = d;
  dense.moe.reset();
  Model m = assemble(dense, "longcat_flash", b);
  Moe moe = *d.moe;
  moe.act = d.act;
  for (size_t i = 0; i < m.layers.size(); i += 2) m.layers[i].shortcut = moe;
  return m;
}

// Sizes of the indexer, and what both classes have fixed.
void indexed_keys(Keys& k, Decoder& d, const Indexer& defaults) {
  if (!d.mla->indexer) d.mla->indexer = defaults;
  k(d.mla->indexer->heads, {"index_n_heads"});
  k(d.mla->indexer->head_dim, {"index_head_dim"});
  k(d.mla->indexer->top_k, {"index_topk"});
  k.dense_or_sparse(d, "mlp_layer_types");
  // The class reads none of these: its FFNs have no biases, and all of its layers are alike.
  k.skip({"mlp_bias", "layer_types", "rope_interleave", "indexer_rope_interleave"});
}

void deepseek_v32_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.context = 163'840;
  const Mla defaults{.q_rank = 1536, .indexer = Indexer{}};
  mla_like(k, d, defaults, false);
  Moe moe = kDeepseekV3;
  moe.groups = 8, moe.groups_kept = 4, moe.scale = 2.5f;
  deepseek_experts(k, d, moe, kRoutedExperts, 3, 1);
  indexed_keys(k, d, *defaults.indexer);
}
Model deepseek_v32_model(const Decoder& d) {
  return with_experts(d, "deepseek_v32", mla_block(d));
}

void glm_moe_dsa_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.eps = 1e-5f, d.context = 202'752;
  const Mla defaults{.q_rank = 2048,
                     .nope_dim = 192,
                     .v_dim = 256,
                     .indexer = Indexer{.heads = 32, .interleaved = true}};
  mla_like(k, d, defaults, false);
  Moe moe = kDeepseekV3;
  moe.scale = 2.5f;
  deepseek_experts(k, d, moe, kRoutedExperts, 3, 1);
  indexed_keys(k, d, *defaults.indexer);
  k.indexer_types(d);
}
Model glm_moe_dsa_model(const Decoder& d) {
  Model m = with_experts(d, "glm_moe_dsa", mla_block(d));
  for (size_t i = 0; i < std::min(m.layers.size(), d.shared_choice.size()); ++i)
    if (d.shared_choice[i]) std::get<Mla>(m.layers[i].mixer).indexer->shared = true;
  return m;
}

}  // namespace

std::vector<HfClass> mla_classes() {
  return {
      {"minicpm3", "MiniCPM3ForCausalLM", "minicpm3", minicpm3_keys, minicpm3_model},
      {"youtu", "YoutuForCausalLM", "youtu", youtu_keys, youtu_model},
      {"deepseek_v2", "DeepseekV2ForCausalLM", "deepseek_v2", deepseek_v2_keys, deepseek_v2_model},
      {"deepseek_v3", "DeepseekV3ForCausalLM", "deepseek_v3", deepseek_v3_keys, deepseek_v3_model},
      {"kimi_k2", "DeepseekV3ForCausalLM", "deepseek_v3", deepseek_v3_keys, deepseek_v3_model},
      {"longcat_flash", "LongcatFlashForCausalLM", "longcat_flash", longcat_flash_keys,
       longcat_flash_model},
      {"glm4_moe_lite", "Glm4MoeLiteForCausalLM", "glm4_moe_lite", glm4_moe_lite_keys,
       glm4_moe_lite_model},
      {"deepseek_v32", "DeepseekV32ForCausalLM", "deepseek_v32", deepseek_v32_keys,
       deepseek_v32_model},
      {"glm_moe_dsa", "GlmMoeDsaForCausalLM", "glm_moe_dsa", glm_moe_dsa_keys, glm_moe_dsa_model},
  };
}

}  // namespace lmxlab::config
