#include "lmxlab/training/optimizer.h"

#include <mlx/linalg.h>
#include <mlx/ops.h>

#include <algorithm>
#include <cmath>

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

/// decay * mean + (1 - decay) * value, with 1 - decay rounded once.
mx::array blend(const mx::array& mean, const mx::array& value, double decay) {
  return mean * constant(decay) + value * constant(1 - decay);
}

/// The root of the mean square of all elements, 0-d.
mx::array rms(const mx::array& x) {
  return mx::sqrt(mx::mean(mx::square(x)));
}

struct Slot {
  const char* name;
  mx::Shape shape;
};

/// The update of one parameter. `scalars` are computed once a step for all parameters of a rule.
class Rule {
 public:
  explicit Rule(const OptimizerConfig& config) : config_(config) {}
  virtual ~Rule() = default;
  virtual std::vector<Slot> slots(const ParamInfo& info) const = 0;
  virtual Arrays scalars(const mx::array& lr, const mx::array& step) const = 0;
  /// @param p, g  float32. Returns the next p, rewrites the slots that `s` points at.
  virtual mx::array apply(const ParamInfo& info, const mx::array& p, const mx::array& g,
                          mx::array* s, const Arrays& scalars) const = 0;

 protected:
  /// What a decayed parameter is multiplied by.
  mx::array keep(const mx::array& lr) const {
    return constant(1) - lr * constant(*config_.weight_decay);
  }
  bool decays(const ParamInfo& info) const { return info.decay && *config_.weight_decay != 0; }
  mx::array decayed(const ParamInfo& info, const mx::array& p, const mx::array& factor) const {
    return decays(info) ? p * factor : p;
  }

  OptimizerConfig config_;
};

class AdamW : public Rule {
 public:
  AdamW(const OptimizerConfig& config, double lr_ratio) : Rule(config), lr_ratio_(lr_ratio) {}

  std::vector<Slot> slots(const ParamInfo& info) const override {
    return {{"m", info.shape}, {"v", info.shape}};
  }
  Arrays scalars(const mx::array& base, const mx::array& step) const override {
    const mx::array lr = lr_ratio_ == 1 ? base : base * constant(lr_ratio_);
    if (!*config_.bias_correction) return {keep(lr), lr, constant(1)};
    const auto [b1, b2] = *config_.betas;
    return {keep(lr), lr / one_minus_power(b1, step), mx::rsqrt(one_minus_power(b2, step))};
  }
  mx::array apply(const ParamInfo& info, const mx::array& p, const mx::array& g, mx::array* s,
                  const Arrays& k) const override {
    const auto [b1, b2] = *config_.betas;
    s[0] = blend(s[0], g, b1);
    s[1] = blend(s[1], mx::square(g), b2);
    const mx::array root = mx::sqrt(s[1]) * k[2] + constant(*config_.eps);
    return decayed(info, p, k[0]) - k[1] * (s[0] / root);
  }

 private:
  /// 1 - beta^step without the cancellation of beta near 1.
  static mx::array one_minus_power(double beta, const mx::array& step) {
    if (beta == 0) return constant(1);
    return mx::negative(mx::expm1(step * constant(std::log(beta))));
  }

  double lr_ratio_;
};

class Sgd : public Rule {
 public:
  using Rule::Rule;
  std::vector<Slot> slots(const ParamInfo& info) const override {
    if (*config_.momentum == 0) return {};
    return {{"momentum", info.shape}};
  }
  Arrays scalars(const mx::array& lr, const mx::array&) const override { return {lr}; }
  mx::array apply(const ParamInfo& info, const mx::array& p, const mx::array& grad, mx::array* s,
                  const Arrays& k) const override {
    const mx::array g = decays(info) ? grad + p * constant(*config_.weight_decay) : grad;
    if (*config_.momentum == 0) return p - k[0] * g;
    const mx::array momentum = constant(*config_.momentum);
    s[0] = s[0] * momentum + g;
    return p - k[0] * (*config_.nesterov ? g + s[0] * momentum : s[0]);
  }
};

