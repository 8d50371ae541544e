#include "lmxlab/training/optimizer.h"

#include "lmxlab/kernels/update_8bit.h"
#include "lmxlab/training/average.h"

#include <mlx/ops.h>

#include <algorithm>
#include <cmath>
#include <map>

namespace lmxlab {
namespace {

using Arrays = std::vector<mx::array>;

mx::array constant(double value) {
  return mx::array(static_cast<float>(value));
}

std::string text(const mx::Shape& shape) {
  std::vector<std::string> parts;
  for (auto n : shape) parts.push_back(std::to_string(n));
  return "[" + join(parts, ", ") + "]";
}

std::string text(mx::Dtype dtype) {
  return dtype == mx::float32 ? "float32"
         : dtype == mx::int8  ? "int8"
         : dtype == mx::uint8 ? "uint8"
                              : "another type";
}

/// The root of the mean square of all elements, 0-d.
mx::array rms(const mx::array& x) {
  return mx::sqrt(mx::mean(mx::square(x)));
}

struct Slot {
  std::string name;
  mx::Shape shape;
  mx::Dtype dtype = mx::float32;
};

int64_t elements(const mx::Shape& shape) {
  int64_t n = 1;
  for (auto s : shape) n *= s;
  return n;
}

/// The parameters that one rule updates.
struct Share {
  std::vector<const ParamInfo*> infos;
  Arrays params, grads, state;
};

class Rule {
 public:
  virtual ~Rule() = default;
  virtual std::vector<Slot> slots(const ParamInfo& info) const = 0;
  /// Rewrites parameters and state.
  virtual void update(Share& share, const kernels::StepNumbers& numbers) const = 0;
};

/// One formula for every element: all of them in one pass.
class ElementRule : public Rule {
 public:
  /// @param bits  of the state, where the parameter is large enough
  ElementRule(const kernels::Rule& rule, std::vector<const char*> slots, int bits,
              double lr_ratio = 1)
      : rule_(rule), slots_(std::move(slots)), bits_(bits), lr_ratio_(lr_ratio) {}

  std::vector<Slot> slots(const ParamInfo& info) const override {
    std::vector<Slot> out;
    for (size_t i = 0; i < slots_.size(); ++i) {
      const std::string name = slots_[i];
      if (in_8_bits(info)) {
        out.push_back({name, info.shape, i == 0 ? mx::int8 : mx::uint8});
        out.push_back({name + "_scale", {kernels::blocks_8bit(elements(info.shape))}});
      } else {
        out.push_back({name, info.shape});
      }
    }
    return out;
  }
  void update(Share& share, const kernels::StepNumbers& numbers) const override {
    auto own = numbers;
    if (lr_ratio_ != 1) own.lr = own.lr * constant(lr_ratio_);
    update_those(share, false, kernels::update, own);
    update_those(share, true, kernels::update_8bit, own);
  }

 private:
  bool in_8_bits(const ParamInfo& info) const {
    return bits_ == 8 && elements(info.shape) >= 4096 && !info.embedding;
  }
  /// Those in 8 bits, or the others.
  template <class F>
  void update_those(Share& share, bool in_8, F f, const kernels::StepNumbers& numbers) const {
    std::vector<bool> decays;
    Arrays params, grads, state;
    std::vector<mx::array*> places;  // of params, then of state
    for (size_t i = 0; i < share.params.size(); ++i)
      if (in_8_bits(*share.infos[i]) == in_8) {
        params.push_back(share.params[i]), grads.push_back(share.grads[i]);
        decays.push_back(share.infos[i]->decay);
        places.push_back(&share.params[i]);
      }
    auto* slot = share.state.data();
    for (const auto* info : share.infos) {
      const bool packed = in_8_bits(*info);
      for (size_t n = slots_.size() * (packed ? 2 : 1); n > 0; --n, ++slot)
        if (packed == in_8) state.push_back(*slot), places.push_back(slot);
    }
    f(rule_, params, grads, state, decays, numbers);
    auto place = places.begin();
    for (const auto& p : params) **place++ = p;
    for (const auto& s : state) **place++ = s;
  }

  kernels::Rule rule_;
  std::vector<const char*> slots_;
  int bits_;
  double lr_ratio_;
};

/// A formula of whole parameters.
class TensorRule : public Rule {
 public:
  explicit TensorRule(const OptimizerConfig& config) : config_(config) {}

 protected:
  static void unless_ok(mx::array& now, const mx::array& before, const mx::array& ok) {
    now = mx::where(ok, mx::astype(now, before.dtype()), before);
  }
  /// p <- p - lr (scale direction + decay p), where p lies.
  static void subtract(mx::array& p, const mx::array& direction, double decay,
                       const kernels::StepNumbers& numbers) {
    Arrays params{p}, none;
    kernels::update(kernels::Sgd{.decay = decay}, params, {direction}, none, {decay != 0}, numbers);
    p = params[0];
  }

