#include "lmxlab/training/loss.h"

#include "lmxlab/kernels/cross_entropy.h"

namespace lmxlab {

mx::array token_nll(const mx::array& logits, const mx::array& targets) {
  return kernels::cross_entropy(logits, targets).nll;
}

mx::array token_nll(const core::Transformer& model, const mx::array& inputs,
                    const mx::array& targets, core::Pass& pass) {
  const auto& head = model.lm_head;
  const auto& weight = head ? head->weight : model.embed_tokens.weight;
  if (pass.tap || weight.quantized()) return token_nll(model(inputs, pass), targets);
  std::optional<mx::array> bias;
  if (head && head->bias) bias = head->bias->value;
  const kernels::HeadOptions options{.softcap = model.config().logit_softcap.value_or(0.0f)};
  const auto hidden = model.hidden(inputs, pass);
  return kernels::linear_cross_entropy(hidden, weight.w.value, bias, targets, options).nll;
}

}  // namespace lmxlab
