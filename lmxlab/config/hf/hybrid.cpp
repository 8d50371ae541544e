// Hybrids whose blocks are put together otherwise than by a mixer and an FFN in turn.
#include "lmxlab/config/hf/shared.h"
#include "lmxlab/config/presets/families.h"

#include <algorithm>

namespace lmxlab::config {
namespace {

/// Nemotron-H (arXiv:2504.03624): each block is Mamba-2, attention, an FFN or experts.
struct Part {
  char letter;
  const char *name, *old_name;
};
constexpr Part kParts[] = {{'M', "linear_attention", "mamba"},
                           {'*', "full_attention", "attention"},
                           {'-', "mlp", "mlp"},
                           {'E', "moe", "moe"}};

char part_of(const Decoder& d, size_t i) {
  if (!d.mixes[i]) return d.sparse[i] ? 'E' : '-';
  return d.recurs(i) ? 'M' : '*';
}
std::string nemotron_pattern(Keys& k, const Decoder& d) {
  std::string pattern;
  if (!k.reading()) {
    // A block of two parts has no letter: what is read is then another model.
    std::vector<std::string> names;
    for (size_t i = 0; i < static_cast<size_t>(d.depth); ++i)
      for (const Part& p : kParts)
        if (p.letter == part_of(d, i)) names.emplace_back(p.name), pattern += p.letter;
    k(names, {"layers_block_type"});
    return pattern;
  }
  k(pattern, {"hybrid_override_pattern"});
  std::vector<std::string> names;
  k(names, {"layers_block_type", "layer_types"});
  if (names.empty() && pattern.empty()) pattern = "ME*-";
  if (!names.empty()) pattern.clear();
  for (const auto& name : names) {
    const auto* p = std::find_if(std::begin(kParts), std::end(kParts), [&](const Part& part) {
      return name == part.name || name == part.old_name;
    });
    if (p == std::end(kParts))
      k.refuse("layers_block_type: \"" + name +
               "\"; supported: linear_attention, full_attention, mlp, moe");
    else
      pattern += p->letter;
  }
  return pattern;
}

void nemotron_h_keys(Keys& k, Decoder& d) {
  if (k.reading()) {
    d.eps = 1e-5f, d.context = 4096, d.kv_heads = 8, d.head_dim = 128, d.hidden = 21'504;
    d.act = Act::relu2;
  }
  const std::string pattern = nemotron_pattern(k, d);
  if (k.reading()) {
    d.depth = static_cast<int>(std::min<size_t>(pattern.size(), kMaxDepth));
    if (pattern.size() > kMaxDepth)
      k.wrong("layers_block_type: expected at most " + std::to_string(kMaxDepth) + " layers, got " +
              std::to_string(pattern.size()));
    const auto where = [&](const char* letters) {
      return layers_where(d, [&](int i) {
        return std::string_view(letters).find(pattern[static_cast<size_t>(i - 1)]) !=
               std::string_view::npos;
      });
    };
    d.mixes = where("M*"), d.feeds = where("-E"), d.recurrent_layers = where("M");
    d.sparse = where("E"), d.rotated.assign(pattern.size(), false);
    for (const char c : pattern)
      if (std::string_view("M*-E").find(c) == std::string_view::npos)
        k.refuse(std::string("hybrid_override_pattern: '") + c + "'; supported: M, *, -, E");
  }
  k.require(d.vocab, {"vocab_size"});
  k(d.context, {"max_position_embeddings"});
  k.require(d.dim, {"hidden_size"});
  k(d.heads, {"num_attention_heads"});
  k(d.kv_heads, {"num_key_value_heads"});
  k(d.head_dim, {"head_dim", "attention_head_dim"});
  k(d.hidden, {"intermediate_size"});
  k(d.eps, {"layer_norm_epsilon", "rms_norm_eps"});
  k(d.tie, {"tie_word_embeddings"});
  k(d.init_std, {"initializer_range"});
  k.act(d.act, {"mlp_hidden_act"});
  k.constant("attention_bias", false);  // whatever is said: the class has none
  k(d.mlp_bias, {"mlp_bias"});
  Mamba2 m = mamba2_keys_of(k, d, {.heads = 128, .groups = 8},
                            {{"mamba_num_heads"},
                             {"mamba_head_dim"},
                             {"n_groups", "mamba_n_groups"},
                             {"ssm_state_size"},
                             {"conv_kernel", "mamba_d_conv"},
                             {"use_bias"},
                             {"use_conv_bias", "mamba_conv_bias"}});
  m.groups = std::max(1, m.groups);
  d.recurrent = m;
  Moe defaults{.experts = 8, .top_k = 2, .hidden = 7688, .gated = false};
  defaults.scoring = Scoring::sigmoid, defaults.selection_bias = true, defaults.normalize = 1;
  defaults.norm_eps = 1e-20f, defaults.shared = 7688;
  const bool sparse = std::find(d.sparse.begin(), d.sparse.end(), true) != d.sparse.end();
  expert_sizes(k, d, defaults,
               {{"n_routed_experts", "num_local_experts"},
                {"num_experts_per_tok"},
                {"moe_intermediate_size"}});
  k(d.moe->shared, {"moe_shared_expert_intermediate_size"});
  deepseek_router(k, d);
  std::optional<int> latent = d.moe->latent > 0 ? std::optional(d.moe->latent) : std::nullopt;
  k(latent, {"moe_latent_size"});
  d.moe->latent = latent.value_or(0), d.moe->shared_bias = d.mlp_bias;
  if (!sparse) d.moe.reset();
  k.skip({"sliding_window",
          "residual_in_fp32",
          "rescale_prenorm_residual",
          "num_logits_to_keep",
          "num_hidden_layers",
          "mamba_hidden_act",
          "mamba_proj_bias",
          "mamba_ssm_cache_dtype",
          "n_shared_experts",
          "moe_shared_expert_overlap",
          "mtp_layers_block_type",
          "num_nextn_predict_layers",
          "time_step_min",
          "time_step_max",
          "time_step_floor",
          "use_mamba_kernels",
          "chunk_size",
          "expand",
          "hidden_dropout",
          "mamba_expand",
          "mamba_chunk_size",
          "mtp_hybrid_override_pattern"});
}
Model nemotron_h_model(const Decoder& d) {
  Block b = llama_block(d);
  mlp_of(b).gated = false;
  return d.moe ? with_experts(d, "nemotron_h", b) : assemble(d, "nemotron_h", b);
}

/// Ling 3: Kimi delta attention, and gated latent attention in the last layer of each group.
void bailing_hybrid_keys(Keys& k, Decoder& d) {
  if (k.reading()) d.context = 262'144, d.rope.theta = 6'000'000, d.hidden = 6144;
  const Mla defaults{.gate = true};
  mla_like(k, d, defaults, false);
  k(d.context, {"model_max_length"});
  KimiDelta m =
      recurrent_of(k, d, KimiDelta{.heads = d.mla->heads, .head_dim = 128, .low_rank = false});
  if (k.reading()) k(m.head_dim, {"head_dim"}), m.lower_bound = -5.f;
  k(m.head_dim, {"linear_head_dim"});
  k(m.heads, {"linear_num_heads"});
  k(m.conv, {"short_conv_kernel_size"});
  k(m.conv, {"linear_conv_kernel_dim"});
  bool bounded = m.lower_bound.has_value();
  float bound = m.lower_bound.value_or(-5.f);
  k(bounded, {"kda_safe_gate"});
  k(bound, {"kda_lower_bound"});
  m.lower_bound = bounded ? std::optional(bound) : std::nullopt;
  m.norm_eps = d.eps;
  d.recurrent = m;
  int group = 6;
  if (k.reading()) k(group, {"layer_group_size"});
  if (group < 1) k.wrong("layer_group_size: expected at least 1"), group = 6;
  recurrent_where(k, d, [&](int i) { return (i + 1) % group != 0; });
  k.layer_kinds(d, "linear_attention");
  Moe experts = kDeepseekV3;
  experts.experts = 512, experts.hidden = 768, experts.scale = 2.5f;
  experts.groups = 8, experts.groups_kept = 4;
  kimi_experts(k, d, experts, 2);
  k.skip({"num_nextn_predict_layers", "mtp_loss_scaling_factor", "num_mtp_layers"});
}
Model bailing_hybrid_model(const Decoder& d) {
  return with_experts(d, "bailing_hybrid", mla_block(d));
}

/// Falcon-H1: attention and Mamba-2 side by side, and a multiplier everywhere.
void falcon_h1_keys(Keys& k, Decoder& d) {
  if (k.reading()) {
    d.eps = 1e-5f, d.context = 8192, d.kv_heads = 8, d.hidden = 14'336;
  }
  sizes(k, d);
  k.act(d.act, {"hidden_act"});
  k(d.eps, {"rms_norm_eps"});
  k.rope(d);
  k(d.attention_bias, {"attention_bias"});
  k(d.mlp_bias, {"mlp_bias"});
  Parallel p;
  if (const auto* own = d.blocks.empty() ? nullptr : std::get_if<Parallel>(&d.blocks[0].mixer))
    p = *own;
  k.constant("mamba_expand", 2);
  int inner = k.reading() ? 1024 : product(p.mamba.heads, p.mamba.head_dim);
  if (k.reading() && k.is_null("mamba_d_ssm")) {
    int expand = 2;
    k(expand, {"mamba_expand"});
    inner = product(expand, d.dim);
  }
  k(inner, {"mamba_d_ssm"});
  Mamba2 m = recurrent_of(k, d, Mamba2{.heads = 128, .groups = 1, .state = 256, .norm = false});
  if (k.reading()) m.norm_before_gate = true;
  k(m.heads, {"mamba_n_heads"});
  if (k.reading() && m.heads > 0) m.head_dim = inner / m.heads;
  k.number_or_word(m.head_dim, {"mamba_d_head"});
  k(m.groups, {"mamba_n_groups"});
  k(m.state, {"mamba_d_state"});
  k(m.conv, {"mamba_d_conv"});
  k(m.in_bias, {"mamba_proj_bias"});
  k(m.conv_bias, {"mamba_conv_bias"});
  k(m.out_bias, {"projectors_bias"});
  k(m.norm, {"mamba_rms_norm"});
  k(m.norm_before_gate, {"mamba_norm_before_gate"});
  if (!m.norm) m.norm_before_gate = false;
  m.norm_eps = d.eps;
  k.limits(m.dt_min, m.dt_max, "time_step_limit");
  std::vector<float> scales = m.scales;
  if (scales.empty()) scales.assign(5, 1.f);
  k(scales, {"ssm_multipliers"});
  if (scales.size() != 5)
    k.wrong("ssm_multipliers: expected five numbers, got " + std::to_string(scales.size()));
  const bool plain = std::all_of(scales.begin(), scales.end(), [](float s) { return s == 1; });
  m.scales = plain ? std::vector<float>{} : scales;
  p.mamba = m;
  k(p.mamba_in, {"ssm_in_multiplier"});
  k(p.mamba_out, {"ssm_out_multiplier"});
  k(p.attention_in, {"attention_in_multiplier"});
  k(p.attention_out, {"attention_out_multiplier"});
  k(d.k_scale, {"key_multiplier"});
  k(d.embed_scale, {"embedding_multiplier"});
  k(d.logit_scale, {"lm_head_multiplier"});
  // Of the gate before its activation, and of what the FFN gives.
  std::vector<float> ffn{1, 1};
  if (!k.reading() && !d.blocks.empty())
    if (const auto* mlp = std::get_if<Mlp>(&d.blocks[0].ffn))
      ffn = {mlp->gate_scale, d.ffn_scales.branch};
  k(ffn, {"mlp_multipliers"});
  if (ffn.size() == 2)
    d.gate_scale = ffn[0], d.ffn_scales.branch = ffn[1];
  else
    k.wrong("mlp_multipliers: expected two numbers, got " + std::to_string(ffn.size()));
  d.parallel = p;
  k.skip({"mamba_chunk_size", "num_logits_to_keep"});
}
Model falcon_h1_model(const Decoder& d) {
  Block b = llama_block(d);
  Parallel p = *d.parallel;
  p.attention = attention_of(b);
  b.mixer = p;
  mlp_of(b).gate_scale = d.gate_scale;
  if (d.ffn_scales.branch != 1) b.ffn_branch_scale = d.ffn_scales.branch;
  return assemble(d, "falcon_h1", b);
}

/// Zamba2: Mamba-2, in some layers behind one of a few transformers that they share.
void zamba2_keys(Keys& k, Decoder& d) {
  if (k.reading()) {
    d.eps = 1e-5f, d.context = 4096, d.heads = 32, d.tie = true, d.act = Act::gelu;
  }
  SharedBlock s;
  if (!d.shared_blocks.empty()) {
    s = d.shared_blocks[0];
    d.heads = s.attention.heads, d.kv_heads = s.attention.kv_heads;
    d.head_dim = s.attention.head_dim, d.hidden = s.mlp.hidden, d.act = s.mlp.act;
    if (const auto* r = std::get_if<Rope>(&s.attention.position)) d.rope = *r;
  }
  k.require(d.vocab, {"vocab_size"});
  k(d.context, {"max_position_embeddings"});
  k.require(d.dim, {"hidden_size"});
  k(d.heads, {"num_attention_heads"});
  if (k.reading()) {
    d.kv_heads = d.heads, d.hidden = product(4, d.dim);
    d.head_dim = d.heads > 0 ? product(2, d.dim) / d.heads : 0;
  }
  k(d.kv_heads, {"num_key_value_heads"});
  k(d.head_dim, {"attention_head_dim", "head_dim"});
  k(d.hidden, {"intermediate_size"});
  k(d.tie, {"tie_word_embeddings"});
  k(d.init_std, {"initializer_range"});
  k.act(d.act, {"hidden_act"});
  k(d.eps, {"rms_norm_eps"});
  std::vector<std::string> types;
  if (!k.reading())
    for (const bool hybrid : d.hybrids) types.emplace_back(hybrid ? "hybrid" : "linear_attention");
  k(types, {"layers_block_type", "layer_types"});
  if (k.reading() && types.empty()) {
    types.emplace_back("mamba");
    const auto group = [&](int mambas, int times) {
      for (int t = 0; t < times; ++t) {
        types.insert(types.end(), static_cast<size_t>(mambas), "mamba");
        types.emplace_back("hybrid");
      }
    };
    group(5, 7), group(4, 1), group(3, 1);
    types.insert(types.end(), 2, "mamba");
  }
  d.depth = static_cast<int>(std::min<size_t>(types.size(), kMaxDepth));
  d.hybrids.clear();
  for (const auto& t : types) {
    d.hybrids.push_back(t == "hybrid");
    if (t != "hybrid" && t != "linear_attention" && t != "mamba")
      k.refuse("layers_block_type: \"" + t + "\"; supported: linear_attention, hybrid");
  }
  d.hybrids.resize(static_cast<size_t>(d.depth));
  k.constant("num_hidden_layers", d.depth);
  bool bias = s.mlp.bias, rotates = std::holds_alternative<Rope>(s.attention.position);
  if (k.reading()) rotates = false;
  int blocks = std::max<int>(1, static_cast<int>(d.shared_blocks.size()));
  k(bias, {"add_bias_linear"});
  k(blocks, {"num_mem_blocks"});
  k(s.rank, {"adapter_rank"});
  k(s.attention_additions, {"use_shared_attention_adapter"});
  k(rotates, {"use_mem_rope"});
  k.rope(d);
  k.only("use_long_context", false, "the longer context of a changed rotation");
  s.attention = {.heads = d.heads, .kv_heads = d.kv_heads, .head_dim = d.head_dim};
  s.attention.scale = 1 / std::sqrt(static_cast<float>(d.head_dim) / 2);
  s.attention.position = rotates ? Position(d.rope) : Position(NoPosition{});
  s.mlp = {.hidden = d.hidden, .act = d.act, .bias = bias};
  s.norm = RmsNorm{.eps = d.eps};
  const auto hybrids = std::count(d.hybrids.begin(), d.hybrids.end(), true);
  if (blocks < 1) k.wrong("num_mem_blocks: expected at least 1, got " + std::to_string(blocks));
  blocks = static_cast<int>(std::clamp<int64_t>(blocks, 0, hybrids));
  d.shared_blocks.assign(static_cast<size_t>(blocks), s);
  Mamba2 m = recurrent_of(k, d, Mamba2{.heads = 8, .groups = 1, .state = 64, .conv_bias = true});
  k(m.heads, {"n_mamba_heads"});
  int expand = d.dim > 0 ? product(m.heads, m.head_dim) / d.dim : 2;
  if (k.reading()) expand = 2;
  k(expand, {"mamba_expand"});
  if (k.reading() && m.heads > 0) m.head_dim = product(expand, d.dim) / m.heads;
  k(m.head_dim, {"mamba_headdim"});
  k(m.groups, {"mamba_ngroups"});
  k(m.state, {"mamba_d_state"});
  k(m.conv, {"mamba_d_conv"});
  if (k.reading()) m.dt_min = 0.001f;
  k(m.dt_min, {"time_step_min"});
  m.in_bias = m.out_bias = bias;
  d.recurrent = m;
  k.skip({"num_hidden_layers",
          "hybrid_layer_ids",
          "attention_hidden_size",
          "kv_channels",
          "num_query_groups",
          "num_logits_to_keep",
          "time_step_max",
          "time_step_floor",
          "use_conv_bias",
          "use_mamba_kernels",
          "use_mem_eff_path",
          "chunk_size",
          "ffn_hidden_size",
          "state_size",
          "conv_dimension",
          "mamba_headdim",
          "use_shared_mlp_adapter",
          "use_shared_block_lora",
          "lora_rank",
          "time_step_limit"});
}
Model zamba2_model(const Decoder& d) {
  Block b = llama_block(d);
  b.ffn = Nothing{};
  Model m = assemble(d, "zamba2", b);
  m.shared_blocks = d.shared_blocks;
  const int blocks = static_cast<int>(d.shared_blocks.size());
  for (size_t i = 0, seen = 0; i < m.layers.size(); ++i)
    if (d.hybrids[i]) m.layers[i].shared = static_cast<int>(seen++) % blocks;
  return m;
}

}  // namespace

std::vector<HfClass> hybrid_classes() {
  return {
      {"nemotron_h", "NemotronHForCausalLM", "nemotron_h", nemotron_h_keys, nemotron_h_model},
      {"bailing_hybrid", "BailingHybridForCausalLM", "bailing_hybrid", bailing_hybrid_keys,
       bailing_hybrid_model},
      {"zamba2", "Zamba2ForCausalLM", "zamba2", zamba2_keys, zamba2_model},
      {"falcon_h1", "FalconH1ForCausalLM", "falcon_h1", falcon_h1_keys, falcon_h1_model},
  };
}

}  // namespace lmxlab::config
