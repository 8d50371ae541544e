// What each position goes through by itself.
#pragma once

#include "lmxlab/config/norm.h"

#include <optional>
#include <variant>

namespace lmxlab::config {

enum class Act { silu, gelu, gelu_tanh, relu, relu2, xielu };

/// down(act(up x)), or gated: down(act(gate x) * up x) (arXiv:2002.05202).
struct Mlp {
  static constexpr const char* kind = "mlp";
  int hidden = 1;
  Act act = Act::silu;
  bool gated = true, bias = false;
  std::optional<Norm> norm = {};  // before the last projection (BitNet)
  template <class V>
  void visit(V& v) {
    v("hidden", hidden, "inner width");
    v("act", act, "silu, gelu, gelu_tanh, relu, relu2 or xielu");
    v("gated", gated, "SwiGLU, GeGLU, ... instead of a plain activation");
    v("bias", bias, "biases of its projections");
    v("norm", norm, "norm before the last projection");
  }
};

using Ffn = std::variant<Mlp, Nothing, Custom>;

}  // namespace lmxlab::config

template <>
struct lmxlab::EnumNames<lmxlab::config::Act> {
  static constexpr std::pair<config::Act, const char*> table[] = {
      {config::Act::silu, "silu"},           {config::Act::gelu, "gelu"},
      {config::Act::gelu_tanh, "gelu_tanh"}, {config::Act::relu, "relu"},
      {config::Act::relu2, "relu2"},         {config::Act::xielu, "xielu"}};
};
