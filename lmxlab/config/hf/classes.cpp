#include "lmxlab/config/hf/classes.h"

#include "lmxlab/config/hf/shared.h"

#include <set>

namespace lmxlab::config {

const std::vector<HfClass>& hf_classes() {
  static const std::vector<HfClass> all = [] {
    std::vector<HfClass> out;
    for (const auto& lineage :
         {llama_classes(), gpt_classes(), gemma_classes(), mla_classes(), moe_classes(),
          attention_moe_classes(), recurrent_classes(), hybrid_classes(), rnn_classes()})
      out.insert(out.end(), lineage.begin(), lineage.end());
    return out;
  }();
  return all;
}

const HfClass* hf_class(std::string_view model_type) {
  for (const auto& c : hf_classes())
    if (c.model_type == model_type) return &c;
  return nullptr;
}

std::string sequence_class(const HfClass& c) {
  static const std::set<std::string_view> kRegular = {"arcee",
                                                      "bloom",
                                                      "deepseek_v2",
                                                      "deepseek_v3",
                                                      "exaone4",
                                                      "falcon",
                                                      "gemma",
                                                      "gemma2",
                                                      "glm",
                                                      "glm4",
                                                      "gpt2",
                                                      "gpt_bigcode",
                                                      "gpt_neox",
                                                      "gpt_oss",
                                                      "gptj",
                                                      "helium",
                                                      "hunyuan_v1_dense",
                                                      "hunyuan_v1_moe",
                                                      "jamba",
                                                      "llama",
                                                      "minicpm3",
                                                      "minimax",
                                                      "ministral",
                                                      "ministral3",
                                                      "mistral",
                                                      "mixtral",
                                                      "mpt",
                                                      "nemotron",
                                                      "olmo",
                                                      "olmo2",
                                                      "olmo3",
                                                      "opt",
                                                      "persimmon",
                                                      "phi",
                                                      "phi3",
                                                      "phimoe",
                                                      "qwen2",
                                                      "qwen2_moe",
                                                      "qwen3",
                                                      "qwen3_moe",
                                                      "qwen3_next",
                                                      "seed_oss",
                                                      "smollm3",
                                                      "stablelm",
                                                      "starcoder2",
                                                      "zamba2"};
  constexpr const char* kBehind = "ForSequenceClassification";
  if (c.model_type == std::string_view("gemma3_text")) return std::string("Gemma3Text") + kBehind;
  if (!kRegular.contains(c.model_type)) return "";
  std::string name = c.architecture;
  for (const std::string_view end : {"ForCausalLM", "LMHeadModel"})
    if (name.ends_with(end)) name.erase(name.size() - end.size());
  return name + kBehind;
}

std::optional<Decoder> decoder_of(const Model& m) {
  Decoder d{.vocab = m.vocab, .context = m.context, .dim = m.dim};
  d.depth = static_cast<int>(m.layers.size());
  d.tie = m.tie_head, d.init_std = m.init_std, d.dropout = m.dropout;
  d.head_bias = m.head_bias;
  d.embed_scale = m.embed_scale, d.logit_scale = m.logit_scale;
  d.logit_softcap = m.logit_softcap;
  if (const auto* l = std::get_if<Learned>(&m.position)) d.context = l->length;
  bool ropes = false;
  const Block* attends = nullptr;
  for (const Block& b : m.layers) {
    const auto* a = attention_in(b.mixer);
    const auto* l = std::get_if<Mla>(&b.mixer);
    const auto* both = std::get_if<MlpAndMoe>(&b.ffn);
    const auto* mlp = both ? &both->mlp : std::get_if<Mlp>(&b.ffn);
    const auto* moe = experts_in(b);
    const bool recurs = !a && recurrent_size(b.mixer, m.dim).has_value();
    const bool mixes = !std::holds_alternative<Nothing>(b.mixer);
    const bool feeds = !std::holds_alternative<Nothing>(b.ffn);
    if (mixes && !a && !l && !recurs) return std::nullopt;
    if (feeds && !mlp && !moe) return std::nullopt;
    d.mixes.push_back(mixes), d.feeds.push_back(feeds);
    d.layer_heads.push_back(a ? a->heads : 0), d.layer_kv_heads.push_back(a ? a->kv_heads : 0);
    d.layer_head_dims.push_back(a ? a->head_dim : 0);
    d.layer_hidden.push_back(mlp ? mlp->hidden : 0);
    d.layer_sparsity.push_back(mlp ? mlp->sparsity : 0);
    d.kv_shared += a && a->kv_from, d.v_of_k |= a && a->v_of_k, d.laurel = b.laurel;
    if (const auto* p = std::get_if<Parallel>(&b.mixer); p && !d.recurrent) d.recurrent = p->mamba;
    if (recurs && !d.recurrent) d.recurrent = b.mixer;
    if (const auto* c = std::get_if<RwkvChannel>(&b.mixer)) d.hidden = c->hidden;
    if (mixes && !recurs && !attends) attends = &b;
    d.recurrent_layers.push_back(recurs);
    (recurs ? d.recurrent_scales : d.attention_scales) = {b.stream_scale, b.branch_scale};
    d.ffn_scales = {b.ffn_stream_scale.value_or(b.stream_scale),
                    b.ffn_branch_scale.value_or(b.branch_scale)};
    d.sparse.push_back(moe != nullptr);
    if (moe && !d.moe) d.moe = *moe, d.act = moe->act;
    if (mlp) d.hidden = mlp->hidden, d.act = mlp->act, d.mlp_bias = mlp->bias;
    const auto* rope = a   ? std::get_if<Rope>(&a->position)
                       : l ? std::get_if<Rope>(&l->position)
                           : nullptr;
    const auto window = a ? a->window : std::nullopt;
    if (l && l->indexer) d.shared_choice.push_back(l->indexer->shared);
    d.sliding.push_back(window.has_value()), d.rotated.push_back(rope != nullptr);
    if (window) d.window = window;
    if (a && a->temperature) d.temperature = a->temperature;
    if (a && a->qk_norm) d.qk_norm = true;
    if (rope && window) d.local_rope = *rope;
    if (rope && (!window || !ropes)) d.rope = *rope, ropes = !window;
  }
  if (m.layers.empty()) return std::nullopt;
  d.blocks = m.layers, d.layer_inputs = m.layer_inputs, d.altup = m.altup;
  d.shared_blocks = m.shared_blocks;
  for (const Block& b : m.layers) d.hybrids.push_back(b.shared.has_value());
  const Block& b = m.layers[0];
  if (const auto* a = attends ? attention_in(attends->mixer) : nullptr) {
    d.heads = a->heads, d.kv_heads = a->kv_heads, d.head_dim = a->head_dim;
    d.attention_bias = a->qkv_bias || a->out_bias;
    d.qkv_bias = a->qkv_bias, d.out_bias = a->out_bias;
    d.score_scale = a->scale, d.score_softcap = a->softcap, d.clip = a->clip;
    d.sinks = a->sinks, d.gate = a->gate, d.gate_by_head = a->gate_by_head;
    d.v_dim = a->v_dim, d.k_scale = a->k_scale, d.v_scale = a->v_scale;
    if (const auto* s = std::get_if<Alibi>(&a->position)) d.alibi = *s;
  } else if (attends) {
    d.mla = std::get<Mla>(attends->mixer);
    d.heads = d.kv_heads = d.mla->heads, d.head_dim = d.mla->rope_dim;
    d.attention_bias = d.mla->bias;
    d.mscale_all = mscale_of(*d.mla);
  }
  d.wiring = b.wiring, d.branch_scale = b.branch_scale;
  if (const auto* r = std::get_if<RmsNorm>(&b.norm)) d.eps = r->eps;
  if (const auto* l = std::get_if<LayerNorm>(&b.norm)) d.eps = l->eps;
  return d;
}

}  // namespace lmxlab::config
