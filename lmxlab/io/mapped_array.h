// A part of a mapped file as an array, without a copy where MLX's buffers allow it.
#pragma once

#include "lmxlab/base/files.h"

#include <mlx/array.h>

#include <memory>

namespace lmxlab::io {
namespace mx = mlx::core;

/// On the CPU a view of the mapping, which it keeps alive; a copy where the offset is no multiple
/// of the element or MLX's buffers are the GPU's. The part must lie within the file: the caller has
/// checked it.
mx::array mapped_array(const std::shared_ptr<MappedFile>& file, size_t offset,
                       const mx::Shape& shape, mx::Dtype dtype);

}  // namespace lmxlab::io
