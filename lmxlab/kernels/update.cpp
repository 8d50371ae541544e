#include "lmxlab/kernels/update.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>

#include "lmxlab/kernels/dense.h"
#include "lmxlab/kernels/op.h"
#include "lmxlab/kernels/thread_pool.h"
#include "lmxlab/kernels/update_parts.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lmxlab/kernels/update.cpp"
#include <hwy/foreach_target.h>
// Highway's headers come after foreach_target.h.
#include <hwy/highway.h>

#include "lmxlab/kernels/update-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lmxlab::kernels::HWY_NAMESPACE {

// p, g and as many state vectors as there are go through f, which rewrites all but g.
template <int kStates, class F>
HWY_INLINE void each(const Tensor& t, const Constants& k, int64_t begin, int64_t end, F f) {
  const DF d;
  const VF scale = hn::Set(d, k.scale);
  for (int64_t i = begin; i < end; i += lanes()) {
    const int64_t n = HWY_MIN(lanes(), end - i);
    VF p = load_as(t.type, d, t.from, i, n), m = hn::Zero(d), v = hn::Zero(d);
    const VF g = hn::Mul(load_as(t.grad_type, d, t.grad, i, n), scale);
    if (kStates > 0) m = load_upto(d, static_cast<const float*>(t.state_from[0]) + i, n);
    if (kStates > 1) v = load_upto(d, static_cast<const float*>(t.state_from[1]) + i, n);
    f(d, p, g, m, v);
    store_as(t.type, p, d, t.to, i, n);
    if (kStates > 0) store_upto(m, d, static_cast<float*>(t.state_to[0]) + i, n);
    if (kStates > 1) store_upto(v, d, static_cast<float*>(t.state_to[1]) + i, n);
  }
}

void update_some(const Tensor& t, const Constants& k, int64_t begin, int64_t end) {
  with_formula(k, t.decays, [&](auto states, auto formula) {
    each<decltype(states)::value>(t, k, begin, end, formula);
  });
}

