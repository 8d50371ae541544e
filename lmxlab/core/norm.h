// RMSNorm, LayerNorm, and norms that a program registered.
#pragma once

#include "lmxlab/config/model.h"
#include "lmxlab/core/tree.h"

#include <memory>

namespace lmxlab::core {

/// A norm of a program's own; see custom.h.
class CustomNorm {
 public:
  virtual ~CustomNorm() = default;
  /// [..., D] -> [..., D], dtype kept.
  virtual mx::array operator()(const mx::array& x) const = 0;
  virtual void visit(Visitor& v) = 0;
};

class Norm {
 public:
  Norm(const config::Norm& config, int dim);
  /// [..., D] -> [..., D], dtype of x; statistics in float32.
  mx::array operator()(const mx::array& x) const;
  void visit(Visitor& v) {
    v("weight", weight_), v("bias", bias_);
    if (custom_) custom_->visit(v);
  }

 private:
  config::Norm config_;
  std::optional<Param> weight_, bias_;  // [D]
  std::unique_ptr<CustomNorm> custom_;
};

}  // namespace lmxlab::core
