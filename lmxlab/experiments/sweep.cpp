#include "lmxlab/experiments/sweep.h"

#include "lmxlab/base/files.h"
#include "lmxlab/base/random.h"
#include "lmxlab/config/count.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <set>

namespace lmxlab {
namespace {

constexpr const char* kRecipe = "sweep.toml";
constexpr const char* kRecord = "sweep.json";
constexpr size_t kMostRuns = 100'000;

void require(bool ok, const std::string& message) {
  if (!ok) throw Error(Kind::usage, "[sweep] " + message);
}

struct Axis {
  std::string key;
  Json::Array values;
};

// Keys may be written "a.b" = [...] or as tables: a = { b = [...] }.
void add_axes(const Json& over, const std::string& before, std::vector<Axis>& out) {
  for (const auto& [name, value] : over.as_object()) {
    const auto key = before.empty() ? name : before + "." + name;
    if (value.is_object()) {
      add_axes(value, key, out);
      continue;
    }
    require(value.is_array() && value.size() > 0,
            "sweep.over." + key + ": expected a list of values, got " + value.dump());
    require(key != "run.seed", "sweep.over.run.seed: expected sweep.seeds in its place");
    require(key != "run.out" && key != "run.name",
            "sweep.over." + key + ": folders are named by their settings. Leave it out.");
    out.push_back({key, value.as_array()});
  }
}

std::vector<Json> grid(const std::vector<Axis>& axes) {
  std::vector<Json> out{Json::object()};
  for (const auto& axis : axes) {
    require(out.size() * axis.values.size() <= kMostRuns, "more than 100,000 settings");
    std::vector<Json> next;
    for (const auto& setting : out)
      for (const auto& value : axis.values) {
        next.push_back(setting);
        next.back()[axis.key] = value;
      }
    out = std::move(next);
  }
  return out;
}

// Three digits: a name can hold them, and a rate is known no better.
double rounded(double v) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g", v);
  return std::strtod(text, nullptr);
}

std::string scale_of(const SweepConfig& c, const std::string& key) {
  if (!c.scale) return "log";
  if (c.scale->is_string()) return c.scale->as_string();
  const auto* own = c.scale->find(key);
  return own && own->is_string() ? own->as_string() : "log";
}

Json draw(const Axis& axis, const std::string& scale, HostRandom& random) {
  const auto& v = axis.values;
  if (v.size() != 2 || !v[0].is_number() || !v[1].is_number()) return v[random.below(v.size())];
  const double low = v[0].as_number(), high = v[1].as_number();
  require(low < high,
          "sweep.over." + axis.key + ": expected [low, high], got " + Json(axis.values).dump());
  require(scale == "linear" || low > 0,
          "sweep.over." + axis.key + ": expected a range above 0, got " + Json(axis.values).dump() +
              ". Or set sweep.scale to \"linear\".");
  const double share = static_cast<double>(random.next() >> 11) * 0x1p-53;
  const double x = scale == "linear"
                       ? low + (high - low) * share
                       : std::exp(std::log(low) + (std::log(high) - std::log(low)) * share);
  if (v[0].is_integer() && v[1].is_integer()) return Json(static_cast<int64_t>(std::llround(x)));
  return Json(rounded(x));
}

std::vector<Json> draws(const SweepConfig& c, const std::vector<Axis>& axes) {
  const int n = c.samples.value_or(10);
  require(n >= 1 && n <= static_cast<int>(kMostRuns),
          "sweep.samples: expected 1 to 100000, got " + std::to_string(n));
  HostRandom random(c.draw_seed.value_or(0));
  std::vector<Json> out;
  for (int i = 0; i < n; ++i) {
    Json setting = Json::object();
    for (const auto& axis : axes) setting[axis.key] = draw(axis, scale_of(c, axis.key), random);
    out.push_back(std::move(setting));
  }
  return out;
}

void check(const SweepConfig& c, const std::vector<Axis>& axes, Problems& problems) {
  const auto only_random = [&](const char* name, bool given) {
    if (given && c.method != SweepMethod::random)
      problems.add(std::string("sweep.") + name + ": only method = \"random\" uses it");
  };
  only_random("samples", c.samples.has_value());
  only_random("scale", c.scale.has_value());
  only_random("draw_seed", c.draw_seed.has_value());
  if (c.method == SweepMethod::random && axes.empty())
    problems.add("sweep.over: expected keys to draw values for");
  const auto scale = [&](const std::string& where, const Json& v) {
    if (!v.is_string() || (v.as_string() != "log" && v.as_string() != "linear"))
      problems.add(where + ": expected \"log\" or \"linear\", got " + v.dump());
  };
  if (c.scale && c.scale->is_object()) {
    for (const auto& [key, value] : c.scale->as_object()) {
      scale("sweep.scale." + key, value);
      if (std::none_of(axes.begin(), axes.end(), [&](const Axis& a) { return a.key == key; }))
        problems.add("sweep.scale." + key + ": sweep.over has no such key");
    }
  } else if (c.scale) {
    scale("sweep.scale", *c.scale);
  }
  if (!c.budget) return;
  const auto& b = *c.budget;
  if (b.flops.has_value() + b.tokens.has_value() + b.seconds.has_value() != 1)
    problems.add("sweep.budget: expected one of flops, tokens and seconds");
  if (!(b.flops.value_or(1) > 0) || !(b.seconds.value_or(1) > 0) || b.tokens.value_or(1) < 1)
    problems.add("sweep.budget: expected more than 0");
}

std::vector<uint32_t> seeds_of(const Json& seeds, uint32_t first) {
  std::vector<uint32_t> out;
  if (seeds.is_array()) {
    for (const auto& s : seeds.as_array()) {
      require(s.is_integer() && s.as_integer() >= 0 && s.as_integer() <= UINT32_MAX,
              "sweep.seeds: expected whole numbers from 0 to 4294967295, got " + s.dump());
      out.push_back(static_cast<uint32_t>(s.as_integer()));
    }
    require(std::set(out.begin(), out.end()).size() == out.size() && !out.empty(),
            "sweep.seeds: expected different seeds, got " + seeds.dump());
    return out;
  }
  require(seeds.is_integer() && seeds.as_integer() >= 1 && seeds.as_integer() <= 1000,
          "sweep.seeds: expected a count from 1 to 1000 or a list, got " + seeds.dump());
  for (int64_t i = 0; i < seeds.as_integer(); ++i) out.push_back(first + static_cast<uint32_t>(i));
  return out;
}

std::string last_part(const std::string& key) {
  return key.substr(key.rfind('.') + 1);
}

// "lr=0.003,dim=64": keys by their last part where that tells them apart.
std::string name_of(const Json& values, std::set<std::string>& taken) {
  std::map<std::string, int> uses;
  for (const auto& [key, value] : values.as_object()) ++uses[last_part(key)];
  std::vector<std::string> parts;
  for (const auto& [key, value] : values.as_object()) {
    const auto shown = uses[last_part(key)] > 1 ? key : last_part(key);
    auto text = value.is_string() ? fs::path(value.as_string()).filename().string() : value.dump();
    if (value.is_array() || value.is_object()) text.resize(std::min<size_t>(text.size(), 24));
    parts.push_back(shown + "=" + text);
  }
  auto name = parts.empty() ? "run" : join(parts, ",");
  for (char& c : name)
    if (!std::isalnum(static_cast<unsigned char>(c)) && !std::strchr(".=,+-_", c)) c = '_';
  name.resize(std::min<size_t>(name.size(), 120));
  auto free = name;
  for (int n = 2; !taken.insert(free).second; ++n) free = name + "-" + std::to_string(n);
  return free;
}

// Sets what the budget says of the run.
void apply(const SweepBudget& budget, const config::Model& model, RunConfig& run) {
  const double tokens = static_cast<double>(run.batch) * run.context * run.accumulate;
  const auto steps = [&](double whole, double step, const char* what) {
    require(whole >= step, std::string("one step takes ") + Json(step).dump() + " " + what +
                               ", the budget is " + Json(whole).dump());
    run.steps = static_cast<int64_t>(whole / step);
  };
  if (budget.flops)
    steps(*budget.flops, 3 * config::flops_per_token(model, run.context) * tokens, "operations");
  if (budget.tokens) steps(static_cast<double>(*budget.tokens), tokens, "tokens");
  if (budget.seconds) run.time_budget = *budget.seconds, run.steps = kUntilTheTime;
}

// The sweep is resumed from any folder.
void make_absolute(Json& recipe) {
  const auto absolute = [](Json& value) {
    if (!value.is_string() || value == Json("char") || value == Json("byte")) return;
    if (!value.as_string().empty() && fs::exists(value.as_string()))
      value = Json(fs::absolute(value.as_string()).string());
  };
  for (const auto& [table, key] : {std::pair{"data", "file"},
                                   {"data", "tokenizer"},
                                   {"model", "preset"},
                                   {"model", "weights"}}) {
    if (auto* t = recipe.find(table); t && t->is_object())
      if (auto* value = t->find(key)) absolute(*value);
    auto* over = recipe.find("sweep") ? recipe.find("sweep")->find("over") : nullptr;
    if (!over) continue;
    auto* list = over->find(std::string(table) + "." + key);
    if (auto* nested = over->find(table); !list && nested) list = nested->find(key);
    if (list && list->is_array())
      for (auto& value : list->as_array()) absolute(value);
  }
}

// What is known of each run, in the sweep's folder.
class Record {
 public:
  Record(fs::path folder, const Sweep& sweep) : path_(std::move(folder) / kRecord) {
    Json::Array settings, runs;
    for (const auto& s : sweep.settings)
      settings.push_back(Json::object({{"name", Json(s.name)}, {"values", s.values}}));
    for (const auto& r : sweep.runs)
      runs.push_back(Json::object({{"folder", Json(r.folder)},
                                   {"setting", Json(sweep.settings[r.setting].name)},
                                   {"seed", Json(r.recipe.run.seed)},
                                   {"state", Json("waiting")}}));
    json_ = Json::object({{"version", Json(1)},
                          {"settings", Json(std::move(settings))},
                          {"runs", Json(std::move(runs))}});
  }
  // Takes the states of an earlier process.
  void read() {
    if (!fs::exists(path_)) return;
    const auto before = Json::parse(read_file(path_), path_.string());
    for (const auto& old : before.at("runs").as_array())
      for (auto& run : runs())
        if (run.at("folder") == old.at("folder")) run = old;
  }
  Json::Array& runs() { return json_.find("runs")->as_array(); }
  void state(size_t run, const char* state, const Error* error = nullptr) {
    auto& r = runs()[run];
    r["state"] = Json(state);
    r.erase("error");
    if (error)
      r["error"] = Json::object(
          {{"kind", Json(kind_name(error->kind()))}, {"message", Json(error->what())}});
    write();
  }
  // The error of a run that would fail again.
  std::optional<Error> lasting(size_t run) {
    const auto* e = runs()[run].find("error");
    if (!e) return std::nullopt;
    const auto& name = e->at("kind").as_string();
    for (const Kind k :
         {Kind::usage, Kind::bad_data, Kind::mismatch, Kind::unsupported, Kind::internal})
      if (kind_name(k) == name) return Error(k, e->at("message").as_string());
    return std::nullopt;
  }
  void write() const { write_file_atomic(path_, json_.dump(2) + "\n"); }

