// A part of a mapped file as an array, without a copy where MLX's buffers allow it.
#pragma once

#include "lmxlab/base/files.h"

#include <mlx/array.h>

#include <memory>

namespace lmxlab::io {
namespace mx = mlx::core;

/// A view of the mapping, which it keeps alive: on the CPU where the offset is a multiple of the
/// element, on Metal of 16 bytes (a buffer of the whole pages it lies on). Else, and on CUDA, a
/// copy. The part must lie within the file: the caller has checked it.
mx::array mapped_array(const std::shared_ptr<MappedFile>& file, size_t offset,
                       const mx::Shape& shape, mx::Dtype dtype);

}  // namespace lmxlab::io
