#include "lmxlab/kernels/update_8bit.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <cmath>
#include <iostream>
#include <string>

#include "lmxlab/kernels/isa.h"
#include "lmxlab/kernels/memory.h"
#include "lmxlab/kernels/thread_pool.h"

namespace mx = mlx::core;
using mx::array;

namespace lmxlab::kernels {
namespace {

using Arrays = std::vector<array>;

struct Case {
  std::string name;
  Rule rule;
};
const std::vector<Case> kCases{
    {"momentum", Sgd{0.9, 0.1, false}},
    {"nesterov", Sgd{0.9, 0.1, true}},
    {"adamw", AdamW{0.9, 0.95, 1e-8, 0.1, true}},
    {"adamw uncorrected", AdamW{0.9, 0.999, 1e-6, 0, false}},
    {"lion", Lion{0.9, 0.99, 0.1}},
    {"blend", Blend{0.95, false}},
    {"blend ahead", Blend{0.95, true}},
};
constexpr float kLr = 0.01f, kStep = 3, kScale = 0.25f;

template <class... All>
void eval_all(const All&... all) {
  Arrays together;
  (together.insert(together.end(), all.begin(), all.end()), ...);
  mx::eval(together);
}

struct Problem {
  Arrays params, grads, state;
  std::vector<bool> decays;
};
// Whole blocks and parts of one; sizes of numbers that differ a millionfold, zeros, a block of
// zeros.
Problem problem(const Rule& rule, mx::Dtype dtype) {
  Problem out;
  const std::vector<mx::Shape> shapes{{},     {0}, {1},  {255},  {256},    {257},
                                      {5, 7}, {3}, {16}, {9000}, {33, 129}};
  for (size_t i = 0; i < shapes.size(); i++) {
    const auto key = [&](int k) { return mx::random::key(8 * i + static_cast<size_t>(k)); };
    const auto spread = mx::exp(mx::random::normal(shapes[i], key(5)) * array(2.5f));
    auto g = mx::random::normal(shapes[i], key(1)) * spread * array(1e-3f);
    if (shapes[i].size() == 1)
      g = g * mx::astype(mx::greater(mx::arange(shapes[i][0]), array(600)), mx::float32);
    out.params.push_back(mx::astype(mx::random::normal(shapes[i], key(0)), dtype));
    out.grads.push_back(mx::astype(g, dtype));
    for (int s = 0; s < states(rule); s++) {
      const auto type = s == 0 ? mx::int8 : mx::uint8;
      const auto codes =
          mx::random::randint(s == 0 ? -127 : 0, s == 0 ? 128 : 256, shapes[i], type, key(2 + s));
      out.state.push_back(codes);
      out.state.push_back(mx::abs(mx::random::normal(
                              {blocks_8bit(static_cast<int64_t>(codes.size()))}, key(6 + s))) *
                          array(s == 0 ? 1e-2f : 1e-4f));
    }
    out.decays.push_back(i % 2 == 0);
  }
  eval_all(out.params, out.grads, out.state);
  return out;
}
StepNumbers numbers(bool ok = true) {
  return {array(kLr), array(kStep), array(kScale), array(ok)};
}

double at(const array& x, size_t i) {  // of a dense evaluated array
  switch (mx::Dtype::Val(x.dtype())) {
    case mx::Dtype::Val::bfloat16: return static_cast<float>(x.data<mx::bfloat16_t>()[i]);
    case mx::Dtype::Val::float16: return static_cast<float>(x.data<mx::float16_t>()[i]);
    case mx::Dtype::Val::int8: return x.data<int8_t>()[i];
    case mx::Dtype::Val::uint8: return x.data<uint8_t>()[i];
    default: return x.data<float>()[i];
  }
}
// Half of the distance of numbers of a dtype around x.
double half_ulp(mx::Dtype dtype, double x) {
  if (dtype == mx::float16) return std::max(0x1p-25, 0x1p-11 * std::abs(x));
  return (dtype == mx::float32 ? 0x1p-24 : 0x1p-8) * std::abs(x);
}

double power4(double x) {
  return x * x * x * x;
}
double decoded(double code, double scale, bool is_signed) {
  return is_signed ? std::copysign(power4(code / 127) * scale, code) : power4(code / 255) * scale;
}
// The chance of update_8bit.cpp.
double chance(size_t place) {
  uint32_t x = static_cast<uint32_t>(place) + static_cast<uint32_t>(kStep) * 0x85EBCA77u;
  x *= 0x9E3779B1u;
  x = (x ^ (x >> 15)) * 0x85EBCA77u;
  return ((x ^ (x >> 13)) >> 8) * 0x1p-24;
}

struct Element {
  double p, m, v;
};
// The formulas of update.h, in double.
Element expected(const Rule& rule, Element e, double g, bool decays) {
  g *= kScale;
  if (const auto* r = std::get_if<Sgd>(&rule)) {
    if (decays) g += r->decay * e.p;
    e.m = r->momentum * e.m + g;
    e.p -= kLr * (r->nesterov ? g + r->momentum * e.m : e.m);
  } else if (const auto* a = std::get_if<AdamW>(&rule)) {
    e.m = a->beta1 * e.m + (1 - a->beta1) * g;
    e.v = a->beta2 * e.v + (1 - a->beta2) * g * g;
    const double c1 = a->bias_correction ? 1 - std::pow(a->beta1, kStep) : 1;
    const double c2 = a->bias_correction ? 1 - std::pow(a->beta2, kStep) : 1;
    if (decays) e.p *= 1 - kLr * a->decay;
    e.p -= kLr * (e.m / c1) / (std::sqrt(e.v / c2) + a->eps);
  } else if (const auto* l = std::get_if<Lion>(&rule)) {
    const double blend = l->beta1 * e.m + (1 - l->beta1) * g;
    if (decays) e.p *= 1 - kLr * l->decay;
    e.p -= kLr * ((blend > 0) - (blend < 0));
    e.m = l->beta2 * e.m + (1 - l->beta2) * g;
  } else if (const auto* b = std::get_if<Blend>(&rule)) {
    e.m = b->momentum * e.m + (1 - b->momentum) * g;
    e.p = b->nesterov ? b->momentum * e.m + (1 - b->momentum) * g : e.m;
  }
  return e;
}

class Worst {
 public:
  void add(double got, double want, double bound, const std::string& what) {
    const double ratio = std::abs(got - want) / bound;
    if (ratio <= ratio_) return;
    ratio_ = ratio;
    where_ = what + ": expected " + std::to_string(want) + ", got " + std::to_string(got);
  }
  void show(const std::string& title) const {
    EXPECT_LE(ratio_, 1) << title << ": " << where_;
    std::cout << title << ": worst " << ratio_ << " of its bound, " << where_ << "\n";
  }

