#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "lmxlab/base/error.h"
#include "lmxlab/kernels/attention.h"
#include "lmxlab/kernels/fused.h"
#include "lmxlab/kernels/isa.h"
#include "lmxlab/kernels/quant_formats.h"
#include "lmxlab/kernels/thread_pool.h"
#include "tests/kernels/attention_reference.h"

namespace lmxlab::kernels {
namespace {

struct Format {
  int bits, group;
};

QuantizedKeys quantized(const array& x, Format f) {
  const auto parts = mx::quantize(x, f.group, f.bits);
  return {parts[0], parts[1], parts[2], f.group, f.bits};
}

// In ordinary ops, in float32.
array numbers_of(const QuantizedKeys& x) {
  return mx::dequantize(x.packed, mx::astype(x.scales, mx::float32),
                        mx::astype(x.biases, mx::float32), x.group, x.bits);
}

// In double. A number's error is one of scale u and of the bias, which may cancel.
KeyNumbers exact(const QuantizedKeys& x) {
  auto packed = mx::contiguous(x.packed);
  auto scales = mx::contiguous(mx::astype(x.scales, mx::float32));
  auto biases = mx::contiguous(mx::astype(x.biases, mx::float32));
  mx::eval(packed, scales, biases);
  const int64_t groups = x.scales.shape(3), width = groups * x.group;
  QuantView view{QuantFormat::affine, groups > 0 ? static_cast<int64_t>(scales.size()) / groups : 0,
                 width, packed.data<uint8_t>()};
  view.bits = x.bits, view.group = x.group;
  view.scales = scales.data<float>(), view.biases = biases.data<float>();
  std::vector<double> value(static_cast<size_t>(view.out * width)), size(value.size());
  for (int64_t r = 0; r < view.out; r++) dequantize_row(view, r, value.data() + r * width);
  for (size_t i = 0; i < value.size(); i++) {
    const double bias = biases.data<float>()[i / static_cast<size_t>(x.group)];
    size[i] = std::abs(value[i] - bias) + std::abs(bias);
  }
  return {std::move(value), std::move(size)};
}

struct Inputs {
  array q, cotangent;
  QuantizedKeys k, v;

  Inputs(const Case& c, mx::Dtype dtype, mx::Dtype scales, Format key, Format value)
      : Inputs(c.inputs(dtype), scales, key, value) {}
  Inputs(const Arrays& in, mx::Dtype scales, Format key, Format value)
      : q(in[0]),
        cotangent(in[3]),
        k(quantized(mx::astype(in[1], scales), key)),
        v(quantized(mx::astype(in[2], scales), value)) {}

