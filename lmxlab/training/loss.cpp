#include "lmxlab/training/loss.h"

#include "lmxlab/kernels/cross_entropy.h"
#include "lmxlab/training/objective.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>

namespace lmxlab {
namespace {

constexpr int kRows = 256;  // whose logits are there at a time

using core::Arrays;

// The loss of each row, and with `slopes` its gradient by that row: one product after the other of
// some rows, since all logits may be the largest array of a step.
Arrays nll_by_rows(const core::Transformer& model, const mx::array& x, const mx::array& targets,
                   bool slopes) {
  const int rows = x.shape(0), width = x.shape(1);
  Arrays nll, gradient;
  for (int first = 0; first < rows; first += kRows) {
    const int last = std::min(rows, first + kRows);
    auto lot = mx::slice(x, {first, 0}, {last, width});
    if (!nll.empty())  // not before the last one is done
      lot = mx::depends({lot}, {slopes ? gradient.back() : nll.back()})[0];
    const auto of = [&](const Arrays& in) -> Arrays {
      const auto logits = model.head(mx::expand_dims(in[0], 0));
      const auto t = mx::slice(targets, {first}, {last});
      return {kernels::cross_entropy(mx::squeeze(logits, 0), t).nll};
    };
    if (!slopes) {
      nll.push_back(of({lot})[0]);
      continue;
    }
    const auto [out, in] = mx::vjp(of, {lot}, {mx::ones({last - first})});
    nll.push_back(out[0]), gradient.push_back(in[0]);
  }
  if (!slopes) return {mx::concatenate(nll, 0)};
  return {mx::concatenate(nll, 0), mx::concatenate(gradient, 0)};
}

mx::array packed_head_nll(const core::Transformer& model, const mx::array& hidden,
                          const mx::array& targets, bool training) {
  const auto x = mx::reshape(hidden, {-1, hidden.shape(-1)});
  const auto t = mx::reshape(targets, {-1});
  if (!training) return mx::reshape(nll_by_rows(model, x, t, false)[0], targets.shape());
  const auto forward = [&](const Arrays& in) { return nll_by_rows(model, in[0], t, true); };
  const auto backward = [](const Arrays&, const Arrays& cotangents, const Arrays& out) -> Arrays {
    const auto slope = mx::astype(mx::expand_dims(cotangents[0], -1), out[1].dtype());
    return {mx::multiply(out[1], slope)};
  };
  return mx::reshape(mx::custom_vjp(forward, backward)({x})[0], targets.shape());
}

}  // namespace

mx::array token_nll(const mx::array& logits, const mx::array& targets) {
  return kernels::cross_entropy(logits, targets).nll;
}

mx::array token_nll(const core::Transformer& model, const mx::array& inputs,
                    const mx::array& targets, core::Pass& pass) {
  const auto& weight = model.lm_head ? model.lm_head->weight : model.embed_tokens.weight;
  if (weight.quantized() && !pass.tap)
    return packed_head_nll(model, model.hidden(inputs, pass), targets, pass.training());
  const auto of = head_logits(model, inputs, pass);
  if (!of.weight) return token_nll(of.x, targets);
  return kernels::linear_cross_entropy(of.x, *of.weight, of.bias, targets, of.head).nll;
}

}  // namespace lmxlab
