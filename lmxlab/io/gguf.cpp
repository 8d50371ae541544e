#include "lmxlab/io/gguf.h"

#include "lmxlab/io/mapped_array.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cctype>
#include <cstring>
#include <fstream>
#include <optional>
#include <utility>

namespace lmxlab::io {
namespace {

using Type = GgufValue::Type;
static_assert(std::endian::native == std::endian::little, "GGUF is read as it lies");

constexpr std::array kTypes = std::to_array<GgmlType>(
    {{0, "F32", 1, 4},         {1, "F16", 1, 2},         {2, "Q4_0", 32, 18},
     {3, "Q4_1", 32, 20},      {6, "Q5_0", 32, 22},      {7, "Q5_1", 32, 24},
     {8, "Q8_0", 32, 34},      {9, "Q8_1", 32, 40},      {10, "Q2_K", 256, 84},
     {11, "Q3_K", 256, 110},   {12, "Q4_K", 256, 144},   {13, "Q5_K", 256, 176},
     {14, "Q6_K", 256, 210},   {15, "Q8_K", 256, 292},   {16, "IQ2_XXS", 256, 66},
     {17, "IQ2_XS", 256, 74},  {18, "IQ3_XXS", 256, 98}, {19, "IQ1_S", 256, 50},
     {20, "IQ4_NL", 32, 18},   {21, "IQ3_S", 256, 110},  {22, "IQ2_S", 256, 82},
     {23, "IQ4_XS", 256, 136}, {24, "I8", 1, 1},         {25, "I16", 1, 2},
     {26, "I32", 1, 4},        {27, "I64", 1, 8},        {28, "F64", 1, 8},
     {29, "IQ1_M", 256, 56},   {30, "BF16", 1, 2},       {34, "TQ1_0", 256, 54},
     {35, "TQ2_0", 256, 66},   {39, "MXFP4", 32, 17},    {40, "NVFP4", 64, 36}});

constexpr std::array<std::string_view, 13> kNames{
    "u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"};
// Bytes of a value of a fixed size; 0 of strings and arrays.
constexpr std::array<size_t, 13> kSizes{1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

size_t index(Type type) {
  return static_cast<size_t>(type);
}

template <class T>
T number(std::string_view bytes) {
  T value;
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

Error bad(const std::string& what) {
  return Error(Kind::bad_data, what);
}

std::optional<mx::Dtype> plain_dtype(const GgmlType& type) {
  switch (type.number) {
    case 0: return mx::float32;
    case 1: return mx::float16;
    case 24: return mx::int8;
    case 25: return mx::int16;
    case 26: return mx::int32;
    case 27: return mx::int64;
    case 28: return mx::float64;
    case 30: return mx::bfloat16;
    default: return std::nullopt;
  }
}

}  // namespace

bool is_gguf(const fs::path& path) {
  std::error_code ignored;
  if (!fs::is_regular_file(path, ignored)) return false;
  std::array<char, 4> magic{};
  std::ifstream in(path, std::ios::binary);
  in.read(magic.data(), magic.size());
  return in && std::string_view(magic.data(), magic.size()) == "GGUF";
}

const GgmlType* ggml_type(uint32_t number) {
  const auto it = std::find_if(kTypes.begin(), kTypes.end(),
                               [&](const GgmlType& t) { return t.number == number; });
  return it == kTypes.end() ? nullptr : &*it;
}

const GgmlType* ggml_type(std::string_view name) {
  const auto it = std::find_if(kTypes.begin(), kTypes.end(), [&](const GgmlType& t) {
    return std::equal(name.begin(), name.end(), t.name.begin(), t.name.end(), [](char a, char b) {
      return std::toupper(static_cast<unsigned char>(a)) == b;
    });
  });
  return it == kTypes.end() ? nullptr : &*it;
}

// Takes values off the front of bytes, each length held against what is left.
class GgufReader {
 public:
  explicit GgufReader(std::string_view bytes) : left_(bytes) {}
  size_t left() const { return left_.size(); }

  std::string_view take(uint64_t n, std::string_view what) {
    if (n > left_.size())
      throw bad(std::string(what) + " claims " + std::to_string(n) + " bytes, " +
                std::to_string(left_.size()) + " are left. The file is cut off or damaged.");
    const auto taken = left_.substr(0, n);
    left_.remove_prefix(n);
    return taken;
  }
  template <class T>
  T take_number(std::string_view what) {
    return number<T>(take(sizeof(T), what));
  }
  std::string_view take_string(std::string_view what) {
    return take(take_number<uint64_t>(what), what);
  }
  Type take_type() {
    const auto type = take_number<uint32_t>("a type");
    if (type >= kNames.size()) throw bad("there is no type " + std::to_string(type));
    return static_cast<Type>(type);
  }
  GgufValue take_value(Type type, int depth = 0) {
    GgufValue v;
    v.type_ = type;
    if (type == Type::string) {
      v.rest_ = take_string("a string");
      v.count_ = v.rest_.size();
    } else if (type == Type::array) {
      constexpr int kDeepest = 4;
      if (depth == kDeepest) throw bad("arrays lie in one another more than 4 deep");
      v.element_ = take_type();
      v.count_ = take_number<uint64_t>("an array");
      const size_t least = std::max<size_t>(kSizes[index(v.element_)], 1);
      if (v.count_ > left_.size() / least)
        throw bad("an array claims " + std::to_string(v.count_) + " elements, " +
                  std::to_string(left_.size()) +
                  " bytes are left. The file is cut off or damaged.");
      const auto all = left_;
      if (const size_t size = kSizes[index(v.element_)]) {
        take(v.count_ * size, "an array");
      } else {
        for (uint64_t i = 0; i < v.count_; ++i) take_value(v.element_, depth + 1);
      }
      v.rest_ = all.substr(0, all.size() - left_.size());
    } else {
      v.rest_ = take(kSizes[index(type)], "a number");
    }
    return v;
  }

 private:
  std::string_view left_;
};

std::string GgufValue::type_name() const {
  if (type_ == Type::array)
    return "an array of " + std::to_string(count_) + " " + std::string(kNames[index(element_)]);
  return (type_ == Type::i8 || type_ == Type::i16 || type_ == Type::i32 || type_ == Type::i64
              ? "an "
              : "a ") +
         std::string(kNames[index(type_)]);
}

bool GgufValue::as_bool() const {
  if (type_ != Type::boolean) throw bad("expected a bool, got " + type_name());
  return rest_[0] != 0;
}

int64_t GgufValue::as_integer() const {
  switch (type_) {
    case Type::i8: return number<int8_t>(rest_);
    case Type::i16: return number<int16_t>(rest_);
    case Type::i32: return number<int32_t>(rest_);
    case Type::i64: return number<int64_t>(rest_);
    default: break;
  }
  const uint64_t value = as_unsigned();
  if (value > INT64_MAX) throw bad("the number " + std::to_string(value) + " is too large");
  return static_cast<int64_t>(value);
}

uint64_t GgufValue::as_unsigned() const {
  switch (type_) {
    case Type::u8: return number<uint8_t>(rest_);
    case Type::u16: return number<uint16_t>(rest_);
    case Type::u32: return number<uint32_t>(rest_);
    case Type::u64: return number<uint64_t>(rest_);
    case Type::i8:
    case Type::i16:
    case Type::i32:
    case Type::i64: {
      const int64_t value = as_integer();
      if (value < 0) throw bad("expected no negative number, got " + std::to_string(value));
      return static_cast<uint64_t>(value);
    }
    default: throw bad("expected an integer, got " + type_name());
  }
}

double GgufValue::as_number() const {
  if (type_ == Type::f32) return static_cast<double>(number<float>(rest_));
  if (type_ == Type::f64) return number<double>(rest_);
  if (type_ == Type::u64) return static_cast<double>(as_unsigned());
  return static_cast<double>(as_integer());
}

std::string_view GgufValue::as_string() const {
  if (type_ != Type::string) throw bad("expected a string, got " + type_name());
  return rest_;
}

std::vector<GgufValue> GgufValue::as_array() const {
  if (type_ != Type::array) throw bad("expected an array, got " + type_name());
  std::vector<GgufValue> out;
  out.reserve(count_);
  GgufReader reader(rest_);
  for (uint64_t i = 0; i < count_; ++i) out.push_back(reader.take_value(element_));
  return out;
}

std::vector<std::string_view> GgufValue::as_strings() const {
  std::vector<std::string_view> out;
  for (const auto& v : as_array()) out.push_back(v.as_string());
  return out;
}
std::vector<int64_t> GgufValue::as_integers() const {
  std::vector<int64_t> out;
  for (const auto& v : as_array()) out.push_back(v.as_integer());
  return out;
}
std::vector<double> GgufValue::as_numbers() const {
  std::vector<double> out;
  for (const auto& v : as_array()) out.push_back(v.as_number());
  return out;
}

std::string GgufValue::bytes() const {
  std::string out;
  const auto add = [&](auto n) { out.append(reinterpret_cast<const char*>(&n), sizeof n); };
  add(static_cast<uint32_t>(type_));
  if (type_ == Type::array) add(static_cast<uint32_t>(element_));
  if (type_ == Type::array || type_ == Type::string) add(count_);
  return out.append(rest_);
}

Gguf::Gguf(const fs::path& path, std::optional<size_t> bytes)
    : file_(std::make_shared<MappedFile>(path)) {
  with_context("[gguf] " + path.string(), [&] {
    const auto text = file_->text();
    GgufReader in(text);
    if (text.substr(0, 4) != "GGUF") throw bad("it does not begin with GGUF: no GGUF file");
    in.take(4, "the header");
    version_ = in.take_number<uint32_t>("the header");
    if (version_ != 2 && version_ != 3)
      throw Error(Kind::unsupported,
                  version_ != 0 && (version_ & 0xffff) == 0
                      ? "it is written for machines of the other byte order"
                      : "expected version 2 or 3, got " + std::to_string(version_));
    const auto tensors = in.take_number<uint64_t>("the header");
    const auto values = in.take_number<uint64_t>("the header");
    constexpr uint64_t kLeastValue = 13, kLeastTensor = 24;  // bytes of an entry
    if (values > in.left() / kLeastValue || tensors > in.left() / kLeastTensor)
      throw bad("its header claims " + std::to_string(values) + " values and " +
                std::to_string(tensors) + " tensors, " + std::to_string(in.left()) +
                " bytes are left. The file is cut off or damaged.");

    for (uint64_t i = 0; i < values; ++i) {
      const std::string key(in.take_string("a key"));
      with_context("key " + key, [&] {
        const auto value = in.take_value(in.take_type());
        if (!metadata_.emplace(key, value).second) throw bad("it is listed twice");
      });
    }
    if (const auto* given = find("general.alignment")) {
      alignment_ = given->as_unsigned();
      if (!std::has_single_bit(alignment_) || alignment_ > 1 << 30)
        throw bad("general.alignment: expected a power of 2, got " + std::to_string(alignment_));
    }

    for (uint64_t i = 0; i < tensors; ++i) {
      const std::string name(in.take_string("a tensor's name"));
      with_context("tensor " + name, [&] {
        Tensor t{};
        const auto axes = in.take_number<uint32_t>("its shape");
        if (axes > 8) throw bad("expected at most 8 axes, got " + std::to_string(axes));
        uint64_t elements = 1;
        for (uint32_t a = 0; a < axes; ++a) {
          const auto n = in.take_number<uint64_t>("its shape");
          if (n > INT32_MAX) throw bad("an axis of " + std::to_string(n));
          if (n > 0 && elements > (uint64_t{1} << 56) / n)
            throw bad("its shape is larger than any memory");
          elements *= n;
          t.shape.push_back(static_cast<int>(n));
        }
        const uint64_t width = axes > 0 ? static_cast<uint64_t>(t.shape[0]) : 1;
        std::reverse(t.shape.begin(), t.shape.end());
        const auto number = in.take_number<uint32_t>("its type");
        t.type = ggml_type(number);
        if (!t.type)
          throw Error(Kind::unsupported,
                      "the tensor type " + std::to_string(number) + " is not known");
        const auto weights = static_cast<uint64_t>(t.type->weights);
        if (width % weights != 0)
          throw bad("rows of " + std::to_string(width) + " are no whole blocks of " +
                    std::string(t.type->name) + ", which are of " + std::to_string(weights));
        t.begin = in.take_number<uint64_t>("its offset");
        t.bytes = elements / weights * static_cast<uint64_t>(t.type->bytes);
        if (t.begin % alignment_ != 0)
          throw bad("its offset " + std::to_string(t.begin) + " is no multiple of " +
                    std::to_string(alignment_));
        if (!tensors_.emplace(name, t).second) throw bad("it is listed twice");
      });
    }

    // The data begin on the next multiple of the alignment; offsets count from there.
    const size_t read = text.size() - in.left();
    const size_t data = (read + alignment_ - 1) / alignment_ * alignment_;
    const size_t end = bytes.value_or(text.size());
    std::vector<std::pair<size_t, size_t>> ranges;
    for (auto& [name, t] : tensors_) {
      const size_t available = data <= end ? end - data : 0;
      if (t.begin > available || t.bytes > available - t.begin)
        throw bad("tensor " + name + ": bytes " + std::to_string(t.begin) + " and the " +
                  std::to_string(t.bytes) + " behind are not in the file, whose data are " +
                  std::to_string(available) + " bytes. It is cut off.");
      t.begin += data;
      if (t.bytes > 0) ranges.emplace_back(t.begin, t.begin + t.bytes);
    }
    std::sort(ranges.begin(), ranges.end());
    for (size_t i = 1; i < ranges.size(); ++i)
      if (ranges[i].first < ranges[i - 1].second)
        throw bad("two tensors share the byte " + std::to_string(ranges[i].first));
  });
}

const GgufValue* Gguf::find(std::string_view key) const {
  const auto it = metadata_.find(key);
  return it == metadata_.end() ? nullptr : &it->second;
}

const GgufValue& Gguf::at(std::string_view key) const {
  if (const auto* value = find(key)) return *value;
  throw bad("[gguf] " + file_->path().string() + ": expected a key " + std::string(key));
}

const Gguf::Tensor& Gguf::tensor(std::string_view name) const {
  const auto it = tensors_.find(name);
  if (it == tensors_.end())
    throw Error(Kind::not_found,
                "[gguf] " + file_->path().string() + " has no tensor " + std::string(name));
  return it->second;
}

void Gguf::expect_here(std::string_view name, const Tensor& t) const {
  if (t.begin + t.bytes > file_->size())
    throw bad("[gguf] " + file_->path().string() + ", tensor " + std::string(name) +
              ": its bytes lie behind the beginning that is here");
}

mx::array Gguf::get(std::string_view name) const {
  const auto& t = tensor(name);
  expect_here(name, t);
  if (const auto dtype = plain_dtype(*t.type)) return mapped_array(file_, t.begin, t.shape, *dtype);
  throw Error(Kind::unsupported, "[gguf] " + file_->path().string() + ", tensor " +
                                     std::string(name) + ": expected plain numbers, got " +
                                     std::string(t.type->name));
}

mx::array Gguf::raw(std::string_view name) const {
  const auto& t = tensor(name);
  expect_here(name, t);
  auto shape = t.shape;
  if (shape.empty()) shape.push_back(1);
  const int64_t row = int64_t{shape.back()} / t.type->weights * t.type->bytes;
  if (row > INT32_MAX)
    throw Error(Kind::unsupported, "[gguf] tensor " + std::string(name) + ": a row of " +
                                       std::to_string(row) + " bytes");
  shape.back() = static_cast<int>(row);
  return mapped_array(file_, t.begin, shape, mx::uint8);
}

}  // namespace lmxlab::io
