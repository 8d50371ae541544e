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
  /// Experts beside the FFN, over what it reads; the stream gets what they give only behind the
  /// next block (LongCat-Flash, arXiv:2509.01322).
  std::optional<Moe> shortcut = {};
  int laurel = 0;                  // rank of Gemma 3n's second path beside the mixer
  bool layer_scale = false;        // the stream behind the block times a number (Gemma 4)
  std::optional<int> shared = {};  // which of the shared blocks comes before its mixer (Zamba2)
  template <class V>
  void visit(V& v) {
    v("mixer", mixer,
      "attention, mla, nsa, mamba2, gated_delta, short_conv, kimi_delta, mamba, lightning, "
      "parallel, "
      "rg_lru, rwkv_time, rwkv_channel, rwkv7, mamba3, mlstm, none or custom");
    v("ffn", ffn, "mlp, moe, mlp_and_moe, none or custom");
    v("norm", norm, "rms, layer or custom");
    v("wiring", wiring, "pre, post, branch, sandwich, parallel, twin or chain");
    v("branch_scale", branch_scale, "what a branch adds is multiplied by it");
    v("stream_scale", stream_scale, "what a branch is added to is multiplied by it");
    v("ffn_branch_scale", ffn_branch_scale, "of the FFN, where it is another");
    v("ffn_stream_scale", ffn_stream_scale, "of the FFN, where it is another");
    v("shortcut", shortcut, "experts whose result is added behind the next block");
    v("laurel", laurel, "rank of a learned path beside the mixer; 0: there is none");
    v("layer_scale", layer_scale, "the stream behind the block times a number of its own");
    v("shared", shared, "number of the shared block before its mixer");
  }
};

/// Attention and a gated FFN that several blocks have in common (Zamba2, arXiv:2411.15242). x:
/// stream, e: embedding, N: norms like `norm`:
///   T(x) = F(N2 A(N1 [x, e]))        the block's mixer reads its norm of x + L T(x)
/// L is the block's own, and so are additions of a low rank to the projections of F, and of A.
struct SharedBlock {
  Attention attention = {};  // over 2 * dim numbers
  Mlp mlp = {};
  Norm norm = RmsNorm{};
  int rank = 128;  // of the additions
  bool attention_additions = false;
  template <class V>
  void visit(V& v) {
    v("attention", attention, "attention over the stream and the embedding");
    v("mlp", mlp, "the gated FFN behind it");
    v("norm", norm, "before each of them");
    v("rank", rank, "of what each block adds to the projections");
    v("attention_additions", attention_additions, "also to those of queries, keys and values");
  }
};

/// Every block gets a vector of its own a position, from a second table and from the embedding
/// (Gemma 3n and 4). e: embedding, t: the table's row times sqrt(width), N: RMSNorm, h: stream:
///   p = (N(W e / sqrt(dim)) + t) / sqrt(2)      h = h + N(V (act(U h) * p))
struct LayerInputs {
  int width = 256, vocab = 256;
  Act act = Act::gelu_tanh;
  template <class V>
  void visit(V& v) {
    v("width", width, "numbers a block");
    v("vocab", vocab, "rows of the table; a token beyond it has the first");
    v("act", act, "of what the stream makes before it meets them");
  }
};

/// Several streams, of which blocks see one and the others follow (Gemma 3n; arXiv:2301.13310).
struct AltUp {
  int streams = 4, active = 0;
  bool scaled = true;               // what the layer's inputs see of the active stream is scaled
  std::optional<float> clip = 120;  // of the weights that mix streams, in training
  template <class V>
  void visit(V& v) {
    v("streams", streams, "how many there are");
    v("active", active, "the one that blocks see");
    v("scaled", scaled, "layer inputs see it times learned numbers");
    v("clip", clip, "limit of the weights that mix streams, in training");
  }
};

/// The experts of a block, in its FFN or beside it; null if there are none.
inline const Moe* experts_in(const Block& b) {
  return b.shortcut ? &*b.shortcut : experts_in(b.ffn);
}

struct Model {
  std::string family = "custom";  // the preset family it came from; only names and exports read it
  int dim = 64, vocab = 256;
  int context = 1024;  // the longest sequence it is meant for; learned positions enforce theirs
  ModelPosition position = NoPosition{};
  std::vector<Block> layers = {};
  Norm final_norm = RmsNorm{};
  bool tie_head = true, head_bias = false;
  /// A head of one number in the place of the tokens': a reward model, transformers'
  /// ...ForSequenceClassification with one label. The head above is not there then.
  bool score = false;
  float embed_scale = 1;
  std::optional<Norm> embed_norm = {};  // of the embeddings, before the first block (Bloom)
  std::optional<LayerInputs> layer_inputs = {};
  std::optional<AltUp> altup = {};
  std::vector<SharedBlock> shared_blocks = {};
  /// Heads that predict further tokens, a block each (DeepSeek-V3, arXiv:2412.19437, 2.2): head k
  /// says what comes k tokens behind the next one. The model itself does not need them.
  std::vector<Block> mtp_heads = {};
  float logit_scale = 1;  // logits are multiplied by it, before the cap
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
    v("score", score, "a head of one number in the place of the tokens': a reward model");
    v("embed_scale", embed_scale, "embeddings are multiplied by it");
    v("embed_norm", embed_norm, "norm of the embeddings");
    v("layer_inputs", layer_inputs, "a vector a block and position, from a table of its own");
    v("altup", altup, "several streams, of which blocks see one");
    v("shared_blocks", shared_blocks, "attention and FFNs that several blocks have in common");
    v("mtp_heads", mtp_heads, "heads that predict further tokens, a block each");
    v("logit_scale", logit_scale, "logits are multiplied by it");
    v("logit_softcap", logit_softcap, "logits become cap * tanh(logits / cap)");
    v("dropout", dropout, "of embeddings and branches, while training");
    v("init_std", init_std, "standard deviation of new weights");
  }
};

inline bool operator==(const Model& a, const Model& b) {
  return same_fields(a, b);
}

/// Block i of the model, its heads counted on behind the layers.
inline const Block& block_of(const Model& m, size_t i) {
  return i < m.layers.size() ? m.layers[i] : m.mtp_heads.at(i - m.layers.size());
}
/// Whether a block needs nothing of the blocks around it, as one of a head must not.
bool stands_alone(const Block& block);
/// What heads are made of where nobody says: the last block with a mixer that stands alone.
/// @throws Error(unsupported) if there is none.
Block mtp_block(const Model& model);

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
