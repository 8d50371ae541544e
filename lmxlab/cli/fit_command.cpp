#include "lmxlab/align/grpo_run.h"
#include "lmxlab/base/files.h"
#include "lmxlab/base/text.h"
#include "lmxlab/cli/commands.h"
#include "lmxlab/cli/measure.h"
#include "lmxlab/cli/model_argument.h"
#include "lmxlab/cli/step_arguments.h"
#include "lmxlab/cli/train_recipe.h"
#include "lmxlab/config/count.h"
#include "lmxlab/config/presets.h"
#include "lmxlab/governor/measure.h"
#include "lmxlab/plan/chips.h"
#include "lmxlab/plan/closed.h"
#include "lmxlab/training/run.h"

#include <algorithm>

namespace lmxlab::cli {
namespace {

std::string rate_text(double per_second) {
  char text[32];
  std::snprintf(text, sizeof text, per_second < 100 ? "%.1f" : "%.0f", per_second);
  return text;
}

// A table whose columns are as wide as what they hold; the first is of text.
std::string table_text(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  for (const auto& r : rows)
    for (size_t i = 0; i < r.size(); ++i) {
      if (i >= widths.size()) widths.push_back(0);
      widths[i] = std::max(widths[i], r[i].size());
    }
  std::string out;
  for (const auto& r : rows) {
    for (size_t i = 0; i < r.size(); ++i) {
      const std::string pad(widths[i] - r[i].size(), ' ');
      out += (i ? "  " : "") + (i ? pad + r[i] : r[i] + pad);
    }
    out += "\n";
  }
  return out;
}

class Fit : public Command {
  std::optional<std::string> model_, memory_, chip_;
  bool table_ = false;
  std::optional<std::string> mode_;
  std::string dtype_;
  std::vector<std::string> set_;
  PackArguments pack_;
  StepArguments step_;
  int batch_ = 1;
  std::optional<int> context_, rank_;

  void declare(Options& o) override {
    o.argument(
        "MODEL", &model_,
        "a model or run folder, a GGUF file, a preset or a folder of config.json alone, or a "
        "recipe (.toml), whose run is planned as `train` plans it; none: what this machine can "
        "hold");
    o.flag("--table", &table_, "chips with one memory, and what they can hold");
    o.option("--mode", "MODE", &mode_, "what is planned")
        .one_of({"generate", "train", "lora", "qlora"})
        .otherwise("generate; of a recipe, its run");
    o.option("--set", "KEY=VALUE", &set_, "another value of a recipe's key, as in run.batch=16");
    o.option("--batch", "N", &batch_, "rows computed together").range(1, 1 << 20);
    o.option("--context", "N", &context_, "tokens of a row: of the prompt, or trained on")
        .range(1, 1 << 24)
        .otherwise("512, or what the model has room for");
    o.option("--rank", "R", &rank_,
             "of the adapters of --mode lora and qlora, on every linear layer of the blocks")
        .range(1, 1 << 16)
        .otherwise("16");
    o.option("--dtype", "TYPE", &dtype_, "of the computation")
        .one_of({"f32", "bf16"})
        .otherwise("f32; of a checkpoint, its own");
    pack_.declare(o);
    step_.declare(o);
    o.option("--memory", "AMOUNT", &memory_, "of a machine with so much memory, as in 16GB")
        .otherwise("this machine");
    o.option("--chip", "NAME", &chip_,
             "of a machine with this chip, as in \"M4 Max\" or \"M2 Max 64GB\"");
  }

  // What is planned for: a budget, and how fast its memory is read.
  struct Machine {
    std::string name;
    plan::Budget budget;
    double bandwidth = 0;
  };
  Machine machine(bool measured) const {
    if (memory_ && chip_)
      throw Error(Kind::usage,
                  "[fit] --memory and --chip exclude each other: a chip has its memory");
    if (chip_) {
      const auto chip = plan::find_chip(*chip_);
      return {chip.name, plan::budget_of(chip), chip.bandwidth};
    }
    if (memory_) return {*memory_, memory_budget(amount("fit", *memory_)), 0};
    return {"this machine", machine_budget(), measured ? measure_rates().read : 0};
  }

