// Gradient clipping by the global norm, arXiv:1211.5063.
#pragma once

#include <mlx/array.h>

#include <utility>
#include <vector>

namespace lmxlab {

namespace mx = mlx::core;

/// sqrt of the sum of all squares of all arrays: 0-d float32, summed in float32; 0 for no arrays.
/// Lazy. A NaN or an overflow stays visible in the result.
mx::array global_norm(const std::vector<mx::array>& grads);

/// The gradients times min(1, max_norm / (norm + 1e-6)), and the norm before clipping (0-d
/// float32). Each array keeps its dtype. max_norm <= 0: no clipping, only the norm. A norm that is
/// not finite makes every gradient NaN or 0, as in torch.nn.utils.clip_grad_norm_: the caller looks
/// at the norm and skips the step. Lazy, and pure: fit for a compiled step.
std::pair<std::vector<mx::array>, mx::array> clip_by_global_norm(
    const std::vector<mx::array>& grads, float max_norm);

}  // namespace lmxlab
