// The safetensors format: 8 bytes of header length (little endian), a JSON header that gives each
// tensor's dtype, shape and byte range, then the bytes. Read by mapping, written so that every
// tensor starts on a 64-byte line.
#pragma once

#include "lmxlab/base/files.h"

#include <mlx/array.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace lmxlab::io {
namespace mx = mlx::core;

using Tensors = std::map<std::string, mx::array>;
using Metadata = std::map<std::string, std::string>;

/// An open file: the header is checked whole (types, shapes, ranges inside the file, no overlap),
/// bytes are not read.
class SafeTensors {
 public:
  /// @throws Error(not_found), Error(bad_data) naming the file, the tensor and the offset.
  explicit SafeTensors(const fs::path& path);
  std::vector<std::string> names() const;
  bool contains(const std::string& name) const { return tensors_.count(name) > 0; }
  /// On the CPU a view of the mapping, no copy (unless the tensor is misaligned); the array keeps
  /// the mapping alive.
  /// @throws Error(not_found), Error(unsupported) for a type that MLX does not have.
  mx::array get(const std::string& name) const;
  Tensors all() const;
  const Metadata& metadata() const { return metadata_; }

 private:
  struct Info {
    std::string dtype;
    mx::Shape shape;
    size_t begin = 0, end = 0;
  };
  std::shared_ptr<MappedFile> file_;
  size_t data_ = 0;  // offset of the first tensor's byte 0
  std::map<std::string, Info> tensors_;
  Metadata metadata_;
};

struct TensorInfo {
  std::string name;
  mx::Dtype dtype;
  mx::Shape shape;
};

/// A file that is written piece by piece, so that its tensors need never be in memory together. It
/// takes its place with `commit`.
class SafeTensorsWriter {
 public:
  /// @param tensors  in the order of their bytes: wide types first, or sizes that keep each tensor
  ///                 aligned to its element.
  /// @throws Error(resource), Error(internal) for a tensor that is not aligned.
  SafeTensorsWriter(const fs::path& path, const std::vector<TensorInfo>& tensors,
                    const Metadata& metadata = {});
  /// The next bytes: a tensor or leading rows of one. Evaluates it.
  void write(const mx::array& next);
  /// @throws Error(internal) unless every byte was written.
  void commit();

 private:
  AtomicFile file_;
  size_t left_ = 0;
};

/// Evaluates the tensors, writes them under a temporary name, syncs and renames: a crash leaves the
/// old file or the new. The same tensors and metadata give the same bytes. @throws Error(resource)
void write_safetensors(const fs::path& path, const Tensors& tensors, const Metadata& metadata = {});

}  // namespace lmxlab::io
