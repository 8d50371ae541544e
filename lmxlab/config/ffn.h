// What each position goes through by itself.
#pragma once

#include "lmxlab/config/norm.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

namespace lmxlab::config {

enum class Act { silu, gelu, gelu_tanh, relu, relu2, xielu };

/// down(act(up x)), or gated: down(act(gate x) * up x) (arXiv:2002.05202).
struct Mlp {
  static constexpr const char* kind = "mlp";
  int hidden = 1;
  Act act = Act::silu;
  bool gated = true, bias = false;
  std::optional<Norm> norm = {};  // before the last projection (BitNet)
  float gate_scale = 1;           // act(gate_scale * gate x) (Falcon-H1)
  /// Of the gate only what lies above mean + sqrt(2) erfinv(2 sparsity - 1) deviations of a
  /// position's numbers counts, less that bound: about 1 - sparsity of them (Gemma 3n).
  float sparsity = 0;
  template <class V>
  void visit(V& v) {
    v("hidden", hidden, "inner width");
    v("act", act, "silu, gelu, gelu_tanh, relu, relu2 or xielu");
    v("gated", gated, "SwiGLU, GeGLU, ... instead of a plain activation");
    v("bias", bias, "biases of its projections");
    v("norm", norm, "norm before the last projection");
    v("gate_scale", gate_scale, "the gate is multiplied by it, before its activation");
    v("sparsity", sparsity, "share of the gate's numbers that become 0");
  }
};

/// What a router makes of its logits [E] (w: weights of the chosen; before `normalize`, `scale`).
///   softmax         scores = softmax(logits), w = those of the chosen        (arXiv:2101.03961)
///   sigmoid         scores = sigmoid(logits), w = those of the chosen        (arXiv:2412.19437)
///   softmax_of_top  scores = logits, w = softmax over the chosen alone       (arXiv:2401.04088)
///   sparsemixer     one expert after another: the best, with the softmax over those logits within
///                   2 jitter max(|l|, best) of it, then without it; as in evaluation (2310.00811)
enum class Scoring { softmax, sigmoid, softmax_of_top, sparsemixer };
/// What a group of experts is chosen by: its best score, or the sum of its two best.
enum class GroupScore { max, top2 };

/// A mixture of experts: y = sum over the chosen e of w_e FFN_e(x), plus a shared FFN that every
/// token goes through. The default is Mixtral's. Logits, scores and weights are float32.
///
/// With `widths` experts differ in inner width, so that what a token costs is its choice.
///
/// Chosen are the top_k of scores + selection_bias, of the `groups_kept` best groups where there
/// are groups; w = scale * w / max(norm_p(w) + norm_eps, norm_min) where normalize = p > 0.
struct Moe {
  static constexpr const char* kind = "moe";
  int experts = 8, top_k = 2;
  int hidden = 1;
  std::vector<int> widths = {};  // of each expert, ascending; none: all have `hidden`
  Act act = Act::silu;
  bool gated = true, bias = false;
  std::optional<float> clamp = {};  // gpt-oss: 7
  float alpha = 1, up_offset = 0;   // gpt-oss: 1.702 and 1
  bool input_scaled = false;        // Llama 4
  int latent = 0;                   // Nemotron 3
  int zero_experts = 0;             // LongCat-Flash (arXiv:2509.01322)
  Scoring scoring = Scoring::softmax_of_top;
  float jitter = 0.01f;
  bool router_bias = false;
  std::optional<float> router_softcap = {};  // Laguna
  std::optional<float> router_norm = {};     // Gemma 4
  bool selection_bias = false;
  int groups = 1, groups_kept = 1;
  GroupScore group_score = GroupScore::top2;
  float normalize = 0;               // DBRX: the order of its norm
  float norm_eps = 0, norm_min = 0;  // DeepSeek-V3: 1e-20, LFM2: 1e-6; ERNIE 4.5: the minimum
  float scale = 1;
  bool expert_scale = false;  // Gemma 4
  int shared = 0;
  bool shared_gate = false, shared_bias = false;
  float aux_loss = 0, z_loss = 0, bias_rate = 0;

  /// What a router chooses from.
  int choices() const { return experts + zero_experts; }
  /// Share of the experts that so many tokens are expected to meet between them, each its top_k.
  double met(double tokens) const {
    return 1 - std::pow(1 - double(top_k) / std::max(1, choices()), tokens);
  }
  /// Inner widths, each with how many experts have it: those of the first width come first.
  std::vector<std::pair<int, int>> by_width() const {
    if (widths.empty()) return {{hidden, experts}};
    std::vector<std::pair<int, int>> out;
    for (const int width : widths) {
      if (out.empty() || out.back().first != width) out.emplace_back(width, 0);
      ++out.back().second;
    }
    return out;
  }
  /// Inner widths of all experts, added up.
  int64_t all_hidden() const {
    int64_t n = 0;
    for (const auto& [width, count] : by_width()) n += int64_t{width} * count;
    return n;
  }

