#include "lmxlab/io/safetensors.h"

#include "lmxlab/base/random.h"
#include "lmxlab/io/hf_folder.h"
#include "tests/support/error_of.h"
#include "tests/support/temp_folder.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

namespace lmxlab::io {
namespace {

Tensors some() {
  return {{"a", mx::reshape(mx::arange(0, 24, mx::float32), {2, 3, 4})},
          {"b", mx::astype(mx::arange(0, 7, mx::float32), mx::bfloat16)},
          {"c", mx::array(3, mx::int32)},
          {"d", mx::zeros({0, 4}, mx::float32)},
          {"e", mx::transpose(mx::reshape(mx::arange(0, 6, mx::uint16), {2, 3}))},
          {"f", mx::array({true, false, true})}};
}

TEST(SafeTensors, RoundTrip) {
  const test::TemporaryFolder folder;
  write_safetensors(folder / "x.safetensors", some(), {{"format", "pt"}});
  const SafeTensors file(folder / "x.safetensors");
  EXPECT_EQ(file.metadata().at("format"), "pt");
  const auto read = file.all();
  ASSERT_EQ(read.size(), some().size());
  for (const auto& [name, want] : some()) {
    const auto& got = read.at(name);
    EXPECT_EQ(got.dtype(), want.dtype()) << name;
    ASSERT_EQ(got.shape(), want.shape()) << name;
    if (want.size() > 0) {
      EXPECT_TRUE(mx::array_equal(got, want).item<bool>()) << name;
    }
  }
}

TEST(SafeTensors, WrittenPieceByPiece) {
  const test::TemporaryFolder folder;
  const auto path = folder / "x.safetensors";
  const auto a = mx::reshape(mx::arange(0, 24, mx::float32), {6, 4});
  const auto b = mx::astype(mx::arange(0, 5, mx::float32), mx::bfloat16);
  const auto kind = [](const auto& f) { return test::error_of(f).kind(); };
  SafeTensorsWriter file(path, {{"a", a.dtype(), a.shape()}, {"b", b.dtype(), b.shape()}});
  file.write(mx::slice(a, {0, 0}, {4, 4}));
  file.write(mx::slice(a, {4, 0}, {6, 4}));
  EXPECT_EQ(kind([&] { file.commit(); }), Kind::internal);
  EXPECT_FALSE(fs::exists(path));
  EXPECT_EQ(kind([&] { file.write(a); }), Kind::internal);
  file.write(b);
  file.commit();
  write_safetensors(folder / "whole.safetensors", {{"a", a}, {"b", b}});
  EXPECT_EQ(read_file(path), read_file(folder / "whole.safetensors"));
  EXPECT_EQ(
      kind([&] {
        SafeTensorsWriter(folder / "y", {{"b", b.dtype(), b.shape()}, {"a", a.dtype(), a.shape()}});
      }),
      Kind::internal);
}

TEST(SafeTensors, SameTensorsSameBytes) {
  const test::TemporaryFolder folder;
  write_safetensors(folder / "x", some());
  write_safetensors(folder / "y", some());
  EXPECT_EQ(read_file(folder / "x"), read_file(folder / "y"));
}

TEST(SafeTensors, IsMappedNotRead) {
  const test::TemporaryFolder folder;
  write_safetensors(folder / "x", {{"big", mx::zeros({1 << 20}, mx::float32)}});
  const auto before = mx::get_active_memory();
  const auto big = SafeTensors(folder / "x").get("big");
  EXPECT_EQ(mx::get_active_memory(), before);
  EXPECT_EQ(mx::sum(big).item<float>(), 0.0f);
}

TEST(SafeTensors, IsReadByMlx) {
  const test::TemporaryFolder folder;
  write_safetensors(folder / "x.safetensors", {{"a", some().at("a")}, {"b", some().at("b")}});
  const auto [theirs, metadata] = mx::load_safetensors((folder / "x.safetensors").string());
  EXPECT_TRUE(mx::array_equal(theirs.at("a"), some().at("a")).item<bool>());
  EXPECT_TRUE(mx::array_equal(theirs.at("b"), some().at("b")).item<bool>());
}

// Whatever is done to a file, the answer is an error of ours or arrays inside the file.
TEST(SafeTensors, HostileFiles) {
  const test::TemporaryFolder folder;
  write_safetensors(folder / "x", some());
  const auto good = read_file(folder / "x");
  HostRandom random(7);
  int refused = 0;
  for (int i = 0; i < 3000; ++i) {
    std::string bad = good;
    if (i % 3 == 0) bad.resize(random.below(bad.size()));
    for (uint64_t k = 0; k < 1 + random.below(4) && !bad.empty(); ++k)
      bad[random.below(std::min<size_t>(bad.size(), 600))] = static_cast<char>(random.below(256));
    write_file_atomic(folder / "bad", bad);
    try {
      for (auto& [name, a] : SafeTensors(folder / "bad").all())
        if (a.size() > 0) mx::eval(mx::sum(mx::astype(a, mx::float32)));
    } catch (const Error& e) {
      ++refused;
      EXPECT_TRUE(e.kind() == Kind::bad_data || e.kind() == Kind::unsupported) << e.what();
    }
  }
  EXPECT_GT(refused, 2000);
}

TEST(SafeTensors, NamesWhatIsWrong) {
  const test::TemporaryFolder folder;
  const auto message = [&](const std::string& content) {
    write_file_atomic(folder / "x", content);
    try {
      SafeTensors file(folder / "x");
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("no error");
  };
  const auto file = [](const std::string& header, size_t bytes) {
    std::string front(8, '\0');
    front[0] = static_cast<char>(header.size());
    return front + header + std::string(bytes, 'x');
  };
  EXPECT_NE(message("").find("empty"), std::string::npos);
  EXPECT_NE(message(file(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 4)).find("w"),
            std::string::npos);
  EXPECT_NE(
      message(file(R"({"w":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8)).find("12"),
      std::string::npos);
  EXPECT_NE(message(file(R"({"w":{"dtype":"Q9","shape":[2],"data_offsets":[0,8]}})", 8)).find("Q9"),
            std::string::npos);
  EXPECT_NE(
      message(
          file(
              R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"v":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
              8))
          .find("share"),
      std::string::npos);
  const std::string one = R"("w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  EXPECT_NE(message(file("{" + one + "," + one + "}", 1)).find("the key \"w\" stands twice"),
            std::string::npos);
}

TEST(HfFolder, ReadsShards) {
  const test::TemporaryFolder folder;
  write_safetensors(folder / "m-1.safetensors", {{"a", mx::array(1.0f)}});
  write_safetensors(folder / "m-2.safetensors", {{"b", mx::array(2.0f)}});
  write_file_atomic(folder / "model.safetensors.index.json",
                    R"({"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors"}})");
  EXPECT_EQ(read_folder(folder.path()).at("b").item<float>(), 2.0f);
  write_file_atomic(folder / "model.safetensors.index.json",
                    R"({"weight_map":{"a":"m-1.safetensors","b":"m-3.safetensors"}})");
  try {
    read_folder(folder.path());
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), Kind::not_found) << e.what();
  }
}

}  // namespace
}  // namespace lmxlab::io
