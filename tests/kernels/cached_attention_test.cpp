#include "lmxlab/kernels/cached_attention.h"

#include <cfloat>
#include <string>
#include <vector>

#include "lmxlab/base/error.h"
#include "lmxlab/kernels/fused.h"
#include "tests/kernels/reference.h"

namespace mx = mlx::core;
using mx::array;
using Arrays = std::vector<array>;

namespace lmxlab::kernels {
namespace {

struct Case {
  int batch, heads, groups, length, at, capacity, width, value;
  bool rotates = true;
  Rope rope = {};
  float softcap = 0;
  int window = 0;
  std::vector<int> padding = {};

  AttentionMask mask() const {
    AttentionMask m{true, window, softcap};
    if (!padding.empty()) m.padding = array(padding.data(), {batch}, mx::int32);
    return m;
  }
  // q, k, v, the two buffers
  Arrays inputs(mx::Dtype dtype, mx::Dtype kept) const {
    Arrays in{noise({batch, length, heads * width}, 1, dtype),
              noise({batch, length, groups * width}, 2, dtype),
              noise({batch, length, groups * value}, 3, dtype),
              noise({batch, groups, capacity, width}, 4, kept),
              noise({batch, groups, capacity, value}, 5, kept)};
    mx::eval(in);
    return in;
  }
  Arrays inputs(mx::Dtype dtype) const { return inputs(dtype, dtype); }
  CachedAttention run(const Arrays& in) const {
    return cached_attention(in[0], in[1], in[2], in[3], in[4], at,
                            rotates ? std::optional(rope) : std::nullopt, 0.3f, mask());
  }
};

// The same by the steps that it joins, each of which is tested against float64 for itself.
CachedAttention by_steps(const Case& c, const Arrays& in) {
  const int to = c.at + c.length;
  const auto split = [&](const array& x, int heads) {
    return mx::transpose(mx::reshape(x, {c.batch, c.length, heads, x.shape(2) / heads}),
                         {0, 2, 1, 3});
  };
  auto q = split(in[0], c.heads), k = split(in[1], c.groups);
  if (c.rotates) {
    array offsets(c.at);
    if (!c.padding.empty()) offsets = mx::subtract(offsets, *c.mask().padding);
    q = rope(q, c.rope, offsets), k = rope(k, c.rope, offsets);
  }
  const auto write = [&](const array& buffer, const array& x) {
    return mx::slice_update(buffer, mx::astype(x, buffer.dtype()), mx::Shape{0, 0, c.at, 0},
                            mx::Shape{c.batch, c.groups, to, x.shape(3)});
  };
  const auto keys = write(in[3], k), values = write(in[4], split(in[2], c.groups));
  const auto seen = [&](const array& b) {
    return mx::slice(b, {0, 0, 0, 0}, {c.batch, c.groups, to, b.shape(3)});
  };
  const auto out = attention(q, seen(keys), seen(values), 0.3f, c.mask());
  return {mx::reshape(mx::transpose(out, {0, 2, 1, 3}), {c.batch, c.length, c.heads * c.value}),
          keys, values};
}

std::vector<Case> cases() {
  const std::vector<float> frequencies{1, 0.5f, 0.01f};
  Rope given{6, true, 1, 0.5f};
  given.frequencies = array(frequencies.data(), {3}, mx::float32);
  return {
      {1, 9, 3, 1, 512, 600, 64, 64},
      {1, 4, 4, 1, 0, 1, 32, 32},
      {2, 4, 2, 5, 7, 12, 24, 40},
      {2, 6, 2, 3, 100, 256, 20, 20, true, {20, true, 500, 2}},
      {3, 4, 1, 2, 30, 64, 16, 16, true, given, 5, 9, {0, 4, 31}},
      {2, 2, 2, 40, 0, 64, 64, 64, true, {}, 0, 0, {0, 13}},
      {1, 8, 2, 70, 200, 512, 64, 64, false},
      {1, 2, 1, 1, 17, 18, 8, 8, false, {}, 3, 6},
      {0, 2, 1, 1, 17, 18, 8, 8},
  };
}

TEST(CachedAttention, EqualsItsSteps) {
  on_every_isa([](const std::string& isa) {
    std::vector<std::pair<mx::Dtype, mx::Dtype>> types{{mx::float32, mx::float16}};
    for (const auto dtype : kFloats) types.emplace_back(dtype, dtype);
    for (const auto& [dtype, kept] : types) {
      int number = 0;
      for (const auto& c : cases()) {
        const auto what =
            isa + " " + name(dtype) + ", " + name(kept) + " case " + std::to_string(number++);
        const auto in = c.inputs(dtype, kept);
        EXPECT_EQ(c.run(in).k.dtype(), kept);
        const auto got = c.run(in), expected = by_steps(c, in);
        EXPECT_TRUE(same_bits(got.out, expected.out)) << what;
        EXPECT_TRUE(same_bits(got.k, expected.k)) << what;
        EXPECT_TRUE(same_bits(got.v, expected.v)) << what;
      }
    }
  });
}

TEST(CachedAttention, OrdinaryOpsAgree) {
  int number = 0;
  for (const auto& c : cases()) {
    if (c.batch == 0) continue;
    const auto in = c.inputs(mx::float32);
    const auto got = c.run(in);
    set_fused(false);
    const auto plain = c.run(in);
    set_fused(true);
    const auto expected = values(plain.out);
    // Angles of float32 are off by their size times eps; a score's error moves a weight as much.
    const double angle = (c.at + c.length) * (c.rotates ? double(c.rope.scale) : 0);
    const double score = 0.3 * c.width * 16 * (c.width + angle) * FLT_EPSILON;
    expect_near(
        got.out, expected, [&](size_t) { return 4 * (2 * score + 8 * FLT_EPSILON); },
        "case " + std::to_string(number++));
  }
}

TEST(CachedAttention, WritesInPlaceUnlessSomebodyLooks) {
  const auto c = cases()[0];
  auto in = c.inputs(mx::float32);
  const auto *k = in[3].data<float>(), *v = in[4].data<float>();
  const auto run = [&] {
    auto q = in[0], new_k = in[1], new_v = in[2];
    auto keys = std::move(in[3]), all = std::move(in[4]);
    in.clear();
    return cached_attention(q, new_k, new_v, std::move(keys), std::move(all), c.at, c.rope, 0.3f,
                            c.mask());
  };
  auto done = run();
  mx::eval(done.out, done.k, done.v);
  EXPECT_EQ(done.k.data<float>(), k);
  EXPECT_EQ(done.v.data<float>(), v);

  in = c.inputs(mx::float32);
  const auto kept = in[3];
  const auto before = values(kept);
  done = run();
  mx::eval(done.out, done.k, done.v);
  EXPECT_NE(done.k.data<float>(), kept.data<float>());
  EXPECT_EQ(values(kept), before);
}

TEST(CachedAttention, ReadsViewsAndGivesGradients) {
  const auto c = cases()[2];
  const auto in = c.inputs(mx::float32);
  Arrays views;
  for (const auto& x : in) views.push_back(gappy(x));
  EXPECT_TRUE(same_bits(c.run(views).out, c.run(in).out));

  const auto total = [&](auto f) {
    return mx::grad([&, f](const array& q) {
      auto all = in;
      all[0] = q;
      return mx::sum(mx::square(f(all)));
    })(in[0]);
  };
  const auto got = total([&](const Arrays& all) { return c.run(all).out; });
  const auto expected = total([&](const Arrays& all) { return by_steps(c, all).out; });
  EXPECT_TRUE(mx::allclose(got, expected, 1e-5, 1e-6).item<bool>());
}

TEST(CachedAttention, WhatDoesNotFitIsAnError) {
  const auto c = cases()[0];
  const auto in = c.inputs(mx::float32);
  const auto fails = [&](int at, const Rope& rope, size_t changed, const array& with) {
    auto all = in;
    all[changed] = with;
    EXPECT_THROW(cached_attention(all[0], all[1], all[2], all[3], all[4], at, rope, 1, c.mask()),
                 Error);
  };
  fails(600, {}, 0, in[0]);  // no room
  fails(-1, {}, 0, in[0]);
  fails(5, {66}, 0, in[0]);  // more elements than there are
  fails(5, {}, 0, mx::zeros({1, 1, 5}));
  fails(5, {}, 1, mx::zeros({1, 2, 192}));
  fails(5, {}, 3, mx::astype(in[3], mx::float16));
  fails(5, {}, 4, mx::zeros({1, 3, 599, 64}));
}

}  // namespace
}  // namespace lmxlab::kernels
