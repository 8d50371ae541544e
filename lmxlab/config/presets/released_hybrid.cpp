// Models with recurrent mixers, alone or beside attention. Sizes as in released_llama.cpp.
#include "lmxlab/config/presets/released.h"

namespace lmxlab::config {
namespace {

const char* const kTinyMamba = R"({"vocab_size":256,"hidden_size":64,"num_hidden_layers":2,
  "state_size":16})";
// Of Bamba's names: heads of 16, which make twice the width.
const char* const kTinyMamba2 = R"({"mamba_n_heads":8,"mamba_d_head":16,"mamba_d_state":16})";
const char* const kTinyDelta = R"({"num_hidden_layers":4,"linear_num_value_heads":4,
  "linear_num_key_heads":2,"linear_key_head_dim":16,"linear_value_head_dim":16})";
const char* const kTinyExperts = R"({"num_experts":4,"num_experts_per_tok":2,
  "moe_intermediate_size":32})";
const char* const kTinyMla = R"({"vocab_size":256,"hidden_size":64,"num_hidden_layers":4,
  "num_attention_heads":4,"intermediate_size":128,"kv_lora_rank":16,"qk_nope_head_dim":16,
  "qk_rope_head_dim":8,"v_head_dim":16,"linear_num_heads":4,"linear_head_dim":16,
  "num_experts":4,"num_experts_per_token":2,"moe_intermediate_size":32,
  "model_max_length":128,"first_k_dense_replace":1})";
const char* const kQwen35 = R"({"rope_theta":10000000})";
const char* const kGraniteH = R"({"tie_word_embeddings":true,"embedding_multiplier":12,
  "residual_multiplier":0.22,"rms_norm_eps":1e-5,"mamba_d_head":64,"mamba_d_state":128})";
const char* const kGraniteLayers = "mmmmmfmmmmmmmmmfmmmmmmmmmfmmmmmmmmmfmmmm";
const char* const kLfm2Layers = "ccfccfccfcfcfcfc";
const char* const kNemotron3 = R"({"vocab_size":131072,"num_key_value_heads":2,"head_dim":128,
  "max_position_embeddings":262144,"mamba_head_dim":64,"n_groups":8,"ssm_state_size":128})";

std::string mamba(int dim, int depth) {
  return R"({"vocab_size":50280,"hidden_size":)" + std::to_string(dim) +
         R"(,"num_hidden_layers":)" + std::to_string(depth) + "}";
}
std::string mamba2(int dim, int depth) {
  return R"({"vocab_size":50288,"n_groups":1,"tie_word_embeddings":true,"hidden_size":)" +
         std::to_string(dim) + R"(,"num_hidden_layers":)" + std::to_string(depth) +
         R"(,"num_heads":)" + std::to_string(dim / 32) + "}";
}
std::string rwkv(int dim, int depth) {
  return R"({"vocab_size":50277,"hidden_size":)" + std::to_string(dim) +
         R"(,"num_hidden_layers":)" + std::to_string(depth) + "}";
}
/// Softmax attention in each n-th layer.
std::string full_each(int n, int depth) {
  std::string letters;
  for (int i = 1; i <= depth; ++i) letters += i % n == 0 ? 'f' : 'l';
  return layer_types(letters, "linear_attention");
}
/// Of Zamba2-7B: shared blocks behind 6, 4 and then each 5 layers.
std::string zamba2_layers() {
  std::string list;
  for (int i = 0; i < 81; ++i)
    list +=
        std::string(i ? "," : "") + (i == 6 || (i > 6 && i % 6 == 5) ? "\"hybrid\"" : "\"mamba\"");
  return R"({"layers_block_type":[)" + list + "]}";
}
/// MiniMax-Text-01 rotates half of each head; its class has no key for that.
void rotate_half_of_heads(Model& m) {
  for (Block& b : m.layers)
    if (auto* a = std::get_if<Attention>(&b.mixer))
      std::get<Rope>(a->position).dims = a->head_dim / 2;
}

}  // namespace

