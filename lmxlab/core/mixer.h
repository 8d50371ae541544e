// What a block chooses: a mixer (it looks across positions) and an FFN (it does not).
#pragma once

#include "lmxlab/config/model.h"
#include "lmxlab/core/init.h"
#include "lmxlab/core/pass.h"
#include "lmxlab/core/tree.h"

#include <memory>

namespace lmxlab::core {

class Mixer {
 public:
  virtual ~Mixer() = default;
  /// [B, L, D] -> [B, L, D], dtype kept. Output at a position must not depend on later ones.
  virtual mx::array operator()(const mx::array& x, Pass& pass) const = 0;
  virtual void visit(Visitor& v) = 0;

  /// The same in three steps, of which the first and the last see each position by itself: with
  /// gradient checkpointing they are computed some positions at a time. [B, L, any], each of them.
  virtual Arrays project(const mx::array& x, Pass&) const { return {x}; }
  virtual mx::array mix(const Arrays& projected, Pass& pass) const {
    return (*this)(projected[0], pass);
  }
  virtual mx::array finish(const mx::array& mixed, Pass&) const { return mixed; }
  /// The parameters of the first step, or of the last.
  virtual void visit_part(Visitor&, bool /*first*/) {}

  /// Its memory for generation; null: it keeps none, and can then not look back across passes.
  virtual std::unique_ptr<LayerCache> make_cache(const CacheOptions&) const { return nullptr; }
};

class Ffn {
 public:
  virtual ~Ffn() = default;
  /// [B, L, D] -> [B, L, D], dtype kept; each position by itself.
  virtual mx::array operator()(const mx::array& x, Pass& pass) const = 0;
  /// The same for one that sees the stream too, before the norm that made x of it.
  virtual mx::array beside(const mx::array& x, const mx::array& /*stream*/, Pass& pass) const {
    return (*this)(x, pass);
  }
  virtual void visit(Visitor& v) = 0;
};

/// What a part is told when it is built.
struct Build {
  int dim;            // D
  int layer, layers;  // which block, of how many
  float std;          // of weights; projections back into the stream get `residual_std`
  float residual_std;
  Init& init;
  const config::Model* model = nullptr;  // the whole, where there is one
  int out = 0;                           // width of what a mixer gives; 0: dim
  bool lends_keys = false;               // a later layer has this one's keys and values
  bool lends_values = false;             // a later layer mixes in this one's values
};

}  // namespace lmxlab::core
