// The residual stream between the parts of a model.
#pragma once

#include "lmxlab/core/norm.h"
#include "lmxlab/kernels/elementwise.h"

#include <optional>
#include <utility>

namespace lmxlab::core {

/// What a branch adds waits for the next norm, which adds it in its own pass over memory.
class Residual {
 public:
  explicit Residual(mx::array x) : sum_(std::move(x)) {}  // [B, L, D]

  mx::Dtype dtype() const { return sum_.dtype(); }
  void add(const mx::array& branch) { sum_ = value(), waiting_ = branch; }
  const mx::array& value() {
    if (waiting_) sum_ = kernels::add(sum_, *waiting_), waiting_.reset();
    return sum_;
  }
  mx::array normed(const Norm& norm, bool training) {
    if (!waiting_ && !training) return norm(sum_);
    const auto both = waiting_ ? norm.of_sum(sum_, *waiting_) : norm.passing(sum_);
    sum_ = both.sum, waiting_.reset();
    return both.normed;
  }

 private:
  mx::array sum_;
  std::optional<mx::array> waiting_;
};

}  // namespace lmxlab::core
