#include "lmxlab/training/multi_token.h"

#include "lmxlab/config/validate.h"
#include "lmxlab/training/objectives/logprobs.h"

#include <mlx/ops.h>

namespace lmxlab {
namespace {

namespace ob = objectives;

mx::array columns(const mx::array& x, int from, int to) {
  auto start = mx::Shape(x.ndim(), 0), stop = x.shape();
  start[1] = from, stop[1] = to;
  return mx::slice(x, start, stop);
}

class MultiToken : public Objective {
 public:
  MultiToken(int heads, float weight) : heads_(heads), weight_(weight) {}

  bool trains_mtp_heads() const override { return true; }
  std::vector<std::string> metrics() const override {
    std::vector<std::string> out{"main_loss"};
    for (int k = 1; k <= heads_; ++k)
      for (const char* what : {"mtp_loss_", "mtp_accuracy_"})
        out.push_back(what + std::to_string(k));
    return out;
  }

  Value operator()(const core::Transformer& model, const data::Batch& batch,
                   core::Pass& pass) const override {
    const int length = batch.inputs.shape(1);
    if (model.mtp_heads.size() != static_cast<size_t>(heads_) || length <= heads_)
      throw Error(Kind::usage, "[mtp] expected a model with " + std::to_string(heads_) +
                                   " heads and rows longer than that, got " +
                                   std::to_string(model.mtp_heads.size()) + " and rows of " +
                                   std::to_string(length) + " tokens");
    const auto targets = mx::astype(learned_targets(batch), mx::int32);
    const auto units = learned_tokens(batch);
    auto hidden = model.hidden(batch.inputs, pass);
    auto loss = nll(head_logits(model, hidden), targets);
    core::Arrays metrics{loss};
    for (int k = 1; k <= heads_; ++k) {
      // Position i of `length - k`: token t_{i+k} is known, t_{i+k+1} is to be said.
      auto own = model.mtp_pass(k - 1, pass);
      auto labels = columns(targets, k, length);
      if (pass.starts) {
        own.starts = columns(*pass.starts, 0, length - k);
        const auto same = mx::equal(*own.starts, columns(*pass.starts, k, length));
        labels = mx::where(same, labels, mx::array(ob::kIgnoreIndex));
      }
      hidden =
          model.mtp(k - 1, columns(hidden, 0, length - k), columns(batch.inputs, k, length), own);
      pass.key = own.key;
      const auto logits = head_logits(model, hidden);
      const auto theirs = nll(logits, labels);
      loss = mx::add(loss, mx::multiply(mx::array(weight_ / static_cast<float>(heads_)), theirs));
      // Told by units, of which a head has fewer.
      const auto count = mx::sum(mx::astype(ob::token_mask(labels), mx::float32));
      const auto share = mx::divide(units, mx::maximum(count, mx::array(1.0f)));
      metrics.push_back(mx::multiply(theirs, share));
      metrics.push_back(mx::multiply(ob::greedy_hits(logits, labels), share));
    }
    for (auto& m : metrics) m = mx::stop_gradient(m);
    return {loss, units, metrics};
  }

 private:
  static mx::array nll(const ob::Logits& logits, const mx::array& labels) {
    return mx::negative(mx::sum(ob::token_logprobs(logits, labels)));
  }

  int heads_;
  float weight_;
};

}  // namespace

config::Model with_mtp_heads(config::Model model, const ObjectiveConfig& objective) {
  std::optional<size_t> wanted;
  if (objective.heads) wanted = static_cast<size_t>(*objective.heads);
  if (const size_t own = model.mtp_heads.size(); own > 0) {
    if (wanted.value_or(own) != own)
      throw Error(Kind::mismatch, "[mtp] objective.heads is " + std::to_string(*wanted) +
                                      ", the model has " + std::to_string(own) +
                                      " heads already. Leave it out.");
    return model;
  }
  model.mtp_heads.assign(wanted.value_or(1), config::mtp_block(model));
  config::validate(model, Kind::usage);
  return model;
}

void freeze_mtp_heads(core::Transformer& model) {
  for (auto& head : model.mtp_heads)
    for (auto& e : core::collect(head)) e.param->trainable = false;
}

std::shared_ptr<const Objective> mtp_objective(int heads, float weight) {
  return std::make_shared<MultiToken>(heads, weight);
}

}  // namespace lmxlab
