#include "lmxlab/kernels/quantize_blocks.h"

#include "lmxlab/base/error.h"
#include "lmxlab/base/random.h"
#include "lmxlab/io/ggml_blocks.h"
#include "lmxlab/io/gguf.h"
#include "lmxlab/io/safetensors.h"
#include "lmxlab/kernels/quantized.h"
#include "tests/support/shared_fixtures.h"

#include <gtest/gtest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace lmxlab::kernels {
namespace {

namespace mx = mlx::core;

// The numbers that bytes stand for, by the readers that other tests hold against the gguf package.
std::vector<float> numbers(uint32_t type, const mx::array& bytes, int rows, int width) {
  if (const auto format = format_of_ggml(type)) {
    std::vector<float> out(static_cast<size_t>(rows) * static_cast<size_t>(width));
    const QuantView view{*format, rows, width, bytes.data<uint8_t>()};
    for (int r = 0; r < rows; r++) dequantize_row(view, r, out.data() + r * width);
    return out;
  }
  const auto a = io::block_numbers(*io::ggml_type(type), bytes);
  return {a.data<float>(), a.data<float>() + a.size()};
}

mx::array normal(HostRandom& random, int rows, int width) {
  std::vector<float> v(static_cast<size_t>(rows) * static_cast<size_t>(width));
  for (auto& x : v) {
    double sum = 0;  // nearly normal
    for (int i = 0; i < 12; i++) sum += static_cast<double>(random.next() >> 11) * 0x1p-53;
    x = static_cast<float>(0.05 * (sum - 6));
  }
  return mx::array(v.begin(), {rows, width}, mx::float32);
}

TEST(QuantizeBlocks, GiveTheBytesOfGgml) {
  const auto folder = test::shared_fixtures("gguf");
  if (!folder) return;
  int types = 0;
  for (const char* name : {"types_legacy", "types_misc"}) {
    const io::SafeTensors file(*folder / (std::string(name) + ".expected.safetensors"));
    for (uint32_t number = 0; number < 64; number++) {
      const auto* type = io::ggml_type(number);
      if (!type || type->weights == 1 || quantizable_blocks(number).weights == 0) continue;
      const std::string key(type->name);
      if (!file.contains(key + ".source")) continue;
      types++;
      const auto got = quantize_blocks(number, file.get(key + ".source"));
      const auto want = file.get(key + ".bytes");
      ASSERT_EQ(got.shape(), want.shape()) << key;
      for (size_t i = 0; i < got.size(); i++)
        ASSERT_EQ(int{got.data<uint8_t>()[i]}, int{want.data<uint8_t>()[i]}) << key << " at " << i;
    }
  }
  EXPECT_EQ(types, 7);
}

// A type of b bits a weight, uniform over a group's range r: steps of r / 2^b, each off by at most
// half a step; and the scale and the minimum are themselves rounded, to six bits and float16.
TEST(QuantizeBlocks, ErrorsAreThoseOfTheirBits) {
  HostRandom random(5);
  const int rows = 8, width = 512;
  const auto x = normal(random, rows, width);
  mx::eval(x);
  struct Case {
    uint32_t type;
    double rms;  // of errors over that of the weights, from the step of a normal weight's group
  };
  // A group of 16 or 32 normal numbers reaches about 1.8 or 2.1 deviations to each side.
  const auto expected = [](double reach, int steps) { return 2 * reach / steps / std::sqrt(12.0); };
  for (const auto& c : {Case{2, expected(2.1, 16)},
                        {3, expected(2.1, 15)},
                        {6, expected(2.1, 32)},
                        {7, expected(2.1, 31)},
                        {8, expected(2.1, 254)},
                        {10, expected(1.8, 3)},
                        {11, expected(1.8, 8)},
                        {12, expected(2.1, 15)},
                        {13, expected(2.1, 31)},
                        {14, expected(1.8, 64)}}) {
    const auto got = numbers(c.type, quantize_blocks(c.type, x), rows, width);
    double off = 0, all = 0;
    for (size_t i = 0; i < got.size(); i++) {
      const double v = static_cast<double>(x.data<float>()[i]);
      off += std::pow(static_cast<double>(got[i]) - v, 2), all += v * v;
    }
    const double rms = std::sqrt(off / all);
    EXPECT_LT(rms, 1.15 * c.rms) << io::ggml_type(c.type)->name;
    EXPECT_GT(rms, 0.5 * c.rms) << io::ggml_type(c.type)->name;
  }
}

// What lies on a type's own grid comes back as it was, but for the rounding of scales.
TEST(QuantizeBlocks, NumbersOfATypeStay) {
  HostRandom random(7);
  const int rows = 4, width = 256;
  for (uint32_t type = 0; type < 64; type++) {
    if (quantizable_blocks(type).weights == 0) continue;
    const auto first =
        numbers(type, quantize_blocks(type, normal(random, rows, width)), rows, width);
    const auto again =
        numbers(type, quantize_blocks(type, mx::array(first.begin(), {rows, width}, mx::float32)),
                rows, width);
    float most = 0, worst = 0;
    for (size_t i = 0; i < first.size(); i++) {
      most = std::max(most, std::abs(first[i]));
      worst = std::max(worst, std::abs(first[i] - again[i]));
    }
    // Half a step of the coarsest of them, two bits, where another fit is as good.
    EXPECT_LE(worst, most * (type == 10   ? 0.34f
                             : type == 11 ? 0.13f
                                          : 0.07f))
        << io::ggml_type(type)->name;
  }
}

TEST(QuantizeBlocks, OddBlocks) {
  const float big = 60'000;
  for (uint32_t type = 0; type < 64; type++) {
    const auto size = quantizable_blocks(type);
    if (size.weights == 0) continue;
    SCOPED_TRACE(io::ggml_type(type)->name);
    const auto* known = io::ggml_type(type);
    EXPECT_EQ(size.weights, known->weights);
    EXPECT_EQ(size.bytes, known->bytes);
    for (const float v : {0.0f, -0.0f, 1.0f, -1.0f, 1e-30f, big, -big}) {
      std::vector<float> row(static_cast<size_t>(2 * size.weights), v);
      row[0] = 0;
      const auto x = mx::array(row.begin(), {1, 2 * size.weights}, mx::float32);
      for (const float got : numbers(type, quantize_blocks(type, x), 1, 2 * size.weights)) {
        EXPECT_TRUE(std::isfinite(got));
        EXPECT_LE(std::abs(got), 1.3f * std::abs(v) + 1e-6f) << v;
      }
    }
    std::vector<float> row(static_cast<size_t>(size.weights), 1.0f);
    for (const float v :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 1e6f}) {
      row[3] = v;
      EXPECT_THROW(quantize_blocks(type, mx::array(row.begin(), {1, size.weights}, mx::float32)),
                   Error)
          << v;
    }
    EXPECT_THROW(quantize_blocks(type, mx::zeros({2, size.weights - 1})), Error);
  }
  EXPECT_THROW(quantize_blocks(0, mx::zeros({1, 256})), Error);
  EXPECT_THROW(quantize_blocks(16, mx::zeros({1, 256})), Error);
}

}  // namespace
}  // namespace lmxlab::kernels
