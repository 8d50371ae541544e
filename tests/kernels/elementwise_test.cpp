#include "lmxlab/kernels/elementwise.h"

#include "lmxlab/kernels/reduce.h"
#include "lmxlab/kernels/thread_pool.h"
#include "tests/kernels/reference.h"

namespace mx = mlx::core;
using mx::array;
using Arrays = std::vector<array>;

namespace lmxlab::kernels {
namespace {

// Across vectors and parts, and what a rounding has to get right.
array samples(mx::Dtype dtype, int n) {
  auto x = noise({n}, 3);
  if (n > 16) {
    const float inf = std::numeric_limits<float>::infinity();
    const array odd({0.0f, -0.0f, inf, -inf, 1e-7f, 6e-8f, 65519.0f, 65520.0f, 1.00390625f,
                     1.01171875f, 3.3e38f, 1.2e-38f, NAN});
    x = mx::concatenate({odd, mx::slice(x, {13}, {n})});
  }
  return mx::astype(x, dtype);
}

TEST(Elementwise, CastsRoundAsMlxDoes) {
  on_every_isa([](const std::string& isa) {
    for (const auto from : kFloats) {
      for (const auto to : kFloats) {
        for (int n : {0, 1, 17, 100, 40001}) {
          const auto x = samples(from, n);
          EXPECT_TRUE(same_bits(cast(x, to), mx::astype(x, to)))
              << isa << " " << name(from) << " to " << name(to) << " " << n;
        }
      }
    }
  });
}

TEST(Elementwise, OtherDtypesGoToMlx) {
  const array ids({1, 2, 3});
  EXPECT_TRUE(same_bits(cast(ids, mx::float16), mx::astype(ids, mx::float16)));
  EXPECT_TRUE(same_bits(cast(array({1.5f, -2.5f}), mx::int32), array({1, -2})));
  EXPECT_TRUE(same_bits(kernels::add(ids, array(1)), array({2, 3, 4})));
  EXPECT_EQ(kernels::add(noise({2}, 1, mx::bfloat16), noise({2}, 1)).dtype(), mx::float32);
  EXPECT_TRUE(same_bits(scale(ids, 2), array({2, 4, 6})));
}

TEST(Elementwise, SumsAndMultiples) {
  on_every_isa([](const std::string& isa) {
    for (const auto dtype : kFloats) {
      for (int n : {1, 33, 40003}) {
        const auto a = noise({n}, 1, dtype), b = noise({n}, 2, dtype);
        const auto what = isa + " " + name(dtype) + " " + std::to_string(n);
        const auto p = values(a), q = values(b);
        Doubles sum(p.size()), multiple(p.size());
        const double factor = values(array(1.7f, dtype))[0];
        for (size_t i = 0; i < p.size(); i++) sum[i] = p[i] + q[i], multiple[i] = factor * p[i];
        const auto half_step = [&](const Doubles& v) {
          const double least = dtype == mx::float16 ? 0x1p-25 : 1e-30;
          return [&v, least, u = unit(dtype)](size_t i) { return u * std::abs(v[i]) + least; };
        };
        expect_near(kernels::add(a, b), sum, half_step(sum), "add " + what);
        expect_near(scale(a, 1.7f), multiple, half_step(multiple), "scale " + what);
      }
    }
  });
}

// Sums of 16 MiB and more are written past the caches where their rows begin on a whole vector.
TEST(Elementwise, LargeSums) {
  on_every_isa([](const std::string& isa) {
    const int rows = 2100, width = 2049;
    const auto a = noise({rows, width}, 1), b = noise({rows, width}, 2), row = noise({width}, 3);
    EXPECT_TRUE(same_bits(kernels::add(a, b), mx::add(a, b))) << isa;
    EXPECT_TRUE(same_bits(kernels::add(a, row), mx::add(a, row))) << isa;
    EXPECT_TRUE(same_bits(scale(a, 1.7f), mx::multiply(a, array(1.7f)))) << isa;
    const auto inner = mx::slice(mx::reshape(a, {-1}), {1}, {rows * width});
    EXPECT_TRUE(same_bits(scale(inner, 1.7f), mx::multiply(inner, array(1.7f)))) << isa;
  });
}

TEST(Elementwise, AnyStrides) {
  for (const auto dtype : kFloats) {
    const auto x = noise({37, 301}, 1, dtype), y = noise({301, 37}, 2, dtype);
    for (const auto& [name, view] :
         {std::pair{"transposed", mx::transpose(y)},
          {"gappy", gappy(x)},
          {"shifted", shifted(x)},
          {"a row", mx::broadcast_to(mx::slice(x, {0, 0}, {1, 301}), {37, 301})},
          {"a number", mx::broadcast_to(array(2.5f, dtype), {37, 301})},
          {"a column", mx::broadcast_to(mx::slice(x, {0, 0}, {37, 1}), {37, 301})},
          {"backwards", mx::slice(x, {36, 300}, {-38, -302}, {-1, -1})}}) {
      const auto dense = mx::contiguous(view);
      EXPECT_TRUE(same_bits(kernels::add(view, x), kernels::add(dense, x))) << name;
      EXPECT_TRUE(same_bits(cast(view, mx::float32), mx::astype(dense, mx::float32))) << name;
      EXPECT_TRUE(same_bits(scale(view, 3), scale(dense, 3))) << name;
      EXPECT_TRUE(same_bits(sum_rows(view, dtype), sum_rows(dense, dtype))) << name;
    }
  }
}

TEST(Elementwise, DonatedInputsStayRight) {
  for (const auto dtype : kFloats) {
    const auto x = noise({300, 70}, 1, dtype), y = noise({300, 70}, 2, dtype);
    const auto fresh = [](const array& a) { return mx::multiply(a, array(1, a.dtype())); };
    const auto sum = kernels::add(x, y);
    EXPECT_TRUE(same_bits(kernels::add(fresh(x), y), sum));
    EXPECT_TRUE(same_bits(kernels::add(x, fresh(y)), sum));
    EXPECT_TRUE(same_bits(kernels::add(mx::transpose(fresh(mx::transpose(x))), fresh(y)), sum));
    EXPECT_TRUE(same_bits(scale(fresh(x), 3), scale(x, 3)));
    const auto other = dtype == mx::float16 ? mx::bfloat16 : mx::float16;
    EXPECT_TRUE(same_bits(cast(fresh(x), other), mx::astype(x, other)));
    EXPECT_TRUE(same_bits(x, noise({300, 70}, 1, dtype)));
  }
}

TEST(Elementwise, Gradients) {
  const auto x = noise({5, 33}, 1, mx::bfloat16), t = noise({5, 33}, 2);
  const auto loss = [&](const Arrays& v) {
    const auto y = scale(kernels::add(cast(v[0], mx::float32), v[1]), 3);
    return mx::sum(mx::multiply(y, t)) + mx::sum(sum_rows(v[1], mx::float32));
  };
  for (const bool compiled : {false, true}) {
    std::function<Arrays(const Arrays&)> gradient = [&](const Arrays& v) {
      return mx::grad(loss, std::vector<int>{0, 1})(v);
    };
    if (compiled) gradient = mx::compile(gradient);
    const auto g = gradient({x, noise({5, 33}, 4)});
    EXPECT_TRUE(same_bits(g[0], mx::astype(mx::multiply(t, array(3.0f)), mx::bfloat16)));
    EXPECT_TRUE(same_bits(g[1], mx::add(mx::multiply(t, array(3.0f)), array(1.0f))));
  }
  const auto rows = mx::vmap([](const Arrays& v) -> Arrays {
    return {kernels::add(scale(v[0], 2), cast(v[0], mx::bfloat16))};
  })({x})[0];
  EXPECT_TRUE(same_bits(rows, mx::multiply(x, array(3, x.dtype()))));
}

// Positions or a bias: one array has the shape of the other's last axes.
TEST(Elementwise, SumsWithRepeatedRows) {
  for (const auto dtype : kFloats) {
    const auto x = noise({5, 300, 33}, 1, dtype), t = noise({5, 300, 33}, 2, dtype);
    for (const auto& shape : {mx::Shape{300, 33}, {33}, {1, 300, 33}, {}}) {
      const auto row = noise(shape, 3, dtype);
      const auto f = [](const Arrays& v) -> Arrays { return {kernels::add(v[0], v[1])}; };
      EXPECT_TRUE(same_bits(f({x, row})[0], mx::add(x, row)));
      EXPECT_TRUE(same_bits(f({row, x})[0], mx::add(x, row)));
      const auto g = mx::vjp(f, {row, x}, {t}).second;
      EXPECT_TRUE(same_bits(g[1], t));
      const auto v = values(t);
      Doubles sum(row.size()), size(sum);
      for (size_t i = 0; i < v.size(); i++) {
        sum[i % sum.size()] += v[i], size[i % sum.size()] += std::abs(v[i]);
      }
      const double additions = v.size() / sum.size() / 32.0 + 64;
      expect_near(
          g[0], sum,
          [&](size_t i) { return unit(dtype) * std::abs(sum[i]) + additions * 0x1p-24 * size[i]; },
          name(dtype));
    }
  }
}

TEST(SumRows, AgreesWithDouble) {
  on_every_isa([](const std::string& isa) {
    for (const auto from : kFloats) {
      for (const auto to : {mx::float32, from}) {
        for (const auto& [rows, width] :
             {std::pair{0, 5}, {1, 1}, {3, 17}, {33, 64}, {1000, 100}, {70, 2100}}) {
          const auto x = noise({rows, width}, 5, from);
          const auto v = values(x);
          Doubles sum(static_cast<size_t>(width)), size(sum);
          for (size_t i = 0; i < v.size(); i++) {
            sum[i % size.size()] += v[i], size[i % size.size()] += std::abs(v[i]);
          }
          // Blocks of rows, then up to 32 of them: additions one after another.
          const double additions = std::max(32, (rows + 31) / 32) + 32;
          expect_near(
              sum_rows(x, to), sum,
              [&](size_t i) {
                return unit(to) * std::abs(sum[i]) + additions * 0x1p-24 * size[i] + 1e-30;
              },
              isa + " " + name(from) + " " + std::to_string(rows) + "x" + std::to_string(width));
        }
      }
    }
  });
  EXPECT_EQ(sum_rows(noise({2, 3, 4}, 1), mx::float16).shape(), mx::Shape{4});
}

TEST(SumRows, BitsDoNotDependOnTheNumberOfThreads) {
  const auto x = noise({3000, 300}, 5);
  set_threads(1);
  auto one = sum_rows(x, mx::float32);
  mx::eval(one);
  mx::synchronize();
  set_threads(5);
  auto five = sum_rows(x, mx::float32);
  mx::eval(five);
  mx::synchronize();
  set_threads(0);
  EXPECT_TRUE(same_bits(one, five));
}

}  // namespace
}  // namespace lmxlab::kernels
