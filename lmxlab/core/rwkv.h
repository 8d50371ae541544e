// RWKV-4 (arXiv:2305.13048): time mixing and channel mixing, each a branch of its own. The latter
// is RWKV-7's too.
#pragma once

#include "lmxlab/core/linear.h"
#include "lmxlab/core/recurrent.h"

namespace lmxlab::core {

/// Of x [B, L, D], what stood a position before: zero before the first, or the cache's `last` [B,
/// 1, D], which becomes the last of x. Columns of padding count as zero.
mx::array token_shift(const mx::array& x, const Pass& pass, std::optional<mx::array>& last);

/// How deep a block lies, from 0 to 1, and how far it is from the end, from 1 to nearly 0.
double depth_of(const Build& build);
double height_of(const Build& build);
/// New ones that depend on their index: value(i) for i in [0, n).
template <class F>
Param of_each(int n, F value) {
  std::vector<float> values;
  for (int i = 0; i < n; ++i) values.push_back(static_cast<float>(value(i)));
  return {mx::array(values.data(), {n}, mx::float32)};
}

class RwkvTime : public Mixer {
 public:
  RwkvTime(const config::RwkvTime& config, const Build& build);
  mx::array operator()(const mx::array& x, Pass& pass) const override {
    return finish(mix({x}, pass), pass);
  }
  /// @param projected  x itself: every projection sees the position before.
  mx::array mix(const Arrays& projected, Pass& pass) const override;
  mx::array finish(const mx::array& mixed, Pass&) const override { return output(mixed); }
  void visit(Visitor& v) override {
    v("time_decay", time_decay), v("time_first", time_first);
    v("time_mix_key", mix_key), v("time_mix_value", mix_value);
    v("time_mix_receptance", mix_receptance);
    v("key", key), v("value", value), v("receptance", receptance), v("output", output);
  }
  void visit_part(Visitor& v, bool first) override {
    if (!first) v("output", output);
  }
  std::unique_ptr<LayerCache> make_cache(const CacheOptions&) const override;

  Param time_decay, time_first;              // [I]
  Param mix_key, mix_value, mix_receptance;  // [D]
  Linear key, value, receptance, output;

 private:
  int dim_;
  config::RwkvTime config_;
};

class RwkvChannel : public Mixer {
 public:
  RwkvChannel(const config::RwkvChannel& config, const Build& build);
  mx::array operator()(const mx::array& x, Pass& pass) const override {
    return finish(mix({x}, pass), pass);
  }
  /// What the keys are made of and, with a gate, what the receptances are made of, beside each
  /// other.
  mx::array mix(const Arrays& projected, Pass& pass) const override;
  mx::array finish(const mx::array& mixed, Pass&) const override;
  void visit(Visitor& v) override {
    v("time_mix_key", mix_key), v("time_mix_receptance", mix_receptance);
    v("key", key), v("receptance", receptance), v("value", value);
  }
  void visit_part(Visitor& v, bool first) override {
    if (!first) v("key", key), v("receptance", receptance), v("value", value);
  }
  std::unique_ptr<LayerCache> make_cache(const CacheOptions&) const override;

  Param mix_key;                        // [D]
  std::optional<Param> mix_receptance;  // [D]
  Linear key;
  std::optional<Linear> receptance;
  Linear value;

 private:
  int dim_;
};

}  // namespace lmxlab::core
