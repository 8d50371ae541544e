// A model as data: a list of blocks, each a mixer, an FFN, a norm and a wiring. The same value
// serves building, JSON and TOML, command-line paths, counting, describing and the memory plan. No
// MLX here.
#pragma once

#include "lmxlab/base/fields.h"

#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace lmxlab::config {

enum class Act { silu, gelu, gelu_tanh, relu, relu2 };

/// How a branch meets the residual stream. x: stream, M: mixer, F: FFN, N: norms.
///   pre       h = x + M(N1 x)        y = h + F(N2 h)          (GPT-2, Llama)
///   post      h = N1(x + M x)        y = N2(h + F h)          (the first transformer)
///   branch    h = x + N1(M x)        y = h + N2(F h)          (OLMo 2)
///   sandwich  h = x + N2(M(N1 x))    y = h + N4(F(N3 h))      (Gemma 2)
///   parallel  n = N1 x               y = x + M n + F n        (GPT-J, Falcon)
enum class Wiring { pre, post, branch, sandwich, parallel };

/// A part that a program registered (core/custom.h); `values` are handed to its factory as they
/// are.
struct Custom {
  static constexpr const char* kind = "custom";
  std::string name;
  Json values = Json::object();
  template <class V>
  void visit(V& v) {
    v("name", name, "the name it was registered under");
    v("values", values, "what its factory is given");
  }
};

/// y = x / sqrt(mean(x^2) + eps) * (weight + weight_offset)     arXiv:1910.07467
struct RmsNorm {
  static constexpr const char* kind = "rms";
  float eps = 1e-5f;
  float weight_offset = 0;  // Gemma stores weight - 1
  template <class V>
  void visit(V& v) {
    v("eps", eps, "added to the mean square");
    v("weight_offset", weight_offset, "added to the stored weight");
  }
};
/// y = (x - mean) / sqrt(var + eps) * weight + bias              arXiv:1607.06450
struct LayerNorm {
  static constexpr const char* kind = "layer";
  float eps = 1e-5f;
  bool bias = true;
  template <class V>
  void visit(V& v) {
    v("eps", eps, "added to the variance");
    v("bias", bias, "learned shift");
  }
};
using Norm = std::variant<RmsNorm, LayerNorm, Custom>;

struct NoPosition {
  static constexpr const char* kind = "none";
  template <class V>
  void visit(V&) {}
};
struct Unscaled {
  static constexpr const char* kind = "none";
  template <class V>
  void visit(V&) {}
};
/// The base grows with the text's length, once that is beyond `original` (NTK-aware scaling).
struct DynamicNtk {
  static constexpr const char* kind = "dynamic";
  float factor = 1;
  int original = 2048;
  template <class V>
  void visit(V& v) {
    v("factor", factor, "how fast the base grows");
    v("original", original, "the length it was trained for, in tokens");
  }
};
/// Low frequencies are divided by the factor, high ones stay, those between are mixed: Llama 3.1,
/// arXiv:2407.21783.
struct Llama3Scaling {
  static constexpr const char* kind = "llama3";
  float factor = 8, low_freq_factor = 1, high_freq_factor = 4;
  int original = 8192;
  template <class V>
  void visit(V& v) {
    v("factor", factor, "divides low frequencies");
    v("low_freq_factor", low_freq_factor, "turns in `original` tokens below which one is low");
    v("high_freq_factor", high_freq_factor, "and above which it is high");
    v("original", original, "the length it was trained for, in tokens");
  }
};
/// arXiv:2309.00071.
struct Yarn {
  static constexpr const char* kind = "yarn";
  float factor = 1, beta_fast = 32, beta_slow = 1;
  int original = 2048;
  float attention_factor = 1;
  bool truncate = true;
  template <class V>
  void visit(V& v) {
    v("factor", factor, "divides low frequencies");
    v("beta_fast", beta_fast, "turns in `original` tokens above which a frequency stays");
    v("beta_slow", beta_slow, "and below which it is divided");
    v("original", original, "the length it was trained for, in tokens");
    v("attention_factor", attention_factor, "rotated queries and keys are multiplied by it");
    v("truncate", truncate, "the bounds between them are whole pairs");
  }
};
/// A divisor for each pair, one list up to `original` tokens and another beyond: arXiv:2402.13753.
struct LongRope {
  static constexpr const char* kind = "longrope";
  std::vector<float> short_factor = {}, long_factor = {};
  int original = 4096;
  float attention_factor = 1;
  template <class V>
  void visit(V& v) {
    v("short_factor", short_factor, "divisors of texts of up to `original` tokens");
    v("long_factor", long_factor, "divisors of longer ones");
    v("original", original, "the length it was trained for, in tokens");
    v("attention_factor", attention_factor, "rotated queries and keys are multiplied by it");
  }
};
/// What is done to the frequencies for texts longer than those of the training; config/rope.h
/// computes it. Linear scaling is Rope::scale.
using RopeScaling = std::variant<Unscaled, DynamicNtk, Llama3Scaling, Yarn, LongRope>;