// Four accumulators hide the latency of the addition, and shorten the sums.
float sum_of_squares(Type type, const void* x, int64_t begin, int64_t end) {
  const DF d;
  VF a = hn::Zero(d), b = a, c = a, e = a;
  int64_t i = begin;
  const auto add = [&](VF& to, int64_t n) {
    const VF v = load_as(type, d, x, i, n);
    to = hn::MulAdd(v, v, to);
    i += n;
  };
  while (i + 4 * lanes() <= end) {
    add(a, lanes()), add(b, lanes()), add(c, lanes()), add(e, lanes());
  }
  while (i < end) {
    add(a, HWY_MIN(lanes(), end - i));
  }
  return sum_of(d, hn::Add(hn::Add(a, b), hn::Add(c, e)));
}

}  // namespace lmxlab::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lmxlab::kernels {
namespace {

namespace mx = mlx::core;
using mx::array;

HWY_EXPORT(update_some);
HWY_EXPORT(sum_of_squares);

// Each output of an op holds all its inputs and all other outputs: MLX's lists grow with the square
// of an op's tensors. Four cost least for many small ones (5 us each, nearly all of it MLX's).
constexpr size_t kTensorsOfAnOp = 4;
constexpr int64_t kGrain = 4096;  // elements of a part, and of a block of the norm

array constant(double value) {
  return array(static_cast<float>(value));
}

// 1 - beta^step without the cancellation of beta near 1.
double one_minus_power(double beta, double step) {
  return beta == 0 ? 1 : -std::expm1(step * std::log(beta));
}
array one_minus_power(double beta, const array& step) {
  return beta == 0 ? constant(1) : mx::negative(mx::expm1(step * constant(std::log(beta))));
}

Constants constants(const Accumulate&, double, double) {
  Constants k;
  k.formula = Formula::add;
  return k;
}
Constants constants(const Sgd& r, double lr, double) {
  Constants k;
  k.formula = r.momentum == 0 ? Formula::sgd : r.nesterov ? Formula::nesterov : Formula::momentum;
  k.rate = static_cast<float>(lr);
  k.decay = static_cast<float>(r.decay);
  k.b1 = static_cast<float>(r.momentum);
  return k;
}
void set_betas(Constants& k, double beta1, double beta2) {
  k.b1 = static_cast<float>(beta1), k.c1 = static_cast<float>(1 - beta1);
  k.b2 = static_cast<float>(beta2), k.c2 = static_cast<float>(1 - beta2);
}
Constants constants(const AdamW& r, double lr, double step) {
  Constants k;
  k.formula = Formula::adamw;
  const bool corrected = r.bias_correction;
  k.rate = static_cast<float>(corrected ? lr / one_minus_power(r.beta1, step) : lr);
  k.root = static_cast<float>(corrected ? 1 / std::sqrt(one_minus_power(r.beta2, step)) : 1);
  k.shrink = static_cast<float>(1 - lr * r.decay);
  k.eps = static_cast<float>(r.eps);
  set_betas(k, r.beta1, r.beta2);
  return k;
}
Constants constants(const Blend& r, double, double) {
  Constants k;
  k.formula = r.nesterov ? Formula::blend_ahead : Formula::blend;
  set_betas(k, r.momentum, 0);
  return k;
}
Constants constants(const Lion& r, double lr, double) {
  Constants k;
  k.formula = Formula::lion;
  k.rate = static_cast<float>(lr);
  k.shrink = static_cast<float>(1 - lr * r.decay);
  set_betas(k, r.beta1, r.beta2);
  return k;
}

Constants constants(const Rule& rule, float lr, float step, float scale) {
  auto k = std::visit([&](const auto& r) { return constants(r, lr, step); }, rule);
  k.scale = scale, k.step = static_cast<uint32_t>(step);
  return k;
}

// decay * mean + (1 - decay) * value, with 1 - decay rounded once.
array blend(const array& mean, const array& value, double decay) {
  return mean * constant(decay) + value * constant(1 - decay);
}

// The next p, for float32 p and g; rewrites the state at s.
array next(const Accumulate&, const array& p, const array& g, array*, bool, const StepNumbers&) {
  return p + g;
}
array next(const Sgd& r, const array& p, const array& grad, array* s, bool decays,
           const StepNumbers& k) {
  const array g = decays && r.decay != 0 ? grad + p * constant(r.decay) : grad;
  if (r.momentum == 0) return p - k.lr * g;
  s[0] = s[0] * constant(r.momentum) + g;
  return p - k.lr * (r.nesterov ? g + s[0] * constant(r.momentum) : s[0]);
}
array shrunk(const array& p, double decay, bool decays, const array& lr) {
  return decays && decay != 0 ? p * (constant(1) - lr * constant(decay)) : p;
}
array next(const AdamW& r, const array& p, const array& g, array* s, bool decays,
           const StepNumbers& k) {
  s[0] = blend(s[0], g, r.beta1);
  s[1] = blend(s[1], mx::square(g), r.beta2);
  array root = mx::sqrt(s[1]), rate = k.lr;
  if (r.bias_correction) {
    root = root * mx::rsqrt(one_minus_power(r.beta2, k.step));
    rate = rate / one_minus_power(r.beta1, k.step);
  }
  return shrunk(p, r.decay, decays, k.lr) - rate * (s[0] / (root + constant(r.eps)));
}
array next(const Blend& r, const array&, const array& g, array* s, bool, const StepNumbers&) {
  s[0] = blend(s[0], g, r.momentum);
  return r.nesterov ? blend(s[0], g, r.momentum) : s[0];
}
array next(const Lion& r, const array& p, const array& g, array* s, bool decays,
           const StepNumbers& k) {
  const array direction = mx::sign(blend(s[0], g, r.beta1));
  s[0] = blend(s[0], g, r.beta2);
  return shrunk(p, r.decay, decays, k.lr) - k.lr * direction;
}

class Update : public Op {  // params, grads, state, lr, step, scale, ok -> params, state
 public:
  Update(const UpdateWay& way, const Rule& rule, std::vector<bool> decays)
      : way_(way), rule_(rule), decays_(std::move(decays)) {}
  const char* name() const override { return way_.name; }
  bool same(const Op& other) const override {
    const auto& op = static_cast<const Update&>(other);
    return rule_ == op.rule_ && decays_ == op.decays_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    const size_t n = decays_.size();
    std::vector<mx::Shape> shapes;
    for (size_t i = 0; i < n; i++) shapes.push_back(in[i].shape());
    for (size_t i = 2 * n; i + 4 < in.size(); i++) shapes.push_back(in[i].shape());
    return shapes;
  }

