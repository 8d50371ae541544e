#include "lmxlab/training/optimizer_config.h"

#include <cmath>
#include <vector>

namespace lmxlab {
namespace {

using Name = OptimizerName;

class Checker {
 public:
  Checker(const OptimizerConfig& config, Problems& problems)
      : name_(config.name), problems_(problems) {}

  /// `option` belongs to `users` only; if it is given, `valid` says whether it is in range.
  template <class T, class F>
  void option(const char* field, const std::optional<T>& option, std::initializer_list<Name> users,
              const char* expected, F valid) {
    if (!option) return;
    if (std::find(users.begin(), users.end(), name_) == users.end()) {
      std::vector<std::string> names;
      for (Name n : users) names.push_back(enum_name(n));
      problems_.add(std::string("optimizer.") + field + ": " + enum_name(name_) +
                    " does not use it, only " + join(names, ", ") + ". Leave it out.");
    } else {
      value(field, *option, expected, valid);
    }
  }
  template <class T, class F>
  void value(const char* field, const T& v, const char* expected, F valid) {
    if (!valid(v))
      problems_.add(std::string("optimizer.") + field + ": expected " + expected + ", got " +
                    to_json(v).dump());
  }

 private:
  Name name_;
  Problems& problems_;
};

bool not_negative(double v) {
  return v >= 0 && std::isfinite(v);
}
bool below_one(double v) {
  return v >= 0 && v < 1;
}
template <class T>
bool any(const T&) {
  return true;
}

/// An option its optimizer uses: the one given, else its default.
template <class T>
void fill(std::optional<T>& option, T fallback) {
  if (!option) option = fallback;
}

}  // namespace

void check(const OptimizerConfig& c, Problems& problems) {
  Checker checker(c, problems);
  const auto positive = [](double v) { return v > 0 && std::isfinite(v); };
  checker.value("lr", c.lr, "0 or more", not_negative);
  checker.value("clip", c.clip, "0 (off) or more", not_negative);
  checker.value("state_bits", c.state_bits, "32 or 8", [](int n) { return n == 32 || n == 8; });
  checker.value("ema", c.ema, "a number in [0, 1)", below_one);
  if (c.weight_decay) checker.value("weight_decay", *c.weight_decay, "0 or more", not_negative);
  checker.option("betas", c.betas, {Name::adamw, Name::lion, Name::muon}, "two numbers in [0, 1)",
                 [](const auto& b) { return below_one(b[0]) && below_one(b[1]); });
  checker.option("eps", c.eps, {Name::adamw, Name::muon}, "more than 0", positive);
  checker.option("bias_correction", c.bias_correction, {Name::adamw, Name::muon}, "", any<bool>);
  checker.option("momentum", c.momentum, {Name::sgd, Name::muon}, "a number in [0, 1)", below_one);
  checker.option("nesterov", c.nesterov, {Name::sgd, Name::muon}, "", any<bool>);
  checker.option("adafactor_beta2_decay", c.adafactor_beta2_decay, {Name::adafactor}, "0 or less",
                 [](double v) { return v <= 0 && std::isfinite(v); });
  // The first one's square is the floor that is used, and float32 ends near 1e-38.
  checker.option(
      "adafactor_eps", c.adafactor_eps, {Name::adafactor}, "[1e-18 or more, 0 or more]",
      [](const auto& e) { return e[0] >= 1e-18 && std::isfinite(e[0]) && not_negative(e[1]); });
  checker.option("adafactor_d", c.adafactor_d, {Name::adafactor}, "1 or more",
                 [](double v) { return v >= 1 && std::isfinite(v); });
  checker.option("muon_ns_steps", c.muon_ns_steps, {Name::muon}, "1 to 99",
                 [](int n) { return n >= 1 && n < 100; });
  checker.option("muon_adjust_lr", c.muon_adjust_lr, {Name::muon}, "", any<MuonScale>);
  checker.option("muon_adamw_lr_ratio", c.muon_adamw_lr_ratio, {Name::muon}, "0 or more",
                 not_negative);
  if (c.name == Name::sgd && c.nesterov.value_or(false) && c.momentum.value_or(0) == 0)
    problems.add("optimizer.nesterov: needs a momentum above 0. Set optimizer.momentum.");
  if (c.state_bits == 8 && c.name == Name::adafactor)
    problems.add(
        "optimizer.state_bits: adafactor keeps a number for each row and column of a matrix, not "
        "for "
        "each weight: fewer than with 8 bits. Leave it out, or take adamw, lion, muon or sgd.");
  if (c.state_bits == 8 && c.name == Name::sgd && c.momentum.value_or(0) == 0)
    problems.add("optimizer.state_bits: sgd without momentum keeps nothing. Leave it out.");
  const bool decays = c.name == Name::adamw || c.name == Name::muon;
  if (c.decay && c.weight_decay.value_or(decays ? 1 : 0) == 0)
    problems.add("optimizer.decay: weight_decay is 0, so nothing decays. Set one or leave both.");
}

OptimizerConfig with_defaults(const OptimizerConfig& config) {
  Problems problems;
  check(config, problems);
  problems.raise(Kind::usage, "[optimizer] the options do not fit");
  OptimizerConfig c = config;
  const bool adam = c.name == Name::adamw || c.name == Name::muon;
  fill(c.weight_decay, c.name == Name::adamw ? 0.01 : c.name == Name::muon ? 0.1 : 0.0);
  if (*c.weight_decay != 0) fill(c.decay, DecayGroup::matrices);
  if (adam) {
    fill(c.betas, {0.9, 0.999});
    fill(c.eps, 1e-8);
    fill(c.bias_correction, true);
  }
  if (c.name == Name::lion) fill(c.betas, {0.9, 0.99});
  if (c.name == Name::sgd) {
    fill(c.momentum, 0.0);
    fill(c.nesterov, false);
  }
  if (c.name == Name::adafactor) {
    fill(c.adafactor_beta2_decay, -0.8);
    fill(c.adafactor_eps, {0x1p-23, 1e-3});
    fill(c.adafactor_d, 1.0);
  }
  if (c.name == Name::muon) {
    fill(c.momentum, 0.95);
    fill(c.nesterov, true);
    fill(c.muon_ns_steps, 5);
    fill(c.muon_adjust_lr, MuonScale::original);
    fill(c.muon_adamw_lr_ratio, 1.0);
  }
  return c;
}

}  // namespace lmxlab
