#include "lmxlab/align/policy.h"

#include "lmxlab/kernels/cross_entropy.h"
#include "lmxlab/kernels/fused.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <type_traits>
#include <utility>

namespace lmxlab::align {
namespace {

class GrpoObjective : public Objective {
 public:
  explicit GrpoObjective(const GrpoConfig& c) : temperature_(static_cast<float>(c.temperature)) {
    options_.loss_type = c.loss_type;
    options_.importance_sampling_level = c.importance_sampling_level;
    options_.epsilon = static_cast<float>(c.epsilon);
    if (c.epsilon_high) options_.epsilon_high = static_cast<float>(*c.epsilon_high);
    options_.beta = static_cast<float>(c.beta);
    options_.max_completion_length = c.max_completion_length;
  }
  std::vector<std::string> metrics() const override {
    return {"kl", "clip_low", "clip_high", "mismatch"};
  }
  size_t beside() const override { return options_.beta == 0 ? 3 : 4; }

  Value operator()(const core::Transformer& model, const data::Batch& batch,
                   core::Pass& pass) const override {
    const auto logprobs = policy_logprobs(model, batch, pass, temperature_);
    const auto& old = batch.beside[1];
    const auto reference = options_.beta == 0 ? std::nullopt : std::optional(batch.beside[3]);
    const auto loss =
        objectives::grpo(logprobs, batch.beside[0], *batch.loss, old, reference, options_);
    // Means over tokens, whatever the loss is divided by.
    const auto share = [&](const mx::array& sum, const mx::array& count) {
      return mx::stop_gradient(
          mx::multiply(sum, mx::divide(loss.loss.count, mx::maximum(count, mx::array(1.0f)))));
    };
    const auto other = mx::logical_and(*batch.loss, mx::not_equal(logprobs, old));
    const auto mismatch =
        mx::sum(mx::multiply(mx::astype(other, mx::float32), mx::expand_dims(batch.beside[2], 1)));
    return {loss.loss.sum,
            loss.loss.count,
            {share(loss.kl.sum, loss.kl.count), share(loss.clip_low.sum, loss.clip_low.count),
             share(loss.clip_high.sum, loss.clip_high.count), share(mismatch, loss.kl.count)}};
  }

 private:
  objectives::GrpoOptions options_;
  float temperature_;
};

// Attention by the kernel that goes a query at a time; what it cannot do is done by ordinary ops.
bool has_order(const config::Attention& a) {
  return !a.sinks && !a.chunked && !std::holds_alternative<config::Alibi>(a.position);
}
// Mixers that go another way for one token than for many, or look at the position that comes next.
// Other recurrences go a position at a time.
template <class T>
constexpr bool computed_otherwise =
    std::is_same_v<T, config::Mla> || std::is_same_v<T, config::Nsa> ||
    std::is_same_v<T, config::Mlstm> || std::is_same_v<T, config::Mamba3> ||
    std::is_same_v<T, config::Custom>;

}  // namespace

mx::array policy_logprobs(const core::Transformer& model, const data::Batch& batch,
                          core::Pass& pass, float temperature) {
  const auto targets = learned_targets(batch);
  const float scale = 1 / temperature;
  // A temperature comes behind a scale and a soft cap, each rounded, as the engine has it.
  const auto& config = model.config();
  const bool whole = config.logit_softcap || config.logit_scale != 1;
  const auto of = whole ? objectives::Logits{.x = model(batch.inputs, pass)}
                        : head_logits(model, batch.inputs, pass);
  if (!of.weight) {
    const auto logits = mx::astype(of.x, mx::float32);
    return mx::negative(
        kernels::cross_entropy(mx::multiply(logits, mx::array(scale)), targets).nll);
  }
  return mx::negative(
      kernels::linear_cross_entropy(of.x, *of.weight, of.bias, targets, {.scale = scale}).nll);
}

std::vector<mx::array> Beside::arrays() const {
  std::vector<mx::array> out{advantages, old_logprobs, fresh};
  if (ref_logprobs) out.push_back(*ref_logprobs);
  return out;
}

std::shared_ptr<const Objective> grpo_objective(const GrpoConfig& config) {
  return std::make_shared<GrpoObjective>(config);
}

void expect_one_order(LanguageModel& model) {
  Problems problems;
  if (!kernels::fused(mx::float32))
    problems.add("expected the kernels of this library, which run on the CPU");
  const auto& layers = model.config().layers;
  for (size_t i = 0; i < layers.size(); ++i) {
    const std::string where = "layer " + std::to_string(i) + ": ";
    const auto& mixer = layers[i].mixer;
    if (const auto* a = config::attention_in(mixer); a && !has_order(*a))
      problems.add(where + "expected attention without sinks, chunks and ALiBi");
    if (std::visit([](const auto& m) { return computed_otherwise<std::decay_t<decltype(m)>>; },
                   mixer) ||
        std::holds_alternative<config::Custom>(layers[i].ffn))
      problems.add(where + "expected no mla, nsa, mlstm, mamba3 or custom part");
  }
  for (const auto& shared : model.config().shared_blocks)
    if (!has_order(shared.attention))
      problems.add("shared_blocks: expected attention without sinks, chunks and ALiBi");
  if (model.activations() != DType::f32) problems.add("expected float32 activations");
  if (model.config().dropout > 0) problems.add("expected no dropout, which training alone has");
  struct Dropout : core::Visitor {
    std::vector<std::string> paths;
    void linear(const std::string& path, core::Linear& l) override {
      for (const auto& a : l.adapters)
        if (a.on && a.dropout > 0) paths.push_back(path);
    }
  } dropout;
  model.transformer().visit(dropout);
  if (!dropout.paths.empty())
    problems.add(dropout.paths[0] + ": expected an adapter without dropout");
  problems.raise(Kind::unsupported,
                 "[grpo] one_order does not hold for this model. Set one_order to false: the "
                 "rollout's log-probabilities are then computed again as training does");
}

}  // namespace lmxlab::align
