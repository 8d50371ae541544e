// Group relative policy optimization over the trainer: a source of batches that the model itself
// writes, and what a step minimizes.
//
//   Grpo grpo(model, tokenizer, samples, make_reward(rewards), config);
//   options.objective = grpo.objective();
//   Trainer trainer(model, grpo.data(options.run), options);
//   trainer.add(grpo.metrics());
//   trainer.run();
#pragma once

#include "lmxlab/align/rewards.h"
#include "lmxlab/data/sample_tokens.h"
#include "lmxlab/models/language_model.h"
#include "lmxlab/training/objectives/grpo.h"
#include "lmxlab/training/trainer.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace lmxlab::align {

/// The [grpo] table. DAPO (arXiv:2503.14476): epsilon_high 0.28, dynamic_sampling,
/// mask_truncated or a Length reward, beta 0. Dr. GRPO (arXiv:2503.20783): loss_type dr_grpo,
/// scale_rewards none. GSPO (arXiv:2507.18071): importance_sampling_level sequence, loss_type grpo,
/// epsilon 3e-4, epsilon_high 4e-4.
struct GrpoConfig {
  int prompts = 8;     // of a rollout
  int group_size = 8;  // completions of each
  int iterations = 1;  // passes over a rollout's completions (TRL's num_iterations, the paper's mu)
  int max_completion_length = 256;
  int rows_at_once = 0;    // completions written together, 0: all; fewer take less memory
  double temperature = 1;  // of sampling, and of the probabilities that are trained
  std::vector<int> stop_tokens = {};  // none: the tokenizer's eos
  objectives::GrpoLossType loss_type = objectives::GrpoLossType::dapo;
  objectives::ImportanceSampling importance_sampling_level = objectives::ImportanceSampling::token;
  objectives::AdvantageScale scale_rewards = objectives::AdvantageScale::group;
  double epsilon = 0.2;
  std::optional<double> epsilon_high = {};
  double beta = 0;
  bool mask_truncated = false;    // completions that the limit cut off are not learned from
  bool dynamic_sampling = false;  // groups of equal rewards are replaced by other prompts'
  int max_rounds = 4;             // of sampling for that; what is missing then has advantages of 0
  double success_reward = 1;      // a completion of at least this reward counts as a success
  bool one_order = true;          // rollout and training give the same bits (kernels/one_order.h)
  double drift_bound = 0.01;      // nats; without one_order, what counts as drifted
  uint64_t seed = 0;
  template <class V>
  void visit(V& v) {
    v("prompts", prompts, "of a rollout");
    v("group_size", group_size, "completions of each prompt");
    v("iterations", iterations, "passes over the completions of a rollout");
    v("max_completion_length", max_completion_length, "tokens");
    v("rows_at_once", rows_at_once, "completions written together, 0: all of a rollout");
    v("temperature", temperature, "of sampling, and of the probabilities that are trained");
    v("stop_tokens", stop_tokens, "ids that end a completion; none: the tokenizer's eos");
    v("loss_type", loss_type, "what losses are divided by: grpo, dapo or dr_grpo");
    v("importance_sampling_level", importance_sampling_level, "token, or sequence (GSPO)");
    v("scale_rewards", scale_rewards, "what advantages are divided by: group, batch or none");
    v("epsilon", epsilon, "ratios are clipped below 1 - epsilon");
    v("epsilon_high", epsilon_high, "and above 1 + epsilon_high; epsilon unless given");
    v("beta", beta, "of the divergence from the reference, 0: no reference");
    v("mask_truncated", mask_truncated, "completions that the limit cut off are not learned from");
    v("dynamic_sampling", dynamic_sampling, "groups of equal rewards are replaced");
    v("max_rounds", max_rounds, "of sampling, to replace them");
    v("success_reward", success_reward, "a completion of at least this reward is a success");
    v("one_order", one_order, "rollout and training give the same bits, at a cost");
    v("drift_bound", drift_bound, "nats between rollout and training that count as drift");
    v("seed", seed, "of the prompts' order and of sampling");
  }
};

/// Of the last rollout, over all completions, also those of groups left out. Metrics of a step by
/// the names of `visit`.
struct RolloutStats {
  double reward = 0, reward_std = 0;
  double success = 0;                 // share of completions
  double length = 0;                  // tokens of a completion
  double longest = 0;                 // the most
  double truncated = 0;               // share of completions
  double entropy = 0;                 // nats a token: the mean of -log p of what was sampled
  double groups_without_spread = 0;   // share of the groups sampled
  double drifted = 0, drift_max = 0;  // tokens beyond drift_bound, nats; 0 with one_order
  template <class V>
  void visit(V& v) {
    v("reward", reward), v("reward_std", reward_std), v("success", success);
    v("completion_length", length), v("completion_longest", longest), v("truncated", truncated);
    v("entropy", entropy), v("groups_without_spread", groups_without_spread);
    v("drifted", drifted), v("drift_max", drift_max);
  }
};

/// Rollouts of one model as batches, and their objective. The model, sampled between the steps,
/// must outlive it; the policy is the model with the adapters that are on. The reference is the
/// model with all adapters off, or, where it has none, the weights that it has now: make it before
/// a checkpoint is loaded. Policy and reference share all arrays that are not trained.
/// With one_order the whole process has it for as long as this, its data or its metrics live.
class Grpo {
 public:
  /// @throws Error(usage) with every option out of range, Error(usage) for samples of another kind
  ///   than answer; Error(unsupported) if one_order cannot hold for the model: it names why.
  Grpo(LanguageModel& model, const data::SampleTokenizer& tokenizer, data::SampleFile samples,
       std::shared_ptr<Reward> reward, const GrpoConfig& config);
  ~Grpo();

  /// `run.batch` rows a batch, `run.accumulate` batches an update: together a divisor of
  /// prompts * group_size. May be called once.
  /// Rewards' errors and those of sampling come out of Trainer::run.
  TrainData data(const RunConfig& run);
  /// Metrics, means over the tokens of a step: kl, clip_low, clip_high; and mismatch, the share of
  /// the tokens, in the first update from a rollout, whose log-probability is not to the bit that
  /// of the rollout. With one_order it is 0.
  std::shared_ptr<const Objective> objective() const;
  /// Adds RolloutStats to the metrics of a step: reward, reward_std, success, completion_length,
  /// ...
  std::unique_ptr<Callback> metrics() const;

  const RolloutStats& stats() const;

  struct Impl;  // private

 private:
  std::shared_ptr<Impl> impl_;
};

/// How a model answers now.
struct Score {
  double reward = 0, success = 0;  // means over the samples
  double length = 0;
};
/// One completion a sample, of the largest logit each time.
Score greedy_score(const LanguageModel& model, const data::SampleTokenizer& tokenizer,
                   const data::SampleFile& samples, Reward& reward, const GrpoConfig& config);

}  // namespace lmxlab::align
