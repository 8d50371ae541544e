// Names of recurrent mixers, and of blocks that are put together otherwise.
#include "lmxlab/core/lightning.h"
#include "lmxlab/models/name_tables.h"

#include <mlx/ops.h>
#include <algorithm>
#include <charconv>
#include <map>
#include <optional>
#include <string_view>

namespace lmxlab::names {
namespace {

using Layout = Fused::Layout;

// ---- recurrent mixers ----

/// A depthwise convolution, which torch keeps as [channels, 1, positions].
Reshaped convolution(const char* ours, const char* theirs) {
  return one(
      ours, theirs,
      [](const Arrays& in, const config::Block&) { return Arrays{mx::squeeze(in[0], 1)}; },
      [](const Arrays& in, const config::Block&) { return Arrays{mx::expand_dims(in[0], 1)}; });
}
NameRules mamba() {
  return {.layers = "backbone.layers.",
          .model = {{"model.embed_tokens.", "backbone.embeddings."},
                    {"model.norm.", "backbone.norm_f."}},
          .block = {{"input_layernorm.", "norm."}},
          .recurrent = {{"self_attn.", "mixer."}},
          .reshaped = {convolution("self_attn.conv1d.weight", "mixer.conv1d.weight")}};
}
NameRules bamba() {
  return {.model = {{"model.norm.", "model.final_layernorm."}},
          .block = {{"post_attention_layernorm.", "pre_ff_layernorm."}, {"mlp.", "feed_forward."}},
          .recurrent = {{"self_attn.", "mamba."}},
          .reshaped = {convolution("self_attn.conv1d.weight", "mamba.conv1d.weight")}};
}
NameRules jamba() {
  auto r = bamba();
  r.block.insert(r.block.begin(), {"mlp.gate.", "feed_forward.router."});
  r.stacked = {{"mlp.experts.gate_proj.", "feed_forward.experts.*.gate_proj."},
               {"mlp.experts.up_proj.", "feed_forward.experts.*.up_proj."},
               {"mlp.experts.down_proj.", "feed_forward.experts.*.down_proj."}};
  return r;
}
NameRules lfm2() {
  return {.model = {{"model.norm.", "model.embedding_norm."}},
          .block = {{"input_layernorm.", "operator_norm."},
                    {"post_attention_layernorm.", "ffn_norm."},
                    {"self_attn.o_proj.", "self_attn.out_proj."},
                    {"self_attn.q_norm.", "self_attn.q_layernorm."},
                    {"self_attn.k_norm.", "self_attn.k_layernorm."},
                    {"mlp.gate.e_score_correction_bias", "feed_forward.expert_bias"},
                    {"mlp.gate.", "feed_forward.gate."},
                    {"mlp.gate_proj.", "feed_forward.w1."},
                    {"mlp.down_proj.", "feed_forward.w2."},
                    {"mlp.up_proj.", "feed_forward.w3."}},
          .recurrent = {{"self_attn.", "conv."}},
          .stacked = {{"mlp.experts.gate_proj.", "feed_forward.experts.*.w1."},
                      {"mlp.experts.down_proj.", "feed_forward.experts.*.w2."},
                      {"mlp.experts.up_proj.", "feed_forward.experts.*.w3."}},
          .reshaped = {convolution("self_attn.conv.weight", "conv.conv.weight")}};
}

/// Convolutions of q, k and v, which lie in one of ours.
Reshaped convolutions(const char* q, const char* k, const char* v) {
  return {.ours = {"self_attn.conv1d.weight"},
          .theirs = {q, k, v},
          .to_ours = [](const Arrays& in, const config::Block&) -> Arrays {
            return {mx::squeeze(mx::concatenate(in, 0), 1)};
          },
          .to_theirs = [](const Arrays& in, const config::Block& b) -> Arrays {
            int keys = in[0].shape(0) / 3;
            if (const auto* g = std::get_if<config::GatedDelta>(&b.mixer))
              keys = g->key_heads * g->key_dim;
            return mx::split(mx::expand_dims(in[0], 1), mx::Shape{keys, 2 * keys}, 0);
          }};
}
NameRules olmo_hybrid() {
  return {.block = {{"post_attention_layernorm.", "feedforward_layer_norm."}},
          .recurrent = {{"self_attn.", "linear_attn."},
                        {"input_layernorm.", "attention_layer_norm."},
                        {"post_attention_layernorm.", "feedforward_layer_norm."}},
          .reshaped = {convolutions("linear_attn.q_conv1d.weight", "linear_attn.k_conv1d.weight",
                                    "linear_attn.v_conv1d.weight")}};
}
NameRules kimi_linear() {
  return {.block = {{"mlp.", "block_sparse_moe."}},
          .recurrent = {{"self_attn.forget_gate.f_", "self_attn.f_"},
                        {"self_attn.forget_gate.dt_bias", "self_attn.dt_bias"}},
          .stacked = {{"mlp.experts.gate_proj.", "block_sparse_moe.experts.*.w1."},
                      {"mlp.experts.up_proj.", "block_sparse_moe.experts.*.w3."},
                      {"mlp.experts.down_proj.", "block_sparse_moe.experts.*.w2."}},
          .reshaped = {convolutions("self_attn.q_conv1d.weight", "self_attn.k_conv1d.weight",
                                    "self_attn.v_conv1d.weight"),
                       one(
                           "self_attn.forget_gate.A_log", "self_attn.A_log",
                           [](const Arrays& in, const config::Block&) {
                             return Arrays{mx::reshape(in[0], {-1})};
                           },
                           [](const Arrays& in, const config::Block&) {
                             return Arrays{mx::reshape(in[0], {1, 1, -1, 1})};
                           })}};
}
NameRules qwen3_next(bool experts) {
  NameRules r{.block = {{"mlp.shared_experts.", "mlp.shared_expert."}},
              .recurrent = {{"self_attn.", "linear_attn."}},
              .fused = {{"self_attn.q_proj.",
                         {"self_attn.q_proj.", "self_attn.gate_proj."},
                         Layout::heads}},
              .reshaped = {convolution("self_attn.conv1d.weight", "linear_attn.conv1d.weight")}};
  if (experts) r.stacked = kExperts;
  return r;
}
NameRules granitemoehybrid() {
  auto r = granitemoe();
  r.block.push_back({"mlp.down_proj.", "shared_mlp.output_linear."});
  r.fused.push_back({"shared_mlp.input_linear.", kGateUp});
  r.recurrent = {{"self_attn.", "mamba."}};
  r.reshaped.push_back(convolution("self_attn.conv1d.weight", "mamba.conv1d.weight"));
  return r;
}
NameRules recurrent_gemma() {
  return {.model = {{"model.norm.", "model.final_norm."}},
          .block = {{"input_layernorm.", "temporal_pre_norm."},
                    {"post_attention_layernorm.", "channel_pre_norm."},
                    {"self_attn.", "temporal_block."},
                    {"mlp.", "mlp_block."}},
          .reshaped = {convolution("self_attn.conv_1d.weight", "temporal_block.conv_1d.weight")}};
}
NameRules rwkv() {
  const auto mix = [](const char* ours, const char* theirs) {
    return one(
        ours, theirs,
        [](const Arrays& in, const config::Block&) { return Arrays{mx::flatten(in[0])}; },
        [](const Arrays& in, const config::Block&) {
          return Arrays{mx::expand_dims(in[0], {0, 1})};
        });
  };
  return {
      .layers = "rwkv.blocks.",
      .model = {{"model.embed_tokens.", "rwkv.embeddings."},
                {"model.embed_norm.", "rwkv.blocks.0.pre_ln."},
                {"model.norm.", "rwkv.ln_out."},
                {"lm_head.", "head."}},
      .branches = {{{{"input_layernorm.", "ln1."}, {"self_attn.", "attention."}},
                    {mix("self_attn.time_mix_key", "attention.time_mix_key"),
                     mix("self_attn.time_mix_value", "attention.time_mix_value"),
                     mix("self_attn.time_mix_receptance", "attention.time_mix_receptance")}},
                   {{{"input_layernorm.", "ln2."}, {"self_attn.", "feed_forward."}},
                    {mix("self_attn.time_mix_key", "feed_forward.time_mix_key"),
                     mix("self_attn.time_mix_receptance", "feed_forward.time_mix_receptance")}}}};
}
NameRules xlstm() {
  return {.layers = "backbone.blocks.",
          .model = {{"model.embed_tokens.", "backbone.embeddings."},
                    {"model.norm.", "backbone.out_norm."}},
          .block = {{"input_layernorm.", "norm_mlstm."},
                    {"post_attention_layernorm.", "norm_ffn."},
                    {"self_attn.", "mlstm_layer."},
                    {"mlp.gate_proj.", "ffn.proj_up_gate."},
                    {"mlp.up_proj.", "ffn.proj_up."},
                    {"mlp.down_proj.", "ffn.proj_down."}}};
}

// ---- blocks put together otherwise ----

NameRules nemotron_h() {
  auto r = mamba();
  r.block = {{"input_layernorm.", "norm."}, {"self_attn.", "mixer."}};
  r.ffn_alone = {{"post_attention_layernorm.", "norm."}, {"mlp.", "mixer."}};
  r.recurrent.clear();
  r.stacked = {{"mlp.experts.up_proj.", "mixer.experts.*.up_proj."},
               {"mlp.experts.down_proj.", "mixer.experts.*.down_proj."}};
  return r;
}
NameRules bailing_hybrid() {
  return {.model = {{"model.embed_tokens.", "model.word_embeddings."}},
          .block = {{"self_attn.o_proj.", "attention.dense."},
                    {"self_attn.gate_proj.", "attention.g_proj."},
                    {"self_attn.forget_gate.f_", "attention.f_"},
                    {"self_attn.forget_gate.dt_bias", "attention.dt_bias"},
                    {"self_attn.forget_gate.A_log", "attention.A_log"},
                    {"self_attn.", "attention."},
                    {"mlp.gate.e_score_correction_bias", "mlp.gate.expert_bias"}},
          .recurrent = {{"self_attn.g_proj.", "attention.g_proj."}},
          .stacked = kExperts,
          .reshaped = {convolutions("attention.q_conv1d.weight", "attention.k_conv1d.weight",
                                    "attention.v_conv1d.weight")}};
}
NameRules falcon_h1() {
  return {.model = {{"model.norm.", "model.final_layernorm."}},
          .block = {{"self_attn.attention.", "self_attn."},
                    {"self_attn.mamba.", "mamba."},
                    {"post_attention_layernorm.", "pre_ff_layernorm."},
                    {"mlp.", "feed_forward."}},
          .reshaped = {convolution("self_attn.mamba.conv1d.weight", "mamba.conv1d.weight")}};
}
/// Each of their layers is two of ours, of which the first has the experts.
NameRules longcat_flash() {
  const auto all = [](const config::Block& b) {
    const auto* m = config::experts_in(b);
    return m ? m->choices() : 0;
  };
  return {.stacked = {{"shortcut.experts.gate_proj.", "mlp.experts.*.gate_proj.", all},
                      {"shortcut.experts.up_proj.", "mlp.experts.*.up_proj.", all},
                      {"shortcut.experts.down_proj.", "mlp.experts.*.down_proj."}},
          .branches = {
              {{{"shortcut.gate.e_score_correction_bias", "mlp.router.e_score_correction_bias"},
                {"shortcut.gate.", "mlp.router.classifier."},
                {"shortcut.", "mlp."},
                {"self_attn.", "self_attn.0."},
                {"mlp.", "mlps.0."},
                {"input_layernorm.", "input_layernorm.0."},
                {"post_attention_layernorm.", "post_attention_layernorm.0."}}},
              {{{"self_attn.", "self_attn.1."},
                {"mlp.", "mlps.1."},
                {"input_layernorm.", "input_layernorm.1."},
                {"post_attention_layernorm.", "post_attention_layernorm.1."}}}}};
}
NameRules gemma4(const config::Model& m) {
  if (m.layers.empty() || !std::holds_alternative<config::MlpAndMoe>(m.layers[0].ffn)) return {};
  return {.block = {{"mlp.moe.gate.weight", "router.proj.weight"},
                    {"mlp.moe.gate.", "router."},
                    {"mlp.dense_norm.", "post_feedforward_layernorm_1."},
                    {"mlp.moe_input_norm.", "pre_feedforward_layernorm_2."},
                    {"mlp.moe_norm.", "post_feedforward_layernorm_2."},
                    {"mlp.moe.", "mlp.moe."},  // scales of packed experts, which nobody else has
                    {"mlp.dense.", "mlp."}},
          .reshaped = {gate_and_up("experts.gate_up_proj", "mlp.moe.experts.gate_proj.weight",
                                   "mlp.moe.experts.up_proj.weight", false, false),
                       one("mlp.moe.experts.down_proj.weight", "experts.down_proj", same, same)}};
}

/// The number behind `prefix`, and what comes after its dot.
std::optional<std::pair<int, std::string>> numbered(const std::string& name,
                                                    std::string_view prefix) {
  if (!name.starts_with(prefix)) return std::nullopt;
  int n = 0;
  const char* end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(name.data() + prefix.size(), end, n);
  if (error != std::errc() || stop == end) return std::nullopt;
  return std::pair(n, std::string(stop + 1, end));
}

/// Shared blocks lie in the first layers that have them, and what the others add to them too.
NameRules zamba2(const config::Model& m) {
  std::vector<int> hybrids;
  for (size_t i = 0; i < m.layers.size(); ++i)
    if (m.layers[i].shared) hybrids.push_back(static_cast<int>(i));
  const int blocks = std::max<int>(1, static_cast<int>(m.shared_blocks.size()));
  static const std::vector<Rename> adapters{
      {"adapters.gate_up.", "feed_forward.gate_up_proj_adapter_list."},
      {"adapters.q.", "self_attn.linear_q_adapter_list."},
      {"adapters.k.", "self_attn.linear_k_adapter_list."},
      {"adapters.v.", "self_attn.linear_v_adapter_list."}};
  constexpr std::string_view kShared = "shared_transformer.", kMamba = "mamba_decoder.";
  const auto layer = [](int n) { return "model.layers." + std::to_string(n) + "."; };
  const auto whole = [=](const std::string& name, bool to_ours) -> std::string {
    if (const auto shared = numbered(name, "model.shared_blocks."); shared && !to_ours)
      return shared->first < static_cast<int>(hybrids.size())
                 ? layer(hybrids[static_cast<size_t>(shared->first)]) + std::string(kShared) +
                       shared->second
                 : name;
    const auto in = numbered(name, "model.layers.");
    if (!in) return name;
    const auto& [number, rest] = *in;
    const auto it = std::find(hybrids.begin(), hybrids.end(), number);
    if (it == hybrids.end()) return name;
    const int place = static_cast<int>(it - hybrids.begin());
    if (to_ours) {
      if (rest.starts_with(kMamba)) return layer(number) + rest.substr(kMamba.size());
      if (!rest.starts_with(kShared)) return name;
      const auto inner = rest.substr(kShared.size());
      for (const auto& a : adapters)
        if (const auto which = numbered(inner, a.theirs);
            which && which->first < static_cast<int>(hybrids.size()))
          return layer(hybrids[static_cast<size_t>(which->first)]) + a.ours + which->second;
      return "model.shared_blocks." + std::to_string(place % blocks) + "." + inner;
    }
    for (const auto& a : adapters)
      if (rest.starts_with(a.ours))
        return layer(hybrids[static_cast<size_t>(place % blocks)]) + std::string(kShared) +
               a.theirs + std::to_string(place) + "." +
               rest.substr(std::string_view(a.ours).size());
    return rest.starts_with("linear.") ? name : layer(number) + std::string(kMamba) + rest;
  };
  return {.model = {{"model.norm.", "model.final_layernorm."}},
          .block = {{"self_attn.", "mamba."}},
          .whole = whole,
          .reshaped = {convolution("self_attn.conv1d.weight", "mamba.conv1d.weight")}};
}

/// Decays as the class has them, where they are rounded: it would make exact ones.
NameRules minimax() {
  NameRules r = mixtral();
  r.buffers = {"self_attn.slope_rate", "self_attn.query_decay", "self_attn.key_decay",
               "self_attn.diagonal_decay"};
  r.made = [](const config::Model& m, int layer) -> core::Tensors {
    const auto* c = std::get_if<config::Lightning>(&m.layers[static_cast<size_t>(layer)].mixer);
    if (!c || c->decays == config::Decays::exact) return {};
    const int H = c->heads, P = c->block;
    auto rates = core::decay_rates(H, layer, static_cast<int>(m.layers.size()));
    const auto table = core::decay_table(*c, rates);
    for (float& rate : rates) rate = core::rounded_decay(*c, rate);
    const auto type = c->decays == config::Decays::bfloat16 ? mx::bfloat16 : mx::float16;
    const auto of = [&](const std::vector<float>& x, int n) {
      return mx::astype(mx::array(x.data(), {H, n}, mx::float32), type);
    };
    const auto at = mx::arange(P, mx::int32);
    const auto decays = [&](const mx::array& d) { return mx::take(of(table, P + 1), d, 1); };
    const auto back = mx::subtract(mx::expand_dims(at, 1), at);
    return {
        {"self_attn.slope_rate", mx::expand_dims(of(rates, 1), -1)},
        {"self_attn.query_decay", mx::expand_dims(decays(mx::add(at, mx::array(1))), -1)},
        {"self_attn.key_decay", mx::expand_dims(decays(mx::subtract(mx::array(P - 1), at)), -1)},
        {"self_attn.diagonal_decay",
         mx::expand_dims(mx::tril(decays(mx::maximum(back, mx::array(0)))), 0)}};
  };
  return r;
}

}  // namespace

const Table& of_hybrids() {
  static const Table table{
      {"mamba", [](const auto&) { return mamba(); }},
      {"mamba2", [](const auto&) { return mamba(); }},
      {"bamba", [](const auto&) { return bamba(); }},
      {"jamba", [](const auto&) { return jamba(); }},
      {"lfm2", [](const auto&) { return lfm2(); }},
      {"lfm2_moe", [](const auto&) { return lfm2(); }},
      {"qwen3_next", [](const auto&) { return qwen3_next(true); }},
      {"qwen3_5_text", [](const auto&) { return qwen3_next(false); }},
      {"qwen3_5_moe_text", [](const auto&) { return qwen3_next(true); }},
      {"granitemoehybrid", [](const auto&) { return granitemoehybrid(); }},
      {"minimax", [](const auto&) { return minimax(); }},
      {"olmo_hybrid", [](const auto&) { return olmo_hybrid(); }},
      {"kimi_linear", [](const auto&) { return kimi_linear(); }},
      {"recurrent_gemma", [](const auto&) { return recurrent_gemma(); }},
      {"rwkv", [](const auto&) { return rwkv(); }},
      {"xlstm", [](const auto&) { return xlstm(); }},
      {"nemotron_h", [](const auto&) { return nemotron_h(); }},
      {"bailing_hybrid", [](const auto&) { return bailing_hybrid(); }},
      {"falcon_h1", [](const auto&) { return falcon_h1(); }},
      {"longcat_flash", [](const auto&) { return longcat_flash(); }},
      {"gemma4_text", gemma4},
      {"zamba2", zamba2},
  };
  return table;
}

}  // namespace lmxlab::names
