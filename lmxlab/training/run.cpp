#include "lmxlab/training/run.h"

#include "lmxlab/base/files.h"
#include "lmxlab/config/documents.h"
#include "lmxlab/config/hf.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/io/safetensors.h"
#include "lmxlab/models/adapters.h"
#include "lmxlab/training/checkpoint.h"
#include "lmxlab/training/multi_token.h"
#include "lmxlab/training/plot.h"

#include <mlx/ops.h>

#include <algorithm>
#include <set>

namespace lmxlab {
namespace {

constexpr const char* kResult = "result.json";

// The folder's curve and its log of metrics.
class Writer : public Callback {
 public:
  Writer(const RunFolder& folder, const Recipe& recipe, const RunHooks& hooks,
         const data::Tokenizer* tokenizer, std::string fingerprint, int64_t planned)
      : folder_(folder),
        recipe_(recipe),
        hooks_(hooks),
        tokenizer_(tokenizer),
        fingerprint_(std::move(fingerprint)),
        planned_(planned) {}

  void on_begin(Trainer& trainer) override {
    folder_.clean(trainer.state().step);
    const auto path = folder_.path() / "metrics.jsonl";
    if (fs::exists(path)) {
      const auto text = read_file(path);
      for (size_t at = 0, end; (end = text.find('\n', at)) != std::string::npos; at = end + 1) {
        const auto j = Json::parse(std::string_view(text).substr(at, end - at), path.string());
        add_point(
            j.at("step").as_integer(), j.at("loss").as_number(),
            j.contains("val_loss") ? std::optional(j.at("val_loss").as_number()) : std::nullopt);
        peak_ = std::max(peak_, j.at("peak_bytes").as_integer());
      }
    }
    metrics_ = LineWriter(path);
    saved_ = trainer.state().step;
  }

  void on_step(Trainer& trainer, StepMetrics& m) override {
    const auto& run = recipe_.run;
    const bool last = m.step == run.steps || trainer.stopping();
    if (m.step % run.log_every == 0 || m.val_loss || m.step == 1 || last) {
      Json line = Json::object({{"step", Json(m.step)},
                                {"loss", Json(m.loss)},
                                {"lr", Json(static_cast<float>(m.lr))},
                                {"grad_norm", Json(m.grad_norm)},
                                {"tokens", Json(m.tokens)},
                                {"tokens_per_s", Json(m.tokens_per_s)},
                                {"active_bytes", Json(m.active_bytes)},
                                {"peak_bytes", Json(m.peak_bytes)},
                                {"cache_bytes", Json(m.cache_bytes)},
                                {"seconds", Json(m.seconds)}});
      if (planned_ > 0) line["planned_bytes"] = Json(planned_);
      if (m.val_loss) line["val_loss"] = Json(*m.val_loss);
      for (const auto& [k, v] : m.more) line[k] = Json(v);
      metrics_.write(line.dump());
      add_point(m.step, m.loss, m.val_loss);
    }
    if (hooks_.step) hooks_.step(m, run.steps);
    if (run.sample_every > 0 && m.step % run.sample_every == 0 && hooks_.sample && tokenizer_) {
      const Trainer::Averaged averaged(trainer);
      hooks_.sample(trainer.model(), *tokenizer_, m.step);
    }
    if (run.checkpoint_every > 0 && m.step % run.checkpoint_every == 0) save(trainer);
  }

  void save(Trainer& trainer) {
    if (trainer.state().step == saved_) return;
    const auto base = recipe_.adapter ? trained_weights(recipe_.model).value_or("") : "";
    const auto path = folder_.save(trainer, trainer.model(), fingerprint_, recipe_.run.keep, base);
    saved_ = trainer.state().step;
    write_file_atomic(folder_.path() / "loss.svg", loss_curve_svg(curve_, recipe_.run.name));
    if (hooks_.checkpoint) hooks_.checkpoint(path);
  }

