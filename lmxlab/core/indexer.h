// The lightning indexer: which keys the queries of latent attention meet.
#pragma once

#include "lmxlab/config/mla.h"
#include "lmxlab/core/linear.h"
#include "lmxlab/core/mixer.h"
#include "lmxlab/core/norm.h"
#include "lmxlab/core/position.h"

namespace lmxlab::core {

/// DeepSeek-V3.2, arXiv:2512.02556, equation 1. Of two or more keys of one score any may be chosen.
/// The positive factors of its authors' code (roots of the sizes) change no choice and are left
/// out. Its parameters are frozen, and nothing that it gives has a gradient.
class Indexer {
 public:
  Indexer(const config::Mla& config, const Build& build);

  /// Queries [B, L, H D], keys [B, L, D] and the heads' weights [B, L, H]; each position by itself.
  /// @param latent  of the queries, normed: [B, L, q_rank]
  /// @param keys, weights  what `wk` and `weights_proj` make of the stream
  Arrays project(const mx::array& latent, const mx::array& keys, const mx::array& weights) const;
  /// Columns of the top_k keys of each query: uint32 [B, L, top_k], in no order; where a query may
  /// look at fewer, also some that it may not. None where there are no more keys than that.
  /// @param cache  keeps the keys of this pass; null: they are all
  /// @cost  O(B L H S D); holds a few heads' scores at a time, and their sum [B, L, S].
  std::optional<mx::array> choose(const Arrays& projected, KeyCache* cache,
                                  std::optional<int> reach, const Pass& pass) const;
  void visit(Visitor& v) {
    v("wq_b", wq_b), v("wk", wk), v("k_norm", k_norm), v("weights_proj", weights_proj);
  }

  Linear wq_b, wk, weights_proj;
  Norm k_norm;

 private:
  // float32 [B, L, S]; q [B, H, L, D], k [B, 1, S, D], weights [B, L, H]
  mx::array scores(const mx::array& q, const mx::array& k, const mx::array& weights) const;

  config::Indexer config_;
  std::optional<Rotation> rotation_;
};

/// Whether a query may look at a column: bool [B, 1, L, S] of `chosen` [B, L, k].
mx::array chosen_mask(const mx::array& chosen, int columns);
/// Rows of a cache that each query chose: of keys [B, 1, S, D] those of `chosen` [B, L, k], as [B,
/// L, k, D]. Packed ones are unpacked behind the choice.
mx::array chosen_rows(const Keys& keys, bool values, const mx::array& chosen);

}  // namespace lmxlab::core