class Lion : public Rule {
 public:
  using Rule::Rule;
  std::vector<Slot> slots(const ParamInfo& info) const override { return {{"m", info.shape}}; }
  Arrays scalars(const mx::array& lr, const mx::array&) const override { return {keep(lr), lr}; }
  mx::array apply(const ParamInfo& info, const mx::array& p, const mx::array& g, mx::array* s,
                  const Arrays& k) const override {
    const auto [b1, b2] = *config_.betas;
    const mx::array direction = mx::sign(blend(s[0], g, b1));
    s[0] = blend(s[0], g, b2);
    return decayed(info, p, k[0]) - k[1] * direction;
  }
};

class Adafactor : public Rule {
 public:
  using Rule::Rule;
  std::vector<Slot> slots(const ParamInfo& info) const override {
    if (info.shape.size() < 2) return {{"v", info.shape}};
    mx::Shape row = info.shape, col = info.shape;
    row[row.size() - 1] = 1;
    col[col.size() - 2] = 1;
    return {{"row", row}, {"col", col}};
  }
  Arrays scalars(const mx::array& lr, const mx::array& step) const override {
    const mx::array rate = mx::power(step, constant(*config_.adafactor_beta2_decay));
    return {keep(lr), mx::minimum(lr, mx::rsqrt(step)), rate, constant(1) - rate};
  }
  mx::array apply(const ParamInfo& info, const mx::array& p, const mx::array& g, mx::array* s,
                  const Arrays& k) const override {
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
    return decayed(info, p, k[0]) - (size / excess) * direction;
  }
};

/// Newton-Schulz iteration towards the nearest orthogonal matrix: the singular values of x end
/// between 0.7 and 1.2.
mx::array orthogonalized(mx::array x, int steps) {
  const bool tall = x.shape(0) > x.shape(1);
  x = x / mx::maximum(mx::linalg::norm(x), constant(1e-7));
  if (tall) x = mx::transpose(x);  // the smaller Gram matrix
  for (int i = 0; i < steps; ++i) {
    const mx::array gram = mx::matmul(x, mx::transpose(x));
    const mx::array poly = gram * constant(-4.7750) + mx::matmul(gram, gram) * constant(2.0315);
    x = x * constant(3.4445) + mx::matmul(poly, x);
  }
  return tall ? mx::transpose(x) : x;
}

class Muon : public Rule {
 public:
  using Rule::Rule;
  std::vector<Slot> slots(const ParamInfo& info) const override {
    return {{"momentum", info.shape}};
  }
  Arrays scalars(const mx::array& lr, const mx::array&) const override { return {keep(lr), lr}; }
  mx::array apply(const ParamInfo& info, const mx::array& p, const mx::array& g, mx::array* s,
                  const Arrays& k) const override {
    const double momentum = *config_.momentum;
    s[0] = blend(s[0], g, momentum);
    const mx::array update = *config_.nesterov ? blend(g, s[0], 1 - momentum) : s[0];
    const double a = info.shape[0], b = info.shape[1];
    const double ratio = *config_.muon_adjust_lr == MuonScale::original
                             ? std::sqrt(std::max(1.0, a / b))
                             : 0.2 * std::sqrt(std::max(a, b));
    const mx::array direction = orthogonalized(update, *config_.muon_ns_steps);
    return decayed(info, p, k[0]) - (k[1] * constant(ratio)) * direction;
  }
};

std::unique_ptr<Rule> make_rule(const OptimizerConfig& config) {
  switch (config.name) {
    case OptimizerName::adamw: return std::make_unique<AdamW>(config, 1);
    case OptimizerName::sgd: return std::make_unique<Sgd>(config);
    case OptimizerName::lion: return std::make_unique<Lion>(config);
    case OptimizerName::adafactor: return std::make_unique<Adafactor>(config);
    case OptimizerName::muon: return std::make_unique<Muon>(config);
  }
  throw Error(Kind::internal, "[optimizer] an unknown name");
}

