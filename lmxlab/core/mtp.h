// Heads that predict further tokens (multi-token prediction, DeepSeek-V3: arXiv:2412.19437, 2.2).
#pragma once

#include "lmxlab/core/block.h"
#include "lmxlab/core/linear.h"
#include "lmxlab/core/norm.h"

namespace lmxlab::core {

/// Head k of position i, from the head before (of the first: the model behind its final norm) and
/// the embedding of the token k places further; B a block with causal attention of its own:
///   h'^k_i = M [N_e Emb(t_{i+k}); N_h h^{k-1}_i]        (eq. 21)
///   h^k_i = N B(h'^k)_i                                 (eq. 22)
/// The model's own output head makes of h^k_i the logits of t_{i+k+1} (eq. 23). That M reads the
/// embedding first, that every head has a last norm N of its own, and that it is N's output which
/// the next head reads, is how DeepSeek's checkpoints are laid out and run.
class MtpHead {
 public:
  /// @param norm  of all three
  MtpHead(const config::Block& block, const config::Norm& norm, const Build& build);
  /// @param hidden  h^{k-1} [B, L, D];  @param embedded  Emb(t_{i+k}) [B, L, D]
  /// @return  h^k [B, L, D]
  mx::array operator()(const mx::array& hidden, const mx::array& embedded, Pass& pass) const;
  std::unique_ptr<LayerCache> make_cache(const CacheOptions& options) const {
    return block.make_cache(options);
  }
  void visit(Visitor& v) {
    v("enorm", enorm), v("hnorm", hnorm), v("eh_proj", eh_proj);
    v("", block), v("shared_head.norm", norm);
  }

  Norm enorm, hnorm;
  Linear eh_proj;  // [D, 2 D]
  Block block;
  Norm norm;
};

}  // namespace lmxlab::core
