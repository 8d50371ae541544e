// Rows written into an array.
#pragma once

#include <mlx/array.h>

#include <optional>

namespace lmxlab::kernels {

/// `to` [R, W] with the rows of `part` [r, W] from `first` on: in place where nobody else needs
/// `to`. For that it waits for what is queued: without, whether somebody does is a matter of time.
/// @param to  none: an array of `rows` rows that nobody has written; the caller puts all of them.
/// @throws Error(usage) if the part does not fit.
mlx::core::array put_rows(const std::optional<mlx::core::array>& to, const mlx::core::array& part,
                          int first, int rows);

}  // namespace lmxlab::kernels
