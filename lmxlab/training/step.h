// One training step as a pure function: weights, optimizer state, selection biases of routers, RNG
// key, learning rate and batch in; loss, norm, load and the new ones out. Nothing that can change
// is captured, since compile would freeze it.
#pragma once

#include "lmxlab/core/transformer.h"
#include "lmxlab/data/batches.h"
#include "lmxlab/training/objective.h"
#include "lmxlab/training/optimizer.h"

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace lmxlab {

struct StepOptions {
  float clip = 1;  // largest global norm of the gradients; 0: none
  float dropout = 0;
  mx::Dtype compute = mx::float32;  // of activations; parameters keep their own
  bool compiled = true;
  bool gradient_checkpointing = false;  // blocks are computed again in the backward pass
  std::shared_ptr<const Objective> objective = next_token();
  std::map<std::string, double> lr_ratios = {};  // by path; absent: 1 (ParamInfo::lr_ratio)
};

/// Built for one model and its present structure; holds no weights.
class TrainStep {
 public:
  /// Every array that a step changes. Moved in and out, so that its buffers are written in place.
  struct State {
    core::Arrays params;     // trainable ones, in the order of the tree
    core::Arrays optimizer;  // as Optimizer::init
    mx::array key;
  };
  struct Result {
    mx::array loss;        // mean over the units of the batches, 0-d float32; layers' own left out
    mx::array units;       // of the objective's first term: tokens that are learned, pairs
    core::Arrays metrics;  // of the objective, means over their units
    mx::array grad_norm;   // before clipping
    core::Arrays loads;  // tokens of the batches that chose each expert, a layer with experts each
    /// Of indexers that learn: their divergence, mean over the tokens and the layers.
    std::optional<mx::array> divergence;
  };

  TrainStep(core::Transformer& model, const OptimizerConfig& optimizer, const StepOptions& options);
  TrainStep(const TrainStep&) = delete;  // the compiled functions know its address
  TrainStep& operator=(const TrainStep&) = delete;

  /// A state from the model's present weights (shared, not copied) and a seed.
  State initial(uint64_t seed) const;
  std::vector<std::string> optimizer_names() const { return optimizer_->state_names(); }

  /// One update from one or more batches, whose gradients are weighted by their units: of an
  /// objective of several terms the units of all batches are counted first. Evaluates:
  /// the loss, the norm and the new state, at the end of each batch. If the loss or the norm is not
  /// finite, weights and optimizer state come out as they went in. If it throws (memory, say), the
  /// state is lost: its buffers were given away.
  /// The gradient is also that of layers' own losses (core::router_loss and indexer_loss), a batch
  /// each. Selection
  /// biases with a bias_rate then move against the load of all batches; they are frozen parameters
  /// and stay in the model.
  /// @param step  counts from 1.
  Result operator()(State& state, const std::vector<data::Batch>& batches, float lr, int64_t step);

  /// The objective's sums without dropout, lazy; each metric with its units. The model must hold
  /// its weights.
  Objective::Value evaluate(const data::Batch& batch);

  /// Where a number first stops being finite with these weights: "layers.3.mixer", or "the gradient
  /// of PATH"; empty if everything is finite. Evaluates, slowly.
  std::string first_non_finite(const data::Batch& batch, const mx::array& key);

 private:
  using Function = std::function<core::Arrays(const core::Arrays&)>;
  // The loss sum, one a parameter, what is told.
  // @param worth  units of the first term that a unit of each further one is worth; none: as the
  //               batch alone says
  core::Arrays gradients(const core::Arrays& params, const core::Arrays& frozen,
                         const data::Batch& batch, const mx::array& key,
                         const core::Arrays& worth = {});
  // The same over several batches. Evaluates.
  core::Arrays worth_of(const std::vector<data::Batch>& batches);
  // From sums over tokens to the loss, the norm, the new state and the new biases.
  core::Arrays update(core::Arrays params, core::Arrays optimizer, const core::Arrays& grads,
                      const core::Arrays& biases, const core::Arrays& told, const mx::array& loss,
                      const mx::array& lr, const mx::array& step) const;
  Objective::Value value(const data::Batch& batch, const mx::array* key,
                         std::vector<core::Sums>* sums = nullptr) const;
  // What is told of batches, summed: a load a router, the divergence of the indexers, the
  // objective's metrics, their units, its units.
  core::Arrays nothing_told() const;
  // A batch as the arrays of a compiled function, and back.
  core::Arrays flat(const data::Batch& batch) const;
  data::Batch batch_of(std::span<const mx::array> arrays) const;

  core::Transformer& model_;
  StepOptions options_;
  // A layer with experts.
  struct Layer {
    int choices;
    std::optional<size_t> bias;  // that moves, among the frozen ones
    float rate;
  };

  std::vector<core::Entry> trainable_, frozen_;
  std::vector<Layer> routers_;
  int indexers_ = 0;  // that learn
  std::unique_ptr<Optimizer> optimizer_;
  Function whole_, accumulate_, apply_, evaluate_, units_;
};

}  // namespace lmxlab
