// Gemma.
#include "lmxlab/config/presets/released.h"

namespace lmxlab::config {
namespace {

const char* const kTinyGemma = R"({"vocab_size":256,"hidden_size":64,"num_hidden_layers":4,
  "num_attention_heads":4,"num_key_value_heads":2,"head_dim":16,"intermediate_size":128,
  "max_position_embeddings":128,"sliding_window":16})";
const char* const kGemma3 = R"({"sliding_window":1024,"query_pre_attn_scalar":256,
  "rope_scaling":{"rope_type":"linear","factor":8}})";
const char* const kGemma3Small = R"({"head_dim":256,"sliding_window":512,
  "query_pre_attn_scalar":256})";
const char* const kGemma4 = R"({"sliding_window":1024,"final_logit_softcapping":30,
  "attention_k_eq_v":true,"hidden_size_per_layer_input":0})";

std::string every_fifth_full(int depth) {
  std::string letters;
  for (int i = 1; i <= depth; ++i) letters += i % 5 == 0 ? 'f' : 's';
  return layer_types(letters, "sliding_attention");
}

}  // namespace

std::vector<ReleasedFamily> released_gemma() {
  return {
      {"gemma",
       "gemma",
       {{"gemma-tiny", {kTinyHeads, R"({"num_key_value_heads":1})"}},
        {"gemma-2b", {shape(256000, 2048, 18, 8, 1, 16384, 8192)}},
        {"gemma-7b", {shape(256000, 3072, 28, 16, 16, 24576, 8192)}}}},
      {"gemma2",
       "gemma2",
       {{"gemma2-tiny", {kTinyGemma, R"({"num_hidden_layers":2,"query_pre_attn_scalar":16})"}},
        {"gemma2-2b", {shape(256000, 2304, 26, 8, 4, 9216, 8192)}},
        {"gemma2-9b", {shape(256000, 3584, 42, 16, 8, 14336, 8192)}},
        {"gemma2-27b",
         {shape(256000, 4608, 46, 32, 16, 36864, 8192),
          R"({"head_dim":128,"query_pre_attn_scalar":144})"}}}},
      {"gemma3",
       "gemma3_text",
       {{"gemma3-tiny", {kTinyGemma, R"({"query_pre_attn_scalar":16,"sliding_window_pattern":4})"}},
        {"gemma3-270m", {shape(262144, 640, 18, 4, 1, 2048, 32768), kGemma3Small}},
        {"gemma3-1b", {shape(262144, 1152, 26, 4, 1, 6912, 32768), kGemma3Small}},
        {"gemma3-4b", {shape(262208, 2560, 34, 8, 4, 10240, 131072), kGemma3}},
        {"gemma3-12b", {shape(262208, 3840, 48, 16, 8, 15360, 131072), kGemma3}},
        {"gemma3-27b",
         {shape(262208, 5376, 62, 32, 16, 21504, 131072), kGemma3,
          R"({"head_dim":128,"query_pre_attn_scalar":168})"}}}},
      {"gemma3n",
       "gemma3n_text",
       {{"gemma3n-tiny", {kTinyGemma, R"({"num_kv_shared_layers":1,"laurel_rank":8,
          "hidden_size_per_layer_input":8,"vocab_size_per_layer_input":256,
          "activation_sparsity_pattern":[0.5,0,0,0],
          "layer_types":["sliding_attention","full_attention","sliding_attention",
          "full_attention"]})"}},
        {"gemma3n-e2b",
         {shape(262400, 2048, 30, 8, 2, 8192, 32768), R"({"num_kv_shared_layers":10})"}},
        {"gemma3n-e4b", {shape(262400, 2048, 35, 8, 2, 16384, 32768)}}}},
      {"gemma4",
       "gemma4_text",
       {{"gemma4-tiny", {kTinyGemma, R"({"global_head_dim":32,"num_kv_shared_layers":1,
          "hidden_size_per_layer_input":8,"vocab_size_per_layer_input":256,
          "enable_moe_block":true,"num_experts":4,"top_k_experts":2,"moe_intermediate_size":32,
          "layer_types":["sliding_attention","full_attention","sliding_attention",
          "full_attention"]})"}},
        {"gemma4-e2b",
         {shape(262144, 1536, 35, 8, 1, 6144, 131072), every_fifth_full(35),
          R"({"sliding_window":512,"final_logit_softcapping":30,"num_kv_shared_layers":20,
          "use_double_wide_mlp":true})"}},
        {"gemma4-e4b",
         {shape(262144, 2560, 42, 8, 2, 10240, 131072),
          R"({"sliding_window":512,"final_logit_softcapping":30,"num_kv_shared_layers":18})"}},
        {"gemma4-26b-a4b",
         {shape(262144, 2816, 30, 16, 8, 2112, 262144), kGemma4,
          R"({"num_global_key_value_heads":2,"enable_moe_block":true,"num_experts":128,
          "top_k_experts":8,"moe_intermediate_size":704})"}},
        {"gemma4-31b",
         {shape(262144, 5376, 60, 32, 16, 21504, 262144), kGemma4,
          R"({"num_global_key_value_heads":4})"}}}},
  };
}

}  // namespace lmxlab::config
