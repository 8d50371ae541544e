// Mixture of experts: a router, a stack of FFNs of which each token goes through a few, and a
// shared FFN beside them (arXiv:2101.03961, 2401.04088, 2412.19437).
#pragma once

#include "lmxlab/config/model.h"
#include "lmxlab/core/linear.h"
#include "lmxlab/core/mixer.h"
#include "lmxlab/core/mlp.h"
#include "lmxlab/core/norm.h"

#include <optional>
#include <span>
#include <vector>

namespace lmxlab::core {

/// What a router decided for T tokens, C choices and k of them a token.
struct Routing {
  mx::array logits;   // [T, C] float32
  mx::array scores;   // [T, C] float32, as config::Scoring says; of sparsemixer softmax(logits)
  mx::array experts;  // [T, k] uint32, in no order; without a gradient
  mx::array weights;  // [T, k] float32
};

/// Scores, choice and weights, all in float32. Gradients reach the weight through scores and
/// weights, never through the choice.
class Router {
 public:
  Router(const config::Moe& config, const Build& build);
  /// x [T, D] of any float type.
  Routing operator()(const mx::array& x) const;
  void visit(Visitor& v) {
    v("weight", weight), v("bias", bias), v("scale", scale);
    v("e_score_correction_bias", selection_bias), v("per_expert_scale", expert_scale);
  }

  Param weight;                         // [C, D]
  std::optional<Param> bias;            // [C]
  std::optional<Param> scale;           // [D], of the normed input; times D^-1/2
  std::optional<Param> selection_bias;  // [C] frozen: no gradient moves it, see balanced
  std::optional<Param> expert_scale;    // [C]

 private:
  config::Moe config_;
};

class Moe : public Ffn {
 public:
  /// Assignments (tokens times top_k) from which on they are sorted by expert.
  static constexpr int kSortFrom = 64;

  Moe(const config::Moe& config, const Build& build);
  /// [B, L, D] -> [B, L, D]. Adds to pass.sums where it is there. Nothing is read back: shapes do
  /// not depend on the routing, and no token is dropped.
  /// @cost  arithmetic of top_k experts and of the shared one a token; memory of top_k rows a
  /// token.
  mx::array operator()(const mx::array& x, Pass& pass) const override {
    return routed_by(x, x, pass);
  }
  /// The same where the router reads something else.
  mx::array routed_by(const mx::array& seen, const mx::array& x, Pass& pass) const;
  void visit(Visitor& v) override {
    v("gate", gate);
    v("fc1_latent_proj", to_latent), v("fc2_latent_proj", from_latent);
    if (experts.size() == 1)
      v("experts", experts[0]);
    else
      v("experts_by_width", experts);
    v("shared_experts", shared), v("shared_expert_gate.weight", shared_gate);
  }

  Router gate;
  std::optional<Linear> to_latent, from_latent;
  /// Those of one inner width.
  struct Experts {
    std::optional<ExpertLinear> gate_proj;
    ExpertLinear up_proj, down_proj;
    uint32_t first, count;
    void visit(Visitor& v) {
      v("gate_proj", gate_proj), v("up_proj", up_proj), v("down_proj", down_proj);
    }
  };
  std::vector<Experts> experts;  // narrow ones first
  std::optional<Mlp> shared;
  std::optional<Param> shared_gate;  // [1, D]

 private:
  // The chosen experts' weighted sum. x [T, width]
  mx::array routed(const mx::array& x, const Routing& routing) const;
  // What each expert makes of its rows. [n, width]
  mx::array expert(const mx::array& x, const mx::array& ids, bool sorted) const;
  // The same of one width; `absent`: rows of others are there, which give zeros.
  mx::array of_width(const Experts& some, const mx::array& x, const mx::array& ids, bool sorted,
                     bool absent) const;
  config::Moe config_;
};

/// A dense FFN beside experts; see config::MlpAndMoe.
class MlpAndMoe : public Ffn {
 public:
  MlpAndMoe(const config::MlpAndMoe& config, const config::Norm& norm, const Build& build);
  mx::array operator()(const mx::array& x, Pass& pass) const override { return beside(x, x, pass); }
  mx::array beside(const mx::array& x, const mx::array& stream, Pass& pass) const override;
  void visit(Visitor& v) override {
    v("dense", dense), v("moe", moe);
    v("dense_norm", dense_norm), v("moe_input_norm", moe_input_norm), v("moe_norm", moe_norm);
  }

  Mlp dense;
  Moe moe;
  Norm dense_norm, moe_input_norm, moe_norm;
};

/// The losses of a pass's routers (of its `sums`), with the configs' weights, added over layers;
/// 0-d float32.
///   aux_loss * C sum_e f_e P_e, f_e the share of assignments to expert e, P_e its mean score as a
///   share of the token's: 1 where all are alike     (arXiv:2101.03961, 4-6; 2412.19437, 17-20)
///   z_loss * mean of logsumexp(logits)^2            (arXiv:2202.08906, 5)
/// @param tokens  that the pass saw
mx::array router_loss(const config::Model& model, std::span<const Sums> sums, int64_t tokens);

/// bias + rate * sign(mean load - load): who had less is chosen more easily (arXiv:2408.15664,
/// algorithm 1).
mx::array balanced(const mx::array& bias, const mx::array& load, float rate);

/// How evenly the tokens of some steps were spread; on the host.
struct LoadStatistics {
  double largest = 0;  // load of the busiest expert over the mean: 1 is even
  double entropy = 0;  // of the loads, over that of even ones: 0 to 1
};
LoadStatistics load_statistics(std::span<const float> load);

}  // namespace lmxlab::core
