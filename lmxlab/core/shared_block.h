// Attention and an FFN that several blocks have in common, as in zamba2 (arXiv:2411.15242).
#pragma once

#include "lmxlab/config/model.h"
#include "lmxlab/core/attention.h"
#include "lmxlab/core/norm.h"

#include <optional>

namespace lmxlab::core {

/// y = B A x, of a low rank: what a block adds to a projection that it shares.
struct Addition {
  Addition(int in, int rank, int out, const Build& build);
  mx::array operator()(const mx::array& x) const { return up(down(x)); }
  void visit(Visitor& v) { v("0", down), v("1", up); }

  Linear down, up;
};

/// A block's own part of a shared one.
struct SharedPart {
  SharedPart(const config::SharedBlock& config, const Build& build);
  void visit(Visitor& v) {
    v("linear", linear), v("adapters.q", q), v("adapters.k", k), v("adapters.v", values);
    v("adapters.gate_up", gate_up);
  }

  Linear linear;
  std::optional<Addition> q, k, values;
  Addition gate_up;
};

class SharedBlock {
 public:
  SharedBlock(const config::SharedBlock& config, const Build& build);
  /// What the block's mixer reads beside the stream. x, embeddings [B, L, D] -> [B, L, D]
  mx::array operator()(const mx::array& x, const mx::array& embeddings, const SharedPart& part,
                       Pass& pass) const;
  void visit(Visitor& v) {
    v("self_attn", attention), v("feed_forward.gate_up_proj", gate_up_proj);
    v("feed_forward.down_proj", down_proj);
    v("input_layernorm", before_attention), v("pre_ff_layernorm", before_ffn);
  }

  Attention attention;
  Linear gate_up_proj, down_proj;
  Norm before_attention, before_ffn;

 private:
  config::Act act_;
};

}  // namespace lmxlab::core
