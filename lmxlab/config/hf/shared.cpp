#include "lmxlab/config/hf/shared.h"

namespace lmxlab::config {

void sizes(Keys& k, Decoder& d, bool own_head_dim) {
  k.require(d.vocab, {"vocab_size"});
  k(d.context, {"max_position_embeddings"});
  k.require(d.dim, {"hidden_size"});
  k.depth(d.depth, {"num_hidden_layers"});
  k.require(d.heads, {"num_attention_heads"});
  if (k.reading()) {
    if (d.kv_heads <= 1) d.kv_heads = d.heads;  // or the class's own, here and below
    if (d.head_dim <= 1) d.head_dim = d.heads > 0 ? d.dim / d.heads : 0;
  }
  k(d.kv_heads, {"num_key_value_heads"});
  if (own_head_dim) k(d.head_dim, {"head_dim"});
  if (k.reading() && !own_head_dim && d.heads > 0 && d.dim % d.heads != 0)
    k.wrong("hidden_size: " + std::to_string(d.dim) + " is no multiple of num_attention_heads, " +
            std::to_string(d.heads));
  if (k.reading() && d.hidden > 1)
    k(d.hidden, {"intermediate_size"});  // the class has a default
  else
    k.require(d.hidden, {"intermediate_size"});
  k(d.tie, {"tie_word_embeddings"});
  k(d.init_std, {"initializer_range"});
}
void llama_like(Keys& k, Decoder& d, const RopeForm& rope) {
  sizes(k, d);
  k.act(d.act, {"hidden_act"});
  k(d.eps, {"rms_norm_eps"});
  k.rope(d, rope);
}

Model assemble(const Decoder& d, const char* family, const Block& block) {
  Model m{.family = family, .dim = d.dim, .vocab = d.vocab, .context = d.context};
  m.tie_head = d.tie, m.dropout = d.dropout, m.init_std = d.init_std;
  m.final_norm = block.norm;
  m.embed_scale = d.embed_scale, m.logit_scale = d.logit_scale;
  m.logit_softcap = d.logit_softcap;
  m.layers.assign(static_cast<size_t>(d.depth), block);
  for (size_t i = 0; i < m.layers.size(); ++i) {
    auto* mlp = std::get_if<Mlp>(&m.layers[i].ffn);
    if (mlp && !d.layer_hidden.empty()) mlp->hidden = d.layer_hidden[i];
    if (d.moe && Decoder::says(d.sparse, i)) m.layers[i].ffn = *d.moe;
    if (d.recurs(i)) m.layers[i].mixer = *d.recurrent;
    if (!Decoder::says(d.mixes, i)) m.layers[i].mixer = Nothing{};
    if (!Decoder::says(d.feeds, i)) m.layers[i].ffn = Nothing{};
    auto* attention = std::get_if<Attention>(&m.layers[i].mixer);
    if (!attention) continue;
    auto& a = *attention;
    if (!d.layer_heads.empty()) a.heads = d.layer_heads[i];
    if (!d.layer_kv_heads.empty()) a.kv_heads = d.layer_kv_heads[i];
    if (!d.layer_head_dims.empty()) a.head_dim = d.layer_head_dims[i];
    if (!d.rotates(i)) a.position = NoPosition{};
    if (!d.slides(i)) continue;
    a.window = d.window;
    if (d.local_rope && d.rotates(i)) a.position = *d.local_rope;
  }
  return m;
}

Block llama_block(const Decoder& d) {
  const Attention attention{.heads = d.heads,
                            .kv_heads = d.kv_heads,
                            .head_dim = d.head_dim,
                            .position = d.rope,
                            .qkv_bias = d.attention_bias,
                            .out_bias = d.attention_bias,
                            .scale = d.score_scale,
                            .softcap = d.score_softcap,
                            .clip = d.clip,
                            .temperature = d.temperature,
                            .sinks = d.sinks,
                            .v_dim = d.v_dim,
                            .k_scale = d.k_scale,
                            .v_scale = d.v_scale};
  const Mlp mlp{.hidden = d.hidden, .act = d.act, .bias = d.mlp_bias};
  return {.mixer = attention,
          .ffn = mlp,
          .norm = RmsNorm{.eps = d.eps},
          .branch_scale = d.branch_scale};
}

}  // namespace lmxlab::config
