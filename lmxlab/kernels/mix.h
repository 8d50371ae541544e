// Token mixing of RWKV (arXiv:2305.13048, equations 11 to 13): each position with the one before.
#pragma once

#include <mlx/array.h>

#include <vector>

namespace lmxlab::kernels {

/// before + (x - before) m for each m: in float32, rounded to the type of x once. Fused on the CPU,
/// one pass for all m and one for all gradients; ordinary ops elsewhere.
/// @param x, before  [..., D] of one shape and float dtype
/// @param m  at least one, each [D] of a float dtype; their gradients are float32 sums that do not
///   depend on the number of threads
/// @return  as many, like x
/// @throws Error(usage) if the shapes or types do not fit, or there is no m.
/// @cost  reads x and before once and writes each result.
std::vector<mlx::core::array> mix(const mlx::core::array& x, const mlx::core::array& before,
                                  const std::vector<mlx::core::array>& m);

}  // namespace lmxlab::kernels
