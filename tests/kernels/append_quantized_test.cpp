#include "lmxlab/kernels/append_quantized.h"

#include <string>
#include <vector>

#include "lmxlab/base/error.h"
#include "tests/kernels/reference.h"

namespace mx = mlx::core;
using mx::array;

namespace lmxlab::kernels {
namespace {

struct Case {
  int batch, heads, length, width, capacity, at, group, bits;
  mx::Dtype dtype;

  std::string text() const {
    std::string s;
    for (const int n : {batch, heads, length, width, capacity, at, group, bits})
      s += std::to_string(n) + " ";
    return s + std::to_string(mx::size_of(dtype)) + " bytes";
  }
  QuantizedKeys buffers() const {
    const auto full = mx::quantize(noise({batch, heads, capacity, width}, 9, dtype), group, bits);
    QuantizedKeys b{full[0], full[1], full[2], group, bits};
    mx::eval(b.packed, b.scales, b.biases);
    return b;
  }
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const auto dtype : {mx::float32, mx::bfloat16, mx::float16}) {
    for (const int bits : {4, 8}) {
      all.push_back({1, 3, 1, 64, 256, 17, 64, bits, dtype});
      all.push_back({2, 2, 5, 96, 8, 3, 32, bits, dtype});
      all.push_back({1, 1, 7, 128, 7, 0, 128, bits, dtype});
      all.push_back({3, 1, 300, 64, 512, 100, 64, bits, dtype});
    }
  }
  return all;
}

// The same by MLX's ops.
QuantizedKeys by_steps(const array& x, const QuantizedKeys& b, int at) {
  const auto parts = mx::quantize(x, b.group, b.bits);
  const auto write = [&](const array& buffer, const array& p) {
    return mx::slice_update(buffer, p, mx::Shape{0, 0, at, 0},
                            mx::Shape{p.shape(0), p.shape(1), at + p.shape(2), p.shape(3)});
  };
  return {write(b.packed, parts[0]), write(b.scales, parts[1]), write(b.biases, parts[2]), b.group,
          b.bits};
}

void expect_equal(const QuantizedKeys& got, const QuantizedKeys& wanted, const std::string& what) {
  EXPECT_TRUE(same_bits(got.packed, wanted.packed)) << what;
  EXPECT_TRUE(same_bits(got.scales, wanted.scales)) << what;
  EXPECT_TRUE(same_bits(got.biases, wanted.biases)) << what;
}

TEST(AppendQuantized, WritesWhatMlxQuantizes) {
  on_every_isa([](const std::string& isa) {
    for (const auto& c : cases()) {
      const auto x = noise({c.batch, c.heads, c.length, c.width}, 1, c.dtype);
      const auto wanted = by_steps(x, c.buffers(), c.at);
      expect_equal(append_quantized(x, c.buffers(), c.at), wanted, isa + " " + c.text());
      // Heads as a projection leaves them, side by side.
      const auto view = mx::transpose(mx::contiguous(mx::transpose(x, {0, 2, 1, 3})), {0, 2, 1, 3});
      expect_equal(append_quantized(view, c.buffers(), c.at), wanted, isa + " view " + c.text());
    }
  });
}

TEST(AppendQuantized, OfConstantAndOneSidedRows) {
  for (const float v : {0.0f, 1.0f, -2.5f, 1e-30f, -3e4f}) {
    const Case c{1, 1, 2, 64, 4, 1, 64, 8, mx::float32};
    const auto x = mx::full({1, 1, 2, 64}, v);
    expect_equal(append_quantized(x, c.buffers(), 1), by_steps(x, c.buffers(), 1),
                 std::to_string(v));
    const auto ramp = mx::reshape(mx::arange(0.0, 128.0, 1.0, mx::float32), {1, 1, 2, 64}) + x;
    expect_equal(append_quantized(ramp, c.buffers(), 1), by_steps(ramp, c.buffers(), 1),
                 "ramp from " + std::to_string(v));
  }
}

TEST(AppendQuantized, WritesInPlaceUnlessTheBufferIsHeld) {
  const Case c{1, 2, 1, 64, 16, 5, 64, 4, mx::bfloat16};
  const auto x = noise({1, 2, 1, 64}, 1, c.dtype);
  auto buffers = c.buffers();
  const auto held = buffers;
  const auto before = by_steps(x, held, 5);
  const auto copied = append_quantized(x, buffers, 5);
  expect_equal(copied, before, "held");
  expect_equal(held, c.buffers(), "what was held stays");

  auto alone = c.buffers();
  const auto* const memory = alone.packed.data<uint32_t>();
  auto written = append_quantized(x, std::move(alone), 5);
  mx::eval(written.packed, written.scales, written.biases);
  EXPECT_EQ(written.packed.data<uint32_t>(), memory);
}

TEST(AppendQuantized, SaysWhatDoesNotFit) {
  const Case c{1, 2, 1, 64, 16, 5, 64, 4, mx::bfloat16};
  const auto x = noise({1, 2, 1, 64}, 1, c.dtype);
  EXPECT_THROW(append_quantized(x, c.buffers(), 16), Error);
  EXPECT_THROW(append_quantized(x, c.buffers(), -1), Error);
  EXPECT_THROW(append_quantized(mx::astype(x, mx::float32), c.buffers(), 0), Error);
  EXPECT_THROW(append_quantized(noise({1, 2, 1, 32}, 1, c.dtype), c.buffers(), 0), Error);
  auto odd = c.buffers();
  odd.bits = 3;
  EXPECT_THROW(append_quantized(x, odd, 0), Error);
}

}  // namespace
}  // namespace lmxlab::kernels
