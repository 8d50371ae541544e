#include "lmxlab/io/gguf.h"

#include "lmxlab/base/json.h"
#include "lmxlab/base/random.h"
#include "lmxlab/io/ggml_blocks.h"
#include "lmxlab/io/safetensors.h"
#include "tests/support/shared_fixtures.h"
#include "tests/support/temp_folder.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

namespace lmxlab::io {
namespace {

// The format, written down once more.
template <class T>
std::string bytes_of(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}
std::string string_of(const std::string& s) {
  return bytes_of<uint64_t>(s.size()) + s;
}
std::string value_of(const std::string& key, uint32_t type, const std::string& payload) {
  return string_of(key) + bytes_of(type) + payload;
}
std::string tensor_of(const std::string& name, const std::vector<uint64_t>& shape, uint32_t type,
                      uint64_t offset) {
  auto s = string_of(name) + bytes_of<uint32_t>(static_cast<uint32_t>(shape.size()));
  for (const auto n : shape) s += bytes_of(n);
  return s + bytes_of(type) + bytes_of(offset);
}
std::string file_of(const std::vector<std::string>& values, const std::vector<std::string>& tensors,
                    const std::string& data, size_t alignment = 32) {
  auto s = "GGUF" + bytes_of<uint32_t>(3) + bytes_of<uint64_t>(tensors.size()) +
           bytes_of<uint64_t>(values.size());
  for (const auto& v : values) s += v;
  for (const auto& t : tensors) s += t;
  s.resize((s.size() + alignment - 1) / alignment * alignment, '\0');
  return s + data;
}
std::string some() {
  return file_of(
      {value_of("general.architecture", 8, string_of("llama")),
       value_of("n", 4, bytes_of<uint32_t>(7)),
       value_of("names", 9,
                bytes_of<uint32_t>(8) + bytes_of<uint64_t>(2) + string_of("a") + string_of("")),
       value_of("nested", 9,
                bytes_of<uint32_t>(9) + bytes_of<uint64_t>(1) + bytes_of<uint32_t>(0) +
                    bytes_of<uint64_t>(3) + "\1\2\3")},
      {tensor_of("w", {2, 3}, 0, 0), tensor_of("q", {32, 2}, 8, 32)},
      bytes_of(1.0f) + bytes_of(2.0f) + bytes_of(3.0f) + bytes_of(4.0f) + bytes_of(5.0f) +
          bytes_of(6.0f) + std::string(8, '\0') + std::string(68, 'q'));
}

TEST(Gguf, ABeginningWillDo) {
  const test::TemporaryFolder folder;
  const auto whole = some();
  const size_t data = whole.size() - 100;
  for (size_t n = 0; n < data + 24; ++n) {
    write_file_atomic(folder / "x.gguf", whole.substr(0, n));
    try {
      const Gguf file(folder / "x.gguf", whole.size());
      EXPECT_GT(n, data - 32) << "all but the gap before the data";
      EXPECT_EQ(file.at("n").as_integer(), 7);
      EXPECT_EQ(file.tensor("q").bytes, 68u);
      EXPECT_THROW(file.raw("q"), Error);
      EXPECT_THROW(file.get("w"), Error);
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), Kind::bad_data) << e.what();
      EXPECT_LE(n, data) << e.what();
    }
  }
  write_file_atomic(folder / "x.gguf", whole.substr(0, data + 24));
  EXPECT_EQ(Gguf(folder / "x.gguf", whole.size()).get("w").shape(), (mx::Shape{3, 2}));
  EXPECT_THROW(Gguf(folder / "x.gguf", whole.size() - 1), Error) << "a tensor beyond the whole";
}

