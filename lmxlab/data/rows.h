// Rows that are known by number, and the orders in which a run takes them.
#pragma once

#include "lmxlab/data/batches.h"
#include "lmxlab/data/packing.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace lmxlab::data {

/// What a batch can be made of, whichever rows it takes.
struct Rows {
  int64_t count = 0;
  std::function<Batch(std::span<const uint32_t>)> batch = {};
};

/// Windows of `length` tokens (and the token behind), one after another from the first.
/// @param tokens  integers [n], evaluated
Rows window_rows(mx::array tokens, int length);
/// Rows of samples. @throws Error(mismatch) if the packing is of other samples.
Rows packed_rows(std::vector<TokenSample> samples, Packing packing);

/// Batches of rows. An epoch visits every row once, shuffled by the seed and the epoch alone; the
/// last rows of an epoch that fill no batch are left out.
class RowBatches {
 public:
  /// @throws Error(usage) if a batch does not fit.
  RowBatches(Rows rows, int batch, BatchOptions options = {});

  /// The next batch, or nothing after the last epoch.
  std::optional<Batch> next();
  int64_t batches_per_epoch() const { return rows_.count / batch_; }
  BatchPosition position() const { return position_; }
  /// @throws Error(mismatch) if such a position cannot be.
  void restore(const BatchPosition& position);

 private:
  void start_epoch();

  Rows rows_;
  int batch_;
  BatchOptions options_;
  BatchPosition position_;
  std::vector<uint32_t> order_;  // of this epoch's rows
  int64_t order_epoch_ = -1;
};

/// In order; the last batch has the rows that are left.
HeldOut in_order(Rows rows, int batch);

}  // namespace lmxlab::data