  std::string mode() const { return mode_.value_or("generate"); }

  plan::Settings settings(const config::Model& config) const {
    plan::Settings s;
    s.mode = *enum_value<plan::Mode>(mode());
    s.batch = batch_, s.accumulate = step_.accumulate;
    const auto* learned = std::get_if<config::Learned>(&config.position);
    const bool generate = s.mode == plan::Mode::generate;
    s.context = context_.value_or(usual_length(config, !generate));
    if (learned && s.context > learned->length)
      throw Error(Kind::usage, "[fit] the model has " + std::to_string(learned->length) +
                                   " learned positions: --context " + std::to_string(s.context) +
                                   " does not fit. Give at most " +
                                   std::to_string(learned->length) + ".");
    s.bf16 = dtype_ == "bf16";
    const auto packing = pack_.packing();
    s.bits = pack_.bits, s.group_size = packing.group_size;
    s.embedding_bits = packing.embedding_bits;
    s.kv_bits = cache_bits(pack_.kv_bits);
    s.state_bits = step_.bits();
    s.factored = step_.optimizer == "adafactor";
    s.checkpointing = step_.checkpointing;
    if (generate) step_.expect_none("fit");
    pack_.check("fit", !generate, "--mode generate");
    check_kv_bits("fit", pack_.kv_bits, config);
    if (rank_ && !s.adapts())
      throw Error(Kind::usage, "[fit] --rank is of adapters: it goes with --mode lora or qlora.");
    s.rank = rank_.value_or(s.rank);
    if (s.factored && s.state_bits == 8)
      throw Error(Kind::usage,
                  "[fit] Adafactor's state is small already: --state-bits 8 goes with adamw");
    return s;
  }

  int run(Context& context) override {
    if (table_ && model_)
      throw Error(Kind::usage, "[fit] --table is of all chips: it goes without MODEL");
    if (!model_) {
      step_.expect_none("fit");
      if (mode() != "generate" || pack_.any() || rank_ || !dtype_.empty())
        throw Error(Kind::usage,
                    "[fit] without MODEL every use is answered: --mode, --dtype, --bits and the "
                    "like need one");
      return table_ ? print_table(context) : print_largest(context);
    }
    if (model_->ends_with(".toml")) return plan_recipe(context);
    if (!set_.empty())
      throw Error(Kind::usage, "[fit] --set changes a recipe, and " + *model_ + " is none");
    const auto place = find_model(*model_, context);
    Subject subject{read_config(place, context), weights_of(place), dtype_argument(dtype_)};
    subject.adapters = place.adapters;
    subject.stop = context.stop;
    subject.bits = pack_.bits;
    const auto s = settings(subject.config);
    // Data of a run: two batches at least, as `bench` has.
    if (s.mode != plan::Mode::generate)
      subject.held = sizeof(int32_t) * StepArguments::tokens(s.batch, s.context);
    const auto m = machine(true);
    const int64_t bytes = subject.weights.empty() ? 0 : file_bytes(subject.weights);
    const auto plan = plan::make_plan(
        s, m.budget, [&](const plan::Settings& t) { return measure_way(subject, bytes, t); },
        StepArguments::words, smaller_presets(subject, s, m.budget),
        [&](const plan::Settings& t) { return roughly(subject, t); });
    const auto read = plan.parts.read + plan.parts.kv_cache;
    const double bound = s.mode == plan::Mode::generate && m.bandwidth > 0
                             ? plan::decode_bound(read, m.bandwidth) * s.batch
                             : 0;
    return show(context, plan, subject.config, bound, m.name);
  }