TEST(Gguf, ReadsValuesAndTensors) {
  const test::TemporaryFolder folder;
  write_file_atomic(folder / "x.gguf", some());
  const Gguf file(folder / "x.gguf");
  EXPECT_EQ(file.version(), 3u);
  EXPECT_EQ(file.at("general.architecture").as_string(), "llama");
  EXPECT_EQ(file.at("n").as_integer(), 7);
  EXPECT_EQ(file.at("names").as_strings(), (std::vector<std::string_view>{"a", ""}));
  EXPECT_EQ(file.at("nested").as_array()[0].as_integers(), (std::vector<int64_t>{1, 2, 3}));
  EXPECT_EQ(file.find("m"), nullptr);
  EXPECT_THROW(file.at("m"), Error);
  EXPECT_THROW(file.at("n").as_string(), Error);
  const auto w = file.get("w");
  EXPECT_EQ(w.shape(), (mx::Shape{3, 2}));
  EXPECT_TRUE(
      mx::array_equal(w, mx::reshape(mx::arange(1.0, 7.0, 1.0, mx::float32), {3, 2})).item<bool>());
  EXPECT_EQ(file.raw("q").shape(), (mx::Shape{2, 34}));
  EXPECT_THROW(file.get("q"), Error);
  EXPECT_THROW(file.tensor("v"), Error);
}