  Arrays plain(const Arrays& in) const override {
    const auto n = static_cast<std::ptrdiff_t>(decays_.size());
    Arrays params(in.begin(), in.begin() + n), grads(in.begin() + n, in.begin() + 2 * n);
    Arrays state(in.begin() + 2 * n, in.end() - 4);
    const auto* k = &in.back() - 3;
    way_.plain(rule_, params, grads, state, decays_, {k[0], k[1], k[2], k[3]});
    params.insert(params.end(), state.begin(), state.end());
    return params;
  }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    release_inputs(in, out);
    const size_t n = decays_.size(), kinds = arrays_of_state(way_, rule_);
    // In the order in which the task reads them: parameter, gradient, state of each tensor.
    std::vector<Dense> reads;
    std::vector<Tensor> tensors;
    for (size_t i = 0; i < n; i++) {
      Tensor t{};
      t.size = static_cast<int64_t>(in[i].size());
      t.type = type_of(in[i].dtype()), t.grad_type = type_of(in[n + i].dtype());
      t.decays = decays_[i];
      give(out[i], in[i]);
      t.to = out[i].data<void>();
      reads.insert(reads.end(), {Dense(in[i]), Dense(in[n + i])});
      for (size_t s = 0; s < kinds; s++) {
        const auto& from = in[2 * n + kinds * i + s];
        auto& to = out[n + kinds * i + s];
        give(to, from);
        t.state_to[s] = to.data<void>();
        t.state_bytes[s] = to.nbytes();
        reads.emplace_back(from);
      }
      tensors.push_back(t);
    }
    const auto* k = &in.back() - 3;
    task([tensors = std::move(tensors), reads = std::move(reads), rule = rule_, run = way_.run,
          kinds, lr = k[0].data<float>(), step = k[1].data<float>(), scale = k[2].data<float>(),
          ok = k[3].data<bool>()]() mutable {
      auto next = reads.begin();
      for (auto& t : tensors) {
        t.from = (next++)->read(), t.grad = (next++)->read();
        for (size_t s = 0; s < kinds; s++) t.state_from[s] = (next++)->read();
      }
      if (*ok) {
        run(tensors, constants(rule, *lr, *step, *scale));
      } else {
        keep(tensors, kinds);
      }
    });
  }

  static size_t arrays_of_state(const UpdateWay& way, const Rule& rule) {
    return static_cast<size_t>(way.arrays * states(rule));
  }

 private:
  static void keep(const std::vector<Tensor>& tensors, size_t kinds) {
    const auto copy = [](void* to, const void* from, size_t bytes) {
      if (to != from) std::memcpy(to, from, bytes);
    };
    for (const auto& t : tensors) {
      copy(t.to, t.from, static_cast<size_t>(t.size * size_of(t.type)));
      for (size_t s = 0; s < kinds; s++) copy(t.state_to[s], t.state_from[s], t.state_bytes[s]);
    }
  }

  const UpdateWay& way_;
  Rule rule_;
  std::vector<bool> decays_;
};

void run_float(const std::vector<Tensor>& tensors, const Constants& now) {
  over_all(tensors, 1, kGrain, [&](const Tensor& t, int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(update_some)(t, now, begin, end);
  });
}
constexpr UpdateWay kFloat{"lmxlab::Update", 1, run_float, plain::update};

class GlobalNorm : public Op {
 public:
  const char* name() const override { return "lmxlab::GlobalNorm"; }
  std::vector<mx::Shape> output_shapes(const Arrays&) override { return {{}}; }
  Arrays plain(const Arrays& in) const override { return {plain::global_norm(in)}; }

  void eval_cpu(const Arrays& in, Arrays& out) override {
    give(out[0]);
    struct Summand {
      Type type;
      int64_t size;
      const void* flat;            // the order of the elements does not matter,
      std::optional<Dense> dense;  // but there must be no gaps
    };
    std::vector<Summand> summands;
    for (const auto& x : in) {
      const bool whole = x.flags().contiguous && x.data_size() == x.size();
      summands.push_back({type_of(x.dtype()), static_cast<int64_t>(x.size()),
                          whole ? x.data<void>() : nullptr,
                          whole ? std::nullopt : std::optional<Dense>(x)});
    }
    task([summands = std::move(summands), norm = out[0].data<float>()] {
      struct Block {
        Type type;
        const void* x;
        int64_t begin, end;
      };
      std::vector<Block> blocks;
      for (const auto& s : summands) {
        const void* const x = s.dense ? s.dense->read() : s.flat;
        for (int64_t i = 0; i < s.size; i += kGrain)
          blocks.push_back({s.type, x, i, std::min(s.size, i + kGrain)});
      }
      std::vector<float> sums(blocks.size());
      parallel_for(static_cast<int64_t>(blocks.size()), 4, [&](int64_t first, int64_t last) {
        for (auto i = static_cast<size_t>(first); i < static_cast<size_t>(last); i++) {
          const auto& b = blocks[i];
          sums[i] = HWY_DYNAMIC_DISPATCH(sum_of_squares)(b.type, b.x, b.begin, b.end);
        }
      });
      double total = 0;
      for (const float s : sums) total += s;
      *norm = static_cast<float>(std::sqrt(total));
    });
  }
};

bool all_fused(const Arrays& arrays) {
  return std::all_of(arrays.begin(), arrays.end(), [](const array& x) { return fused(x.dtype()); });
}

}  // namespace