  // A run's own settings, batches and texts.
  int plan_recipe(Context& context) {
    step_.expect_none("fit");
    if (mode_ || context_ || rank_ || batch_ != 1 || pack_.any() || !dtype_.empty())
      throw Error(
          Kind::usage,
          "[fit] a recipe says how it is run: --mode, --batch, --context, --rank, --dtype, --bits "
          "and the like do not go with it. Change its keys with --set.");
    const auto toml = read_file(*model_);
    auto recipe = read_recipe(toml, *model_, set_);
    make_local(recipe, context);
    auto parts = resolve_run(recipe);
    if (recipe.objective.kind == ObjectiveKind::grpo)
      parts.subject = align::grpo_subject(parts, recipe);
    Subject subject{.config = parts.config,
                    .training = {recipe.optimizer, recipe.schedule, recipe.run}};
    subject.trains = parts.subject, subject.held = parts.data.bytes();
    subject.stop = context.stop;
    const auto s = training_settings(subject.training, subject.trains);
    const auto m = machine(false);
    auto plan = plan::make_plan(
        s, m.budget, [&](const plan::Settings& t) { return measure(subject, t); },
        training_words(subject.trains, recipe_words(toml, *model_, set_)),
        smaller_presets(subject, s, m.budget),
        [&](const plan::Settings& t) { return roughly(subject, t); });
    offer_fewer_texts(plan, subject);
    return show(context, plan, subject.config, 0, m.name);
  }

  int show(Context& context, const plan::Plan& plan, const config::Model& config, double bound,
           const std::string& machine) const {
    const auto& s = plan.settings;
    if (context.json) {
      auto advice = Json::array();
      for (const auto& a : plan.advice)
        advice.push_back(Json::object({{"change", Json(a.change)},
                                       {"options", Json(a.options)},
                                       {"cost", Json(a.cost)},
                                       {"peak_bytes", Json(a.peak)}}));
      context.print_json(
          Json::object({{"fits", Json(plan.fits())},
                        {"mode", Json(enum_name(s.mode))},
                        {"batch", Json(s.batch)},
                        {"context", Json(s.context)},
                        {"rank", s.adapts() ? Json(s.rank) : Json()},
                        {"peak_bytes", Json(plan.parts.peak())},
                        {"resident_bytes", Json(resident_bytes(config, plan.parts))},
                        {"parts", to_json(plan.parts)},
                        {"budget_bytes", Json(plan.budget.bytes)},
                        {"budget", Json(plan.budget.reason)},
                        {"advice", advice},
                        {"decode_tokens_per_s_bound", bound > 0 ? Json(bound) : Json()}}));
      return plan.fits() ? 0 : exit_code(Kind::resource);
    }
    if (s.adapts()) context.print("adapters of rank " + std::to_string(s.rank) + "\n");
    context.print(plan::report(plan));
    if (bound > 0)
      context.print("the memory of " + machine + " allows " + rate_text(bound) + " tokens/s\n");
    return plan.fits() ? 0 : exit_code(Kind::resource);
  }

