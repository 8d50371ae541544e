// Orders in which a run begins with what is easy: rows by their difficulty, or rows that get
// longer.
#pragma once

#include "lmxlab/data/rows.h"

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace lmxlab::data {

/// The share of the rows that a run has come to, of the easiest first (Platanios et al. 2019,
/// arXiv:1903.09848, eq. 7 and 8): c(t) = min(1, (t/T (1 - c0^p) + c0^p)^(1/p)).
struct Competence {
  double start = 0.1;   // c0, above 0
  double power = 2;     // p
  int64_t batches = 0;  // T
  double at(int64_t batch) const;
};

/// For `competence.batches` batches, different rows drawn evenly from the share of the easiest
/// ones; then epochs of all, as RowBatches. What a batch holds depends on the seed and its number
/// alone.
/// @param difficulty  of each row; equal ones stay in their order
/// @throws Error(usage) as RowBatches; Error(mismatch) for another number of difficulties.
std::unique_ptr<BatchSource> easiest_first(Rows rows, std::span<const double> difficulty, int batch,
                                           uint64_t seed, const Competence& competence);

struct Growth {
  int from = 0;         // tokens of the first rows
  int stages = 4;       // lengths before the whole one, of as many batches each
  int64_t batches = 0;  // of all of them
};
/// Length s of 0 to n - 1 is from + s/n (length - from), down to a multiple of 8 from 8 on.
std::vector<int> growing_lengths(int length, const Growth& growth);
/// Windows that get longer, in batches of about as many tokens, then windows of `length` in batches
/// of `batch` (sequence length warmup, Li et al. 2022, arXiv:2108.06084). Each length goes through
/// the tokens in an order of its own, as BatchIterator.
/// @throws Error(usage) as BatchIterator; for a `from` that is not in [1, length), or no stages.
std::unique_ptr<BatchSource> growing_windows(const mx::array& tokens, int batch, int length,
                                             uint64_t seed, const Growth& growth);

/// Mean of -log p over a row's tokens, of which each has the share p of all rows' tokens, in nats:
/// how rare they are. Of the inputs that are no padding.
/// @cost  every row is made once
std::vector<double> rarity(const Rows& rows);

}  // namespace lmxlab::data
