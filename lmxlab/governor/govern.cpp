#include "lmxlab/governor/govern.h"

#include "lmxlab/config/count.h"
#include "lmxlab/config/presets.h"
#include "lmxlab/governor/limits.h"
#include "lmxlab/plan/closed.h"
#include "lmxlab/plan/words.h"

#include <algorithm>

namespace lmxlab {
namespace {

// Far from the limit an estimate will do, but for what it leaves out of small models.
bool clear(const plan::Parts& rough, const plan::Budget& budget) {
  return 1.5 * double(rough.peak()) + (64 << 20) < double(budget.bytes);
}

std::optional<std::string> no_words(const plan::Settings&, const plan::Settings&) {
  return std::nullopt;
}
std::optional<std::string> in_model_words(const plan::Settings& from, const plan::Settings& to) {
  return plan::model_words(from, to);
}

// Whether a run can be changed so.
bool applies(const plan::Settings& from, const plan::Settings& to) {
  return to != from && to.mode == from.mode && to.preset.empty();
}

std::string bits_text(const QuantizeOptions& how) {
  return how.mode == QuantMode::affine ? std::to_string(how.bits) + " bits" : enum_name(how.mode);
}

// The same with fewer bits, and what that is on the command line.
struct FewerBits {
  QuantizeOptions how;
  std::string change, options;
};

// Mildest first; bits that were given to the embedding go last.
std::vector<FewerBits> fewer_bits(const QuantizeOptions& how) {
  std::vector<FewerBits> out;
  const bool floats = how.mode != QuantMode::affine;
  if (how.mode == QuantMode::mxfp8) {
    auto to = how;
    to.mode = QuantMode::mxfp4;
    out.push_back({to, bits_text(to), "--mode mxfp4"});
  }
  const auto add = [&](int bits, bool embedding) {
    auto to = how;
    to.mode = QuantMode::affine, to.bits = bits;
    if (embedding) to.embedding_bits = bits;
    const auto n = std::to_string(bits);
    out.push_back({to, bits_text(to) + (embedding ? ", the embedding too" : ""),
                   (floats ? "--mode affine " : "") + ("--bits " + n) +
                       (embedding ? " --embedding-bits " + n : "")});
  };
  const int from = floats ? 4 : how.bits;
  for (const bool embedding : {false, true})
    for (const int bits : {8, 6, 5, 4, 3, 2}) {
      if (embedding ? bits <= from && bits < how.embedding_bits : bits < from) add(bits, embedding);
    }
  return out;
}

}  // namespace

std::string govern_training(const config::Model& config, TrainOptions& training, size_t data_bytes,
                            const GovernOptions& options, plan::Plan* made,
                            const TrainSubject& trains) {
  set_memory_limits(options.budget, 0);  // weights change: nothing is wired
  Subject subject{.config = config, .training = training};
  subject.trains = trains, subject.held = data_bytes, subject.stop = options.stop;
  const auto settings = training_settings(training, trains);
  const auto measured = [&](const plan::Settings& s) { return measure(subject, s); };
  const auto words =
      training_words(trains, options.words ? options.words : plan::Words(plan::recipe_words));
  auto plan = plan::make_plan(settings, options.budget, measured,
                              options.fixed ? plan::Words(no_words) : words,
                              smaller_presets(subject, settings, options.budget),
                              [&](const plan::Settings& s) { return roughly(subject, s); });
  std::string change;
  if (!plan.fits()) {
    if (!options.fixed) offer_fewer_texts(plan, subject);
    const auto found = std::find_if(plan.advice.begin(), plan.advice.end(),
                                    [&](const auto& a) { return applies(settings, a.settings); });
    if (!options.auto_fit || found == plan.advice.end())
      plan::require_fit(plan, "training with batches of " + std::to_string(settings.batch) + " x " +
                                  std::to_string(settings.context) + " tokens");
    const auto to = found->settings;
    training = training_of(training, to);
    change = found->change + ", " + found->options + " (" + found->cost + ")";
    plan = plan::Plan{to, measured(to), options.budget};
  }
  limit_queue(plan);
  if (made) *made = std::move(plan);
  return change;
}

std::string govern_generation(const Subject& subject, int64_t bytes, int rows, int length,
                              GenerateOptions& generation, const GovernOptions& options,
                              plan::Plan* made) {
  set_memory_limits(options.budget, bytes);
  plan::Settings s;
  s.batch = rows, s.context = std::max(1, length), s.kv_bits = generation.kv_bits;
  Subject all = subject;
  all.new_tokens = std::max(1, generation.max_tokens);
  s.bits = all.bits, s.group_size = all.group_size, s.embedding_bits = all.embedding_bits;
  auto rough = estimate(all, s, 4);
  rough.weights = bytes;
  const auto settled = [&](const plan::Plan& plan, const std::string& change = "") {
    limit_queue(plan);
    if (made) *made = plan;
    return change;
  };
  // Two models and a pass over several tokens are worth a rehearsal: what is estimated of one is
  // too little for both.
  if (!all.drafts && clear(rough, options.budget)) return settled({s, rough, options.budget});
  const auto measured = [&](const plan::Settings& t) { return measure_way(all, bytes, t); };
  auto plan = plan::make_plan(s, options.budget, measured,
                              options.words ? options.words : plan::Words(in_model_words),
                              smaller_presets(all, s, options.budget));
  if (plan.fits()) return settled(plan);
  const auto found = std::find_if(plan.advice.begin(), plan.advice.end(), [&](const auto& a) {
    auto t = a.settings;
    t.kv_bits = s.kv_bits;
    if (options.pack)
      t.bits = s.bits, t.group_size = s.group_size, t.embedding_bits = s.embedding_bits;
    return t == s;
  });
  if (!options.auto_fit || found == plan.advice.end())
    plan::require_fit(plan, "a text of " + std::to_string(s.context) + " tokens and " +
                                std::to_string(all.new_tokens) + " more");
  const auto& to = found->settings;
  generation.kv_bits = to.kv_bits;
  if (to.bits != s.bits) {
    options.pack(
        {.bits = *to.bits, .group_size = to.group_size, .embedding_bits = to.embedding_bits});
    all.bits = to.bits, all.packs = true;  // and what was beside them on the way is gone
  }
  return settled({to, measured(to), options.budget}, found->change + " (" + found->cost + ")");
}

void govern_pass(const Subject& subject, int64_t bytes, int rows, int length,
                 const std::string& what, const FewerTokens& fewer, const GovernOptions& options) {
  plan::Settings s;
  s.batch = rows, s.context = std::max(1, length), s.bits = subject.bits;
  s.kv_bits = 8;  // a pass keeps none: nothing is gained there
  auto rough = estimate_pass(subject, s, 4);
  rough.weights = bytes;
  if (clear(rough, options.budget)) return;
  const auto words = [&](const plan::Settings& from, const plan::Settings& to) {
    auto rest = to;
    rest.context = from.context;
    auto out = to.batch == from.batch ? plan::model_words(from, rest) : std::nullopt;
    if (out && to.context != from.context)
      *out += (out->empty() ? "" : " and ") + fewer.option + " " + std::to_string(to.context);
    return out;
  };
  auto plan = plan::make_plan(
      s, options.budget, [&](const plan::Settings& t) { return measure_way(subject, bytes, t); },
      words, smaller_presets(subject, s, options.budget));
  for (auto& a : plan.advice) {
    if (a.settings.context == s.context) continue;
    const bool packed = a.settings.bits != s.bits;
    a.change = (packed ? "weights of 4 bits, " : "") + fewer.change;
    if (!packed) a.cost = fewer.cost;
  }
  if (fewer.same_answers)
    std::stable_partition(plan.advice.begin(), plan.advice.end(), [&](const plan::Advice& a) {
      return a.settings.context != s.context && a.settings.bits == s.bits;
    });
  plan::require_fit(plan, what);
}

void govern_conversion(const config::Model& config, int64_t bytes, std::optional<DType> made,
                       const std::function<bool()>& gguf, const GovernOptions& options) {
  const auto count = config::count(config);
  int64_t largest = count.embedding;
  for (const auto& b : config.layers)
    if (const auto* f = std::get_if<config::Mlp>(&b.ffn))
      largest = std::max(largest, int64_t{f->hidden} * config.dim);
    else if (const auto* e = config::experts_in(b))
      largest = std::max(largest, e->all_hidden() * config.dim);
  const auto parts_of = [&](int64_t element) {
    plan::Parts parts;
    parts.weights = bytes + element * count.total;
    parts.activations = 8 * largest;  // as numbers, and once more on the way
    return parts;
  };
  const int64_t element = !made ? 0 : *made == DType::f32 ? 4 : 2;
  plan::Plan plan;
  plan.budget = options.budget;
  plan.parts = parts_of(element);
  const auto offer = [&](int64_t less, const char* change, const char* option, const char* cost) {
    if (less < element && parts_of(less).peak() <= options.budget.bytes)
      plan.advice.push_back({change, option, cost, {}, parts_of(less).peak()});
  };
  offer(2, "weights of 16 bits", "--dtype bf16", "rounded ones");
  if (made && !plan.fits() && gguf())
    offer(0, "a GGUF file, written matrix by matrix", "--format gguf", "another format");
  plan::require_fit(plan, "converting");
}

std::string govern_quantization(LanguageModel& model, int64_t mapped, QuantizeOptions& how,
                                const GovernOptions& options) {
  const auto parts_of = [&](const PackedBytes& b) {
    plan::Parts parts;
    parts.weights = b.packed + (mapped > 0 ? mapped : b.left);
    parts.activations = b.work;
    return parts;
  };
  plan::Plan plan;
  plan.budget = options.budget;
  plan.parts = parts_of(packed_bytes(model, how));
  if (plan.fits()) return "";
  const auto ways = fewer_bits(how);
  const auto found = std::find_if(ways.begin(), ways.end(), [&](const FewerBits& way) {
    try {
      return parts_of(packed_bytes(model, way.how)).peak() <= options.budget.bytes;
    } catch (const Error&) {  // rows that are no whole groups of that mode
      return false;
    }
  });
  if (found != ways.end()) {
    if (options.auto_fit) {
      how = found->how;
      return found->change;
    }
    plan.advice.push_back({found->change,
                           found->options,
                           "other answers",
                           {},
                           parts_of(packed_bytes(model, found->how)).peak()});
  }
  if (mapped == 0) {
    const plan::Settings two_bits{.batch = 1, .context = 1, .bits = 2};
    for (const auto& name :
         smaller_presets({.config = model.config()}, two_bits, options.budget)()) {
      const auto config = config::preset(name);
      if (!can_save_packed(config)) continue;
      LanguageModel smaller(config);
      plan::Parts parts;
      try {
        parts = parts_of(packed_bytes(smaller, how));
      } catch (const Error&) {
        continue;
      }
      if (parts.peak() > options.budget.bytes) continue;
      plan.advice.push_back({"a smaller model", name, "fewer parameters", {}, parts.peak()});
      break;
    }
  }
  plan::require_fit(plan, "quantizing to " + bits_text(how));
  return "";
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
  auto plan = plan::make_plan(s, options.budget, measured, in_model_words);
  if (plan.fits()) return;
  for (auto& a : plan.advice) a.options = "--no-plan, and then " + a.options;
  const OtherWeights* best = nullptr;
  const auto peak_of = [&](const OtherWeights& o) { return plan.parts.peak() - bytes + o.bytes; };
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