 private:
  fs::path path_;
  Json json_;
};

SweepResult train_all(const Sweep& sweep, const fs::path& out, const SweepHooks& hooks,
                      std::stop_token stop, bool resume) {
  const FolderLock lock(out);
  Record record(out, sweep);
  if (resume) record.read();
  record.write();
  if (!resume) write_file_atomic(out / kRecipe, dump_toml(sweep.recipe));
  SweepResult result{out, sweep.runs.size(), 0, {}, false};
  for (size_t i = 0; i < sweep.runs.size() && !result.canceled; ++i) {
    const auto& run = sweep.runs[i];
    const auto folder = out / run.folder;
    if (fs::exists(folder / "result.json")) {
      ++result.skipped;
      continue;
    }
    if (auto error = record.lasting(i)) {
      result.failures.push_back({run.folder, *error});
      continue;
    }
    if (stop.stop_requested()) {
      result.canceled = true;
      break;
    }
    record.state(i, "running");
    if (hooks.begin) hooks.begin(run, i + 1, sweep.runs.size());
    try {
      auto recipe = run.recipe;
      recipe.run.out = folder.string();
      const auto done = fs::exists(folder / "recipe.toml") ? resume_run(folder, {}, hooks.run, stop)
                                                           : train_run(recipe, hooks.run, stop);
      result.canceled = stop.stop_requested() && done.train.stopped == "canceled";
      record.state(i, result.canceled ? "waiting" : "done");
      if (hooks.end) hooks.end(run, &done, nullptr);
    } catch (...) {
      const Error error = current_error();
      if (error.kind() == Kind::canceled) {  // before its first step
        result.canceled = true;
        record.state(i, "waiting");
        continue;
      }
      record.state(i, "failed", &error);
      result.failures.push_back({run.folder, error});
      if (hooks.end) hooks.end(run, nullptr, &error);
    }
  }
  return result;
}

}  // namespace

