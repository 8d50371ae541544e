// The whole model: embedding, positions, blocks, final norm, head.
#pragma once

#include "lmxlab/config/model.h"
#include "lmxlab/core/block.h"
#include "lmxlab/core/linear.h"
#include "lmxlab/core/mtp.h"

namespace lmxlab::core {

class Transformer {
 public:
  /// New weights, lazy: nothing is allocated before the first evaluation. The config must be valid.
  Transformer(const config::Model& config, uint64_t seed);
  Transformer(const Transformer&) = delete;  // steps and entries point into it
  Transformer& operator=(const Transformer&) = delete;

  /// Logits of every position.
  /// @param tokens  int [B, L]
  /// @return  [B, L, V], dtype of the weights.
  mx::array operator()(const mx::array& tokens, Pass& pass) const;
  /// After the final norm, before the head. [B, L, D]
  mx::array hidden(const mx::array& tokens, Pass& pass) const;
  /// [B, L, D] -> [B, L, V], or [B, L, 1] of a reward model
  mx::array head(const mx::array& hidden) const;
  /// What a reward model makes of each row's last token.
  /// @param last  int [B]: where it stands; what comes behind is padding, which it does not see
  /// @return  [B] float32.  @throws Error(usage) for a model without that head.
  mx::array scores(const mx::array& tokens, const mx::array& last, Pass& pass) const;
  /// Makes a reward model of a language model: its head for tokens goes.
  void put_score(Init init);

  /// What head `depth` (from 0) for further tokens makes of the depth before it.
  /// @param hidden  [B, L, D], of depth - 1, or what `hidden` gives
  /// @param tokens  int [B, L]: those depth + 1 places behind each position
  /// @param pass  as mtp_pass makes it; its cache is the head's own
  /// @return  [B, L, D], for `head` and for the next depth
  mx::array mtp(int depth, const mx::array& hidden, const mx::array& tokens, Pass& pass) const;
  /// A pass of that head beside one of the model: no cache, all rows from their beginnings.
  Pass mtp_pass(int depth, const Pass& model) const;
  /// New heads behind those that there are. The blocks must be valid (config::check).
  void add_mtp_heads(const std::vector<config::Block>& blocks, uint64_t seed);

  std::vector<std::unique_ptr<LayerCache>> make_caches(const CacheOptions& options = {}) const;
  const config::Model& config() const { return config_; }
  /// The dtype that activations have.
  mx::Dtype dtype() const;

  void visit(Visitor& v) {
    v("model.embed_tokens", embed_tokens), v("model.embed_positions.weight", embed_positions);
    v("model.embed_norm", embed_norm), v("model", layer_inputs), v("model", altup);
    v("model.shared_blocks", shared_blocks);
    v("model.layers", layers), v("model.norm", norm), v("lm_head", lm_head);
    v("score", score);
    v("model.mtp_heads", mtp_heads);
  }

  Embedding embed_tokens;
  std::optional<Param> embed_positions;  // [P, D]
  std::optional<Norm> embed_norm;
  std::optional<LayerInputTable> layer_inputs;
  std::optional<AltUpEnds> altup;
  std::vector<SharedBlock> shared_blocks;
  std::vector<Block> layers;
  Norm norm;
  std::optional<Linear> lm_head;
  std::optional<Linear> score;  // [1, D]
  std::vector<MtpHead> mtp_heads;

 private:
  // Blocks hand something to each other beside the stream, or there are several.
  bool one_stream() const;
  mx::array recomputed_blocks(const mx::array& tokens, Pass& pass) const;
  mx::array recomputed_block(const mx::array& x, Pass& pass) const;
  mx::array embed(const mx::array& tokens, Pass& pass) const;
  void make_mtp_heads(const std::vector<config::Block>& blocks, Init& init);
  Transformer(const config::Model& config, Init init);
  config::Model config_;
};

/// A matrix of a linear layer or of the embedding, or a stack of experts', with its layer's path:
/// what may be packed.
struct LayerWeight {
  std::string path;
  Weight* weight;
  bool embedding = false;
};
std::vector<LayerWeight> weights_of(Transformer& model);

}  // namespace lmxlab::core
