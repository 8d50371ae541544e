// What Gemma 3n and 4 have beside mixers and FFNs: a low-rank path beside the mixer, a vector of
// each layer's own a position, and several streams of which blocks see one.
#pragma once

#include "lmxlab/config/model.h"
#include "lmxlab/core/linear.h"
#include "lmxlab/core/mixer.h"
#include "lmxlab/core/norm.h"

#include <optional>
#include <vector>

namespace lmxlab::core {

/// x + norm(R L x), of rank r, of what the mixer reads.
struct Laurel {
  Laurel(const config::Block& config, const Build& build);
  /// [B, L, D] -> [B, L, D]
  mx::array operator()(const mx::array& x) const;
  void visit(Visitor& v) {
    v("linear_left", left), v("linear_right", right), v("post_laurel_norm", norm);
  }

  Linear left, right;
  Norm norm;
};

/// What a block makes of its own vector: norm(V (act(U x) * own)).
struct LayerInput {
  LayerInput(const config::LayerInputs& config, const config::Norm& norm, const Build& build);
  /// x [B, L, D], own [B, L, width] -> [B, L, D]
  mx::array operator()(const mx::array& x, const mx::array& own) const;
  void visit(Visitor& v) {
    v("per_layer_input_gate", gate), v("per_layer_projection", projection);
    v("post_per_layer_input_norm", norm);
  }

  Linear gate, projection;
  Norm norm;
  config::Act act;
};

/// The vectors of all layers.
struct LayerInputTable {
  LayerInputTable(const config::Model& model, const Build& build);
  /// tokens [B, L], embeddings [B, L, D] -> [B, L, layers, width]
  mx::array operator()(const mx::array& tokens, const mx::array& embeddings) const;
  void visit(Visitor& v) {
    v("embed_tokens_per_layer", table), v("per_layer_model_projection", projection);
    v("per_layer_projection_norm", norm);
  }

  Embedding table;  // [vocab, layers * width]
  Linear projection;
  Norm norm;
  config::LayerInputs config;
  int layers;
};

/// How the streams of a block meet what it made of one of them (arXiv:2301.13310; Gemma 3n).
///   m(x) = tanh(R norm(x) / D)           p_j = h_j + sum_i P[j, i](m(h_a)) h_i
///   h_j = p_j + (1 + C_j(m(y))) (y - p_a)          y what the block makes of p_a
class AltUp {
 public:
  AltUp(const config::AltUp& config, const config::Norm& norm, const Build& build);
  /// [B, L, n, D] -> [B, L, n, D]
  mx::array predict(const mx::array& streams, bool training) const;
  mx::array correct(const mx::array& predicted, const mx::array& made, bool training) const;
  /// What a block's layer input reads. [B, L, D]
  mx::array scaled(const mx::array& active) const;
  void visit(Visitor& v) {
    v("correct_output_scale", scale), v("correction_coefs", correction);
    v("prediction_coefs", prediction), v("modality_router", router), v("router_norm", norm);
  }

  Param scale;  // [D]
  Linear correction, prediction, router;
  Norm norm;

 private:
  mx::array modalities(const mx::array& x) const;
  mx::array limited(const Linear& layer, const mx::array& x, bool training) const;
  config::AltUp config_;
};

/// The streams' beginning and end.
class AltUpEnds {
 public:
  AltUpEnds(const config::AltUp& config, const Build& build);
  /// [B, L, D] -> [B, L, n, D], all of the first's magnitude
  mx::array open(const mx::array& x) const;
  /// [B, L, n, D] -> [B, L, D]
  mx::array close(const mx::array& streams) const;
  void visit(Visitor& v) {
    v("altup_projections", projections), v("altup_unembed_projections", unembed_projections);
  }

  std::vector<Linear> projections, unembed_projections;
};

/// One stream of several. [B, L, n, D] -> [B, L, D]
mx::array stream_of(const mx::array& streams, int i);

}  // namespace lmxlab::core
