// One block for all: a mixer and an FFN, and how they meet the residual stream.
#pragma once

#include "lmxlab/config/model.h"
#include "lmxlab/core/mixer.h"
#include "lmxlab/core/moe.h"
#include "lmxlab/core/residual.h"
#include "lmxlab/core/shared_block.h"
#include "lmxlab/core/side_paths.h"

#include <memory>
#include <optional>
#include <vector>

namespace lmxlab::core {

/// Null for none.
std::unique_ptr<Mixer> make_mixer(const config::Mixer& mixer, const Build& build);

class Block {
 public:
  Block(const config::Block& config, const Build& build);
  /// Adds its branches; the last may still wait for the next norm. Of several streams it sees one.
  void operator()(Residual& stream, Pass& pass) const;
  /// The same for all streams at once. [B, L, n, D] -> [B, L, n, D]
  mx::array over_streams(const mx::array& streams, Pass& pass) const;
  void visit(Visitor& v);
  /// @param shared  the model's shared blocks
  std::unique_ptr<LayerCache> make_cache(const CacheOptions& options,
                                         const SharedBlock* shared = nullptr) const;

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
  std::optional<Moe> shortcut_;
  std::optional<Laurel> laurel_;
  std::optional<LayerInput> layer_input_;
  std::optional<AltUp> altup_;
  int active_ = 0;                     // of several streams
  std::optional<Param> layer_scalar_;  // [1]
  std::optional<SharedPart> shared_part_;
  size_t shared_ = 0;  // which of the shared blocks
};

}  // namespace lmxlab::core
