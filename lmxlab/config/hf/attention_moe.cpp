// Mixtures of experts whose layers differ in their attention.
#include "lmxlab/config/hf/shared.h"

namespace lmxlab::config {
namespace {

/// MiMo-V2-Flash: windows with sinks and twice the key heads, values narrower than keys.
void mimo_keys(Keys& k, Decoder& d) {
  if (k.reading()) {
    d.eps = 1e-5f, d.context = 131'072, d.head_dim = 192, d.v_dim = 128, d.v_scale = 0.707f;
    d.kv_heads = 4, d.hidden = 16'384, d.window = 129, d.rope.theta = 5'000'000;
    d.local_rope = Rope{};
  } else {
    // Of layers without a window; the others have twice as many.
    for (size_t i = 0; i < d.layer_kv_heads.size(); ++i)
      d.kv_heads = d.slides(i) ? d.layer_kv_heads[i] / 2 : d.layer_kv_heads[i];
  }
  sizes(k, d);
  k.act(d.act, {"hidden_act"});
  k(d.eps, {"rms_norm_eps"});
  k(d.attention_bias, {"attention_bias"});
  k(d.v_dim, {"v_head_dim"});
  if (k.reading() && k.is_null("attention_value_scale")) d.v_scale = 1;  // null is none
  k(d.v_scale, {"attention_value_scale"});
  if (k.reading() && !k.present("rope_parameters")) {
    const int turned = whole(0.334 * d.head_dim) / 2 * 2;
    d.rope.dims = d.local_rope->dims = turned;
    k(d.rope.theta, {"rope_theta"});
    k(d.local_rope->theta, {"swa_rope_theta"});
  } else {
    k.rope_by_type(d, {.share = 1.f});
  }
  k(d.window, {"sliding_window"});
  if (k.reading() && k.present("sliding_window_size")) {
    int before = d.window ? *d.window - 1 : 0;  // without the query itself
    k(before, {"sliding_window_size"});
    d.window =
        static_cast<int>(std::min<int64_t>(int64_t{before} + 1, std::numeric_limits<int>::max()));
  }
  if (k.reading()) d.sliding = layers_where(d, [](int i) { return i != 1 && i % 6 != 0; });
  k.layer_types(d);
  expert_sizes(k, d, kDeepseekV3, kRoutedExperts);
  deepseek_router(k, d);
  if (k.reading()) d.sparse = layers_where(d, [](int i) { return i > 1; });
  k.dense_or_sparse(d, "mlp_layer_types");
  k.skip({"partial_rotary_factor"});
}
Model mimo_model(const Decoder& d) {
  Block b = llama_block(d);
  attention_of(b).out_bias = false;
  Model m = with_experts(d, "mimo_v2_flash", b);
  for (auto& layer : m.layers) {
    auto& a = attention_of(layer);
    if (a.window) a.kv_heads = product(2, a.kv_heads), a.sinks = true;
  }
  return m;
}

/// Laguna: heads by layer, and a softplus gate a head or a number.
void laguna_keys(Keys& k, Decoder& d) {
  if (k.reading()) {
    d.context = 131'072, d.kv_heads = 8, d.head_dim = 128, d.window = 512, d.hidden = 8192;
    d.rope.theta = 500'000, d.local_rope = Rope{};
  }
  sizes(k, d);
  k.act(d.act, {"hidden_act"});
  k(d.eps, {"rms_norm_eps"});
  k(d.attention_bias, {"attention_bias"});
  if (k.reading() && !k.present("rope_parameters"))
    d.rope.dims = d.head_dim / 4 * 2;
  else
    k.rope_by_type(d, {.share = 1.f});
  k(d.window, {"sliding_window"});
  if (k.reading()) d.sliding.assign(static_cast<size_t>(d.depth), false);
  k.layer_types(d);
  if (k.reading()) d.layer_heads.assign(static_cast<size_t>(d.depth), d.heads);
  k(d.layer_heads, {"num_attention_heads_per_layer"});
  if (d.layer_heads.size() != static_cast<size_t>(d.depth)) {
    k.wrong("num_attention_heads_per_layer: expected one for each of " + std::to_string(d.depth) +
            " layers, got " + std::to_string(d.layer_heads.size()));
    d.layer_heads.clear();
  }
  if (k.reading() && k.is_string("gating")) {
    std::string form;
    k(form, {"gating"});
    d.gate_by_head = form == "per-head";
    if (!d.gate_by_head && form != "per-element")
      k.refuse("gating: \"" + form + "\"; supported: per-head, per-element");
  } else if (k.reading()) {
    d.gate_by_head = true;
    k.only("gating", true, "attention without a gate");
  } else {
    k.constant("gating", d.gate_by_head ? "per-head" : "per-element");
  }
  Moe defaults = kDeepseekV3;
  defaults.hidden = 512, defaults.shared = 512, defaults.norm_eps = 0;
  expert_sizes(
      k, d, defaults,
      {{"num_experts", "num_local_experts"}, {"num_experts_per_tok"}, {"moe_intermediate_size"}});
  k(d.moe->shared, {"shared_expert_intermediate_size"});
  k(d.moe->scale, {"moe_routed_scaling_factor"});
  float cap = d.moe->router_softcap.value_or(0.f);
  k(cap, {"moe_router_logit_softcapping"});
  d.moe->router_softcap = cap > 0 ? std::optional(cap) : std::nullopt;
  k.only("moe_apply_router_weight_on_input", false, "weights on what experts read");
  if (k.reading()) d.sparse = layers_where(d, [](int i) { return i > 1; });
  k.dense_or_sparse(d, "mlp_layer_types");
}
Model laguna_model(const Decoder& d) {
  Block b = llama_block(d);
  auto& a = attention_of(b);
  a.qk_norm = b.norm, a.gate = a.gate_softplus = true, a.gate_by_head = d.gate_by_head;
  return with_experts(d, "laguna", b);
}

}  // namespace

std::vector<HfClass> attention_moe_classes() {
  return {
      {"mimo_v2_flash", "MiMoV2FlashForCausalLM", "mimo_v2_flash", mimo_keys, mimo_model},
      {"laguna", "LagunaForCausalLM", "laguna", laguna_keys, laguna_model},
  };
}

}  // namespace lmxlab::config
