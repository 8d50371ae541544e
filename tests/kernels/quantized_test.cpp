#include "lmxlab/kernels/quantized.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "lmxlab/base/error.h"
#include "lmxlab/io/safetensors.h"
#include "lmxlab/kernels/isa.h"
#include "lmxlab/kernels/one_order.h"
#include "lmxlab/kernels/op.h"
#include "lmxlab/kernels/quantized_parts.h"
#include "lmxlab/kernels/thread_pool.h"
#include "tests/support/random_quant.h"

namespace mx = mlx::core;
using mx::array;
using Arrays = std::vector<array>;

namespace lmxlab::kernels {
namespace {

struct RestoreIsa {
  Isa before = isa();
  ~RestoreIsa() { set_isa(before); }
};

array noise(mx::Shape shape, int key, mx::Dtype dtype = mx::float32) {
  return mx::astype(mx::random::normal(std::move(shape), mx::random::key(key)), dtype);
}

std::vector<double> doubles(const array& a) {
  auto d = mx::contiguous(mx::astype(a, mx::float64, mx::Device::cpu), false, mx::Device::cpu);
  mx::eval(d);
  return {d.data<double>(), d.data<double>() + d.size()};
}

QuantView view_of(const QuantizedWeight& w) {
  mx::eval(w.packed);
  QuantView v{w.format, w.out, w.in, w.packed.data<uint8_t>()};
  if (w.format == QuantFormat::affine) {
    mx::eval(*w.scales);
    if (w.biases) mx::eval(*w.biases);
    v.bits = w.bits, v.group = w.group, v.scale_type = type_of(w.scales->dtype());
    v.scales = w.scales->data<char>(), v.biases = w.biases ? w.biases->data<char>() : nullptr;
    v.interleaved = w.interleaved;
  }
  return v;
}

// The slow twin.
std::vector<double> numbers_of(const QuantizedWeight& w) {
  std::vector<double> all(static_cast<size_t>(w.out) * w.in);
  for (int r = 0; r < w.out; r++) dequantize_row(view_of(w), r, all.data() + size_t(r) * w.in);
  return all;
}

// Every format, and scales of every dtype.
std::vector<QuantizedWeight> weights(int out, int in) {
  std::vector<QuantizedWeight> all;
  for (const auto f : test::block_formats()) {
    if (in % block_format(f).weights != 0) continue;
    all.push_back(test::random_blocks(f, out, in, 3));
    if (affine_bits(f) != 0 && out % kTileRows == 0) all.push_back(interleave(all.back()));
  }
  const mx::Dtype dtypes[] = {mx::float32, mx::bfloat16, mx::float16};
  int turn = 0;
  for (const int group : {32, 64, 128}) {
    for (const int bits : {2, 3, 4, 5, 6, 8}) {
      const auto scales = dtypes[turn++ % 3];
      if (in % group != 0) continue;
      all.push_back(test::random_affine(bits, group, scales, out, in, 5));
      if (out % kTileRows == 0) all.push_back(interleave(all.back()));
    }
    turn++;
  }
  return all;
}

double epsilon(mx::Dtype t) {  // of rounding, relative
  return t == mx::float32 ? FLT_EPSILON / 2 : t == mx::bfloat16 ? 1.0 / 256 : 1.0 / 2048;
}

// x W^T and what each element may be off by.
struct Expected {
  std::vector<double> y, bound;
};
// `half_step`: by how much an element of x is off at most when it meets the weight, as a share of
// the largest of its block; `rounded`: by how much a product of x and w is off, as a share of it.
// Both errors are spread evenly around 0, so six standard deviations of their sum bound it; those
// of float32 sums are bounded by their worst case over a lane.
Expected expected(const std::vector<double>& x, const std::vector<double>& w, int in, int out,
                  double half_step, double rounded, mx::Dtype dtype) {
  const size_t rows = x.size() / in;
  Expected e;
  for (size_t i = 0; i < rows; i++) {
    for (int o = 0; o < out; o++) {
      const double *xi = x.data() + i * in, *wo = w.data() + size_t(o) * in;
      double most = 0, sum = 0, squares = 0, size = 0;
      for (int k = 0; k < in; k++) most = std::max(most, std::abs(wo[k]));
      for (int b = 0; b < in; b += kBlock) {
        double largest = 0;
        for (int k = b; k < b + kBlock; k++) largest = std::max(largest, std::abs(xi[k]));
        for (int k = b; k < b + kBlock; k++) {
          sum += xi[k] * wo[k];
          squares +=
              std::pow(half_step * largest * wo[k], 2) + std::pow(rounded * xi[k] * wo[k], 2);
          size += std::abs(xi[k]) * 4 * most;  // scale * q and the offset are larger than w
        }
      }
      const double lane = 16 + in / 32.0;
      e.y.push_back(sum);
      e.bound.push_back(6 * std::sqrt(squares / 3) + lane * FLT_EPSILON * size +
                        epsilon(dtype) * std::abs(sum));
    }
  }
  return e;
}

void expect_within(const array& got, const Expected& e, const std::string& what) {
  const auto y = doubles(got);
  ASSERT_EQ(y.size(), e.y.size()) << what;
  size_t at = 0;
  double worst = -1;
  for (size_t i = 0; i < y.size(); i++) {
    const double share = std::abs(y[i] - e.y[i]) / (e.bound[i] + 1e-300);
    if (!(share <= worst)) worst = share, at = i;
  }
  EXPECT_LE(worst, 1) << what << ": worst at " << at << ", expected " << e.y[at] << ", got "
                      << y[at] << ", bound " << e.bound[at];
}

double half_step(Activations a) {
  return a == Activations::int8 ? 0.5 / 127 : a == Activations::int16 ? 0.5 / (127 * 256) : 0;
}
// Many rows are rounded to bfloat16 where that loses no more than the caller allows: the weights
// always, x where it is not bfloat16 already.
double rounded(Activations a, mx::Dtype dtype, int rows) {
  const bool many = rows > 8 && (dtype == mx::bfloat16 || a == Activations::int8);
  return many ? std::sqrt(2.0) / 256 : 0;
}

TEST(QuantFormats, AgreeWithTheGgufPackage) {
  const io::SafeTensors file(LMXLAB_SOURCE_DIR "/tests/fixtures/quant/blocks.safetensors");
  for (const auto f : test::block_formats()) {
    const std::string name(block_format(f).name);
    const auto w = block_weight(f, file.get(name + ".bytes"));
    const auto values = file.get(name + ".values");
    ASSERT_EQ(values.shape(), (mx::Shape{w.out, w.in})) << name;
    std::vector<float> row(w.in);
    for (int r = 0; r < w.out; r++) {
      dequantize_row(view_of(w), r, row.data());
      for (int k = 0; k < w.in; k++) {
        ASSERT_EQ(row[k], values.data<float>()[r * w.in + k]) << name << " " << r << ", " << k;
      }
    }
    EXPECT_EQ(format_of_ggml(block_format(f).ggml), f);
  }
  EXPECT_FALSE(format_of_ggml(0));
}

TEST(QuantFormats, BlocksInTheAffineFormat) {
  const io::SafeTensors file(LMXLAB_SOURCE_DIR "/tests/fixtures/quant/blocks.safetensors");
  int with_a_form = 0;
  for (const auto f : test::block_formats()) {
    const auto w = block_weight(f, file.get(std::string(block_format(f).name) + ".bytes"));
    if (affine_bits(f) == 0) {
      EXPECT_THROW(to_affine(w), Error) << block_format(f).name;
      continue;
    }
    with_a_form++;
    const auto affine = to_affine(w);
    EXPECT_EQ(affine.bits, affine_bits(f));
    const auto want = numbers_of(w), got = numbers_of(affine);
    ASSERT_EQ(want.size(), got.size());
    for (size_t i = 0; i < want.size(); i++) {
      // scale * (q - 8) became scale * q - 8 * scale: the same but for the order of rounding.
      ASSERT_NEAR(got[i], want[i], 512 * FLT_EPSILON * std::abs(want[i]) + 1e-12)
          << block_format(f).name << " at " << i;
    }
  }
  EXPECT_EQ(with_a_form, 5);
}

TEST(QuantFormats, AffineAgreesWithMlx) {
  for (const auto& w : weights(5, 384)) {
    if (w.format != QuantFormat::affine) continue;
    const auto scales = mx::astype(*w.scales, mx::float32),
               biases = mx::astype(*w.biases, mx::float32);
    const auto expect = doubles(mx::dequantize(w.packed, scales, biases, w.group, w.bits));
    const auto got = numbers_of(w);
    for (size_t i = 0; i < got.size(); i++) {
      ASSERT_NEAR(got[i], expect[i], 2 * FLT_EPSILON * (std::abs(expect[i]) + 4))
          << test::describe(w) << " at " << i;
    }
  }
}

TEST(Quantized, UnpacksEveryFormat) {
  const RestoreIsa restore;
  for (const Isa set : isas()) {
    set_isa(set);
    auto all = weights(3, 2304);  // a chunk and a bit
    for (auto& w : weights(32, 2304)) {
      if (w.interleaved) all.push_back(std::move(w));
    }
    for (const auto& w : all) {
      const auto expect = numbers_of(w);
      std::vector<float> got(expect.size());
      rows_to_numbers(view_of(w), 0, w.out, 0, w.in, Type::f32, got.data());
      double most = 0;
      for (const double v : expect) most = std::max(most, std::abs(v));
      for (size_t i = 0; i < got.size(); i++) {
        // scale * q and the offset are each no larger than 2 most, and rounded once.
        ASSERT_NEAR(got[i], expect[i], 8 * FLT_EPSILON * most)
            << name(set) << " " << test::describe(w) << " at " << i;
      }
    }
  }
}

TEST(Quantized, ProductsAgreeWithDouble) {
  const RestoreIsa restore;
  const mx::Dtype dtypes[] = {mx::float32, mx::bfloat16, mx::float16};
  for (const auto& [in, out] : {std::pair{256, 37}, {256, 48}, {2304, 5}, {2304, 16}}) {
    for (const auto& w : weights(out, in)) {
      const auto numbers = numbers_of(w);
      int turn = 0;
      for (const int rows : {1, 3, 8, 21}) {
        const auto dtype = dtypes[turn++ % 3];
        const auto x = noise({rows, in}, rows, dtype);
        const auto xd = doubles(x);
        for (const auto a : {Activations::int8, Activations::int16, Activations::float32}) {
          const auto e =
              expected(xd, numbers, in, out, half_step(a), rounded(a, dtype, rows), dtype);
          for (const Isa set : isas()) {
            set_isa(set);
            const auto y = quantized_linear(x, w, a);
            ASSERT_EQ(y.dtype(), dtype);
            expect_within(y, e,
                          std::string(name(set)) + " " + test::describe(w) + " rows " +
                              std::to_string(rows) + " in " + std::to_string(in) + " activations " +
                              std::to_string(static_cast<int>(a)));
          }
        }
      }
    }
  }
}

TEST(Quantized, SmallAndOddSizes) {
  for (const int in : {32, 96, 544}) {
    for (const int out : {1, 3, 65, 80}) {
      for (const auto& w : weights(out, in)) {
        const auto numbers = numbers_of(w);
        for (const int rows : {1, 2, 13}) {
          for (const auto dtype : {mx::float32, mx::bfloat16, mx::float16}) {
            const auto x = noise({rows, in}, 7, dtype);
            expect_within(quantized_linear(x, w),
                          expected(doubles(x), numbers, in, out, half_step(Activations::int16),
                                   rounded(Activations::int16, dtype, rows), dtype),
                          test::describe(w));
          }
        }
      }
    }
  }
}

TEST(Quantized, GradientsAgreeWithDouble) {
  const RestoreIsa restore;
  const int in = 768, out = 80;
  for (const auto& w : weights(out, in)) {
    const auto numbers = numbers_of(w);
    std::vector<double> turned(numbers.size());
    for (int o = 0; o < out; o++) {
      for (int k = 0; k < in; k++) turned[size_t(k) * out + o] = numbers[size_t(o) * in + k];
    }
    for (const int rows : {1, 40}) {
      for (const auto dtype : {mx::float32, mx::bfloat16}) {
        const auto x = noise({rows, in}, 1, dtype), g = noise({rows, out}, 2, dtype);
        const auto gd = doubles(g);
        for (const Isa set : {isas().front(), isas().back()}) {
          set_isa(set);
          const auto dx =
              mx::vjp([&](const array& v) { return quantized_linear(v, w); }, x, g).second;
          ASSERT_EQ(dx.dtype(), dtype);
          const auto got = doubles(dx);
          for (int i = 0; i < rows; i++) {
            for (int k = 0; k < in; k++) {
              double sum = 0, squares = 0, size = 0;
              for (int o = 0; o < out; o++) {
                const double p = gd[size_t(i) * out + o] * turned[size_t(k) * out + o];
                sum += p, squares += p * p, size += std::abs(p);
              }
              const double bound = (dtype == mx::bfloat16 ? 6 * std::sqrt(squares / 3) / 256 : 0) +
                                   64 * FLT_EPSILON * (size + out) + epsilon(dtype) * std::abs(sum);
              ASSERT_NEAR(got[size_t(i) * in + k], sum, bound)
                  << name(set) << " " << test::describe(w) << " " << i << ", " << k;
            }
          }
        }
      }
    }
  }
}

TEST(Quantized, WorksInEveryTransformation) {
  const auto ws = {test::random_blocks(QuantFormat::q4_k, 24, 256, 3),
                   test::random_affine(4, 64, mx::bfloat16, 24, 256, 3),
                   interleave(test::random_affine(4, 64, mx::bfloat16, 32, 256, 3)),
                   interleave(test::random_affine(5, 64, mx::bfloat16, 32, 256, 3)),
                   interleave(test::random_blocks(QuantFormat::q8_0, 32, 256, 3)),
                   interleave(test::random_blocks(QuantFormat::q5_0, 32, 256, 3))};
  for (const auto& w : ws) {
    const auto what = test::describe(w);
    const auto x = noise({2, 3, 256}, 1);
    auto f = [&](const Arrays& v) -> Arrays { return {quantized_linear(v[0], w)}; };
    const auto y = f({x})[0];
    EXPECT_EQ(y.shape(), (mx::Shape{2, 3, w.out}));
    auto same = [&](const array& a, const array& b) {
      EXPECT_TRUE(mx::array_equal(a, b).item<bool>()) << what;
    };
    same(mx::compile(f)({x})[0], y);
    same(mx::checkpoint(f)({x})[0], y);
    same(mx::vmap(f)({x})[0], y);
    same(mx::vmap(f, {1})({x})[0], mx::swapaxes(y, 0, 1));
    same(mx::jvp(f, {x}, {x}).second[0], y);
    auto loss = [&](const array& v) { return mx::sum(mx::square(quantized_linear(v, w))); };
    const auto dx = mx::grad(loss)(x);
    same(mx::compile([&](const Arrays& v) -> Arrays { return {mx::grad(loss)(v[0])}; })({x})[0],
         dx);
    // The loss is quadratic: its second derivative along x is its first.
    const auto along = mx::grad([&](const array& v) { return mx::sum(mx::grad(loss)(v) * x); })(x);
    const float size = mx::max(mx::abs(dx)).item<float>();
    EXPECT_LT(mx::max(mx::abs(along - dx)).item<float>(), 1e-3f * size) << what;
  }
}

TEST(Quantized, SeveralAtOnceAreTheSame) {
  const std::vector<QuantizedWeight> ws{test::random_blocks(QuantFormat::q4_1, 24, 256, 1),
                                        test::random_blocks(QuantFormat::q4_1, 7, 256, 2),
                                        test::random_blocks(QuantFormat::q6_k, 5, 256, 3),
                                        test::random_affine(4, 32, mx::float16, 9, 256, 4)};
  for (const int rows : {0, 1, 4, 30}) {
    const auto x = noise({rows, 256}, 1);
    const auto together = quantized_linears(x, ws);
    auto all = [&](const array& v) { return mx::concatenate(quantized_linears(v, ws), -1); };
    auto each = [&](const array& v) {
      Arrays parts;
      for (const auto& w : ws) parts.push_back(quantized_linear(v, w));
      return mx::concatenate(parts, -1);
    };
    ASSERT_EQ(together.size(), ws.size());
    EXPECT_TRUE(mx::array_equal(all(x), each(x)).item<bool>()) << rows;
    const auto t = noise({rows, 45}, 2);
    auto gradient = [&](auto f) {
      return mx::grad([&, f](const array& v) { return mx::sum(f(v) * t); })(x);
    };
    EXPECT_TRUE(mx::allclose(gradient(all), gradient(each), 1e-5, 1e-5).item<bool>()) << rows;
  }
  auto f = [&](const Arrays& v) { return quantized_linears(v[0], ws); };
  const auto x = noise({3, 2, 256}, 1);
  const auto mapped = mx::vmap(f)({x}), plain = f({x});
  for (size_t i = 0; i < ws.size(); i++) {
    EXPECT_TRUE(mx::array_equal(mapped[i], plain[i]).item<bool>()) << i;
  }
  EXPECT_TRUE(quantized_linears(x, {}).empty());
}

TEST(Quantized, ReadsViews) {
  const auto w = test::random_blocks(QuantFormat::q5_1, 20, 96, 3);
  const auto every_second =
      block_weight(QuantFormat::q5_1, mx::slice(w.packed, {0, 0}, {20, w.packed.shape(1)}, {2, 1}));
  const auto x = noise({96, 4}, 1);
  const auto y = quantized_linear(mx::transpose(x), every_second);
  const auto all = quantized_linear(mx::contiguous(mx::transpose(x)), w);
  EXPECT_TRUE(mx::array_equal(y, mx::slice(all, {0, 0}, {4, 20}, {1, 2})).item<bool>());
  const auto a = test::random_affine(5, 32, mx::float16, 20, 96, 3);
  auto half = [](const array& v) { return mx::slice(v, {0, 0}, {20, v.shape(1)}, {2, 1}); };
  const auto b = affine_weight(half(a.packed), half(*a.scales), half(*a.biases), 32, 5);
  EXPECT_TRUE(
      mx::array_equal(quantized_linear(mx::transpose(x), b),
                      mx::slice(quantized_linear(mx::transpose(x), a), {0, 0}, {4, 20}, {1, 2}))
          .item<bool>());
}

TEST(Quantized, EmptyInputs) {
  const auto w = test::random_blocks(QuantFormat::q4_0, 6, 64, 3);
  EXPECT_EQ(quantized_linear(mx::zeros({0, 64}), w).shape(), (mx::Shape{0, 6}));
  EXPECT_EQ(quantized_linear(mx::zeros({2, 0, 64}), w).shape(), (mx::Shape{2, 0, 6}));
  auto y = quantized_linear(mx::zeros({0, 64}), w);
  mx::eval(y);
  const auto none = block_weight(QuantFormat::q4_0, mx::zeros({0, 36}, mx::uint8));
  y = quantized_linear(mx::zeros({3, 64}), none);
  mx::eval(y);
  EXPECT_EQ(y.shape(), (mx::Shape{3, 0}));
  const auto narrow = block_weight(QuantFormat::q4_0, mx::zeros({3, 0}, mx::uint8));
  EXPECT_TRUE(
      mx::array_equal(quantized_linear(mx::zeros({2, 0}), narrow), mx::zeros({2, 3})).item<bool>());
}

// Weights that are there are a part of the op, others its inputs.
TEST(Quantized, WeightsMayBeLazy) {
  const auto there = test::random_affine(4, 64, mx::bfloat16, 40, 128, 3);
  mx::eval(there.packed, *there.scales, *there.biases);
  for (const int rows : {2, 30}) {
    const array one(1.0f, mx::bfloat16);
    const auto lazy =
        affine_weight(mx::add(there.packed, array(0u)), mx::multiply(*there.scales, one),
                      mx::multiply(*there.biases, one), 64, 4);
    const auto x = noise({rows, 128}, 1);
    const auto y = quantized_linear(x, there), z = quantized_linear(x, lazy);
    EXPECT_EQ(y.inputs().size(), 1u);
    EXPECT_EQ(z.inputs().size(), 4u);
    EXPECT_TRUE(mx::array_equal(y, z).item<bool>());
  }
  const auto f = mx::compile([&](const Arrays& in) -> Arrays {
    return {quantized_linear(in[0], affine_weight(in[1], in[2], in[3], 64, 4))};
  });
  const auto x = noise({2, 128}, 1);
  EXPECT_TRUE(mx::array_equal(f({x, there.packed, *there.scales, *there.biases})[0],
                              quantized_linear(x, there))
                  .item<bool>());
}

// `compile` joins equal ops. These share their packed weights, not their scales.
TEST(Quantized, WeightsAreTheirScalesToo) {
  const auto a = test::random_affine(4, 64, mx::float32, 40, 128, 3);
  const auto doubled = mx::multiply(*a.scales, array(2.0f));
  mx::eval(a.packed, *a.scales, *a.biases, doubled);
  const auto b = affine_weight(a.packed, doubled, *a.biases, 64, 4);
  const auto both = [&](const Arrays& in) -> Arrays {
    return {mx::subtract(quantized_linear(in[0], b), quantized_linear(in[0], a))};
  };
  const auto x = noise({2, 128}, 1);
  EXPECT_TRUE(mx::array_equal(mx::compile(both)({x})[0], both({x})[0]).item<bool>());
  EXPECT_GT(mx::max(mx::abs(both({x})[0])).item<float>(), 0);
}

TEST(Quantized, TheSameBitsEachTime) {
  const auto w = test::random_blocks(QuantFormat::q4_1, 301, 576, 3);
  for (const int rows : {1, 5, 30}) {
    const auto x = noise({rows, 576}, 1);
    auto run = [&](int n) {
      set_threads(n);
      auto y = quantized_linear(x, w);
      mx::eval(y);
      return y;
    };
    const auto one = run(1), two = run(2), again = run(2), five = run(5);
    set_threads(0);
    EXPECT_TRUE(mx::array_equal(one, two).item<bool>()) << rows;
    EXPECT_TRUE(mx::array_equal(two, again).item<bool>()) << rows;
    EXPECT_TRUE(mx::array_equal(one, five).item<bool>()) << rows;
  }
}

// Of every format and instruction set, also where a piece of a prompt would be rounded.
TEST(Quantized, ARowAloneHasTheBitsThatItHasAmongOthers) {
  const RestoreIsa restore;
  const OneOrder order;
  for (const auto& w : weights(48, 2304)) {
    const auto x = noise({150, 2304}, 1);
    for (const Isa set : isas()) {
      set_isa(set);
      const auto all = quantized_linear(x, w, Activations::bf16);
      mx::eval(all);
      for (const auto& [first, last] : {std::pair{0, 1}, {1, 4}, {4, 12}, {12, 70}, {149, 150}}) {
        const auto rows = [&, from = first, to = last](const array& a) {
          return mx::contiguous(mx::slice(a, {from, 0}, {to, a.shape(1)}));
        };
        ASSERT_TRUE(mx::array_equal(quantized_linear(rows(x), w), rows(all)).item<bool>())
            << name(set) << " " << test::describe(w) << " rows " << first << " to " << last;
      }
    }
  }
}

TEST(Quantized, NumbersThatAreNone) {
  const RestoreIsa restore;
  const auto w = test::random_blocks(QuantFormat::q8_0, 9, 64, 3);
  for (const float bad : {std::nanf(""), INFINITY, -INFINITY}) {
    for (const Isa set : isas()) {
      set_isa(set);
      auto x = mx::ones({2, 64});
      x = mx::slice_update(x, array({bad}, {1, 1}), mx::Shape{1, 40}, mx::Shape{2, 41});
      const auto y = quantized_linear(x, w);
      EXPECT_TRUE(mx::all(mx::isnan(mx::slice(y, {1, 0}, {2, 9}))).item<bool>()) << bad;
      EXPECT_TRUE(mx::all(mx::isfinite(mx::slice(y, {0, 0}, {1, 9}))).item<bool>()) << bad;
    }
  }
  const auto tiny = mx::full({1, 64}, 1e-38f);
  EXPECT_TRUE(mx::all(mx::abs(quantized_linear(tiny, w)) < array(1e-30f)).item<bool>());
}

TEST(Quantized, LooksUpRows) {
  auto all_weights = weights(11, 256);
  for (auto& w : weights(16, 256)) all_weights.push_back(std::move(w));
  for (const auto& w : all_weights) {
    const auto ids = array({3, 0, -1, 10, 3, 7}, {2, 3});
    for (const auto dtype : {mx::float32, mx::bfloat16, mx::float16}) {
      const auto rows = dequantize_rows(w, ids, dtype);
      ASSERT_EQ(rows.shape(), (mx::Shape{2, 3, 256}));
      ASSERT_EQ(rows.dtype(), dtype);
      const auto got = doubles(rows), all = numbers_of(w);
      const int at[] = {3, 0, w.out - 1, 10, 3, 7};
      double most = 0;
      for (const double v : all) most = std::max(most, std::abs(v));
      for (size_t i = 0; i < got.size(); i++) {
        const double e = all[size_t(at[i / 256]) * 256 + i % 256];
        ASSERT_NEAR(got[i], e, 8 * FLT_EPSILON * most + epsilon(dtype) * std::abs(e))
            << test::describe(w) << " at " << i;
      }
    }
  }
  const auto w = test::random_blocks(QuantFormat::q4_0, 11, 64, 3);
  const auto ids = array({1, 2, 3, 4}, {2, 2});
  auto f = [&](const Arrays& v) -> Arrays { return {dequantize_rows(w, v[0], mx::float32)}; };
  EXPECT_TRUE(mx::array_equal(mx::vmap(f)({ids})[0], f({ids})[0]).item<bool>());
  EXPECT_EQ(dequantize_rows(w, mx::zeros({0}, mx::int64), mx::float32).shape(), (mx::Shape{0, 64}));
  for (const int id : {11, -12}) {
    auto bad = dequantize_rows(w, array({id}), mx::float32);
    EXPECT_ANY_THROW({
      mx::eval(bad);
      mx::synchronize();
    });
  }
}

TEST(Quantized, PlainFormsAgree) {
  const auto plain = [](const array& y) {
    return dynamic_cast<const Op&>(y.primitive()).plain(y.inputs())[0];
  };
  for (const auto& w : weights(32, 256)) {
    const auto numbers = numbers_of(w);
    for (const auto dtype : {mx::float32, mx::bfloat16}) {
      const auto x = noise({12, 256}, 1, dtype);
      const auto y = plain(quantized_linear(x, w));
      ASSERT_EQ(y.dtype(), dtype);
      // In bfloat16 MLX rounds the weights, and the sums after every few products.
      const double r = dtype == mx::bfloat16 ? 16.0 / 256 : 0;
      expect_within(y, expected(doubles(x), numbers, 256, 32, 0, r, dtype), test::describe(w));
    }
    const auto rows = dequantize_rows(w, array({5, 31}), mx::float32);
    EXPECT_TRUE(mx::allclose(plain(rows), rows, 1e-6, 1e-6).item<bool>()) << test::describe(w);
  }
}

TEST(Quantized, InterleavedIsAPermutation) {
  const RestoreIsa restore;
  for (const int bits : {2, 3, 4, 5, 6, 8}) {
    const auto w = test::random_affine(bits, 64, mx::float16, 48, 192, 7);
    const auto tiles = interleave(w), back = separate(tiles);
    EXPECT_EQ(interleave(tiles).packed.id(), tiles.packed.id());
    EXPECT_EQ(separate(w).packed.id(), w.packed.id());
    EXPECT_EQ(tiles.packed.shape(), w.packed.shape());
    EXPECT_FALSE(mx::array_equal(tiles.packed, w.packed).item<bool>());
    for (const auto& [a, b] :
         {std::pair{back.packed, w.packed}, {*back.scales, *w.scales}, {*back.biases, *w.biases}}) {
      EXPECT_TRUE(mx::array_equal(a, b).item<bool>()) << bits;
    }
    EXPECT_EQ(numbers_of(tiles), numbers_of(w)) << bits;
    // Word 0 of row 17 lies behind that of row 16: the second of the second tile.
    const int row = w.packed.shape(1);
    mx::eval(tiles.packed);
    auto word = w.packed.data<uint32_t>()[17 * row];
    if (bits == 5) {
      uint32_t words[FiveBits::kWords], back_again[FiveBits::kWords];
      FiveBits::cut(w.packed.data<uint32_t>() + 17 * row, words);
      FiveBits::join(words, back_again);
      EXPECT_EQ(back_again[0], word);
      word = words[0];
    }
    EXPECT_EQ(tiles.packed.data<uint32_t>()[16 * row + 1], word);
    // What says it is faster has a kernel of its own; 3 and 6 bits cross words.
    set_isa(isas().back());
    const auto kernel = dot_kernel(view_of(tiles), Activations::int16);
    EXPECT_EQ(faster_interleaved(w), kernel.in_place);
    if (bits == 3 || bits == 6) {
      EXPECT_FALSE(faster_interleaved(w));
    }
    set_isa(isas().front());
    EXPECT_FALSE(faster_interleaved(w));
  }
  const auto w = test::random_affine(4, 32, mx::float32, 24, 64, 3);
  EXPECT_THROW(interleave(w), Error);
  EXPECT_THROW(affine_weight(w.packed, *w.scales, *w.biases, 32, 4, true), Error);
  EXPECT_THROW(interleave(test::random_blocks(QuantFormat::q6_k, 16, 256, 3)), Error);
  EXPECT_FALSE(faster_interleaved(w));
}

// Their biases are multiples of their scales: the tiles of such blocks have none.
TEST(Quantized, SymmetricTilesHaveNoBiases) {
  int symmetric = 0;
  for (const auto f : test::block_formats()) {
    if (affine_bits(f) == 0) continue;
    const auto w = test::random_blocks(f, 32, 96, 3);
    const auto tiles = interleave(w), affine = to_affine(w), apart = separate(tiles);
    EXPECT_EQ(tiles.biases.has_value(), !is_symmetric(f));
    symmetric += is_symmetric(f);
    EXPECT_EQ(numbers_of(tiles), numbers_of(affine)) << block_format(f).name;
    for (const auto& [a, b] : {std::pair{apart.packed, affine.packed},
                               {*apart.scales, *affine.scales},
                               {*apart.biases, *affine.biases}}) {
      EXPECT_TRUE(mx::array_equal(a, b).item<bool>()) << block_format(f).name;
    }
  }
  EXPECT_EQ(symmetric, 3);
  const auto w = test::random_affine(4, 32, mx::float32, 32, 64, 3);
  EXPECT_THROW(affine_weight(w.packed, *w.scales, {}, 32, 4), Error);
}

TEST(Quantized, StripsOfRowsAreTheWhole) {
  for (const auto& w : weights(48, 256)) {
    if (w.interleaved || (w.format != QuantFormat::affine && affine_bits(w.format) == 0)) continue;
    const auto whole = interleave(w);
    EXPECT_EQ(whole.scales->dtype(), affine_dtype(w));
    const auto a = interleave(some_rows(w, 0, 16)), b = interleave(some_rows(w, 16, 48));
    const auto same = [&](const array& x, const array& y, const array& all) {
      EXPECT_TRUE(mx::array_equal(mx::concatenate({x, y}, 0), all).item<bool>())
          << test::describe(w);
    };
    same(a.packed, b.packed, whole.packed);
    same(*a.scales, *b.scales, *whole.scales);
    ASSERT_EQ(a.biases.has_value(), whole.biases.has_value());
    if (whole.biases) same(*a.biases, *b.biases, *whole.biases);
  }
}

TEST(Quantized, WrongShapesAreErrors) {
  const auto w = test::random_blocks(QuantFormat::q4_0, 6, 64, 3);
  EXPECT_THROW(quantized_linear(mx::ones({2, 63}), w), Error);
  EXPECT_THROW(quantized_linear(array(1.0f), w), Error);
  EXPECT_THROW(block_weight(QuantFormat::q4_0, mx::zeros({2, 37}, mx::uint8)), Error);
  EXPECT_THROW(block_weight(QuantFormat::q4_0, mx::zeros({36}, mx::uint8)), Error);
  EXPECT_THROW(block_weight(QuantFormat::affine, mx::zeros({2, 36}, mx::uint8)), Error);
  const auto a = test::random_affine(4, 32, mx::float32, 6, 64, 3);
  EXPECT_THROW(affine_weight(a.packed, *a.scales, *a.biases, 64, 4), Error);
  EXPECT_THROW(affine_weight(a.packed, *a.scales, *a.biases, 32, 7), Error);
  EXPECT_THROW(affine_weight(a.packed, *a.scales, *a.biases, 16, 4), Error);
  EXPECT_THROW(affine_weight(mx::astype(a.packed, mx::int32), *a.scales, *a.biases, 32, 4), Error);
  EXPECT_THROW(affine_weight(a.packed, *a.scales, mx::zeros({6, 1}), 32, 4), Error);
  EXPECT_THROW(dequantize_rows(w, array({1}), mx::int32), Error);
}

}  // namespace
}  // namespace lmxlab::kernels
