#include "lmxlab/governor/govern.h"

#include "lmxlab/config/count.h"
#include "lmxlab/config/presets.h"
#include "lmxlab/plan/closed.h"

#include <algorithm>

namespace lmxlab {
namespace {

// Far from the limit an estimate will do.
constexpr double kClear = 1.5;

plan::Settings settings_of(const TrainOptions& o) {
  plan::Settings s;
  s.mode = plan::Mode::train;
  s.batch = o.run.batch, s.context = o.run.context, s.accumulate = o.run.accumulate;
  s.bf16 = o.run.dtype == ComputeType::bf16;
  s.state_bits = o.optimizer.state_bits;
  s.factored = o.optimizer.name == OptimizerName::adafactor;
  s.checkpointing = o.run.gradient_checkpointing;
  return s;
}

// Whether a run can be changed so.
bool applies(const plan::Settings& from, const plan::Settings& to) {
  return to.mode == from.mode && to.context == from.context && to.preset.empty() &&
         to.factored == from.factored;
}

}  // namespace

std::string govern_training(const config::Model& config, TrainOptions& training, size_t data_bytes,
                            const GovernOptions& options, plan::Plan* made) {
  const Subject subject{.config = config, .training = training, .held = data_bytes};
  const auto settings = settings_of(training);
  const auto measured = [&](const plan::Settings& s) { return measure(subject, s); };
  plan::Plan plan;
  try {
    plan = plan::make_plan(settings, options.budget, measured, smaller_presets(config));
  } catch (const Error& e) {  // too little even for a plan: what runs will say so, or fit
    if (e.kind() != Kind::resource) throw;
    return "";
  }
  std::string change;
  if (!plan.fits()) {
    const auto found = std::find_if(plan.advice.begin(), plan.advice.end(),
                                    [&](const auto& a) { return applies(settings, a.settings); });
    if (!options.auto_fit || found == plan.advice.end())
      plan::require_fit(plan, "training with batches of " + std::to_string(settings.batch) + " x " +
                                  std::to_string(settings.context) + " tokens");
    const auto& to = found->settings;
    training.run.batch = to.batch, training.run.accumulate = to.accumulate;
    training.run.gradient_checkpointing = to.checkpointing;
    training.optimizer.state_bits = to.state_bits;
    change = found->change;
    plan = plan::Plan{to, measured(to), options.budget};
  }
  if (made) *made = std::move(plan);
  return change;
}

std::string govern_generation(const Subject& subject, int64_t bytes, int rows, int length,
                              GenerateOptions& generation, const GovernOptions& options) {
  plan::Settings s;
  s.batch = rows, s.context = std::max(1, length), s.kv_bits = generation.kv_bits;
  Subject all = subject;
  all.new_tokens = std::max(1, generation.max_tokens);
  s.bits = all.bits;
  auto whole = s;
  whole.context = s.context + all.new_tokens;
  if (all.max_kv > 0) whole.context = std::min(whole.context, all.max_kv);
  auto rough = plan::estimate(all.config, whole, 4);
  rough.weights = bytes;
  if (kClear * double(rough.peak()) < double(options.budget.bytes)) return "";
  const auto measured = [&](const plan::Settings& t) { return measure(all, t); };
  const auto plan =
      plan::make_plan(s, options.budget, measured,
                      all.weights.empty() ? smaller_presets(all.config) : plan::Smaller());
  if (plan.fits()) return "";
  const auto found = std::find_if(plan.advice.begin(), plan.advice.end(), [&](const auto& a) {
    auto t = a.settings;
    t.kv_bits = s.kv_bits;
    return t == s;
  });
  if (!options.auto_fit || found == plan.advice.end())
    plan::require_fit(plan, "a text of " + std::to_string(s.context) + " tokens and " +
                                std::to_string(all.new_tokens) + " more");
  generation.kv_bits = found->settings.kv_bits;
  return found->change;
}

void govern_quantization(const config::Model& config, int64_t bytes, int bits,
                         const GovernOptions& options) {
  const auto count = config::count(config);
  plan::Plan plan;
  plan.budget = options.budget;
  plan.parts.weights = bytes + plan::weight_bytes(config, 4, bits);
  // The largest matrix as numbers, and once more on the way.
  plan.parts.activations =
      8 * std::max(count.embedding, count.layers.empty() ? 0 : count.layers[0].ffn);
  for (int fewer = bits - 1; !plan.fits() && fewer >= 2; fewer--) {
    if (fewer == 7) continue;
    auto parts = plan.parts;
    parts.weights = bytes + plan::weight_bytes(config, 4, fewer);
    if (parts.peak() > options.budget.bytes) continue;
    plan.advice.push_back({std::to_string(fewer) + " bits",
                           "--bits " + std::to_string(fewer),
                           "other answers",
                           {},
                           parts.peak()});
    break;
  }
  if (!plan.fits()) {
    for (const auto& name : smaller_presets(config)) {
      const auto model = config::preset(name);
      const auto peak = plan::weight_bytes(model, 4, bits) + plan.parts.activations;
      if (peak > options.budget.bytes) continue;
      plan.advice.push_back({"a smaller model: " + name, name, "a smaller model", {}, peak});
      break;
    }
  }
  plan::require_fit(plan, "quantizing to " + std::to_string(bits) + " bits");
}

void govern_pull(const std::string& name, int64_t bytes,
                 const std::function<std::optional<config::Model>()>& config,
                 const std::vector<OtherWeights>& others, const GovernOptions& options) {
  constexpr int kFarBelow = 4;  // no cache of so short a text is three times its model
  if (bytes <= options.budget.bytes / kFarBelow) return;
  const auto model = config();
  plan::Settings s;
  if (model) s.context = usual_length(*model, false);
  // Packed ones, which keep 16 bits of keys and values.
  if (model && bytes < 3 * config::count(*model).total / 2) s.kv_bits = 16;
  const auto measured = [&](const plan::Settings& t) {
    plan::Parts parts;
    if (model) parts = plan::estimate(*model, t, 2);
    parts.weights = bytes;
    // Packing them first is no way out: it needs both.
    if (t.bits && model) parts.weights += plan::weight_bytes(*model, 2, *t.bits);
    return parts;
  };
  auto plan = plan::make_plan(s, options.budget, measured);
  if (plan.fits()) return;
  for (auto& a : plan.advice) a.options = "--no-plan, and then " + a.options;
  const OtherWeights* best = nullptr;
  const auto peak_of = [&](const OtherWeights& o) {
    return plan.parts.peak() - bytes + o.bytes;
  };
  for (const auto& o : others)
    if (o.bytes < bytes && peak_of(o) <= options.budget.bytes && (!best || o.bytes > best->bytes))
      best = &o;
  if (best)
    plan.advice.insert(plan.advice.begin(), {"a smaller file of the same repository", best->name,
                                             "other answers", s, peak_of(*best)});
  try {
    plan::require_fit(plan, name);
  } catch (const Error& e) {
    throw Error(e.kind(), std::string(e.what()) + " `lmxlab pull " + name +
                              " --no-plan` fetches it all the same, for another machine.");
  }
}

}  // namespace lmxlab
