// GGUF, ggml's file of a model: metadata by name, a table of tensors, and their bytes, all little
// endian. Versions 2 and 3. Read by mapping. Source: docs/gguf.md of the ggml project.
#pragma once

#include "lmxlab/base/files.h"

#include <mlx/array.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace lmxlab::io {
namespace mx = mlx::core;

/// Whether it is a file that begins as GGUF files do.
bool is_gguf(const fs::path& path);

/// A tensor type of ggml: blocks of some weights in some bytes along a row.
struct GgmlType {
  uint32_t number;
  std::string_view name;
  int weights, bytes;  // of a block
};
/// @return  nullptr for a number that no type has.
const GgmlType* ggml_type(uint32_t number);
/// @param name  of any case. @return  nullptr for a name that no type has.
const GgmlType* ggml_type(std::string_view name);

/// A value of the metadata, as it lies in the file; alive as long as the file.
class GgufValue {
 public:
  enum class Type : uint32_t {
    u8,
    i8,
    u16,
    i16,
    u32,
    i32,
    f32,
    boolean,
    string,
    array,
    u64,
    i64,
    f64
  };

  Type type() const { return type_; }
  /// "a string", "an array of 5 u8", ... for messages.
  std::string type_name() const;

  /// Each throws Error(bad_data) naming what was found.
  bool as_bool() const;
  /// Of any integer type, if it fits.
  int64_t as_integer() const;
  uint64_t as_unsigned() const;
  /// Of any number type.
  double as_number() const;
  /// Its bytes: UTF-8 by the format's word, which nobody has checked.
  std::string_view as_string() const;
  std::vector<GgufValue> as_array() const;
  std::vector<std::string_view> as_strings() const;
  std::vector<int64_t> as_integers() const;
  std::vector<double> as_numbers() const;

  /// Its type and what follows, as in a file.
  std::string bytes() const;

 private:
  friend class GgufReader;
  Type type_ = Type::u8, element_ = Type::u8;  // element_, count_: of an array
  uint64_t count_ = 0;                         // of a string too
  std::string_view rest_;                      // its bytes, behind type and count
};

/// An open file: metadata and table are checked whole (lengths, types, ranges inside the file, no
/// overlap), bytes of tensors are not read. Of a file that is elsewhere its beginning will do.
class Gguf {
 public:
  struct Tensor {
    const GgmlType* type;
    mx::Shape shape;  // rows first, as MLX has it: the reverse of the file's order
    size_t begin, bytes;
  };

  /// @throws Error(not_found), Error(bad_data) naming the file, the key or tensor and what is
  /// wrong,
  ///   Error(unsupported) for other versions, byte orders and tensor types.
  /// @param bytes  of the whole file, where `path` holds the first of them alone
  explicit Gguf(const fs::path& path, std::optional<size_t> bytes = {});

  uint32_t version() const { return version_; }
  uint64_t alignment() const { return alignment_; }
  const std::map<std::string, GgufValue, std::less<>>& metadata() const { return metadata_; }
  /// The value, or null.
  const GgufValue* find(std::string_view key) const;
  /// @throws Error(bad_data) if it is absent.
  const GgufValue& at(std::string_view key) const;

  const std::map<std::string, Tensor, std::less<>>& tensors() const { return tensors_; }
  /// @throws Error(not_found)
  const Tensor& tensor(std::string_view name) const;
  /// A tensor of plain numbers, mapped. @throws Error(not_found), Error(unsupported) for a packed
  /// one, Error(bad_data) for one that lies behind a beginning.
  mx::array get(std::string_view name) const;
  /// The bytes of any tensor, mapped: uint8, the last axis being a row's bytes.
  mx::array raw(std::string_view name) const;

 private:
  void expect_here(std::string_view name, const Tensor& t) const;

  std::shared_ptr<MappedFile> file_;
  uint32_t version_ = 0;
  uint64_t alignment_ = 32;
  std::map<std::string, GgufValue, std::less<>> metadata_;
  std::map<std::string, Tensor, std::less<>> tensors_;
};

}  // namespace lmxlab::io
