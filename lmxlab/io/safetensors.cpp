#include "lmxlab/io/safetensors.h"

#include "lmxlab/base/json.h"
#include "lmxlab/io/mapped_array.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace lmxlab::io {
namespace {

struct TypeName {
  const char* name;
  mx::Dtype dtype;
};
const std::vector<TypeName>& types() {
  static const std::vector<TypeName> t = {
      {"F32", mx::float32}, {"F16", mx::float16},  {"BF16", mx::bfloat16}, {"I32", mx::int32},
      {"I64", mx::int64},   {"U8", mx::uint8},     {"U16", mx::uint16},    {"U32", mx::uint32},
      {"U64", mx::uint64},  {"I8", mx::int8},      {"I16", mx::int16},     {"BOOL", mx::bool_},
      {"F64", mx::float64}, {"C64", mx::complex64}};
  return t;
}
// Bytes of an element, also of types that we can only name.
size_t element_size(const std::string& name) {
  for (const auto& t : types())
    if (name == t.name) return mx::size_of(t.dtype);
  return name == "F8_E4M3" || name == "F8_E5M2" || name == "F8_E8M0" ? 1 : 0;
}

constexpr size_t kLine = 64;

}  // namespace

SafeTensors::SafeTensors(const fs::path& path) : file_(std::make_shared<MappedFile>(path)) {
  const auto bad = [&](const std::string& what) {
    return Error(Kind::bad_data, "[safetensors] " + path.string() + ": " + what);
  };
  const auto text = file_->text();
  if (text.size() < 8)
    throw bad("expected at least 8 bytes, got " + std::to_string(text.size()) +
              ". The file is empty or cut off.");
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i)
    length = length << 8 | static_cast<unsigned char>(text[static_cast<size_t>(i)]);
  if (length > text.size() - 8 || length > 100'000'000)
    throw bad("its header claims " + std::to_string(length) + " bytes, the file has " +
              std::to_string(text.size() - 8) +
              " behind it. It is cut off, or no safetensors file.");
  data_ = 8 + length;
  const size_t available = text.size() - data_;
  const auto header =
      Json::parse(text.substr(8, length), path.string() + ", header", Json::Repeated::error);
  if (!header.is_object()) throw bad("its header is no object");

  for (const auto& [name, entry] : header.as_object()) {
    with_context("[safetensors] " + path.string() + ", tensor " + name, [&, &tensor = name,
                                                                         &e = entry] {
      if (tensor == "__metadata__") {
        if (e.is_null()) return;  // as MLX writes it where there is none
        for (const auto& [k, v] : e.as_object()) metadata_[k] = v.as_string();
        return;
      }
      Info info;
      info.dtype = e.at("dtype").as_string();
      size_t elements = 1;
      for (const auto& d : e.at("shape").as_array()) {
        const int64_t n = d.as_integer();
        if (n < 0 || n > INT32_MAX)
          throw Error(Kind::bad_data, "a dimension of " + std::to_string(n));
        if (n > 0 && elements > SIZE_MAX / static_cast<size_t>(n) / 16)
          throw Error(Kind::bad_data, "its shape is larger than any memory");
        elements *= static_cast<size_t>(n);
        info.shape.push_back(static_cast<int>(n));
      }
      const auto& range = e.at("data_offsets").as_array();
      if (range.size() != 2) throw Error(Kind::bad_data, "data_offsets: expected two numbers");
      const int64_t begin = range[0].as_integer(), end = range[1].as_integer();
      if (begin < 0 || end < begin || static_cast<size_t>(end) > available)
        throw Error(Kind::bad_data, "bytes " + std::to_string(begin) + " to " +
                                        std::to_string(end) + " are not in the file, which holds " +
                                        std::to_string(available) + ". It is cut off.");
      info.begin = static_cast<size_t>(begin), info.end = static_cast<size_t>(end);
      const size_t size = element_size(info.dtype);
      if (size == 0) throw Error(Kind::bad_data, "unknown dtype " + info.dtype);
      if (elements * size != info.end - info.begin)
        throw Error(Kind::bad_data, "its shape needs " + std::to_string(elements * size) +
                                        " bytes, its range has " +
                                        std::to_string(info.end - info.begin));
      tensors_.emplace(tensor, std::move(info));
    });
  }
  std::vector<std::pair<size_t, size_t>> ranges;
  for (const auto& [_, t] : tensors_)
    if (t.begin != t.end) ranges.emplace_back(t.begin, t.end);
  std::sort(ranges.begin(), ranges.end());
  for (size_t i = 1; i < ranges.size(); ++i)
    if (ranges[i].first < ranges[i - 1].second)
      throw bad("two tensors share the byte " + std::to_string(ranges[i].first));
}