  void write_result(Trainer& trainer, const TrainResult& r) {
    const auto& state = trainer.state();
    const auto number = [](const std::optional<double>& v) { return v ? Json(*v) : Json(); };
    const Json result =
        Json::object({{"steps", Json(r.steps)},
                      {"loss", Json(curve_.empty() ? r.loss : curve_.back().loss)},
                      {"val_loss", number(r.val_loss)},
                      {"best_val_loss", number(state.best_val_loss)},
                      {"seconds", Json(r.seconds)},
                      {"tokens", Json(r.tokens)},
                      {"tokens_per_s", Json(static_cast<double>(r.tokens) / r.seconds)},
                      {"flops", Json(state.flops)},
                      {"parameters", Json(trainer.model().parameter_count())},
                      {"peak_bytes", Json(std::max(peak_, r.peak_bytes))},
                      {"stopped", Json(r.stopped)}});
    write_file_atomic(folder_.path() / kResult, result.dump(2) + "\n");
  }

 private:
  void add_point(int64_t step, double loss, std::optional<double> val_loss) {
    curve_.push_back({step, loss, val_loss});
  }

  const RunFolder& folder_;
  const Recipe& recipe_;
  const RunHooks& hooks_;
  const data::Tokenizer* tokenizer_;
  std::string fingerprint_;
  int64_t planned_;
  LineWriter metrics_;
  std::vector<LossPoint> curve_;
  int64_t saved_ = -1, peak_ = 0;
};

// What is made of the weights that were mapped.
// @param heads  for further tokens: those that the weights lack are new
void adapt(LanguageModel& model, const Recipe& recipe, const std::vector<config::Block>& heads) {
  if (recipe.objective.kind == ObjectiveKind::reward) model.put_score(recipe.run.seed);
  const Enter enter(model.runtime());
  if (model.config().mtp_heads.empty() && !heads.empty())
    model.transformer().add_mtp_heads(heads, recipe.run.seed);
  if (recipe.adapter) {
    attach_adapter(model, *recipe.adapter, "default", recipe.run.seed);
    return;
  }
  for (const auto& w : core::weights_of(model.transformer()))
    if (w.weight->quantized())
      throw Error(Kind::usage, "[run] " + w.path +
                                   " is packed, and packed weights do not train. Add [adapter], "
                                   "or begin with the weights as floats.");
  if (!recipe.optimizer.only.empty()) train_only(model, recipe.optimizer.only);
  if (recipe.objective.kind != ObjectiveKind::mtp) freeze_mtp_heads(model.transformer());
  for (auto& e : core::collect_trainable(model.transformer()))
    e.param->value = mx::astype(e.param->value, mx::float32);
}

constexpr const char* kTeacher = "teacher.safetensors";

KeepTeacher how_kept(const Recipe& recipe, const RunConfig& run) {
  const auto& o = recipe.objective;
  return {.top_k = o.top_k.value_or(0),
          .temperature = static_cast<float>(o.temperature.value_or(1)),
          .batch = run.batch,
          .compute = run.dtype == ComputeType::bf16 ? mx::bfloat16 : mx::float32};
}
// Of a teacher that runs before the training.
std::optional<KeptTeacher> teacher_of(const Recipe& recipe, int vocab) {
  const auto& o = recipe.objective;
  if (!o.keeps_teacher()) return std::nullopt;
  if (o.teacher_is_kept()) {
    const auto kept = kept_teacher(o.teacher);
    if (o.top_k.value_or(kept.top_k) != kept.top_k)
      throw Error(Kind::mismatch, "[objective] " + o.teacher + " keeps " +
                                      std::to_string(kept.top_k) + " tokens, objective.top_k is " +
                                      std::to_string(*o.top_k) + ". Leave it out.");
    return kept;
  }
  const auto teacher = LanguageModel::load(o.teacher);  // maps
  check_teacher(teacher.config(), o, vocab);
  return kept_teacher(teacher.config(), how_kept(recipe, recipe.run));
}

struct Resolved {
  config::Model plain, config;  // as of RunParts
  std::map<std::string, MupRatio> ratios;
};
Resolved resolve_config(const Recipe& recipe, int vocab) {
  Json without = recipe.model;
  without.erase("mup");
  auto plain = resolve_model(without, vocab, recipe.run.context);
  if (recipe.objective.kind == ObjectiveKind::reward)
    plain.score = true;
  else
    expect_tokens(plain, "run");
  auto config = plain;
  std::map<std::string, MupRatio> ratios;
  if (const auto* mup = recipe.model.find("mup")) {
    if (const auto folder = trained_weights(recipe.model))
      throw Error(Kind::usage, "[run] model.mup says how new weights begin, and those of " +
                                   *folder + " are trained. Leave it out.");
    const auto base = mup_base(plain, *mup);
    config = with_mup(plain, base), ratios = mup_ratios(plain, base);
  }
  return {std::move(plain), std::move(config), std::move(ratios)};
}

// The data and the model that a recipe names: what can be wrong without a folder is found here.
RunParts prepare(const Recipe& recipe, const std::optional<fs::path>& saved) {
  auto data = load_data(recipe, saved);
  const int vocab = data.tokenizer ? data.tokenizer->vocab_size() : 0;
  auto [plain, config, ratios] = resolve_config(recipe, vocab);
  if (vocab > config.vocab)
    throw Error(Kind::mismatch, "[run] the tokenizer has " + std::to_string(vocab) +
                                    " tokens, the model's vocabulary " +
                                    std::to_string(config.vocab) +
                                    ". Set model.vocab to at least " + std::to_string(vocab) +
                                    ", or leave it out.");
  if (recipe.objective.kind == ObjectiveKind::mtp)
    plain = config = with_mtp_heads(std::move(plain), recipe.objective);
  RunParts parts{std::move(data), std::move(plain), std::move(config), std::move(ratios)};
  parts.packs = !config::carries_over(parts.config);
  if (const auto weights = trained_weights(recipe.model))
    parts.subject.load = [path = *weights] { return LanguageModel::load(path); };
  parts.subject.adapt = [recipe, heads = parts.config.mtp_heads](LanguageModel& model) {
    adapt(model, recipe, heads);
  };
  if (recipe.adapter) parts.subject.rank = recipe.adapter->rank;
  const auto token = parts.data.samples ? mx::int32 : parts.data.tokens.dtype();
  const auto kept = teacher_of(recipe, parts.config.vocab);
  const bool mtp = recipe.objective.kind == ObjectiveKind::mtp;
  if (parts.subject.load && !mtp) {
    parts.subject.attach = [recipe](LanguageModel& model, int rank) {
      auto with = recipe;
      if (!with.adapter) with.adapter = AdapterOptions{.rank = rank};
      adapt(model, with, {});
    };
  }
  if (!parts.subject.load && recipe.model.contains("preset") && !mtp)  // heads are of this width
    parts.subject.with_preset = [recipe, vocab](const std::string& name) {
      auto other = recipe;
      other.model["preset"] = Json(name);
      return resolve_config(other, vocab).config;
    };
  parts.subject.batch = [recipe, packs = parts.packs, token, kept](const RunConfig& run) {
    return batch_like(recipe, run, packs, token, kept);
  };
  if (kept && !recipe.objective.teacher_is_kept()) {
    const bool packs = parts.packs && parts.data.samples;
    parts.subject.before = [recipe, packs](const RunConfig& run) {
      return rehearse_teacher(recipe.objective.teacher, how_kept(recipe, run), run.context, packs);
    };
  }
  parts.subject.objective = make_objective(recipe.objective, parts.config);
  return parts;
}

constexpr const char* kTemplate = "chat_template.jinja";
constexpr const char* kReference = "reference.safetensors";

// What the reference, the model as the run begins, makes of all pairs: kept in the folder, since a
// resumed run has other weights.
void measure_pairs(LanguageModel& model, const fs::path& out, RunBatches& batches,
                   const Recipe& recipe) {
  const auto path = out / kReference;
  const std::pair<const char*, std::vector<TokenPair>*> parts[] = {
      {"train", &*batches.pairs}, {"held_out", &*batches.held_out_pairs}};
  if (!fs::exists(path)) {
    const auto compute = recipe.run.dtype == ComputeType::bf16 ? mx::bfloat16 : mx::float32;
    io::Tensors kept;
    for (const auto& [name, pairs] : parts) {
      if (pairs->empty()) continue;
      measure_reference(model, *pairs, recipe.run.batch, recipe.run.context, compute);
      std::vector<float> values;
      for (const auto& p : *pairs)
        values.insert(values.end(), {p.reference_first, p.reference_second});
      kept.emplace(name,
                   mx::array(values.data(), {static_cast<int>(pairs->size()), 2}, mx::float32));
    }
    io::write_safetensors(path, kept);
    return;
  }
  const auto kept = io::SafeTensors(path).all();
  for (const auto& [name, pairs] : parts) {
    if (pairs->empty()) continue;
    const auto at = kept.find(name);
    const mx::Shape shape{static_cast<int>(pairs->size()), 2};
    if (at == kept.end() || at->second.shape() != shape)
      throw Error(Kind::mismatch, "[run] " + path.string() + " is of other pairs than the data");
    const auto* v = at->second.data<float>();
    for (size_t i = 0; i < pairs->size(); ++i)
      (*pairs)[i].reference_first = v[2 * i], (*pairs)[i].reference_second = v[2 * i + 1];
  }
}

// Puts beside the rows what the teacher says of them, which is in a file of the run's folder unless
// the recipe names one.
void put_teacher(const fs::path& out, RunBatches& batches, const Recipe& recipe, int vocab,
                 const RunHooks& hooks, std::stop_token stop) {
  const auto& teacher = recipe.objective.teacher;
  const auto file = recipe.objective.teacher_is_kept() ? fs::path(teacher) : out / kTeacher;
  auto how = how_kept(recipe, recipe.run);
  TeacherRows rows{std::move(*batches.rows), std::move(batches.held_out_rows)};
  if (!fs::exists(file)) {
    how.stop = stop;
    if (hooks.before)
      how.progress = [&](int64_t done, int64_t all) { hooks.before("the teacher", done, all); };
    keep_teacher(file, LanguageModel::load(teacher), rows, how);
  }
  rows = with_teacher(file, std::move(rows), vocab, how.temperature);
  batches.rows = std::move(rows.train), batches.held_out_rows = std::move(rows.held_out);
}

// A new model learns no position that no row has.
void warn_of_positions(const Recipe& recipe, const config::Model& config, const RunHooks& hooks) {
  const auto* learned = std::get_if<config::Learned>(&config.position);
  const int rows = recipe.run.context;
  if (!hooks.warn || !learned || learned->length <= rows || trained_weights(recipe.model)) return;
  hooks.warn("the model has " + std::to_string(learned->length) + " learned positions, rows have " +
             std::to_string(rows) + " tokens: the others stay as they begin. Set model.context=" +
             std::to_string(rows) + ", or a longer run.context.");
}

RunResult train_in(const fs::path& out, Recipe recipe, RunParts& parts, const RunHooks& hooks,
                   std::stop_token stop, bool resume) {
  const FolderLock lock(out);  // two runs in one folder would write over each other
  const RunFolder folder(out);
  auto& data = parts.data;
  const auto& config = parts.config;
  auto batches = run_batches(data, recipe, parts.packs);

  if (!resume) {  // everything resolved: the folder alone says what the run is
    warn_of_positions(recipe, config, hooks);
    Json table = to_json(parts.plain);
    if (const auto* sizes = recipe.model.find("mup")) table["mup"] = *sizes;
    if (const auto trained = trained_weights(recipe.model))
      table["weights"] = Json(fs::absolute(*trained).string());
    recipe.model = table;
    auto& d = recipe.data;
    if (d.tokenizer.empty()) {
      const auto trained = trained_weights(recipe.model);
      const bool own = trained && !data::tokenizer_file(*trained).empty();
      d.tokenizer = own ? *trained : "char";
    }
    for (auto* file : {&d.file, &d.validation_file})
      if (!file->empty()) *file = fs::absolute(*file).string();
    if (auto& teacher = recipe.objective.teacher; !teacher.empty())
      teacher = fs::absolute(teacher).string();
    if (d.tokenizer != "char" && d.tokenizer != "byte")
      d.tokenizer = fs::absolute(d.tokenizer).string();
    recipe.optimizer = with_defaults(recipe.optimizer);
    if (auto& c = recipe.curriculum) c->steps = c->batches(recipe.run) / recipe.run.accumulate;
    recipe.run.out.clear();  // the folder may be moved
  }
  if (recipe.objective.keeps_teacher())
    put_teacher(out, batches, recipe, config.vocab, hooks, stop);
  const auto done = resume ? folder.checkpoints() : std::vector<CheckpointInfo>();
  // A checkpoint has all weights: those that the run began with may be gone. An adapter's has none
  // but its own.
  const bool rewarded = recipe.objective.kind == ObjectiveKind::grpo;
  const bool fresh = done.empty() || recipe.adapter || rewarded;
  auto model = fresh ? make_model(recipe, parts) : LanguageModel(config, recipe.run.seed);
  if (!fresh) adapt(model, recipe, config.mtp_heads);
  if (batches.pairs && recipe.objective.has_reference()) measure_pairs(model, out, batches, recipe);
  const auto train_tokens = batches.train_tokens, held_out_tokens = batches.held_out_tokens;
  const auto fill = batches.fill;
  std::unique_ptr<RunMethod> method;
  auto options = train_options(recipe, parts);
  TrainData source;
  if (rewarded) {
    if (!hooks.method)
      throw Error(Kind::unsupported,
                  "[run] objective grpo needs RunHooks::method (align/grpo_run.h)");
    method = hooks.method(model, recipe, data);
    options.objective = method->objective();
    source = method->data(recipe.run);
  } else {
    source = train_data(std::move(batches), recipe);
  }
  Trainer trainer(model, std::move(source), std::move(options));
  if (method) trainer.add(method->metrics());

  std::error_code none;
  fs::remove(out / kResult, none);
  if (!recipe.adapter) write_file_atomic(out / "config.json", config::to_hf(config).dump(2) + "\n");
  if (data.tokenizer && !resume) {
    data.tokenizer->save(out);
    if (data.chat_template) write_file_atomic(out / kTemplate, data.chat_template->source());
  }
  write_file_atomic(out / "recipe.toml", write_recipe(recipe));  // last: from now on this is a run

  if (!done.empty()) {
    if (done.back().step > recipe.run.steps)
      throw Error(Kind::mismatch, "[run] " + out.string() + " has done " +
                                      std::to_string(done.back().step) + " steps, run.steps is " +
                                      std::to_string(recipe.run.steps));
    folder.load(done.back(), model, trainer, data.fingerprint);
  }
  if (hooks.start)
    hooks.start({recipe, model, data.tokenizer ? &*data.tokenizer : nullptr, out,
                 trainer.state().step, train_tokens, held_out_tokens, fill});
  auto writer =
      std::make_unique<Writer>(folder, recipe, hooks, data.tokenizer ? &*data.tokenizer : nullptr,
                               data.fingerprint, parts.planned);
  auto* saver = writer.get();
  trainer.add(std::move(writer));
  auto result = trainer.run(stop);
  saver->save(trainer);
  if (result.stopped != "canceled") saver->write_result(trainer, result);
  return {std::move(result), out};
}

// Keys that a resumed run may change.
const std::set<std::string>& movable() {
  static const std::set<std::string> keys = {
      "steps",     "time_budget",      "flop_budget",  "eval_every", "eval_batches",
      "log_every", "checkpoint_every", "sample_every", "keep",       "patience"};
  return keys;
}

void compare(const Json& before, const Json& after, const std::string& path, Problems& problems) {
  if (before == after) return;
  if (before.is_object() && after.is_object()) {
    for (const auto& [key, value] : after.as_object()) {
      if (path == "run" && movable().count(key)) continue;
      const auto* old = before.find(key);
      compare(old ? *old : Json(), value, path.empty() ? key : path + "." + key, problems);
    }
    return;
  }
  if (before.is_array() && after.is_array() && before.size() == after.size()) {
    for (size_t i = 0; i < before.size(); ++i)
      compare(before.as_array()[i], after.as_array()[i], path + "." + std::to_string(i), problems);
    return;
  }
  problems.add(path + " is " + before.dump() + " in the run, not " + after.dump());
}

}  // namespace

fs::path new_run_folder(const RunConfig& run, const fs::path& base) {
  if (!run.out.empty()) {
    if (RunFolder(run.out).exists() || fs::exists(fs::path(run.out) / "sweep.toml"))
      throw Error(Kind::usage, "[run] " + run.out +
                                   " holds a run already. Continue it with --resume " + run.out +
                                   ", or choose another folder.");
    if (fs::exists(fs::path(run.out) / "model.safetensors"))
      throw Error(Kind::usage,
                  "[run] " + run.out +
                      " holds a model, which this run would replace. Choose another folder.");
    make_directory(run.out);
    return run.out;
  }
  make_directory(base);
  for (int n = 1;; ++n) {
    const auto path = base / (run.name + "-" + std::to_string(n));
    std::error_code code;
    if (fs::create_directory(path, code)) return path;
    if (code)
      throw Error(Kind::resource,
                  "[run] cannot make the folder " + path.string() + ": " + code.message());
  }
}

RunParts resolve_run(const Recipe& recipe) {
  check(recipe);
  return prepare(recipe, std::nullopt);
}

LanguageModel make_model(const Recipe& recipe, const RunParts& parts) {
  if (const auto weights = trained_weights(recipe.model)) {
    auto model = LanguageModel::load(*weights);
    auto expected = parts.config;
    expected.score = model.config().score;  // a head that there may not be yet
    if (model.config().mtp_heads.empty()) expected.mtp_heads.clear();  // they are made
    if (!(model.config() == expected))
      throw Error(Kind::mismatch, "[run] the weights in " + *weights + " are of another model");
    adapt(model, recipe, parts.config.mtp_heads);
    return model;
  }
  LanguageModel model(parts.config, recipe.run.seed);
  if (!parts.mup.empty()) scale_init(model, parts.mup);
  adapt(model, recipe, {});
  return model;
}

TrainOptions train_options(const Recipe& recipe, const RunParts& parts) {
  TrainOptions options{
      .optimizer = recipe.optimizer, .schedule = recipe.schedule, .run = recipe.run};
  options.objective = parts.subject.objective;
  for (const auto& [path, ratio] : parts.mup) options.lr_ratios[path] = ratio.lr;
  return options;
}

RunResult train_run(const Recipe& asked, const RunHooks& hooks, std::stop_token stop,
                    const fs::path& base) {
  auto parts = resolve_run(asked);
  auto recipe = asked;
  if (hooks.plan) parts.planned = hooks.plan(parts, recipe, false);
  const bool theirs = !recipe.run.out.empty() && fs::exists(recipe.run.out);
  const auto out = new_run_folder(recipe.run, base);
  try {
    return train_in(out, recipe, parts, hooks, stop, false);
  } catch (...) {
    if (!theirs && !RunFolder(out).exists()) {  // nothing was begun: leave nothing behind
      std::error_code code;
      for (const char* name : {"config.json", "tokenizer.json", "tokenizer_config.json", kTemplate,
                               kReference, kTeacher})
        fs::remove(out / name, code);
      fs::remove(out, code);
    }
    throw;
  }
}

RunResult resume_run(const fs::path& folder, const std::vector<std::string>& overrides,
                     const RunHooks& hooks, std::stop_token stop) {
  if (!RunFolder(folder).exists())
    throw Error(Kind::not_found, "[run] " + folder.string() + " is no run: it has no recipe.toml");
  const auto path = folder / "recipe.toml";
  const auto text = read_file(path);
  const auto saved = read_recipe(text, path.string());
  auto recipe = read_recipe(text, path.string(), overrides);
  Problems problems;
  compare(to_json(saved), to_json(recipe), "", problems);
  problems.raise(Kind::mismatch, "[run] --set contradicts the run in " + folder.string());
  auto parts = prepare(recipe, folder);
  if (hooks.plan) parts.planned = hooks.plan(parts, recipe, true);
  return train_in(folder, recipe, parts, hooks, stop, true);
}

}  // namespace lmxlab
