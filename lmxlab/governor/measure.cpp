#include "lmxlab/governor/measure.h"

#include "lmxlab/base/text.h"
#include "lmxlab/config/count.h"
#include "lmxlab/config/presets.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/inference/mtp_draft.h"
#include "lmxlab/inference/rehearse.h"
#include "lmxlab/kernels/machine.h"
#include "lmxlab/kernels/memory.h"
#include "lmxlab/kernels/rehearsal.h"
#include "lmxlab/models/adapters.h"
#include "lmxlab/models/quantize.h"
#include "lmxlab/plan/chips.h"
#include "lmxlab/plan/closed.h"
#include "lmxlab/training/rehearse.h"

#include <mlx/mlx.h>

#include <algorithm>
#include <limits>
#include <new>
#include <tuple>

namespace lmxlab {
namespace {

// Elsewhere gradients come from ordinary ops.
bool fused() {
  return !mx::gpu::is_available();
}

int64_t whole(size_t n) {
  return static_cast<int64_t>(n);
}

GenerateOptions generation_of(const Subject& subject, const plan::Settings& s) {
  GenerateOptions o;
  o.sampling = subject.sampling;
  o.max_tokens = subject.new_tokens;
  o.kv_bits = s.kv_bits;
  o.max_kv = subject.max_kv;
  o.num_draft_tokens = subject.num_draft_tokens;
  return o;
}

// Drafts as much as prompt lookup may.
class Most : public DraftSource {
  std::vector<int> draft(const DraftRequest& r) override {
    return std::vector<int>(static_cast<size_t>(r.most), 0);
  }
};

plan::Parts measure_generation(const Subject& subject, const plan::Settings& s) {
  // Mapped weights are read, not made; what is left to make of them is made in the rehearsal.
  std::optional<LanguageModel> loaded, draft;
  if (!subject.weights.empty()) {
    loaded = LanguageModel::load(subject.weights);
    load_adapters(*loaded, subject.adapters);
  }
  if (!subject.draft_weights.empty()) draft = LanguageModel::load(subject.draft_weights);
  const kernels::Rehearsal rehearsal;
  auto model = loaded ? std::move(*loaded)
                      : LanguageModel(subject.config, 0, subject.dtype.value_or(DType::f32));
  loaded.reset();
  if (s.bits) {
    quantize_model(
        model, {.bits = *s.bits, .group_size = s.group_size, .embedding_bits = s.embedding_bits});
    interleave_model(model);
  }
  if (s.bf16 || subject.dtype) model.set_activations(s.bf16 ? DType::bf16 : *subject.dtype);
  if (subject.draft && !draft) draft.emplace(*subject.draft);
  plan::Parts p;
  p.weights = model.parameter_bytes(), p.read = model.bytes_read(s.batch);
  evaluate_weights(model);  // in memory before anything is generated
  if (draft) {
    evaluate_weights(*draft);
    p.weights += draft->parameter_bytes();
  }
  const auto made = whole(kernels::active_bytes());
  p.mapped = std::max<int64_t>(0, p.weights - made);
  kernels::reset_peak();
  size_t peak = 0;
  if (subject.pass) {
    const Enter enter(model.runtime());
    subject.pass(model, s);
  } else {
    auto options = generation_of(subject, s);
    Most lookup;
    std::optional<DraftModel> small;
    if (draft || subject.base_drafts) small.emplace(draft ? *draft : model, model);
    std::optional<MtpDraft> heads;
    if (subject.own_heads) heads.emplace(model);
    if (subject.drafts)
      options.draft = small   ? static_cast<DraftSource*>(&*small)
                      : heads ? static_cast<DraftSource*>(&*heads)
                              : &lookup;
    const auto m =
        rehearse_generation(model, s.batch, s.context, options, subject.one_prompt ? s.batch : 1);
    p.kv_cache = whole(m.cache_bytes);
    if (subject.drafts) peak = m.peak;  // a draft reads the prompt with the first of its texts
    if (small) p.kv_cache += whole(small->cache().bytes());
    if (heads) p.kv_cache += whole(heads->cache_bytes());
  }
  p.workspace = whole(rehearsal.workspace_at_peak()), p.largest_op = whole(rehearsal.largest_op());
  // What a card's allocator rounds up is in it.
  p.activations = std::max<int64_t>(0, whole(std::max(peak, kernels::peak_bytes())) -
                                           (p.weights - p.mapped) - p.kv_cache - p.workspace);
  return p;
}

// Adapters beside the weights of a run, of a folder, or new ones of the type asked for; QLoRA packs
// those that are not packed.
TrainSubject with_adapters(const Subject& subject, const plan::Settings& s) {
  TrainSubject out = subject.trains;
  const auto dtype = subject.dtype.value_or(DType::f32);
  if (!out.load)
    out.load = [weights = subject.weights, config = subject.config, dtype] {
      return weights.empty() ? LanguageModel(config, 0, dtype) : LanguageModel::load(weights);
    };
  out.adapt = [s, attach = out.attach](LanguageModel& model) {
    const auto weights = core::weights_of(model.transformer());
    const bool packed = std::any_of(weights.begin(), weights.end(),
                                    [](const auto& w) { return w.weight->quantized(); });
    if (s.mode == plan::Mode::qlora && !packed) quantize_model(model, {.bits = 4});
    attach ? attach(model, s.rank) : void(attach_adapter(model, {.rank = s.rank}));
  };
  return out;
}

config::Model preset_of(const Subject& subject, const std::string& name) {
  const auto& own = subject.trains.with_preset;
  return own ? own(name) : config::preset(name);
}

// Whether settings are those of a run as its recipe says.
bool as_asked(const Subject& subject, const plan::Settings& s) {
  return s.mode == plan::Mode::train || (s.mode == plan::Mode::lora && subject.trains.rank > 0);
}
TrainSubject trained(const Subject& subject, const plan::Settings& s) {
  return as_asked(subject, s) ? subject.trains : with_adapters(subject, s);
}

// Reward models read between the steps, beside weights and state.
void add_judges(plan::Parts& p, const Judging& judges) {
  p.weights += judges.mapped, p.mapped += judges.mapped;
  p.activations = std::max(p.activations, judges.reading - p.gradients);
}

// Weights as they are and packed ones beside them.
void make_room_to_pack(plan::Parts& p, const config::Model& model, int64_t bytes, int bits) {
  const auto both = bytes + plan::weight_bytes(model, 2, bits);
  p.activations += std::max<int64_t>(0, both - p.peak());
}

plan::Parts measure_training(const Subject& subject, const plan::Settings& s) {
  const auto own = trained(subject, s);
  std::function<size_t(const LanguageModel&)> between;
  if (own.writes)
    between = [w = *own.writes](const LanguageModel& model) {
      GenerateOptions o;
      o.sampling.temperature = w.temperature, o.sampling.top_p = 1;
      o.max_tokens = w.completion;
      o.kv_bits = 0, o.logprobs = 0, o.tempered_logprobs = true;
      PromptCache read;  // of a group that is written in parts
      if (w.each > w.rows) o.shared = &read;
      return rehearse_generation(model, w.rows, w.prompt, o, std::min(w.each, w.rows)).peak;
    };
  const auto m =
      rehearse_training(subject.config, training_of(subject.training, s), mx::int32, own, between);
  plan::Parts p;
  p.mapped = whole(m.mapped);
  p.weights = whole(m.weights), p.optimizer = whole(m.optimizer), p.workspace = whole(m.workspace);
  p.largest_op = whole(m.largest_op);
  const auto left = whole(m.peak) - p.weights - p.optimizer - p.workspace;
  p.gradients = std::clamp<int64_t>(left, 0, whole(m.gradients));
  p.activations = std::max<int64_t>(0, left - p.gradients) + whole(subject.held);
  p.weights += p.mapped;
  add_judges(p, own.judges);
  if (s.mode == plan::Mode::qlora && own.attach)  // a folder of packed weights is made first
    make_room_to_pack(p, subject.config, own.load().parameter_bytes(), 4);
  return p;
}

plan::Parts estimate_training(const Subject& subject, const plan::Settings& settings, int element) {
  const auto& own = subject.trains;
  auto options = training_of(subject.training, settings);
  auto s = settings;
  const bool asked = as_asked(subject, settings);
  if (asked && own.batch) {  // pairs are two rows
    const auto shape = own.batch(options.run).inputs.shape();
    s.batch = shape[0], s.context = shape[1];
  }
  std::optional<TrainingMemory> counted;
  if (asked && (own.load || own.adapt)) counted = count_training(subject.config, options, own);
  // Fewer than two bytes a weight are packed ones.
  if (counted && s.mode == plan::Mode::lora &&
      whole(counted->weights) < 2 * config::count(subject.config).total)
    s.mode = plan::Mode::qlora;
  auto p = plan::estimate(subject.config, s, element, {.fused = fused()});
  if (counted) {
    const auto& m = *counted;
    p.weights = whole(m.weights), p.gradients = whole(m.gradients);
    p.optimizer = whole(m.optimizer);
    if (own.keeps_first) p.activations += p.gradients;
  }
  p.activations += whole(subject.held);
  if (!asked) return p;
  if (const auto& w = own.writes) {
    const plan::Settings texts{.batch = w->rows, .context = w->prompt};
    const auto writing =
        plan::estimate(subject.config, texts, element, {.new_tokens = w->completion});
    p.activations = std::max(p.activations, writing.kv_cache + writing.activations - p.gradients);
  }
  add_judges(p, own.judges);
  return p;
}

}  // namespace

plan::Budget memory_budget(int64_t bytes) {
  return {static_cast<int64_t>(plan::kUsableShare * double(bytes)),
          "75 % of " + human_bytes(double(bytes))};
}

plan::Budget machine_budget(int64_t mapped, int64_t made) {
  if (mx::gpu::is_available()) {
    const auto& info = mx::device_info(mx::Device::gpu);
    const auto find = [&](const char* key) -> std::optional<int64_t> {
      const auto at = info.find(key);
      if (at == info.end() || !std::holds_alternative<size_t>(at->second)) return std::nullopt;
      return whole(std::get<size_t>(at->second));
    };
    if (const auto n = find("max_recommended_working_set_size"))
      return {*n, "Metal's recommended working set"};
    if (const auto n = find("free_memory")) return {*n, "the card's free memory"};
  }
  const auto total = whole(kernels::memory_size());
  const auto room = kernels::memory_room();
  // Freed blocks that are kept serve what comes next.
  const auto left = static_cast<int64_t>(std::min(room.bytes, size_t{1} << 60)) +
                    whole(kernels::cache_bytes()) + made;
  if (room.bound == "RLIMIT_AS")  // threads' stacks and the C library's arenas come out of it too
    return {std::min(left - left / 10 + mapped, memory_budget(total).bytes),
            "nine tenths of what ulimit -v leaves, " + human_bytes(double(left)) +
                (mapped > 0 ? ", beside weights that are mapped" : "")};
  if (room.bound == "the cgroup")
    return {left - left / 20,
            "what the cgroup leaves, " + human_bytes(double(left)) + ", less 5 %"};
  const auto share = memory_budget(total);
  if (left - left / 20 < share.bytes)
    return {left - left / 20, "what is free of " + human_bytes(double(total)) + ", less 5 %"};
  return share;
}

TrainOptions training_of(TrainOptions o, const plan::Settings& s) {
  o.run.batch = s.batch, o.run.context = s.context, o.run.accumulate = s.accumulate;
  o.run.dtype = s.bf16 ? ComputeType::bf16 : ComputeType::f32;
  o.run.gradient_checkpointing = s.checkpointing;
  if (s.factored && o.optimizer.name != OptimizerName::adafactor) {
    const auto before = std::exchange(o.optimizer, {});
    o.optimizer.name = OptimizerName::adafactor;
    o.optimizer.lr = before.lr, o.optimizer.clip = before.clip;
    o.optimizer.ema = before.ema, o.optimizer.only = before.only;
  }
  o.optimizer.state_bits = s.state_bits;
  return o;
}

plan::Words training_words(const TrainSubject& trains, plan::Words words) {
  const bool attaches = bool(trains.attach);
  return [=, load = trains.load](const plan::Settings& from,
                                 const plan::Settings& to) -> std::optional<std::string> {
    if (to.mode != from.mode && !attaches) return std::nullopt;
    const bool packs = to.mode != from.mode && to.mode == plan::Mode::qlora;
    if (packs && !can_save_packed(load().config())) return std::nullopt;
    return words(from, to);
  };
}

plan::Settings training_settings(const TrainOptions& o, const TrainSubject& trains) {
  plan::Settings s;
  s.mode = trains.rank > 0 ? plan::Mode::lora : plan::Mode::train;
  if (trains.rank > 0) s.rank = trains.rank;
  s.batch = o.run.batch, s.context = o.run.context, s.accumulate = o.run.accumulate;
  s.bf16 = o.run.dtype == ComputeType::bf16;
  s.state_bits = o.optimizer.state_bits;
  s.factored = o.optimizer.name == OptimizerName::adafactor;
  s.average = o.optimizer.ema > 0;
  s.checkpointing = o.run.gradient_checkpointing;
  return s;
}

void offer_fewer_texts(plan::Plan& plan, const Subject& subject) {
  if (plan.fits() || !subject.trains.writes) return;
  auto fewer = subject;
  auto& w = *fewer.trains.writes;
  while (w.rows > 1) {
    w.rows = (w.rows + 1) / 2;
    const auto peak = measure(fewer, plan.settings).peak();
    if (peak > plan.budget.bytes) continue;
    plan.advice.insert(plan.advice.begin(), {"fewer completions at a time",
                                             "--set grpo.rows_at_once=" + std::to_string(w.rows),
                                             "rollouts take longer", plan.settings, peak});
    return;
  }
}

void evaluate_weights(LanguageModel& model) {
  const Enter enter(model.runtime());
  as_error([&] { mx::eval(core::values(core::collect(model.transformer()))); });
}

int64_t mapped_bytes(LanguageModel& model, LanguageModel* draft) {
  int64_t there = 0;  // what is not has yet to be made, transposed for instance
  for (auto* m : {&model, draft})
    if (m)
      for (const auto& e : core::collect(m->transformer()))
        if (e.param->value.is_available()) there += whole(e.param->value.nbytes());
  return std::max<int64_t>(0, there - whole(kernels::active_bytes()));
}

namespace {

// What `n` of something take, from what `few` and `more` of it do: each adds the same.
plan::Parts of_many(plan::Parts at_few, int few, plan::Parts at_more, int more, int n) {
  std::vector<int64_t> before;
  const auto note = [&](const char*, int64_t bytes) { before.push_back(bytes); };
  at_few.visit(note);
  size_t i = 0;
  const auto add = [&](const char*, int64_t& bytes) {
    bytes += (bytes - before[i++]) / (more - few) * (n - more);
  };
  at_more.visit(add);
  return at_more;
}

// As the model's own arithmetic says, of mapped weights with what their files have.
plan::Parts arithmetic(const Subject& subject, const plan::Settings& settings) {
  const int element = subject.dtype.value_or(DType::f32) == DType::f32 ? 4 : 2;
  auto parts = subject.pass ? estimate_pass(subject, settings, element)
                            : estimate(subject, settings, element);
  if (subject.weights.empty() || settings.bits) return parts;
  auto bytes = file_bytes(subject.weights);
  for (const auto& a : subject.adapters) bytes += file_bytes(a.path);
  parts.read = static_cast<int64_t>(double(parts.read) / double(parts.weights) * double(bytes));
  parts.weights = bytes;
  return parts;
}

// By arithmetic where there is no memory even for a rehearsal, or the graph cannot be built: an
// array of MLX has up to 2^31 elements an axis, and such sizes are far above any budget.
plan::Parts rehearsed(plan::Parts (*how)(const Subject&, const plan::Settings&),
                      const Subject& subject, const plan::Settings& settings) {
  const auto elements = int64_t{settings.batch} * settings.context *
                        std::max(subject.config.vocab, subject.config.dim);
  try {
    return how(subject, settings);
  } catch (const Error& e) {
    if (e.kind() != Kind::resource) throw;
  } catch (const std::bad_alloc&) {
  } catch (const std::exception&) {
    if (elements <= std::numeric_limits<int32_t>::max()) throw;
  }
  return arithmetic(subject, settings);
}

// With a preset in the model's place, where there is to be one.
Subject with_preset(Subject subject, const std::string& preset) {
  if (preset.empty()) return subject;
  subject.config = preset_of(subject, preset), subject.weights.clear(), subject.adapters.clear();
  subject.draft.reset(), subject.draft_weights.clear(), subject.own_heads = false;
  return subject;
}

}  // namespace

plan::Parts roughly(const Subject& subject, const plan::Settings& settings) {
  return arithmetic(with_preset(subject, settings.preset), settings);
}

plan::Parts measure(const Subject& asked, const plan::Settings& settings) {
  if (asked.stop.stop_requested()) throw Error(Kind::canceled, "[plan] interrupted");
  const auto subject = with_preset(asked, settings.preset);
  if (settings.kv_bits && *settings.kv_bits > 0 && !subject.pass &&
      !config::keeps_keys(subject.config))
    throw Error(Kind::usage, "[plan] kv_bits " + std::to_string(*settings.kv_bits) +
                                 ": the model keeps no keys and values. Leave it out.");
  if (!kernels::can_rehearse()) return arithmetic(subject, settings);
  if (settings.mode == plan::Mode::generate)
    return rehearsed(measure_generation, subject, settings);
  const auto of = [&](int plan::Settings::*number, int few, int more) {
    auto at_few = settings, at_more = settings;
    at_few.*number = few, at_more.*number = more;
    return of_many(measure(asked, at_few), few, measure(asked, at_more), more, settings.*number);
  };
  // A graph of a thousand batches, or of a loss in a thousand pieces, would take minutes to build.
  constexpr int kBatches = 4;
  const int64_t tokens = settings.checkpointing ? 1 << 14 : 1 << 15;
  if (settings.accumulate > kBatches)
    return of(&plan::Settings::accumulate, kBatches - 1, kBatches);
  const auto rows = static_cast<int>(std::max<int64_t>(1, tokens / settings.context));
  if (settings.batch > 2 * rows) return of(&plan::Settings::batch, rows, 2 * rows);
  return rehearsed(measure_training, subject, settings);
}

plan::Parts estimate(const Subject& subject, const plan::Settings& settings, int element) {
  if (settings.mode != plan::Mode::generate) return estimate_training(subject, settings, element);
  const plan::EstimateOptions how{subject.new_tokens, subject.max_kv};
  auto p = plan::estimate(subject.config, settings, element, how);
  if (subject.base_drafts) p.kv_cache *= 2;
  if (subject.own_heads) {
    auto heads = subject.config;
    heads.layers = heads.mtp_heads;
    p.kv_cache += config::kv_bytes(heads, settings.context + subject.new_tokens, element);
  }
  if (!subject.draft) return p;
  auto other = settings;
  other.bits.reset(), other.kv_bits.reset();
  const auto draft = plan::estimate(*subject.draft, other, element, how);
  p.weights += draft.weights, p.kv_cache += draft.kv_cache;
  p.activations = std::max(p.activations, draft.activations);
  return p;
}

plan::Parts estimate_pass(const Subject& subject, const plan::Settings& settings, int element) {
  constexpr int kPiece = 512;  // that a prompt is read in, and a pass is not
  auto p = plan::estimate(subject.config, settings, element);
  p.activations *= (settings.context + kPiece - 1) / kPiece;
  p.activations += whole(subject.held);
  return p;
}

plan::Parts measure_way(const Subject& subject, int64_t bytes, const plan::Settings& settings) {
  const auto made = settings.preset.empty() ? subject.config : preset_of(subject, settings.preset);
  const bool folder = !subject.packs && settings.bits != subject.bits;
  if (folder && !can_save_packed(made))
    throw Error(Kind::unsupported, "[plan] packed weights of this form cannot be saved");
  const bool mapped = !subject.weights.empty() && settings.preset.empty();
  auto parts = measure(subject, settings);
  if (folder && mapped && settings.bits) make_room_to_pack(parts, made, bytes, *settings.bits);
  return parts;
}

int64_t file_bytes(const std::filesystem::path& weights) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  if (!fs::is_directory(weights, ignored)) return whole(fs::file_size(weights));
  int64_t sum = 0;
  for (const auto& e : fs::directory_iterator(weights))
    if (e.path().extension() == ".safetensors") sum += whole(e.file_size());
  return sum;
}

