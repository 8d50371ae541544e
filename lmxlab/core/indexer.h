// The lightning indexer: which keys the queries of latent attention meet.
#pragma once

#include "lmxlab/config/model.h"
#include "lmxlab/core/linear.h"
#include "lmxlab/core/mixer.h"
#include "lmxlab/core/norm.h"
#include "lmxlab/core/position.h"

#include <span>

namespace lmxlab::core {

/// DeepSeek-V3.2, arXiv:2512.02556, equation 1. Of two or more keys of one score any may be chosen.
/// Positive factors change no choice and are left out. No gradient goes back to what it sees; one
/// of its own loss goes to its parameters, which are frozen where it has none.
class Indexer {
 public:
  Indexer(const config::Mla& config, const Build& build);

  /// Whether its own loss is wanted of a pass.
  bool learns(const Pass& pass) const { return config_.loss > 0 && pass.sums && !pass.cache; }
  /// Queries [B, L, H D], keys [B, L, D] and the heads' weights [B, L, H]; each position by itself.
  /// @param latent  of the queries, normed: [B, L, q_rank]
  /// @param keys, weights  what `wk` and `weights_proj` make of the stream, which has no gradient
  ///        where the indexer learns
  Arrays project(const mx::array& latent, const mx::array& keys, const mx::array& weights,
                 const Pass& pass) const;
  struct Choice {
    /// Of the top_k keys of each query: uint32 [B, L, top_k], in no order; where a query may look
    /// at fewer, also some that it may not. None where there are no more keys than that.
    std::optional<mx::array> columns;
    std::optional<mx::array> scores;  // float32 [B, L, S], with a gradient; where it learns
  };
  /// @param cache  keeps the keys of this pass; null: they are all
  /// @cost  O(B L H S D); holds a few heads' scores at a time, and their sum [B, L, S].
  Choice choose(const Arrays& projected, KeyCache* cache, std::optional<int> reach,
                const Pass& pass) const;
  /// Sum over the queries that are no padding of KL(attention || softmax(scores)), a softmax over
  /// the keys that a query meets.
  /// @param attention  what a query gives each key, adding up to one: float32 [B, L, S]
  /// @param seen  the keys that it meets: bool [L, S] or [B, 1, L, S]
  mx::array divergence(const mx::array& attention, const mx::array& scores, const mx::array& seen,
                       const Pass& pass) const;
  void visit(Visitor& v) {
    v("wq_b", wq_b), v("wk", wk), v("k_norm", k_norm), v("weights_proj", weights_proj);
  }

  Linear wq_b, wk, weights_proj;
  Norm k_norm;

 private:
  // float32 [B, L, S]; q [B, H, L, D], k [B, 1, S, D], weights [B, L, H]
  mx::array scores(const mx::array& q, const mx::array& k, const mx::array& weights,
                   bool learns) const;

  config::Indexer config_;
  std::optional<Rotation> rotation_;
};

/// The losses of the indexers of a pass, with the configs' weights, added over layers: the mean
/// over its tokens of their divergence; 0-d float32.
mx::array indexer_loss(const config::Model& model, std::span<const Sums> sums, int64_t tokens);

/// Of so many heads, those whose scores [B, n, L, S] are computed at a time.
/// @param learns  several arrays of them are held at once
int heads_at_a_time(int heads, int rows, int queries, int keys, bool learns);
/// Whether a query may look at a column: bool [B, 1, L, S] of `chosen` [B, L, k].
mx::array chosen_mask(const mx::array& chosen, int columns);
/// Rows of a cache that each query chose: of keys [B, 1, S, D] those of `chosen` [B, L, k], as [B,
/// L, k, D]. Packed ones are unpacked behind the choice.
mx::array chosen_rows(const Keys& keys, bool values, const mx::array& chosen);

}  // namespace lmxlab::core
