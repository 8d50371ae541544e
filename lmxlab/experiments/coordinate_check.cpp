#include "lmxlab/experiments/coordinate_check.h"

#include "lmxlab/core/runtime.h"
#include "lmxlab/data/batches.h"
#include "lmxlab/experiments/statistics.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

namespace lmxlab {
namespace {

constexpr const char* kKinds[] = {"embedding", "mixer", "ffn", "output", "logits"};

using Activations = std::vector<std::pair<std::string, mx::array>>;

Activations activations(const LanguageModel& model, const mx::array& tokens) {
  const Enter enter(model.runtime());
  Activations out;
  std::vector<mx::array> all;
  model.forward(tokens, {}, [&](std::string_view name, const mx::array& x) {
    const auto kind = std::string(name.substr(name.rfind('.') + 1));
    if (std::find(std::begin(kKinds), std::end(kKinds), kind) == std::end(kKinds)) return;
    out.emplace_back(kind, x), all.push_back(x);
  });
  mx::eval(all);
  return out;
}

double mean_size(const mx::array& x) {
  return static_cast<double>(mx::mean(mx::abs(x)).item<float>());
}

// Of one model: kind to sums over its layers.
struct Sizes {
  double size = 0, change = 0;
  int count = 0;
};

std::map<std::string, Sizes> sizes_after(const Recipe& recipe, const RunParts& parts,
                                         std::stop_token stop) {
  auto model = make_model(recipe, parts);
  const int64_t n = int64_t{recipe.run.batch} * recipe.run.context;
  if (n > static_cast<int64_t>(parts.data.tokens.size()))
    throw Error(Kind::usage, "[mup] the data have " + std::to_string(parts.data.tokens.size()) +
                                 " tokens, a batch " + std::to_string(n));
  const auto batch = mx::as_strided(parts.data.tokens, {recipe.run.batch, recipe.run.context},
                                    {recipe.run.context, 1}, 0);
  const auto before = activations(model, batch);
  {
    auto nothing = mx::zeros({0}, mx::int32);
    nothing.eval();
    Trainer trainer(model, parts.data.tokens, nothing, train_options(recipe, parts));
    trainer.run(stop);
  }
  if (stop.stop_requested()) throw Error(Kind::canceled, "[mup] interrupted");
  const auto after = activations(model, batch);
  const Enter enter(model.runtime());
  std::map<std::string, Sizes> out;
  for (size_t i = 0; i < after.size(); ++i) {
    auto& s = out[after[i].first];
    s.size += mean_size(after[i].second);
    s.change += mean_size(mx::subtract(after[i].second, before[i].second));
    ++s.count;
  }
  return out;
}

double log_slope(const std::vector<int>& widths, const std::vector<double>& values) {
  std::vector<double> x, y;
  for (size_t i = 0; i < widths.size(); ++i) {
    x.push_back(std::log2(widths[i]));
    y.push_back(std::log2(values[i]));
  }
  return slope(x, y);
}

}  // namespace

CoordinateCheck check_coordinates(const Recipe& asked, const CoordinateOptions& options,
                                  std::stop_token stop, const std::function<void(int, int)>& each) {
  if (!asked.model.contains("preset"))
    throw Error(Kind::usage,
                "[mup] widths are those of model.dim: expected a recipe with model.preset");
  if (options.steps < 1 || options.seeds < 1)
    throw Error(Kind::usage, "[mup] expected at least one step and one seed");
  CoordinateCheck out{options.widths, {}, options.tolerance, true};
  if (out.widths.empty()) {
    const auto* mup = asked.model.find("mup");
    const auto* dim = mup ? mup->find("dim") : nullptr;
    const int base = dim ? static_cast<int>(dim->as_integer()) : resolve_run(asked).plain.dim;
    out.widths = {base, 2 * base, 4 * base, 8 * base};
  }
  if (std::set(out.widths.begin(), out.widths.end()).size() < 2)
    throw Error(Kind::usage, "[mup] expected two different widths or more");

  for (const char* kind : kKinds) out.layers.push_back({kind, {}, {}, 0, 0});
  const int all = static_cast<int>(out.widths.size()) * options.seeds;
  int done = 0;
  for (const int width : out.widths) {
    auto recipe = asked;
    recipe.model["dim"] = Json(width);
    recipe.schedule = {.name = ScheduleName::constant};
    auto& run = recipe.run;
    run.steps = options.steps, run.eval_every = 0, run.patience = 0;
    run.time_budget = run.flop_budget = 0;
    const auto parts =
        with_context("width " + std::to_string(width), [&] { return resolve_run(recipe); });
    std::map<std::string, Sizes> sums;
    for (int s = 0; s < options.seeds; ++s) {
      run.seed = asked.run.seed + static_cast<uint32_t>(s);
      for (const auto& [kind, one] : sizes_after(recipe, parts, stop)) {
        auto& sum = sums[kind];
        sum.size += one.size, sum.change += one.change, sum.count += one.count;
      }
      if (each) each(++done, all);
    }
    for (auto& layer : out.layers) {
      const auto it = sums.find(layer.layer);
      if (it == sums.end()) continue;  // a model without FFNs, say
      layer.size.push_back(it->second.size / it->second.count);
      layer.change.push_back(it->second.change / it->second.count);
    }
  }
  std::erase_if(out.layers, [](const Coordinate& c) { return c.size.empty(); });
  for (auto& layer : out.layers) {
    layer.size_slope = log_slope(out.widths, layer.size);
    layer.change_slope = log_slope(out.widths, layer.change);
    if (!std::isfinite(layer.change_slope) || !std::isfinite(layer.size_slope))
      throw Error(Kind::usage, "[mup] training does not change " + layer.layer +
                                   ": expected an optimizer.lr above 0");
    const bool answer = layer.layer == "logits";
    if (layer.size_slope > options.tolerance || layer.change_slope > options.tolerance ||
        (answer && layer.change_slope < -options.tolerance))
      out.ok = false;
  }
  return out;
}

}  // namespace lmxlab