/// Rotary positions of queries and keys, arXiv:2104.09864. Halves are rotated together, or
/// neighbours if interleaved.
struct Rope {
  static constexpr const char* kind = "rope";
  float theta = 10'000;
  int dims = 0;  // rotated dimensions of a head; 0: all
  bool interleaved = false;
  float scale = 1;  // positions are multiplied by it (linear scaling: 1 / factor)
  RopeScaling scaling = Unscaled{};
  template <class V>
  void visit(V& v) {
    v("theta", theta, "base of the frequencies");
    v("dims", dims, "rotated dimensions of a head, 0 for all");
    v("interleaved", interleaved, "pairs (2i, 2i+1) instead of (i, i + dims/2)");
    v("scale", scale, "positions are multiplied by it");
    v("scaling", scaling, "none, dynamic, llama3, yarn or longrope");
  }
};
/// Scores minus slope * distance, arXiv:2108.12409.
struct Alibi {
  static constexpr const char* kind = "alibi";
  template <class V>
  void visit(V&) {}
};
/// Positions inside a mixer.
using Position = std::variant<NoPosition, Rope, Alibi>;

/// A learned vector a position, added to the embedding (GPT-2).
struct Learned {
  static constexpr const char* kind = "learned";
  int length = 1024;
  template <class V>
  void visit(V& v) {
    v("length", length, "the longest sequence, in tokens");
  }
};
/// Sines and cosines added to the embedding, arXiv:1706.03762, section 3.5: sin and cos of
/// position * 10000^(-2i/D), in the two halves of the vector.
struct Sinusoidal {
  static constexpr const char* kind = "sinusoidal";
  template <class V>
  void visit(V&) {}
};
/// Positions of the whole model.
using ModelPosition = std::variant<NoPosition, Learned, Sinusoidal>;

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

struct Nothing {
  static constexpr const char* kind = "none";
  template <class V>
  void visit(V&) {}
};

/// down(act(up x)), or gated: down(act(gate x) * up x) (arXiv:2002.05202).
struct Mlp {
  static constexpr const char* kind = "mlp";
  int hidden = 1;
  Act act = Act::silu;
  bool gated = true, bias = false;
  template <class V>
  void visit(V& v) {
    v("hidden", hidden, "inner width");
    v("act", act, "silu, gelu, gelu_tanh, relu or relu2");
    v("gated", gated, "SwiGLU, GeGLU, ... instead of a plain activation");
    v("bias", bias, "biases of its projections");
  }
};

using Mixer = std::variant<Attention, Nothing, Custom>;
using Ffn = std::variant<Mlp, Nothing, Custom>;

struct Block {
  Mixer mixer = Attention{};
  Ffn ffn = Mlp{};
  Norm norm = RmsNorm{};
  Wiring wiring = Wiring::pre;
  template <class V>
  void visit(V& v) {
    v("mixer", mixer, "attention, none or custom");
    v("ffn", ffn, "mlp, none or custom");
    v("norm", norm, "rms, layer or custom");
    v("wiring", wiring, "pre, post, branch, sandwich or parallel");
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
struct lmxlab::EnumNames<lmxlab::config::Act> {
  static constexpr std::pair<config::Act, const char*> table[] = {
      {config::Act::silu, "silu"},
      {config::Act::gelu, "gelu"},
      {config::Act::gelu_tanh, "gelu_tanh"},
      {config::Act::relu, "relu"},
      {config::Act::relu2, "relu2"}};
};
template <>
struct lmxlab::EnumNames<lmxlab::config::Wiring> {
  static constexpr std::pair<config::Wiring, const char*> table[] = {
      {config::Wiring::pre, "pre"},
      {config::Wiring::post, "post"},
      {config::Wiring::branch, "branch"},
      {config::Wiring::sandwich, "sandwich"},
      {config::Wiring::parallel, "parallel"}};
};
