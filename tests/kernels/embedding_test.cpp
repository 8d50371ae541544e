#include "lmxlab/kernels/embedding.h"

#include <algorithm>

#include "lmxlab/base/error.h"
#include "lmxlab/kernels/thread_pool.h"
#include "tests/kernels/reference.h"

namespace mx = mlx::core;
using mx::array;
using Arrays = std::vector<array>;

namespace lmxlab::kernels {
namespace {

array draw(mx::Shape shape, int rows) {
  return mx::astype(mx::random::randint(0, rows, std::move(shape), mx::int32, mx::random::key(8)),
                    mx::int32);
}

TEST(Embedding, RowsOfTheTable) {
  on_every_isa([](const std::string& isa) {
    for (const auto from : kFloats) {
      for (const auto to : kFloats) {
        const auto table = noise({50, 37}, 1, from);
        for (const auto& shape : {mx::Shape{3, 70}, mx::Shape{1}, mx::Shape{}, mx::Shape{0}}) {
          const auto ids = draw(shape, 50);
          EXPECT_TRUE(same_bits(embedding(table, ids, to), mx::astype(mx::take(table, ids, 0), to)))
              << isa << " " << name(from) << " to " << name(to);
        }
      }
    }
  });
  const auto table = noise({50, 8}, 1);
  const auto ids = array({3, 49, -1, -50});
  const auto expected = mx::take(table, array({3, 49, 49, 0}), 0);
  EXPECT_TRUE(same_bits(embedding(table, ids, mx::float32), expected));
  for (const auto dtype : {mx::int8, mx::int64}) {
    EXPECT_TRUE(same_bits(embedding(table, mx::astype(ids, dtype), mx::float32), expected));
  }
  EXPECT_TRUE(same_bits(embedding(mx::transpose(noise({8, 50}, 1)), ids, mx::float32),
                        mx::take(mx::transpose(noise({8, 50}, 1)), array({3, 49, 49, 0}), 0)));
}

TEST(Embedding, IdsOutsideTheTableGiveNaNAndNoGradient) {
  const auto table = noise({5, 3}, 1), ids = array({4, 5, -6, 2147483647, -2147483647});
  const auto y = values(embedding(table, ids, mx::bfloat16));
  for (size_t i = 0; i < y.size(); i++) EXPECT_EQ(std::isnan(y[i]), i >= 3) << i;
  const auto g =
      mx::vjp([&](const Arrays& v) -> Arrays { return {embedding(v[0], ids, mx::float32)}; },
              {table}, {mx::ones({5, 3})})
          .second[0];
  EXPECT_TRUE(same_bits(g, mx::concatenate({mx::zeros({4, 3}), mx::ones({1, 3})}, 0)));
}

TEST(Embedding, GradientAgreesWithDouble) {
  on_every_isa([](const std::string& isa) {
    for (const auto dtype : kFloats) {
      for (const auto table_dtype : {mx::float32, dtype}) {
        for (const auto& [rows, width, count] :
             {std::tuple{65, 48, 2000}, {3000, 17, 100}, {1, 5, 300}, {7, 1, 1}}) {
          const auto table = mx::zeros({rows, width}, table_dtype), ids = draw({count}, rows);
          const auto g = noise({count, width}, 4, dtype);
          const auto got =
              mx::vjp([&](const Arrays& v) -> Arrays { return {embedding(v[0], ids, dtype)}; },
                      {table}, {g})
                  .second[0];
          EXPECT_EQ(got.dtype(), table_dtype);
          const auto v = values(g), at = values(ids);
          Doubles sum(size_t(rows) * width), size(sum), additions(size_t(rows), 0);
          for (size_t i = 0; i < v.size(); i++) {
            const size_t to = size_t(at[i / width]) * width + i % width;
            sum[to] += v[i], size[to] += std::abs(v[i]), additions[to / width] += 1.0 / width;
          }
          expect_near(
              got, sum,
              [&](size_t i) {
                return unit(table_dtype) * std::abs(sum[i]) +
                       0x1p-24 * additions[i / width] * size[i] + 1e-7 * 0x1p-24;
              },
              isa + " " + name(dtype) + " " + std::to_string(rows));
        }
      }
    }
  });
}

TEST(Embedding, GradientBitsDoNotDependOnTheNumberOfThreads) {
  const auto ids = draw({4, 500}, 40), table = noise({40, 64}, 1);
  const auto gradient = [&](int n) {
    set_threads(n);
    auto g = mx::grad([&](const array& t) {
      return mx::sum(mx::square(embedding(t, ids, mx::bfloat16)));
    })(table);
    mx::eval(g);
    mx::synchronize();
    return g;
  };
  const auto one = gradient(1), five = gradient(5), again = gradient(5);
  set_threads(0);
  EXPECT_TRUE(same_bits(one, five));
  EXPECT_TRUE(same_bits(again, five));
}

TEST(Embedding, Transformations) {
  const auto table = noise({20, 6}, 1), t = noise({20, 6}, 2), ids = draw({3, 4}, 20);
  const std::function<Arrays(const Arrays&)> own = [](const Arrays& v) -> Arrays {
    return {embedding(v[0], v[1], mx::float32)};
  };
  const auto expected = mx::take(table, ids, 0);
  EXPECT_TRUE(same_bits(mx::compile(own)({table, ids})[0], expected));
  EXPECT_TRUE(same_bits(mx::vmap(own, {-1, 0})({table, ids})[0], expected));
  EXPECT_TRUE(same_bits(mx::jvp(
                            [&](const Arrays& v) {
                              return own({v[0], ids});
                            },
                            {table}, {t})
                            .second[0],
                        mx::take(t, ids, 0)));
  const auto gradient = [](auto f) {
    return [f](const Arrays& v) -> Arrays {
      return {mx::grad([&](const array& a) { return mx::sum(mx::square(f({a, v[1]})[0])); })(v[0])};
    };
  };
  const auto plain = [](const Arrays& v) -> Arrays { return {mx::take(v[0], v[1], 0)}; };
  const auto g = gradient(own)({table, ids})[0];
  const auto size = values(gradient(plain)({table, ids})[0]);
  // At most 12 of the ids name one row.
  const auto bound = [&](size_t i) { return 12 * 0x1p-24 * std::abs(size[i]) + 1e-30; };
  expect_near(g, size, bound, "grad");
  EXPECT_TRUE(same_bits(mx::compile(gradient(own))({table, ids})[0], g));
  const auto twice = mx::grad([&](const array& a) {
    return mx::sum(mx::square(gradient(own)({a, ids})[0]));
  })(table);
  const auto twice_plain = mx::grad([&](const array& a) {
    return mx::sum(mx::square(gradient(plain)({a, ids})[0]));
  })(table);
  const auto v = values(twice_plain);
  expect_near(
      twice, v, [&](size_t i) { return 200 * 0x1p-24 * std::abs(v[i]) + 1e-30; }, "twice");
}

TEST(Embedding, EmptyAndWrong) {
  const auto table = noise({5, 3}, 1);
  const auto g = mx::grad([&](const array& t) {
    return mx::sum(embedding(t, mx::zeros({0}, mx::int32), mx::float32));
  })(table);
  EXPECT_TRUE(same_bits(g, mx::zeros({5, 3})));
  EXPECT_EQ(embedding(mx::zeros({5, 0}), array({1}), mx::float32).shape(), (mx::Shape{1, 0}));
  EXPECT_THROW(embedding(mx::zeros({5}), array({1}), mx::float32), Error);
  EXPECT_THROW(embedding(table, array({1.0f}), mx::float32), Error);
}

}  // namespace
}  // namespace lmxlab::kernels
