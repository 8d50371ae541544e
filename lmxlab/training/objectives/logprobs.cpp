#include "lmxlab/training/objectives/logprobs.h"

#include "lmxlab/training/objectives/check.h"
#include "lmxlab/training/objectives/rows.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>
#include <mlx/utils.h>

#include <algorithm>

namespace lmxlab::objectives {

mx::array Mean::value() const {
  return mx::divide(sum, mx::maximum(count, scalar(1)));
}

mx::array Sequences::mean() const {
  return mx::divide(logprobs, mx::maximum(tokens, scalar(1)));
}

mx::array token_mask(const mx::array& labels, const std::optional<mx::array>& mask) {
  const auto labelled = mx::not_equal(labels, mx::array(kIgnoreIndex, labels.dtype()));
  if (!mask) return labelled;
  expect("token_mask", "mask", *mask, labels.shape());
  return mx::logical_and(labelled, mx::astype(*mask, mx::bool_));
}

mx::array token_logprobs(const Logits& logits, const mx::array& labels,
                         const std::optional<mx::array>& mask, float temperature) {
  const char* where = "token_logprobs";
  expect_axes(where, "labels", labels, 2, "[B, L]");
  expect_axes(where, "logits", logits.x, 3, "[B, L, V]");
  expect(where, "logits", logits.x, {labels.shape(0), labels.shape(1), logits.x.shape(2)});
  if (!(temperature > 0)) refuse(where, "temperature: expected a number above 0");
  const auto counted = token_mask(labels, mask);
  const auto targets =
      mx::where(counted, mx::astype(labels, mx::int32), mx::array(kIgnoreIndex, mx::int32));
  if (logits.weight) {
    auto head = logits.head;
    head.scale /= temperature, head.softcap /= temperature;
    const auto ce =
        kernels::linear_cross_entropy(logits.x, *logits.weight, logits.bias, targets, head);
    return only(counted, mx::negative(ce.nll));
  }
  const auto z = temperature == 1 ? logits.x : mx::divide(float32(logits.x), scalar(temperature));
  return only(counted, mx::negative(kernels::cross_entropy(z, targets).nll));
}

mx::array greedy_hits(const Logits& logits, const mx::array& labels, int rows) {
  const char* where = "greedy_hits";
  expect_axes(where, "labels", labels, 2, "[B, L]");
  expect(where, "logits", logits.x, {labels.shape(0), labels.shape(1), logits.x.shape(2)});
  auto all = logits;
  all.x = mx::stop_gradient(flat_rows(all.x));
  if (all.weight) all.weight = mx::stop_gradient(*all.weight);
  if (all.bias) all.bias = mx::stop_gradient(*all.bias);
  const auto of = flat_rows(mx::astype(labels, mx::int32));
  auto hits = scalar(0);
  for (int first = 0; first < of.shape(0); first += rows) {
    const int last = std::min(of.shape(0), first + rows);
    auto lot = cut(all, first, last);
    if (first > 0) lot.x = mx::depends({lot.x}, {hits})[0];  // not before the last one is done
    const auto best = mx::astype(mx::argmax(made(lot), -1, true), mx::int32);
    hits = mx::add(hits, mx::sum(float32(mx::equal(best, cut(of, first, last)))));
  }
  return hits;
}

Sequences sequence_logprobs(const mx::array& logprobs, const mx::array& mask) {
  expect_axes("sequence_logprobs", "logprobs", logprobs, 2, "[B, L]");
  expect("sequence_logprobs", "mask", mask, logprobs.shape());
  const auto counted = mx::astype(mask, mx::bool_);
  return {mx::sum(only(counted, logprobs), 1), mx::sum(float32(counted), 1)};
}

Mean nll(const Sequences& responses) {
  expect("nll", "tokens", responses.tokens, responses.logprobs.shape());
  return {mx::negative(mx::sum(responses.logprobs)), mx::stop_gradient(mx::sum(responses.tokens))};
}

}  // namespace lmxlab::objectives
