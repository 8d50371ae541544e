// The parts of cross-entropy on memory: tiles of logits, a row a token, some columns of the
// vocabulary. Each call is cut over the pool by rows.
#pragma once

#include <cstdint>
#include <limits>

#include "lmxlab/kernels/cross_entropy.h"
#include "lmxlab/kernels/types.h"

namespace lmxlab::kernels {

struct Tile {
  void* data;
  Type type;
  int64_t rows, columns, ld;  // ld: elements from row to row
  int64_t first;              // the word of column 0
};

/// What is known of a token's logits z after some of the tiles.
struct LogitSums {
  float max = -std::numeric_limits<float>::infinity();
  float sum = 0;     // of exp(z - max)
  float total = 0;   // of z, where that is asked for
  float picked = 0;  // z of the target
};
void add_tile(const Tile& tile, const int32_t* targets, bool with_total, LogitSums* sums);

/// In place, float32: softcap tanh(scale (z + bias) / softcap), or scale (z + bias) for softcap 0.
/// @param bias  [columns], or null
void apply_head(const Tile& tile, const void* bias, Type bias_type, float scale, float softcap);

/// The results from the sums over all tiles.
void finish(const LogitSums* sums, const int32_t* targets, int64_t n, int64_t vocabulary,
            const CrossEntropyOptions& options, float* nll, float* lse);

struct TileGradient {
  const int32_t* targets;
  const float *lse, *nll_slope, *lse_slope;  // of each row
  int64_t vocabulary;
  CrossEntropyOptions options;
  HeadOptions head;

  TileGradient from(int64_t row) const {
    auto k = *this;
    k.targets += row, k.lse += row, k.nll_slope += row, k.lse_slope += row;
    return k;
  }
};
/// to = dL/d(z + bias) = ((softmax(z) - target) nll_slope + softmax(z) lse_slope) times the head's
/// derivative. `to` may be the tile's own memory, rows beginning at the same places, with elements
/// of a type no wider.
void tile_gradient(const Tile& tile, const TileGradient& gradient, void* to, Type to_type,
                   int64_t to_ld);

/// sums[c] += the sum of column c over the rows, which are added up in order.
void add_columns(const Tile& tile, float* sums);

}  // namespace lmxlab::kernels