class RuleOptimizer : public Optimizer {
 public:
  RuleOptimizer(const OptimizerConfig& given, std::vector<ParamInfo> params)
      : params_(std::move(params)) {
    const OptimizerConfig config = with_defaults(given);
    rules_.push_back(make_rule(config));
    const bool muon = config.name == OptimizerName::muon;
    if (muon) rules_.push_back(std::make_unique<AdamW>(config, *config.muon_adamw_lr_ratio));
    for (const auto& info : params_) {
      if (muon && info.matrix && info.shape.size() != 2)
        throw Error(Kind::mismatch, "[optimizer] " + info.path +
                                        ": muon's matrices have two dimensions, got " +
                                        text(info.shape) + ". Mark it as no matrix.");
      const Rule* rule = rules_[muon && !info.matrix ? 1 : 0].get();
      first_slot_.push_back(slots_.size());
      rule_of_.push_back(rule);
      for (auto& slot : rule->slots(info)) {
        names_.push_back(info.path + "." + slot.name);
        slots_.push_back(std::move(slot.shape));
      }
    }
  }

  Arrays init(const Arrays& params) const override {
    require_shapes("parameter", params);
    Arrays state;
    state.reserve(slots_.size());
    for (const auto& shape : slots_) state.push_back(mx::zeros(shape, mx::float32));
    return state;
  }
  std::vector<std::string> state_names() const override { return names_; }
  std::vector<mx::Shape> state_shapes() const override { return slots_; }

  void update(Arrays& params, const Arrays& grads, Arrays& state, const mx::array& lr,
              const mx::array& step) const override {
    require_shapes("parameter", params);
    require_shapes("gradient", grads);
    require_state(state);
    for (const auto* scalar : {&lr, &step})
      if (scalar->ndim() != 0 || scalar->dtype() != mx::float32)
        throw Error(Kind::mismatch, "[optimizer] lr and step: expected 0-d float32 arrays, got " +
                                        text(scalar->shape()) + ".");
    std::vector<Arrays> scalars;
    for (const auto& rule : rules_) scalars.push_back(rule->scalars(lr, step));
    for (size_t i = 0; i < params_.size(); ++i) {
      const Arrays& k = scalars[rule_of_[i] == rules_[0].get() ? 0 : 1];
      const mx::array next =
          rule_of_[i]->apply(params_[i], mx::astype(params[i], mx::float32),
                             mx::astype(grads[i], mx::float32), state.data() + first_slot_[i], k);
      params[i] = mx::astype(next, params[i].dtype());
    }
  }

 private:
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
      if (state[i].shape() != slots_[i] || state[i].dtype() != mx::float32)
        throw Error(Kind::mismatch, "[optimizer] state " + names_[i] + ": expected float32 " +
                                        text(slots_[i]) + ", got another type or " +
                                        text(state[i].shape()) + ".");
  }

  std::vector<ParamInfo> params_;
  std::vector<std::unique_ptr<Rule>> rules_;
  std::vector<const Rule*> rule_of_;
  std::vector<size_t> first_slot_;
  std::vector<std::string> names_;
  std::vector<mx::Shape> slots_;
};

bool embedding_or_head(const std::string& path) {
  for (const auto& part : split(path, '.'))
    if (part.find("embed") != std::string::npos || part == "wte" || part == "wpe" ||
        part == "head" || part == "lm_head")
      return true;
  return false;
}

}  // namespace

ParamInfo param_info(std::string path, mx::Shape shape, const OptimizerConfig& config) {
  ParamInfo info{std::move(path), std::move(shape)};
  const bool outer = embedding_or_head(info.path);
  switch (config.decay.value_or(DecayGroup::matrices)) {
    case DecayGroup::matrices: info.decay = info.shape.size() >= 2; break;
    case DecayGroup::hidden: info.decay = info.shape.size() >= 2 && !outer; break;
    case DecayGroup::all: info.decay = true; break;
  }
  info.matrix = info.shape.size() == 2 && !outer;
  return info;
}

std::unique_ptr<Optimizer> make_optimizer(const OptimizerConfig& config,
                                          std::vector<ParamInfo> params) {
  return std::make_unique<RuleOptimizer>(config, std::move(params));
}

}  // namespace lmxlab