  array result(const Case& c) const { return quantized_attention(q, k, v, c.scale, c.full_mask()); }
  Reference reference(const Case& c) const {
    return Reference(c, q, exact(k), exact(v), cotangent);
  }
};

const std::vector<Case>& cases() {
  const AttentionMask causal{.causal = true};
  static const std::vector<Case> all{
      {1, 9, 3, 1, 333, 64, 64, causal},
      {2, 6, 2, 1, 77, 128, 128, causal},
      {2, 4, 4, 3, 130, 128, 384, causal},                          // no shared heads, wide values
      {1, 8, 1, 8, 70, 128, 128, causal},                           // 64 queries of a head
      {1, 5, 1, 7, 200, 128, 128, causal},                          // and no multiple of any group
      {2, 4, 2, 2, 300, 128, 128, {.causal = true, .window = 90}},  // begins within a chunk
      {1, 4, 2, 5, 65, 128, 128, {.causal = true, .window = 20, .softcap = 5}},
      {3, 2, 1, 2, 100, 128, 128, causal, 0.3f, {0, 70, 100}},  // a row that is padding throughout
      {2, 2, 1, 4, 90, 128, 128, {}, -0.4f, {3, 80}},           // a negative scale, all keys seen
      {1, 1, 1, 1, 1, 128, 128},
  };
  return all;
}

class QuantizedAttention : public ::testing::Test {
 protected:
  void TearDown() override {
    set_isa(isas().back());
    set_threads(0);
    set_fused(true);
  }
};

TEST_F(QuantizedAttention, AgreesWithDouble) {
  const std::vector<std::pair<Format, Format>> formats{
      {{8, 64}, {8, 64}}, {{4, 32}, {4, 32}}, {{8, 32}, {4, 64}}, {{4, 64}, {8, 128}}};
  for (const auto& c : cases()) {
    int which = 0;
    for (const auto dtype : {mx::float32, mx::bfloat16, mx::float16}) {
      for (const auto& [key, value] : formats) {
        if (c.width % key.group != 0 || c.value % value.group != 0) continue;
        // Scales of every type, with every type of queries, over all cases.
        const auto scales = std::vector{mx::float32, mx::bfloat16, mx::float16}[which++ % 3];
        const Inputs in(c, dtype, scales, key, value);
        const auto expected = in.reference(c);
        for (const Isa isa : isas()) {
          set_isa(isa);
          const auto got = in.result(c);
          EXPECT_EQ(got.dtype(), dtype);
          expect_near(got, expected.out, expected.error + (dtype == mx::float32 ? 0 : eps(dtype)),
                      c.what() + ", bits " + std::to_string(key.bits) + " and " +
                          std::to_string(value.bits) + ", " + std::string(name(isa)));
          if (HasFailure()) return;
        }
      }
    }
  }
}

TEST_F(QuantizedAttention, OrdinaryOpsAgreeAndGiveTheGradient) {
  for (const auto& c : cases()) {
    const Inputs in(c, mx::float32, mx::float32, {8, 64}, {4, 64});
    const auto expected = in.reference(c);
    const auto f = [&](const Arrays& x) -> Arrays {
      return {quantized_attention(x[0], in.k, in.v, c.scale, c.full_mask())};
    };
    const auto [out, slope] = mx::jvp(f, {in.q}, {mx::ones_like(in.q)});
    expect_near(out[0], expected.out, expected.error, c.what() + ": plain");
    for (const bool on : {true, false}) {
      set_fused(on);
      expect_near(in.result(c), expected.out, expected.error, c.what() + ": fused or not");
      const auto gradient = mx::vjp(f, {in.q}, {in.cotangent}).second[0];
      expect_near(gradient, expected.dq, 2 * expected.error, c.what() + ": dq");
    }
  }
}

TEST_F(QuantizedAttention, ManyQueriesAndOtherBitsAreDequantized) {
  for (const auto dtype : {mx::float32, mx::bfloat16}) {
    for (const auto& [queries, bits] : {std::pair{40, 8}, {40, 4}, {1, 6}, {3, 3}}) {
      const Case c{1, 4, 2, queries, 90, 64, 64, {.causal = true, .window = 30}};
      const Inputs in(c, dtype, dtype, {bits, 32}, {8, 64});
      const auto number = [&](const QuantizedKeys& x) { return mx::astype(numbers_of(x), dtype); };
      const auto expected = attention(in.q, number(in.k), number(in.v), c.scale, c.mask);
      EXPECT_TRUE(mx::array_equal(in.result(c), expected).item<bool>()) << queries << " " << bits;
    }
  }
}

TEST_F(QuantizedAttention, ReadsACacheWhereItLies) {
  const Case c{2, 4, 2, 2, 100, 128, 128, {.causal = true}};
  const Inputs in(c, mx::float32, mx::bfloat16, {8, 64}, {4, 32});
  const auto changed = [](const QuantizedKeys& x, const std::function<array(const array&)>& f) {
    return QuantizedKeys{f(x.packed), f(x.scales), f(x.biases), x.group, x.bits};
  };
  // The first rows of a longer buffer, the last rows of one, rows of all heads side by side, and
  // the words of a row apart.
  const auto first = [](const array& a) {
    const auto all = mx::concatenate({a, mx::full(a.shape(), array(7, a.dtype()))}, 2);
    return mx::slice(all, {0, 0, 0, 0}, a.shape());
  };
  const auto last = [](const array& a) {
    const auto all = mx::concatenate({mx::full(a.shape(), array(7, a.dtype())), a}, 2);
    auto begin = mx::Shape(4, 0);
    begin[2] = a.shape(2);
    return mx::slice(all, begin, all.shape());
  };
  const auto beside = [](const array& a) {
    return mx::transpose(mx::contiguous(mx::transpose(a, {0, 2, 1, 3})), {0, 2, 1, 3});
  };
  const auto apart = [](const array& a) {
    return mx::swapaxes(mx::contiguous(mx::swapaxes(a, 1, 3)), 1, 3);
  };
  const auto expected = in.result(c);
  for (const auto& f :
       std::vector<std::function<array(const array&)>>{first, last, beside, apart}) {
    Inputs other = in;
    other.k = changed(in.k, f);
    other.v = changed(in.v, f);
    EXPECT_TRUE(mx::array_equal(other.result(c), expected).item<bool>());
  }
  Inputs other = in;
  other.q = beside(in.q);
  EXPECT_TRUE(mx::array_equal(other.result(c), expected).item<bool>());
  auto joined = mx::transpose(other.result(c), {0, 2, 1, 3});
  mx::eval(joined);
  EXPECT_TRUE(joined.flags().row_contiguous);
}

TEST_F(QuantizedAttention, SameBitsEachTime) {
  const Case c{1, 2, 1, 1, 5000, 64, 64, {.causal = true}};
  const Inputs in(c, mx::bfloat16, mx::bfloat16, {8, 64}, {8, 64});
  set_threads(3);  // the keys are cut into pieces
  const auto first = in.result(c);
  for (int again = 0; again < 3; again++) {
    EXPECT_TRUE(mx::array_equal(in.result(c), first).item<bool>());
  }
}

TEST_F(QuantizedAttention, WorksInEveryTransformation) {
  const Case c{2, 4, 2, 3, 33, 64, 64, {.causal = true}};
  const Inputs in(c, mx::float32, mx::float32, {8, 64}, {4, 64});
  const auto f = [&](const Arrays& x) -> Arrays {
    return {quantized_attention(x[0], {x[1], x[2], x[3], 64, 8}, {x[4], x[5], x[6], 64, 4}, c.scale,
                                c.mask)};
  };
  const Arrays all{in.q,        in.k.packed, in.k.scales, in.k.biases,
                   in.v.packed, in.v.scales, in.v.biases};
  const auto expected = in.result(c);
  EXPECT_TRUE(mx::array_equal(mx::compile(f)(all)[0], expected).item<bool>());
  EXPECT_TRUE(mx::array_equal(mx::checkpoint(f)(all)[0], expected).item<bool>());
  const auto rows = mx::vmap([&](const Arrays& x) -> Arrays {
    Arrays one;
    for (const auto& a : x) one.push_back(mx::expand_dims(a, 0));
    return {mx::squeeze(f(one)[0], 0)};
  })(all)[0];
  const auto reference = in.reference(c);
  expect_near(rows, reference.out, reference.error, "vmap");
}

TEST_F(QuantizedAttention, EmptyInputs) {
  for (const auto& c : {Case{0, 2, 1, 3, 5, 64, 32}, Case{2, 2, 1, 0, 5, 64, 32, {.causal = true}},
                        Case{2, 2, 1, 3, 0, 64, 32}, Case{1, 2, 1, 80, 0, 64, 32}}) {
    const auto empty = [&](int width) {
      const auto scales = mx::zeros({c.batch, c.groups, c.keys, width / 32});
      return QuantizedKeys{mx::zeros({c.batch, c.groups, c.keys, width / 4}, mx::uint32), scales,
                           scales, 32, 8};
    };
    const auto q = mx::ones({c.batch, c.heads, c.queries, c.width});
    const auto got = quantized_attention(q, empty(c.width), empty(c.value), 1, c.mask);
    EXPECT_EQ(got.shape(), (mx::Shape{c.batch, c.heads, c.queries, c.value})) << c.what();
    EXPECT_FALSE(mx::any(got).item<bool>()) << c.what();
  }
}

TEST_F(QuantizedAttention, HoldsNoDequantizedKeys) {
  const Case c{1, 8, 4, 2, 8192, 64, 64, {.causal = true}};
  const Inputs in(c, mx::float32, mx::float32, {8, 64}, {8, 64});
  in.result(c).eval();
  const auto before = mx::get_active_memory();
  mx::reset_peak_memory();
  in.result(c).eval();
  EXPECT_LT(mx::get_peak_memory() - before, size_t{256} << 10);  // dequantized 16 MiB
}

TEST_F(QuantizedAttention, WhatDoesNotFitIsAnError) {
  const Case c{1, 4, 2, 2, 10, 64, 64};
  const Inputs in(c, mx::float32, mx::float32, {8, 64}, {8, 64});
  const auto with_k = [&](QuantizedKeys k, AttentionMask mask = {}) {
    return quantized_attention(in.q, k, in.v, 1, mask);
  };
  EXPECT_NO_THROW(with_k(in.k));
  EXPECT_THROW(with_k({in.k.packed, in.k.scales, in.k.biases, 32, 8}), Error);
  EXPECT_THROW(with_k({in.k.packed, in.k.scales, in.k.biases, 64, 4}), Error);
  EXPECT_THROW(with_k({in.k.packed, in.k.scales, in.k.biases, 64, 0}), Error);
  EXPECT_THROW(with_k({in.k.packed, in.k.scales, in.k.biases, 16, 8}), Error);
  EXPECT_THROW(with_k({mx::astype(in.k.packed, mx::int32), in.k.scales, in.k.biases, 64, 8}),
               Error);
  EXPECT_THROW(with_k({in.k.packed, mx::astype(in.k.scales, mx::float16), in.k.biases, 64, 8}),
               Error);
  EXPECT_THROW(with_k({in.k.packed, mx::ones({1, 2, 9, 1}), in.k.biases, 64, 8}), Error);
  EXPECT_THROW(with_k(quantized(mx::ones({1, 2, 9, 64}), {8, 64})), Error);
  EXPECT_THROW(with_k(quantized(mx::ones({1, 2, 10, 128}), {8, 64})), Error);
  EXPECT_THROW(with_k(in.k, {.window = 3}), Error);
  EXPECT_THROW(with_k(in.k, {.padding = array({1, 2}, mx::int32)}), Error);
}

}  // namespace
}  // namespace lmxlab::kernels