std::vector<ReleasedFamily> released_hybrid() {
  return {
      {"mamba",
       "mamba",
       {{"mamba-tiny", {kTinyMamba}},
        {"mamba-130m", {mamba(768, 24)}},
        {"mamba-370m", {mamba(1024, 48)}},
        {"mamba-790m", {mamba(1536, 48)}},
        {"mamba-1.4b", {mamba(2048, 48)}},
        {"mamba-2.8b", {mamba(2560, 64)}}}},
      {"mamba2",
       "mamba2",
       {{"mamba2-tiny",
         {kTinyMamba, R"({"num_heads":8,"head_dim":16,"n_groups":2,"tie_word_embeddings":true})"}},
        {"mamba2-130m", {mamba2(768, 24)}},
        {"mamba2-370m", {mamba2(1024, 48)}},
        {"mamba2-780m", {mamba2(1536, 48)}},
        {"mamba2-1.3b", {mamba2(2048, 48)}},
        {"mamba2-2.7b", {mamba2(2560, 64)}},
        {"codestral-mamba-7b",
         {R"({"vocab_size":32768,"hidden_size":4096,"num_hidden_layers":64})"}}}},
      {"rwkv",
       "rwkv",
       {{"rwkv-tiny", {R"({"vocab_size":256,"hidden_size":64,"num_hidden_layers":2,
          "intermediate_size":128,"context_length":128})"}},
        {"rwkv-4-169m", {rwkv(768, 12)}},
        {"rwkv-4-430m", {rwkv(1024, 24)}},
        {"rwkv-4-1.5b", {rwkv(2048, 24)}},
        {"rwkv-4-3b", {rwkv(2560, 32)}},
        {"rwkv-4-7b", {rwkv(4096, 32)}},
        {"rwkv-4-14b", {rwkv(5120, 40)}}}},
      {"xlstm",
       "xlstm",
       {{"xlstm-tiny", {R"({"vocab_size":256,"hidden_size":64,"num_hidden_layers":2,
          "num_heads":4,"ffn_proj_factor":2})"}},
        {"xlstm-7b", {R"({"vocab_size":50304,"hidden_size":4096,"num_hidden_layers":32})"}}}},
      {"recurrent_gemma",
       "recurrent_gemma",
       {{"recurrent-gemma-tiny", {R"({"vocab_size":256,"hidden_size":64,"num_hidden_layers":3,
          "num_attention_heads":4,"num_key_value_heads":1,"intermediate_size":256,
          "attention_window_size":16})"}},
        {"recurrentgemma-2b", {R"({"vocab_size":256000,"hidden_size":2560,
          "num_hidden_layers":26,"num_attention_heads":10,"num_key_value_heads":1,
          "intermediate_size":15360})"}},
        {"recurrentgemma-9b", {R"({"vocab_size":256000,"hidden_size":4096,
          "num_hidden_layers":38,"num_attention_heads":16,"num_key_value_heads":1,
          "intermediate_size":24576})"}}}},
      {"bamba",
       "bamba",
       {{"bamba-tiny", {kTiny, kTinyMamba2, R"({"attn_layer_indices":[1]})"}},
        {"bamba-9b",
         {shape(128000, 4096, 32, 32, 8, 14336, 262144),
          R"({"attn_layer_indices":[9,18,27],"mamba_d_state":128})"}}}},
      {"jamba",
       "jamba",
       {{"jamba-tiny", {kTiny, R"({"num_hidden_layers":4,"attn_layer_period":4,
          "attn_layer_offset":2,"num_experts":4})"}},
        {"jamba-v0.1-52b", {shape(65536, 4096, 32, 32, 8, 14336, 262144)}},
        {"jamba-1.5-large-398b", {shape(65536, 8192, 72, 64, 8, 24576, 262144)}}}},
      {"zamba2",
       "zamba2",
       {{"zamba2-tiny", {R"({"vocab_size":256,"hidden_size":64,"num_attention_heads":4,
          "intermediate_size":128,"max_position_embeddings":128,"adapter_rank":8,
          "n_mamba_heads":8,"mamba_d_state":16,"use_mem_rope":true,
          "layers_block_type":["mamba","hybrid","mamba"]})"}},
        {"zamba2-7b",
         {R"({"vocab_size":32000,"hidden_size":3584,"num_attention_heads":32,
          "intermediate_size":14336,"n_mamba_heads":112,"mamba_ngroups":2,"num_mem_blocks":2,
          "adapter_rank":128,"use_mem_rope":true})",
          zamba2_layers()}}}},
      {"lfm2",
       "lfm2",
       {{"lfm2-tiny",
         {kTiny, R"({"num_hidden_layers":3,"block_auto_adjust_ff_dim":false})",
          layer_types("cfc", "conv")}},
        {"lfm2-350m",
         {shape(65536, 1024, 16, 16, 8, 6656, 128000), layer_types(kLfm2Layers, "conv")}},
        {"lfm2-700m",
         {shape(65536, 1536, 16, 24, 8, 10240, 128000), layer_types(kLfm2Layers, "conv")}},
        {"lfm2-1.2b",
         {shape(65536, 2048, 16, 32, 8, 12288, 128000), layer_types(kLfm2Layers, "conv")}},
        {"lfm2-2.6b",
         {shape(65536, 2048, 30, 32, 8, 10752, 128000), R"({"block_auto_adjust_ff_dim":false})",
          layer_types("ccfccfcccfcccfcccfcccfccfccfcc", "conv")}}}},
      {"lfm2_moe",
       "lfm2_moe",
       {{"lfm2-moe-tiny",
         {kTiny, kTinyExperts, R"({"num_hidden_layers":3,
          "num_dense_layers":1})",
          layer_types("cfc", "conv")}},
        {"lfm2-8b-a1b",
         {shape(65536, 2048, 24, 32, 8, 7168, 128000),
          layer_types("ccfcccfcccfcccfcccfccfcc", "conv")}}}},
      {"qwen3_next",
       "qwen3_next",
       {{"qwen3-next-tiny",
         {kTinyHeads, kTinyDelta, kTinyExperts, R"({"shared_expert_intermediate_size":32})"}},
        {"qwen3-next-80b-a3b",
         {shape(151936, 2048, 48, 16, 2, 5120, 262144), R"({"rope_theta":10000000})"}}}},
      {"qwen3_5",
       "qwen3_5_text",
       {{"qwen3-5-tiny", {kTinyHeads, kTinyDelta}},
        {"qwen3.5-4b",
         {shape(248320, 2560, 32, 16, 4, 9216, 262144), kQwen35,
          R"({"tie_word_embeddings":true})"}},
        {"qwen3.5-9b", {shape(248320, 4096, 32, 16, 4, 12288, 262144), kQwen35}},
        {"qwen3.5-27b",
         {shape(248320, 5120, 64, 24, 4, 17408, 262144), kQwen35,
          R"({"linear_num_value_heads":48})"}}}},
      {"qwen3_5_moe",
       "qwen3_5_moe_text",
       {{"qwen3-5-moe-tiny",
         {kTinyHeads, kTinyDelta, kTinyExperts, R"({"shared_expert_intermediate_size":32})"}},
        {"qwen3.5-35b-a3b",
         {R"({"vocab_size":248320,"hidden_size":2048,
          "num_hidden_layers":40,"num_attention_heads":16,"num_key_value_heads":2,
          "max_position_embeddings":262144})",
          kQwen35}}}},
      {"granitemoehybrid",
       "granitemoehybrid",
       {{"granitemoehybrid-tiny",
         {kTiny, kTinyMamba2, R"({"num_local_experts":4,
          "intermediate_size":32,"shared_intermediate_size":64,"embedding_multiplier":12,
          "residual_multiplier":0.22,"logits_scaling":6,"attention_multiplier":0.25,
          "num_hidden_layers":3})",
          layer_types("mfm", "linear_attention")}},
        {"granite-4.0-h-1b",
         {shape(100352, 1536, 40, 12, 4, 4096, 131072), kGraniteH,
          R"({"num_local_experts":0,"num_experts_per_tok":0,"shared_intermediate_size":4096,
          "mamba_n_heads":48,"logits_scaling":6,"attention_multiplier":0.0078125})",
          layer_types(kGraniteLayers, "linear_attention")}},
        {"granite-4.0-h-micro-3b",
         {shape(100352, 2048, 40, 32, 8, 8192, 131072), kGraniteH,
          R"({"num_local_experts":0,"num_experts_per_tok":0,"shared_intermediate_size":8192,
          "mamba_n_heads":64,"logits_scaling":8,"attention_multiplier":0.015625})",
          layer_types(kGraniteLayers, "linear_attention")}},
        {"granite-4.0-h-tiny-7b",
         {shape(100352, 1536, 40, 12, 4, 512, 131072), kGraniteH,
          R"({"num_local_experts":64,"num_experts_per_tok":6,"shared_intermediate_size":1024,
          "mamba_n_heads":48,"logits_scaling":6,"attention_multiplier":0.0078125})",
          layer_types(kGraniteLayers, "linear_attention")}},
        {"granite-4.0-h-small-32b",
         {shape(100352, 4096, 40, 32, 8, 768, 131072), kGraniteH,
          R"({"num_local_experts":72,"num_experts_per_tok":10,"shared_intermediate_size":1536,
          "mamba_n_heads":128,"logits_scaling":16,"attention_multiplier":0.0078125})",
          layer_types(kGraniteLayers, "linear_attention")}}}},
      {"olmo_hybrid",
       "olmo_hybrid",
       {{"olmo-hybrid-tiny", {kTiny, R"({"num_hidden_layers":4})"}},
        {"olmo-hybrid-7b", {shape(100352, 3840, 32, 30, 30, 11008, 65536)}}}},
      {"minimax",
       "minimax",
       {{"minimax-tiny", {kTinyHeads, R"({"num_local_experts":4,"intermediate_size":64,
          "full_attn_alpha_factor":1.5,"linear_attn_alpha_factor":1.5,
          "mlp_alpha_factor":1.5,"dtype":"bfloat16","block_size":16})"}},
        {"minimax-text-01-456b",
         {shape(200064, 6144, 80, 64, 8, 9216, 10240000), R"({"head_dim":128,
          "rope_theta":10000000,"num_local_experts":32,
          "full_attn_alpha_factor":3.5565588200778455,
          "linear_attn_alpha_factor":3.5565588200778455,
          "mlp_alpha_factor":3.5565588200778455,"dtype":"bfloat16"})",
          full_each(8, 80)},
         rotate_half_of_heads}}},
      {"kimi_linear",
       "kimi_linear",
       {{"kimi-linear-tiny", {kTinyMla}},
        {"kimi-linear-48b-a3b", {R"({"vocab_size":163840,"hidden_size":2304,
          "num_hidden_layers":27,"num_attention_heads":32,"intermediate_size":9216,
          "linear_attn_config":{"full_attn_layers":[4,8,12,16,20,24,27]}})"}}}},
      {"bailing_hybrid",
       "bailing_hybrid",
       {{"bailing-hybrid-tiny", {kTinyMla, R"({"layer_group_size":2,"num_expert_group":2,
          "topk_group":1})"}},
        {"bailing-hybrid-default", {R"({"vocab_size":157184,"hidden_size":2560,
          "num_hidden_layers":42,"num_attention_heads":32,"q_lora_rank":null})"}}}},
      {"nemotron_h",
       "nemotron_h",
       {{"nemotron-h-tiny", {R"({"vocab_size":256,"hidden_size":64,"num_attention_heads":4,
          "num_key_value_heads":2,"head_dim":16,"intermediate_size":128,
          "max_position_embeddings":128,"hybrid_override_pattern":"M*-E","mamba_num_heads":8,
          "mamba_head_dim":16,"n_groups":2,"ssm_state_size":16,"n_routed_experts":4,
          "num_experts_per_tok":2,"moe_intermediate_size":32,"moe_latent_size":32,
          "moe_shared_expert_intermediate_size":64})"}},
        {"nemotron-h-8b", {R"({"vocab_size":131072,"hidden_size":4096,"num_attention_heads":32,
          "num_key_value_heads":8,"intermediate_size":21504,"max_position_embeddings":8192,
          "hybrid_override_pattern":"M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-"})"}},
        {"nemotron-nano-9b-v2", {R"({"vocab_size":131072,"hidden_size":4480,
          "num_attention_heads":40,"num_key_value_heads":8,"intermediate_size":15680,
          "max_position_embeddings":131072,"mamba_head_dim":80,
          "hybrid_override_pattern":"M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-"})"}},
        {"nemotron3-nano-30b-a3b", {kNemotron3, R"({"hidden_size":2688,
          "num_attention_heads":32,"mamba_num_heads":64,"n_routed_experts":128,
          "num_experts_per_tok":6,"moe_intermediate_size":1856,
          "moe_shared_expert_intermediate_size":3712,"routed_scaling_factor":2.5,
          "hybrid_override_pattern":"MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME"})"}},
        {"nemotron3-super-120b-a12b",
         {kNemotron3, R"({"hidden_size":4096,
          "num_attention_heads":32,"mamba_num_heads":128,"n_routed_experts":512,
          "num_experts_per_tok":22,"moe_intermediate_size":2688,"moe_latent_size":1024,
          "moe_shared_expert_intermediate_size":5376,"routed_scaling_factor":5})",
          R"({"hybrid_override_pattern":"MEMEMEM*EMEMEMEM*EMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*)"
          R"(EMEMEMEMEM*EMEMEMEMEM*EMEMEMEM*EMEMEMEME"})"}}}},
      {"falcon_h1",
       "falcon_h1",
       {{"falcon-h1-tiny", {kTinyHeads, R"({"mamba_d_ssm":64,"mamba_n_heads":4,
          "mamba_d_head":16,"mamba_d_state":16,"embedding_multiplier":5,
          "lm_head_multiplier":0.2,"key_multiplier":0.5,"ssm_multipliers":[0.5,0.25,0.5,1,0.5],
          "mlp_multipliers":[0.9,0.6]})"}},
        {"falcon-h1-0.5b", {shape(32784, 1024, 36, 8, 2, 2048, 16384), R"({"head_dim":64,
          "rope_theta":100000000000,"mamba_d_ssm":1536,"mamba_n_heads":24,"mamba_d_head":64,
          "mamba_d_state":128,"mamba_norm_before_gate":false,
          "attention_out_multiplier":0.9375,"embedding_multiplier":5.656854249492381,
          "key_multiplier":0.39062499999999994,"lm_head_multiplier":0.0390625,
          "mlp_multipliers":[0.8838834764831844,0.5859375],"ssm_in_multiplier":1.25,
          "ssm_multipliers":[0.3535533905932738,0.25,0.3535533905932738,0.5,
          0.3535533905932738],"ssm_out_multiplier":0.23570226039551587})"}}}},
  };
}

}  // namespace lmxlab::config
