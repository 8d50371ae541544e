#include "lmxlab/kernels/norm.h"

#include "lmxlab/base/error.h"
#include "lmxlab/kernels/thread_pool.h"
#include "tests/kernels/reference.h"

namespace mx = mlx::core;
using mx::array;
using Arrays = std::vector<array>;

namespace lmxlab::kernels {
namespace {

constexpr float kEps = 1e-5f;
constexpr double kUnit = 0x1p-24;  // of float32, in which kernels compute

struct Case {
  NormKind kind;
  bool bias;
  float offset;
  const char* name;
};
const std::vector<Case> kCases{{NormKind::layer, true, 0, "layer"},
                               {NormKind::layer, false, 0, "layer without bias"},
                               {NormKind::rms, false, 0, "rms"},
                               {NormKind::rms, false, 1, "rms with offset"}};

NormWeights weights(const Case& c, int width, mx::Dtype dtype = mx::float32) {
  NormWeights w{noise({width}, 2, dtype), {}, c.offset};
  if (c.bias) w.bias = noise({width}, 3, dtype);
  return w;
}

// The formulas in float64, each value with a bound on the error of computing it in float32.
struct Reference {
  Doubles y, dx, dw, db, y_bound, dx_bound, dw_bound, db_bound;

  Reference(const Case& c, const array& x_, const NormWeights& w_, const array& g_) {
    const auto x = values(x_), w = values(w_.weight), g = values(g_);
    const auto b = w_.bias ? values(*w_.bias) : Doubles(w.size());
    const size_t n = w.size(), rows = n ? x.size() / n : 0;
    y = dx = y_bound = dx_bound = x;
    dw = db = dw_bound = db_bound = Doubles(n);
    // Additions one after another in a sum over a row, without vectors; then a few roundings.
    const double k = static_cast<double>(n) / 4 + 16;
    for (size_t r = 0; r < rows; r++) {
      const double* row = x.data() + r * n;
      double mean = 0, size = 0, square = 0;
      for (size_t i = 0; i < n; i++) mean += row[i] / n, size += std::abs(row[i]) / n;
      if (c.kind == NormKind::rms) mean = size = 0;
      for (size_t i = 0; i < n; i++) square += (row[i] - mean) * (row[i] - mean) / n;
      const double inverse = 1 / std::sqrt(square + double(kEps));
      Doubles z(n), dz(n), h(n);  // normalised, its error, its cotangent
      double level = 0, along = 0, level_size = 0, along_size = 0, along_error = 0;
      for (size_t i = 0; i < n; i++) {
        z[i] = (row[i] - mean) * inverse;
        dz[i] = kUnit * k * (inverse * size + std::abs(z[i]));
        h[i] = g[r * n + i] * (w[i] + c.offset);
        level += h[i] / n, level_size += std::abs(h[i]) / n;
        along += h[i] * z[i] / n, along_size += std::abs(h[i] * z[i]) / n;
        along_error += std::abs(h[i]) * dz[i] / n;
      }
      if (c.kind == NormKind::rms) level = level_size = 0;
      for (size_t i = 0; i < n; i++) {
        const size_t at = r * n + i;
        y[at] = z[i] * (w[i] + c.offset) + b[i];
        y_bound[at] =
            dz[i] * std::abs(w[i] + c.offset) + 4 * kUnit * (std::abs(y[at]) + std::abs(b[i]));
        dx[at] = inverse * (h[i] - level - z[i] * along);
        dx_bound[at] =
            inverse * (kUnit * 2 * k * (std::abs(h[i]) + level_size + std::abs(z[i]) * along_size) +
                       dz[i] * along_size + std::abs(z[i]) * along_error);
        // Sums over rows: blocks, then up to 32 of them.
        const double additions = static_cast<double>(std::max<size_t>(32, rows / 32) + 34);
        const double gi = g[at];
        dw[i] += gi * z[i], db[i] += gi;
        dw_bound[i] += std::abs(gi) * (dz[i] + kUnit * additions * std::abs(z[i]));
        db_bound[i] += std::abs(gi) * kUnit * additions;
      }
    }
  }
};

// Rounding to the dtype comes on top of what float32 loses.
std::function<double(size_t)> rounded(const Doubles& v, const Doubles& bound, mx::Dtype dtype) {
  const double step = dtype == mx::float16 ? 0x1p-25 : 1e-30;  // below the normal numbers
  return [&v, &bound, dtype, step](size_t i) {
    return bound[i] + unit(dtype) * (std::abs(v[i]) + bound[i]) + step;
  };
}

array plus(const array& x, float v) {
  return mx::add(x, array(v, x.dtype()));
}

TEST(Norm, AgreesWithDouble) {
  on_every_isa([](const std::string& isa) {
    for (const auto& c : kCases) {
      for (const auto dtype : kFloats) {
        for (const auto weight_dtype : {mx::float32, dtype}) {
          for (const auto& [rows, width] :
               {std::pair{5, 1}, {1, 3}, {5, 16}, {3, 17}, {200, 100}, {2, 515}}) {
            const auto x = plus(noise({rows, width}, 1, dtype), 0.5f);
            const auto w = weights(c, width, weight_dtype);
            const Reference ref(c, x, w, x);
            expect_near(norm(c.kind, x, w, kEps), ref.y, rounded(ref.y, ref.y_bound, dtype),
                        isa + " " + c.name + " " + name(dtype) + " " + std::to_string(rows) + "x" +
                            std::to_string(width));
          }
        }
      }
    }
  });
}

TEST(Norm, GradientsAgreeWithDouble) {
  on_every_isa([](const std::string& isa) {
    for (const auto& c : kCases) {
      for (const auto dtype : kFloats) {
        for (const auto& [rows, width] : {std::pair{1, 3}, {7, 16}, {300, 100}, {40, 130}}) {
          const auto x = plus(noise({rows, width}, 1, dtype), 0.5f);
          const auto g = noise({rows, width}, 9, dtype);
          const auto w = weights(c, width, rows == 7 ? dtype : mx::float32);
          Arrays in{x, w.weight};
          if (w.bias) in.push_back(*w.bias);
          const auto f = [&](const Arrays& v) -> Arrays {
            NormWeights mine{v[1], {}, c.offset};
            if (c.bias) mine.bias = v[2];
            return {norm(c.kind, v[0], mine, kEps)};
          };
          const auto got = mx::vjp(f, in, {g}).second;
          const Reference ref(c, x, w, g);
          const auto what = isa + " " + c.name + " " + name(dtype) + " " + std::to_string(rows) +
                            "x" + std::to_string(width);
          EXPECT_EQ(got[1].dtype(), w.weight.dtype());
          expect_near(got[0], ref.dx, rounded(ref.dx, ref.dx_bound, dtype), what + " dx");
          expect_near(got[1], ref.dw, rounded(ref.dw, ref.dw_bound, got[1].dtype()), what + " dw");
          if (c.bias) {
            expect_near(got[2], ref.db, rounded(ref.db, ref.db_bound, got[2].dtype()),
                        what + " db");
          }
        }
      }
    }
  });
}

// The residual's parts against the norm alone, which the tests above hold against float64.
TEST(Norm, WithTheResidual) {
  for (const auto& c : kCases) {
    for (const auto dtype : kFloats) {
      const auto x = noise({41, 67}, 1, dtype), branch = noise({41, 67}, 4, dtype);
      const auto t = noise({41, 67}, 5, dtype), u = noise({41, 67}, 6, dtype);
      const auto w = weights(c, 67);
      const auto what = std::string(c.name) + " " + name(dtype);

      const auto added = add_norm(c.kind, x, branch, w, kEps);
      EXPECT_TRUE(same_bits(added.sum, mx::add(x, branch))) << what;
      EXPECT_TRUE(same_bits(added.normed, norm(c.kind, added.sum, w, kEps))) << what;
      const auto both = [&](const Arrays& v) -> Arrays {
        const auto y = add_norm(c.kind, v[0], v[1], w, kEps);
        return {y.sum, y.normed};
      };
      const auto got = mx::vjp(both, {x, branch}, {t, u}).second;
      const Reference ref(c, added.sum, w, u);
      auto expected = values(t);
      for (size_t i = 0; i < expected.size(); i++) expected[i] += ref.dx[i];
      expect_near(got[0], expected, rounded(expected, ref.dx_bound, dtype), what + " dx");
      EXPECT_TRUE(same_bits(got[0], got[1])) << what;

      const auto onto = [&](const Arrays& v) -> Arrays {
        return {norm_onto(c.kind, v[0], v[1], w, kEps)};
      };
      const Reference of_x(c, x, w, u);
      auto sum = values(branch);
      for (size_t i = 0; i < sum.size(); i++) sum[i] += of_x.y[i];
      expect_near(onto({branch, x})[0], sum, rounded(sum, of_x.y_bound, dtype), what + " onto");
      const auto parts = mx::vjp(onto, {branch, x}, {u}).second;
      EXPECT_TRUE(same_bits(parts[0], u)) << what;
      expect_near(parts[1], of_x.dx, rounded(of_x.dx, of_x.dx_bound, dtype), what + " onto dx");
    }
  }
  const auto w = weights(kCases[2], 8);
  const auto mixed =
      add_norm(NormKind::rms, noise({3, 8}, 1), noise({3, 8}, 2, mx::float16), w, kEps);
  EXPECT_EQ(mixed.sum.dtype(), mx::float32);
}

TEST(Norm, PassingItself) {
  for (const auto dtype : {mx::float32, mx::bfloat16}) {
    const auto x = mx::astype(noise({70, 33}, 1), dtype), t = mx::astype(noise({70, 33}, 3), dtype);
    const auto none = mx::zeros({70, 33}, dtype);
    for (const auto& c : kCases) {
      const auto w = weights(c, 33);
      const auto passing = [&](const Arrays& v) -> Arrays {
        const auto y = norm_passing(c.kind, v[0], w, kEps);
        return {y.sum, y.normed};
      };
      const auto added = [&](const Arrays& v) -> Arrays {
        const auto y = add_norm(c.kind, v[0], none, w, kEps);
        return {y.sum, y.normed};
      };
      const auto a = mx::vjp(passing, {x}, {t, x}), b = mx::vjp(added, {x}, {t, x});
      EXPECT_TRUE(same_bits(a.first[0], x)) << c.name;
      EXPECT_TRUE(same_bits(a.first[1], norm(c.kind, x, w, kEps))) << c.name;
      EXPECT_TRUE(same_bits(a.second[0], b.second[0])) << c.name;
    }
  }
}

// Buffers handed on (inputs that nobody else holds) change nothing.
TEST(Norm, DonatedInputsStayRight) {
  const auto x = noise({70, 33}, 1), branch = noise({70, 33}, 2), t = noise({70, 33}, 3);
  const auto fresh = [](const array& a) { return mx::multiply(a, array(1.0f)); };
  for (const auto& c : kCases) {
    const auto w = weights(c, 33);
    const auto all = [&](auto own) {
      const auto alone = norm(c.kind, own(x), w, kEps);
      const auto onto = norm_onto(c.kind, own(x), own(branch), w, kEps);
      const auto first = add_norm(c.kind, own(x), branch, w, kEps);
      const auto second = add_norm(c.kind, x, own(branch), w, kEps);
      const auto third = add_norm(c.kind, own(x), own(branch), w, kEps);
      const auto both = [&](const Arrays& v) -> Arrays {
        const auto y = add_norm(c.kind, v[0], v[1], w, kEps);
        return {y.sum, y.normed};
      };
      const auto gradient = mx::vjp(both, {x, branch}, {own(t), own(branch)}).second;
      return Arrays{alone,         onto,      first.sum,    first.normed, second.sum,
                    second.normed, third.sum, third.normed, gradient[0],  gradient[1]};
    };
    const auto kept = all([](const array&a) { return a; }), given = all(fresh);
    for (size_t i = 0; i < kept.size(); i++) {
      EXPECT_TRUE(same_bits(kept[i], given[i])) << c.name << " " << i;
    }
  }
  // With several outputs, too, an input's buffer is reused: one array is made where two would be.
  auto big = noise({1000, 1000}, 1), other = noise({1000, 1000}, 2);
  const auto w = weights(kCases[2], 1000);
  mx::eval(big, other, w.weight);
  mx::synchronize();
  const size_t before = mx::get_active_memory();
  auto y = add_norm(NormKind::rms, std::move(big), std::move(other), w, kEps);
  big = other = array(0.0f);
  mx::eval(y.sum, y.normed);
  mx::synchronize();
  EXPECT_LE(mx::get_active_memory(), before + 4096);
}

TEST(Norm, AnyStrides) {
  const auto x = noise({24, 40}, 1), g = noise({24, 40}, 5);
  for (const auto& c : kCases) {
    const auto w = weights(c, 40);
    const auto f = [&](const Arrays& v) -> Arrays { return {norm(c.kind, v[0], w, kEps)}; };
    const auto expected = mx::vjp(f, {x}, {g});
    for (const auto& view :
         {gappy(x), shifted(x), mx::transpose(mx::contiguous(mx::transpose(x)))}) {
      EXPECT_TRUE(same_bits(f({view})[0], expected.first[0])) << c.name;
      EXPECT_TRUE(same_bits(mx::vjp(f, {view}, {gappy(g)}).second[0], expected.second[0]))
          << c.name;
    }
    const auto row = mx::grad([&](const array& v) { return mx::sum(f({v})[0]); })(x);
    EXPECT_TRUE(same_bits(row, mx::vjp(f, {x}, {mx::ones({24, 40})}).second[0])) << c.name;
  }
}

TEST(Norm, OnlyTheAskedGradients) {
  const auto x = noise({20, 32}, 1), t = noise({20, 32}, 9);
  const auto w = weights(kCases[0], 32);
  const auto all =
      mx::vjp([](const Arrays& v) -> Arrays { return {layer_norm(v[0], v[1], v[2], kEps)}; },
              {x, w.weight, *w.bias}, {t})
          .second;
  const auto one =
      mx::vjp([&](const Arrays& v) -> Arrays { return {layer_norm(x, v[0], w.bias, kEps)}; },
              {w.weight}, {t})
          .second;
  EXPECT_TRUE(same_bits(one[0], all[1]));
}

TEST(Norm, BitsDoNotDependOnTheNumberOfThreads) {
  const auto x = noise({1000, 96}, 1), t = noise({1000, 96}, 9);
  const auto w = weights(kCases[0], 96);
  const auto gradients = [&](int n) {
    set_threads(n);
    auto g = mx::vjp([](const Arrays& v) -> Arrays { return {layer_norm(v[0], v[1], v[2], kEps)}; },
                     {x, w.weight, *w.bias}, {t})
                 .second;
    mx::eval(g);
    mx::synchronize();
    return g;
  };
  const auto one = gradients(1), three = gradients(3), again = gradients(3);
  set_threads(0);
  for (size_t i = 0; i < one.size(); i++) {
    EXPECT_TRUE(same_bits(one[i], three[i])) << "input " << i;
    EXPECT_TRUE(same_bits(again[i], three[i])) << "input " << i;
  }
}

TEST(Norm, Transformations) {
  const auto x = noise({24, 40}, 1), branch = noise({24, 40}, 2), tangent = noise({24, 40}, 3);
  const auto near = [](const array& a, const array& b) {
    const auto v = values(b);
    double size = 1;
    for (const double one : v) size = std::max(size, std::abs(one));
    // The ordinary ops round each step: a dozen of them, each as large as the largest value.
    expect_near(
        a, v, [&](size_t) { return 64 * kUnit * size; }, "");
  };
  for (const auto& c : kCases) {
    const auto w = weights(c, 40);
    const auto own = [&](const Arrays& v) -> Arrays {
      const auto y = add_norm(c.kind, v[0], v[1], w, kEps);
      return {y.sum, y.normed, norm_onto(c.kind, v[0], v[1], w, kEps)};
    };
    const auto plain = [&](const Arrays& v) -> Arrays {
      const auto n = [&](const array& a) {
        const auto weight = plus(w.weight, c.offset);
        return c.kind == NormKind::rms ? mx::fast::rms_norm(a, weight, kEps)
                                       : mx::fast::layer_norm(a, weight, w.bias, kEps);
      };
      const auto sum = mx::add(v[0], v[1]);
      return {sum, n(sum), mx::add(v[0], n(v[1]))};
    };
    const auto loss = [](auto f) {
      return [f](const Arrays& v) {
        const auto y = f(v);
        return mx::sum(mx::square(y[0])) + mx::sum(mx::square(y[1])) + mx::sum(y[1] * y[2]);
      };
    };
    const auto gradient = [&](auto f) -> std::function<Arrays(const Arrays&)> {
      return [&loss, f](const Arrays& v) { return mx::grad(loss(f), {0, 1})(v); };
    };
    const auto twice = [&](auto f) {
      return mx::grad(
          [&, f](const Arrays& v) {
            const auto g = gradient(f)(v);
            return mx::sum(mx::square(g[0])) + mx::sum(g[1] * tangent);
          },
          {0, 1})({x, branch});
    };
    const Arrays in{x, branch};
    const auto compiled = mx::compile(gradient(own))(in), eager = gradient(own)(in);
    const auto again = mx::vjp(mx::checkpoint(own), in, own(in)).second;
    const auto once = mx::vjp(own, in, own(in)).second;
    for (int i = 0; i < 2; i++) {
      near(eager[i], gradient(plain)(in)[i]);
      EXPECT_TRUE(same_bits(compiled[i], eager[i])) << c.name;
      EXPECT_TRUE(same_bits(again[i], once[i])) << c.name;
      near(twice(own)[i], twice(plain)[i]);
    }
    for (int i = 0; i < 3; i++) {
      near(mx::vmap(own)(in)[i], plain(in)[i]);
      near(mx::jvp(own, in, {tangent, x}).second[i], mx::jvp(plain, in, {tangent, x}).second[i]);
    }
  }
}

TEST(Norm, EmptyAndWrong) {
  const auto w = weights(kCases[0], 8);
  EXPECT_EQ(layer_norm(mx::zeros({0, 8}), w.weight, w.bias, kEps).shape(), (mx::Shape{0, 8}));
  const auto g = mx::grad(
      [&](const Arrays& v) {
        return mx::sum(layer_norm(mx::zeros({0, 8}), v[0], v[1], kEps));
      },
      {0, 1})({w.weight, *w.bias});
  EXPECT_TRUE(same_bits(g[0], mx::zeros({8})));
  EXPECT_TRUE(same_bits(g[1], mx::zeros({8})));
  EXPECT_THROW(rms_norm(mx::ones({2, 8}), mx::ones({7}), kEps), Error);
  EXPECT_THROW(layer_norm(mx::ones({2, 8}), mx::ones({8}), mx::ones({1, 8}), kEps), Error);
  EXPECT_THROW(norm(NormKind::rms, mx::ones({2, 8}), w, kEps), Error);
}

}  // namespace
}  // namespace lmxlab::kernels
