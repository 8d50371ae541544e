// Attention in double precision, which the tests of its kernels compare with.
#pragma once

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "lmxlab/kernels/attention.h"

namespace mx = mlx::core;
using mx::array;
using Arrays = std::vector<array>;

namespace lmxlab::kernels {

inline array noise(mx::Shape shape, int key) {
  return mx::random::normal(std::move(shape), mx::random::key(key));
}

struct Case {
  int batch, heads, groups, queries, keys, width, value;
  AttentionMask mask = {};
  float scale = 0.3f;
  std::vector<int> padding = {};  // of each row, or of each query

  bool by_query() const { return padding.size() == size_t(batch) * size_t(queries) && queries > 1; }
  int pad(int row, int query) const {
    if (padding.empty()) return 0;
    return padding[static_cast<size_t>(by_query() ? row * queries + query : row)];
  }
  AttentionMask full_mask() const {
    AttentionMask m = mask;
    if (padding.empty()) return m;
    const auto shape = by_query() ? mx::Shape{batch, queries} : mx::Shape{batch};
    m.padding = array(padding.data(), shape, mx::int32);
    return m;
  }
  std::string what() const {
    std::string text;
    for (const int n : {batch, heads, groups, queries, keys, width, value}) {
      text += std::to_string(n) + " ";
    }
    return text + (mask.causal ? "causal " : "") + "window " + std::to_string(mask.window);
  }
  // q, k, v and the cotangent.
  Arrays inputs(mx::Dtype dtype) const {
    Arrays in{noise({batch, heads, queries, width}, 1), noise({batch, groups, keys, width}, 2),
              noise({batch, groups, keys, value}, 3), noise({batch, heads, queries, value}, 4)};
    for (auto& a : in) a = mx::astype(a, dtype);
    mx::eval(in);
    return in;
  }
};

inline std::vector<double> doubles(const array& a) {
  auto x = mx::contiguous(mx::astype(a, mx::float32));
  mx::eval(x);
  return {x.data<float>(), x.data<float>() + x.size()};
}

inline double eps(mx::Dtype t) {
  return t == mx::float32 ? 0x1p-24 : t == mx::float16 ? 0x1p-11 : 0x1p-8;
}

// A number and the sum of the magnitudes it is made of, which errors are held against.
struct Sums {
  std::vector<double> value, size;
  explicit Sums(size_t n) : value(n, 0), size(n, 0) {}
  void add(size_t i, double x, double magnitude) {
    value[i] += x;
    size[i] += magnitude;
  }
};

// Keys or values: numbers, and the sizes of what they are made of, which their own errors are held
// against.
struct KeyNumbers {
  std::vector<double> value, size;
  explicit KeyNumbers(const array& a) : value(doubles(a)), size(value) {
    for (auto& x : size) x = std::abs(x);
  }
  KeyNumbers(std::vector<double> x, std::vector<double> magnitude)
      : value(std::move(x)), size(std::move(magnitude)) {}
};

// Output and gradients in double. `error` bounds the relative error of a weight in float32.
struct Reference {
  Sums out, dq, dk, dv;
  double error = 0;

