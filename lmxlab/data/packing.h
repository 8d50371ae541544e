// Many samples in a row of tokens, so that little of a batch is padding.
#pragma once

#include "lmxlab/data/batches.h"
#include "lmxlab/data/sample_tokens.h"

#include <cstdint>
#include <span>
#include <vector>

namespace lmxlab::data {

/// A sample in its row, or a part of one that was cut: its tokens from `begin` to `end`.
struct PackedPiece {
  size_t sample = 0, begin = 0, end = 0;
  bool operator==(const PackedPiece&) const = default;
};

struct Packing {
  int context = 0;
  std::vector<std::vector<PackedPiece>> rows = {};  // from left to right
  int64_t tokens = 0;                               // in all rows
  int64_t dropped = 0;                              // samples longer than a row
  bool together = true;                             // as PackOptions says
  int64_t cut = 0;                                  // or those that were cut
  /// The share of all places that hold a token.
  double fill() const;
};

struct PackOptions {
  /// A sample longer than a row is cut into rows of its own and a rest; else it is left out.
  bool cut = false;
  /// Many samples a row; else each has a row of its own.
  bool together = true;
};

/// Rows of `context` tokens: best fit decreasing, so the longest sample first, each into the row
/// where it leaves the least room, the earliest of equal ones. The same lengths give the same rows.
/// No sample is cut that fits; empty ones are left out.
/// @throws Error(usage) if `context` is not at least 1.
/// @cost  O(n log n)
Packing pack(std::span<const size_t> lengths, int context, const PackOptions& options = {});
Packing pack(const std::vector<TokenSample>& samples, int context, const PackOptions& options = {});

/// Some rows as a batch [B, context], with all members of Batch. The last target of a document, and
/// those of padding, are not learned; padding has the id 0. Without a document that shares its row
/// `documents` and `positions` are left out.
Batch packed_batch(const std::vector<TokenSample>& samples, const Packing& packing,
                   std::span<const uint32_t> rows);

}  // namespace lmxlab::data
