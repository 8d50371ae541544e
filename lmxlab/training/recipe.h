// A recipe: everything that says what a training run is. TOML tables [model] [data] [optimizer]
// [schedule] [objective] [run]; each key is a field here, and unknown keys are errors that name the
// nearest known one.
#pragma once

#include "lmxlab/base/fields.h"
#include "lmxlab/config/model.h"
#include "lmxlab/training/optimizer_config.h"
#include "lmxlab/training/schedule.h"

#include <string>
#include <vector>

namespace lmxlab {

enum class ObjectiveKind { pretrain };
enum class ComputeType { f32, bf16 };

template <>
struct EnumNames<ObjectiveKind> {
  static constexpr std::pair<ObjectiveKind, const char*> table[] = {
      {ObjectiveKind::pretrain, "pretrain"}};
};
template <>
struct EnumNames<ComputeType> {
  static constexpr std::pair<ComputeType, const char*> table[] = {{ComputeType::f32, "f32"},
                                                                  {ComputeType::bf16, "bf16"}};
};

struct DataConfig {
  std::string file = {};  // empty: the embedded Tiny Shakespeare
  std::string tokenizer = "char";
  double validation = 0.1;
  template <class V>
  void visit(V& v) {
    v("file", file, "a text file, or a file of tokens; empty: the built-in Tiny Shakespeare");
    v("tokenizer", tokenizer, "char, byte, or a folder or tokenizer.json");
    v("validation", validation, "share of the tokens held out, from the end");
  }
};

struct ObjectiveConfig {
  ObjectiveKind kind = ObjectiveKind::pretrain;
  template <class V>
  void visit(V& v) {
    v("kind", kind, "pretrain: predict the next token");
  }
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
  RunConfig run;
  template <class V>
  void visit(V& v) {
    v("model", model, "preset and sizes, or layers; then paths into the config");
    v("data", data, "what is trained on");
    v("optimizer", optimizer, "how weights are updated");
    v("schedule", schedule, "the learning rate over time");
    v("objective", objective, "what is learned");
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

/// The model of a recipe's [model] table, with muP's factors if it has `mup` (training/mup.h);
/// `vocab` is the tokenizer's unless the table gives one.
/// @param context  learned positions get this length where the preset's is shorter or the table
///                 says nothing.
/// @throws Error(usage) with every contradiction, unknown key and unknown preset.
config::Model resolve_model(const Json& table, int vocab, int context);

}  // namespace lmxlab