bool is_sweep(std::string_view toml, const std::string& name,
              const std::vector<std::string>& overrides) {
  return recipe_json(toml, name, overrides).contains("sweep");
}

bool holds_sweep(const fs::path& folder) {
  return fs::exists(folder / kRecipe);
}

Sweep read_sweep(std::string_view toml, const std::string& name,
                 const std::vector<std::string>& overrides,
                 const std::function<void(Recipe&)>& change) {
  Sweep sweep;
  sweep.recipe = recipe_json(toml, name, overrides);
  require(sweep.recipe.contains("sweep"), name + " has no [sweep]");
  make_absolute(sweep.recipe);
  const auto config =
      from_json<SweepConfig>(sweep.recipe.at("sweep"), "[sweep] " + name, Kind::usage);
  require(config.over.is_object(), "sweep.over: expected a table of keys and lists");
  Json plain = sweep.recipe;
  plain.erase("sweep");
  std::vector<Axis> axes;
  add_axes(config.over, "", axes);
  std::sort(axes.begin(), axes.end(), [](const Axis& a, const Axis& b) { return a.key < b.key; });
  for (size_t i = 1; i < axes.size(); ++i)
    require(axes[i].key != axes[i - 1].key, "sweep.over has " + axes[i].key + " twice");
  Problems problems;
  check(config, axes, problems);
  if (config.budget)
    for (const char* key : {"steps", "time_budget", "flop_budget"})
      if ((plain.contains("run") && plain.at("run").contains(key)) ||
          std::any_of(axes.begin(), axes.end(),
                      [&](const Axis& a) { return a.key == std::string("run.") + key; }))
        problems.add(std::string("run.") + key + ": sweep.budget sets it. Keep one of them.");
  problems.raise(Kind::usage, "[sweep] " + name);

  sweep.run = read_recipe(dump_toml(plain), name).run;
  const auto seeds = seeds_of(config.seeds, sweep.run.seed);
  const auto all = config.method == SweepMethod::grid ? grid(axes) : draws(config, axes);
  require(all.size() * seeds.size() <= kMostRuns, "more than 100,000 runs");
  std::set<std::string> taken;
  std::map<std::string, config::Model> models;  // texts are read once, not once a run
  for (const auto& values : all) {
    SweepSetting setting{name_of(values, taken), values};
    try {
      Json json = plain;
      for (const auto& [key, value] : values.as_object()) set_path(json, key, value);
      auto recipe = read_recipe(dump_toml(json), name);
      if (change) change(recipe);
      const auto what = Json::array({recipe.model, to_json(recipe.data), Json(recipe.run.context),
                                     Json(enum_name(recipe.optimizer.name))})
                            .dump();
      auto found = models.find(what);
      if (found == models.end()) found = models.emplace(what, resolve_run(recipe).config).first;
      if (config.budget) apply(*config.budget, found->second, recipe.run);
      for (const auto seed : seeds) {
        recipe.run.seed = seed;
        sweep.runs.push_back(
            {setting.name + "-s" + std::to_string(seed), sweep.settings.size(), recipe});
      }
    } catch (const Error& e) {
      problems.add(setting.name + ": " + e.what());
    }
    sweep.settings.push_back(std::move(setting));
  }
  problems.raise(Kind::usage, "[sweep] settings that cannot be trained");
  return sweep;
}

SweepResult run_sweep(const Sweep& sweep, const SweepHooks& hooks, std::stop_token stop,
                      const fs::path& base) {
  return train_all(sweep, new_run_folder(sweep.run, base), hooks, stop, false);
}

SweepResult resume_sweep(const fs::path& folder, const SweepHooks& hooks, std::stop_token stop,
                         const std::function<void(Recipe&)>& change) {
  const auto path = folder / kRecipe;
  if (!fs::exists(path))
    throw Error(Kind::not_found,
                "[sweep] " + folder.string() + " is no sweep: it has no " + kRecipe);
  return train_all(read_sweep(read_file(path), path.string(), {}, change), folder, hooks, stop,
                   true);
}

}  // namespace lmxlab