void expect_mappable(const std::filesystem::path& weights) {
  const auto room = kernels::memory_room();
  const auto bytes = file_bytes(weights);
  if (room.bound != "RLIMIT_AS" || bytes < whole(room.bytes)) return;
  plan::Plan plan;
  plan.parts.weights = bytes, plan.budget = machine_budget();
  plan::require_fit(plan, weights.string());
}

int64_t resident_bytes(const config::Model& model, const plan::Parts& parts) {
  if (!kernels::own_allocator()) return parts.peak();
  constexpr int64_t kGraph = 850'000;  // of a block's step, its gradients with it; measured
  const bool trains = parts.gradients > 0;
  const auto graph = trains ? kGraph * static_cast<int64_t>(model.layers.size()) : 0;
  // A training's blocks of all sizes fill what may be kept; a generation's about half of it.
  const auto kept = whole(kernels::kept_beside(static_cast<size_t>(parts.arrays())));
  return parts.peak() + (trains ? kept : kept / 2) + graph;
}

int usual_length(const config::Model& model, bool training) {
  constexpr int kUsual = 512, kMore = 128;
  const auto* learned = std::get_if<config::Learned>(&model.position);
  const int total = learned ? learned->length : model.context;
  return std::clamp(training ? total : std::max(total - kMore, total / 2), 1, kUsual);
}

plan::Smaller smaller_presets(const Subject& than, const plan::Settings& settings,
                              const plan::Budget& budget) {
  if (!than.weights.empty() || than.trains.load) return {};
  if (than.trains.batch && !than.trains.with_preset) return {};  // a recipe that takes none
  return [=] {
    const auto most = config::count(than.config).total;
    std::vector<std::pair<int64_t, std::string>> found;
    const auto add = [&](auto&& of_family) {
      for (const auto& preset : config::presets()) {
        if (!of_family(preset.family)) continue;
        try {
          const auto made = preset_of(than, preset.name);
          const auto n = config::count(made).total;
          if (n < most && plan::may_fit(made, settings, budget)) found.emplace_back(n, preset.name);
        } catch (const Error&) {  // sizes that it cannot have
        }
      }
    };
    add([&](const std::string& f) { return f == than.config.family; });
    if (found.empty()) add([](const std::string& f) { return f == "gpt" || f == "llama"; });
    std::sort(found.rbegin(), found.rend());
    std::vector<std::string> names;
    for (const auto& [n, name] : found) names.push_back(name);
    return names;
  };
}

}  // namespace lmxlab
