// Rows of a table by number, and the gradient of the table: fused on the CPU; MLX's take elsewhere.
#pragma once

#include <mlx/array.h>

namespace lmxlab::kernels {

/// @param table  [V, D] float
/// @param ids  int [...]. Negative ones count from the end. On the CPU an id outside [-V, V) gives
/// a row of NaN and takes no part in the gradient (the loss shows it, and no foreign memory is
/// read); elsewhere it is undefined, as in mx::take.
/// @return  [..., D] of `dtype`, converted while copying.
/// @throws Error(usage) if table is not [V, D] or ids are no integers.
/// @cost  the gradient writes each of the table's V x D elements once, in the table's dtype, from
/// float32 sums in the order of the ids: it does not depend on the number of threads.
mlx::core::array embedding(const mlx::core::array& table, const mlx::core::array& ids,
                           mlx::core::Dtype dtype);

}  // namespace lmxlab::kernels