  Reference(const Case& c, const Arrays& in)
      : Reference(c, in[0], KeyNumbers(in[1]), KeyNumbers(in[2]), in[3]) {}
  Reference(const Case& c, const array& queries, const KeyNumbers& keys, const KeyNumbers& values,
            const array& cotangent)
      : out(cotangent.size()), dq(queries.size()), dk(keys.value.size()), dv(values.value.size()) {
    const auto q = doubles(queries), g = doubles(cotangent);
    const auto &k = keys.value, &v = values.value;
    const auto S = static_cast<size_t>(c.keys), D = static_cast<size_t>(c.width),
               V = static_cast<size_t>(c.value);
    double largest = 0;
    for (size_t row = 0; row < queries.size() / D; row++) {
      const int i = static_cast<int>(row) % c.queries, h = static_cast<int>(row) / c.queries;
      const size_t head =
          static_cast<size_t>(h / c.heads * c.groups + h % c.heads / (c.heads / c.groups));
      const int pad = c.pad(h / c.heads, i);
      const double *qi = &q[row * D], *gi = &g[row * V];
      std::vector<double> p(S, 0), bend(S, 1);
      double top = -INFINITY, total = 0;
      const auto sees = [&](int j) {
        const int own = c.keys - c.queries + i;
        return j >= pad && (!c.mask.causal || j <= own) &&
               (c.mask.window == 0 || j > own - c.mask.window);
      };
      for (size_t j = 0; j < S; j++) {
        double score = 0, magnitude = 0;
        for (size_t d = 0; d < D; d++) {
          score += c.scale * qi[d] * k[(head * S + j) * D + d];
          magnitude += std::abs(c.scale * qi[d] * keys.size[(head * S + j) * D + d]);
        }
        if (c.mask.softcap > 0) {
          const double t = std::tanh(score / c.mask.softcap);
          bend[j] = 1 - t * t;
          score = c.mask.softcap * t;
        }
        p[j] = sees(static_cast<int>(j)) ? score : -INFINITY;
        top = std::max(top, p[j]);
        largest = std::max(largest, magnitude);
      }
      for (size_t j = 0; j < S; j++) total += p[j] = p[j] == -INFINITY ? 0 : std::exp(p[j] - top);
      double delta = 0, delta_size = 0;
      for (size_t d = 0; d < V && total > 0; d++) {
        for (size_t j = 0; j < S; j++) {
          const size_t at = (head * S + j) * V + d;
          out.add(row * V + d, p[j] / total * v[at], p[j] / total * values.size[at]);
        }
        delta += out.value[row * V + d] * gi[d];
        delta_size += out.size[row * V + d] * std::abs(gi[d]);
      }
      for (size_t j = 0; j < S && total > 0; j++) {
        const double w = p[j] / total;
        double dp = 0, dp_size = 0;
        for (size_t d = 0; d < V; d++) {
          const size_t at = (head * S + j) * V + d;
          dp += gi[d] * v[at];
          dp_size += std::abs(gi[d]) * values.size[at];
          dv.add(at, w * gi[d], w * std::abs(gi[d]));
        }
        const double ds = c.scale * w * (dp - delta) * bend[j];
        const double ds_size = std::abs(c.scale) * w * (dp_size + delta_size);
        for (size_t d = 0; d < D; d++) {
          const size_t at = (head * S + j) * D + d;
          dq.add(row * D + d, ds * k[at], ds_size * keys.size[at]);
          dk.add(at, ds * qi[d], ds_size * std::abs(qi[d]));
        }
      }
    }
    // The exponent's error, of sums of D terms and of a number of the scores' size; the sum of the
    // weights; a soft cap's tanh. Those of the products with v and g are of the same kind.
    error = 0x1p-24 * ((std::sqrt(D) + 6) * (largest + 1) + 2 * std::sqrt(S + V + c.queries) + 8 +
                       4 * c.mask.softcap);
  }
};

inline void expect_near(const array& got, const Sums& expected, double bound,
                        const std::string& what) {
  const double step = got.dtype() == mx::float16 ? 0x1p-24 : 1e-30;  // of the smallest numbers
  const auto x = doubles(got);
  ASSERT_EQ(x.size(), expected.value.size()) << what;
  double worst = -1;
  size_t at = 0;
  for (size_t i = 0; i < x.size(); i++) {
    const double error = std::abs(x[i] - expected.value[i]) / (bound * expected.size[i] + step);
    if (!(error <= worst)) worst = error, at = i;
  }
  if (x.empty()) return;
  EXPECT_LE(worst, 1) << what << ": worst at " << at << ": expected " << expected.value[at]
                      << ", got " << x[at];
}

}  // namespace lmxlab::kernels
