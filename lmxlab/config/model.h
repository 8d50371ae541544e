// A model as data: a list of blocks, each a mixer, an FFN, a norm and a wiring. The same value
// serves building, JSON and TOML, command-line paths, counting, describing and the memory plan. No
// MLX here.
#pragma once

#include "lmxlab/config/ffn.h"
#include "lmxlab/config/mixer.h"

#include <optional>
#include <string>
#include <vector>

namespace lmxlab::config {

/// How a branch meets the residual stream. x: stream, M: mixer, F: FFN, N: norms.
///   pre       h = x + M(N1 x)        y = h + F(N2 h)          (GPT-2, Llama)
///   post      h = N1(x + M x)        y = N2(h + F h)          (the first transformer)
///   branch    h = x + N1(M x)        y = h + N2(F h)          (OLMo 2)
///   sandwich  h = x + N2(M(N1 x))    y = h + N4(F(N3 h))      (Gemma 2)
///   parallel  n = N1 x               y = x + M n + F n        (GPT-J, Falcon)
///   twin      y = x + M(N1 x) + F(N2 x)                       (GPT-NeoX)
///   chain     n = N1 x, h = n + M n  k = N2 h, y = k + F k    (MiniMax)
enum class Wiring { pre, post, branch, sandwich, parallel, twin, chain };

struct Block {
  Mixer mixer = Attention{};
  Ffn ffn = Mlp{};
  Norm norm = RmsNorm{};
  Wiring wiring = Wiring::pre;
  float branch_scale = 1;  // what a branch adds is multiplied by it (Granite)
  float stream_scale = 1;  // and what it is added to by this one (MiniMax)
  std::optional<float> ffn_branch_scale = {}, ffn_stream_scale = {};  // the FFN's, if others
  template <class V>
  void visit(V& v) {
    v("mixer", mixer,
      "attention, mla, nsa, mamba2, gated_delta, short_conv, kimi_delta, mamba, lightning, none or "
      "custom");
    v("ffn", ffn, "mlp, moe, none or custom");
    v("norm", norm, "rms, layer or custom");
    v("wiring", wiring, "pre, post, branch, sandwich, parallel, twin or chain");
    v("branch_scale", branch_scale, "what a branch adds is multiplied by it");
    v("stream_scale", stream_scale, "what a branch is added to is multiplied by it");
    v("ffn_branch_scale", ffn_branch_scale, "of the FFN, where it is another");
    v("ffn_stream_scale", ffn_stream_scale, "of the FFN, where it is another");
  }
};

struct Model {
  std::string family = "custom";  // the preset family it came from; only names and exports read it
  int dim = 64, vocab = 256;
  int context = 1024;  // the longest sequence it is meant for; learned positions enforce theirs
  ModelPosition position = NoPosition{};
  std::vector<Block> layers = {};
  Norm final_norm = RmsNorm{};
  bool tie_head = true, head_bias = false;
  float embed_scale = 1;
  std::optional<Norm> embed_norm = {};  // of the embeddings, before the first block (Bloom)
  float logit_scale = 1;                // logits are multiplied by it, before the cap
  std::optional<float> logit_softcap = {};
  float dropout = 0;       // of the embeddings and of each branch, while training
  float init_std = 0.02f;  // of weights; back into the stream: init_std / sqrt(2 * layers)
  template <class V>
  void visit(V& v) {
    v("family", family, "the preset family it came from");
    v("dim", dim, "width of the residual stream");
    v("vocab", vocab, "tokens in the vocabulary");
    v("context", context, "the longest sequence it is meant for");
    v("position", position, "none, learned or sinusoidal");
    v("layers", layers, "the blocks, first to last");
    v("final_norm", final_norm, "rms, layer or custom");
    v("tie_head", tie_head, "the output head is the embedding, transposed");
    v("head_bias", head_bias, "bias of an untied head");
    v("embed_scale", embed_scale, "embeddings are multiplied by it");
    v("embed_norm", embed_norm, "norm of the embeddings");
    v("logit_scale", logit_scale, "logits are multiplied by it");
    v("logit_softcap", logit_softcap, "logits become cap * tanh(logits / cap)");
    v("dropout", dropout, "of embeddings and branches, while training");
    v("init_std", init_std, "standard deviation of new weights");
  }
};

inline bool operator==(const Model& a, const Model& b) {
  return same_fields(a, b);
}

/// {a, a, b}, 7 -> a a b a a b a
std::vector<Block> cycle(const std::vector<Block>& pattern, int n);

}  // namespace lmxlab::config

template <>
struct lmxlab::EnumNames<lmxlab::config::Wiring> {
  static constexpr std::pair<config::Wiring, const char*> table[] = {
      {config::Wiring::pre, "pre"},           {config::Wiring::post, "post"},
      {config::Wiring::branch, "branch"},     {config::Wiring::sandwich, "sandwich"},
      {config::Wiring::parallel, "parallel"}, {config::Wiring::twin, "twin"},
      {config::Wiring::chain, "chain"}};
};
