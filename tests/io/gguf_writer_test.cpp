#include "lmxlab/io/gguf_writer.h"

#include "tests/support/shared_fixtures.h"
#include "tests/support/temp_folder.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

namespace lmxlab::io {
namespace {

TEST(GgufWriter, ReadsBack) {
  const test::TemporaryFolder folder;
  GgufWriter out;
  out.set("a", uint32_t{7});
  out.set("b", int32_t{-7});
  out.set("c", 0.5f);
  out.set("d", true);
  out.set("e", std::string("text"));
  out.set("f", std::vector<std::string>{"x", "", "yz"});
  out.set("g", std::vector<float>{1, -2});
  out.set("h", std::vector<int32_t>{3, -4});
  out.set("a", uint32_t{8});
  const auto w = mx::reshape(mx::arange(0.0, 6.0, 1.0, mx::float32), {2, 3});
  const auto q = mx::full({2, 34}, 7, mx::uint8);
  mx::eval(w, q);
  out.add("w", *ggml_type("F32"), {2, 3});
  out.add("q", *ggml_type("q8_0"), {2, 32});
  EXPECT_EQ(out.tensor_bytes(), 32u + 96u);
  EXPECT_THROW(out.add("w", *ggml_type("F32"), {1}), Error);
  EXPECT_THROW(out.add("v", *ggml_type("Q8_0"), {2, 33}), Error);
  out.write(folder / "x.gguf", [&](const std::string& name) { return name == "w" ? w : q; });
  const Gguf file(folder / "x.gguf");
  EXPECT_EQ(file.version(), 3u);
  EXPECT_EQ(file.metadata().size(), 8u);
  EXPECT_EQ(file.at("a").as_integer(), 8);
  EXPECT_EQ(file.at("b").as_integer(), -7);
  EXPECT_EQ(file.at("c").as_number(), 0.5);
  EXPECT_TRUE(file.at("d").as_bool());
  EXPECT_EQ(file.at("e").as_string(), "text");
  EXPECT_EQ(file.at("f").as_strings(), (std::vector<std::string_view>{"x", "", "yz"}));
  EXPECT_EQ(file.at("g").as_numbers(), (std::vector<double>{1, -2}));
  EXPECT_EQ(file.at("h").as_integers(), (std::vector<int64_t>{3, -4}));
  EXPECT_TRUE(mx::array_equal(file.get("w"), w).item<bool>());
  EXPECT_TRUE(mx::array_equal(file.raw("q"), q).item<bool>());

  EXPECT_THROW(out.write(folder / "y.gguf", [&](const std::string&) { return w; }), Error);
  EXPECT_FALSE(fs::exists(folder / "y.gguf"));
  EXPECT_THROW(out.write(folder / "no" / "y.gguf", [&](const std::string&) { return w; }), Error);
}

// Any value of any file, copied, is the same value.
TEST(GgufWriter, CopiesValues) {
  const auto fixtures = test::shared_fixtures("gguf");
  if (!fixtures) return;
  const test::TemporaryFolder folder;
  const Gguf from(*fixtures / "plain.gguf");
  GgufWriter out;
  for (const auto& [key, value] : from.metadata()) out.set(key, value);
  out.write(folder / "x.gguf", [](const std::string&) { return mx::array(0); });
  const Gguf file(folder / "x.gguf");
  ASSERT_EQ(file.metadata().size(), from.metadata().size());
  EXPECT_GE(file.metadata().size(), 13u);
  for (const auto& [key, value] : from.metadata()) EXPECT_EQ(file.at(key).bytes(), value.bytes());
}

}  // namespace
}  // namespace lmxlab::io
