#include "lmxlab/cli/sampling_arguments.h"

#include "lmxlab/base/files.h"
#include "lmxlab/cli/step_arguments.h"
#include "lmxlab/governor/govern.h"
#include "lmxlab/inference/generation_config.h"
#include "lmxlab/kernels/memory.h"
#include "lmxlab/models/quantize.h"
#include "lmxlab/plan/words.h"

namespace lmxlab::cli {

void SamplingArguments::declare(Options& o) {
  o.option("--max-tokens", "N", &max_tokens, "tokens to generate, at most").range(0);
  o.option("--temperature", "T", &temperature, "randomness; 0: always the most likely token")
      .range(0)
      .otherwise("the model's, else 0.8");
  o.option("--top-k", "N", &top_k, "draw from the N most likely tokens; 0: all")
      .range(0)
      .otherwise("the model's, else 0");
  o.option("--top-p", "P", &top_p, "draw from the most likely tokens that make up P")
      .above(0)
      .range_max(1)
      .otherwise("the model's, else 0.95");
  o.option("--min-p", "P", &min_p,
           "draw from tokens at least P times as likely as the most likely one")
      .range(0, 1)
      .otherwise("the model's, else 0");
  o.option("--repetition-penalty", "X", &repetition,
           "above 1: tokens that stand in the text become less likely")
      .above(0)
      .otherwise("the model's, else 1");
  o.option("--presence-penalty", "X", &presence, "subtracted from the logits of tokens in the text")
      .otherwise("0");
  o.option("--frequency-penalty", "X", &frequency,
           "subtracted once for each time a token stands in the text")
      .otherwise("0");
  o.option("--seed", "N", &seed, "of the draws, and of a preset's weights").range(0);
  o.option("--stop", "TEXT", &stop, "ends the text, and is cut from it");
  o.flag("--ignore-eos", &ignore_eos, "go on after a token that ends texts");
  o.option("--dtype", "TYPE", &dtype, "of the computation: bf16 reads prompts faster, less exactly")
      .one_of({"f32", "bf16"})
      .otherwise("f32 on a CPU, else that of the weights");
  declare_kv_bits(o, &kv_bits);
  o.flag("--auto-fit", &auto_fit,
         "where memory is short take the cheapest change that helps: keys and values of 8 bits, "
         "weights packed to 4 bits");
  o.option("--max-kv", "N", &max_kv,
           "keep the last N positions only: memory that does not grow, and no look at what lies "
           "further back")
      .range(1)
      .otherwise("all");
  o.option("--prompt-cache", "FILE", &prompt_cache,
           "go on from what this file has read of the prompt, and write what was read in the "
           "end");
  draft.declare(o);
}

GenerateOptions SamplingArguments::options(const OpenModel& m, const Context& context) const {
  for (const auto& text : stop)
    if (text.empty()) throw Error(Kind::usage, "[generate] --stop: expected a text, got \"\"");
  GenerateOptions o;
  if (!m.place.path.empty()) {
    o.sampling = read_generation_config(m.place.path);
    o.stop_tokens = eos_tokens(m.place.path);
  }
  auto& s = o.sampling;
  if (temperature) s.temperature = float(*temperature);
  if (top_k) s.top_k = *top_k;
  if (top_p) s.top_p = float(*top_p);
  if (min_p) s.min_p = float(*min_p);
  if (repetition) s.repetition_penalty = float(*repetition);
  if (presence) s.presence_penalty = float(*presence);
  if (frequency) s.frequency_penalty = float(*frequency);
  s.seed = uint64_t(seed);
  o.max_tokens = max_tokens;
  o.stop_strings = stop;
  o.ignore_eos = ignore_eos;
  check_kv_bits("generate", kv_bits, m.model.config());
  o.kv_bits = cache_bits(kv_bits);
  o.max_kv = max_kv.value_or(0);
  o.stop = context.stop;
  draft.set(o);
  return o;
}

int64_t SamplingArguments::govern(OpenModel& m, int rows, int length, GenerateOptions& options,
                                  const Context& context, const std::string& samples) const {
  Subject subject = subject_of(m);
  subject.bits = m.bits, subject.packs = m.bits.has_value();
  subject.max_kv = options.max_kv, subject.one_prompt = !samples.empty();
  subject.sampling = options.sampling;
  auto bytes = m.model.parameter_bytes();
  if (options.draft) subject.num_draft_tokens = draft.tokens.value_or(0);
  subject.drafts = options.draft != nullptr, subject.base_drafts = draft.is_base();
  subject.own_heads = draft.own_heads();
  auto* small = options.draft ? draft.model() : nullptr;
  if (small) {
    subject.draft = small->model.config(), subject.draft_weights = small->place.path;
    bytes += small->model.parameter_bytes();
  }
  GovernOptions with{budget_beside(m, small)};
  with.auto_fit = auto_fit;
  with.words = [&](const plan::Settings& from, const plan::Settings& to) {
    return plan::model_words(from, to, samples);
  };
  if (!prompt_cache)  // what it has read is of the weights as they are
    with.pack = [&](const QuantizeOptions& how) {
      quantize_model(m.model, how);
      interleave_model(m.model);
      kernels::clear_cache();
      m.bits = how.bits;
    };
  plan::Plan plan;
  const auto change = govern_generation(subject, bytes, rows, length, options, with, &plan);
  if (!change.empty()) context.warn("--auto-fit: " + change);
  plan.parts.mapped = mapped_bytes(m.model, small ? &small->model : nullptr);
  return plan.parts.arrays();
}

void SamplingArguments::prepare(OpenModel& m, const Context& context) {
  const auto type = dtype_argument(dtype);
  if (type) m.model.set_activations(*type);
  draft.open(m, uint64_t(seed), type, context);
}

PromptCache SamplingArguments::read_cache(const LanguageModel& model) const {
  std::error_code ignored;
  if (!prompt_cache || !fs::exists(*prompt_cache, ignored)) return {};
  return load_prompt_cache(*prompt_cache, model);
}
void SamplingArguments::write_cache(const LanguageModel& model, const PromptCache& kept) const {
  if (prompt_cache && !kept.cache.empty()) save_prompt_cache(*prompt_cache, model, kept);
}

}  // namespace lmxlab::cli
