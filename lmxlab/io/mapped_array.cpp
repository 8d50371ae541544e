#include "lmxlab/io/mapped_array.h"

#include <mlx/allocator.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace lmxlab::io {
namespace {

// On the CPU build a buffer's data follow a size_t header, which MappedFile keeps readable and
// zero.
bool header_in_front() {
  static const bool yes = [] {
    const auto data = mx::allocator::malloc(16);
    auto buffer = data.buffer();
    return static_cast<char*>(buffer.raw_ptr()) ==
           static_cast<char*>(buffer.ptr()) + sizeof(size_t);
  }();
  return yes;
}

}  // namespace

mx::array mapped_array(const std::shared_ptr<MappedFile>& file, size_t offset,
                       const mx::Shape& shape, mx::Dtype dtype) {
  const auto* bytes = file->data() + offset;
  size_t n = 1;
  for (auto d : shape) n *= static_cast<size_t>(d);
  if (n > 0 && header_in_front() && offset % mx::size_of(dtype) == 0) {
    auto* front = const_cast<std::byte*>(file->data()) - sizeof(size_t);
    // One root over the file; tensors are views of it, and the last of them to die unmaps.
    mx::array root(
        mx::allocator::Data(mx::allocator::Buffer(front), [file](mx::allocator::Buffer) {}), {1},
        mx::uint8);
    mx::array a(shape, dtype, nullptr, {});
    const auto strides = a.strides();
    const bool column =
        n <= 1 || static_cast<size_t>(*std::max_element(shape.begin(), shape.end())) == n;
    a.copy_shared_buffer(root, strides, {true, true, column}, n,
                         static_cast<int64_t>(offset / mx::size_of(dtype)));
    a.set_status(mx::array::Status::available);
    return a;
  }
  mx::array copy(mx::allocator::malloc(std::max<size_t>(n, 1) * mx::size_of(dtype)), shape, dtype);
  if (n > 0) std::memcpy(copy.data<char>(), bytes, n * mx::size_of(dtype));
  return copy;
}

}  // namespace lmxlab::io
