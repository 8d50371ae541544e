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
                              GenerateOptions& generation, const GovernOptions& options,
                              plan::Plan* made) {
  plan::Settings s;
  s.batch = rows, s.context = std::max(1, length), s.kv_bits = generation.kv_bits;
  Subject all = subject;
  all.new_tokens = std::max(1, generation.max_tokens);
  s.bits = all.bits, s.group_size = all.group_size, s.embedding_bits = all.embedding_bits;
  auto whole = s;
  whole.context = s.context + all.new_tokens;
  if (all.max_kv > 0) whole.context = std::min(whole.context, all.max_kv);
  auto rough = plan::estimate(all.config, whole, 4);
  rough.weights = bytes;
  if (kClear * double(rough.peak()) < double(options.budget.bytes)) {
    if (made) *made = {s, rough, options.budget};
    return "";
  }
  const auto measured = [&](const plan::Settings& t) { return measure(all, t); };
  const auto plan =
      plan::make_plan(s, options.budget, measured,
                      all.weights.empty() ? smaller_presets(all.config) : plan::Smaller());
  if (plan.fits()) {
    if (made) *made = plan;
    return "";
  }
  const auto found = std::find_if(plan.advice.begin(), plan.advice.end(), [&](const auto& a) {
    auto t = a.settings;
    t.kv_bits = s.kv_bits;
    return t == s;
  });
  if (!options.auto_fit || found == plan.advice.end())
    plan::require_fit(plan, "a text of " + std::to_string(s.context) + " tokens and " +
                                std::to_string(all.new_tokens) + " more");
  generation.kv_bits = found->settings.kv_bits;
  if (made) *made = {found->settings, measured(found->settings), options.budget};
  return found->change;
}

void govern_quantization(const config::Model& config, int64_t bytes, const QuantizeOptions& packing,
                         const GovernOptions& options) {
  // The small floats of other modes take 8 bits at most.
  const int bits = packing.mode == QuantMode::affine ? packing.bits : 8;
  const auto packed = [&](const config::Model& model, int to) {
    return plan::weight_bytes(model, 4, to, packing.group_size, packing.embedding_bits);
  };
  const auto count = config::count(config);
  plan::Plan plan;
  plan.budget = options.budget;
  plan.parts.weights = bytes + packed(config, bits);
  // The largest matrix as numbers, and once more on the way.
  plan.parts.activations =
      8 * std::max(count.embedding, count.layers.empty() ? 0 : count.layers[0].ffn);
  for (int fewer = bits - 1; !plan.fits() && fewer >= 2; fewer--) {
    if (fewer == 7) continue;
    auto parts = plan.parts;
    parts.weights = bytes + packed(config, fewer);
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
      const auto peak = packed(model, bits) + plan.parts.activations;
      if (peak > options.budget.bytes) continue;
      plan.advice.push_back({"a smaller model: " + name, name, "a smaller model", {}, peak});
      break;
    }
  }
  plan::require_fit(plan, "quantizing to " + std::to_string(bits) + " bits");
}

}  // namespace lmxlab
