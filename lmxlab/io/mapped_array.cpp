#include "lmxlab/io/mapped_array.h"

#include <mlx/allocator.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <optional>
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

// Elements from `at` on of a buffer that others may have too.
mx::array view_of(mx::allocator::Data data, size_t at, const mx::Shape& shape, mx::Dtype dtype) {
  mx::array root(std::move(data), {1}, mx::uint8);
  mx::array a(shape, dtype, nullptr, {});
  const auto strides = a.strides();
  const auto n = a.size();
  const bool column =
      n <= 1 || static_cast<size_t>(*std::max_element(shape.begin(), shape.end())) == n;
  a.copy_shared_buffer(root, strides, {true, true, column}, n, static_cast<int64_t>(at));
  a.set_status(mx::array::Status::available);
  return a;
}

// Metal takes whole pages where they lie. None where the back end has no such buffers, or no room
// for one of this length.
std::optional<mx::array> on_pages(const std::shared_ptr<MappedFile>& file, size_t offset,
                                  size_t bytes, const mx::Shape& shape, mx::Dtype dtype) {
  const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  const size_t begin = offset / page * page, end = (offset + bytes + page - 1) / page * page;
  const auto buffer =
      mx::allocator::make_buffer(const_cast<std::byte*>(file->data()) + begin, end - begin);
  if (!buffer.ptr()) return std::nullopt;
  mx::allocator::Data data(buffer,
                           [file](mx::allocator::Buffer pages) { mx::allocator::release(pages); });
  return view_of(std::move(data), (offset - begin) / mx::size_of(dtype), shape, dtype);
}

}  // namespace

mx::array mapped_array(const std::shared_ptr<MappedFile>& file, size_t offset,
                       const mx::Shape& shape, mx::Dtype dtype) {
  // The widest that a GPU's kernels read at a time.
  constexpr size_t kVector = 16;
  size_t n = 1;
  for (auto d : shape) n *= static_cast<size_t>(d);
  const size_t bytes = n * mx::size_of(dtype);
  if (n > 0 && header_in_front() && offset % mx::size_of(dtype) == 0) {
    auto* front = const_cast<std::byte*>(file->data()) - sizeof(size_t);
    // One root over the file; tensors are views of it, and the last of them to die unmaps.
    mx::allocator::Data data(mx::allocator::Buffer(front), [file](mx::allocator::Buffer) {});
    return view_of(std::move(data), offset / mx::size_of(dtype), shape, dtype);
  }
  if (n > 0 && !header_in_front() && offset % kVector == 0)
    if (auto there = on_pages(file, offset, bytes, shape, dtype)) return *std::move(there);
  mx::array copy(mx::allocator::malloc(std::max<size_t>(bytes, mx::size_of(dtype))), shape, dtype);
  if (n > 0) std::memcpy(copy.data<char>(), file->data() + offset, bytes);
  return copy;
}

}  // namespace lmxlab::io
