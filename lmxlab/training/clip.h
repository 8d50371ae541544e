// Gradient clipping by the global norm, arXiv:1211.5063.
#pragma once

#include <mlx/array.h>

namespace lmxlab {

namespace mx = mlx::core;

/// What gradients of this global norm (kernels::global_norm) are multiplied by so that theirs is at
/// most max_norm: min(1, max_norm / (norm + 1e-6)), 0-d float32; 1 for max_norm <= 0. A norm that
/// is not finite gives NaN or 0, as in torch.nn.utils.clip_grad_norm_: the caller looks at the norm
/// and skips the step.
mx::array clip_factor(const mx::array& norm, float max_norm);

}  // namespace lmxlab
