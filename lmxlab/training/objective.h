// What a training step minimizes: a pure function of a model and a batch.
#pragma once

#include "lmxlab/core/transformer.h"
#include "lmxlab/data/batches.h"
#include "lmxlab/training/objectives/logprobs.h"

#include <memory>
#include <string>
#include <vector>

namespace lmxlab {
namespace mx = mlx::core;

class Objective {
 public:
  /// Sums over what counts in a batch (tokens, pairs), so that accumulated batches add up to what
  /// one large batch gives: the step divides the sums of all by the units of all.
  /// The loss is a mean, or the sum of several, each over units of its own: pairs and tokens, say.
  struct Term {
    mx::array loss;   // 0-d float32
    mx::array units;  // 0-d float32, of the batch alone: no gradient, nothing of the model
  };
  struct Value {
    mx::array loss, units;           // of the first term
    core::Arrays metrics = {};       // 0-d float32, in the order of `metrics()`, no gradient
    std::vector<Term> more = {};     // the terms behind the first
    core::Arrays metric_units = {};  // of each metric; none: `units` for all
  };
  virtual ~Objective() = default;
  /// Lazy; called while a step is traced, so that it may hold no array that a step changes.
  virtual Value operator()(const core::Transformer& model, const data::Batch& batch,
                           core::Pass& pass) const = 0;
  virtual std::vector<std::string> metrics() const { return {}; }
  virtual size_t terms() const { return 1; }
  /// Whether it goes through the model's heads for further tokens, all of them.
  virtual bool trains_mtp_heads() const { return false; }
  /// Arrays of Batch::beside that it reads.
  virtual size_t beside() const { return 0; }
};

/// Changes of the loss of next tokens. Others than 0 make the logits whole in memory.
struct NextTokenOptions {
  float label_smoothing =
      0;             ///< e: (1 - e) of the target's -log p and e of the mean of all tokens'
  float z_loss = 0;  ///< times the squared log-partition (PaLM, arXiv:2204.02311, 5)
};
/// -log p of the next token, counted by the tokens that are learned.
std::shared_ptr<const Objective> next_token(const NextTokenOptions& options = {});

/// What a model says of each position: hidden states and the head, or where that is packed the
/// logits.
objectives::Logits head_logits(const core::Transformer& model, const mx::array& inputs,
                               core::Pass& pass);
/// The same of hidden states behind the final norm, or behind a head for further tokens.
objectives::Logits head_logits(const core::Transformer& model, const mx::array& hidden);

/// The column where the document of each token begins, int32 [B, L], as core::Pass::starts has it;
/// padding has a document of its own a row, behind the others. Nothing if rows are documents.
std::optional<mx::array> document_starts(const data::Batch& batch);

/// Targets as token_nll takes them: -100 where nothing is learned.
mx::array learned_targets(const data::Batch& batch);
/// How many are learned, 0-d float32.
mx::array learned_tokens(const data::Batch& batch);

}  // namespace lmxlab