 private:
  double ratio_ = 0;
  std::string where_ = "none";
};

// How far a code's root may be off, of 127 and of 255 steps: estimates of roots have 14 bits, so
// that two of them are off by 1.5 * 2^-14 at most; a dozen float32 roundings are far below.
constexpr double kSlack = 1.5 * 0x1p-14;

void check(const std::string& title, const Rule& rule, const Problem& before, Arrays params,
           Arrays state) {
  eval_all(params, state);
  const size_t kinds = static_cast<size_t>(states(rule));
  Worst worst;
  for (size_t t = 0; t < params.size(); t++) {
    ASSERT_EQ(params[t].shape(), before.params[t].shape());
    ASSERT_EQ(params[t].dtype(), before.params[t].dtype());
    const auto old = [&](size_t kind, size_t i) {
      const auto* s = before.state.data() + 2 * (kinds * t + kind);
      return kinds > kind ? decoded(at(s[0], i), s[1].data<float>()[i / k8BitBlock], kind == 0) : 0;
    };
    std::vector<Element> all;
    for (size_t i = 0; i < params[t].size(); i++) {
      const double p = at(before.params[t], i), g = at(before.grads[t], i);
      all.push_back(expected(rule, {p, old(0, i), old(1, i)}, g, before.decays[t]));
      const std::string what = "tensor " + std::to_string(t) + ", element " + std::to_string(i);
      // A dozen float32 roundings, relative to the terms; one of the parameter's dtype.
      const double terms =
          std::abs(p) + std::abs(g) + std::abs(old(0, i)) + std::abs(all.back().p - p);
      const auto& want = all.back();
      worst.add(at(params[t], i), want.p,
                14 * 0x1p-24 * terms + 1.01 * half_ulp(params[t].dtype(), want.p), what);
    }
    for (size_t kind = 0; kind < kinds; kind++) {
      const auto &codes = state[2 * (kinds * t + kind)],
                 &scales = state[2 * (kinds * t + kind) + 1];
      ASSERT_EQ(codes.dtype(), kind == 0 ? mx::int8 : mx::uint8);
      ASSERT_EQ(scales.shape(), mx::Shape{blocks_8bit(static_cast<int64_t>(codes.size()))});
      const double levels = kind == 0 ? 127 : 255;
      const auto number = [&](size_t j) { return kind == 0 ? all[j].m : all[j].v; };
      const auto terms = [&](size_t j) {  // what rounds on the way to the number
        const double g = at(before.grads[t], j), p = at(before.params[t], j);
        return std::abs(old(kind, j)) + g * g + (kind == 0 ? std::abs(g) + std::abs(p) : 0);
      };
      double top = 0, size = 0;  // of the block
      for (size_t i = 0; i < codes.size(); i++) {
        const size_t block = i / k8BitBlock;
        if (i % k8BitBlock == 0) {
          top = size = 0;
          for (size_t j = i; j < std::min(i + k8BitBlock, all.size()); j++)
            top = std::max(top, std::abs(number(j))), size = std::max(size, terms(j));
        }
        const std::string what = "tensor " + std::to_string(t) + ", element " + std::to_string(i) +
                                 (kind == 0 ? ", m" : ", v");
        const double scale = scales.data<float>()[block], code = at(codes, i);
        worst.add(scale, top, 6 * 0x1p-24 * size + 1e-45, what + "'s scale");
        if (top == 0) {
          worst.add(code, 0, 0.5, what);
          continue;
        }
        // Float32 errors of the number itself move its root, by more where terms cancelled.
        const double x = number(i), off = 6 * 0x1p-24 * terms(i);
        const double root = levels * std::pow(std::abs(x) / top, 0.25);
        const double moved = levels * std::pow((std::abs(x) + off) / top, 0.25) - root;
        const double slack = kSlack * root + std::min(moved, 1.0);
        if (kind == 0) {
          worst.add(code, std::copysign(root, x), 0.5 + slack, what);
          continue;
        }
        // Between two codes, and the one that chance wanted, unless it hung on rounding.
        const double low = std::min(std::floor(root), 254.0),
                     share = (power4(root) - power4(low)) / (power4(low + 1) - power4(low));
        if (x > 0 && low == 0) {
          worst.add(code, 1, 1e-9, what);
        } else if (std::abs(share - chance(i)) > 5 * slack + 1e-6 && root - low > slack) {
          worst.add(code, low + (chance(i) < share ? 1 : 0), 1e-9, what);
        } else {
          worst.add(code, root, 1 + slack, what);
        }
      }
    }
  }
  worst.show(title);
}

TEST(Update8Bit, FollowsItsFormulasOnEveryInstructionSet) {
  for (const Isa forced : isas()) {
    set_isa(forced);
    for (const auto& [label, rule] : kCases) {
      for (const auto dtype : {mx::float32, mx::bfloat16, mx::float16}) {
        const auto before = problem(rule, dtype);
        auto [params, grads, state, decays] = before;
        update_8bit(rule, params, grads, state, decays, numbers());
        check(std::string(name(forced)) + ", " + label, rule, before, params, state);
      }
    }
  }
  set_isa(isas().back());
}

TEST(Update8Bit, OrdinaryOpsFollowTheSameFormulas) {
  for (const auto& [name, rule] : kCases) {
    const auto before = problem(rule, mx::float32);
    auto [params, grads, state, decays] = before;
    plain::update_8bit(rule, params, grads, state, decays, numbers());
    check(name, rule, before, params, state);
  }
}

TEST(Update8Bit, DecodesWhatItKeeps) {
  const auto codes = mx::astype(mx::arange(-127, 128), mx::int8);
  const auto small = mx::astype(mx::arange(0, 256), mx::uint8);
  for (auto c : {codes, small}) {
    c.eval();
    auto x = mx::contiguous(decode_8bit(c, array({3.0f})));
    x.eval();
    for (size_t i = 0; i < c.size(); i++) {
      const double want = decoded(at(c, i), 3, c.dtype() == mx::int8);
      EXPECT_NEAR(x.data<float>()[i], want, 12 * 0x1p-24 * std::abs(want));  // so many roundings
    }
    EXPECT_EQ(x.data<float>()[c.size() - 1], 3);  // the largest number is kept as it is
  }
}

bool same(const Arrays& a, const Arrays& b) {
  for (size_t i = 0; i < a.size(); i++)
    if (!mx::array_equal(a[i], b[i]).item<bool>()) return false;
  return a.size() == b.size();
}

// Second moments of a gradient that does not change: the mean of what is kept is what it should be,
// though each step moves it by less than half of the distance between two codes.
TEST(Update8Bit, SecondMomentsAreRightOnAverage) {
  const AdamW rule{0.9, 0.999, 1e-8, 0, true};
  const int n = 256 * 64;
  Arrays params{mx::zeros({n})};
  const auto sizes = mx::exp(mx::random::normal({n}, mx::random::key(1)));
  Arrays state{mx::zeros({n}, mx::int8), mx::zeros({64}), mx::zeros({n}, mx::uint8),
               mx::zeros({64})};
  double v = 0;
  for (int t = 1; t <= 1500; t++) {
    const float g = t < 300 ? 1.0f : 0.5f;
    v = rule.beta2 * v + (1 - rule.beta2) * g * g;
    update_8bit(rule, params, {sizes * array(g)}, state, {false},
                {array(kLr), array(static_cast<float>(t)), array(1.0f), array(true)});
    eval_all(params, state);
  }
  const auto ratio =
      decode_8bit(state[2], state[3]) / (mx::square(sizes) * array(static_cast<float>(v)));
  // Each is off by several per cent; the mean of 16,384 by a hundredth of that.
  const float mean = mx::mean(ratio).item<float>();
  const float rms = mx::sqrt(mx::mean(mx::square(ratio - array(1.0f)))).item<float>();
  std::cout << "mean " << mean << ", rms error " << rms << "\n";
  EXPECT_NEAR(mean, 1, 5 * rms / std::sqrt(static_cast<float>(n)) + 0.003f);
  EXPECT_LT(rms, 0.4f);
}

TEST(Update8Bit, ASecondMomentAboveZeroStaysAboveZero) {
  const Rule rule = AdamW{};
  auto g = mx::concatenate({array({1.0f}), mx::full({255}, 1e-9f)});
  Arrays params{mx::zeros({256})};
  Arrays state{mx::zeros({256}, mx::int8), mx::zeros({1}), mx::zeros({256}, mx::uint8),
               mx::zeros({1})};
  update_8bit(rule, params, {g}, state, {false}, numbers());
  EXPECT_EQ(mx::min(state[2]).item<uint8_t>(), 1);
}

TEST(Update8Bit, NothingChangesWhereTheStepIsNotOk) {
  for (const auto& [name, rule] : kCases) {
    SCOPED_TRACE(name);
    const auto before = problem(rule, mx::float32);
    auto [params, grads, state, decays] = before;
    for (auto& g : grads) g = g * array(std::nanf(""));
    auto plain_params = params, plain_state = state;
    plain::update_8bit(rule, plain_params, grads, plain_state, decays, numbers(false));
    EXPECT_TRUE(same(plain_params, before.params) && same(plain_state, before.state));
    update_8bit(rule, params, grads, state, decays, numbers(false));
    EXPECT_TRUE(same(params, before.params) && same(state, before.state));
  }
}

std::vector<const void*> places(const Arrays& arrays) {
  std::vector<const void*> out;
  for (const auto& a : arrays) out.push_back(a.data<void>());
  return out;
}

// No second copy of parameters, codes and scales, eagerly and compiled.
TEST(Update8Bit, WritesInPlace) {
  const Rule rule = AdamW{};
  const size_t n = 6, elements = 256 * 1024;
  for (const bool compiled : {false, true}) {
    SCOPED_TRACE(compiled ? "compiled" : "eager");
    std::function<Arrays(const Arrays&)> step = [&](const Arrays& in) {
      Arrays params(in.begin(), in.begin() + n), grads(in.begin() + n, in.begin() + 2 * n);
      Arrays state(in.begin() + 2 * n, in.end() - 1);
      update_8bit(rule, params, grads, state, std::vector<bool>(n, true),
                  {in.back(), array(1.0f), array(1.0f), array(true)});
      params.insert(params.end(), state.begin(), state.end());
      return params;
    };
    if (compiled) step = mx::compile(step);
    Arrays mine, grads;
    for (size_t i = 0; i < n; i++) mine.push_back(mx::full({256, 1024}, 0.5f));
    for (size_t i = 0; i < n; i++) {
      mine.push_back(mx::full({256, 1024}, 1, mx::int8)), mine.push_back(mx::full({1024}, 0.5f));
      mine.push_back(mx::full({256, 1024}, 1, mx::uint8)), mine.push_back(mx::full({1024}, 0.5f));
      grads.push_back(mx::full({256, 1024}, 0.25f));
    }
    eval_all(mine, grads);
    const auto before = places(mine);
    for (int round = 0; round < 3; round++) {
      Arrays in(mine.begin(), mine.begin() + n);
      in.insert(in.end(), grads.begin(), grads.end());
      in.insert(in.end(), mine.begin() + n, mine.end());
      in.push_back(array(0.1f));
      mine.clear();
      mx::reset_peak_memory();
      auto out = step(in);
      in.clear();
      mx::eval(out);
      EXPECT_LT(mx::get_peak_memory(), n * elements * 11);  // 4 + 4 + 2 + 8/256 bytes each
      mine = std::move(out);
      EXPECT_EQ(places(mine), before);
    }
  }
}

TEST(Update8Bit, TakesAnyLayoutAndLeavesWhatIsHeldElsewhere) {
  const Rule rule = AdamW{};
  const auto before = problem(rule, mx::float32), untouched = problem(rule, mx::float32);
  auto [params, grads, state, decays] = before;
  update_8bit(rule, params, grads, state, decays, numbers());
  eval_all(params, state);
  EXPECT_TRUE(same(before.params, untouched.params) && same(before.state, untouched.state));
  Arrays turned{mx::transpose(before.params.back())},
      turned_grads{mx::transpose(before.grads.back())};
  Arrays turned_state, dense{mx::contiguous(turned[0])}, dense_state;
  for (size_t i = before.state.size() - 4; i < before.state.size(); i++) {
    const auto& s = before.state[i];
    turned_state.push_back(i % 2 == 0 ? mx::transpose(s) : s);
    dense_state.push_back(mx::contiguous(turned_state.back()));
  }
  update_8bit(rule, turned, turned_grads, turned_state, {true}, numbers());
  update_8bit(rule, dense, {mx::contiguous(turned_grads[0])}, dense_state, {true}, numbers());
  EXPECT_TRUE(same(turned, dense) && same(turned_state, dense_state));
}

TEST(Update8Bit, DoesNotDependOnTheNumberOfThreads) {
  const Rule rule = AdamW{};
  const auto run = [&](int n) {
    set_threads(n);
    auto [params, grads, state, decays] = problem(rule, mx::float32);
    update_8bit(rule, params, grads, state, decays, numbers());
    eval_all(params, state);
    set_threads(0);
    params.insert(params.end(), state.begin(), state.end());
    return params;
  };
  EXPECT_TRUE(same(run(1), run(2)) && same(run(1), run(3)));
}

}  // namespace
}  // namespace lmxlab::kernels
