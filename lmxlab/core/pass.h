// One forward pass: what every layer of it must know. (A training step is something else.)
#pragma once

#include "lmxlab/core/cache.h"

#include <mlx/array.h>

#include <functional>
#include <map>
#include <optional>
#include <string_view>
#include <vector>

namespace lmxlab::core {

/// Called with a name and an activation: "layers.3.mixer" [B, L, D], ... The array is lazy.
using Tap = std::function<void(std::string_view name, const mx::array& value)>;

/// What a part of a block has a loss of its own from: sums over the positions of a pass, lazy.
/// Sums, so that a block may be computed some positions at a time; losses and metrics are made of
/// them (core/moe.h, core/indexer.h).
struct Sums {
  enum class Of { router, indexer };
  Of of;
  int layer;
  /// float32. Of a router: load [C], how many chose each expert, without a gradient; scores [C], of
  /// each token's, which add up to one; square, of the squared log-partition of the logits. Of an
  /// indexer: divergence from the attention.
  std::vector<mx::array> arrays;
};

class SharedBlock;

struct Pass {
  int offset = 0;                      // positions before this pass, already in the cache
  Cache* cache = nullptr;              // grown in place by the mixers; none: this pass alone
  std::optional<mx::array> pads = {};  // int32 [B]: padding tokens at the left of each row
  /// int32 [B, L]: the column where each token's text begins, where rows hold several. Not with a
  /// cache or pads, and of mixers that config::carries_over allows.
  std::optional<mx::array> starts = {};
  std::optional<mx::Dtype> dtype = {};  // of the activations; none: the embedding's own
  float dropout = 0;                    // 0 unless training
  std::optional<mx::array> key = {};    // of dropout; split for every use
  bool recompute = false;  // blocks keep their input alone for the backward pass; not with a tap
  Tap tap = {};
  std::vector<Sums>* sums = nullptr;           // filled by routers and indexers, in order
  int layer = 0;                               // the block that runs now
  std::map<int, Keys> lent = {};               // of layers whose keys later ones have
  std::map<int, mx::array> values = {};        // of layers whose values later ones mix in
  std::optional<mx::array> shortcut = {};      // what the next block adds at its end
  std::optional<mx::array> layer_input = {};   // [B, L, width], of the block that runs now
  std::optional<mx::array> embeddings = {};    // [B, L, D], where shared blocks see them
  const SharedBlock* shared_blocks = nullptr;  // of the model
  /// Columns of the cache that each query may look at, as the last indexer before chose them:
  /// uint32 [B, L, k], without a gradient; none: all. See core/indexer.h.
  std::optional<mx::array> chosen = {};
  int first_row = 0;  // where a part sees some positions of all: how many come before

  bool recomputes() const { return recompute && !tap && !cache; }
  bool training() const { return key.has_value(); }
  /// Positions that a query may look back at, itself included; 0: all.
  int max_kv() const { return cache ? cache->max_kv : 0; }
  /// The cache entry of the block that runs now, or null; of a mixer with several memories the i-th
  /// of this kind. @throws Error(usage) if the mixer made none such.
  KeyCache* keys(int i = 0) const { return slot<KeyCache>(i); }
  StateCache* states(int i = 0) const { return slot<StateCache>(i); }
  /// @throws Error(internal) if the layer has lent none in this pass.
  const Keys& lent_keys(int from) const;
  const mx::array& lent_values(int from) const;
  /// Zeroes with probability `rate`, or `dropout`, scales the rest; the identity when not training.
  mx::array drop(const mx::array& x) { return drop(x, dropout); }
  mx::array drop(const mx::array& x, float rate);
  void show(std::string_view what, const mx::array& x) const;

 private:
  template <class C>
  C* slot(int i) const;
};

}  // namespace lmxlab::core
