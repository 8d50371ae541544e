// Names of mixtures of experts.
#include "lmxlab/models/name_tables.h"

#include <mlx/ops.h>
#include <algorithm>
#include <charconv>
#include <map>
#include <optional>
#include <string_view>

namespace lmxlab::names {

const std::vector<Stacked> kExperts{{"mlp.experts.gate_proj.", "mlp.experts.*.gate_proj."},
                                    {"mlp.experts.up_proj.", "mlp.experts.*.up_proj."},
                                    {"mlp.experts.down_proj.", "mlp.experts.*.down_proj."}};
NameRules mixtral() {
  return {
      .block = {{"mlp.gate.e_score_correction_bias", "block_sparse_moe.e_score_correction_bias"},
                {"mlp.gate.", "block_sparse_moe.gate."}},
      .stacked = {{"mlp.experts.gate_proj.", "block_sparse_moe.experts.*.w1."},
                  {"mlp.experts.up_proj.", "block_sparse_moe.experts.*.w3."},
                  {"mlp.experts.down_proj.", "block_sparse_moe.experts.*.w2."}}};
}
int experts_of(const config::Block& block) {
  const auto* m = std::get_if<config::Moe>(&block.ffn);
  return m ? m->experts : 1;
}
NameRules with_experts(std::vector<Rename> block, std::vector<Reshaped> reshaped) {
  return {.block = std::move(block), .stacked = kExperts, .reshaped = std::move(reshaped)};
}

namespace {

mx::array rows(const mx::array& x, int from, int to, int step = 1) {  // of the second axis
  auto start = mx::Shape(x.ndim(), 0), stop = x.shape(), steps = mx::Shape(x.ndim(), 1);
  start[1] = from, stop[1] = to, steps[1] = step;
  return mx::slice(x, start, stop, steps);
}

}  // namespace

Reshaped gate_and_up(const char* theirs, const char* leaf_gate, const char* leaf_up, bool in_turn,
                     bool turned) {
  const auto flipped = [turned](const mx::array& a) {
    return turned && a.ndim() == 3 ? mx::contiguous(mx::swapaxes(a, 1, 2)) : a;
  };
  return {.ours = {leaf_gate, leaf_up},
          .theirs = {theirs},
          .to_ours = [=](const Arrays& in, const config::Block&) -> Arrays {
            const auto a = flipped(in[0]);
            const int n = a.shape(1);
            if (in_turn) return {rows(a, 0, n, 2), rows(a, 1, n, 2)};
            return {rows(a, 0, n / 2), rows(a, n / 2, n)};
          },
          .to_theirs = [=](const Arrays& in, const config::Block&) -> Arrays {
            if (!in_turn) return {flipped(mx::concatenate(in, 1))};
            auto shape = in[0].shape();
            shape[1] *= 2;
            return {flipped(mx::reshape(mx::stack(in, 2), shape))};
          }};
}
Reshaped one(const char* ours, const char* theirs, Reshaped::Turn to_ours,
             Reshaped::Turn to_theirs) {
  return {{ours}, {theirs}, std::move(to_ours), std::move(to_theirs)};
}
Arrays same(const Arrays& in, const config::Block&) {
  return in;
}
NameRules granitemoe() {
  return {.block = {{"mlp.gate.", "block_sparse_moe.router.layer."},
                    {"mlp.experts.down_proj.", "block_sparse_moe.output_linear."},
                    {"mlp.shared_experts.down_proj.", "shared_mlp.output_linear."}},
          .fused = {{"shared_mlp.input_linear.",
                     {"mlp.shared_experts.gate_proj.", "mlp.shared_experts.up_proj."}}},
          .reshaped = {gate_and_up("block_sparse_moe.input_linear.weight",
                                   "mlp.experts.gate_proj.weight", "mlp.experts.up_proj.weight",
                                   false, false)}};
}

namespace {

Arrays swapped(const Arrays& in, const config::Block&) {
  return {mx::contiguous(mx::swapaxes(in[0], -1, -2))};
}
Arrays joined_experts(const Arrays& in, const config::Block&) {
  return {mx::reshape(in[0], {-1, in[0].shape(2)})};
}
Arrays by_expert(const Arrays& in, const config::Block& b) {
  return {mx::reshape(in[0], {experts_of(b), -1, in[0].shape(1)})};
}

NameRules gpt_oss() {
  return {
      .block = {{"mlp.gate.", "mlp.router."}},
      .reshaped = {gate_and_up("mlp.experts.gate_up_proj", "mlp.experts.gate_proj.weight",
                               "mlp.experts.up_proj.weight", true, true),
                   gate_and_up("mlp.experts.gate_up_proj_bias", "mlp.experts.gate_proj.bias",
                               "mlp.experts.up_proj.bias", true, false),
                   one("mlp.experts.down_proj.weight", "mlp.experts.down_proj", swapped, swapped),
                   one("mlp.experts.down_proj.bias", "mlp.experts.down_proj_bias", same, same)}};
}
NameRules llama4() {
  return {
      .block = {{"mlp.gate.", "feed_forward.router."},
                {"mlp.shared_experts.", "feed_forward.shared_expert."},
                {"mlp.", "feed_forward."}},
      .reshaped = {
          gate_and_up("feed_forward.experts.gate_up_proj", "mlp.experts.gate_proj.weight",
                      "mlp.experts.up_proj.weight", false, true),
          one("mlp.experts.down_proj.weight", "feed_forward.experts.down_proj", swapped, swapped)}};
}
NameRules dbrx() {
  const auto down = [](const Arrays& in, const config::Block& b) {
    return swapped(by_expert(in, b), b);
  };
  const auto down_back = [](const Arrays& in, const config::Block& b) {
    return joined_experts(swapped(in, b), b);
  };
  return {.layers = "transformer.blocks.",
          .model = {{"model.embed_tokens.", "transformer.wte."},
                    {"model.norm.", "transformer.norm_f."}},
          .block = {{"input_layernorm.", "norm_attn_norm.norm_1."},
                    {"post_attention_layernorm.", "norm_attn_norm.norm_2."},
                    {"self_attn.o_proj.", "norm_attn_norm.attn.out_proj."},
                    {"mlp.gate.", "ffn.router.layer."}},
          .fused = {{"norm_attn_norm.attn.Wqkv.", kQkv}},
          .reshaped = {
              one("mlp.experts.gate_proj.weight", "ffn.experts.mlp.w1", by_expert, joined_experts),
              one("mlp.experts.up_proj.weight", "ffn.experts.mlp.v1", by_expert, joined_experts),
              one("mlp.experts.down_proj.weight", "ffn.experts.mlp.w2", down, down_back)}};
}

}  // namespace

const Table& of_experts() {
  static const Table all = [] {
    Table table{
        {"mixtral", [](const auto&) { return mixtral(); }},
        {"minimax_m2", [](const auto&) { return mixtral(); }},
        {"qwen2_moe",
         [](const auto&) {
           return with_experts({{"mlp.shared_experts.", "mlp.shared_expert."}});
         }},
        {"hunyuan_v1_moe",
         [](const auto&) {
           return with_experts({{"self_attn.q_norm.", "self_attn.query_layernorm."},
                                {"self_attn.k_norm.", "self_attn.key_layernorm."},
                                {"mlp.gate.", "mlp.gate.wg."},
                                {"mlp.shared_experts.", "mlp.shared_mlp."}});
         }},
        {"ernie4_5_moe",
         [](const auto&) {
           return with_experts(
               {},
               {one(
                   "mlp.gate.e_score_correction_bias", "mlp.moe_statics.e_score_correction_bias",
                   [](const Arrays& in, const auto&) { return Arrays{mx::squeeze(in[0], 0)}; },
                   [](const Arrays& in, const auto&) {
                     return Arrays{mx::expand_dims(in[0], 0)};
                   })});
         }},
        {"exaone_moe",
         [](const auto&) {
           return with_experts(
               {{"mlp.gate.e_score_correction_bias", "mlp.e_score_correction_bias"}});
         }},
        {"afmoe",
         [](const auto&) {
           return with_experts({{"pre_feedforward_layernorm.", "pre_mlp_layernorm."},
                                {"post_feedforward_layernorm.", "post_mlp_layernorm."},
                                {"mlp.gate.e_score_correction_bias", "mlp.expert_bias"},
                                {"mlp.gate.", "mlp.router.gate."}});
         }},
        {"phimoe", [](const auto&) { return mixtral(); }},
        {"llama4_text", [](const auto&) { return llama4(); }},
        {"mimo_v2_flash",
         [](const auto&) {
           return with_experts({{"self_attn.sinks", "self_attn.attention_sink_bias"}});
         }},
        {"laguna",
         [](const auto&) {
           return with_experts(
               {{"self_attn.gate_proj.", "self_attn.g_proj."},
                {"mlp.gate.e_score_correction_bias", "mlp.experts.e_score_correction_bias"},
                {"mlp.shared_experts.", "mlp.shared_expert."}});
         }},
        {"granitemoe", [](const auto&) { return granitemoe(); }},
        {"granitemoeshared", [](const auto&) { return granitemoe(); }},
        {"gpt_oss", [](const auto&) { return gpt_oss(); }},
        {"dbrx", [](const auto&) { return dbrx(); }},
    };
    for (const char* type :
         {"qwen3_moe", "olmoe", "dots1", "glm4_moe", "deepseek_v2", "deepseek_v3", "kimi_k2",
          "glm4_moe_lite", "solar_open", "mellum", "deepseek_v32", "glm_moe_dsa"})
      table.emplace(type, [](const auto&) { return with_experts(); });
    return table;
  }();
  return all;
}

}  // namespace lmxlab::names
