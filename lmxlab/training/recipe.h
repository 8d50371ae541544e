// A recipe: everything that says what a training run is. TOML tables [model] [data] [optimizer]
// [schedule] [objective] [run]; each key is a field here, and unknown keys are errors that name the
// nearest known one.
#pragma once

#include "lmxlab/base/fields.h"
#include "lmxlab/config/model.h"
#include "lmxlab/models/adapters.h"
#include "lmxlab/training/objectives/preference.h"
#include "lmxlab/training/optimizer_config.h"
#include "lmxlab/training/schedule.h"

#include <string>
#include <vector>

namespace lmxlab {

enum class ObjectiveKind { pretrain, sft, mtp, distill, dpo, simpo, orpo, kto, reward, grpo };
enum class ComputeType { f32, bf16 };
/// What a curriculum goes by: the length of rows of a text; of samples or rows, their length, how
/// rare their words are, or the difficulty that samples say they have.
enum class CurriculumBy { context, length, rarity, difficulty };

template <>
struct EnumNames<ObjectiveKind> {
  static constexpr std::pair<ObjectiveKind, const char*> table[] = {
      {ObjectiveKind::pretrain, "pretrain"}, {ObjectiveKind::sft, "sft"},
      {ObjectiveKind::mtp, "mtp"},           {ObjectiveKind::distill, "distill"},
      {ObjectiveKind::dpo, "dpo"},           {ObjectiveKind::simpo, "simpo"},
      {ObjectiveKind::orpo, "orpo"},         {ObjectiveKind::kto, "kto"},
      {ObjectiveKind::reward, "reward"},     {ObjectiveKind::grpo, "grpo"}};
};
template <>
struct EnumNames<CurriculumBy> {
  static constexpr std::pair<CurriculumBy, const char*> table[] = {
      {CurriculumBy::context, "context"},
      {CurriculumBy::length, "length"},
      {CurriculumBy::rarity, "rarity"},
      {CurriculumBy::difficulty, "difficulty"}};
};
template <>
struct EnumNames<ComputeType> {
  static constexpr std::pair<ComputeType, const char*> table[] = {{ComputeType::f32, "f32"},
                                                                  {ComputeType::bf16, "bf16"}};
};

struct DataConfig {
  std::string file = {};       // empty: the embedded Tiny Shakespeare
  std::string tokenizer = {};  // empty: the trained model's own, else char
  double validation = 0.1;
  std::string validation_file = {};
  std::string samples = "auto";
  bool packing = true;
  bool of_samples() const { return file.ends_with(".jsonl"); }
  template <class V>
  void visit(V& v) {
    v("file", file,
      "a text file, a file of tokens, or of samples (.jsonl); empty: the built-in Tiny "
      "Shakespeare");
    v("tokenizer", tokenizer,
      "char, byte, or a folder or tokenizer.json; empty: the trained model's own, else char");
    v("validation", validation, "share of the tokens or samples held out, from the end");
    v("validation_file", validation_file, "samples that are held out, in the place of a share");
    v("samples", samples,
      "kind of the samples: auto, text, completion, chat, preference or unpaired");
    v("packing", packing, "several samples in a row, where the model can keep them apart");
  }
};

/// An empty option has its objective's default; one that the objective does not use is refused.
struct ObjectiveConfig {
  ObjectiveKind kind = ObjectiveKind::pretrain;
  std::optional<objectives::DpoLoss> loss_type = {};
  std::optional<double> beta = {}, gamma = {}, lambda = {}, label_smoothing = {}, z_loss = {};
  std::string teacher = {};
  std::optional<double> temperature = {}, hard_labels = {};
  std::optional<int> top_k = {};
  std::optional<double> desirable_weight = {}, undesirable_weight = {};
  std::optional<double> center_rewards_coefficient = {};
  std::optional<int> heads = {};
  std::optional<double> weight = {};
  template <class V>
  void visit(V& v) {
    v("kind", kind,
      "pretrain: the next token of a text; sft: of samples, where they are learned; mtp: the "
      "next tokens and, by heads, those behind them, on either; distill: a teacher's next tokens, "
      "on either; dpo, simpo, orpo: the better of two answers; kto: answers that are desirable or "
      "not; reward: a number for an answer, higher for the better of two; grpo: what [[rewards]] "
      "reward of what the model writes, with the options of [grpo]");
    v("loss_type", loss_type, "dpo: sigmoid, sigmoid_norm, ipo or hinge");
    v("beta", beta,
      "dpo, kto 0.1, simpo 2: what a difference of log-probabilities is worth; distill 0: forward "
      "KL, "
      "1: "
      "reverse, between: Jensen-Shannon");
    v("gamma", gamma, "simpo 1: the margin");
    v("lambda", lambda, "orpo 0.1: weight of the odds ratio");
    v("label_smoothing", label_smoothing,
      "pretrain, sft: share of the target that all tokens have; dpo, simpo: of pairs that are the "
      "wrong way round; 0");
    v("z_loss", z_loss, "pretrain, sft: times the squared log-partition, 0");
    v("teacher", teacher,
      "distill: a model folder or GGUF file, or teacher.safetensors of another run");
    v("top_k", top_k,
      "distill: the teacher runs once, before the training, and so many of its likeliest tokens "
      "are kept; 0: it runs in every step");
    v("temperature", temperature, "distill: of both distributions, 1");
    v("hard_labels", hard_labels,
      "distill: share of the loss that is the data's own next token, 0");
    v("desirable_weight", desirable_weight, "kto: of the loss of desirable answers, 1");
    v("undesirable_weight", undesirable_weight, "kto: of that of the others, 1");
    v("center_rewards_coefficient", center_rewards_coefficient,
      "reward: times the squared sum of a pair's rewards, which keeps them around 0; 0");
    v("heads", heads, "mtp: how many tokens behind the next one are predicted; the model's, or 1");
    v("weight", weight, "mtp 0.3: what the mean of the heads' losses counts");
  }
  /// A teacher that has run before the training does.
  bool keeps_teacher() const { return top_k.value_or(0) > 0 || teacher_is_kept(); }
  /// By another run: `teacher` is its file.
  bool teacher_is_kept() const { return teacher.ends_with(".safetensors"); }
  /// Of pairs: data are preferences, run.batch counts pairs.
  bool of_pairs() const {
    return kind == ObjectiveKind::dpo || kind == ObjectiveKind::simpo ||
           kind == ObjectiveKind::orpo || kind == ObjectiveKind::reward;
  }
  /// What it learns from comes as training/pairs.h has it: pairs, or answers with mismatched ones.
  bool by_two() const { return of_pairs() || kind == ObjectiveKind::kto; }
  /// It measures the model as the run begins.
  bool has_reference() const { return kind == ObjectiveKind::dpo || kind == ObjectiveKind::kto; }
  bool needs_samples() const {
    return by_two() || kind == ObjectiveKind::sft || kind == ObjectiveKind::grpo;
  }
};

struct RunConfig;
/// How a run begins with what is easy (data/curriculum.h).
struct CurriculumConfig {
  CurriculumBy by = CurriculumBy::length;
  std::optional<int64_t> steps = {};
  std::optional<int> from = {}, stages = {};
  std::optional<double> start = {}, power = {};
  template <class V>
  void visit(V& v) {
    v("by", by,
      "context: rows of a text get longer; length, rarity (rows of rare tokens are hard), "
      "difficulty (a number that samples have): the easy ones come first");
    v("steps", steps, "until everything takes part; half of run.steps");
    v("from", from, "context: tokens of the first rows");
    v("stages", stages,
      "context: lengths before the whole one, 4; of packed samples, parts of like difficulty that "
      "share no rows, 10");
    v("start", start, "others: share of the rows that takes part at the beginning, 0.1");
    v("power", power, "others: the share to this power grows with the steps, 2; arXiv:1903.09848");
  }
  int64_t batches(const RunConfig& run) const;  // that it lasts
};

struct RunConfig {
  std::string name = "run";
  std::string out = {};  // empty: runs/NAME-N
  int64_t steps = 2000;
  int batch = 12, context = 64;
  int accumulate = 1;
  uint32_t seed = 1337;
  ComputeType dtype = ComputeType::f32;
  bool gradient_checkpointing = false;
  int64_t eval_every = 250, eval_batches = 20, log_every = 10, checkpoint_every = 500,
          sample_every = 0;
  int keep = 2, patience = 0;
  double time_budget = 0, flop_budget = 0;
  template <class V>
  void visit(V& v) {
    v("name", name, "runs/NAME-N is the folder unless `out` is given");
    v("out", out, "the run's folder");
    v("steps", steps, "updates of the weights");
    v("batch", batch, "rows of a batch");
    v("context", context, "tokens of a row");
    v("accumulate", accumulate, "batches whose gradients are added up before an update");
    v("seed", seed, "of weights, order of data and dropout");
    v("dtype", dtype, "of the computation, f32 or bf16; master weights are always f32");
    v("gradient_checkpointing", gradient_checkpointing,
      "compute blocks again in the backward pass: less memory, more time");
    v("eval_every", eval_every, "steps between validations, 0: only at the end");
    v("eval_batches", eval_batches,
      "batches of a validation on the way, 0: all; the last takes all");
    v("log_every", log_every, "steps between lines of metrics.jsonl");
    v("checkpoint_every", checkpoint_every, "steps between checkpoints, 0: only at the end");
    v("sample_every", sample_every, "steps between samples of text, 0: none");
    v("keep", keep, "checkpoints that stay, beside the best");
    v("patience", patience, "stop after so many validations without a better one, 0: never");
    v("time_budget", time_budget, "seconds of training, 0: no limit");
    v("flop_budget", flop_budget, "floating-point operations of training, 0: no limit");
  }
};

/// The [model] table stays JSON until the vocabulary is known: `preset` with sizes, or `layers`;
/// then any path into the finished config.
struct Recipe {
  Json model = Json::object({{"preset", Json("gpt-shakespeare-small")}});
  DataConfig data;
  OptimizerConfig optimizer;
  ScheduleConfig schedule;
  ObjectiveConfig objective;
  std::optional<AdapterOptions> adapter = {};
  std::optional<CurriculumConfig> curriculum = {};
  Json grpo = {}, rewards = {};  // align::GrpoConfig, a list of align::RewardConfig
  RunConfig run;
  template <class V>
  void visit(V& v) {
    v("model", model, "preset and sizes, or layers; then paths into the config");
    v("data", data, "what is trained on");
    v("optimizer", optimizer, "how weights are updated");
    v("schedule", schedule, "the learning rate over time");
    v("objective", objective, "what is learned");
    v("adapter", adapter, "low-rank additions that train beside frozen weights (LoRA)");
    v("curriculum", curriculum, "what comes first");
    v("grpo", grpo, "options of objective grpo");
    v("rewards", rewards, "what it rewards");
    v("run", run, "how long, how often, where");
  }
};

/// The recipe of `lmxlab train` alone: nanoGPT's published CPU run.
Recipe default_recipe();

/// The document, with `overrides` put on top. @throws Error(bad_data), Error(usage) for an override
/// that is none.
Json recipe_json(std::string_view toml, const std::string& name,
                 const std::vector<std::string>& overrides);
/// Reads TOML, with `overrides` ("run.steps=100", values as JSON or plain text) put on top.
/// @throws Error(bad_data) for bad TOML, Error(usage) with every unknown key and impossible value.
Recipe read_recipe(std::string_view toml, const std::string& name,
                   const std::vector<std::string>& overrides = {});
/// Checks that need no data: ranges, budgets, optimizer, schedule. @throws Error(usage) with all of
/// them.
void check(const Recipe& recipe);
std::string write_recipe(const Recipe& recipe);

/// The trained weights that a [model] table begins with: `weights`, or a folder or GGUF file as its
/// preset.
std::optional<std::string> trained_weights(const Json& model);

/// The model of a recipe's [model] table, with muP's factors if it has `mup` (training/mup.h);
/// `vocab` is the tokenizer's unless the table gives one.
/// @param context  learned positions get this length where the preset's is shorter or the table
///                 says nothing.
/// @throws Error(usage) with every contradiction, unknown key and unknown preset.
config::Model resolve_model(const Json& table, int vocab, int context);

}  // namespace lmxlab