int states(const Rule& rule) {
  if (const auto* sgd = std::get_if<Sgd>(&rule)) return sgd->momentum != 0;
  if (std::holds_alternative<AdamW>(rule)) return 2;
  return std::holds_alternative<Accumulate>(rule) ? 0 : 1;
}

void update(const Rule& rule, Arrays& params, const Arrays& grads, Arrays& state,
            const std::vector<bool>& decays, const StepNumbers& numbers) {
  update(kFloat, rule, params, grads, state, decays, numbers);
}

void update(const UpdateWay& way, const Rule& rule, Arrays& params, const Arrays& grads,
            Arrays& state, const std::vector<bool>& decays, const StepNumbers& numbers) {
  const size_t n = params.size(), kinds = Update::arrays_of_state(way, rule);
  if (grads.size() != n || decays.size() != n || state.size() != kinds * n) {
    throw Error(Kind::internal, "[kernels] update: parameters, gradients and state do not match");
  }
  if (!all_fused(params) || !all_fused(grads)) {
    return way.plain(rule, params, grads, state, decays, numbers);
  }
  for (size_t at = 0; at < n; at += kTensorsOfAnOp) {
    const size_t end = std::min(n, at + kTensorsOfAnOp);
    std::vector<mx::Shape> shapes;
    std::vector<mx::Dtype> dtypes;
    Arrays in;
    const auto take = [&](const Arrays& from, size_t width, bool rewritten) {
      for (size_t i = width * at; i < width * end; i++) {
        in.push_back(from[i]);
        if (rewritten) shapes.push_back(from[i].shape()), dtypes.push_back(from[i].dtype());
      }
    };
    take(params, 1, true), take(grads, 1, false), take(state, kinds, true);
    in.insert(in.end(), {numbers.lr, numbers.step, numbers.scale, numbers.ok});
    const auto some = [](const auto& all, size_t from, size_t to) {
      return std::vector<bool>(all.begin() + static_cast<std::ptrdiff_t>(from),
                               all.begin() + static_cast<std::ptrdiff_t>(to));
    };
    const auto out = array::make_arrays(
        std::move(shapes), dtypes, std::make_shared<Update>(way, rule, some(decays, at, end)), in);
    std::copy_n(out.begin(), end - at, params.begin() + static_cast<std::ptrdiff_t>(at));
    std::copy(out.begin() + static_cast<std::ptrdiff_t>(end - at), out.end(),
              state.begin() + static_cast<std::ptrdiff_t>(kinds * at));
  }
}

void add_to(Arrays& sums, const Arrays& more) {
  if (!all_fused(sums) || !all_fused(more)) {
    for (size_t i = 0; i < sums.size(); i++) sums[i] = mx::add(sums[i], more[i]);
    return;
  }
  const array one(1.0f);
  Arrays none;
  update(Accumulate{}, sums, more, none, std::vector<bool>(sums.size(), false),
         {one, one, one, array(true)});
}

array global_norm(const Arrays& arrays) {
  if (arrays.empty()) return array(0.0f);
  if (!all_fused(arrays)) return plain::global_norm(arrays);
  return array({}, mx::float32, std::make_shared<GlobalNorm>(), arrays);
}

void plain::update(const Rule& rule, Arrays& params, const Arrays& grads, Arrays& state,
                   const std::vector<bool>& decays, const StepNumbers& numbers) {
  const size_t kinds = static_cast<size_t>(states(rule));
  const auto keep_unless_ok = [&](array& value, const array& before) {
    value = mx::where(numbers.ok, mx::astype(value, before.dtype()), before);
  };
  for (size_t i = 0; i < params.size(); i++) {
    const auto p = mx::astype(params[i], mx::float32);
    const auto g = mx::astype(grads[i], mx::float32) * numbers.scale;
    array* s = state.data() + kinds * i;
    const Arrays before(s, s + kinds);
    auto now =
        std::visit([&](const auto& r) { return next(r, p, g, s, decays[i], numbers); }, rule);
    keep_unless_ok(now, params[i]);
    params[i] = now;
    for (size_t j = 0; j < kinds; j++) keep_unless_ok(s[j], before[j]);
  }
}

array plain::global_norm(const Arrays& arrays) {
  array total(0.0f);
  for (const auto& x : arrays) {
    // Rows first: long float32 sums lose digits, two short ones do not.
    array squares = mx::square(mx::astype(x, mx::float32));
    if (squares.ndim() > 1) squares = mx::sum(squares, -1);
    total = total + mx::sum(squares);
  }
  return mx::sqrt(total);
}

}  // namespace lmxlab::kernels
#endif
