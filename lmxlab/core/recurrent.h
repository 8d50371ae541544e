// What recurrent mixers share: the short convolution, the gated norm, how gates begin.
#pragma once

#include "lmxlab/config/recurrent.h"
#include "lmxlab/core/mixer.h"
#include "lmxlab/kernels/activation.h"

#include <optional>

namespace lmxlab::core {

/// Each channel by itself over the last K positions: y_t = sum_k w_k x_(t-K+1+k) + bias.
class CausalConv {
 public:
  CausalConv(int channels, int kernel, bool with_bias, Init& init);
  /// x [B, L, C] -> [B, L, C] float32. The cache's i-th state [B, K - 1, C], in the type of x,
  /// comes before it; `window` becomes the next one. Columns of padding count as zero and give
  /// zero.
  /// @cost  O(B L C K).
  mx::array operator()(const mx::array& x, const Pass& pass, bool silu,
                       std::optional<mx::array>& window) const;
  void visit(Visitor& v) { v("weight", weight), v("bias", bias); }

  Param weight;               // [C, K]
  std::optional<Param> bias;  // [C]
};

/// An RMSNorm of `groups` equal parts of the last axis, and a gate on it, before or after.
struct GatedNorm {
  GatedNorm(int dim, float eps);
  /// y, z [..., D] -> [..., D], dtype of z; computed in float32.
  mx::array operator()(const mx::array& y, const mx::array& z) const;
  void visit(Visitor& v) { v("weight", weight); }

  Param weight;  // [D]
  float eps;
  int groups = 1;
  bool gate_first = false;
  bool sigmoid = false;  // the gate: silu(z), or this
};

/// factor x / sqrt(sum of squares + 1e-6) over the last axis, float32.
mx::array unit_length(const mx::array& x, float factor = 1);
/// log(1 + exp x), float32.
mx::array softplus(const mx::array& x);
/// 1 / (1 + exp(-x)), float32.
mx::array logistic(const mx::array& x);
/// -exp(a_log) softplus(x + bias): log decays, float32.
mx::array log_decay(const mx::array& x, const Param& a_log, const Param& bias);

/// New ones: A uniform in [low, high) as its logarithm, [n].
Param new_log_rates(int n, float low, float high, Init& init);
/// dt log-uniform in [0.001, 0.1) through the inverse of softplus, [n].
Param new_step_biases(int n, Init& init);

/// Some columns of the last axis.
mx::array last_columns(const mx::array& x, int from, int to);
/// [B, L, C] -> [B, H, L, width]: H heads beside each other, the first at column `from`.
mx::array heads_of(const mx::array& x, int from, int heads, int width);

}  // namespace lmxlab::core
