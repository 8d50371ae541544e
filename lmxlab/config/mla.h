// Multi-head latent attention: keys and values of all heads come from one short vector a position.
#pragma once

#include "lmxlab/config/norm.h"
#include "lmxlab/config/position.h"

#include <optional>

namespace lmxlab::config {

/// The lightning indexer of DeepSeek-V3.2, arXiv:2512.02556, equation 1: of the keys that a query
/// may look at, it meets the top_k with the largest sum over index heads of w relu(q . k) alone. q
/// is made of the queries' latent vector, k and w of the stream; the first dimensions of q and k
/// turn, as many as rope_dim. The choice has no gradient, so the language loss never moves the
/// indexer: it learns by a loss of its own alone (section 2.1), or is frozen.
struct Indexer {
  int heads = 64, head_dim = 128;
  int top_k = 2048;
  bool interleaved = false;             // which pairs turn, as in Rope
  Norm norm = LayerNorm{.eps = 1e-6f};  // of its keys
  bool shared = false;  // takes what the last layer before it chose, and has nothing of its own
                        // (arXiv:2603.12201)
  float loss = 0;       // weight of its own loss, in training; 0: frozen
  template <class V>
  void visit(V& v) {
    v("heads", heads, "index heads");
    v("head_dim", head_dim, "dimensions of an index head");
    v("top_k", top_k, "keys that a query meets");
    v("interleaved", interleaved, "pairs (2i, 2i+1) turn, instead of halves");
    v("norm", norm, "norm of the index keys");
    v("shared", shared, "the choice is that of the last layer that made one");
    v("loss", loss, "weight of its divergence from the attention, in training; 0: frozen");
  }
};

/// DeepSeek-V2, arXiv:2405.04434, section 2.1. A query head has `nope_dim` dimensions that meet
/// keys made of the latent vector and `rope_dim` that turn and meet a key which all heads share.
struct Mla {
  static constexpr const char* kind = "mla";
  int heads = 1;
  std::optional<int> q_rank = {};  // queries come from a latent vector too; none: from the stream
  int kv_rank = 512, nope_dim = 128, rope_dim = 64, v_dim = 128;
  Position position = Rope{.interleaved = true};  // rope, or none
  Norm latent_norm = RmsNorm{.eps = 1e-6f};
  bool bias = false;                // of the projections from the stream and back into it
  std::optional<float> scale = {};  // of the scores; 1 / sqrt(nope_dim + rope_dim) unless given
  float q_scale = 1, kv_scale = 1;  // the queries', and the normed latent vector, times that
  bool gate = false;                // what a head mixed times sigmoid of a projection (Ling 3)
  std::optional<Indexer> indexer = {};
  template <class V>
  void visit(V& v) {
    v("heads", heads, "query heads");
    v("q_rank", q_rank, "width of the queries' latent vector, if they have one");
    v("kv_rank", kv_rank, "width of the latent vector of keys and values");
    v("nope_dim", nope_dim, "dimensions of a head that do not turn");
    v("rope_dim", rope_dim, "dimensions of a head that turn");
    v("v_dim", v_dim, "dimensions of a value head");
    v("position", position, "none or rope");
    v("latent_norm", latent_norm, "norm of the latent vectors");
    v("bias", bias, "biases of the projections from the stream and back into it");
    v("scale", scale, "of the scores, 1/sqrt(nope_dim + rope_dim) unless given");
    v("q_scale", q_scale, "queries are multiplied by it");
    v("kv_scale", kv_scale, "the normed latent vector is multiplied by it");
    v("gate", gate, "what a head mixed times sigmoid of a projection");
    v("indexer", indexer, "chooses the keys that a query meets");
  }
};

}  // namespace lmxlab::config
