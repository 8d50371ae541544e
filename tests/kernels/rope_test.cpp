#include "lmxlab/kernels/rope.h"

#include "lmxlab/base/error.h"
#include "lmxlab/kernels/thread_pool.h"
#include "tests/kernels/reference.h"

namespace mx = mlx::core;
using mx::array;
using Arrays = std::vector<array>;

namespace lmxlab::kernels {
namespace {

struct Turned {
  Doubles y, size;  // size: of the pair
};
// In float64; angle(position, i) of pair i.
Turned reference(const array& x, const Rope& r, const std::vector<int>& offsets,
                 bool back = false) {
  const int B = x.shape(0), H = x.shape(1), L = x.shape(2), D = x.shape(3);
  const int dims = r.dims ? r.dims : D;
  const auto given = r.frequencies ? values(*r.frequencies) : Doubles();
  auto v = values(x);
  Turned t{v, v};
  for (int b = 0, row = 0; b < B; b++) {
    for (int h = 0; h < H; h++) {
      for (int l = 0; l < L; l++, row++) {
        for (int i = 0; i < dims / 2; i++) {
          const double f = r.frequencies ? given[i] : std::pow(double(r.theta), -2.0 * i / dims);
          const double angle = (offsets[offsets.size() > 1 ? b : 0] + l) * double(r.scale) * f;
          const double m = double(r.magnitude), c = m * std::cos(angle),
                       s = back ? -m * std::sin(angle) : m * std::sin(angle);
          const size_t p = size_t(row) * D + (r.interleaved ? 2 * i : i);
          const size_t q = r.interleaved ? p + 1 : p + dims / 2;
          t.y[p] = v[p] * c - v[q] * s, t.y[q] = v[p] * s + v[q] * c;
          t.size[p] = t.size[q] = m * std::hypot(v[p], v[q]);
        }
      }
    }
  }
  return t;
}

// Cosine and sine rounded, two products and a sum; then the dtype.
std::function<double(size_t)> bound(const Turned& t, mx::Dtype dtype) {
  return [&t, dtype](size_t i) {
    return unit(dtype) * std::abs(t.y[i]) + 6 * 0x1p-24 * std::abs(t.size[i]) + 1e-8;
  };
}

TEST(Rope, AgreesWithDouble) {
  on_every_isa([](const std::string& isa) {
    for (const bool interleaved : {false, true}) {
      for (const auto dtype : kFloats) {
        for (const auto& [shape, dims] : {std::pair{mx::Shape{2, 3, 5, 64}, 64},
                                          {{1, 1, 1, 2}, 2},
                                          {{1, 2, 40, 20}, 6},
                                          {{2, 1, 3, 34}, 34},
                                          {{1, 2, 3, 128}, 32}}) {
          for (const int offset : {0, 1000003}) {
            const Rope r{
                .dims = dims, .interleaved = interleaved, .magnitude = offset == 0 ? 1.0f : 1.25f};
            const auto x = noise(shape, 1, dtype);
            const auto t = reference(x, r, {offset});
            const auto what = isa + " " + name(dtype) + (interleaved ? " interleaved " : " ") +
                              std::to_string(dims) + " at " + std::to_string(offset);
            expect_near(rope(x, r, offset), t.y, bound(t, dtype), what);
            const auto f = [&](const Arrays& v) -> Arrays { return {rope(v[0], r, offset)}; };
            const auto back = reference(x, r, {offset}, true);
            expect_near(mx::vjp(f, {x}, {x}).second[0], back.y, bound(back, dtype), what + " back");
          }
        }
      }
    }
  });
}

TEST(Rope, ScaleFrequenciesAndOffsetsOfTheirOwn) {
  for (const bool interleaved : {false, true}) {
    const auto x = noise({3, 2, 7, 16}, 1);
    Rope r{8, interleaved, 500, 0.25f};
    auto t = reference(x, r, {9});
    expect_near(rope(x, r, 9), t.y, bound(t, mx::float32), "scale");
    t = reference(x, r, {5, -3, 100});
    expect_near(rope(x, r, array({5, -3, 100})), t.y, bound(t, mx::float32), "offsets");
    t = reference(x, r, {4});
    expect_near(rope(x, r, array(4)), t.y, bound(t, mx::float32), "an offset in an array");
    r.frequencies = array({1.0f, 0.3f, 0.07f, 0.0f});
    t = reference(x, r, {5, -3, 100});
    expect_near(rope(x, r, array({5, -3, 100})), t.y, bound(t, mx::float32), "frequencies");
  }
  const auto many = noise({70, 1, 2, 64}, 1);  // more sequences than rows
  std::vector<int> offsets(70);
  for (int i = 0; i < 70; i++) offsets[size_t(i)] = 31 * i;
  const auto t = reference(many, {}, offsets);
  expect_near(rope(many, {}, array(offsets.data(), {70})), t.y, bound(t, mx::float32), "many");
}

// The ordinary ops round frequencies and angles to float32: by eps of the angle, a few times.
TEST(Rope, AgreesWithMlx) {
  for (const bool interleaved : {false, true}) {
    for (const int offset : {0, 100, 100000}) {
      const auto x = noise({2, 2, 9, 32}, 1);
      const Rope r{0, interleaved};
      const auto plain = mx::fast::rope(x, 32, interleaved, 10000.0f, 1.0f, offset);
      const auto t = reference(x, r, {offset});
      expect_near(
          rope(x, r, offset), values(plain),
          [&](size_t i) { return (6 + 8.0 * (offset + 9)) * 0x1p-24 * t.size[i] + 1e-7; },
          "offset " + std::to_string(offset));
    }
  }
}

TEST(Rope, KeepsTheOrderOfAxesInMemory) {
  const Rope r{6, false};
  const auto packed = noise({2, 5, 3 * 16}, 1);  // [B, L, H * Dh]
  const auto view = mx::transpose(mx::reshape(packed, {2, 5, 3, 16}), {0, 2, 1, 3});
  auto y = rope(view, r, 3);
  const auto expected = rope(mx::contiguous(view), r, 3);
  EXPECT_TRUE(same_bits(y, expected));
  EXPECT_EQ(y.strides(), (mx::Strides{5 * 48, 16, 48, 1}));
  EXPECT_TRUE(same_bits(mx::reshape(mx::transpose(y, {0, 2, 1, 3}), {2, 5, 48}),
                        mx::reshape(mx::transpose(expected, {0, 2, 1, 3}), {2, 5, 48})));
  // A part of a wider row, as of projections that are one product.
  const auto wide = mx::concatenate({packed, packed}, -1);
  const auto part = mx::slice(wide, {0, 0, 48}, {2, 5, 96});
  const auto heads = mx::transpose(mx::reshape(part, {2, 5, 3, 16}), {0, 2, 1, 3});
  EXPECT_TRUE(same_bits(rope(heads, r, 3), expected));
  EXPECT_TRUE(same_bits(rope(gappy(mx::contiguous(view)), r, 3), expected));
  EXPECT_TRUE(same_bits(rope(shifted(mx::contiguous(view)), r, 3), expected));
  const auto one = mx::slice(view, {0, 0, 2, 0}, {2, 3, 3, 16});  // one row of each sequence
  EXPECT_TRUE(same_bits(rope(one, r, 3), mx::slice(rope(view, r, 1), {0, 0, 2, 0}, {2, 3, 3, 16})));
  const auto same = mx::broadcast_to(mx::slice(packed, {0, 0, 0}, {1, 1, 16}), {2, 3, 5, 16});
  EXPECT_TRUE(same_bits(rope(same, r), rope(mx::contiguous(same), r)));
}

TEST(Rope, DonatedInputsStayRight) {
  for (const bool interleaved : {false, true}) {
    for (const auto dtype : kFloats) {
      const Rope r{10, interleaved};
      const auto packed = noise({2, 40, 3, 16}, 1, dtype);
      const auto expected = rope(mx::transpose(packed, {0, 2, 1, 3}), r, 3);
      const auto fresh = mx::transpose(mx::multiply(packed, array(1, dtype)), {0, 2, 1, 3});
      EXPECT_TRUE(same_bits(rope(fresh, r, 3), expected));
    }
  }
}

TEST(Rope, Transformations) {
  const auto x = noise({2, 3, 5, 16}, 1), t = noise({2, 3, 5, 16}, 2);
  const Rope r{8, true};
  const std::function<Arrays(const Arrays&)> own = [&](const Arrays& v) -> Arrays {
    return {rope(v[0], r, 7)};
  };
  const auto y = own({x})[0];
  EXPECT_TRUE(same_bits(mx::compile(own)({x})[0], y));
  const auto near = [](const array& a, const array& b, const char* what) {
    expect_near(
        a, values(b), [](size_t) { return 64 * 0x1p-24 * 12 * 6; }, what);
  };
  near(mx::jvp(own, {x}, {t}).second[0], own({t})[0], "jvp");
  const auto lifted = mx::vmap(own)({mx::stack({x, t})})[0];
  near(lifted, mx::stack({y, own({t})[0]}), "vmap");
  // Turning there and back is the identity; so is the gradient of the gradient the turn again.
  const auto twice = mx::vjp(
      [&](const Arrays& v) -> Arrays { return mx::vjp(own, {x}, {v[0]}).second; }, {t}, {x});
  EXPECT_TRUE(same_bits(twice.second[0], y));
  const auto sum = mx::grad([&](const array& v) { return mx::sum(own({v})[0]); })(x);
  EXPECT_TRUE(same_bits(sum, mx::vjp(own, {x}, {mx::ones({2, 3, 5, 16})}).second[0]));
}

TEST(Rope, BitsDoNotDependOnTheNumberOfThreads) {
  const auto x = noise({2, 3, 500, 64}, 1);
  set_threads(1);
  auto one = rope(x, {});
  mx::eval(one);
  mx::synchronize();
  set_threads(5);
  auto five = rope(x, {});
  mx::eval(five);
  mx::synchronize();
  set_threads(0);
  EXPECT_TRUE(same_bits(one, five));
}

TEST(Rope, EmptyAndWrong) {
  EXPECT_EQ(rope(mx::zeros({0, 2, 3, 4}), {}).size(), 0u);
  EXPECT_EQ(rope(mx::zeros({1, 2, 0, 4}), {}).size(), 0u);
  const auto x = mx::zeros({2, 2, 3, 8});
  EXPECT_THROW(rope(x, {.dims = 3}), Error);
  EXPECT_THROW(rope(x, {.dims = 10}), Error);
  EXPECT_THROW(rope(mx::zeros({2, 3, 8}), {}), Error);
  EXPECT_THROW(rope(x, {}, array({1, 2, 3})), Error);
  EXPECT_THROW(rope(x, {.frequencies = mx::ones({3})}), Error);
}

}  // namespace
}  // namespace lmxlab::kernels
