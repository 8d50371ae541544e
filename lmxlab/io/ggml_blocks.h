// Tensor types of GGUF files that no kernel multiplies, as numbers.
#pragma once

#include "lmxlab/io/gguf.h"

#include <mlx/array.h>

namespace lmxlab::io {

/// Whether blocks of this type can be turned into numbers here: IQ1 to IQ4, TQ1_0, TQ2_0, NVFP4.
bool has_numbers(const GgmlType& type);

/// @param bytes  uint8 [..., bytes of a row], whole blocks; evaluated
/// @return  float32 [..., weights], the gguf package's bits
/// @throws Error(unsupported) for a type without numbers here
mx::array block_numbers(const GgmlType& type, const mx::array& bytes);

}  // namespace lmxlab::io
