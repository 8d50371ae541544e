#include "lmxlab/training/pair_objectives.h"

#include "lmxlab/core/transformer.h"
#include "lmxlab/training/objectives/preference.h"
#include "lmxlab/training/pairs.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

namespace lmxlab {
namespace {

namespace ob = objectives;

mx::array half(const mx::array& a, bool second) {
  const int n = a.shape(0) / 2;
  return mx::slice(a, {second ? n : 0}, {second ? 2 * n : n});
}
ob::Sequences half(const ob::Sequences& s, bool second) {
  return {half(s.logprobs, second), half(s.tokens, second)};
}
mx::array f32(const mx::array& a) {
  return mx::astype(a, mx::float32);
}
float number(const std::optional<double>& given, double otherwise) {
  return static_cast<float>(given.value_or(otherwise));
}

// accuracy, margin, reward_chosen, reward_rejected: sums over the pairs.
core::Arrays compared(const mx::array& chosen, const mx::array& rejected) {
  return {mx::sum(f32(mx::greater(chosen, rejected))), mx::sum(mx::subtract(chosen, rejected)),
          mx::sum(chosen), mx::sum(rejected)};
}
const std::vector<std::string> kCompared{"accuracy", "margin", "reward_chosen", "reward_rejected"};

class OfPairs : public Objective {
 public:
  explicit OfPairs(const ObjectiveConfig& config) : config_(config) {}
  size_t beside() const override { return beside_of(pair_layout(config_.kind)); }

 protected:
  ObjectiveConfig config_;
};

class Preference : public OfPairs {
 public:
  using OfPairs::OfPairs;
  std::vector<std::string> metrics() const override { return kCompared; }
  size_t terms() const override { return config_.kind == ObjectiveKind::orpo ? 2 : 1; }

  Value operator()(const core::Transformer& model, const data::Batch& batch,
                   core::Pass& pass) const override {
    const auto all = row_logprobs(model, batch, pass);
    const auto chosen = half(all, false), rejected = half(all, true);
    const auto smoothing = number(config_.label_smoothing, 0);
    const auto value = [](const ob::Mean& loss, const mx::array& c, const mx::array& r) -> Value {
      return {loss.sum, mx::stop_gradient(loss.count), compared(c, r)};
    };
    if (config_.kind == ObjectiveKind::orpo) {
      const auto l = ob::orpo(chosen, rejected, number(config_.lambda, 0.1));
      auto out = value(l.odds, l.chosen_rewards, l.rejected_rewards);
      out.more.push_back({l.nll.sum, mx::stop_gradient(l.nll.count)});
      return out;
    }
    const auto l =
        config_.kind == ObjectiveKind::dpo
            ? ob::dpo(chosen, rejected, half(batch.beside[0], false), half(batch.beside[0], true),
                      {.loss_type = config_.loss_type.value_or(ob::DpoLoss::sigmoid),
                       .beta = number(config_.beta, 0.1),
                       .label_smoothing = smoothing})
            : ob::simpo(chosen, rejected,
                        {.beta = number(config_.beta, 2),
                         .gamma = number(config_.gamma, 1),
                         .label_smoothing = smoothing});
    return value(l.loss, l.chosen_rewards, l.rejected_rewards);
  }
};

class RewardOfPairs : public OfPairs {
 public:
  using OfPairs::OfPairs;
  std::vector<std::string> metrics() const override {
    auto out = kCompared;
    out.push_back("reward");
    return out;
  }

  Value operator()(const core::Transformer& model, const data::Batch& batch,
                   core::Pass& pass) const override {
    const auto all = model.scores(batch.inputs, batch.beside[0], pass);
    const auto chosen = half(all, false), rejected = half(all, true);
    const auto l = ob::reward(chosen, rejected, batch.beside[1],
                              number(config_.center_rewards_coefficient, 0));
    auto metrics = compared(mx::stop_gradient(chosen), mx::stop_gradient(rejected));
    metrics.push_back(mx::multiply(mx::array(0.5f), mx::add(metrics[2], metrics[3])));
    return {l.sum, mx::stop_gradient(l.count), std::move(metrics)};
  }
};

class Kto : public OfPairs {
 public:
  using OfPairs::OfPairs;
  std::vector<std::string> metrics() const override {
    return {"reward_chosen", "reward_rejected", "kl"};
  }

  Value operator()(const core::Transformer& model, const data::Batch& batch,
                   core::Pass& pass) const override {
    const auto& b = batch.beside;
    core::Pass apart;  // no dropout, and nothing of it is counted
    apart.dtype = pass.dtype;
    auto other = row_logprobs(model, {b[2], b[3], b[4]}, apart);
    other.logprobs = mx::stop_gradient(other.logprobs);
    const auto kl = ob::kto_kl(other, b[5]);
    const auto policy = row_logprobs(model, batch, pass);
    const auto l = ob::kto(policy, b[0], b[1], kl.value(),
                           {.beta = number(config_.beta, 0.1),
                            .desirable_weight = number(config_.desirable_weight, 1),
                            .undesirable_weight = number(config_.undesirable_weight, 1)});
    const auto good = f32(b[1]), bad = mx::subtract(mx::array(1.0f), good);
    const auto of = [&](const mx::array& which) {
      return mx::sum(mx::multiply(which, mx::stop_gradient(l.rewards)));
    };
    Value out{l.loss.sum, mx::stop_gradient(l.loss.count), {of(good), of(bad), kl.sum}};
    out.metric_units = {mx::sum(good), mx::sum(bad), kl.count};
    return out;
  }
};

}  // namespace

objectives::Sequences row_logprobs(const core::Transformer& model, const data::Batch& batch,
                                   core::Pass& pass) {
  const auto labels = learned_targets(batch);
  const auto logprobs = ob::token_logprobs(head_logits(model, batch.inputs, pass), labels);
  return ob::sequence_logprobs(logprobs, ob::token_mask(labels));
}

std::shared_ptr<const Objective> pair_objective(const ObjectiveConfig& config) {
  if (config.kind == ObjectiveKind::reward) return std::make_shared<RewardOfPairs>(config);
  if (config.kind == ObjectiveKind::kto) return std::make_shared<Kto>(config);
  if (!config.of_pairs())
    throw Error(Kind::usage, "[objective] " + enum_name(config.kind) + " has no pairs");
  return std::make_shared<Preference>(config);
}

}  // namespace lmxlab
