// What looks across positions.
#pragma once

#include "lmxlab/config/norm.h"
#include "lmxlab/config/position.h"
#include "lmxlab/config/recurrent.h"

#include <optional>
#include <variant>

namespace lmxlab::config {

/// Softmax attention: MHA (kv_heads = heads), GQA, MQA (kv_heads = 1), arXiv:2305.13245.
struct Attention {
  static constexpr const char* kind = "attention";
  int heads = 1, kv_heads = 1, head_dim = 64;
  Position position = Rope{};
  std::optional<int> window = {};    // a query sees itself and the window - 1 positions before it
  std::optional<Norm> qk_norm = {};  // over each head of queries and keys, before rotation
  bool qk_norm_joint = false;        // over all heads together instead (OLMo 2)
  bool qkv_bias = false, out_bias = false;
  std::optional<float> scale = {};    // of the scores; 1 / sqrt(head_dim) unless given
  std::optional<float> softcap = {};  // scores become cap * tanh(scores / cap)
  template <class V>
  void visit(V& v) {
    v("heads", heads, "query heads");
    v("kv_heads", kv_heads, "key and value heads");
    v("head_dim", head_dim, "dimensions of a head");
    v("position", position, "none, rope or alibi");
    v("window", window, "positions a query sees, itself included");
    v("qk_norm", qk_norm, "norm over each head of queries and keys");
    v("qk_norm_joint", qk_norm_joint, "one norm over all heads together");
    v("qkv_bias", qkv_bias, "biases of the q, k and v projections");
    v("out_bias", out_bias, "bias of the output projection");
    v("scale", scale, "of the scores, 1/sqrt(head_dim) unless given");
    v("softcap", softcap, "scores become cap * tanh(scores / cap)");
  }
};

using Mixer = std::variant<Attention, Mamba2, GatedDelta, ShortConv, KimiDelta, Mamba, Lightning,
                           Nothing, Custom>;

/// None for a mixer that keeps no state.
std::optional<RecurrentSize> recurrent_size(const Mixer& mixer, int dim);

}  // namespace lmxlab::config
