// One block for all: a mixer and an FFN, and how they meet the residual stream.
#pragma once

#include "lmxlab/config/model.h"
#include "lmxlab/core/mixer.h"
#include "lmxlab/core/residual.h"

#include <memory>
#include <optional>
#include <vector>

namespace lmxlab::core {

/// Null for none.
std::unique_ptr<Mixer> make_mixer(const config::Mixer& mixer, const Build& build);

class Block {
 public:
  Block(const config::Block& config, const Build& build);
  /// Adds its branches; the last may still wait for the next norm.
  void operator()(Residual& stream, Pass& pass) const;
  void visit(Visitor& v);
  std::unique_ptr<LayerCache> make_cache(const CacheOptions& options) const {
    return mixer_ ? mixer_->make_cache(options) : nullptr;
  }

 private:
  // Both branches begin from the same stream.
  bool side_by_side() const {
    return wiring_ == config::Wiring::parallel || wiring_ == config::Wiring::twin;
  }
  // Before and after positions are mixed.
  Arrays project(Residual& stream, Pass& pass) const;
  void finish(Residual& stream, const Arrays& parts, Pass& pass) const;
  // How a branch meets the stream.
  void join(Residual& stream, const mx::array& branch, float past,
            const std::optional<Norm>& after) const;
  // Of one of the two.
  std::vector<Entry> parameters_of(bool projection) const;

  config::Wiring wiring_;
  struct Scales {
    float stream, branch;
  } mixer_scales_, ffn_scales_;
  // A branch that is "none" has neither part nor norm: it adds nothing.
  std::unique_ptr<Mixer> mixer_;
  std::unique_ptr<Ffn> ffn_;
  std::optional<Norm> before_mixer_, after_mixer_, before_ffn_, after_ffn_;
};

}  // namespace lmxlab::core
