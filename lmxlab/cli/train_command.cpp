#include "lmxlab/align/grpo_run.h"
#include "lmxlab/base/files.h"
#include "lmxlab/base/text.h"
#include "lmxlab/base/version.h"
#include "lmxlab/cli/commands.h"
#include "lmxlab/cli/long_text.h"
#include "lmxlab/cli/measure.h"
#include "lmxlab/cli/model_argument.h"
#include "lmxlab/cli/progress.h"
#include "lmxlab/cli/step_arguments.h"
#include "lmxlab/cli/train_recipe.h"
#include "lmxlab/experiments/sweep.h"
#include "lmxlab/governor/govern.h"
#include "lmxlab/inference/generate.h"
#include "lmxlab/kernels/machine.h"
#include "lmxlab/kernels/memory.h"
#include "lmxlab/kernels/thread_pool.h"
#include "lmxlab/training/run.h"

#include <algorithm>
#include <cmath>
#include <memory>

namespace lmxlab::cli {
namespace {

constexpr int kSampleOnTheWay = 160, kSampleAtTheEnd = 400;  // tokens

std::string fixed(double v, int digits) {
  char text[48];
  std::snprintf(text, sizeof text, "%.*f", digits, v);
  return text;
}

std::string shell_word(const std::string& word) {
  if (!word.empty() && word.find_first_of(" \t\"'\\$`&|;<>()*?[]#~!") == std::string::npos)
    return word;
  std::string out = "'";
  for (const char c : word) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

class Train : public Command {
  std::optional<std::string> recipe_, out_, resume_, data_;
  std::optional<int64_t> steps_;
  std::vector<std::string> set_;
  bool auto_fit_ = false;
  MemoryArgument memory_;
  std::optional<plan::Budget> limit_;
  int64_t planned_ = 0;  // bytes at the peak
  bool sweeping_ = false;

  void declare(Options& o) override {
    o.argument(
        "RECIPE", &recipe_,
        "a TOML file with the tables [model] [data] [optimizer] [schedule] [objective] [run], and "
        "[sweep] for many runs");
    o.option("--set", "KEY=VALUE", &set_, "another value of a recipe's key, as in run.batch=16");
    o.option("--out", "DIR", &out_, "the run's folder").otherwise("runs/NAME-N, N counted up");
    o.option("--resume", "DIR", &resume_,
             "go on with the run in DIR from its last checkpoint, or with "
             "the sweep in DIR");
    o.option("--data", "FILE", &data_, "short for --set data.file=FILE")
        .otherwise("the recipe's, else Tiny Shakespeare");
    o.option("--steps", "N", &steps_, "short for --set run.steps=N")
        .otherwise("the recipe's, else 2000");
    o.flag(
        "--auto-fit", &auto_fit_,
        "where memory is short take the cheapest change that helps: a smaller batch with "
        "accumulation, gradient checkpointing, 8-bit state; where these do not do, other results: "
        "Adafactor, a shorter context");
    memory_.declare(o);
  }

  void header(const Context& context, const RunHooks::Start& s) const {
    const auto& c = s.model.config();
    const auto& r = s.recipe.run;
    const auto line = [&](const std::string& name, const std::string& text) {
      std::string padded = name;
      padded.resize(10, ' ');
      context.log(context.styled("1", padded) + text);
    };
    line("model", c.family + ", " + std::to_string(c.layers.size()) + " layers, width " +
                      std::to_string(c.dim) + ": " + with_commas(s.model.parameter_count()) +
                      " parameters");
    std::string data =
        s.recipe.data.file.empty() ? "Tiny Shakespeare (built in)" : s.recipe.data.file;
    if (s.train_tokens > 0) {  // else they are made on the way
      data += ": " + with_commas(s.train_tokens) + " tokens";
      if (s.fill) data += " in rows " + fixed(100 * *s.fill, 0) + " % full";
      data += ", " + with_commas(s.validation_tokens) + " held out";
    }
    data += "; vocabulary of " + with_commas(c.vocab);
    line("data", data);
    line("training", with_commas(r.steps) + " steps of " +
                         (r.accumulate > 1 ? std::to_string(r.accumulate) + " x " : std::string()) +
                         std::to_string(r.batch) + " x " + std::to_string(r.context) + " tokens, " +
                         enum_name(s.recipe.optimizer.name) + ", " + enum_name(r.dtype));
    line("machine", chip_name() + ", " + std::to_string(kernels::threads()) + " threads, " +
                        human_bytes(double(kernels::memory_size())) +
                        ", MLX " LMXLAB_MLX_VERSION " " LMXLAB_MLX_FLAVOUR);
    line("folder",
         s.out.string() +
             (s.first_step > 0 ? ", resumed after step " + with_commas(s.first_step) : ""));
  }

  // Text out of nothing; empty if the model has no tokenizer of its own.
  static std::string sample(const LanguageModel& model, const data::Tokenizer& tokenizer,
                            int tokens, uint64_t seed, std::stop_token stop) {
    GenerateOptions options;
    options.max_tokens = tokens;
    options.sampling.seed = seed;
    options.stop = stop;
    if (const auto eos = tokenizer.eos_id()) options.stop_tokens = {*eos};
    return generate_long(model, opening(tokenizer), options, &tokenizer, {}).text;
  }

  // What the options say of the recipe.
  std::vector<std::string> overrides() const {
    const auto once = [&](const std::string& option, const std::string& key) {
      for (const auto& s : set_)
        if (s.starts_with(key + "="))
          throw Error(Kind::usage, "[train] " + option + " and --set " + s + " both give " + key +
                                       ". Keep one.");
    };
    if (out_ && out_->empty())
      throw Error(Kind::usage, "[train] --out: expected a folder, got \"\"");
    if (data_) once("--data", "data.file");
    if (steps_) once("--steps", "run.steps");
    if (out_) once("--out", "run.out");
    std::vector<std::string> overrides = set_;
    if (data_) overrides.push_back("data.file=" + Json(*data_).dump());
    if (steps_) overrides.push_back("run.steps=" + std::to_string(*steps_));
    if (out_ && !resume_) overrides.push_back("run.out=" + Json(*out_).dump());
    return overrides;
  }

  // @param shown  where the run's progress goes; each run of a sweep has its own
  RunHooks hooks(Context& context, std::unique_ptr<Progress>& shown) {
    struct Seen {
      std::optional<double> val_loss;
      int64_t total = 0;
      double seconds = 0;  // of its budget, if that is what ends it
    };
    const auto seen = std::make_shared<Seen>();
    RunHooks hooks;
    hooks.start = [this, &context, seen](const RunHooks::Start& s) {
      const auto& run = s.recipe.run;
      *seen = {};
      if (run.time_budget > 0 && run.steps == kUntilTheTime) seen->seconds = run.time_budget;
      if (!sweeping_) header(context, s);
    };
    hooks.step = [this, &shown, seen](const StepMetrics& m, int64_t steps) {
      if (m.val_loss) seen->val_loss = m.val_loss;
      std::vector<std::string> facts{"loss " + fixed(m.loss, 3)};
      if (seen->val_loss) facts.push_back("val " + fixed(*seen->val_loss, 3));
      const size_t losses = facts.size();
      facts.push_back(human_count(m.tokens_per_s) + " tok/s");
      facts.push_back(of_planned(m.peak_bytes, planned_));
      facts.push_back(held_text());
      if (seen->seconds > 0)
        shown->update(int64_t(std::min(m.seconds, seen->seconds)),
                      int64_t(std::ceil(seen->seconds)), facts, losses);
      else
        shown->update(m.step, steps, facts, losses);
      seen->total = steps;
    };
    hooks.sample = [&context, &shown, seen](LanguageModel& model, const data::Tokenizer& tokenizer,
                                            int64_t step) {
      if (context.quiet || context.stop.stop_requested()) return;
      if (step == seen->total && !context.json) return;  // the sample at the end
      const auto text = sample(model, tokenizer, kSampleOnTheWay, uint64_t(step), context.stop);
      shown->clear();
      context.log(context.styled("1", "after step " + std::to_string(step) + ":") + "\n" +
                  std::string(trim(text)) + "\n");
    };
    hooks.plan = [this, &context](const RunParts& parts, Recipe& recipe, bool fixed) {
      TrainOptions training{recipe.optimizer, recipe.schedule, recipe.run};
      plan::Plan plan;
      GovernOptions govern;
      if (limit_) govern.budget = *limit_;
      govern.auto_fit = auto_fit_ && !fixed, govern.fixed = fixed, govern.stop = context.stop;
      if (!fixed)
        govern.words = sweeping_ ? recipe_words(write_recipe(recipe), recipe_name(), {})
                                 : recipe_words(recipe_text(), recipe_name(), overrides());
      const bool rewarded = recipe.objective.kind == ObjectiveKind::grpo;
      const auto change =
          govern_training(parts.config, training, parts.data.bytes(), govern, &plan,
                          rewarded ? align::grpo_subject(parts, recipe) : parts.subject);
      recipe.optimizer = training.optimizer, recipe.run = training.run;
      if (!change.empty()) context.warn("--auto-fit: " + change);
      return planned_ = plan.parts.peak();
    };
    hooks.method = align::grpo_method;
    hooks.before = [&shown](const std::string& what, int64_t done, int64_t all) {
      shown->update(done, all, {what});
      if (done == all) shown->clear();
    };
    hooks.warn = [&context, &shown](const std::string& text) {
      shown->clear();
      context.warn(text);
    };
    return hooks;
  }

  std::string recipe_text() const {
    const std::string toml = recipe_ ? read_file(*recipe_) : "";
    if (recipe_ && trim(toml).empty())
      throw Error(
          Kind::bad_data,
          "[train] " + *recipe_ + " is empty: expected a recipe. Without one, leave RECIPE out.");
    return toml;
  }
  std::string recipe_name() const { return recipe_.value_or("the command line"); }

  void check_resume() const {
    if (recipe_)
      throw Error(
          Kind::usage,
          "[train] --resume reads the recipe in its folder: expected no other, got " + *recipe_);
    std::error_code ignored;
    if (out_ && fs::weakly_canonical(*out_, ignored) != fs::weakly_canonical(*resume_, ignored))
      throw Error(Kind::mismatch,
                  "[train] --out " + *out_ + " is not the folder that --resume names, " + *resume_);
  }

  RunResult train(Context& context, const RunHooks& hooks) {
    const auto overrides = this->overrides();
    if (resume_) {
      check_resume();
      return resume_run(*resume_, overrides, hooks, context.stop);
    }
    auto recipe = read_recipe(recipe_text(), recipe_name(), overrides);
    make_local(recipe, context);
    return train_run(recipe, hooks, context.stop);
  }

  // Whether many runs were asked for.
  bool is_sweep() const {
    if (resume_) return holds_sweep(*resume_);
    return lmxlab::is_sweep(recipe_text(), recipe_name(), overrides());
  }

  int sweep(Context& context) {
    sweeping_ = true;
    std::unique_ptr<Progress> progress;
    SweepHooks hooks{this->hooks(context, progress), {}, {}};
    const auto change = [&](Recipe& recipe) { make_local(recipe, context); };
    hooks.begin = [&](const SweepRun& run, size_t number, size_t all) {
      progress = std::make_unique<Progress>(context);
      const auto which = "run " + std::to_string(number) + " of " + std::to_string(all);
      context.log(context.styled("1", which) + "  " + run.folder);
    };
    hooks.end = [&](const SweepRun&, const RunResult* result, const Error* error) {
      progress->clear();
      if (error) return context.warn("failed: " + std::string(error->what()));
      const auto& t = result->train;
      context.log("  " + with_commas(t.steps) + " steps in " + human_seconds(t.seconds) +
                  ", loss " + fixed(t.loss, 4) +
                  (t.val_loss ? ", held out " + fixed(*t.val_loss, 4) : ""));
    };
    SweepResult result;
    if (resume_) {
      check_resume();
      if (!overrides().empty())
        throw Error(Kind::usage, "[train] " + *resume_ +
                                     " is a sweep, which goes on as it began: expected no --set, "
                                     "--steps or --data");
      result = resume_sweep(*resume_, hooks, context.stop, change);
    } else {
      const auto sweep = read_sweep(recipe_text(), recipe_name(), overrides(), change);
      context.log(std::to_string(sweep.settings.size()) + " settings, " +
                  std::to_string(sweep.runs.size()) + " runs");
      result = run_sweep(sweep, hooks, context.stop);
    }
    return report(context, result);
  }

  static int report(const Context& context, const SweepResult& result) {
    const std::string folder = result.out.string();
    const std::string again = shell_word(context.program) + " train --resume " + shell_word(folder);
    std::optional<Error> error;
    if (!result.failures.empty())
      error.emplace(result.failures[0].error.kind(),
                    "[sweep] " + std::to_string(result.failures.size()) + " of " +
                        std::to_string(result.runs) + " runs failed; the first is " +
                        result.failures[0].folder + ": " + result.failures[0].error.what());
    if (result.canceled) error.emplace(Kind::canceled, "interrupted; go on with: " + again);
    if (context.json) {
      Json::Array failed;
      for (const auto& f : result.failures)
        failed.push_back(Json::object({{"folder", Json(f.folder)},
                                       {"kind", Json(kind_name(f.error.kind()))},
                                       {"message", Json(f.error.what())}}));
      Json out = Json::object({{"out", Json(folder)},
                               {"runs", Json(result.runs)},
                               {"skipped", Json(result.skipped)},
                               {"failed", Json(std::move(failed))}});
      if (error)
        out["error"] = Json::object(
            {{"kind", Json(kind_name(error->kind()))}, {"message", Json(error->what())}});
      context.print_json(out);
    }
    if (result.canceled) {
      context.log("interrupted; all of it is saved. Go on with:\n  " + again);
      return exit_code(Kind::canceled);
    }
    context.log("\nfolder    " + folder + "\nnext      " + shell_word(context.program) +
                " compare " + shell_word(folder));
    if (!error) return 0;
    std::string line = error->what();  // several problems stand in lines of their own
    std::replace(line.begin(), line.end(), '\n', ' ');
    std::fprintf(stderr, "%s %s\n", context.styled("1;31", "error:").c_str(), line.c_str());
    return exit_code(error->kind());
  }

  int run(Context& context) override {
    limit_ = memory_.limit("train");
    if (is_sweep()) return sweep(context);
    auto progress = std::make_unique<Progress>(context);
    const RunResult result = train(context, hooks(context, progress));
    progress->finish();
    const bool interrupted = context.stop.stop_requested();
    const auto& t = result.train;
    const std::string folder = result.out.string();
    const std::string again = shell_word(context.program) + " train --resume " + shell_word(folder);
    if (context.json) {
      Json out = Json::object({{"steps", Json(t.steps)},
                               {"loss", Json(t.loss)},
                               {"val_loss", t.val_loss ? Json(*t.val_loss) : Json()},
                               {"seconds", Json(t.seconds)},
                               {"tokens_per_s", Json(t.tokens_per_s)},
                               {"peak_bytes", Json(t.peak_bytes)},
                               {"planned_bytes", Json(planned_)},
                               {"out", Json(folder)}});
      if (!t.stopped.empty()) out["stopped"] = Json(t.stopped);
      if (interrupted)
        out["error"] = Json::object(
            {{"kind", Json("canceled")}, {"message", Json("interrupted; go on with: " + again)}});
      context.print_json(out);
    }
    if (interrupted) {
      context.log("interrupted after step " + with_commas(t.steps) +
                  "; all of it is saved. Go on with:\n  " + again);
      return exit_code(Kind::canceled);
    }
    const auto line = [&](const std::string& name, const std::string& text) {
      std::string padded = name;
      padded.resize(10, ' ');
      context.log(context.styled("1", padded) + text);
    };
    if (!t.stopped.empty())
      context.log("stopped after step " + with_commas(t.steps) + ": " + t.stopped);
    context.log("");
    line("done", with_commas(t.steps) + " steps in " + human_seconds(t.seconds) + ", " +
                     human_count(t.tokens_per_s) + " tokens/s, peak memory " +
                     of_planned(t.peak_bytes, planned_));
    line("loss", fixed(t.loss, 4) + (t.val_loss ? " in the last step, " + fixed(*t.val_loss, 4) +
                                                      " on the held-out part"
                                                : " in the last step"));
    std::string prompt = "\n";
    bool scores = false;
    if (!context.json) {
      const auto m = open_model(folder, 0, std::nullopt, context);
      scores = m.model.config().score;
      if (m.tokenizer && !scores) {
        line("sample", "");
        context.print(
            std::string(trim(sample(m.model, *m.tokenizer, kSampleAtTheEnd, 1, context.stop))) +
            "\n");
        context.flush();
        context.log("");
        try {
          m.tokenizer->encode_ids("ROMEO:");
          prompt = "ROMEO:";
        } catch (const Error&) {
          prompt = m.tokenizer->decode(opening(*m.tokenizer));
        }
      }
    }
    std::error_code ignored;
    line("folder", folder);
    if (fs::exists(result.out / "loss.svg", ignored))
      line("curve", (result.out / "loss.svg").string());
    if (scores)
      line("next", shell_word(context.program) + " generate MODEL --best-of 8 --judge " +
                       shell_word(folder) + " --prompt TEXT");
    else
      line("next", shell_word(context.program) + " generate " + shell_word(folder) + " --prompt " +
                       (prompt == "ROMEO:" ? "\"ROMEO:\"" : shell_word(prompt)));
    return 0;
  }
};

}  // namespace

Command* make_train() {
  return new Train;
}

}  // namespace lmxlab::cli