  int print_table(Context& context) {
    std::vector<std::vector<std::string>> rows{{"chip", "memory", "GB/s", "usable", "16 bits",
                                                "4 bits", "rule", "tokens/s 16", "tokens/s 4"}};
    auto json = Json::array();
    for (const auto& chip : plan::chips()) {
      const auto budget = plan::budget_of(chip);
      const auto half = plan::largest_that_fits(budget, 16),
                 four = plan::largest_that_fits(budget, 4);
      const auto said = plan::rule_of_thumb(chip.memory);
      const double t16 = plan::decode_bound(half.read, chip.bandwidth),
                   t4 = plan::decode_bound(four.read, chip.bandwidth);
      const auto billions = [](int64_t n) { return std::to_string(n / 1'000'000'000); };
      const auto rule = billions(said.sixteen_bits) + "/" + billions(said.four_bits) + " B";
      rows.push_back({chip.name + (chip.discrete ? " (a card)" : ""),
                      std::to_string(chip.memory >> 30) + " GB", rate_text(chip.bandwidth / 1e9),
                      human_bytes(double(budget.bytes)), human_count(double(half.parameters)),
                      human_count(double(four.parameters)), rule, rate_text(t16), rate_text(t4)});
      json.push_back(Json::object({{"chip", Json(chip.name)},
                                   {"memory_bytes", Json(chip.memory)},
                                   {"bytes_per_s", Json(chip.bandwidth)},
                                   {"discrete", Json(chip.discrete)},
                                   {"budget_bytes", Json(budget.bytes)},
                                   {"parameters_16_bits", Json(half.parameters)},
                                   {"parameters_4_bits", Json(four.parameters)},
                                   {"rule_16_bits", Json(said.sixteen_bits)},
                                   {"rule_4_bits", Json(said.four_bits)},
                                   {"tokens_per_s_16_bits", Json(t16)},
                                   {"tokens_per_s_4_bits", Json(t4)}}));
    }
    if (context.json) {
      context.print_json(Json::object({{"chips", json}}));
      return 0;
    }
    context.print(table_text(rows));
    context.print(
        "\n16 bits, 4 bits: parameters of the largest model of Llama 3's proportions that "
        "generates in\n"
        "what is usable, with scales, 4,096 positions of keys and values and activations. rule:\n"
        "what goes round, 2 bytes or half a byte a weight over nearly all memory: an upper\n"
        "bound, which leaves no room for anything else.\n"
        "tokens/s: at most, each token reading the weights and half the cache once.\n");
    return 0;
  }

  // The largest presets for each use.
  int print_largest(Context& context) {
    const auto m = machine(false);
    struct Use {
      const char* name;
      plan::Mode mode;
      std::optional<int> bits;
      bool bf16;
    };
    const Use uses[] = {{"chat, 16 bits", plan::Mode::generate, std::nullopt, true},
                        {"chat, 4 bits", plan::Mode::generate, 4, true},
                        {"LoRA", plan::Mode::lora, std::nullopt, true},
                        {"QLoRA", plan::Mode::qlora, std::nullopt, true},
                        {"train", plan::Mode::train, std::nullopt, false}};
    std::vector<std::pair<int64_t, std::string>> all;
    for (size_t i = 0; i < config::presets().size(); ++i)
      all.emplace_back(config::preset_parameters()[i], config::presets()[i].name);
    std::sort(all.rbegin(), all.rend());
    auto json = Json::array();
    std::vector<std::vector<std::string>> rows{{"use", "largest preset", "parameters", "peak"}};
    for (const auto& use : uses) {
      std::vector<std::string> row{use.name, "none", "", ""};
      Json found;
      for (const auto& [n, name] : all) {
        if (n / 2 > m.budget.bytes) continue;  // of four bits each
        Subject subject{
            config::preset(name), {}, use.bf16 ? std::optional(DType::bf16) : std::nullopt};
        subject.stop = context.stop;
        plan::Settings s;
        s.mode = use.mode, s.bits = use.bits, s.bf16 = use.bf16, s.batch = batch_;
        const auto* learned = std::get_if<config::Learned>(&subject.config.position);
        s.context = std::min(context_.value_or(512), learned ? learned->length : 1 << 24);
        // Arithmetic first: most are far too large.
        if (!plan::may_fit(subject.config, s, m.budget)) continue;
        const auto parts = measure(subject, s);
        if (parts.peak() > m.budget.bytes) continue;
        row = {use.name, name, human_count(double(n)), human_bytes(double(parts.peak()))};
        found = Json::object(
            {{"preset", Json(name)}, {"parameters", Json(n)}, {"peak_bytes", Json(parts.peak())}});
        break;
      }
      rows.push_back(row);
      json.push_back(Json::object({{"use", Json(use.name)}, {"largest", found}}));
    }
    if (context.json) {
      context.print_json(Json::object({{"budget_bytes", Json(m.budget.bytes)},
                                       {"budget", Json(m.budget.reason)},
                                       {"uses", json}}));
      return 0;
    }
    context.print(m.name + ": " + human_bytes(double(m.budget.bytes)) + ", " + m.budget.reason +
                  "\n\n" + table_text(rows));
    return 0;
  }
};

}  // namespace

Command* make_fit() {
  return new Fit;
}

}  // namespace lmxlab::cli