std::vector<std::string> SafeTensors::names() const {
  std::vector<std::string> out;
  for (const auto& [name, _] : tensors_) out.push_back(name);
  return out;
}

mx::array SafeTensors::get(const std::string& name) const {
  const auto it = tensors_.find(name);
  if (it == tensors_.end())
    throw Error(Kind::not_found,
                "[safetensors] " + file_->path().string() + " has no tensor " + name);
  const auto& info = it->second;
  for (const auto& t : types())
    if (info.dtype == t.name) return mapped_array(file_, data_ + info.begin, info.shape, t.dtype);
  throw Error(Kind::unsupported, "[safetensors] " + file_->path().string() + ", tensor " + name +
                                     ": the type " + info.dtype + " is not supported");
}

Tensors SafeTensors::all() const {
  Tensors out;
  for (const auto& [name, _] : tensors_) out.emplace(name, get(name));
  return out;
}

SafeTensorsWriter::SafeTensorsWriter(const fs::path& path, const std::vector<TensorInfo>& tensors,
                                     const Metadata& metadata)
    : file_(path) {
  Json header = Json::object();
  if (!metadata.empty()) {
    Json m = Json::object();
    for (const auto& [k, v] : metadata) m[k] = Json(v);
    header.as_object().emplace_back("__metadata__", std::move(m));
  }
  for (const auto& tensor : tensors) {
    const char* dtype = nullptr;
    for (const auto& t : types())
      if (tensor.dtype == t.dtype) dtype = t.name;
    const size_t element = mx::size_of(tensor.dtype);
    if (left_ % element != 0)
      throw Error(Kind::internal, "[safetensors] " + tensor.name + " would not be aligned");
    size_t bytes = element;
    Json::Array shape;
    for (const auto d : tensor.shape) shape.emplace_back(d), bytes *= static_cast<size_t>(d);
    Json entry = Json::object();
    entry["dtype"] = Json(dtype);
    entry["shape"] = Json(std::move(shape));
    entry["data_offsets"] = Json(Json::Array{Json(left_), Json(left_ + bytes)});
    header.as_object().emplace_back(tensor.name, std::move(entry));
    left_ += bytes;
  }
  std::string text = header.dump();
  text.append((kLine - (8 + text.size()) % kLine) % kLine, ' ');
  std::string front(8, '\0');
  for (size_t i = 0; i < 8; ++i) front[i] = static_cast<char>(text.size() >> (8 * i) & 0xFF);
  file_.write(front + text);
}

void SafeTensorsWriter::write(const mx::array& next) {
  auto plain = mx::contiguous(next);
  plain.eval();
  if (plain.nbytes() > left_)
    throw Error(Kind::internal, "[safetensors] more bytes than the header has");
  if (plain.nbytes() > 0) file_.write({plain.data<char>(), plain.nbytes()});
  left_ -= plain.nbytes();
}

void SafeTensorsWriter::commit() {
  if (left_ != 0)
    throw Error(Kind::internal,
                "[safetensors] " + std::to_string(left_) + " bytes were not written");
  file_.commit();
}

void write_safetensors(const fs::path& path, const Tensors& tensors, const Metadata& metadata) {
  std::vector<TensorInfo> infos;
  std::vector<mx::array> plain;
  for (const auto& [name, a] : tensors) infos.push_back({name, a.dtype(), a.shape()});
  // Wide types first, as the format's own library orders them: every tensor is aligned to its
  // element, and there are no gaps, which some readers refuse.
  std::stable_sort(infos.begin(), infos.end(), [](const auto& a, const auto& b) {
    return mx::size_of(a.dtype) > mx::size_of(b.dtype);
  });
  for (const auto& info : infos) plain.push_back(mx::contiguous(tensors.at(info.name)));
  mx::eval(plain);
  SafeTensorsWriter file(path, infos, metadata);
  for (const auto& a : plain) file.write(a);
  file.commit();
}

}  // namespace lmxlab::io
