// Cross-entropy of logits, and fused with the output head that makes them: there the logits [T, V]
// are never whole in memory. Kernels on the CPU, ordinary ops elsewhere.
#pragma once

#include <mlx/array.h>

#include <optional>

namespace lmxlab::kernels {

struct CrossEntropyOptions {
  int ignore_index = -100;    // targets whose loss is 0 and that have no gradient
  float label_smoothing = 0;  // e: the target weighs 1 - e + e / V, every other word e / V
  bool operator==(const CrossEntropyOptions&) const = default;
};

/// What the output head does behind its product: softcap * tanh(scale * (x w^T + bias) / softcap).
struct HeadOptions {
  float scale = 1, softcap = 0;  // softcap 0: none
  bool operator==(const HeadOptions&) const = default;
};

/// Both have gradients, so that a z-loss is mean(lse^2) times a factor.
struct CrossEntropy {
  mlx::core::array nll;  // -log p(target), float32, of the targets' shape
  mlx::core::array lse;  // log(sum(exp(logits))), likewise, of every token, ignored or not
};

/// @param logits  [..., V] float
/// @param targets  int [...]. The loss of one outside [0, V) that is not ignored is NaN.
/// @return  computed in float32, one pass over the logits; the gradient is one pass too, over the
/// logits' own memory where nobody else reads them.
/// @throws Error(usage) if the shapes do not fit.
CrossEntropy cross_entropy(const mlx::core::array& logits, const mlx::core::array& targets,
                           const CrossEntropyOptions& options = {});

/// The same of a head's logits, a tile of tokens and words at a time. The gradient makes each tile
/// once more, except where all logits are no more than a tile and are kept. Products are those of
/// kernels::linear: in the type of x with float32 sums; the logits are not rounded.
/// @param x  [..., D] float;  @param weight  [V, D] float;  @param bias  [V] float
/// @return  The gradients have the dtypes of x, weight and bias. That of a float16 or bfloat16
/// weight is rounded once for each chunk of tokens: 2048 of them, fewer where D is above 1024.
/// @cost  2 T V D operations, and 6 T V D for the gradient (4 with kept logits). Workspace,
/// whatever T and V: 8 MB for a tile, 8 MB more where x is not float32, and the engine's own.
CrossEntropy linear_cross_entropy(const mlx::core::array& x, const mlx::core::array& weight,
                                  const std::optional<mlx::core::array>& bias,
                                  const mlx::core::array& targets, const HeadOptions& head = {},
                                  const CrossEntropyOptions& options = {});

namespace plain {  // in ordinary ops
CrossEntropy cross_entropy(const mlx::core::array& logits, const mlx::core::array& targets,
                           const CrossEntropyOptions& options = {});
CrossEntropy linear_cross_entropy(const mlx::core::array& x, const mlx::core::array& weight,
                                  const std::optional<mlx::core::array>& bias,
                                  const mlx::core::array& targets, const HeadOptions& head = {},
                                  const CrossEntropyOptions& options = {});
}  // namespace plain

}  // namespace lmxlab::kernels
