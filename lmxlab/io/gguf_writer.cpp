#include "lmxlab/io/gguf_writer.h"

#include <algorithm>
#include <string_view>
#include <type_traits>

namespace lmxlab::io {
namespace {

constexpr size_t kAlignment = 32;  // what a reader assumes where the metadata say nothing

using Type = GgufValue::Type;

template <class T>
constexpr Type type_of() {
  if constexpr (std::is_same_v<T, uint32_t>) return Type::u32;
  if constexpr (std::is_same_v<T, int32_t>) return Type::i32;
  if constexpr (std::is_same_v<T, float>) return Type::f32;
  if constexpr (std::is_same_v<T, bool>) return Type::boolean;
  if constexpr (std::is_same_v<T, std::string>) return Type::string;
}

template <class T>
void append(std::string& to, T number) {
  to.append(reinterpret_cast<const char*>(&number), sizeof number);
}
void append(std::string& to, const std::string& text) {
  append(to, uint64_t{text.size()});
  to += text;
}

std::string bytes_of(const GgufField& field) {
  std::string out;
  std::visit(
      [&]<class T>(const T& value) {
        if constexpr (requires { typename T::value_type; } && !std::is_same_v<T, std::string>) {
          using Element = typename T::value_type;
          append(out, static_cast<uint32_t>(Type::array));
          append(out, static_cast<uint32_t>(type_of<Element>()));
          append(out, uint64_t{value.size()});
          for (const Element& e : value) append(out, e);
        } else {
          append(out, static_cast<uint32_t>(type_of<T>()));
          append(out, value);
        }
      },
      field);
  return out;
}

size_t padded(size_t n) {
  return (n + kAlignment - 1) / kAlignment * kAlignment;
}
std::string padding(size_t n) {
  return std::string(padded(n) - n, '\0');
}

}  // namespace

void GgufWriter::put(const std::string& key, std::string bytes) {
  const auto it =
      std::find_if(fields_.begin(), fields_.end(), [&](const auto& f) { return f.first == key; });
  if (it == fields_.end())
    fields_.emplace_back(key, std::move(bytes));
  else
    it->second = std::move(bytes);
}
void GgufWriter::set(const std::string& key, const GgufField& value) {
  put(key, bytes_of(value));
}
void GgufWriter::set(const std::string& key, const GgufValue& value) {
  put(key, value.bytes());
}

void GgufWriter::add(const std::string& name, const GgmlType& type, const mx::Shape& shape) {
  for (const auto& t : tensors_)
    if (t.name == name) throw Error(Kind::usage, "[gguf] tensor " + name + ": it is there already");
  size_t elements = 1;
  for (const auto n : shape) elements *= static_cast<size_t>(n);
  const auto weights = static_cast<size_t>(type.weights);
  if (!shape.empty() && static_cast<size_t>(shape.back()) % weights != 0)
    throw Error(Kind::usage, "[gguf] tensor " + name + ": rows of " + std::to_string(shape.back()) +
                                 " are no whole blocks of " + std::string(type.name) +
                                 ", which are of " + std::to_string(type.weights));
  tensors_.push_back({name, &type, shape, elements / weights * static_cast<size_t>(type.bytes)});
}

size_t GgufWriter::tensor_bytes() const {
  size_t out = 0;
  for (const auto& t : tensors_) out += padded(t.bytes);
  return out;
}

std::string GgufWriter::header() const {
  std::string out = "GGUF";
  append(out, uint32_t{3});
  append(out, uint64_t{tensors_.size()});
  append(out, uint64_t{fields_.size()});
  for (const auto& [key, value] : fields_) append(out, key), out += value;
  size_t offset = 0;
  for (const auto& t : tensors_) {
    append(out, t.name);
    append(out, static_cast<uint32_t>(t.shape.size()));
    for (auto n = t.shape.rbegin(); n != t.shape.rend(); ++n)
      append(out, static_cast<uint64_t>(*n));
    append(out, t.type->number);
    append(out, uint64_t{offset});
    offset += padded(t.bytes);
  }
  return out + padding(out.size());
}

void GgufWriter::write(const fs::path& path,
                       const std::function<mx::array(const std::string& name)>& tensor) const {
  AtomicFile file(path);
  file.write(header());
  for (const auto& t : tensors_) {
    const auto bytes = tensor(t.name);
    if (bytes.nbytes() != t.bytes)
      throw Error(Kind::internal, "[gguf] tensor " + t.name + ": expected " +
                                      std::to_string(t.bytes) + " bytes, got " +
                                      std::to_string(bytes.nbytes()));
    file.write({bytes.data<char>(), t.bytes});
    file.write(padding(t.bytes));
  }
  file.commit();
}

}  // namespace lmxlab::io
