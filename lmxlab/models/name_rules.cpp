#include "lmxlab/models/name_rules.h"

#include "lmxlab/models/name_tables.h"

#include <mlx/ops.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <optional>
#include <string_view>

namespace lmxlab {
namespace {

using names::joined, names::kGateUp, names::kQkv, names::Make;
using Layout = Fused::Layout;
/// GPT-2's tree, of which GPT-J, CodeGen and GPT-BigCode have the most.
NameRules gpt2_like() {
  return {.layers = "transformer.h.",
          .model = {{"model.embed_tokens.", "transformer.wte."},
                    {"model.embed_positions.", "transformer.wpe."},
                    {"model.norm.", "transformer.ln_f."}},
          .block = {{"input_layernorm.", "ln_1."}, {"post_attention_layernorm.", "ln_2."}},
          .buffers = {"attn.bias", "attn.masked_bias", "attn.causal_mask"}};
}
NameRules gpt2() {
  auto r = gpt2_like();
  r.block = joined(r.block, {{"self_attn.o_proj.", "attn.c_proj."},
                             {"mlp.up_proj.", "mlp.c_fc."},
                             {"mlp.down_proj.", "mlp.c_proj."}});
  return r;
}
NameRules gptj() {
  auto r = gpt2_like();
  r.block = joined(r.block, {{"self_attn.o_proj.", "attn.out_proj."},
                             {"self_attn.", "attn."},
                             {"mlp.up_proj.", "mlp.fc_in."},
                             {"mlp.down_proj.", "mlp.fc_out."}});
  return r;
}
const std::vector<Rename> kMegatronMlp{{"mlp.up_proj.", "mlp.dense_h_to_4h."},
                                       {"mlp.down_proj.", "mlp.dense_4h_to_h."}};
NameRules gpt_neox() {
  return {.layers = "gpt_neox.layers.",
          .model = {{"model.embed_tokens.", "gpt_neox.embed_in."},
                    {"model.norm.", "gpt_neox.final_layer_norm."},
                    {"lm_head.", "embed_out."}},
          .block = joined({{"self_attn.o_proj.", "attention.dense."}}, kMegatronMlp),
          .fused = {{"attention.query_key_value.", kQkv, Layout::grouped}},
          .buffers = {"attention.bias", "attention.masked_bias", "attention.rotary_emb.inv_freq"}};
}
NameRules bloom() {
  return {.layers = "transformer.h.",
          .model = {{"model.embed_tokens.", "transformer.word_embeddings."},
                    {"model.embed_norm.", "transformer.word_embeddings_layernorm."},
                    {"model.norm.", "transformer.ln_f."}},
          .block = joined({{"self_attn.o_proj.", "self_attention.dense."}}, kMegatronMlp),
          .fused = {{"self_attention.query_key_value.", kQkv, Layout::grouped}}};
}
NameRules falcon(const config::Model& m) {
  auto r = bloom();
  r.buffers = {"self_attention.rotary_emb.inv_freq", "self_attention.maybe_rotary.inv_freq"};
  if (!m.layers.empty() && m.layers[0].wiring == config::Wiring::twin)
    r.block = joined(r.block,
                     {{"input_layernorm.", "ln_attn."}, {"post_attention_layernorm.", "ln_mlp."}});
  return r;
}
NameRules opt() {
  return {.layers = "model.decoder.layers.",
          .model = {{"model.embed_tokens.", "model.decoder.embed_tokens."},
                    {"model.embed_positions.", "model.decoder.embed_positions."},
                    {"model.norm.", "model.decoder.final_layer_norm."}},
          .block = {{"input_layernorm.", "self_attn_layer_norm."},
                    {"post_attention_layernorm.", "final_layer_norm."},
                    {"self_attn.o_proj.", "self_attn.out_proj."},
                    {"mlp.up_proj.", "fc1."},
                    {"mlp.down_proj.", "fc2."}}};
}
NameRules mpt() {
  return {.layers = "transformer.blocks.",
          .model = {{"model.embed_tokens.", "transformer.wte."},
                    {"model.norm.", "transformer.norm_f."}},
          .block = {{"input_layernorm.", "norm_1."},
                    {"post_attention_layernorm.", "norm_2."},
                    {"self_attn.o_proj.", "attn.out_proj."},
                    {"mlp.", "ffn."}},
          .fused = {{"attn.Wqkv.", kQkv}}};
}
const std::vector<Rename> kFc{{"mlp.up_proj.", "mlp.fc1."}, {"mlp.down_proj.", "mlp.fc2."}};
NameRules phi() {
  return {.model = {{"model.norm.", "model.final_layernorm."}},
          .block = joined({{"self_attn.o_proj.", "self_attn.dense."},
                           {"self_attn.q_norm.", "self_attn.q_layernorm."},
                           {"self_attn.k_norm.", "self_attn.k_layernorm."}},
                          kFc)};
}
NameRules persimmon() {
  auto r = phi();
  r.block = joined({{"self_attn.o_proj.", "self_attn.dense."},
                    {"self_attn.q_norm.", "self_attn.q_layernorm."},
                    {"self_attn.k_norm.", "self_attn.k_layernorm."}},
                   kMegatronMlp);
  r.fused = {{"self_attn.query_key_value.", kQkv, Layout::grouped}};
  return r;
}

const names::Table& of_dense() {
  static const names::Table table{
      {"gpt2",
       [](const auto&) {
         auto r = gpt2();
         r.fused = {{"attn.c_attn.", kQkv}};
         r.turned = true;
         return r;
       }},
      {"gpt_bigcode",
       [](const auto&) {
         auto r = gpt2();
         r.fused = {{"attn.c_attn.", kQkv, Layout::grouped}};
         return r;
       }},
      {"gptj", [](const auto&) { return gptj(); }},
      {"codegen",
       [](const auto&) {
         auto r = gptj();
         r.fused = {{"attn.qkv_proj.", kQkv, Layout::shards}};
         return r;
       }},
      {"gpt_neox", [](const auto&) { return gpt_neox(); }},
      {"bloom", [](const auto&) { return bloom(); }},
      {"falcon", falcon},
      {"opt", [](const auto&) { return opt(); }},
      {"mpt", [](const auto&) { return mpt(); }},
      {"phi", [](const auto&) { return phi(); }},
      {"persimmon", [](const auto&) { return persimmon(); }},
      {"stablelm",
       [](const auto&) -> NameRules {
         return {.stacked = {{"self_attn.q_norm.", "self_attn.q_layernorm.norms.*."},
                             {"self_attn.k_norm.", "self_attn.k_layernorm.norms.*."}}};
       }},
      {"starcoder2",
       [](const auto&) -> NameRules {
         return {.block = {{"mlp.up_proj.", "mlp.c_fc."}, {"mlp.down_proj.", "mlp.c_proj."}}};
       }},
      {"phi3",
       [](const auto&) -> NameRules {
         return {.fused = {{"self_attn.qkv_proj.", kQkv}, {"mlp.gate_up_proj.", kGateUp}}};
       }},
      {"glm",
       [](const auto&) -> NameRules {
         return {.fused = {{"mlp.gate_up_proj.", kGateUp}}};
       }},
      {"glm4",
       [](const auto&) -> NameRules {
         return {.block = {{"post_attention_layernorm.", "post_self_attn_layernorm."},
                           {"pre_feedforward_layernorm.", "post_attention_layernorm."},
                           {"post_feedforward_layernorm.", "post_mlp_layernorm."}},
                 .fused = {{"mlp.gate_up_proj.", kGateUp}}};
       }},
      {"apertus",
       [](const auto&) -> NameRules {
         return {.block = {{"input_layernorm.", "attention_layernorm."},
                           {"post_attention_layernorm.", "feedforward_layernorm."}},
                 .constants = {{"mlp.act_fn.beta", 0.5f}, {"mlp.act_fn.eps", -1e-6f}}};
       }},
      {"hunyuan_v1_dense",
       [](const auto&) -> NameRules {
         return {.block = {{"self_attn.q_norm.", "self_attn.query_layernorm."},
                           {"self_attn.k_norm.", "self_attn.key_layernorm."}}};
       }},
      {"nanochat", [](const auto&) -> NameRules { return {.block = kFc}; }},
      {"bitnet",
       [](const auto&) -> NameRules {
         return {.block = {{"self_attn.out_norm.", "self_attn.attn_sub_norm."},
                           {"mlp.norm.", "mlp.ffn_sub_norm."}}};
       }},
  };
  return table;
}

}  // namespace

NameRules name_rules(const std::string& model_type, const config::Model& model) {
  for (const auto* table : {&of_dense(), &names::of_experts(), &names::of_hybrids()})
    if (const auto it = table->find(model_type); it != table->end()) return it->second(model);
  return {};
}

}  // namespace lmxlab
