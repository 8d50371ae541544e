// Sums in one order: a row's numbers do not depend on what else is computed with it.
#pragma once

namespace lmxlab::kernels {

/// While one lives, a model with float32 activations, dense or packed weights, experts, attention
/// and recurrences that go a position at a time gives a token the same bits whatever the batch, the
/// padding at its left, what of its text was in the cache, and how the rest was cut: products of
/// few rows go the way of many, none is rounded, a token's experts are added up in one way,
/// attention computes a query at a time, windows are kept whole, and the cross-entropy of a row is
/// one pass. (align::expect_one_order knows what has none.) For the whole process, as the
/// instruction set is; lazy arrays must be evaluated while it lives. May be nested.
/// @cost  decoding up to 8 rows 2 to 5 times the time, more of them none; a training step on rows
///   of 64 tokens none, of 256 a fifth, of 1024 a quarter (docs/decisions/032).
class OneOrder {
 public:
  explicit OneOrder(bool on = true);
  ~OneOrder();
  OneOrder(const OneOrder&) = delete;
  OneOrder& operator=(const OneOrder&) = delete;

 private:
  bool on_;
};

/// Whether any lives.
bool one_order();

}  // namespace lmxlab::kernels