  OptimizerConfig config_;
};

class Adafactor : public TensorRule {
 public:
  using TensorRule::TensorRule;
  std::vector<Slot> slots(const ParamInfo& info) const override {
    if (info.shape.size() < 2) return {{"v", info.shape}};
    mx::Shape row = info.shape, col = info.shape;
    row[row.size() - 1] = 1;
    col[col.size() - 2] = 1;
    return {{"row", row}, {"col", col}};
  }
  void update(Share& share, const kernels::StepNumbers& numbers) const override {
    const mx::array rate = mx::power(numbers.step, constant(*config_.adafactor_beta2_decay));
    const Arrays k{numbers.lr * constant(*config_.weight_decay),
                   mx::minimum(numbers.lr, mx::rsqrt(numbers.step)), rate,
                   constant(1) - rate};  // computed once for all parameters
    auto* s = share.state.data();
    for (size_t i = 0; i < share.params.size(); ++i) {
      const auto& info = *share.infos[i];
      auto& p = share.params[i];
      const size_t n = slots(info).size();
      const Arrays before(s, s + n);
      const auto g = mx::astype(share.grads[i], mx::float32) * numbers.scale;
      auto [direction, size] = direction_of(info, mx::astype(p, mx::float32), g, s, k);
      if (info.decay && *config_.weight_decay != 0)
        direction = size * direction + k[0] * p, size = constant(1);
      subtract(p, direction, 0, {constant(1), numbers.step, size, numbers.ok});
      for (size_t j = 0; j < n; ++j) unless_ok(s[j], before[j], numbers.ok);
      s += n;
    }
  }

 private:
  /// What is subtracted from p, and the number it is multiplied by first.
  /// @param p, g  float32. Rewrites the slots that `s` points at.
  std::pair<mx::array, mx::array> direction_of(const ParamInfo& info, const mx::array& p,
                                               const mx::array& g, mx::array* s,
                                               const Arrays& k) const {
    const auto [floor, scale_floor] = *config_.adafactor_eps;
    const auto average = [&](mx::array& slot, const mx::array& value) {
      slot = slot * k[3] + value * k[2];
    };
    const mx::array squares = mx::square(g);
    mx::array second = squares;
    if (info.shape.size() < 2) {
      average(s[0], squares);
      second = s[0];
    } else {
      average(s[0], mx::mean(squares, -1, true));
      average(s[1], mx::mean(squares, -2, true));
      // The ratio first: row times col of tiny gradients would underflow.
      second = (s[0] / mx::maximum(mx::mean(s[0], -2, true), constant(floor))) * s[1];
    }
    const mx::array direction = mx::rsqrt(mx::maximum(second, constant(floor * floor))) * g;
    const mx::array size = mx::maximum(rms(p), constant(scale_floor)) * k[1];
    const mx::array excess =
        mx::maximum(rms(direction) * constant(1 / *config_.adafactor_d), constant(1));
    return {direction, size / excess};
  }
};

/// Newton-Schulz iteration towards the nearest orthogonal matrix: the singular values of x end
/// between 0.7 and 1.2. Of a stack each matrix by itself.
mx::array orthogonalized(mx::array x, int steps) {
  const bool tall = x.shape(-2) > x.shape(-1);
  const auto transposed = [](const mx::array& m) { return mx::swapaxes(m, -1, -2); };
  x = x / mx::maximum(mx::sqrt(mx::sum(mx::square(x), {-2, -1}, true)), constant(1e-7));
  if (tall) x = transposed(x);  // the smaller Gram matrix
  for (int i = 0; i < steps; ++i) {
    const mx::array gram = mx::matmul(x, transposed(x));
    const mx::array poly = gram * constant(-4.7750) + mx::matmul(gram, gram) * constant(2.0315);
    x = x * constant(3.4445) + mx::matmul(poly, x);
  }
  return tall ? transposed(x) : x;
}

class Muon : public TensorRule {
 public:
  explicit Muon(const OptimizerConfig& config)
      : TensorRule(config),
        momentum_(kernels::Blend{*config.momentum, *config.nesterov}, {"momentum"},
                  config.state_bits) {}
  std::vector<Slot> slots(const ParamInfo& info) const override { return momentum_.slots(info); }
  void update(Share& share, const kernels::StepNumbers& numbers) const override {
    Share momentum{share.infos, {}, share.grads, std::move(share.state)};
    for (const auto& g : share.grads) momentum.params.push_back(mx::astype(g, mx::float32));
    momentum_.update(momentum, numbers);
    share.state = std::move(momentum.state);
    for (size_t i = 0; i < share.params.size(); ++i) {
      const auto& info = *share.infos[i];
      const double a = info.shape[info.shape.size() - 2], b = info.shape.back();
      const double ratio = *config_.muon_adjust_lr == MuonScale::original
                               ? std::sqrt(std::max(1.0, a / b))
                               : 0.2 * std::sqrt(std::max(a, b));
      subtract(share.params[i], orthogonalized(momentum.params[i], *config_.muon_ns_steps),
               info.decay ? *config_.weight_decay : 0,
               {numbers.lr, numbers.step, constant(ratio), numbers.ok});
    }
  }

