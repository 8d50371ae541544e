// Mamba-3 (ICLR 2026; names and order as in its authors' code) of one input and one output a head:
// the form of several (MIMO) is not there.
#pragma once

#include "lmxlab/core/linear.h"
#include "lmxlab/core/recurrent.h"

namespace lmxlab::core {

/// Sums over positions of steps [B, H, L, A], from `start` [B, H, A] (none: zero): those up to each
/// position, itself included, and the last. Whole turns are taken off between chunks, so that sums
/// stay as precise at any length.
/// @cost  O(B H L A); the graph has a few nodes a chunk.
struct Angles {
  mx::array at;    // [B, H, L, A]
  mx::array last;  // [B, H, A], within half a turn
};
Angles cumulative_angles(const mx::array& steps, const std::optional<mx::array>& start);

class Mamba3 : public Mixer {
 public:
  Mamba3(const config::Mamba3& config, const Build& build);
  mx::array operator()(const mx::array& x, Pass& pass) const override {
    return finish(mix(project(x, pass), pass), pass);
  }
  Arrays project(const mx::array& x, Pass&) const override { return {in_proj(x)}; }
  mx::array mix(const Arrays& projected, Pass& pass) const override;
  mx::array finish(const mx::array& mixed, Pass&) const override { return out_proj(mixed); }
  void visit(Visitor& v) override {
    v("in_proj", in_proj), v("dt_bias", dt_bias), v("D", D);
    v("B_bias", B_bias), v("C_bias", C_bias);
    v("B_norm.weight", B_norm), v("C_norm.weight", C_norm);
    v("norm", norm), v("out_proj", out_proj);
  }
  void visit_part(Visitor& v, bool first) override {
    first ? v("in_proj", in_proj) : v("out_proj", out_proj);
  }
  std::unique_ptr<LayerCache> make_cache(const CacheOptions&) const override;

  Linear in_proj;        // z, x, B, C, dt, a, l, r
  Param dt_bias, D;      // [H]
  Param B_bias, C_bias;  // [H, N]
  Param B_norm, C_norm;  // [N]
  std::optional<GatedNorm> norm;
  Linear out_proj;

 private:
  config::Mamba3 config_;
};

}  // namespace lmxlab::core
