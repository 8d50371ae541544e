// Native sparse attention.
#pragma once

#include "lmxlab/config/nsa.h"
#include "lmxlab/core/linear.h"
#include "lmxlab/core/mixer.h"
#include "lmxlab/core/position.h"

namespace lmxlab::core {

/// An MLP that makes one key, or one value, of a block (arXiv:2502.11089, equation 7).
struct Compression {
  Compression(const config::Nsa& config, const Build& build);
  /// [B, K, N, block, Dh] -> [B, K, N, Dh]
  mx::array operator()(const mx::array& blocks) const;
  void visit(Visitor& v) { v("position", position), v("up_proj", up), v("down_proj", down); }

  Param position;  // [block, Dh], added to what stands at each place of a block
  Linear up, down;
};

/// Keys and values of all positions, and what was made of the whole blocks among them: keys(0) and
/// keys(1) of a pass. It goes back to where only some of the blocks were whole.
class BlockCache : public CompositeCache {
 public:
  BlockCache(int block, int stride, const CacheOptions& options);
  std::unique_ptr<LayerCache> clone() const override;
  /// Blocks that so many positions fill.
  int whole(int positions) const;

  void reserve(int positions) override;
  int trimmable() const override { return parts_[0]->trimmable(); }
  bool can_trim(int n) const override { return parts_[0]->can_trim(n); }
  void trim(int n) override;
  /// Rows that begin elsewhere have other blocks: those kept go, and are made anew.
  void shift(int n) override;
  void append_rows(const LayerCache& other) override;
  void restore(std::vector<mx::array> arrays, int length) override;

 private:
  int block_, stride_;
};

/// arXiv:2502.11089, equations 5 to 12. A compressed block counts once it lies wholly at or before
/// the query, so the first queries have none and the branch gives zero. What a block of the
/// selection is worth is the probability of the compressed blocks that overlap it, as often as they
/// share a stride, added over the query heads of a key head; that choice has no gradient, but the
/// probabilities have one through the branch they belong to.
/// Caches keys and values of all positions for compression and selection, those that were
/// compressed, and those of the window. Rows with padding, whose blocks begin elsewhere, are
/// compressed anew in every pass. A limit of the cache (CacheOptions::max_kv) limits
/// what queries see, but only the window forgets.
/// @cost  through a cache, few queries or many keys: O(L selected selected_block) for the
/// selection; else scores of all keys, masked. O(L S / stride) for the compressed keys.
class Nsa : public Mixer {
 public:
  Nsa(const config::Nsa& config, const Build& build);
  mx::array operator()(const mx::array& x, Pass& pass) const override {
    return finish(mix(project(x, pass), pass), pass);
  }
  /// Queries [B, L, H Dh]; keys and values of the three branches, each [B, L, 3 K Dh]; gates [B, L,
  /// 3 H].
  Arrays project(const mx::array& x, Pass&) const override {
    return core::project(x, {&q_proj, &k_proj, &v_proj, &gate_proj});
  }
  mx::array mix(const Arrays& projected, Pass& pass) const override;
  mx::array finish(const mx::array& mixed, Pass&) const override { return o_proj(mixed); }
  void visit(Visitor& v) override {
    visit_part(v, true);
    v("compress_k", compress_k), v("compress_v", compress_v);
    visit_part(v, false);
  }
  void visit_part(Visitor& v, bool first) override {
    if (!first) return v("o_proj", o_proj);
    v("q_proj", q_proj), v("k_proj", k_proj), v("v_proj", v_proj), v("gate_proj", gate_proj);
  }
  std::unique_ptr<LayerCache> make_cache(const CacheOptions& options) const override;

  // Rows of compression, then of selection, then of the window.
  Linear q_proj, k_proj, v_proj, gate_proj, o_proj;
  Compression compress_k, compress_v;

 private:
  // What the compressed branch gives [B, H, L, Dh], and its probabilities, added over the heads of
  // a group: float32 [B, K, L, N], without a gradient. None where no block is whole.
  struct Compressed {
    mx::array mixed, shares;
  };
  std::optional<Compressed> compressed(const mx::array& q, const Keys& keys, Pass& pass) const;
  // Compressed keys and values of all whole blocks; none where there is no such.
  std::optional<Keys> small(const Keys& keys, mx::Dtype dtype, Pass& pass) const;
  // Blocks that each query meets: uint32 [B, K, L, selected]; none: all.
  std::optional<mx::array> select(const std::optional<mx::array>& shares, int length, int columns,
                                  const Pass& pass) const;
  mx::array selected(const mx::array& q, const Keys& keys, const std::optional<mx::array>& blocks,
                     const Pass& pass) const;
  // The same, reading the keys of those blocks alone.
  mx::array gathered(const mx::array& q, const Keys& keys, const mx::array& blocks,
                     const Pass& pass) const;
  float scale() const;

  config::Nsa config_;
  std::optional<Rotation> rotation_;
};

}  // namespace lmxlab::core
