// Batches of a token sequence: a plain range, no workers, no pinned memory. Memory is unified, so a
// batch is usable the moment it exists.
#pragma once

#include "lmxlab/base/json.h"

#include <mlx/array.h>

#include <concepts>
#include <cstdint>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace lmxlab::data {
namespace mx = mlx::core;

/// inputs[b, l] is followed by targets[b, l]. Both [B, L], views of one buffer, in the dtype of the
/// tokens. What is not there says: all targets count, a row is one document, positions count from
/// 0.
struct Batch {
  mx::array inputs, targets;
  /// bool [B, L]: whether targets[b, l] is learned. Never across the border of two documents.
  std::optional<mx::array> loss = {};
  /// int32 [B, L]: which document of its row a token belongs to, from 0; -1: padding. A token may
  /// attend to those of its own document alone.
  std::optional<mx::array> documents = {};
  /// int32 [B, L]: a token's place in its document.
  std::optional<mx::array> positions = {};
  /// What an objective wants to know of the rows: a reference's log-probabilities, say.
  std::vector<mx::array> beside = {};
  /// Tokens that are no padding; none: all.
  std::optional<int64_t> tokens = {};

  int64_t token_count() const {
    return tokens.value_or(static_cast<int64_t>(inputs.shape(0)) * inputs.shape(1));
  }
};
/// `auto [inputs, targets] = batch`, whatever else it has.
template <size_t I, class B>
requires std::same_as<std::remove_cvref_t<B>, Batch>
decltype(auto) get(B&& batch) {
  if constexpr (I == 0)
    return (std::forward<B>(batch).inputs);
  else
    return (std::forward<B>(batch).targets);
}

struct BatchOptions {
  bool shuffle = true;
  uint64_t seed = 0;
  /// Epochs until the range ends; 0: it never does.
  int64_t epochs = 1;
};

/// Where an iterator stands; writing it down and putting it back continues with the very same
/// batches.
struct BatchPosition {
  int64_t epoch = 0, batch = 0;
  template <class V>
  void visit(V& v) {
    v("epoch", epoch, "epochs finished"), v("batch", batch, "batches of this epoch taken");
  }
  bool operator==(const BatchPosition&) const = default;
};

/// What a run learns from: batches without end, whose place can be written down.
class BatchSource {
 public:
  virtual ~BatchSource() = default;
  virtual Batch next() = 0;
  virtual BatchPosition position() const = 0;
  /// @throws Error(mismatch) if such a position cannot be.
  virtual void restore(const BatchPosition& position) = 0;
  /// What it must know beside its position, where batches are made on the way: texts that a model
  /// wrote, say. By name, evaluated.
  virtual std::map<std::string, mx::array> arrays() const { return {}; }
  /// Continues another run. @throws Error(mismatch) if the arrays do not fit.
  virtual void resume(const BatchPosition& position,
                      const std::map<std::string, mx::array>& arrays) {
    if (!arrays.empty())
      throw Error(Kind::mismatch, "[data] the run that is resumed had data with " +
                                      arrays.begin()->first + ", these have none");
    restore(position);
  }
};
/// Of an iterator over any number of epochs.
template <class Iterator>
std::unique_ptr<BatchSource> endless(Iterator iterator) {
  struct Source : BatchSource {
    explicit Source(Iterator i) : iterator(std::move(i)) {}
    Batch next() override { return *iterator.next(); }
    BatchPosition position() const override { return iterator.position(); }
    void restore(const BatchPosition& position) override { iterator.restore(position); }
    Iterator iterator;
  };
  return std::make_unique<Source>(std::move(iterator));
}

/// Batches that can be asked for by number, in order, for a loss over all of them.
struct HeldOut {
  int64_t count = 0;
  std::function<Batch(int64_t)> at = {};
};

/// Cuts `tokens` into windows of `length` (and the token behind). Shuffled, an epoch visits every
/// window once, in an order that depends on the seed and the epoch alone, and the cuts lie
/// elsewhere in each epoch; the last windows of an epoch that fill no batch are left out. In order,
/// batches are views of `tokens`: nothing is copied. Shuffled, one copy of B * (L + 1) tokens is
/// made, straight from `tokens` (which may be a mapped file).
class BatchIterator {
 public:
  /// @param tokens  integers [n], evaluated (as tokenizers and mapped files give them).
  /// @throws Error(usage) if a batch does not fit: it names the tokens needed and found.
  BatchIterator(mx::array tokens, int batch, int length, BatchOptions options = {});

  /// The next batch, or nothing after the last epoch.
  std::optional<Batch> next();
  int64_t batches_per_epoch() const;
  BatchPosition position() const { return position_; }
  /// @throws Error(mismatch) if such a position cannot be.
  void restore(const BatchPosition& position);

  struct Sentinel {};
  class Cursor {
   public:
    using value_type = Batch;
    using difference_type = std::ptrdiff_t;
    explicit Cursor(BatchIterator* owner) : owner_(owner), now_(owner->next()) {}
    const Batch& operator*() const { return *now_; }
    Cursor& operator++() {
      now_ = owner_->next();
      return *this;
    }
    void operator++(int) { ++*this; }
    bool operator==(Sentinel) const { return !now_; }

   private:
    BatchIterator* owner_;
    std::optional<Batch> now_;
  };
  Cursor begin() { return Cursor(this); }
  Sentinel end() { return {}; }

 private:
  void start_epoch();
  int64_t windows(int64_t phase) const;

  mx::array tokens_;
  int batch_, length_;
  BatchOptions options_;
  BatchPosition position_;
  int64_t phase_ = 0;            // where this epoch's first window begins
  std::vector<uint32_t> order_;  // of this epoch's windows, when shuffled
  int64_t order_epoch_ = -1;
};

/// for (const auto& [inputs, targets] : batch_iterator(tokens, 12, 64, {.seed = 1})) ...
BatchIterator batch_iterator(mx::array tokens, int batch, int length, BatchOptions options = {});

}  // namespace lmxlab::data

template <>
struct std::tuple_size<lmxlab::data::Batch> : std::integral_constant<size_t, 2> {};
template <size_t I>
struct std::tuple_element<I, lmxlab::data::Batch> {
  using type = mlx::core::array;
};
