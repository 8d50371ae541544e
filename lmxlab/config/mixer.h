// What looks across positions.
#pragma once

#include "lmxlab/config/mla.h"
#include "lmxlab/config/norm.h"
#include "lmxlab/config/nsa.h"
#include "lmxlab/config/position.h"
#include "lmxlab/config/recurrent.h"

#include <optional>
#include <variant>

namespace lmxlab::config {

/// Queries grow with their position: q becomes q (1 + scale * log(1 + floor((position + first) /
/// every))), as in Llama 4 and Ministral 3.
struct Temperature {
  float scale = 0.1f;
  int every = 8192, first = 0;
  template <class V>
  void visit(V& v) {
    v("scale", scale, "of the logarithm");
    v("every", every, "positions of one step");
    v("first", first, "added to the position");
  }
};

/// Softmax attention: MHA (kv_heads = heads), GQA, MQA (kv_heads = 1), arXiv:2305.13245.
struct Attention {
  static constexpr const char* kind = "attention";
  int heads = 1, kv_heads = 1, head_dim = 64;
  Position position = Rope{};
  std::optional<int> window = {};    // a query sees itself and the window - 1 positions before it
  bool chunked = false;              // or, of its own chunk of so many, those up to it (Llama 4)
  std::optional<Norm> qk_norm = {};  // over each head of queries and keys, before rotation
  bool qk_norm_joint = false;        // over all heads together instead (OLMo 2)
  bool qk_norm_by_head = false;      // each head has weights of its own (Cohere, StableLM)
  bool qk_norm_late = false;         // after rotation (Hunyuan)
  bool qkv_bias = false, out_bias = false;
  std::optional<float> scale = {};    // of the scores; 1 / sqrt(head_dim) unless given
  std::optional<float> softcap = {};  // scores become cap * tanh(scores / cap)
  std::optional<float> clip =
      {};  // queries, keys and values stay within -clip and clip (OLMo, DBRX)
  std::optional<Norm> out_norm = {};  // over all heads, before the output projection (BitNet)
  std::optional<Temperature> temperature = {};
  bool gate = false;  // what is mixed times sigmoid of a projection of its own
  bool gate_bias = false;
  bool gate_by_head = false, gate_softplus = false;  // a number a head; softplus instead (Laguna)
  bool sinks = false;  // a learned score a head that takes part in the softmax and has no value
  std::optional<int> v_dim = {};    // of a value head, head_dim unless given (MiMo)
  float k_scale = 1, v_scale = 1;   // keys and values are multiplied by it (Falcon-H1, MiMo)
  std::optional<Norm> v_norm = {};  // over each head of values (Gemma 3n)
  bool v_of_k = false;              // values are the projected keys, before their norm (Gemma 4)
  std::optional<int> kv_from = {};  // keys and values are those of this layer, before it (Gemma 3n)

  int value_dim() const { return v_dim.value_or(head_dim); }
  /// Numbers of the gate's projection.
  int gate_width() const { return gate_by_head ? heads : heads * value_dim(); }

  template <class V>
  void visit(V& v) {
    v("heads", heads, "query heads");
    v("kv_heads", kv_heads, "key and value heads");
    v("head_dim", head_dim, "dimensions of a head");
    v("position", position, "none, rope or alibi");
    v("window", window, "positions a query sees, itself included");
    v("chunked", chunked, "a query sees its own chunk of `window` positions, up to itself");
    v("qk_norm", qk_norm, "norm over each head of queries and keys");
    v("qk_norm_joint", qk_norm_joint, "one norm over all heads together");
    v("qk_norm_by_head", qk_norm_by_head, "each head has norm weights of its own");
    v("qk_norm_late", qk_norm_late, "the norm comes after rotation");
    v("qkv_bias", qkv_bias, "biases of the q, k and v projections");
    v("out_bias", out_bias, "bias of the output projection");
    v("scale", scale, "of the scores, 1/sqrt(head_dim) unless given");
    v("softcap", softcap, "scores become cap * tanh(scores / cap)");
    v("clip", clip, "queries, keys and values stay within -clip and clip");
    v("out_norm", out_norm, "norm over all heads, before the output projection");
    v("temperature", temperature, "queries grow with their position");
    v("gate", gate, "what is mixed times sigmoid of a projection of its own");
    v("gate_bias", gate_bias, "bias of that projection");
    v("gate_by_head", gate_by_head, "the gate is a number a head");
    v("gate_softplus", gate_softplus, "softplus in the place of sigmoid");
    v("sinks", sinks, "a learned score a head that has no value (arXiv:2508.10925)");
    v("v_dim", v_dim, "dimensions of a value head, head_dim unless given");
    v("k_scale", k_scale, "keys are multiplied by it");
    v("v_scale", v_scale, "values are multiplied by it");
    v("v_norm", v_norm, "norm over each head of values");
    v("v_of_k", v_of_k, "values are the projected keys, before their norm");
    v("kv_from", kv_from, "the earlier layer whose keys and values it has");
  }
};

/// Attention and Mamba-2 over one input, added (Falcon-H1, arXiv:2507.22448):
///   y = attention_out * A(attention_in * x) + mamba_out * M(mamba_in * x)
struct Parallel {
  static constexpr const char* kind = "parallel";
  Attention attention = {};
  Mamba2 mamba = {};
  float attention_in = 1, attention_out = 1, mamba_in = 1, mamba_out = 1;
  template <class V>
  void visit(V& v) {
    v("attention", attention, "attention");
    v("mamba", mamba, "Mamba-2");
    v("attention_in", attention_in, "what attention reads is multiplied by it");
    v("attention_out", attention_out, "what attention gives is multiplied by it");
    v("mamba_in", mamba_in, "what Mamba-2 reads is multiplied by it");
    v("mamba_out", mamba_out, "what Mamba-2 gives is multiplied by it");
  }
};

inline RecurrentSize size_of(const Parallel& mixer, int dim) {
  return size_of(mixer.mamba, dim);
}

using Mixer =
    std::variant<Attention, Mla, Nsa, Mamba2, GatedDelta, ShortConv, KimiDelta, Mamba, Lightning,
                 Parallel, RgLru, RwkvTime, RwkvChannel, Rwkv7, Mamba3, Mlstm, Nothing, Custom>;

/// Of attention, alone or beside another mixer; null for others.
inline const Attention* attention_in(const Mixer& mixer) {
  if (const auto* p = std::get_if<Parallel>(&mixer)) return &p->attention;
  return std::get_if<Attention>(&mixer);
}

/// None for a mixer that keeps no state.
std::optional<RecurrentSize> recurrent_size(const Mixer& mixer, int dim);

}  // namespace lmxlab::config