TEST(Gguf, NamesWhatIsWrong) {
  const test::TemporaryFolder folder;
  const auto message = [&](const std::string& content) {
    write_file_atomic(folder / "x", content);
    try {
      Gguf file(folder / "x");
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("no error");
  };
  const auto expect = [&](const std::string& content, const std::string& part) {
    const auto text = message(content);
    EXPECT_NE(text.find(part), std::string::npos) << text << "\nexpected: " << part;
  };
  const std::string four(4, 'x');
  expect("", "no GGUF file");
  expect("GGUF" + bytes_of<uint32_t>(1), "version 2 or 3, got 1");
  expect("GGUF" + bytes_of<uint32_t>(0x03000000), "other byte order");
  expect("GGUF" + bytes_of<uint32_t>(3) + bytes_of<uint64_t>(1) + bytes_of<uint64_t>(1ull << 60),
         "cut off");
  expect(file_of({value_of("k", 99, "")}, {}, ""), "key k: there is no type 99");
  expect(file_of({value_of("k", 8, bytes_of<uint64_t>(~0ull))}, {}, ""), "key k: a string claims");
  expect(file_of({value_of("k", 0, "\1"), value_of("k", 0, "\1")}, {}, ""),
         "key k: it is listed twice");
  expect(file_of({value_of("general.alignment", 4, bytes_of<uint32_t>(24))}, {}, ""), "power of 2");
  expect(file_of({}, {tensor_of("w", {1}, 0, 0), tensor_of("w", {1}, 0, 0)}, four),
         "tensor w: it is listed twice");
  expect(file_of({}, {tensor_of("w", {2}, 0, 0)}, four), "tensor w: bytes 0 and the 8 behind");
  expect(file_of({}, {tensor_of("w", {1}, 0, 8)}, four), "no multiple of 32");
  expect(file_of({}, {tensor_of("w", {1}, 36, 0)}, four), "tensor type 36");
  expect(file_of({}, {tensor_of("w", {31}, 8, 0)}, four), "no whole blocks of Q8_0");
  expect(file_of({}, {tensor_of("w", {1ull << 31, 1ull << 31}, 0, 0)}, four), "an axis of");
  expect(file_of({}, {tensor_of("w", {1u << 30, 1u << 30}, 0, 0)}, four), "larger than any memory");
  expect(file_of({}, {tensor_of("v", {1}, 0, 0), tensor_of("w", {1}, 0, 0)}, four),
         "share the byte");
  std::string deep = bytes_of<uint32_t>(9) + bytes_of<uint64_t>(1);
  std::string nested;
  for (int i = 0; i < 8; ++i) nested += deep;
  expect(file_of({value_of("k", 9, nested)}, {}, std::string(64, '\0')), "more than 4 deep");
}

// Whatever is done to a file, the answer is an error of ours or values and arrays inside the file.
TEST(Gguf, HostileFiles) {
  const test::TemporaryFolder folder;
  const auto good = some();
  HostRandom random(11);
  int refused = 0;
  for (int i = 0; i < 4000; ++i) {
    std::string hostile = good;
    if (i % 3 == 0) hostile.resize(random.below(hostile.size()));
    for (uint64_t k = 0; k < 1 + random.below(3) && !hostile.empty(); ++k)
      hostile[random.below(hostile.size())] = static_cast<char>(random.below(256));
    write_file_atomic(folder / "x", hostile);
    try {
      const Gguf file(folder / "x");
      for (const auto& [key, value] : file.metadata()) {
        if (value.type() == GgufValue::Type::array) value.as_array();
        if (value.type() == GgufValue::Type::string) {
          EXPECT_LE(value.as_string().size(), good.size());
        }
      }
      for (const auto& [name, t] : file.tensors())
        if (const auto a = file.raw(name); a.size() > 0)
          mx::eval(mx::sum(mx::astype(a, mx::float32)));
    } catch (const Error& e) {
      ++refused;
      EXPECT_TRUE(e.kind() == Kind::bad_data || e.kind() == Kind::unsupported) << e.what();
    }
  }
  EXPECT_GT(refused, 2000);
}

// Every type that is read as numbers, bit for bit what the Python package makes of random blocks.
TEST(GgmlBlocks, AgreeWithTheGgufPackage) {
  const SafeTensors file(LMXLAB_SOURCE_DIR "/tests/fixtures/quant/numbers.safetensors");
  size_t types = 0;
  for (uint32_t number = 0; number < 64; ++number) {
    const auto* type = ggml_type(number);
    if (!type || !has_numbers(*type)) continue;
    ++types;
    const std::string name(type->name);
    const auto got = block_numbers(*type, file.get(name + ".bytes"));
    const auto want = file.get(name + ".values");
    ASSERT_EQ(got.shape(), want.shape()) << name;
    for (size_t i = 0; i < got.size(); ++i)
      ASSERT_EQ(got.data<float>()[i], want.data<float>()[i]) << name << " at " << i;
  }
  EXPECT_EQ(types, 12u);
  EXPECT_THROW(block_numbers(*ggml_type(15), mx::zeros({1, 292}, mx::uint8)), Error);
}

// Files written by the Python package gguf, and what it reads from them.
Json json_of(const GgufValue& v) {
  switch (v.type()) {
    case GgufValue::Type::boolean: return Json(v.as_bool());
    case GgufValue::Type::string: return Json(v.as_string());
    case GgufValue::Type::f32:
    case GgufValue::Type::f64: return Json(v.as_number());
    case GgufValue::Type::u64: return Json(static_cast<double>(v.as_unsigned()));
    case GgufValue::Type::array: {
      Json out = Json::array();
      for (const auto& e : v.as_array()) out.push_back(json_of(e));
      return out;
    }
    default: return Json(v.as_integer());
  }
}

TEST(Gguf, ReadsWhatItsPythonPackageWrote) {
  const auto folder = test::shared_fixtures("gguf");
  if (!folder) return;
  size_t files = 0;
  for (const auto& entry : fs::directory_iterator(*folder)) {
    if (entry.path().extension() != ".gguf") continue;
    ++files;
    SCOPED_TRACE(entry.path().filename().string());
    const Gguf file(entry.path());
    auto beside = entry.path();
    if (!fs::exists(beside.replace_extension(".expected.json"))) continue;
    const auto expected = Json::parse(read_file(beside), beside.string());
    if (!expected.contains("fields")) continue;  // whole models, compared as such
    for (const auto& [key, want] : expected.at("fields").as_object()) {
      if (key.starts_with("GGUF.")) continue;
      const auto* got = file.find(key);
      ASSERT_NE(got, nullptr) << key;
      const auto json = json_of(*got);
      if (want.is_number()) {
        EXPECT_EQ(json.as_number(), want.as_number()) << key;
      } else {
        EXPECT_EQ(json, want) << key;
      }
    }
    const SafeTensors numbers(beside.replace_extension(".safetensors"));
    for (const auto& t : expected.at("tensors").as_array()) {
      const auto& name = t.at("name").as_string();
      const auto& got = file.tensor(name);
      EXPECT_EQ(got.type->name, t.at("type").as_string()) << name;
      EXPECT_EQ(static_cast<int64_t>(got.begin), t.at("offset").as_integer()) << name;
      EXPECT_EQ(static_cast<int64_t>(got.bytes), t.at("bytes").as_integer()) << name;
      if (got.type->weights > 1 || !numbers.contains(name)) continue;
      const auto want = numbers.get(name);
      const auto have = mx::astype(file.get(name), want.dtype(), mx::Device::cpu);
      EXPECT_EQ(have.shape(), want.shape()) << name;
      EXPECT_TRUE(mx::array_equal(have, want, mx::Device::cpu).item<bool>()) << name;
    }
  }
  EXPECT_GE(files, 10u);
}

}  // namespace
}  // namespace lmxlab::io