 private:
  ElementRule momentum_;
};

std::unique_ptr<Rule> make_adamw(const OptimizerConfig& c, double lr_ratio, double decay) {
  const auto [b1, b2] = *c.betas;
  return std::make_unique<ElementRule>(kernels::AdamW{b1, b2, *c.eps, decay, *c.bias_correction},
                                       std::vector{"m", "v"}, c.state_bits, lr_ratio);
}

std::unique_ptr<Rule> make_rule(const OptimizerConfig& c, double lr_ratio) {
  using Slots = std::vector<const char*>;
  if (lr_ratio != 1 && c.name != OptimizerName::adamw && c.name != OptimizerName::lion)
    throw Error(Kind::usage, "[optimizer] " + enum_name(c.name) +
                                 " has one rate for all parameters: expected adamw or lion");
  const double decay = *c.weight_decay / lr_ratio;
  switch (c.name) {
    case OptimizerName::adamw: return make_adamw(c, lr_ratio, decay);
    case OptimizerName::sgd:
      return std::make_unique<ElementRule>(kernels::Sgd{*c.momentum, decay, *c.nesterov},
                                           *c.momentum == 0 ? Slots{} : Slots{"momentum"},
                                           c.state_bits);
    case OptimizerName::lion:
      return std::make_unique<ElementRule>(kernels::Lion{(*c.betas)[0], (*c.betas)[1], decay},
                                           Slots{"m"}, c.state_bits, lr_ratio);
    case OptimizerName::adafactor: return std::make_unique<Adafactor>(c);
    case OptimizerName::muon: return std::make_unique<Muon>(c);
  }
  throw Error(Kind::internal, "[optimizer] an unknown name");
}

class RuleOptimizer : public Optimizer {
 public:
  RuleOptimizer(const OptimizerConfig& given, std::vector<ParamInfo> params)
      : params_(std::move(params)) {
    const OptimizerConfig config = with_defaults(given);
    const bool muon = config.name == OptimizerName::muon;
    std::map<std::pair<bool, double>, const Rule*> found;  // muon's adamw or not, ratio of rates
    const auto rule_for = [&](const ParamInfo& info) {
      const bool beside = muon && !info.matrix;
      auto& rule = found[{beside, info.lr_ratio}];
      if (!rule) {
        rules_.push_back(beside ? make_adamw(config, *config.muon_adamw_lr_ratio * info.lr_ratio,
                                             *config.weight_decay / info.lr_ratio)
                                : make_rule(config, info.lr_ratio));
        rule = rules_.back().get();
      }
      return rule;
    };
    for (const auto& info : params_) {
      if (muon && info.matrix && info.shape.size() != 2 && info.shape.size() != 3)
        throw Error(Kind::mismatch, "[optimizer] " + info.path +
                                        ": muon's matrices have two dimensions, or three of a "
                                        "stack, got " +
                                        text(info.shape) + ". Mark it as no matrix.");
      rule_of_.push_back(rule_for(info));
      first_slot_.push_back(slots_.size());
      for (auto& slot : rule_of_.back()->slots(info)) {
        names_.push_back(info.path + "." + slot.name);
        slots_.push_back(std::move(slot.shape)), dtypes_.push_back(slot.dtype);
      }
    }
    first_slot_.push_back(slots_.size());
  }

  Arrays init(const Arrays& params) const override {
    require_shapes("parameter", params);
    Arrays state;
    state.reserve(slots_.size());
    for (size_t i = 0; i < slots_.size(); ++i) state.push_back(mx::zeros(slots_[i], dtypes_[i]));
    return state;
  }
  std::vector<std::string> state_names() const override { return names_; }
  std::vector<mx::Shape> state_shapes() const override { return slots_; }
  std::vector<mx::Dtype> state_dtypes() const override { return dtypes_; }

  using Optimizer::update;
  void update(Arrays& params, const Arrays& grads, Arrays& state,
              const kernels::StepNumbers& numbers) const override {
    require_shapes("parameter", params);
    require_shapes("gradient", grads);
    require_state(state);
    for (const auto* scalar : {&numbers.lr, &numbers.step, &numbers.scale})
      if (scalar->ndim() != 0 || scalar->dtype() != mx::float32)
        throw Error(Kind::mismatch,
                    "[optimizer] lr, step and scale: expected 0-d float32 arrays, "
                    "got " +
                        text(scalar->shape()) + ".");
    for (const auto& rule : rules_) {
      Share share;
      each_of(rule.get(), [&](size_t i, size_t slot, size_t end) {
        share.infos.push_back(&params_[i]);
        share.params.push_back(params[i]), share.grads.push_back(grads[i]);
        for (; slot < end; ++slot) share.state.push_back(state[slot]);
      });
      rule->update(share, numbers);
      size_t p = 0, s = 0;
      each_of(rule.get(), [&](size_t i, size_t slot, size_t end) {
        params[i] = share.params[p++];
        for (; slot < end; ++slot) state[slot] = share.state[s++];
      });
    }
  }

