// Rows of queries' and keys' projections in the order that a rotation wants: halves (transformers)
// or neighbours (GGUF files of some architectures). Private.
#pragma once

#include "lmxlab/config/model.h"

#include <mlx/array.h>

#include <map>
#include <string>

namespace lmxlab {

enum class RotaryOrder { halves, pairs };

/// A projection whose rows have to move.
struct RotaryRows {
  int heads = 0, rotated = 0;  // dimensions of a head that turn
};

/// Sets the order of every layer's rotation.
/// @return  by path, the projections whose order that changes. A layer with a norm over each head,
///   whose weights lie in the same order, stays as it is: nothing stores such a model.
std::map<std::string, RotaryRows> set_rotary_order(config::Model& model, RotaryOrder order);

/// @param rows  [heads * D, ...], a weight or a bias, in the other order. Lazy.
mlx::core::array reorder(const mlx::core::array& rows, const RotaryRows& of, RotaryOrder to);

}  // namespace lmxlab
