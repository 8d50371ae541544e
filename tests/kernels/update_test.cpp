#include "lmxlab/kernels/update.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <cfloat>
#include <cmath>
#include <string>

#include "lmxlab/kernels/isa.h"
#include "lmxlab/kernels/memory.h"
#include "lmxlab/kernels/thread_pool.h"

namespace mx = mlx::core;
using mx::array;

namespace lmxlab::kernels {
namespace {

using Arrays = std::vector<array>;
using Doubles = std::vector<double>;

struct Case {
  std::string name;
  Rule rule;
};
const std::vector<Case> kCases{
    {"accumulate", Accumulate{}},
    {"sgd", Sgd{}},
    {"sgd with decay", Sgd{0, 0.1, false}},
    {"momentum", Sgd{0.9, 0.1, false}},
    {"nesterov", Sgd{0.9, 0.1, true}},
    {"adamw", AdamW{0.9, 0.95, 1e-8, 0.1, true}},
    {"adamw uncorrected", AdamW{0.9, 0.999, 1e-6, 0, false}},
    {"adamw without memory", AdamW{0, 0, 1e-8, 0.1, true}},
    {"lion", Lion{0.9, 0.99, 0.1}},
    {"blend", Blend{0.95, false}},
    {"blend ahead", Blend{0.95, true}},
};
constexpr float kLr = 0.01f, kStep = 3, kScale = 0.25f;

struct Element {
  double p, m, v;
};
// The formulas of update.h.
Element expected(const Rule& rule, Element e, double g, bool decays) {
  g *= kScale;
  if (std::holds_alternative<Accumulate>(rule)) return {e.p + g / kScale, 0, 0};
  if (const auto* r = std::get_if<Sgd>(&rule)) {
    if (decays) g += r->decay * e.p;
    e.m = r->momentum * e.m + g;
    e.p -= kLr * (r->momentum == 0 ? g : r->nesterov ? g + r->momentum * e.m : e.m);
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
// 35 tensors, several ops: odd sizes, one empty, one 0-d.
Problem problem(const Rule& rule, mx::Dtype dtype) {
  Problem out;
  std::vector<mx::Shape> shapes{{}, {0}, {1}, {3}, {16}, {17}, {5, 7}, {64}, {9000}, {33, 129}};
  for (int i = 0; i < 25; i++) shapes.push_back({i + 1});
  for (size_t i = 0; i < shapes.size(); i++) {
    const auto key = [&](int k) { return mx::random::key(4 * i + static_cast<size_t>(k)); };
    out.params.push_back(mx::astype(mx::random::normal(shapes[i], key(0)), dtype));
    out.grads.push_back(mx::astype(mx::random::normal(shapes[i], key(1)), dtype));
    for (int s = 0; s < states(rule); s++)
      out.state.push_back(mx::square(mx::random::normal(shapes[i], key(2 + s))));
    out.decays.push_back(i % 2 == 0);
  }
  eval_all(out.params, out.grads, out.state);
  return out;
}
StepNumbers numbers(const Rule& rule, bool ok = true) {
  const bool add = std::holds_alternative<Accumulate>(rule);
  return {array(kLr), array(kStep), array(add ? 1.0f : kScale), array(ok)};
}

float at(const array& x, size_t i) {  // of a dense evaluated array
  switch (mx::Dtype::Val(x.dtype())) {
    case mx::Dtype::Val::bfloat16: return static_cast<float>(x.data<mx::bfloat16_t>()[i]);
    case mx::Dtype::Val::float16: return static_cast<float>(x.data<mx::float16_t>()[i]);
    default: return x.data<float>()[i];
  }
}
double half_ulp(mx::Dtype dtype) {
  return dtype == mx::float32 ? 0x1p-24 : dtype == mx::float16 ? 0x1p-11 : 0x1p-8;
}

void check(const Rule& rule, const Problem& before, Arrays params, Arrays state) {
  eval_all(params, state);
  const size_t kinds = static_cast<size_t>(states(rule));
  double worst = 0;
  std::string where = "none";
  const auto compare = [&](double got, double want, double bound, const std::string& what) {
    const double ratio = std::abs(got - want) / bound;
    if (ratio <= worst) return;
    worst = ratio;
    where = what + ": expected " + std::to_string(want) + ", got " + std::to_string(got);
  };
  for (size_t t = 0; t < params.size(); t++) {
    ASSERT_EQ(params[t].shape(), before.params[t].shape());
    ASSERT_EQ(params[t].dtype(), before.params[t].dtype());
    for (size_t i = 0; i < params[t].size(); i++) {
      const auto old = [&](size_t k) {
        return kinds > k ? before.state[kinds * t + k].data<float>()[i] : 0.0f;
      };
      const double p = at(before.params[t], i), g = at(before.grads[t], i);
      const auto want = expected(rule, {p, old(0), old(1)}, g, before.decays[t]);
      const std::string what = "tensor " + std::to_string(t) + ", element " + std::to_string(i);
      // A dozen float32 roundings, relative to the terms; one of the parameter's dtype.
      const double terms = std::abs(p) + std::abs(g) + 20 * kLr +
                           (std::holds_alternative<Blend>(rule) ? std::abs(old(0)) : 0);
      compare(at(params[t], i), want.p,
              12 * 0x1p-24 * terms + half_ulp(params[t].dtype()) * std::abs(want.p) * 1.01, what);
      const double size = std::abs(old(0)) + old(1) + std::abs(p) + std::abs(g) + g * g;
      if (kinds > 0)
        compare(state[kinds * t].data<float>()[i], want.m, 4 * 0x1p-24 * size, what + ", m");
      if (kinds > 1)
        compare(state[kinds * t + 1].data<float>()[i], want.v, 4 * 0x1p-24 * size, what + ", v");
    }
  }
  EXPECT_LE(worst, 1) << where;
}

class EveryIsa {  // for (...) with each instruction set forced; puts the best one back
 public:
  template <class F>
  explicit EveryIsa(F f) {
    for (const Isa forced : isas()) {
      SCOPED_TRACE(std::string(name(forced)));
      set_isa(forced);
      f();
    }
    set_isa(isas().back());
  }
};

TEST(Update, FollowsItsFormulas) {
  EveryIsa([] {
    for (const auto& [name, rule] : kCases) {
      for (const auto dtype : {mx::float32, mx::bfloat16, mx::float16}) {
        SCOPED_TRACE(name);
        const auto before = problem(rule, dtype);
        auto [params, grads, state, decays] = before;
        update(rule, params, grads, state, decays, numbers(rule));
        check(rule, before, params, state);
      }
    }
  });
}

TEST(Update, OrdinaryOpsFollowTheSameFormulas) {
  for (const auto& [name, rule] : kCases) {
    for (const auto dtype : {mx::float32, mx::bfloat16}) {
      SCOPED_TRACE(name);
      const auto before = problem(rule, dtype);
      auto [params, grads, state, decays] = before;
      plain::update(rule, params, grads, state, decays, numbers(rule));
      check(rule, before, params, state);
    }
  }
}

bool same(const Arrays& a, const Arrays& b) {
  for (size_t i = 0; i < a.size(); i++)
    if (!mx::array_equal(a[i], b[i]).item<bool>()) return false;
  return a.size() == b.size();
}

TEST(Update, NothingChangesWhereTheStepIsNotOk) {
  for (const auto& [name, rule] : kCases) {
    for (const bool in_place : {false, true}) {
      SCOPED_TRACE(name);
      const auto before = problem(rule, mx::float32);
      auto [params, grads, state, decays] = before;
      for (auto& g : grads) g = g * array(std::nanf(""));
      if (in_place) {
        for (auto* all : {&params, &state})
          for (auto& a : *all) a = mx::copy(a) + array(0.0f);
        eval_all(params, state);
      }
      auto plain_params = params, plain_state = state;
      plain::update(rule, plain_params, grads, plain_state, decays, numbers(rule, false));
      EXPECT_TRUE(same(plain_params, before.params) && same(plain_state, before.state));
      update(rule, params, grads, state, decays, numbers(rule, false));
      EXPECT_TRUE(same(params, before.params) && same(state, before.state));
    }
  }
}

std::vector<const void*> places(const Arrays& arrays) {
  std::vector<const void*> out;
  for (const auto& a : arrays) out.push_back(a.data<void>());
  return out;
}

// No second copy of parameters and state, eagerly and compiled, also not for a moment.
TEST(Update, WritesInPlace) {
  const Rule rule = AdamW{};
  const mx::Shape shape{256, 1024};
  const size_t bytes = 256 * 1024 * 4, n = 20;
  for (const bool compiled : {false, true}) {
    SCOPED_TRACE(compiled ? "compiled" : "eager");
    std::function<Arrays(const Arrays&)> step = [&](const Arrays& in) {
      Arrays params(in.begin(), in.begin() + n), grads(in.begin() + n, in.begin() + 2 * n);
      Arrays state(in.begin() + 2 * n, in.end() - 1);
      update(rule, params, grads, state, std::vector<bool>(n, true),
             {in.back(), array(1.0f), array(1.0f), array(true)});
      params.insert(params.end(), state.begin(), state.end());
      return params;
    };
    if (compiled) step = mx::compile(step);
    Arrays mine, grads;
    for (size_t i = 0; i < 3 * n; i++) mine.push_back(mx::full(shape, 0.5f));
    for (size_t i = 0; i < n; i++) grads.push_back(mx::full(shape, 0.25f));
    eval_all(mine, grads);
    auto before = places(mine);
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
      EXPECT_LT(mx::get_peak_memory(), 4 * n * bytes + bytes);
      mine = std::move(out);
      EXPECT_EQ(places(mine), before);
    }
    Arrays sums = mine;
    mine.clear();
    before = places(sums);
    sums.erase(sums.begin() + n, sums.end()), before.resize(n);
    mx::reset_peak_memory();
    add_to(sums, grads);
    mx::eval(sums);
    EXPECT_LT(mx::get_peak_memory(), 2 * n * bytes + bytes);
    EXPECT_EQ(places(sums), before);
  }
}

TEST(Update, LeavesWhatIsHeldElsewhere) {
  const Rule rule = AdamW{};
  const auto before = problem(rule, mx::float32), untouched = problem(rule, mx::float32);
  auto [params, grads, state, decays] = before;
  update(rule, params, grads, state, decays, numbers(rule));
  eval_all(params, state);
  EXPECT_TRUE(same(before.params, untouched.params) && same(before.state, untouched.state));
  EXPECT_TRUE(same(before.grads, untouched.grads));
}

TEST(Update, TakesAnyLayout) {
  const Rule rule = AdamW{};
  const auto x = [](size_t key) { return mx::random::normal({37, 53}, mx::random::key(key)); };
  const auto views = [&](const array& a) -> Arrays {
    return {mx::transpose(a), mx::slice(a, {1, 2}, {30, 50}, {2, 3}),
            mx::broadcast_to(mx::slice(a, {0, 0}, {1, 53}), {4, 53}),
            mx::slice(mx::flatten(a), {3}, {1000})};
  };
  const Arrays p = views(x(1)), g = views(x(2)), m = views(x(3)), v = views(mx::square(x(4)));
  Arrays params = p, state, dense_params, dense_grads, dense_state;
  for (size_t i = 0; i < p.size(); i++) {
    state.push_back(m[i]), state.push_back(v[i]);
    dense_params.push_back(mx::contiguous(p[i])), dense_grads.push_back(mx::contiguous(g[i]));
    for (const auto& s : {m[i], v[i]}) dense_state.push_back(mx::contiguous(s));
  }
  const std::vector<bool> decays(p.size(), true);
  update(rule, params, g, state, decays, numbers(rule));
  update(rule, dense_params, dense_grads, dense_state, decays, numbers(rule));
  EXPECT_TRUE(same(params, dense_params) && same(state, dense_state));
}

TEST(Update, DoesNotDependOnTheNumberOfThreads) {
  const Rule rule = AdamW{};
  const auto run = [&](int n) {
    set_threads(n);
    auto [params, grads, state, decays] = problem(rule, mx::float32);
    update(rule, params, grads, state, decays, numbers(rule));
    params.push_back(global_norm(grads));
    eval_all(params, state);
    set_threads(0);
    return params;
  };
  EXPECT_TRUE(same(run(1), run(2)) && same(run(1), run(3)));
}

TEST(Update, MixesDtypes) {
  const Rule rule = AdamW{};
  auto [params, grads, state, decays] = problem(rule, mx::bfloat16);
  for (size_t i = 0; i < params.size(); i += 3) params[i] = mx::astype(params[i], mx::float32);
  for (size_t i = 0; i < params.size(); i += 2) grads[i] = mx::astype(grads[i], mx::float16);
  eval_all(params, grads);
  const Problem before{params, grads, state, decays};
  update(rule, params, grads, state, decays, numbers(rule));
  check(rule, before, params, state);
}

// Every float16 is read as what it is, and numbers between two are rounded to the nearest, ties to
// even: as MLX does.
TEST(Update, ReadsAndRoundsFloat16) {
  const auto all = mx::view(mx::arange(0, 65536, mx::uint16), mx::float16);
  const auto up = mx::view(mx::arange(1, 65537, mx::uint16), mx::float16);
  const auto wide = mx::astype(all, mx::float32), next = mx::astype(up, mx::float32);
  const auto middle = wide + (next - wide) * array(0.5f);
  Arrays values{wide,
                middle,
                mx::multiply(middle, array(1 + FLT_EPSILON)),
                mx::multiply(middle, array(1 - FLT_EPSILON)),
                wide * array(3.3e-5f),
                mx::array({1e30f, -1e30f, 65519.99f, 65520.0f, -65520.0f, 6e4f, 1e-30f, -0.0f})};
  EveryIsa([&] {
    for (const auto& v : values) {
      Arrays sums{mx::zeros(v.shape(), mx::float16)}, wider{mx::zeros(v.shape())};
      const auto want = mx::astype(v, mx::float16) + array(0.0f, mx::float16);
      add_to(sums, {v});
      EXPECT_TRUE(mx::array_equal(sums[0], want, true).item<bool>());
      add_to(wider, {want});
      EXPECT_TRUE(mx::array_equal(wider[0], mx::astype(want, mx::float32), true).item<bool>());
    }
  });
}

TEST(Update, HasAGradient) {  // of a loss after the step, by the gradient: through the plain ops
  const Rule rule = AdamW{};
  const auto p = mx::random::normal({5, 3}, mx::random::key(1));
  const auto through = [&](auto step) {
    return mx::grad([&, step](const array& g) {
      Arrays params{p}, state{mx::zeros_like(p), mx::zeros_like(p)};
      step(rule, params, Arrays{g}, state, {true}, numbers(rule));
      return mx::sum(mx::square(params[0]));
    })(mx::random::normal({5, 3}, mx::random::key(2)));
  };
  const auto worst = mx::max(mx::abs(through(update) - through(plain::update))).item<float>();
  EXPECT_LE(worst, 64 * FLT_EPSILON * kLr);
}

TEST(GlobalNorm, IsTheRootOfAllSquares) {
  EveryIsa([] {
    for (const auto dtype : {mx::float32, mx::bfloat16, mx::float16}) {
      auto grads = problem(AdamW{}, dtype).grads;
      grads.push_back(mx::astype(mx::random::normal({301, 107}, mx::random::key(77)), dtype));
      grads.push_back(mx::transpose(grads.back()));
      grads.push_back(mx::slice(grads.back(), {0, 1}, {100, 200}, {3, 2}));
      double total = 0;
      for (const auto& g : grads) {
        auto dense = mx::contiguous(g);
        dense.eval();
        for (size_t i = 0; i < dense.size(); i++) total += std::pow(double{at(dense, i)}, 2);
      }
      // Blocks of 4096, in four accumulators: 1024 sums one after another without vectors.
      const double want = std::sqrt(total), bound = want * 0x1p-24 * 1030 / 2;
      EXPECT_NEAR(global_norm(grads).item<float>(), want, bound);
      EXPECT_NEAR(plain::global_norm(grads).item<float>(), want, bound);
    }
  });
  EXPECT_EQ(global_norm({}).item<float>(), 0);
}

TEST(GlobalNorm, ShowsWhatIsNotFinite) {
  for (const float bad : {INFINITY, std::nanf("")}) {
    const auto x = mx::concatenate({mx::zeros({5000}), array({bad})});
    EXPECT_FALSE(std::isfinite(global_norm({mx::ones({3}), x}).item<float>()));
  }
}

}  // namespace
}  // namespace lmxlab::kernels
