#include "lmxlab/training/pairs.h"

#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/training/objectives/preference.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>

namespace lmxlab {
namespace {

namespace ob = objectives;

ob::Sequences sequences_of(const core::Transformer& model, const data::Batch& batch,
                           core::Pass& pass) {
  const auto labels = learned_targets(batch);
  const auto logprobs = ob::token_logprobs(head_logits(model, batch.inputs, pass), labels);
  return ob::sequence_logprobs(logprobs, ob::token_mask(labels));
}

mx::array half(const mx::array& a, bool second) {
  const int n = a.shape(0) / 2;
  return mx::slice(a, {second ? n : 0}, {second ? 2 * n : n});
}
ob::Sequences half(const ob::Sequences& s, bool second) {
  return {half(s.logprobs, second), half(s.tokens, second)};
}

class Preference : public Objective {
 public:
  explicit Preference(const ObjectiveConfig& config) : config_(config) {}
  std::vector<std::string> metrics() const override {
    return {"accuracy", "margin", "reward_chosen", "reward_rejected"};
  }
  size_t beside() const override { return config_.kind == ObjectiveKind::dpo ? 1 : 0; }

  Value operator()(const core::Transformer& model, const data::Batch& batch,
                   core::Pass& pass) const override {
    const auto all = sequences_of(model, batch, pass);
    const auto chosen = half(all, false), rejected = half(all, true);
    const auto smoothing = static_cast<float>(config_.label_smoothing.value_or(0));
    if (config_.kind == ObjectiveKind::orpo) {
      const auto l = ob::orpo(chosen, rejected, static_cast<float>(config_.lambda.value_or(0.1)));
      // Of two means by two counts, one sum by pairs: exact for a batch, and near for several.
      const auto loss = mx::add(mx::multiply(l.nll.value(), l.odds.count), l.odds.sum);
      return value(loss, l.odds.count, l.chosen_rewards, l.rejected_rewards);
    }
    const auto l =
        config_.kind == ObjectiveKind::dpo
            ? ob::dpo(chosen, rejected, half(batch.beside[0], false), half(batch.beside[0], true),
                      {.loss_type = config_.loss_type.value_or(ob::DpoLoss::sigmoid),
                       .beta = static_cast<float>(config_.beta.value_or(0.1)),
                       .label_smoothing = smoothing})
            : ob::simpo(chosen, rejected,
                        {.beta = static_cast<float>(config_.beta.value_or(2)),
                         .gamma = static_cast<float>(config_.gamma.value_or(1)),
                         .label_smoothing = smoothing});
    return value(l.loss.sum, l.loss.count, l.chosen_rewards, l.rejected_rewards);
  }

 private:
  static Value value(const mx::array& loss, const mx::array& pairs, const mx::array& chosen,
                     const mx::array& rejected) {
    const auto f32 = [](const mx::array& a) { return mx::astype(a, mx::float32); };
    return {loss,
            mx::stop_gradient(pairs),
            {mx::sum(f32(mx::greater(chosen, rejected))), mx::sum(mx::subtract(chosen, rejected)),
             mx::sum(chosen), mx::sum(rejected)}};
  }

  ObjectiveConfig config_;
};

}  // namespace

std::vector<TokenPair> pairs_of(data::TokenSamples samples) {
  auto& s = samples.sequences;
  if (samples.kind != data::SampleKind::preference || s.size() % 2 != 0)
    throw Error(Kind::internal, "[pairs] expected preferences");
  std::vector<TokenPair> out;
  for (size_t i = 0; i < s.size(); i += 2) out.push_back({std::move(s[i]), std::move(s[i + 1])});
  return out;
}

data::Batch pair_batch(const std::vector<const TokenPair*>& pairs, int context, bool reference) {
  const size_t rows = 2 * pairs.size(), width = static_cast<size_t>(context);
  std::vector<int32_t> inputs(rows * width), targets(rows * width);
  std::vector<uint8_t> loss(rows * width);
  std::vector<float> of_reference(rows);
  int64_t tokens = 0;
  for (size_t r = 0; r < rows; ++r) {
    const auto& pair = *pairs[r % pairs.size()];
    const bool chosen = r < pairs.size();
    const auto& s = chosen ? pair.chosen : pair.rejected;
    of_reference[r] = chosen ? pair.reference_chosen : pair.reference_rejected;
    const size_t n = std::min(s.ids.size(), width);
    tokens += static_cast<int64_t>(n);
    for (size_t i = 0; i < n; ++i) {
      inputs[r * width + i] = s.ids[i];
      if (i + 1 == s.ids.size()) continue;
      targets[r * width + i] = s.ids[i + 1];
      loss[r * width + i] = s.loss[i + 1];
    }
  }
  const mx::Shape shape{static_cast<int>(rows), context};
  data::Batch out{mx::array(inputs.data(), shape, mx::int32),
                  mx::array(targets.data(), shape, mx::int32),
                  mx::array(loss.data(), shape, mx::bool_)};
  out.tokens = tokens;
  if (reference)
    out.beside.push_back(mx::array(of_reference.data(), {static_cast<int>(rows)}, mx::float32));
  return out;
}

data::Rows pair_rows(std::vector<TokenPair> pairs, int context, bool reference) {
  const auto all = std::make_shared<const std::vector<TokenPair>>(std::move(pairs));
  return {static_cast<int64_t>(all->size()), [=](std::span<const uint32_t> rows) {
            std::vector<const TokenPair*> some;
            for (const auto row : rows) some.push_back(&(*all)[row]);
            return pair_batch(some, context, reference);
          }};
}

void measure_reference(LanguageModel& model, std::vector<TokenPair>& pairs, int batch, int context,
                       mx::Dtype compute) {
  const Enter enter(model.runtime());
  for (size_t first = 0; first < pairs.size(); first += static_cast<size_t>(batch)) {
    const size_t last = std::min(pairs.size(), first + static_cast<size_t>(batch));
    std::vector<const TokenPair*> some;
    for (size_t i = first; i < last; ++i) some.push_back(&pairs[i]);
    core::Pass pass;
    pass.dtype = compute;
    auto out = sequences_of(model.transformer(), pair_batch(some, context, false), pass).logprobs;
    as_error([&] { out.eval(); });
    for (size_t i = first; i < last; ++i) {
      pairs[i].reference_chosen = out.data<float>()[i - first];
      pairs[i].reference_rejected = out.data<float>()[last - first + i - first];
    }
  }
}

std::shared_ptr<const Objective> preference_objective(const ObjectiveConfig& config) {
  if (!config.of_pairs())
    throw Error(Kind::usage, "[objective] " + enum_name(config.kind) + " has no pairs");
  return std::make_shared<Preference>(config);
}

}  // namespace lmxlab