  template <class V>
  void visit(V& v) {
    v("experts", experts, "how many there are");
    v("top_k", top_k, "experts that a token goes through");
    v("hidden", hidden, "inner width of an expert");
    v("widths", widths, "inner width of each expert, ascending, in the place of `hidden`");
    v("act", act, "silu, gelu, gelu_tanh, relu or relu2");
    v("gated", gated, "SwiGLU, GeGLU, ... instead of a plain activation");
    v("bias", bias, "biases of the experts' projections");
    v("clamp", clamp, "limit of the gate from above and of up both ways");
    v("alpha", alpha, "silu becomes x sigmoid(alpha x)");
    v("up_offset", up_offset, "added to up before it meets the gate");
    v("input_scaled", input_scaled, "weights multiply what experts read, not what they give");
    v("latent", latent, "width that experts read and write, between two projections; 0: dim");
    v("zero_experts", zero_experts, "further choices that give back what they read");
    v("scoring", scoring, "softmax, sigmoid, softmax_of_top or sparsemixer");
    v("jitter", jitter, "of sparsemixer: how far below the best a logit still counts");
    v("router_bias", router_bias, "bias of the logits");
    v("router_softcap", router_softcap, "logits become cap * tanh(logits / cap)");
    v("router_norm", router_norm, "epsilon of an RMS norm of the router's input");
    v("selection_bias", selection_bias, "added to scores for the choice alone");
    v("groups", groups, "groups of experts, next to each other");
    v("groups_kept", groups_kept, "groups that a token may choose from");
    v("group_score", group_score, "max or top2");
    v("normalize", normalize, "weights are divided by their norm of this order; 0: they are not");
    v("norm_eps", norm_eps, "added to that norm");
    v("norm_min", norm_min, "least value of that norm");
    v("scale", scale, "of the weights");
    v("expert_scale", expert_scale, "a learned factor an expert, of its weights");
    v("shared", shared, "inner width of the shared expert; 0: there is none");
    v("shared_gate", shared_gate, "the shared expert times a sigmoid of its own");
    v("shared_bias", shared_bias, "biases of the shared expert and of the latent projections");
    v("aux_loss", aux_loss, "weight of the load-balancing loss, in training");
    v("z_loss", z_loss, "weight of the squared log-partition of the logits, in training");
    v("bias_rate", bias_rate, "what a step of training moves the selection biases by");
  }
};

/// A dense FFN beside a mixture of experts (Gemma 4). x: stream, n: what the block's norm makes of
/// it, N: norms like the block's; the router reads x.
///   y = N1(mlp(n)) + N3(moe(N2 x))
struct MlpAndMoe {
  static constexpr const char* kind = "mlp_and_moe";
  Mlp mlp = {};
  Moe moe = {};
  template <class V>
  void visit(V& v) {
    v("mlp", mlp, "the dense FFN");
    v("moe", moe, "the experts");
  }
};

using Ffn = std::variant<Mlp, Moe, MlpAndMoe, Nothing, Custom>;

/// The experts of an FFN, alone or beside a dense one; null if there are none.
inline const Moe* experts_in(const Ffn& ffn) {
  if (const auto* both = std::get_if<MlpAndMoe>(&ffn)) return &both->moe;
  return std::get_if<Moe>(&ffn);
}

/// The dense part of an FFN, alone or beside experts; null if there is none.
inline const Mlp* dense_in(const Ffn& ffn) {
  if (const auto* both = std::get_if<MlpAndMoe>(&ffn)) return &both->mlp;
  return std::get_if<Mlp>(&ffn);
}

}  // namespace lmxlab::config

template <>
struct lmxlab::EnumNames<lmxlab::config::Act> {
  static constexpr std::pair<config::Act, const char*> table[] = {
      {config::Act::silu, "silu"},           {config::Act::gelu, "gelu"},
      {config::Act::gelu_tanh, "gelu_tanh"}, {config::Act::relu, "relu"},
      {config::Act::relu2, "relu2"},         {config::Act::xielu, "xielu"}};
};

template <>
struct lmxlab::EnumNames<lmxlab::config::Scoring> {
  static constexpr std::pair<config::Scoring, const char*> table[] = {
      {config::Scoring::softmax, "softmax"},
      {config::Scoring::sigmoid, "sigmoid"},
      {config::Scoring::softmax_of_top, "softmax_of_top"},
      {config::Scoring::sparsemixer, "sparsemixer"}};
};
template <>
struct lmxlab::EnumNames<lmxlab::config::GroupScore> {
  static constexpr std::pair<config::GroupScore, const char*> table[] = {
      {config::GroupScore::max, "max"}, {config::GroupScore::top2, "top2"}};
};
