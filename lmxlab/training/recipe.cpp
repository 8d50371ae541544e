#include "lmxlab/training/recipe.h"

#include "lmxlab/base/files.h"
#include "lmxlab/config/hf.h"
#include "lmxlab/config/presets.h"
#include "lmxlab/config/validate.h"
#include "lmxlab/models/language_model.h"
#include "lmxlab/training/mup.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>

namespace lmxlab {
namespace {

// Puts the members of `over` into `base`; into a list by index or "*".
void merge(Json& base, const Json& over, const std::string& path) {
  if (!over.is_object() || !(base.is_object() || base.is_array()) ||
      (over.contains("kind") && base.is_object() && base.contains("kind") &&
       !(over.at("kind") == base.at("kind")))) {
    base = over;
    return;
  }
  for (const auto& [key, value] : over.as_object()) {
    const auto where = path.empty() ? key : path + "." + key;
    if (base.is_object()) {
      if (auto* old = base.find(key))
        merge(*old, value, where);
      else
        base[key] = value;
      continue;
    }
    auto& items = base.as_array();
    if (key == "*") {
      for (auto& item : items) merge(item, value, where);
      continue;
    }
    const bool digits =
        !key.empty() && key.size() < 7 && key.find_first_not_of("0123456789") == std::string::npos;
    const size_t index = digits ? std::stoul(key) : items.size();
    if (index >= items.size())
      throw Error(Kind::usage, "[recipe] model." + where + ": expected * or an index below " +
                                   std::to_string(items.size()));
    merge(items[index], value, where);
  }
}

// [[model.layers]] with `repeat`; what follows from the width need not be said.
Json expand_layers(const Json& list, int64_t dim) {
  Json::Array out;
  size_t at = 0;
  for (const auto& entry : list.as_array()) {
    const auto where = "model.layers." + std::to_string(at++);
    if (!entry.is_object()) throw Error(Kind::usage, "[recipe] " + where + ": expected a table");
    Json layer = entry;
    int64_t repeat = 1;
    if (const auto* r = layer.find("repeat")) {
      if (!r->is_integer() || r->as_integer() < 1 || r->as_integer() > 10000)
        throw Error(Kind::usage, "[recipe] " + where + ".repeat: expected a count of at least 1");
      repeat = r->as_integer();
      layer.erase("repeat");
    }
    if (auto* mixer = layer.find("mixer"); mixer && mixer->is_object()) {
      const auto* kind = mixer->find("kind");
      if (!kind || *kind == Json("attention")) {
        const auto* given = mixer->find("heads");
        // A copy: adding a member moves the others.
        const int64_t heads = given && given->is_integer() ? given->as_integer() : 0;
        if (heads > 0) {
          if (!mixer->contains("kv_heads")) (*mixer)["kv_heads"] = Json(heads);
          if (!mixer->contains("head_dim")) (*mixer)["head_dim"] = Json(dim / heads);
        }
      }
    }
    if (auto* ffn = layer.find("ffn"); ffn && ffn->is_object()) {
      const auto* kind = ffn->find("kind");
      if ((!kind || *kind == Json("mlp") || *kind == Json("moe")) && !ffn->contains("hidden"))
        (*ffn)["hidden"] = Json(4 * dim);
    }
    for (int64_t i = 0; i < repeat; ++i) out.push_back(layer);
  }
  return Json(std::move(out));
}

int64_t positive(const Json& table, const char* key, int64_t otherwise) {
  const auto* v = table.find(key);
  if (!v) return otherwise;
  if (!v->is_integer() || v->as_integer() < 1 || v->as_integer() > INT32_MAX)
    throw Error(Kind::usage,
                std::string("[recipe] model.") + key + ": expected an integer of at least 1");
  return v->as_integer();
}

}  // namespace

Recipe default_recipe() {
  Recipe r;
  r.optimizer.lr = 2e-3;
  r.optimizer.weight_decay = 0.1;
  r.optimizer.betas = std::array<double, 2>{0.9, 0.99};
  r.schedule.warmup = 100;
  r.schedule.min_lr_ratio = 0.1;
  r.run.name = "shakespeare";
  return r;
}

namespace {

constexpr int kMostHeads = 16;

void check(const ObjectiveConfig& c, Problems& problems) {
  using Kind = ObjectiveKind;
  const auto is = [&](std::initializer_list<Kind> kinds) {
    return std::find(kinds.begin(), kinds.end(), c.kind) != kinds.end();
  };
  const auto option = [&](const char* name, bool given, bool used) {
    if (given && !used)
      problems.add(std::string("objective.") + name + ": " + enum_name(c.kind) +
                   " does not use it; leave it out");
  };
  const bool next = is({Kind::pretrain, Kind::sft});
  option("loss_type", c.loss_type.has_value(), is({Kind::dpo}));
  const bool distills = is({Kind::distill});
  option("teacher", !c.teacher.empty(), distills);
  option("temperature", c.temperature.has_value(), distills);
  option("hard_labels", c.hard_labels.has_value(), distills);
  option("top_k", c.top_k.has_value(), distills);
  if (distills && c.teacher.empty())
    problems.add("objective.teacher: distill needs one: a model folder or GGUF file");
  if (c.top_k && *c.top_k < 0)
    problems.add("objective.top_k: expected a count of tokens, or 0, got " +
                 std::to_string(*c.top_k));
  if (c.keeps_teacher() && c.beta.value_or(0) != 0)
    problems.add(
        "objective.beta: of a teacher's likeliest tokens there is the forward KL alone; "
        "leave it out, or objective.top_k");
  option("beta", c.beta.has_value(), is({Kind::dpo, Kind::simpo, Kind::kto, Kind::distill}));
  option("desirable_weight", c.desirable_weight.has_value(), is({Kind::kto}));
  option("undesirable_weight", c.undesirable_weight.has_value(), is({Kind::kto}));
  option("center_rewards_coefficient", c.center_rewards_coefficient.has_value(),
         is({Kind::reward}));
  option("gamma", c.gamma.has_value(), is({Kind::simpo}));
  option("lambda", c.lambda.has_value(), is({Kind::orpo}));
  option("label_smoothing", c.label_smoothing.has_value(),
         next || is({Kind::simpo}) ||
             (is({Kind::dpo}) && (!c.loss_type || *c.loss_type == objectives::DpoLoss::sigmoid ||
                                  *c.loss_type == objectives::DpoLoss::sigmoid_norm)));
  option("z_loss", c.z_loss.has_value(), next);
  option("heads", c.heads.has_value(), is({Kind::mtp}));
  option("weight", c.weight.has_value(), is({Kind::mtp}));
  if (c.heads && (*c.heads < 1 || *c.heads > kMostHeads))
    problems.add("objective.heads: expected 1 to " + std::to_string(kMostHeads) + ", got " +
                 std::to_string(*c.heads));
  const auto range = [&](const char* name, const std::optional<double>& v, double low, double high,
                         const char* expected) {
    if (v && !(*v >= low && *v < high))
      problems.add(std::string("objective.") + name + ": expected " + expected + ", got " +
                   Json(*v).dump());
  };
  if (distills)
    range("beta", c.beta, 0, 1 + 1e-12, "from 0 to 1");
  else
    range("beta", c.beta, 1e-12, INFINITY, "more than 0");
  range("temperature", c.temperature, 1e-6, INFINITY, "more than 0");
  range("hard_labels", c.hard_labels, 0, 1 + 1e-12, "from 0 to 1");
  range("gamma", c.gamma, -INFINITY, INFINITY, "a number");
  range("lambda", c.lambda, 0, INFINITY, "at least 0");
  range("z_loss", c.z_loss, 0, INFINITY, "at least 0");
  range("desirable_weight", c.desirable_weight, 0, INFINITY, "at least 0");
  range("undesirable_weight", c.undesirable_weight, 0, INFINITY, "at least 0");
  range("center_rewards_coefficient", c.center_rewards_coefficient, 0, INFINITY, "at least 0");
  range("weight", c.weight, 0, INFINITY, "at least 0");
  range("label_smoothing", c.label_smoothing, 0, next ? 1 : 0.5,
        next ? "from 0 to below 1" : "from 0 to below 0.5");
}

void check(const CurriculumConfig& c, const Recipe& recipe, Problems& problems) {
  const auto kind = recipe.objective.kind;
  if (recipe.objective.by_two() || kind == ObjectiveKind::grpo)
    problems.add("curriculum: objective " + enum_name(kind) + " has none; leave it out");
  const bool samples = recipe.data.of_samples(), grows = c.by == CurriculumBy::context;
  if (grows && samples)
    problems.add("curriculum.by: samples do not get longer; expected length, rarity or difficulty");
  if (!samples && (c.by == CurriculumBy::length || c.by == CurriculumBy::difficulty))
    problems.add(
        "curriculum.by: rows of a text are all as long, and none has a difficulty; "
        "expected context or rarity");
  if (grows && recipe.objective.keeps_teacher())
    problems.add(
        "curriculum.by: the teacher of objective.top_k has seen rows of run.context "
        "tokens; expected rarity, or objective.top_k = 0");
  const auto unused = [&](const char* name, bool given, bool used) {
    if (given && !used)
      problems.add(std::string("curriculum.") + name + ": by = \"" + enum_name(c.by) +
                   "\" does not use it; leave it out");
  };
  unused("from", c.from.has_value(), grows);
  unused("stages", c.stages.has_value(), grows || samples);
  unused("start", c.start.has_value(), !grows);
  unused("power", c.power.has_value(), !grows);
  if (grows && !c.from)
    problems.add("curriculum.from: expected the tokens of the first rows, as in from = 32");
  if (c.from && !(*c.from >= 1 && *c.from < recipe.run.context))
    problems.add("curriculum.from: expected from 1 to below run.context, got " +
                 std::to_string(*c.from));
  if (c.steps && *c.steps < 1)
    problems.add("curriculum.steps: expected at least 1, got " + std::to_string(*c.steps));
  if (c.stages && *c.stages < 1)
    problems.add("curriculum.stages: expected at least 1, got " + std::to_string(*c.stages));
  else if (grows && c.batches(recipe.run) < c.stages.value_or(4))
    problems.add("curriculum.stages: " + std::to_string(c.stages.value_or(4)) +
                 " are more than the steps of the curriculum");
  if (c.start && !(*c.start > 0 && *c.start <= 1))
    problems.add("curriculum.start: expected a share above 0, at most 1, got " +
                 Json(*c.start).dump());
  if (c.power && !(*c.power > 0 && *c.power < INFINITY))
    problems.add("curriculum.power: expected more than 0, got " + Json(*c.power).dump());
}

}  // namespace

int64_t CurriculumConfig::batches(const RunConfig& run) const {
  return steps.value_or(std::max<int64_t>(run.steps / 2, 1)) * run.accumulate;
}

// A step holds the batches that it accumulates.
constexpr int kMostAccumulated = 1 << 16;

void check(const Recipe& recipe) {
  Problems problems;
  check(recipe.optimizer, problems);
  check(recipe.schedule, problems);
  const auto& r = recipe.run;
  const auto at_least = [&](const char* name, auto value, double least) {
    if (!(static_cast<double>(value) >= least))
      problems.add(std::string("run.") + name + ": expected at least " +
                   Json(static_cast<int64_t>(least)).dump() + ", got " + Json(value).dump());
  };
  at_least("steps", r.steps, 1), at_least("batch", r.batch, 1), at_least("context", r.context, 1);
  at_least("accumulate", r.accumulate, 1), at_least("keep", r.keep, 1);
  at_least("eval_every", r.eval_every, 0), at_least("eval_batches", r.eval_batches, 0);
  at_least("log_every", r.log_every, 1), at_least("checkpoint_every", r.checkpoint_every, 0);
  at_least("sample_every", r.sample_every, 0), at_least("patience", r.patience, 0);
  at_least("time_budget", r.time_budget, 0), at_least("flop_budget", r.flop_budget, 0);
  if (r.accumulate > kMostAccumulated)
    problems.add("run.accumulate: expected at most " + std::to_string(kMostAccumulated) + ", got " +
                 std::to_string(r.accumulate));
  if (r.name.empty() || r.name.find('/') != std::string::npos)
    problems.add("run.name: expected a name without a slash, got \"" + r.name + "\"");
  if (!(recipe.data.validation >= 0 && recipe.data.validation < 1))
    problems.add("data.validation: expected a share from 0 to below 1, got " +
                 Json(recipe.data.validation).dump());
  if (r.patience > 0 && (r.eval_every == 0 || recipe.data.validation == 0))
    problems.add("run.patience: needs run.eval_every and data.validation above 0");
  if (recipe.model.contains("mup") && recipe.optimizer.name != OptimizerName::adamw &&
      recipe.optimizer.name != OptimizerName::lion)
    problems.add("model.mup: expected the optimizer adamw or lion, got " +
                 enum_name(recipe.optimizer.name));
  check(recipe.objective, problems);
  if (recipe.curriculum) check(*recipe.curriculum, recipe, problems);
  if (recipe.objective.kind == ObjectiveKind::kto && r.batch < 2)
    problems.add(
        "run.batch: kto estimates a divergence from each batch, expected at least 2, got " +
        std::to_string(r.batch));
  if (recipe.objective.kind == ObjectiveKind::reward && r.sample_every > 0)
    problems.add("run.sample_every: a reward model writes no text; leave it out");
  if (recipe.objective.kind == ObjectiveKind::reward && recipe.model.contains("mup"))
    problems.add(
        "model.mup: its factors are for a head of tokens, which objective reward does not "
        "have; leave it out");
  if (recipe.objective.kind == ObjectiveKind::mtp) {
    const int heads = recipe.objective.heads.value_or(1);
    const auto first = recipe.curriculum ? recipe.curriculum->from : std::nullopt;
    const int shortest = std::min(first.value_or(r.context), r.context);
    if (shortest <= heads)
      problems.add((first ? "curriculum.from: " : "run.context: ") + std::to_string(shortest) +
                   " tokens leave a head that looks " + std::to_string(heads) +
                   " further nothing to predict; expected more");
    if (recipe.adapter)
      problems.add(
          "adapter: it would train beside the model's layers, heads train themselves; set "
          "optimizer.only = [\"model.mtp_heads.*\"] to train them alone");
    if (recipe.model.contains("mup"))
      problems.add("model.mup: no rule is known for heads of objective mtp; leave one of them out");
  }
  const bool rewarded = recipe.objective.kind == ObjectiveKind::grpo;
  if (!rewarded && !(recipe.grpo.is_null() && recipe.rewards.is_null()))
    problems.add("grpo, rewards: objective " + enum_name(recipe.objective.kind) +
                 " does not use them; leave them out, or set objective.kind to grpo");
  if (rewarded && (!recipe.rewards.is_array() || recipe.rewards.as_array().empty()))
    problems.add(
        "rewards: objective grpo needs one at least, as in [[rewards]] reward = \"exact\"");
  if (recipe.adapter && !recipe.optimizer.only.empty())
    problems.add("optimizer.only: an adapter trains alone; leave it out, or [adapter]");
  if (recipe.adapter && recipe.model.contains("mup"))
    problems.add("model.mup: weights beside an adapter do not train; leave it out, or [adapter]");
  const std::vector<std::string> kinds{"auto", "text",       "completion",
                                       "chat", "preference", "unpaired"};
  if (std::find(kinds.begin(), kinds.end(), recipe.data.samples) == kinds.end())
    problems.add("data.samples: expected one of " + join(kinds, ", ") + ", got \"" +
                 recipe.data.samples + "\"");
  problems.raise(Kind::usage, "[recipe] impossible values");
}

Json recipe_json(std::string_view toml, const std::string& name,
                 const std::vector<std::string>& overrides) {
  Json json = parse_toml(toml, name);
  for (const auto& text : overrides) {
    const auto equals = text.find('=');
    if (equals == std::string::npos || equals == 0)
      throw Error(Kind::usage,
                  "[recipe] --set " + text + ": expected key=value, as in run.steps=100");
    with_context("[recipe] --set " + text, [&] {
      set_path(json, text.substr(0, equals),
               parse_value(std::string_view(text).substr(equals + 1)));
    });
  }
  return json;
}

Recipe read_recipe(std::string_view toml, const std::string& name,
                   const std::vector<std::string>& overrides) {
  Json json = recipe_json(toml, name, overrides);
  if (json.contains("sweep"))
    throw Error(Kind::usage, "[recipe] " + name +
                                 " has a [sweep]: expected one run. `train` does all of its runs.");
  Recipe recipe = default_recipe();
  const bool own_optimizer = json.contains("optimizer"), own_schedule = json.contains("schedule");
  const bool own_model = json.contains("model");
  // A table that the recipe writes starts from the plain defaults, not from those of the built-in
  // run.
  const auto* optimizer = json.find("optimizer");
  if (own_optimizer && optimizer->is_object() && optimizer->contains("name")) recipe.optimizer = {};
  if (own_schedule && json.at("schedule").is_object() && json.at("schedule").contains("name"))
    recipe.schedule = {};
  if (own_model && json.at("model").is_object() &&
      (json.at("model").contains("layers") && json.at("model").at("layers").is_array()))
    recipe.model = Json::object();
  Json model = recipe.model;
  if (own_model) {
    if (!json.at("model").is_object()) throw Error(Kind::usage, "[recipe] model: expected a table");
    for (const auto& [k, v] : json.at("model").as_object()) model[k] = v;
  }
  json.erase("model");
  Problems problems;
  from_json(json, recipe, "", problems);
  problems.raise(Kind::usage, "[recipe] " + name);
  recipe.model = std::move(model);
  check(recipe);
  return recipe;
}

std::string write_recipe(const Recipe& recipe) {
  return dump_toml(to_json(recipe));
}

std::optional<std::string> trained_weights(const Json& model) {
  if (const auto* w = model.find("weights")) return w->as_string();
  const auto* preset = model.find("preset");
  if (!preset || !preset->is_string()) return std::nullopt;
  const auto& name = preset->as_string();
  std::error_code ignored;
  const bool file = fs::is_regular_file(name, ignored) && name.ends_with(".gguf");
  return file || fs::is_directory(name, ignored) ? std::optional(name) : std::nullopt;
}

config::Model resolve_model(const Json& table, int vocab, int context) {
  const char* kSizes[] = {"depth",    "dim",    "heads", "kv_heads",
                          "head_dim", "hidden", "vocab", "context"};
  Json rest = table;
  rest.erase("weights"), rest.erase("mup");
  Json base;
  const auto* layers = table.find("layers");
  if (layers && layers->is_array()) {
    if (table.contains("preset"))
      throw Error(Kind::usage, "[recipe] model: either preset or layers, not both");
    config::Model plain;
    if (vocab > 0) plain.vocab = vocab;
    plain.context = context;
    const int64_t dim = positive(table, "dim", plain.dim);
    base = to_json(plain);
    base["layers"] = expand_layers(*layers, dim);
    rest.erase("layers");
    if (auto* position = rest.find("position"); position && *position == Json("learned"))
      *position = Json::object(
          {{"kind", Json("learned")}, {"length", Json(positive(table, "context", context))}});
  } else {
    config::Sizes sizes;
    Json given = Json::object();
    for (const char* key : kSizes)
      if (const auto* v = table.find(key)) given[key] = *v, rest.erase(key);
    Problems problems;
    from_json(given, sizes, "model", problems);
    problems.raise(Kind::usage, "[recipe] sizes");
    const auto* name = table.find("preset");
    if (!name || !name->is_string())
      throw Error(Kind::usage,
                  "[recipe] model: expected preset = \"NAME\" (see `list`) or [[model.layers]]");
    rest.erase("preset");
    if (!sizes.vocab && vocab > 0) sizes.vocab = vocab;
    config::Model model;
    if (const auto folder = trained_weights(table)) {
      model = LanguageModel::load(*folder).config();
      sizes.vocab.reset();  // a trained model keeps its own
      if (sizes.depth || sizes.dim || sizes.heads || sizes.kv_heads || sizes.head_dim ||
          sizes.hidden || sizes.context)
        throw Error(Kind::usage, "[recipe] model: the sizes of the trained model " + *folder +
                                     " cannot be changed");
    } else {
      model = config::preset(name->as_string());
      if (!sizes.context && model.context < context) sizes.context = context;
      model = config::resize(std::move(model), sizes);
    }
    base = to_json(model);
  }
  merge(base, rest, "");
  auto model = from_json<config::Model>(base, "[recipe] model", Kind::usage);
  config::validate(model, Kind::usage);
  if (const auto* mup = table.find("mup")) model = with_mup(model, mup_base(model, *mup));
  return model;
}

}  // namespace lmxlab
