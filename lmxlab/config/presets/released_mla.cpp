// Latent attention: DeepSeek's kin. Sizes as in released_llama.cpp.
#include "lmxlab/config/presets/released.h"

namespace lmxlab::config {
namespace {

const char* const kTinyMla = R"({"vocab_size":256,"hidden_size":64,"num_hidden_layers":2,
  "num_attention_heads":4,"intermediate_size":128,"max_position_embeddings":128,
  "q_lora_rank":32,"kv_lora_rank":16,"qk_nope_head_dim":16,"qk_rope_head_dim":8,
  "v_head_dim":16})";
const char* const kTinyExperts = R"({"num_hidden_layers":3,"n_routed_experts":4,
  "n_shared_experts":1,"num_experts_per_tok":2,"moe_intermediate_size":32,
  "first_k_dense_replace":1})";

}  // namespace

std::vector<ReleasedFamily> released_mla() {
  return {
      {"minicpm3",
       "minicpm3",
       {{"minicpm3-tiny", {kTinyMla, R"({"dim_model_base":32})"}},
        {"minicpm3-default", {shape(73448, 2560, 62, 40, 40, 6400, 32768)}}}},
      {"youtu",
       "youtu",
       {{"youtu-tiny", {kTinyMla}},
        {"youtu-llm-2b", {shape(128256, 2048, 32, 16, 16, 6144, 131072)}}}},
      {"deepseek_v2",
       "deepseek_v2",
       {{"deepseek-v2-tiny", {kTinyMla, kTinyExperts, R"({"q_lora_rank":null})"}},
        {"deepseek-v2-lite-16b",
         {shape(102400, 2048, 27, 16, 16, 10944, 163840),
          R"({"q_lora_rank":null,"n_routed_experts":64,"num_experts_per_tok":6,
          "n_shared_experts":2,"moe_intermediate_size":1408,"first_k_dense_replace":1,
          "rope_scaling":{"type":"yarn","factor":40,"original_max_position_embeddings":4096,
          "beta_fast":32,"beta_slow":1,"mscale":0.707,"mscale_all_dim":0.707}})"}},
        {"deepseek-v2-236b",
         {shape(102400, 5120, 60, 128, 128, 12288, 163840),
          R"({"n_routed_experts":160,"num_experts_per_tok":6,"n_shared_experts":2,
          "moe_intermediate_size":1536,"first_k_dense_replace":1,
          "topk_method":"group_limited_greedy","n_group":8,"topk_group":3,
          "routed_scaling_factor":16,
          "rope_scaling":{"type":"yarn","factor":40,"original_max_position_embeddings":4096,
          "beta_fast":32,"beta_slow":1,"mscale":1,"mscale_all_dim":1}})"}}}},
      {"deepseek_v3",
       "deepseek_v3",
       {{"deepseek-v3-tiny", {kTinyMla, kTinyExperts, R"({"n_group":2,"topk_group":1})"}},
        {"moonlight-16b-a3b",
         {shape(163840, 2048, 27, 16, 16, 11264, 8192),
          R"({"rms_norm_eps":1e-5,"rope_theta":50000,"q_lora_rank":null,"n_routed_experts":64,
          "num_experts_per_tok":6,"n_shared_experts":2,"moe_intermediate_size":1408,
          "first_k_dense_replace":1,"n_group":1,"topk_group":1,
          "routed_scaling_factor":2.446})"}},
        {"deepseek-v3-671b",
         {shape(129280, 7168, 61, 128, 128, 18432, 163840),
          R"({"rope_scaling":{"type":"yarn","factor":40,
          "original_max_position_embeddings":4096,"beta_fast":32,"beta_slow":1,"mscale":1,
          "mscale_all_dim":1}})"}},
        {"kimi-k2-1t",
         {R"({"model_type":"kimi_k2"})", shape(163840, 7168, 61, 64, 64, 18432, 131072),
          R"({"rope_theta":50000,"n_routed_experts":384,"first_k_dense_replace":1,"n_group":1,
          "topk_group":1,"routed_scaling_factor":2.827,
          "rope_scaling":{"type":"yarn","factor":32,"original_max_position_embeddings":4096,
          "beta_fast":1,"beta_slow":1,"mscale":1,"mscale_all_dim":1}})"}}}},
      {"glm4_moe_lite",
       "glm4_moe_lite",
       {{"glm4-moe-lite-tiny", {kTinyMla, kTinyExperts}},
        {"glm-4.7-flash-30b-a3b", {shape(154880, 2048, 47, 20, 20, 10240, 202752)}}}},
      {"longcat_flash",
       "longcat_flash",
       {{"longcat-flash-tiny", {R"({"vocab_size":256,"hidden_size":64,"num_layers":1,
          "num_attention_heads":4,"ffn_hidden_size":128,"max_position_embeddings":128,
          "q_lora_rank":32,"kv_lora_rank":16,"qk_nope_head_dim":16,"qk_rope_head_dim":8,
          "v_head_dim":16,"n_routed_experts":4,"zero_expert_num":2,"moe_topk":2,
          "expert_ffn_hidden_size":32})"}},
        {"longcat-flash-560b", {R"({"vocab_size":131072,"hidden_size":6144,"num_layers":28,
          "num_attention_heads":64})"}}}},
  };
}

}  // namespace lmxlab::config
