#include "lmxlab/experiments/compare.h"

#include "lmxlab/base/files.h"
#include "lmxlab/base/text.h"

#include <algorithm>
#include <map>
#include <set>

namespace lmxlab {
namespace {

// Keys of a recipe that cannot change what comes out.
constexpr const char* kIdle[] = {
    "seed", "out", "name", "keep", "log_every", "checkpoint_every", "sample_every"};

struct Found {
  fs::path folder;
  std::string state;  // of its sweep; empty: it was named by itself
};

std::vector<Found> find_runs(const std::vector<fs::path>& folders) {
  std::vector<Found> out;
  std::set<fs::path> seen;
  const auto add = [&](const fs::path& folder, std::string state) {
    std::error_code code;
    if (seen.insert(fs::weakly_canonical(folder, code)).second)
      out.push_back({folder, std::move(state)});
  };
  for (const auto& folder : folders) {
    if (fs::exists(folder / "sweep.json")) {
      const auto path = folder / "sweep.json";
      const auto record = Json::parse(read_file(path), path.string());
      for (const auto& run :
           with_context(path.string(), [&] { return record.at("runs").as_array(); })) {
        const auto* error = run.find("error");
        add(folder / run.at("folder").as_string(),
            error ? "failed: " + error->at("message").as_string() : run.at("state").as_string());
      }
    } else if (fs::exists(folder / "recipe.toml")) {
      add(folder, "");
    } else {
      throw Error(Kind::not_found, "[compare] " + folder.string() +
                                       " is neither a run nor a sweep: expected recipe.toml or "
                                       "sweep.json in it");
    }
  }
  return out;
}

FinishedRun read_run(const fs::path& folder) {
  const auto recipe = folder / "recipe.toml", result = folder / "result.json";
  FinishedRun run{folder, 0, parse_toml(read_file(recipe), recipe.string()),
                  Json::parse(read_file(result), result.string())};
  with_context(recipe.string(), [&] {
    auto* table = run.recipe.find("run");
    if (!table || !table->is_object()) throw Error(Kind::bad_data, "expected a table [run]");
    run.seed = static_cast<uint32_t>(table->at("seed").as_integer());
    for (const char* key : kIdle) table->erase(key);
  });
  with_context(result.string(), [&] {
    for (const auto& name : comparable_metrics()) run.result.at(name);
  });
  return run;
}

// Path to value, as text; of layers one entry a path, "*", since most of them are alike.
using Flat = std::map<std::string, std::string>;
void flatten(const Json& json, const std::string& path, Flat& out) {
  const auto put = [&](const std::string& value) {
    auto& all = out[path];
    if (all.empty())
      all = value;
    else if (("|" + all + "|").find("|" + value + "|") == std::string::npos)
      all += "|" + value;
  };
  if (json.is_object()) {
    for (const auto& [key, value] : json.as_object())
      flatten(value, path.empty() ? key : path + "." + key, out);
  } else if (json.is_array() && path == "model.layers") {
    out["model.depth"] = std::to_string(json.size());
    for (const auto& layer : json.as_array()) flatten(layer, path + ".*", out);
  } else {
    put(json.is_string() ? json.as_string() : json.dump());
  }
}

std::string short_key(const std::string& key) {
  return key.substr(key.rfind('.') + 1);
}

// The keys that tell groups apart. Sizes of layers, and steps, that follow from others are left
// out.
std::vector<std::string> telling(const std::vector<Flat>& groups) {
  std::set<std::string> keys;
  for (const auto& g : groups)
    for (const auto& [key, value] : g) keys.insert(key);
  const auto at = [](const Flat& g, const std::string& key) {
    const auto it = g.find(key);
    return it == g.end() ? std::string() : it->second;
  };
  std::vector<std::string> plain, derived;
  for (const auto& key : keys) {
    if (std::all_of(groups.begin(), groups.end(),
                    [&](const Flat& g) { return at(g, key) == at(groups[0], key); }))
      continue;
    const bool follows = key.starts_with("model.layers.") || key == "run.steps";
    (follows ? derived : plain).push_back(key);
  }
  // Of layers that differ in several ways: heads rather than what becomes of head_dim.
  std::stable_sort(derived.begin(), derived.end(), [](const auto& a, const auto& b) {
    return short_key(a).size() < short_key(b).size();
  });
  for (const auto& key : derived) {
    std::map<std::string, std::set<std::string>> values;
    for (const auto& g : groups) {
      std::string others;
      for (const auto& k : plain)
        if (key == "run.steps" || k.starts_with("model.")) others += at(g, k) + "\n";
      values[others].insert(at(g, key));
    }
    if (std::any_of(values.begin(), values.end(),
                    [](const auto& v) { return v.second.size() > 1; }))
      plain.push_back(key);
  }
  return plain;
}

void name_groups(std::vector<RunGroup>& groups) {
  if (groups.size() == 1) {
    const auto path = groups[0].runs[0].folder / "recipe.toml";
    groups[0].name = parse_toml(read_file(path), path.string()).at("run").at("name").as_string();
    return;
  }
  std::vector<Flat> flat(groups.size());
  for (size_t i = 0; i < groups.size(); ++i) flatten(groups[i].runs[0].recipe, "", flat[i]);
  const auto keys = telling(flat);
  std::map<std::string, int> uses;
  for (const auto& key : keys) ++uses[short_key(key)];
  for (size_t i = 0; i < groups.size(); ++i) {
    std::vector<std::string> parts;
    for (const auto& key : keys) {
      const auto it = flat[i].find(key);
      parts.push_back((uses[short_key(key)] > 1 ? key : short_key(key)) + "=" +
                      (it == flat[i].end() ? "none" : it->second));
    }
    groups[i].name = join(parts, ",");
  }
}

std::vector<double> values_of(const RunGroup& group, const std::string& metric) {
  std::vector<double> out;
  for (const auto& run : group.runs) {
    const auto& value = run.result.at(metric);
    if (!value.is_number())
      throw Error(Kind::usage, "[compare] " + run.folder.string() + " has no " + metric +
                                   ": nothing was held out. Compare another --metric.");
    out.push_back(value.as_number());
  }
  return out;
}

void fill(RunGroup& group, const std::string& metric) {
  group.metric = summarize(values_of(group, metric));
  if (std::all_of(group.runs.begin(), group.runs.end(),
                  [](const auto& r) { return r.result.at("val_loss").is_number(); }))
    group.val_loss = summarize(values_of(group, "val_loss"));
  group.parameters = group.runs[0].result.at("parameters").as_integer();
  for (const double v : values_of(group, "peak_bytes"))
    group.peak_bytes = std::max(group.peak_bytes, static_cast<int64_t>(v));
  group.flops = summarize(values_of(group, "flops")).mean;
  group.seconds = summarize(values_of(group, "seconds")).mean;
}

void sort_groups(std::vector<RunGroup>& groups, const std::string& by) {
  if (by == "given") return;
  if (by == "name") {
    std::stable_sort(groups.begin(), groups.end(),
                     [](const auto& a, const auto& b) { return a.name < b.name; });
    return;
  }
  std::stable_sort(groups.begin(), groups.end(), [&](const auto& a, const auto& b) {
    return summarize(values_of(a, by)).mean < summarize(values_of(b, by)).mean;
  });
}

}  // namespace

const std::vector<std::string>& comparable_metrics() {
  static const std::vector<std::string> names = {
      "val_loss", "best_val_loss", "loss",       "seconds",    "tokens",
      "flops",    "tokens_per_s",  "parameters", "peak_bytes", "steps"};
  return names;
}

const std::vector<std::string>& curve_axes() {
  static const std::vector<std::string> names = {"steps", "tokens", "flops", "seconds"};
  return names;
}

std::vector<std::pair<double, double>> loss_points(const RunGroup& group, const std::string& axis) {
  std::vector<std::pair<double, double>> out;
  for (const auto& run : group.runs) {
    const auto path = run.folder / "metrics.jsonl";
    const double step_flops =
        run.result.at("flops").as_number() / run.result.at("steps").as_number();
    for (const auto& line : split(read_file(path), '\n')) {
      if (line.empty()) continue;
      const auto m = Json::parse(line, path.string());
      with_context(path.string(), [&] {
        const double x = axis == "flops"   ? step_flops * m.at("step").as_number()
                         : axis == "steps" ? m.at("step").as_number()
                                           : m.at(axis).as_number();
        out.emplace_back(x, m.at("loss").as_number());
      });
    }
  }
  return out;
}

RunComparison compare_runs(const std::vector<fs::path>& folders, const CompareOptions& options) {
  const auto& known = comparable_metrics();
  const auto require = [&](const std::string& what, const std::string& name, bool ok) {
    if (!ok && std::find(known.begin(), known.end(), name) == known.end())
      throw Error(Kind::usage,
                  "[compare] " + what + " \"" + name + "\" is unknown; " + suggestion(name, known));
  };
  require("metric", options.metric, false);
  require("sort", options.sort, options.sort == "given" || options.sort == "name");

  RunComparison out{options.metric, {}, 0, {}};
  const auto found = find_runs(folders);
  for (const auto& [folder, state] : found) {
    if (!fs::exists(folder / "result.json")) {
      const bool told = state.starts_with("failed");
      out.left_out.push_back({folder, told ? state : "not finished: it has no result.json yet"});
      continue;
    }
    auto run = read_run(folder);
    auto group = std::find_if(out.groups.begin(), out.groups.end(),
                              [&](const RunGroup& g) { return g.runs[0].recipe == run.recipe; });
    if (group == out.groups.end()) group = out.groups.insert(group, RunGroup{});
    const auto twin = std::find_if(group->runs.begin(), group->runs.end(),
                                   [&](const FinishedRun& r) { return r.seed == run.seed; });
    if (twin != group->runs.end())
      out.left_out.push_back(
          {folder, "the same setting and seed as " + twin->folder.string() + ": no other sample"});
    else
      group->runs.push_back(std::move(run));
  }
  if (out.groups.empty())
    throw Error(Kind::usage, "[compare] no run is finished: expected at least one of " +
                                 std::to_string(found.size()) + ". The first is " +
                                 out.left_out[0].folder.string() + ": " + out.left_out[0].reason);
  name_groups(out.groups);
  for (auto& group : out.groups) fill(group, options.metric);
  const auto* reference = &out.groups[0];
  if (options.reference == Reference::best)
    for (const auto& g : out.groups) {
      const bool high = options.metric == "tokens_per_s";
      if (high ? g.metric.mean > reference->metric.mean : g.metric.mean < reference->metric.mean)
        reference = &g;
    }
  const auto base = values_of(*reference, options.metric);
  for (auto& group : out.groups)
    if (&group != reference) group.against = compare_means(base, values_of(group, options.metric));
  sort_groups(out.groups, options.sort);
  for (size_t i = 0; i < out.groups.size(); ++i)
    if (!out.groups[i].against) out.reference = i;
  return out;
}

}  // namespace lmxlab
