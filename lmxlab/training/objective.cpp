#include "lmxlab/training/objective.h"

#include "lmxlab/training/loss.h"

#include <mlx/ops.h>

namespace lmxlab {
namespace {

class NextToken : public Objective {
 public:
  explicit NextToken(const NextTokenOptions& options) : options_(options) {}

  Value operator()(const core::Transformer& model, const data::Batch& batch,
                   core::Pass& pass) const override {
    const auto targets = learned_targets(batch);
    const auto units = learned_tokens(batch);
    if (options_.label_smoothing == 0 && options_.z_loss == 0)
      return {mx::sum(token_nll(model, batch.inputs, targets, pass)), units};
    const auto logits = mx::astype(model(batch.inputs, pass), mx::float32);
    const auto nll = token_nll(logits, targets);
    const auto partition = mx::logsumexp(logits, -1);
    const mx::array e(options_.label_smoothing), z(options_.z_loss);
    const auto even = mx::subtract(partition, mx::mean(logits, -1));
    auto loss = mx::add(mx::multiply(mx::subtract(mx::array(1.0f), e), nll), mx::multiply(e, even));
    loss = mx::add(loss, mx::multiply(z, mx::square(partition)));
    if (batch.loss) loss = mx::where(*batch.loss, loss, mx::array(0.0f));
    return {mx::sum(loss), units};
  }

 private:
  NextTokenOptions options_;
};

}  // namespace

std::shared_ptr<const Objective> next_token(const NextTokenOptions& options) {
  return std::make_shared<NextToken>(options);
}

objectives::Logits head_logits(const core::Transformer& model, const mx::array& inputs,
                               core::Pass& pass) {
  if (pass.tap) return {.x = model(inputs, pass)};
  return head_logits(model, model.hidden(inputs, pass));
}

objectives::Logits head_logits(const core::Transformer& model, const mx::array& hidden) {
  const auto& head = model.lm_head;
  const auto& weight = head ? head->weight : model.embed_tokens.weight;
  if (weight.quantized()) return {.x = model.head(hidden)};
  std::optional<mx::array> bias;
  if (head && head->bias) bias = head->bias->value;
  return {.x = hidden,
          .weight = weight.w.value,
          .bias = bias,
          .head = {.scale = model.config().logit_scale,
                   .softcap = model.config().logit_softcap.value_or(0.0f)}};
}

std::optional<mx::array> document_starts(const data::Batch& batch) {
  if (!batch.documents) return std::nullopt;
  const auto at = mx::arange(batch.inputs.shape(1), mx::int32);
  return mx::where(mx::less(*batch.documents, mx::array(0)), at,
                   mx::subtract(at, *batch.positions));
}

mx::array learned_targets(const data::Batch& batch) {
  if (!batch.loss) return batch.targets;
  return mx::where(*batch.loss, mx::astype(batch.targets, mx::int32), mx::array(-100));
}

mx::array learned_tokens(const data::Batch& batch) {
  if (!batch.loss) return mx::array(static_cast<float>(batch.targets.size()));
  return mx::sum(mx::astype(*batch.loss, mx::float32));
}

}  // namespace lmxlab
