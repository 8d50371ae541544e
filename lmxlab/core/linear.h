// Linear, its stack of experts, and Embedding.
#pragma once

#include "lmxlab/core/adapter.h"
#include "lmxlab/core/init.h"
#include "lmxlab/core/weight.h"

namespace lmxlab::core {

/// y = x W^T + b.
class Linear {
 public:
  Linear(int in, int out, bool with_bias, float std, Init& init);
  /// [..., in] -> [..., out], dtype of x.
  mx::array operator()(const mx::array& x) const;
  mx::array without_bias(const mx::array& x) const { return adapted(x, weight.matmul(x)); }
  /// W [out, in] in `dtype`, with what adapters make of it.
  mx::array matrix(mx::Dtype dtype) const;
  /// Whether an adapter is on.
  bool is_adapted() const;
  /// What its adapters make of y = W x, one after the other.
  mx::array adapted(const mx::array& x, mx::array y) const;
  void visit(Visitor& v) {
    v("", weight), v("bias", bias);
    for (auto& a : adapters) v("adapter." + a.name, a);
  }

  Weight weight;
  std::optional<Param> bias;  // [out]
  std::vector<Adapter> adapters = {};
};

/// Several layers of one x: packed weights share its quantization and one step of the graph.
std::vector<mx::array> project(const mx::array& x, const std::vector<const Linear*>& layers);

/// A linear layer an expert: y_i = W[e_i] x_i + b[e_i].
struct ExpertLinear {
  ExpertLinear(int experts, int in, int out, bool with_bias, float std, Init& init);
  /// x [n, in], uint32 experts [n], whether they ascend -> [n, out], dtype of x. `absent`: an
  /// expert may be E, no expert, which gives zeros; without biases alone.
  mx::array operator()(const mx::array& x, const mx::array& experts, bool sorted,
                       bool absent = false) const;
  void visit(Visitor& v) { v("", weight), v("bias", bias); }

  Weight weight;              // [E, out, in]
  std::optional<Param> bias;  // [E, out]
};

/// A table of vectors; transposed, it is a tied output head.
struct Embedding {
  Embedding(int vocab, int dim, float std, Init& init);
  /// int ids [...] -> [..., dim], of `dtype` or the table's own. Callers check ids: one outside the
  /// table gives NaN, or where our kernels do not run, anything.
  mx::array operator()(const mx::array& ids, std::optional<mx::Dtype> dtype = {}) const {
    return weight.rows(ids, dtype);
  }
  /// [..., dim] -> [..., vocab]
  mx::array as_head(const mx::array& x) const { return weight.matmul(x); }
  void visit(Visitor& v) { v("", weight); }

  Weight weight;
};

}  // namespace lmxlab::core
