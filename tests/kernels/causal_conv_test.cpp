#include "lmxlab/kernels/causal_conv.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <cmath>
#include <string>
#include <vector>

#include "lmxlab/base/error.h"
#include "lmxlab/kernels/fused.h"
#include "lmxlab/kernels/thread_pool.h"
#include "tests/kernels/reference.h"

namespace mx = mlx::core;
using mx::array;

namespace lmxlab::kernels {
namespace {

using Arrays = std::vector<array>;

struct Sizes {
  int batch, length, channels, taps;
  bool bias, silu;
  std::string text() const {
    return std::to_string(batch) + "x" + std::to_string(length) + "x" + std::to_string(channels) +
           "x" + std::to_string(taps) + (bias ? "_bias" : "") + (silu ? "_silu" : "");
  }
};
// x, before, w, bias where there is one, and last the gradient of y.
Arrays problem(const Sizes& s, mx::Dtype dtype = mx::float32) {
  Arrays in{noise({s.batch, s.length, s.channels}, 1, dtype),
            noise({s.batch, s.taps - 1, s.channels}, 2, dtype), noise({s.channels, s.taps}, 3)};
  if (s.bias) in.push_back(noise({s.channels}, 4));
  in.push_back(noise({s.batch, s.length, s.channels}, 5));
  mx::eval(in);
  return in;
}
array convolved(const Sizes& s, const Arrays& in) {
  return causal_conv(in[0], in[1], in[2], s.bias ? std::optional<array>(in[3]) : std::nullopt,
                     s.silu);
}
// The gradient of each input but the last, which is that of y.
Arrays gradients(const Sizes& s, const Arrays& in) {
  return mx::vjp([&](const Arrays& v) -> Arrays { return {convolved(s, v)}; },
                 Arrays(in.begin(), in.end() - 1), {in.back()})
      .second;
}

// In float64, and the sizes of the terms that each number is a sum of. Gradients in the order of
// the inputs.
struct Reference {
  Doubles y, y_terms;
  std::vector<Doubles> g, g_terms;
};
Reference reference(const Sizes& s, const Arrays& arrays) {
  std::vector<Doubles> in;
  for (const auto& a : arrays) in.push_back(values(a));
  Reference r;
  r.y.assign(size_t(s.batch) * s.length * s.channels, 0), r.y_terms = r.y;
  for (size_t i = 0; i + 1 < in.size(); i++) r.g.emplace_back(in[i].size(), 0.0);
  r.g_terms = r.g;
  const auto add = [&](size_t which, size_t at, double term, double size) {
    r.g[which][at] += term, r.g_terms[which][at] += std::abs(size);
  };
  for (int b = 0; b < s.batch; b++)
    for (int t = 0; t < s.length; t++)
      for (int c = 0; c < s.channels; c++) {
        const size_t at = (size_t(b) * s.length + t) * s.channels + c;
        // Which array, and where in it, tap k reads.
        const auto seen = [&](int k) {
          const int row = t + k - (s.taps - 1);
          return row < 0 ? std::pair(size_t{1},
                                     (size_t(b) * (s.taps - 1) + row + s.taps - 1) * s.channels + c)
                         : std::pair(size_t{0}, (size_t(b) * s.length + row) * s.channels + c);
        };
        double u = s.bias ? in[3][c] : 0, terms = std::abs(u);
        for (int k = 0; k < s.taps; k++) {
          const auto [which, from] = seen(k);
          const double term = in[2][size_t(c) * s.taps + k] * in[which][from];
          u += term, terms += std::abs(term);
        }
        const double p = 1 / (1 + std::exp(-u)), bend = u * p * (1 - p);
        // The slope of SiLU is at most 1.1, and so is how much that changes with u, less than 1/2.
        const double slope = s.silu ? p + bend : 1, slope_terms = s.silu ? 1.1 + terms : 1;
        r.y[at] = s.silu ? u * p : u, r.y_terms[at] = 1.1 * terms;
        const double g = in.back()[at];
        if (s.bias) add(3, c, g * slope, g * slope_terms);
        for (int k = 0; k < s.taps; k++) {
          const auto [which, from] = seen(k);
          const double w = in[2][size_t(c) * s.taps + k], x = in[which][from];
          add(which, from, g * slope * w, g * slope_terms * w);
          add(2, size_t(c) * s.taps + k, g * slope * x, g * slope_terms * x);
        }
      }
  return r;
}

const std::vector<Sizes> kSizes{
    {1, 1, 1, 1, false, false}, {2, 5, 3, 4, true, true},     {1, 2, 17, 4, true, false},
    {3, 1, 5, 8, false, true},  {2, 70, 37, 4, false, true},  {1, 64, 64, 2, true, true},
    {3, 41, 33, 3, true, true}, {2, 31, 8, 8, true, false},   {4, 35, 16, 1, true, true},
    {1, 300, 9, 5, true, true}, {33, 2, 19, 4, false, false},
};

TEST(CausalConv, AgreesWithDouble) {
  on_every_isa([](const std::string& isa) {
    for (const auto& s : kSizes) {
      for (const auto dtype : kFloats) {
        const auto in = problem(s, dtype);
        const auto want = reference(s, in);
        const auto what = isa + " " + s.text() + " " + name(dtype);
        const auto y = convolved(s, in);
        EXPECT_EQ(y.dtype(), mx::float32);
        const double lost = 0x1p-24 * (s.taps + 12);
        expect_near(
            y, want.y, [&](size_t i) { return lost * want.y_terms[i] + 1e-30; }, what);
        const auto got = gradients(s, in);
        // Sums over positions, rounded each time; over taps; and to the type of x.
        const char* names[] = {" x", " before", " w", " bias"};
        for (size_t j = 0; j < got.size(); j++) {
          EXPECT_EQ(got[j].dtype(), in[j].dtype());
          const double sum = j < 2 ? s.taps : double(s.batch) * s.length;
          const double round = j < 2 ? unit(dtype) : 0, least = dtype == mx::float16 ? 1e-7 : 1e-30;
          expect_near(
              got[j], want.g[j],
              [&](size_t i) {
                return (0x1p-24 * (sum + s.taps + 20)) * want.g_terms[j][i] +
                       round * std::abs(want.g[j][i]) + least;
              },
              what + names[j]);
        }
      }
    }
  });
}

// Beside the gradients of the ordinary ops, whose sums are in other orders.
TEST(CausalConv, GradientsAreThoseOfOrdinaryOps) {
  for (const auto& s : kSizes) {
    const auto in = problem(s);
    const auto fused = gradients(s, in);
    set_fused(false);
    const auto ordinary = gradients(s, in);
    auto y = convolved(s, in);
    mx::eval(y);
    set_fused(true);
    expect_near(
        convolved(s, in), values(y), [](size_t) { return 1e-5; }, s.text());
    for (size_t i = 0; i < fused.size(); i++) {
      if (fused[i].size() == 0) continue;
      const double bound = 1e-5 * (1 + double(mx::max(mx::abs(ordinary[i])).item<float>()));
      expect_near(
          fused[i], values(ordinary[i]), [&](size_t) { return bound; },
          s.text() + " " + std::to_string(i));
    }
  }
}

TEST(CausalConv, ReadsViewsWhereTheyAre) {
  const Sizes s{2, 45, 21, 4, true, true};
  for (const auto dtype : kFloats) {
    const auto in = problem(s, dtype);
    const auto y = convolved(s, in);
    const auto g = gradients(s, in);
    // Columns of a wider array, rows in another order, every second element, an odd beginning.
    const auto columns = [](const array& x) {
      const auto pad = mx::full({x.shape(0), x.shape(1), 3}, NAN, x.dtype());
      auto wide = mx::concatenate({pad, x, pad}, 2);
      mx::eval(wide);
      return mx::slice(wide, {0, 0, 3}, {x.shape(0), x.shape(1), x.shape(2) + 3});
    };
    const auto turned = [](const array& x) {
      auto other = mx::contiguous(mx::swapaxes(x, 0, 1));
      mx::eval(other);
      return mx::swapaxes(other, 0, 1);
    };
    const auto across = [](const array& x) {
      auto other = mx::contiguous(mx::swapaxes(x, 1, 2));
      mx::eval(other);
      return mx::swapaxes(other, 1, 2);
    };
    for (const auto& view :
         std::vector<std::function<array(const array&)>>{columns, turned, across, gappy, shifted}) {
      auto other = in;
      other[0] = view(in[0]), other[1] = view(in[1]), other.back() = view(in.back());
      other[2] = gappy(in[2]), other[3] = gappy(in[3]);
      EXPECT_TRUE(same_bits(convolved(s, other), y));
      const auto got = gradients(s, other);
      for (size_t i = 0; i < g.size(); i++) EXPECT_TRUE(same_bits(got[i], g[i])) << i;
    }
  }
}

TEST(CausalConv, DoesNotDependOnThreadsOrThePass) {
  const Sizes s{3, 90, 40, 4, true, true};
  const auto in = problem(s);
  const auto y = convolved(s, in);
  const auto g = gradients(s, in);
  for (int n : {1, 2, 3, 8}) {
    set_threads(n);
    EXPECT_TRUE(same_bits(convolved(s, in), y)) << n;
    const auto got = gradients(s, in);
    for (size_t i = 0; i < g.size(); i++) EXPECT_TRUE(same_bits(got[i], g[i])) << n << " " << i;
  }
  set_threads(0);
  // In pieces, each after the last rows of what came before, also where that is a single row.
  const auto seen = mx::concatenate({in[1], in[0]}, 1);
  const auto rows = [](const array& a, int from, int to) {
    return mx::slice(a, {0, from, 0}, {a.shape(0), to, a.shape(2)});
  };
  Arrays parts;
  for (const auto& [from, to] :
       {std::pair(0, 1), std::pair(1, 2), std::pair(2, 50), std::pair(50, 90)})
    parts.push_back(
        causal_conv(rows(in[0], from, to), rows(seen, from, from + 3), in[2], in[3], s.silu));
  EXPECT_TRUE(same_bits(mx::concatenate(parts, 1), y));
}

TEST(CausalConv, Empty) {
  for (const auto& s : {Sizes{2, 0, 5, 4, true, true}, Sizes{0, 3, 5, 4, true, false},
                        Sizes{2, 3, 0, 4, true, true}}) {
    const auto in = problem(s);
    EXPECT_EQ(convolved(s, in).size(), 0u);
    const auto g = gradients(s, in);
    for (size_t i = 0; i < g.size(); i++) {
      EXPECT_EQ(g[i].shape(), in[i].shape());
      for (const double v : values(g[i])) EXPECT_EQ(v, 0) << s.text() << " " << i;
    }
  }
}

TEST(CausalConv, Transformations) {
  const Sizes s{2, 9, 6, 3, true, true};
  const auto in = problem(s);
  const auto y = convolved(s, in);
  const std::function<Arrays(const Arrays&)> own = [&](const Arrays& v) -> Arrays {
    return {convolved(s, v)};
  };
  EXPECT_TRUE(same_bits(mx::compile(own)(in)[0], y));
  // Weights of another dtype are taken in float32, and their gradients come in theirs.
  auto half = in;
  half[2] = mx::astype(in[2], mx::bfloat16);
  auto wide = half;
  wide[2] = mx::astype(half[2], mx::float32);
  EXPECT_TRUE(same_bits(convolved(s, half), convolved(s, wide)));
  EXPECT_EQ(gradients(s, half)[2].dtype(), mx::bfloat16);
  // The second derivative goes through the ordinary ops.
  const auto bend = [&] {
    return mx::grad([&](const array& x) {
      return mx::sum(mx::square(mx::grad([&](const array& v) {
        return mx::sum(mx::square(convolved(s, {v, in[1], in[2], in[3]})));
      })(x)));
    })(in[0]);
  };
  const auto got = bend();
  set_fused(false);
  const auto want = values(bend());
  set_fused(true);
  const double size = mx::max(mx::abs(got)).item<float>();
  expect_near(
      got, want, [&](size_t) { return 1e-5 * (1 + size); }, "second derivative");
}

TEST(CausalConv, RefusesOtherShapes) {
  const Sizes s{2, 9, 6, 3, true, true};
  const auto in = problem(s);
  EXPECT_THROW(causal_conv(in[0], in[0], in[2], in[3], true), Error);
  EXPECT_THROW(causal_conv(in[0], in[1], mx::transpose(in[2]), in[3], true), Error);
  EXPECT_THROW(causal_conv(in[0], in[1], in[2], in[2], true), Error);
  EXPECT_THROW(causal_conv(in[0], in[1], mx::zeros({6, 0}), in[3], true), Error);
}

}  // namespace
}  // namespace lmxlab::kernels
