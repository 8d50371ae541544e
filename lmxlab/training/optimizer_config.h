// What an optimizer is told: the [optimizer] table of a recipe. No MLX here.
#pragma once

#include "lmxlab/base/fields.h"

#include <array>
#include <optional>
#include <string>

namespace lmxlab {

enum class OptimizerName { adamw, sgd, lion, adafactor, muon };
/// Which parameters weight decay acts on.
///   matrices  with two or more dimensions: weights, embeddings, head; never norms and biases
///   hidden    the same without embeddings and head
///   all       every one
enum class DecayGroup { matrices, hidden, all };
/// Muon's factor on the learning rate of a matrix [A, B].
///   original         sqrt(max(1, A / B))
///   match_rms_adamw  0.2 sqrt(max(A, B)): updates as large as AdamW's, arXiv:2502.16982
enum class MuonScale { original, match_rms_adamw };

template <>
struct EnumNames<OptimizerName> {
  static constexpr std::pair<OptimizerName, const char*> table[] = {
      {OptimizerName::adamw, "adamw"},
      {OptimizerName::sgd, "sgd"},
      {OptimizerName::lion, "lion"},
      {OptimizerName::adafactor, "adafactor"},
      {OptimizerName::muon, "muon"}};
};
template <>
struct EnumNames<DecayGroup> {
  static constexpr std::pair<DecayGroup, const char*> table[] = {
      {DecayGroup::matrices, "matrices"}, {DecayGroup::hidden, "hidden"}, {DecayGroup::all, "all"}};
};
template <>
struct EnumNames<MuonScale> {
  static constexpr std::pair<MuonScale, const char*> table[] = {
      {MuonScale::original, "original"}, {MuonScale::match_rms_adamw, "match_rms_adamw"}};
};

/// An empty option takes its default for the optimizer chosen, see `with_defaults`.
struct OptimizerConfig {
  OptimizerName name = OptimizerName::adamw;
  double lr = 1e-3;   // the schedule's peak
  double clip = 1.0;  // largest global gradient norm, 0: no clipping
  int state_bits = 32;
  double ema = 0;
  std::vector<std::string> only = {};
  std::optional<double> weight_decay = {};
  std::optional<DecayGroup> decay = {};
  std::optional<std::array<double, 2>> betas = {};
  std::optional<double> eps = {};
  std::optional<bool> bias_correction = {};
  std::optional<double> momentum = {};
  std::optional<bool> nesterov = {};
  std::optional<double> adafactor_beta2_decay = {};
  std::optional<std::array<double, 2>> adafactor_eps = {};
  std::optional<double> adafactor_d = {};
  std::optional<int> muon_ns_steps = {};
  std::optional<MuonScale> muon_adjust_lr = {};
  std::optional<double> muon_adamw_lr_ratio = {};
  template <class V>
  void visit(V& v) {
    v("name", name, "adamw, sgd, lion, adafactor or muon");
    v("lr", lr, "learning rate at the schedule's peak");
    v("clip", clip, "largest global norm of the gradients, 0 for no clipping");
    v("state_bits", state_bits, "of each number kept between steps, 32 or 8");
    v("ema", ema,
      "share that a moving average of the weights keeps in a step, 0: none. It is what is "
      "validated, "
      "sampled from and saved");
    v("only", only, "parameters that train, by last names or patterns with *; none: all");
    v("weight_decay", weight_decay, "adamw 0.01, muon 0.1, others 0");
    v("decay", decay, "what decays: matrices (2+ dimensions), hidden (no embeddings, head) or all");
    v("betas", betas, "adamw, muon's adamw: [0.9, 0.999]; lion: [0.9, 0.99]");
    v("eps", eps, "adamw, muon's adamw: added to the root of the second moment, 1e-8");
    v("bias_correction", bias_correction, "adamw, muon's adamw: true");
    v("momentum", momentum, "sgd 0, muon 0.95");
    v("nesterov", nesterov, "sgd false, muon true");
    v("adafactor_beta2_decay", adafactor_beta2_decay, "exponent of the second moment's rate, -0.8");
    v("adafactor_eps", adafactor_eps, "floors: root of the second moment, RMS of a parameter");
    v("adafactor_d", adafactor_d, "largest RMS of an update before scaling, 1");
    v("muon_ns_steps", muon_ns_steps, "Newton-Schulz iterations, 5");
    v("muon_adjust_lr", muon_adjust_lr, "original or match_rms_adamw");
    v("muon_adamw_lr_ratio", muon_adamw_lr_ratio, "rate of what is no hidden matrix, times lr: 1");
  }
};

/// Adds every option that is out of range or that the chosen optimizer does not use, as
/// `optimizer.NAME: ...`.
void check(const OptimizerConfig& config, Problems& problems);

/// The same with every option that its optimizer uses filled in, and the others empty.
/// @throws Error(usage) with all that `check` finds
OptimizerConfig with_defaults(const OptimizerConfig& config);

}  // namespace lmxlab
