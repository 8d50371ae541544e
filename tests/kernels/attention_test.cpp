#include "lmxlab/kernels/attention.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <cmath>
#include <string>
#include <vector>

#include "lmxlab/base/error.h"
#include "lmxlab/kernels/isa.h"
#include "lmxlab/kernels/thread_pool.h"
#include "tests/kernels/attention_reference.h"
#include "tests/kernels/close.h"

namespace lmxlab::kernels {
namespace {

Arrays own_results(const Case& c, const Arrays& in) {
  const auto f = [&](const Arrays& x) -> Arrays {
    return {attention(x[0], x[1], x[2], c.scale, c.full_mask())};
  };
  auto [out, gradients] = mx::vjp(f, {in[0], in[1], in[2]}, {in[3]});
  Arrays all{out[0], gradients[0], gradients[1], gradients[2]};
  mx::eval(all);
  return all;
}

// Where each query's text begins, of rows that hold texts of such lengths.
std::vector<int> texts(const std::vector<std::vector<int>>& rows) {
  std::vector<int> first;
  for (const auto& row : rows) {
    int at = 0;
    for (const int n : row) first.insert(first.end(), static_cast<size_t>(n), at), at += n;
  }
  return first;
}

const std::vector<Case>& cases() {
  const AttentionMask causal{.causal = true};
  static const std::vector<Case> all{
      {2, 4, 2, 37, 37, 20, 12, causal},
      {1, 2, 2, 64, 64, 64, 64, causal},
      {2, 3, 1, 33, 70, 17, 40},         // widths without a whole vector
      {1, 2, 1, 70, 600, 8, 8, causal},  // more keys than a block of scores
      {1, 1, 1, 90, 700, 16, 8, {.causal = true, .window = 50}},    // blocks before the window
      {1, 1, 1, 1100, 1100, 4, 4, {.causal = true, .window = 70}},  // more queries than a segment
      {2, 6, 2, 7, 300, 16, 24, causal},                            // heads that share a strip
      {2, 6, 2, 1, 333, 70, 37, causal},                            // one query at a time
      {1, 4, 4, 3, 130, 64, 64, {.causal = true, .window = 20, .softcap = 5}},
      {1, 2, 1, 40, 90, 32, 16, {.causal = true, .softcap = 3}},
      {3, 2, 1, 40, 50, 16, 8, causal, 0.3f, {0, 7, 50}},  // a row that is padding throughout
      {3, 2, 1, 2, 50, 16, 8, causal, 0.3f, {0, 7, 50}},
      {2, 1, 1, 20, 30, 16, 8, {}, -0.4f, {3, 29}},  // a negative scale
      {2, 4, 2, 37, 37, 20, 12, causal, 0.3f, texts({{5, 1, 20, 11}, {37}})},
      {1, 2, 1, 600, 600, 8, 8, causal, 0.3f, texts({{130, 70, 1, 399}})},
      {1, 1, 1, 300, 300, 4, 4, {.causal = true, .window = 40}, 0.3f, texts({{90, 20, 190}})},
      {2, 2, 1, 3, 3, 16, 8, causal, 0.3f, texts({{1, 2}, {1, 1, 1}})},
      {1, 1, 1, 1, 1, 1, 1},
  };
  return all;
}

class Attention : public ::testing::Test {
 protected:
  void TearDown() override {
    set_isa(isas().back());
    set_threads(0);
  }
};

TEST_F(Attention, ValueAndGradientsAgreeWithDouble) {
  for (const auto dtype : {mx::float32, mx::bfloat16, mx::float16}) {
    for (const auto& c : cases()) {
      const auto in = c.inputs(dtype);
      const Reference expected(c, in);
      for (const Isa isa : isas()) {
        set_isa(isa);
        const auto what =
            c.what() + ", " + std::string(name(isa)) + ", eps " + std::to_string(eps(dtype));
        const auto got = own_results(c, in);
        // Half types round the result; bfloat16 its weights and their gradient too, and delta comes
        // from the rounded output.
        const double half = dtype == mx::float32 ? 0 : eps(dtype);
        expect_near(got[0], expected.out, expected.error + 2 * half, what + ": output");
        expect_near(got[1], expected.dq, 2 * expected.error + 3 * half, what + ": dq");
        expect_near(got[2], expected.dk, 2 * expected.error + 3 * half, what + ": dk");
        expect_near(got[3], expected.dv, expected.error + 2 * half, what + ": dv");
        if (HasFailure()) return;
      }
    }
  }
}

TEST_F(Attention, OrdinaryOpsAgree) {
  for (const auto& c : cases()) {
    const auto in = c.inputs(mx::float32);
    const Reference expected(c, in);
    const auto f = [&](const Arrays& x) -> Arrays {
      return {attention(x[0], x[1], x[2], c.scale, c.full_mask())};
    };
    // Forward mode goes through them: the value of jvp, and its derivative against the gradient's.
    const Arrays primals{in[0], in[1], in[2]};
    Arrays tangents;
    for (const auto& a : primals) tangents.push_back(noise(a.shape(), 9));
    const auto [out, slope] = mx::jvp(f, primals, tangents);
    const auto got = own_results(c, in);
    double along = mx::sum(slope[0] * in[3]).item<float>(), own = 0, size = 0;
    for (int i = 0; i < 3; i++) {
      own += mx::sum(got[i + 1] * tangents[i]).item<float>();
      const auto& sums = i == 0 ? expected.dq : i == 1 ? expected.dk : expected.dv;
      const auto t = doubles(tangents[i]);
      for (size_t j = 0; j < t.size(); j++) size += sums.size[j] * std::abs(t[j]);
    }
    EXPECT_LE(std::abs(along - own), 4 * expected.error * size) << c.what();
    expect_near(out[0], expected.out, expected.error, c.what() + ": plain");
  }
}

TEST_F(Attention, ReadsViewsAndWritesForTheNextProjection) {
  const Case c{2, 4, 2, 40, 40, 16, 16, {.causal = true}};
  const auto dense = c.inputs(mx::float32);
  const auto expected = own_results(c, dense);
  // As projections give them: [B, L, H, D], transposed.
  const auto transposed = [](const array& a) {
    return mx::transpose(mx::contiguous(mx::transpose(a, {0, 2, 1, 3})), {0, 2, 1, 3});
  };
  // As a cache gives them: the first columns of a longer buffer.
  const auto cached = [](const array& a) {
    auto shape = a.shape();
    const auto all = mx::concatenate({a, mx::full(shape, array(NAN))}, 2);
    return mx::slice(all, {0, 0, 0, 0}, shape);
  };
  // The elements of a head apart.
  const auto scattered = [](const array& a) {
    return mx::swapaxes(mx::contiguous(mx::swapaxes(a, 1, 3)), 1, 3);
  };
  const auto compare = [&](const Arrays& in, const std::string& what) {
    const auto got = own_results(c, in);
    for (size_t i = 0; i < got.size(); i++) {
      EXPECT_TRUE(mx::array_equal(got[i], expected[i]).item<bool>()) << what << " " << i;
      auto joined = mx::transpose(got[i], {0, 2, 1, 3});
      mx::eval(joined);
      EXPECT_TRUE(joined.flags().row_contiguous) << what << " " << i;
    }
  };
  Arrays in;
  for (const auto& a : dense) in.push_back(transposed(a));
  compare(in, "transposed");
  compare({dense[0], cached(dense[1]), cached(dense[2]), dense[3]}, "cached");
  in.clear();
  for (const auto& a : dense) in.push_back(scattered(a));
  compare(in, "scattered");

  const auto ones = mx::broadcast_to(array(1.0f), dense[3].shape());
  const auto with_ones = own_results(c, {dense[0], dense[1], dense[2], ones});
  const auto with_dense = own_results(c, {dense[0], dense[1], dense[2], mx::ones(ones.shape())});
  for (size_t i = 1; i < 4; i++) {
    EXPECT_TRUE(mx::array_equal(with_ones[i], with_dense[i]).item<bool>()) << i;
  }
}

// Gradients are written over q, k and v that nobody else holds.
TEST_F(Attention, GradientsInPlaceAreTheSame) {
  for (const auto dtype : {mx::float32, mx::bfloat16}) {
    for (const auto& c : cases()) {
      const auto in = c.inputs(dtype);
      const auto gradients = [&](bool held) {
        Arrays qkv;
        for (int i = 0; i < 3; i++) {  // as a projection lies in memory
          qkv.push_back(mx::swapaxes(mx::contiguous(mx::swapaxes(in[i], 1, 2)), 1, 2));
        }
        const auto f = [&](const Arrays& x) -> Arrays {
          return {attention(x[0], x[1], x[2], c.scale, c.full_mask())};
        };
        Arrays all = mx::vjp(f, qkv, {in[3]}).second;
        if (!held) qkv.clear();
        mx::eval(all);
        return all;
      };
      const auto kept = gradients(true), given = gradients(false);
      for (int i = 0; i < 3; i++)
        EXPECT_TRUE(mx::array_equal(kept[i], given[i]).item<bool>()) << c.what() << " " << i;
    }
  }
}

TEST_F(Attention, SameBitsEachTime) {
  for (const auto& c : {Case{1, 2, 1, 300, 700, 16, 16, {.causal = true}},
                        Case{1, 2, 1, 1, 5000, 16, 16, {.causal = true}}}) {
    for (const auto dtype : {mx::float32, mx::bfloat16}) {
      const auto in = c.inputs(dtype);
      set_threads(3);  // the keys are cut into pieces
      const auto first = own_results(c, in);
      for (int again = 0; again < 3; again++) {
        const auto second = own_results(c, in);
        for (size_t i = 0; i < first.size(); i++) {
          EXPECT_TRUE(mx::array_equal(first[i], second[i]).item<bool>()) << c.what() << ": " << i;
        }
      }
    }
  }
}

TEST_F(Attention, WorksInEveryTransformation) {
  const Case c{2, 4, 2, 20, 33, 16, 8, {.causal = true}};
  const auto in = c.inputs(mx::float32);
  const Reference expected(c, in);
  const auto own = [&](const Arrays& x) -> Arrays {
    return {attention(x[0], x[1], x[2], c.scale, c.mask)};
  };
  const auto mlx = [&](const Arrays& x) -> Arrays {
    return {mx::fast::scaled_dot_product_attention(x[0], x[1], x[2], c.scale, "causal")};
  };
  const Arrays primals{in[0], in[1], in[2]};
  EXPECT_TRUE(mx::array_equal(mx::compile(own)(primals)[0], own(primals)[0]).item<bool>());
  EXPECT_TRUE(mx::array_equal(mx::checkpoint(own)(primals)[0], own(primals)[0]).item<bool>());
  const auto gradients = [&](const std::function<Arrays(const Arrays&)>& f) {
    return mx::grad([&](const Arrays& x) { return mx::sum(f(x)[0] * in[3]); }, {0, 1, 2})(primals);
  };
  const auto direct = own_results(c, in);
  for (const auto& f : {mx::compile(own), mx::checkpoint(own)}) {
    const auto got = gradients(f);
    for (int i = 0; i < 3; i++) {
      EXPECT_TRUE(mx::array_equal(got[i], direct[i + 1]).item<bool>()) << i;
    }
  }
  const auto rows = mx::vmap([&](const Arrays& x) -> Arrays {
    return {own({mx::expand_dims(x[0], 0), mx::expand_dims(x[1], 0), mx::expand_dims(x[2], 0)})};
  })(primals)[0];
  expect_near(rows, expected.out, expected.error, "vmap");
  const auto twice = [&](const std::function<Arrays(const Arrays&)>& f) {
    return mx::grad([&](const array& q) {
      return mx::sum(mx::square(mx::grad([&](const array& u) {
        return mx::sum(mx::square(f({u, in[1], in[2]})[0]));
      })(q)));
    })(in[0]);
  };
  const auto second = twice(mlx);
  expect_close(
      twice(own), second,
      static_cast<float>(16 * expected.error) * (1 + mx::max(mx::abs(second)).item<float>()),
      "second derivative");
  const auto only_v = mx::grad([&](const array& v) {
    return mx::sum(own({in[0], in[1], v})[0] * in[3]);
  })(in[2]);
  EXPECT_TRUE(mx::array_equal(only_v, direct[3]).item<bool>());
}

TEST_F(Attention, EmptyInputs) {
  for (const auto& c : {Case{0, 2, 1, 3, 5, 8, 4}, Case{2, 2, 1, 0, 5, 8, 4, {.causal = true}},
                        Case{2, 2, 1, 3, 0, 8, 4}, Case{1, 2, 1, 40, 0, 8, 4}}) {
    const auto got = own_results(c, c.inputs(mx::float32));
    EXPECT_EQ(got[0].shape(), (mx::Shape{c.batch, c.heads, c.queries, c.value})) << c.what();
    for (const auto& a : got) EXPECT_FALSE(mx::any(a).item<bool>()) << c.what();
  }
}

TEST_F(Attention, NotANumberIsSeenByThoseWhoSeeTheKey) {
  for (const int queries : {4, 50}) {
    const Case c{1, 1, 1, queries, 50, 16, 16, {.causal = true}};
    auto in = c.inputs(mx::float32);
    const auto broken = mx::equal(mx::arange(50), array(48));
    in[1] = mx::where(mx::reshape(broken, {1, 1, 50, 1}), array(NAN), in[1]);
    const auto lost = mx::any(mx::isnan(attention(in[0], in[1], in[2], 1, c.mask)), -1);
    for (int i = 0; i < queries; i++) {
      EXPECT_EQ(mx::slice(lost, {0, 0, i}, {1, 1, i + 1}).item<bool>(), i >= queries - 2) << i;
    }
  }
}

TEST_F(Attention, HoldsNoMatrixOfScores) {
  const Case c{1, 4, 4, 2048, 2048, 16, 16, {.causal = true}};
  const auto in = c.inputs(mx::float32);
  own_results(c, in);
  const auto before = mx::get_active_memory();
  mx::reset_peak_memory();
  own_results(c, in);
  // Scores would take 64 MiB. Outputs are 2 MiB; each thread's work as attention.h says.
  EXPECT_LT(mx::get_peak_memory() - before, size_t{8} << 20);
}

TEST_F(Attention, WrongShapesAreErrors) {
  const auto q = mx::ones({1, 4, 4, 8}), k = mx::ones({1, 2, 4, 8});
  EXPECT_THROW(attention(mx::ones({1, 3, 4, 8}), k, k, 1), Error);
  EXPECT_THROW(attention(q, mx::ones({1, 2, 4, 7}), k, 1), Error);
  EXPECT_THROW(attention(q, mx::ones({1, 2, 3, 8}), k, 1), Error);
  const auto few = mx::ones({1, 2, 3, 8});
  EXPECT_THROW(attention(q, few, few, 1, {.causal = true}), Error);
  EXPECT_THROW(attention(q, k, k, 1, {.window = 2}), Error);
  EXPECT_THROW(attention(q, k, k, 1, {.padding = array({1, 2}, mx::int32)}), Error);
  EXPECT_THROW(attention(mx::ones({4, 4, 8}), k, k, 1), Error);
}

}  // namespace
}  // namespace lmxlab::kernels