 private:
  /// f(parameter, its first slot, the slot after its last)
  template <class F>
  void each_of(const Rule* rule, F f) const {
    for (size_t i = 0; i < params_.size(); ++i)
      if (rule_of_[i] == rule) f(i, first_slot_[i], first_slot_[i + 1]);
  }
  void require_shapes(const char* what, const Arrays& arrays) const {
    if (arrays.size() != params_.size())
      throw Error(Kind::mismatch, std::string("[optimizer] ") + what + "s: expected " +
                                      std::to_string(params_.size()) + ", got " +
                                      std::to_string(arrays.size()) + ".");
    for (size_t i = 0; i < arrays.size(); ++i)
      if (arrays[i].shape() != params_[i].shape)
        throw Error(Kind::mismatch, "[optimizer] " + params_[i].path + ": expected a " + what +
                                        " of shape " + text(params_[i].shape) + ", got " +
                                        text(arrays[i].shape()) + ".");
  }
  void require_state(const Arrays& state) const {
    if (state.size() != slots_.size())
      throw Error(Kind::mismatch, "[optimizer] state: expected " + std::to_string(slots_.size()) +
                                      " arrays, got " + std::to_string(state.size()) + ".");
    for (size_t i = 0; i < state.size(); ++i)
      if (state[i].shape() != slots_[i] || state[i].dtype() != dtypes_[i])
        throw Error(Kind::mismatch, "[optimizer] state " + names_[i] + ": expected " +
                                        text(dtypes_[i]) + " " + text(slots_[i]) + ", got " +
                                        text(state[i].dtype()) + " " + text(state[i].shape()) +
                                        ".");
  }

  std::vector<ParamInfo> params_;
  std::vector<std::unique_ptr<Rule>> rules_;
  std::vector<const Rule*> rule_of_;
  std::vector<size_t> first_slot_;  // and the number of all
  std::vector<std::string> names_;
  std::vector<mx::Shape> slots_;
  std::vector<mx::Dtype> dtypes_;
};

bool any_part(const std::string& path, bool (*is)(const std::string&)) {
  const auto parts = split(path, '.');
  return std::any_of(parts.begin(), parts.end(), is);
}
bool is_embedding(const std::string& part) {
  return part.find("embed") != std::string::npos || part == "wte" || part == "wpe";
}
bool is_head(const std::string& part) {
  return part == "head" || part == "lm_head";
}

}  // namespace

void Optimizer::update(Arrays& params, const Arrays& grads, Arrays& state, const mx::array& lr,
                       const mx::array& step) const {
  update(params, grads, state, {lr, step, mx::array(1.0f), mx::array(true)});
}

int64_t Optimizer::state_bytes() const {
  const auto shapes = state_shapes();
  const auto dtypes = state_dtypes();
  int64_t bytes = 0;
  for (size_t i = 0; i < shapes.size(); ++i) bytes += elements(shapes[i]) * mx::size_of(dtypes[i]);
  return bytes;
}

ParamInfo param_info(std::string path, mx::Shape shape, const OptimizerConfig& config) {
  ParamInfo info{std::move(path), std::move(shape)};
  info.embedding = any_part(info.path, is_embedding);
  const bool outer = info.embedding || any_part(info.path, is_head);
  // Experts lie as stacks [E, out, in], their biases as [E, out]; other weights of three dimensions
  // are convolutions'.
  const bool stack = info.path.find("experts.") != std::string::npos;
  const bool matrices = info.shape.size() >= 2 && !(stack && info.path.ends_with(".bias"));
  switch (config.decay.value_or(DecayGroup::matrices)) {
    case DecayGroup::matrices: info.decay = matrices; break;
    case DecayGroup::hidden: info.decay = matrices && !outer; break;
    case DecayGroup::all: info.decay = true; break;
  }
  info.matrix = matrices && (info.shape.size() == 2 || stack) && !outer;
  return info;
}

std::unique_ptr<Optimizer> make_optimizer(const OptimizerConfig& config,
                                          std::vector<ParamInfo> params) {
  auto own = std::make_unique<RuleOptimizer>(config, params);
  if (config.ema == 0) return own;
  return with_average(std::move(own), std::move(params), config.ema);
}

}  // namespace lmxlab
