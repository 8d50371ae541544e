// RMSNorm, LayerNorm, and norms that a program registered.
#pragma once

#include "lmxlab/config/model.h"
#include "lmxlab/core/tree.h"
#include "lmxlab/kernels/norm.h"

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
  /// residual + norm(x), in one pass over memory.
  mx::array onto(const mx::array& residual, const mx::array& x) const;
  /// x + branch and its norm, in one pass over memory.
  kernels::AddedNorm of_sum(const mx::array& x, const mx::array& branch) const;
  /// x and its norm; of training: their gradients meet in one pass over memory.
  kernels::AddedNorm passing(const mx::array& x) const;
  void visit(Visitor& v) {
    v("weight", weight_), v("bias", bias_);
    if (custom_) custom_->visit(v);
  }

 private:
  kernels::NormWeights weights() const;

  kernels::NormKind kind_ = kernels::NormKind::rms;
  float eps_ = 0, weight_offset_ = 0;
  std::optional<Param> weight_, bias_;  // [D]
  std::optional<mx::array> fixed_;      // in the weight's place, where none is learned
  std::unique_ptr<CustomNorm> custom_;
};

}  // namespace lmxlab::core
