#include "lmxlab/kernels/cross_entropy.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <cmath>
#include <functional>
#include <string>

#include "lmxlab/base/error.h"
#include "tests/kernels/reference.h"

namespace mx = mlx::core;
using mx::array;

namespace lmxlab::kernels {
namespace {

using Arrays = std::vector<array>;
struct Problem {
  array x, w, ids, nll_slope, lse_slope;  // x [T, D], w [V, D]
  std::optional<array> bias = {};
  HeadOptions head = {};
  CrossEntropyOptions options = {};

  int tokens() const { return x.shape(0); }
  int width() const { return x.shape(1); }
  int vocabulary() const { return w.shape(0); }
};
Problem problem(int tokens, int width, int vocabulary, mx::Dtype x, mx::Dtype w) {
  const auto normal = [](mx::Shape shape, mx::Dtype dtype, size_t key) {
    return mx::astype(mx::random::normal(shape, mx::random::key(key)), dtype);
  };
  Problem p{normal({tokens, width}, x, 1), normal({vocabulary, width}, w, 2),
            mx::random::randint(0, vocabulary, {tokens}, mx::int32, mx::random::key(3)),
            normal({tokens}, mx::float32, 4), normal({tokens}, mx::float32, 5)};
  mx::eval(p.x, p.w, p.ids, p.nll_slope, p.lse_slope);
  return p;
}

// A value and the sizes of the terms that were added up to it.
struct Sum {
  double value = 0, terms = 0;
  void add(double term) { value += term, terms += std::abs(term); }
};
struct Expected {
  std::vector<Sum> logits;  // before the head's scale and cap; terms of the product
  Doubles nll, lse;
  std::vector<Sum> dx, dw, db;
};
Expected expected(const Problem& p) {
  const int T = p.tokens(), D = p.width(), V = p.vocabulary();
  const auto x = values(p.x), w = values(p.w), g = values(p.nll_slope), h = values(p.lse_slope);
  const auto ids = values(p.ids), b = p.bias ? values(*p.bias) : Doubles(V, 0);
  const double cap = p.head.softcap, e = p.options.label_smoothing, scale = p.head.scale;
  Expected out;
  out.logits.resize(size_t(T) * V), out.dx.resize(size_t(T) * D), out.dw.resize(size_t(V) * D);
  out.db.resize(V);
  Doubles z(V);
  for (int t = 0; t < T; t++) {
    double max = -INFINITY, sum = 0, mean = 0;
    for (int v = 0; v < V; v++) {
      Sum& s = out.logits[size_t(t) * V + v];
      for (int d = 0; d < D; d++) s.add(x[size_t(t) * D + d] * w[size_t(v) * D + d]);
      s.add(b[v]);
      z[v] = cap != 0 ? cap * std::tanh(scale * s.value / cap) : scale * s.value;
      max = std::max(max, z[v]), mean += z[v] / V;
    }
    for (const double v : z) sum += std::exp(v - max);
    const double lse = max + std::log(sum);
    const int id = static_cast<int>(ids[t]);
    const bool ignored = id == p.options.ignore_index;
    out.lse.push_back(lse);
    out.nll.push_back(ignored ? 0 : lse - (1 - e) * z[id] - e * mean);
    for (int v = 0; v < V; v++) {
      const double own = ignored ? 0 : g[t], target = (v == id ? 1 - e : 0) + e / V;
      const double slope = scale * (cap != 0 ? 1 - std::pow(z[v] / cap, 2) : 1);
      const double p_v = std::exp(z[v] - lse);
      Sum dz;
      dz.add(p_v * own), dz.add(p_v * h[t]), dz.add(-own * target);
      for (int d = 0; d < D; d++) {
        for (auto& [to, by] : {std::pair{&out.dx[size_t(t) * D + d], w[size_t(v) * D + d]},
                               std::pair{&out.dw[size_t(v) * D + d], x[size_t(t) * D + d]}}) {
          to->value += dz.value * slope * by, to->terms += dz.terms * std::abs(slope * by);
        }
      }
      out.db[v].value += dz.value * slope, out.db[v].terms += dz.terms * std::abs(slope);
    }
  }
  return out;
}

struct Results {
  array nll, lse, dx, dw;
  std::optional<array> db = {};
};
using Loss = std::function<CrossEntropy(const Problem&, const array& x, const array& w,
                                        const std::optional<array>& bias)>;
CrossEntropy fused_loss(const Problem& p, const array& x, const array& w,
                        const std::optional<array>& bias) {
  return linear_cross_entropy(x, w, bias, p.ids, p.head, p.options);
}
CrossEntropy plain_loss(const Problem& p, const array& x, const array& w,
                        const std::optional<array>& bias) {
  return plain::linear_cross_entropy(x, w, bias, p.ids, p.head, p.options);
}

Arrays all_of(const Problem& p, const Loss& loss) {
  const auto f = [&](const Arrays& v) -> Arrays {
    const auto c = loss(p, v[0], v[1], p.bias ? std::optional(v[2]) : std::nullopt);
    return {c.nll, c.lse};
  };
  Arrays primals{p.x, p.w};
  if (p.bias) primals.push_back(*p.bias);
  auto [values, grads] = mx::vjp(f, primals, {p.nll_slope, p.lse_slope});
  values.insert(values.end(), grads.begin(), grads.end());
  mx::eval(values);
  return values;
}

// Half the step of subnormal numbers, or more.
double least_step(mx::Dtype dtype) {
  return dtype == mx::float16 ? 0x1p-25 : 1e-37;
}

Doubles of(const std::vector<Sum>& sums) {
  Doubles out;
  for (const auto& s : sums) out.push_back(s.value);
  return out;
}

void check(const Problem& p, const Arrays& got) {
  const auto e = expected(p);
  const double eps = 0x1p-24;
  const bool half = p.x.dtype() == mx::bfloat16 || p.w.dtype() == mx::bfloat16;
  // What a product may round its operands by, and the sum of n of them.
  const double rounds = half || p.w.dtype() != p.x.dtype() ? unit(mx::bfloat16) : 0;
  const auto product = [&](double n) { return 2 * rounds + (n + 8) * eps; };
  double logit = 0, largest = 0;  // error of a logit; the largest one
  for (const auto& s : e.logits) {
    logit = std::max(logit, s.terms * product(p.width()) * std::abs(p.head.scale));
    largest = std::max(largest, std::abs(s.value));
  }
  logit += 8 * eps * largest;
  const double sums = (p.vocabulary() / 16.0 + 8) * eps;
  const auto value = [&](size_t) { return 2 * logit + sums + 4 * eps * (1 + largest); };
  expect_near(got[0], e.nll, value, "nll");
  expect_near(got[1], e.lse, value, "lse");
  const double slope = 2 * logit + sums + 8 * eps;  // relative, of softmax
  const double capped = p.head.softcap == 0 ? 0 : 4 * (logit + largest * eps) / p.head.softcap;
  const auto gradient = [&](const char* what, const array& a, const std::vector<Sum>& sum,
                            double n) {
    const double chunks = a.dtype() == mx::float32 ? 1 : 1 + p.tokens() / 1000;
    const auto bound = [&](size_t i) {
      return sum[i].terms * (slope + capped + product(n)) +
             chunks * unit(a.dtype()) * (std::abs(sum[i].value) + 1e-6 * sum[i].terms) +
             least_step(a.dtype());
    };
    expect_near(a, of(sum), bound, what);
  };
  gradient("dx", got[2], e.dx, p.vocabulary());
  gradient("dw", got[3], e.dw, p.tokens());
  if (p.bias) gradient("dbias", got[4], e.db, p.tokens());
}

struct Types {
  mx::Dtype x, w;
};
const std::vector<Types> kTypes{{mx::float32, mx::float32}, {mx::bfloat16, mx::bfloat16},
                                {mx::float16, mx::float16}, {mx::bfloat16, mx::float32},
                                {mx::float16, mx::float32}, {mx::float32, mx::bfloat16}};

TEST(LinearCrossEntropy, ValuesAndGradients) {
  on_every_isa([](const std::string& isa) {
    for (const auto& types : kTypes) {
      for (const auto& [tokens, width, vocabulary] :
           {std::tuple{1, 1, 1}, {3, 5, 2}, {17, 33, 65}, {64, 16, 129}, {5, 8, 1000}}) {
        SCOPED_TRACE(isa + ", x " + name(types.x) + ", w " + name(types.w) + ", T " +
                     std::to_string(tokens) + ", V " + std::to_string(vocabulary));
        const auto p = problem(tokens, width, vocabulary, types.x, types.w);
        check(p, all_of(p, fused_loss));
      }
    }
  });
}

TEST(LinearCrossEntropy, Options) {
  for (const auto& types : kTypes) {
    auto p = problem(19, 12, 77, types.x, types.w);
    p.bias = mx::astype(mx::random::normal({77}, mx::random::key(9)), types.w);
    p.ids = mx::where(mx::equal(mx::arange(19) % array(3), array(0)), array(-100), p.ids);
    p.head = {0.5f, 3.0f};
    p.options.label_smoothing = 0.1f;
    SCOPED_TRACE("everything");
    check(p, all_of(p, fused_loss));
    if (types.x == mx::float32 && types.w == mx::float32) check(p, all_of(p, plain_loss));
    auto q = problem(19, 12, 77, types.x, types.w);
    q.options.ignore_index = 5;
    q.ids = mx::where(mx::equal(mx::arange(19) % array(3), array(0)), array(5), q.ids);
    q.head.scale = 0.25f;
    check(q, all_of(q, fused_loss));
  }
}

// More tokens and more words than one tile holds.
TEST(LinearCrossEntropy, InTiles) {
  for (const auto& types : {kTypes[0], kTypes[1], kTypes[3]}) {
    auto p = problem(2100, 3, 1100, types.x, types.w);
    p.bias = mx::random::normal({1100}, mx::random::key(9));
    p.options.label_smoothing = 0.1f;
    const auto got = all_of(p, fused_loss);
    check(p, got);
    const auto again = all_of(p, fused_loss);
    for (size_t i = 0; i < got.size(); i++)
      EXPECT_TRUE(mx::array_equal(got[i], again[i]).item<bool>()) << "not the same bits twice";
  }
}

TEST(LinearCrossEntropy, NeverHoldsAllLogits) {
  const auto p = problem(2500, 8, 40000, mx::bfloat16, mx::bfloat16);  // 400 MB of float32 logits
  all_of(problem(8, 8, 40000, mx::bfloat16, mx::bfloat16), fused_loss);
  mx::reset_peak_memory();
  const size_t before = mx::get_active_memory();
  all_of(p, fused_loss);
  EXPECT_LT(mx::get_peak_memory() - before, size_t{32} << 20);
}

TEST(LinearCrossEntropy, OnlyTheGradientsThatAreAsked) {
  auto p = problem(6, 4, 9, mx::float32, mx::float32);
  p.bias = mx::random::normal({9}, mx::random::key(9));
  const auto all = all_of(p, fused_loss);
  const Arrays primals{p.x, p.w, *p.bias};
  for (const auto& some : {std::vector{0}, {1}, {2}, {0, 1}, {0, 2}, {1, 2}}) {
    const auto f = [&](const Arrays& v) -> Arrays {
      auto full = primals;
      for (size_t i = 0; i < some.size(); i++) full[size_t(some[i])] = v[i];
      const auto c = fused_loss(p, full[0], full[1], full[2]);
      return {c.nll, c.lse};
    };
    Arrays in;
    for (const int i : some) in.push_back(primals[size_t(i)]);
    const auto grads = mx::vjp(f, in, {p.nll_slope, p.lse_slope}).second;
    for (size_t i = 0; i < some.size(); i++)
      EXPECT_TRUE(mx::array_equal(grads[i], all[2 + size_t(some[i])]).item<bool>()) << some[i];
  }
}

TEST(LinearCrossEntropy, ShowsATargetOutside) {
  auto p = problem(4, 3, 5, mx::float32, mx::float32);
  p.ids = array({4, 5, -1, -100});
  for (const auto& loss : {Loss(fused_loss), Loss(plain_loss)}) {
    const auto nll = values(all_of(p, loss)[0]);
    EXPECT_TRUE(std::isfinite(nll[0]));
    EXPECT_TRUE(std::isnan(nll[1]) && std::isnan(nll[2]));
    EXPECT_EQ(nll[3], 0);
  }
}

TEST(LinearCrossEntropy, Extremes) {
  const auto big = array({3e4f, -3e4f, 0.0f, 3e4f, 3e4f, -INFINITY}, {3, 2});
  const auto c = linear_cross_entropy(mx::eye(2), mx::eye(2), std::nullopt, array({0, 1}));
  EXPECT_NEAR(values(c.nll)[0], std::log1p(std::exp(-1.0)), 0x1p-22);
  const auto d = cross_entropy(big, array({1, 1, 0}));
  EXPECT_EQ(values(d.nll), (Doubles{6e4, 0, 0}));
  const auto grad = mx::grad([](const array& z) {
    return mx::sum(cross_entropy(z, array({1, 1, 0})).nll);
  })(big);
  EXPECT_EQ(values(grad), (Doubles{1, -1, 0, 0, 0, 0}));
  const auto none = cross_entropy(array({NAN, 1.0f, 2.0f}, {1, 3}), array({1}));
  EXPECT_TRUE(std::isnan(values(none.nll)[0]));
}

TEST(LinearCrossEntropy, NoTokens) {
  const auto p = problem(0, 4, 7, mx::float32, mx::bfloat16);
  const auto got = all_of(p, fused_loss);
  EXPECT_EQ(got[0].size(), 0u);
  EXPECT_EQ(values(got[3]), Doubles(28, 0));
}

TEST(LinearCrossEntropy, RefusesShapesThatDoNotFit) {
  const auto x = mx::ones({2, 3, 4}), w = mx::ones({5, 4});
  EXPECT_THROW(linear_cross_entropy(x, w, std::nullopt, mx::zeros({2, 2}, mx::int32)), Error);
  EXPECT_THROW(linear_cross_entropy(x, mx::ones({5, 3}), {}, mx::zeros({2, 3}, mx::int32)), Error);
  EXPECT_THROW(linear_cross_entropy(x, w, mx::ones({4}), mx::zeros({2, 3}, mx::int32)), Error);
  EXPECT_THROW(cross_entropy(x, mx::zeros({2}, mx::int32)), Error);
}

bool close(const array& a, const array& b) {
  return mx::allclose(a, b, 1e-5, 1e-5).item<bool>();
}

// Views, compile, checkpoint, vmap and second derivatives agree with the ordinary ops.
TEST(LinearCrossEntropy, WorksInEveryTransformation) {
  const auto p = problem(24, 6, 11, mx::float32, mx::float32);
  const auto x = mx::transpose(mx::reshape(p.x, {6, 4, 6}), {1, 2, 0});  // [4, 6, 6], a view
  const auto w = mx::transpose(mx::contiguous(mx::transpose(p.w)));
  const auto ids = mx::transpose(mx::reshape(p.ids, {6, 4}));
  using Mean = std::function<Arrays(const Arrays&)>;
  const Mean own = [&](const Arrays& v) -> Arrays {
    return {mx::mean(mx::square(linear_cross_entropy(v[0], v[1], {}, v[2]).nll))};
  };
  const Mean ordinary = [&](const Arrays& v) -> Arrays {
    return {mx::mean(mx::square(plain::linear_cross_entropy(v[0], v[1], {}, v[2]).nll))};
  };
  const auto both = [&](const Mean& f) {
    auto [value, grads] = mx::value_and_grad(f, {0, 1})({x, w, ids});
    value.insert(value.end(), grads.begin(), grads.end());
    return value;
  };
  const auto want = both(ordinary);
  const Mean compiled = mx::compile(Mean([&](const Arrays& v) {
    auto [value, grads] = mx::value_and_grad(own, {0, 1})(v);
    value.insert(value.end(), grads.begin(), grads.end());
    return value;
  }));
  for (const auto& got : {both(own), both(mx::checkpoint(own)), compiled({x, w, ids})})
    for (size_t i = 0; i < want.size(); i++) EXPECT_TRUE(close(got[i], want[i])) << i;

  const auto rows = mx::vmap(Mean([&](const Arrays& v) -> Arrays {
                               return {linear_cross_entropy(v[0], w, {}, v[1]).nll};
                             }),
                             {0, 0})({x, ids});
  EXPECT_TRUE(close(rows[0], plain::linear_cross_entropy(x, w, {}, ids).nll));

  const auto second = [&](const Mean& f) {
    return mx::grad([&](const array& v) {
      const auto inner = mx::grad([&](const array& u) { return f({u, w, ids})[0]; })(v);
      return mx::sum(mx::square(inner));
    })(mx::contiguous(x));
  };
  EXPECT_TRUE(close(second(own), second(ordinary)));
}

TEST(CrossEntropy, ValuesAndGradients) {
  on_every_isa([](const std::string& isa) {
    for (const auto dtype : kFloats) {
      for (const int vocabulary : {1, 2, 15, 16, 65, 1000, 5003}) {
        SCOPED_TRACE(isa + ", " + name(dtype) + ", V " + std::to_string(vocabulary));
        // The identity as x: then the logits are the weight's columns.
        auto p = problem(7, 7, vocabulary, mx::float32, dtype);
        p.x = mx::eye(7);
        p.options.label_smoothing = vocabulary % 2 ? 0.1f : 0;
        const auto logits = mx::transpose(p.w);
        const auto f = [&](const Arrays& v) -> Arrays {
          const auto c = cross_entropy(v[0], p.ids, p.options);
          return {c.nll, c.lse};
        };
        const auto [got, grads] = mx::vjp(f, {logits}, {p.nll_slope, p.lse_slope});
        const auto e = expected(p);
        const double eps = 0x1p-24;
        const auto bound = [&](size_t) { return (vocabulary / 16.0 + 40) * eps; };
        expect_near(got[0], e.nll, bound, "nll");
        expect_near(got[1], e.lse, bound, "lse");
        EXPECT_EQ(grads[0].dtype(), dtype);
        const auto of_gradient = [&](size_t i) {
          return (vocabulary / 16.0 + 40) * eps * e.dw[i].terms +
                 unit(dtype) * std::abs(e.dw[i].value) * 1.01 + least_step(dtype);
        };
        expect_near(mx::transpose(grads[0]), of(e.dw), of_gradient, "gradient");
      }
    }
  });
}

TEST(CrossEntropy, WritesItsGradientOverTheLogits) {
  const auto x = mx::random::normal({512, 4096}, mx::random::key(1));
  const auto ids = mx::zeros({512}, mx::int32);
  mx::eval(x, ids);
  const auto f = [&](const array& v) { return mx::sum(cross_entropy(v, ids).nll); };
  mx::reset_peak_memory();
  const size_t before = mx::get_active_memory();
  const auto copy = x + array(1.0f);
  // The logits belong to the graph alone.
  auto grad = mx::vjp([&](const Arrays& v) -> Arrays { return {f(v[0] * array(2.0f))}; }, {copy},
                      {array(1.0f)})
                  .second[0];
  mx::eval(grad);
  // The copy, and twice as much for a moment only where the gradient lies apart from the logits.
  EXPECT_LT(mx::get_peak_memory() - before, 2 * x.nbytes() + x.nbytes() / 2);
}

}  // namespace
}  // namespace lmxlab::kernels
