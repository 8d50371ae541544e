// A GGUF file in the making: metadata and the table of tensors first, then their bytes one after
// another, so that no more than one tensor need be in memory.
#pragma once

#include "lmxlab/io/gguf.h"

#include <functional>
#include <map>
#include <string>
#include <variant>
#include <vector>

namespace lmxlab::io {

/// What a key of the metadata can be given here.
using GgufField = std::variant<uint32_t, int32_t, float, bool, std::string,
                               std::vector<std::string>, std::vector<float>, std::vector<int32_t>>;

class GgufWriter {
 public:
  /// Replaces what the key had. Keys keep the order in which they first came.
  void set(const std::string& key, const GgufField& value);
  /// As it lies in another file.
  void set(const std::string& key, const GgufValue& value);

  /// @param shape  rows first, as MLX has it
  /// @throws Error(usage) if the name is taken or rows are no whole blocks.
  void add(const std::string& name, const GgmlType& type, const mx::Shape& shape);

  /// Of all tensors, padding included.
  size_t tensor_bytes() const;

  /// Writes the file atomically, version 3, tensors at multiples of 32 bytes in the order of add().
  /// @param tensor  gives the bytes of each in turn: an array of as many bytes as its type and
  ///   shape make, row contiguous and evaluated. What it throws leaves as it was thrown, and no
  ///   file stays.
  /// @throws Error(resource) if the disk is full, Error(internal) for another number of bytes.
  void write(const fs::path& path,
             const std::function<mx::array(const std::string& name)>& tensor) const;

 private:
  struct Entry {
    std::string name;
    const GgmlType* type;
    mx::Shape shape;
    size_t bytes;
  };
  void put(const std::string& key, std::string bytes);
  std::string header() const;

  std::vector<std::pair<std::string, std::string>> fields_;  // the value's type and bytes
  std::vector<Entry> tensors_;
};

}  // namespace lmxlab::io
