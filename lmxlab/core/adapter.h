// Low-rank additions to linear layers: what is trained where the weights stay as they are.
#pragma once

#include "lmxlab/core/tree.h"

#include <optional>
#include <string>

namespace lmxlab::core {

struct Pass;
struct Weight;

/// y = W x + scale B A drop(x)                                            (LoRA, arXiv:2106.09685)
/// y = m / |W + scale B A| (W x + scale B A drop(x)), norms of rows        (DoRA, arXiv:2402.09353)
/// The norm is a constant to gradients (DoRA, section 4.3).
struct Adapter {
  std::string name;                     // one of a model's adapters has many of these
  Param a;                              // [rank, in]
  Param b;                              // [out, rank]
  std::optional<Param> magnitude = {};  // m [out]: DoRA
  float scale = 1;
  float dropout = 0;  // of x, in training
  bool on = true;
  std::optional<mx::array> square_norms = {};  // |W|^2 of rows, float32 [out], made once for DoRA

  void visit(Visitor& v) { v("a", a), v("b", b), v("magnitude", magnitude); }
};

/// What an adapter makes of y = W x, of the layer's input: another y, of the same type.
mx::array adapted(const Adapter& adapter, const Weight& weight, const mx::array& x,
                  const mx::array& y);
/// The same of the matrix itself: float32 [out, in] -> [out, in].
mx::array adapted_matrix(const Adapter& adapter, const mx::array& matrix);

/// While one lives, adapters of this thread's layers drop as this pass says: layers are functions
/// of arrays alone.
class Dropping {
 public:
  explicit Dropping(Pass& pass);
  ~Dropping();
  Dropping(const Dropping&) = delete;
  Dropping& operator=(const Dropping&) = delete;

 private:
  Pass* before_;
};

}  // namespace lmxlab::core
