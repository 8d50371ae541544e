// Norms, and parts that a program brings itself.
#pragma once

#include "lmxlab/base/fields.h"

#include <string>
#include <variant>

namespace lmxlab::config {

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
  bool weight = true;       // learned; else 1
  template <class V>
  void visit(V& v) {
    v("eps", eps, "added to the mean square");
    v("weight_offset", weight_offset, "added to the stored weight");
    v("weight", weight, "learned scale");
  }
};
/// y = (x - mean) / sqrt(var + eps) * weight + bias              arXiv:1607.06450
struct LayerNorm {
  static constexpr const char* kind = "layer";
  float eps = 1e-5f;
  bool bias = true;
  float weight_offset = 0;  // Nemotron stores weight - 1
  bool weight = true;       // learned; else 1
  template <class V>
  void visit(V& v) {
    v("eps", eps, "added to the variance");
    v("bias", bias, "learned shift");
    v("weight_offset", weight_offset, "added to the stored weight");
    v("weight", weight, "learned scale");
  }
};
using Norm = std::variant<RmsNorm, LayerNorm, Custom>;

struct Nothing {
  static constexpr const char* kind = "none";
  template <class V>
  void visit(V&) {}
};

}  // namespace lmxlab::config
