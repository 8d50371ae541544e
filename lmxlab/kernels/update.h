// What an optimizer does to every element, over all parameters in one pass: read parameter,
// gradient and state once, write the new ones over the old. Ordinary ops on other devices.
#pragma once

#include <mlx/array.h>

#include <variant>
#include <vector>

namespace lmxlab::kernels {

// The formulas, for parameter p, gradient g, rate lr and the state's m, v. They compute in float32.

/// p + g: gradients of several batches added up.
struct Accumulate {
  bool operator==(const Accumulate&) const = default;
};

/// g <- g + decay p;  m <- momentum m + g;  p <- p - lr m, or with nesterov p - lr (g + momentum
/// m). Without momentum there is no state. torch.optim.SGD.
struct Sgd {
  double momentum = 0, decay = 0;
  bool nesterov = false;
  bool operator==(const Sgd&) const = default;
};

/// m <- beta1 m + (1 - beta1) g;  v <- beta2 v + (1 - beta2) g^2;
/// p <- (1 - lr decay) p - lr (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps), without
/// the two divisions if not bias_correction. State m, v. arXiv:1711.05101
struct AdamW {
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8, decay = 0;
  bool bias_correction = true;
  bool operator==(const AdamW&) const = default;
};

/// p <- (1 - lr decay) p - lr sign(beta1 m + (1 - beta1) g);  m <- beta2 m + (1 - beta2) g. State
/// m. arXiv:2302.06675
struct Lion {
  double beta1 = 0.9, beta2 = 0.99, decay = 0;
  bool operator==(const Lion&) const = default;
};

/// m <- momentum m + (1 - momentum) g;  p <- m, or with nesterov momentum m + (1 - momentum) g:
/// the direction that Muon goes on with. State m.
struct Blend {
  double momentum = 0;
  bool nesterov = false;
  bool operator==(const Blend&) const = default;
};

using Rule = std::variant<Accumulate, Sgd, AdamW, Lion, Blend>;

/// Arrays of state for each parameter.
int states(const Rule& rule);

/// What changes from step to step: all 0-d, so that a compiled step takes them as arguments.
struct StepNumbers {
  mlx::core::array lr, step;  // float32; step is 1 at the first update
  mlx::core::array scale;     // float32; gradients are multiplied by it first
  mlx::core::array ok;        // bool; false: parameters and state come out as they went in
};

/// Rewrites parameters and state by the next values, lazily. A buffer that the caller holds no
/// other reference to is written in place.
/// @param params  any shapes, float32, bfloat16 or float16, which they keep
/// @param grads  one for each parameter, of its shape, any floating dtype
/// @param state  float32, states(rule) for each parameter: m0, v0, m1, v1, ...
/// @param decays  whether the rule's decay acts on a parameter
/// @cost  each array is read once and written once; many small ones cost little.
void update(const Rule& rule, std::vector<mlx::core::array>& params,
            const std::vector<mlx::core::array>& grads, std::vector<mlx::core::array>& state,
            const std::vector<bool>& decays, const StepNumbers& numbers);

/// sums + more, in place as above.
void add_to(std::vector<mlx::core::array>& sums, const std::vector<mlx::core::array>& more);

/// sqrt of the sum of all squares of all arrays: 0-d float32, 0 for no arrays. Sums of float32 over
/// blocks of a fixed size, added up in double: the same whatever the number of threads.
mlx::core::array global_norm(const std::vector<mlx::core::array>& arrays);

namespace plain {  // in ordinary ops
void update(const Rule& rule, std::vector<mlx::core::array>& params,
            const std::vector<mlx::core::array>& grads, std::vector<mlx::core::array>& state,
            const std::vector<bool>& decays, const StepNumbers& numbers);
mlx::core::array global_norm(const std::vector<mlx::core::array>& arrays);
}  // namespace plain

}  // namespace lmxlab::kernels
