#include "lmxlab/governor/measure.h"
#include "lmxlab/governor/govern.h"

#include "lmxlab/base/files.h"
#include "lmxlab/config/presets.h"
#include "lmxlab/inference/mtp_draft.h"
#include "lmxlab/kernels/memory.h"
#include "lmxlab/models/quantize.h"
#include "lmxlab/plan/closed.h"
#include "lmxlab/plan/words.h"
#include "lmxlab/training/run.h"

#include "tests/support/bases.h"
#include "tests/support/error_of.h"
#include "tests/support/temp_folder.h"

#include <gtest/gtest.h>
#include <mlx/array.h>

#include <cstring>
#include <vector>

namespace lmxlab {
namespace {

TrainOptions training(int batch, int context) {
  TrainOptions o;
  o.run.batch = batch, o.run.context = context, o.run.steps = 2, o.run.eval_every = 0;
  return o;
}

plan::Settings settings_of(const TrainOptions& o) {
  plan::Settings s;
  s.mode = plan::Mode::train, s.batch = o.run.batch, s.context = o.run.context;
  s.accumulate = o.run.accumulate, s.checkpointing = o.run.gradient_checkpointing;
  s.state_bits = o.optimizer.state_bits, s.bf16 = o.run.dtype == ComputeType::bf16;
  return s;
}

TEST(Measure, TrainingIsWhatATrainerTakes) {
  // The second with a vocabulary whose logits and their products are the peak.
  const auto gpt = config::preset("gpt-shakespeare");
  const auto llama = config::llama(
      {.depth = 2, .dim = 256, .heads = 4, .hidden = 896, .vocab = 2000, .context = 64});
  const auto compare = [](const config::Model& config, int batch, int context, bool checkpointing,
                          int bits) {
    auto o = training(batch, context);
    o.run.gradient_checkpointing = checkpointing, o.optimizer.state_bits = bits;
    const auto planned = measure({.config = config, .training = o}, settings_of(o));
    LanguageModel model(config);
    std::vector<int32_t> ids(4096, 1);
    const mx::array tokens(ids.begin(), {4096}, mx::int32), none(ids.begin(), {0}, mx::int32);
    Trainer trainer(model, tokens, none, o);
    const auto measured = trainer.run().peak_bytes - int64_t{4096} * 4;
    EXPECT_NEAR(double(planned.peak()), double(measured), 0.01 * double(measured))
        << config.family << (checkpointing ? ", checkpointing, " : ", ") << bits << " bits";
  };
  for (const bool checkpointing : {false, true})
    for (const int bits : {32, 8}) compare(gpt, 4, 128, checkpointing, bits);
  compare(llama, 8, 64, false, 32);
}

// Adapters beside dense, mapped and packed weights, packed rows of samples, pairs with a reference.
TEST(Measure, FineTuningIsWhatARunTakes) {
  const test::TemporaryFolder folder;
  const auto config = config::llama({.depth = 4,
                                     .dim = 256,
                                     .heads = 4,
                                     .kv_heads = 2,
                                     .hidden = 640,
                                     .vocab = 2000,
                                     .context = 128});
  test::save_bases(folder.path(), config);
  std::string samples, pairs;
  for (int i = 0; i < 60; ++i) {
    const std::string text(size_t(5 + i % 40), 'a');
    samples += R"({"prompt": "x", "completion": ")" + text + "\"}\n";
    pairs += R"({"prompt": "x", "chosen": ")" + text + R"(", "rejected": "b"})" + "\n";
  }
  write_file_atomic(folder / "samples.jsonl", samples);
  write_file_atomic(folder / "pairs.jsonl", pairs);
  const auto file = [&](const char* name) { return "data.file=" + (folder / name).string(); };
  struct Case {
    std::string name, base;
    std::vector<std::string> settings;
  };
  int n = 0;
  for (const auto& c : std::vector<Case>{
           {"lora", "dense", {"adapter.rank=8"}},
           {"qlora", "packed", {"adapter.rank=8"}},
           {"dora, checkpointing",
            "packed",
            {"adapter.dora=true", "run.gradient_checkpointing=true"}},
           {"some layers", "dense", {"optimizer.only=[\"model.layers.3.*\"]"}},
           {"an average", "packed", {"adapter.rank=8", "optimizer.ema=0.9"}},
           {"a teacher that ran",
            "dense",
            {file("samples.jsonl"), "objective.kind=distill",
             "objective.teacher=" + (folder / "packed").string(), "objective.top_k=32"}},
           {"samples", "packed", {file("samples.jsonl"), "objective.kind=sft", "adapter.rank=4"}},
           {"pairs", "dense", {file("pairs.jsonl"), "objective.kind=dpo", "adapter.rank=4"}}}) {
    std::vector<std::string> all{"model.preset=" + (folder / c.base).string(),
                                 "run.out=" + (folder / ("run" + std::to_string(n++))).string(),
                                 "run.steps=3",
                                 "run.batch=4",
                                 "run.context=128",
                                 "run.eval_every=0",
                                 "data.validation=0"};
    all.insert(all.end(), c.settings.begin(), c.settings.end());
    int64_t planned = 0;
    RunHooks hooks;
    hooks.plan = [&](const RunParts& parts, Recipe& recipe, bool) {
      TrainOptions o{.optimizer = recipe.optimizer, .schedule = recipe.schedule, .run = recipe.run};
      const auto plan =
          measure({.config = parts.config, .training = o, .trains = parts.subject}, settings_of(o));
      planned = plan.arrays();
      EXPECT_GT(plan.mapped, 0) << c.name;
      return plan.peak();
    };
    kernels::clear_cache();
    const auto held = int64_t(kernels::active_bytes());
    const auto result = train_run(read_recipe("", "recipe", all), hooks);
    // The text of a run is held beside it: here the built-in one, four bytes a token.
    const auto text = c.settings[0].starts_with("data.file") ? 0 : 4 * 1115394;
    const auto measured = result.train.peak_bytes - held - text;
    EXPECT_NEAR(double(planned), double(measured), 0.03 * double(measured)) << c.name;
  }
}

TEST(Measure, ManyBatchesAreKnownFromAFew) {
  const auto config = config::preset("llama-tiny");
  // Of as many tokens, beyond what is rehearsed: more rows, and more batches that are added up.
  const auto at = [&](int batch, int accumulate, bool checkpointing) {
    auto o = training(batch, 64);
    o.run.accumulate = accumulate, o.run.gradient_checkpointing = checkpointing;
    return double(measure({.config = config, .training = o}, settings_of(o)).peak());
  };
  for (const bool checkpointing : {false, true}) {
    const double many = at(2048, 1, checkpointing), twice = at(4096, 1, checkpointing);
    EXPECT_NEAR(twice / many, 2, 0.02) << checkpointing;
    EXPECT_GT(at(4097, 1, checkpointing), twice) << checkpointing;
  }
  const double more = at(2, 5, false) - at(2, 4, false);
  EXPECT_EQ(at(2, 4, false) - at(2, 3, false), more);
  EXPECT_EQ(at(2, 100'000, false), at(2, 4, false) + 99'996 * more);
}

TEST(Measure, SizesThatCannotBeBuiltAreFarTooLarge) {
  // 2^31 rows of a matrix and more.
  auto o = training(1 << 20, 4096);
  const auto parts =
      measure({.config = config::preset("llama-tiny"), .training = o}, settings_of(o));
  EXPECT_GT(parts.peak(), int64_t{1} << 40);
}

TEST(Measure, APlanCanBeInterrupted) {
  std::stop_source stop;
  stop.request_stop();
  const auto o = training(1, 16);
  Subject subject{.config = config::preset("llama-tiny"), .training = o};
  subject.stop = stop.get_token();
  EXPECT_EQ(test::error_of([&] { measure(subject, settings_of(o)); }).kind(), Kind::canceled);
  // While ways out are looked for too, where other errors only mean that one is none.
  const auto planning = test::error_of([&] {
    const auto measured = [&](const plan::Settings& s) {
      return s == settings_of(o) ? plan::Parts{.weights = 1} : measure(subject, s);
    };
    plan::make_plan(settings_of(o), {}, measured, plan::recipe_words);
  });
  EXPECT_EQ(planning.kind(), Kind::canceled);
}

TEST(Measure, ClosedFormsAgreeWhereTheyAreExact) {
  for (const char* name : {"gpt-shakespeare", "llama-10m"}) {
    const auto config = config::preset(name);
    const auto o = training(2, 64);
    const auto s = settings_of(o);
    const auto rehearsed = measure({.config = config, .training = o}, s);
    const auto closed = plan::estimate(config, s, 4);
    EXPECT_EQ(rehearsed.weights, closed.weights) << name;
    EXPECT_EQ(rehearsed.optimizer, closed.optimizer) << name;
    EXPECT_NEAR(double(closed.peak()), double(rehearsed.peak()), 0.05 * double(rehearsed.peak()))
        << name << ": activations are estimated";
    plan::Settings g;
    g.context = 64;
    const auto drawn = measure({.config = config}, g), estimated = plan::estimate(config, g, 4);
    EXPECT_EQ(drawn.weights, estimated.weights) << name;
    EXPECT_EQ(drawn.kv_cache, estimated.kv_cache) << name;
  }
}

// Of eight experts each token meets two: one row 2, three rows 8 (1 - (3/4)^3) = 4.625.
TEST(Measure, OfExpertsAStepReadsThoseThatItsTokensMeet) {
  constexpr int kDim = 64, kVocab = 96, kHidden = 32, kShared = 64, kLayers = 2;
  auto config = config::llama({.depth = kLayers,
                               .dim = kDim,
                               .heads = 4,
                               .kv_heads = 2,
                               .hidden = 64,
                               .vocab = kVocab,
                               .context = 64});
  config.tie_head = false, config.family = "custom";
  for (auto& b : config.layers)
    b.ffn = config::Moe{.experts = 8, .top_k = 2, .hidden = kHidden, .shared = kShared};
  const int64_t attention = kDim * (64 + 32 + 32) + 64 * kDim, router = 8 * kDim;
  const int64_t shared = 3 * kDim * kShared, norms = 2 * kDim, expert = 3 * kDim * kHidden;
  const auto by_hand = [&](double experts) {
    const auto block = double(attention + router + shared + norms) + experts * double(expert);
    return 4 * (kLayers * block + kDim + kVocab * kDim);  // the last norm, the head
  };
  LanguageModel model(config);
  for (const auto& [rows, experts] : {std::pair{1, 2.0}, {3, 4.625}}) {
    plan::Settings s;
    s.batch = rows, s.context = 16;
    const auto expected = by_hand(experts);
    EXPECT_NEAR(double(measure({.config = config}, s).read), expected, kLayers) << rows;
    EXPECT_NEAR(double(model.bytes_read(rows)), expected, kLayers) << rows;
    EXPECT_NEAR(double(plan::estimate(config, s, 4).read), expected, kLayers) << rows;
    s.bits = 4, s.group_size = 32;
    const auto packed = double(measure({.config = config}, s).read);
    EXPECT_NEAR(double(plan::estimate(config, s, 4).read), packed, 0.01 * packed) << rows;
    EXPECT_LT(packed, 0.3 * expected) << rows;
  }
  // Tables of which rows are looked up are not read, a tied one is the head; heads stay out.
  auto tied = config;
  tied.tie_head = true;
  tied.mtp_heads.assign(1, config::mtp_block(tied));
  EXPECT_NEAR(double(LanguageModel(tied).bytes_read(1)), by_hand(2), kLayers);
  EXPECT_NEAR(double(plan::estimate(tied, {.context = 16}, 4).read), by_hand(2), kLayers);
}

// A file of tensors: the length of its header in eight bytes, the header, the numbers.
int64_t tensor_bytes(const std::filesystem::path& file) {
  const auto text = read_file(file);
  uint64_t header = 0;
  std::memcpy(&header, text.data(), sizeof header);
  return int64_t(text.size()) - int64_t(sizeof header) - int64_t(header);
}

// The real ratio of 4 bits to float32: scales, offsets, and norms and biases that stay.
TEST(Measure, PackedWeightsAreAsSmallAsThePlanSaid) {
  const test::TemporaryFolder folder;
  struct Case {
    config::Model config;
    int group, embedding_bits;
    double ratio;  // of a matrix alone: (bits + two float32 a group) / 32
  };
  const auto llama = [](bool tied) {
    return config::llama({.depth = 2,
                          .dim = 256,
                          .heads = 4,
                          .kv_heads = 2,
                          .hidden = 640,
                          .vocab = 1000,
                          .context = 128,
                          .tie_head = tied});
  };
  const auto gpt = config::gpt({.depth = 2, .dim = 128, .heads = 2, .vocab = 500, .context = 64});
  auto moe = llama(false);
  for (auto& b : moe.layers)
    b.ffn = config::Moe{.experts = 5, .hidden = 128, .latent = 192, .shared = 64};
  moe.family = "moe";
  int n = 0;
  for (const Case& c : {Case{moe, 64, 0, 5.0 / 32}, Case{llama(true), 64, 0, 5.0 / 32},
                        Case{llama(false), 64, 0, 5.0 / 32}, Case{llama(true), 128, 0, 4.5 / 32},
                        Case{llama(false), 128, 0, 4.5 / 32}, Case{llama(true), 32, 8, 6.0 / 32},
                        Case{llama(false), 32, 8, 6.0 / 32}, Case{gpt, 64, 0, 5.0 / 32}}) {
    SCOPED_TRACE(c.config.family + ", groups of " + std::to_string(c.group) +
                 (c.config.tie_head ? ", tied" : ""));
    LanguageModel model(c.config);
    const auto whole = model.parameter_bytes();
    EXPECT_EQ(whole, plan::weight_bytes(c.config, 4));
    quantize_model(model, {.bits = 4, .group_size = c.group, .embedding_bits = c.embedding_bits});
    const auto packed = model.parameter_bytes();
    EXPECT_EQ(packed, plan::weight_bytes(c.config, 4, 4, c.group, c.embedding_bits));
    plan::Settings s;
    s.context = 16, s.bits = 4, s.group_size = c.group, s.embedding_bits = c.embedding_bits;
    EXPECT_EQ(measure({.config = c.config}, s).weights, packed);
    EXPECT_GT(double(packed) / double(whole), c.ratio) << "norms are not packed";
    // An embedding of more bits is half of these models; learned positions stay as they are.
    const double most = c.embedding_bits ? 1.5 : c.config.family == "gpt" ? 1.2 : 1.07;
    EXPECT_LT(double(packed) / double(whole), most * c.ratio);
    if (c.config.family == "gpt") continue;  // GPT-2's layout holds no packed weights
    const auto place = folder / std::to_string(n++);
    model.save(place);
    EXPECT_EQ(tensor_bytes(place / "model.safetensors"), packed);
    // Read again they lie in the file.
    const auto mapped = measure({.config = c.config, .weights = place}, {.context = 16});
    EXPECT_EQ(mapped.weights, packed);
    EXPECT_EQ(mapped.mapped, packed);
    EXPECT_EQ(mapped.arrays() + packed, mapped.peak());
  }
}

// So that no advice names a way out that a command refuses.
TEST(Measure, StatesAreNoKeysThatCanBePacked) {
  EXPECT_THROW(measure({.config = config::preset("mamba-tiny")}, {.context = 16, .kv_bits = 8}),
               Error);
}

// A packed product of rows that do not lie together copies them first, beside its workspace.
TEST(Measure, CopiesOfStridedRowsAreThereWithTheWorkspace) {
  const auto config = config::preset("rwkv-tiny");
  constexpr int kRows = 3, kPrompt = 300;
  plan::Settings s;
  s.batch = kRows, s.context = kPrompt, s.bits = 4;
  const auto planned = measure({.config = config}, s);
  LanguageModel model(config);
  quantize_model(model, {.bits = 4});
  interleave_model(model);
  evaluate_weights(model);
  kernels::clear_cache();
  const auto before = int64_t(kernels::active_bytes()) - model.parameter_bytes();
  kernels::reset_peak();
  std::vector<std::vector<int>> prompts;  // the same one would be read once
  for (int r = 0; r < kRows; ++r) prompts.emplace_back(kPrompt, r);
  TokenStream stream(model, prompts,
                     {.sampling = {.temperature = 0}, .max_tokens = 128, .ignore_eos = true});
  while (stream.next()) {
  }
  const auto measured = double(int64_t(kernels::peak_bytes()) - before);
  EXPECT_NEAR(double(planned.peak()), measured, 0.01 * measured);
}

// What speculative decoding takes: both models, both caches, the pass over what is drafted.
TEST(Measure, ADraftModelCountsAsItIs) {
  auto config = config::preset("gpt-shakespeare"), small = config;
  small.layers.resize(2);
  constexpr int kPrompt = 60, kNew = 50, kDrafted = 6;
  plan::Settings s;
  s.context = kPrompt;
  Subject subject{.config = config};
  subject.new_tokens = kNew;
  const auto alone = measure(subject, s);
  subject.drafts = true, subject.num_draft_tokens = kDrafted, subject.draft = small;
  const auto planned = measure(subject, s);

  LanguageModel model(config), other(small);
  const auto before = int64_t(kernels::active_bytes());
  evaluate_weights(model), evaluate_weights(other);
  DraftModel draft(other, model);
  GenerateOptions options{.sampling = {.temperature = 0}, .max_tokens = kNew, .draft = &draft};
  options.num_draft_tokens = kDrafted;
  GenerateStats stats;
  generate(model, std::vector<int>(kPrompt, 1), options, nullptr, &stats);
  ASSERT_GT(stats.draft_tokens, 0);
  const auto measured = double(stats.peak_bytes - before);
  EXPECT_EQ(planned.weights, model.parameter_bytes() + other.parameter_bytes());
  EXPECT_GT(planned.kv_cache, alone.kv_cache);
  EXPECT_NEAR(double(planned.peak()), measured, 0.03 * measured);
  EXPECT_LT(double(alone.peak()), 0.8 * measured) << "it would show if it were left out";

  GovernOptions with{{(alone.peak() + planned.peak()) / 2, "room for one"}};
  options.draft = nullptr;
  Subject one = subject;
  one.draft.reset(), one.drafts = false;
  EXPECT_NO_THROW(govern_generation(one, model.parameter_bytes(), 1, kPrompt, options, with));
  EXPECT_THROW(govern_generation(subject, planned.weights, 1, kPrompt, options, with), Error);
}

// Heads draft with the model's embedding and output head: no second copy.
TEST(Measure, HeadsCountAsTheyAre) {
  auto config = config::preset("gpt-shakespeare");
  config.mtp_heads.assign(2, config::mtp_block(config));
  constexpr int kPrompt = 60, kNew = 50;
  for (const int drafted : {1, 6}) {
    plan::Settings s;
    s.context = kPrompt;
    Subject subject{.config = config};
    subject.new_tokens = kNew;
    const auto alone = measure(subject, s);
    subject.drafts = subject.own_heads = true, subject.num_draft_tokens = drafted;
    const auto planned = measure(subject, s);

    LanguageModel model(config);
    const auto before = int64_t(kernels::active_bytes());
    evaluate_weights(model);
    MtpDraft draft(model);
    GenerateOptions options{.sampling = {.temperature = 0}, .max_tokens = kNew, .draft = &draft};
    options.num_draft_tokens = drafted;
    GenerateStats stats;
    generate(model, std::vector<int>(kPrompt, 1), options, nullptr, &stats);
    ASSERT_GT(stats.draft_tokens, 0);
    const auto measured = double(stats.peak_bytes - before);
    EXPECT_EQ(planned.weights, model.parameter_bytes());
    EXPECT_EQ(planned.weights, alone.weights);
    EXPECT_GT(planned.kv_cache, alone.kv_cache);
    EXPECT_NEAR(double(planned.peak()), measured, 0.03 * measured) << drafted;
  }
}

// An adapter's weights, and what it makes beside those of the layer.
TEST(Measure, AnAdapterCountsAsItIs) {
  const test::TemporaryFolder folder;
  test::save_bases(
      folder.path(),
      config::llama(
          {.depth = 3, .dim = 128, .heads = 4, .hidden = 384, .vocab = 500, .context = 256}));
  constexpr int kPrompt = 100, kNew = 40;
  for (const char* base : {"dense", "packed"}) {
    auto model = LanguageModel::load(folder / base);
    attach_adapter(model, {.rank = 32});
    const auto adapter = folder / (std::string("adapter of ") + base);
    save_adapter(model, "default", adapter);
    plan::Settings s;
    s.batch = 2, s.context = kPrompt;
    Subject subject{.config = model.config(), .weights = folder / base};
    subject.new_tokens = kNew;
    const auto alone = measure(subject, s);
    subject.adapters = {{adapter}};
    const auto planned = measure(subject, s);

    kernels::clear_cache();
    model = LanguageModel::load(folder / base);
    load_adapters(model, subject.adapters);
    const auto before = int64_t(kernels::active_bytes());
    evaluate_weights(model);
    kernels::reset_peak();
    const GenerateOptions options{
        .sampling = {.temperature = 0}, .max_tokens = kNew, .ignore_eos = true};
    generate_batch(model, {std::vector<int>(kPrompt, 1), std::vector<int>(kPrompt, 2)}, options);
    const auto measured = double(int64_t(kernels::peak_bytes()) - before);
    EXPECT_GT(planned.weights, alone.weights) << base;
    EXPECT_NEAR(double(planned.arrays()), measured, 0.01 * measured) << base;
    EXPECT_GT(double(planned.arrays()), 1.05 * double(alone.arrays())) << base << ": it would show";
  }
}

TEST(Govern, WhatDoesNotFitIsRefusedAndTheFirstAdviceWorks) {
  const auto config = config::preset("gpt-shakespeare");
  auto o = training(16, 256);
  const auto need = measure({.config = config, .training = o}, settings_of(o)).peak();
  GovernOptions with{{need / 2, "half of it"}};
  const size_t before = kernels::active_bytes();
  try {
    govern_training(config, o, 0, with);
    FAIL() << "it does not fit";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), Kind::resource);
    for (const char* part : {"half of it", "1) a smaller batch with accumulation", "run.accumulate",
                             "gradient checkpointing"})
      EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << part << ": " << e.what();
  }
  EXPECT_EQ(kernels::active_bytes(), before) << "nothing was allocated";
  with.auto_fit = true;
  plan::Plan plan;
  EXPECT_TRUE(govern_training(config, o, 0, with, &plan)
                  .starts_with("a smaller batch with accumulation, --set run.batch="));
  EXPECT_TRUE(plan.fits());
  EXPECT_EQ(o.run.batch * o.run.accumulate, 16);
  EXPECT_LE(measure({.config = config, .training = o}, settings_of(o)).peak(), need / 2);
}

// What changes results is taken last, and taken where nothing else helps.
TEST(Govern, AdafactorAndAShorterContextAreApplied) {
  const auto config = config::preset("gpt-shakespeare");
  auto asked = training(1, 256);
  asked.optimizer.betas = {0.9, 0.95}, asked.optimizer.lr = 5e-4;
  const auto peak = [&](auto&& change) {
    auto s = settings_of(asked);
    s.checkpointing = true;
    change(s);
    return measure({.config = config, .training = asked}, s).peak();
  };
  const auto eight = peak([](auto&s) { s.state_bits = 8; }),
             factored = peak([](auto&s) { s.factored = true; }),
             shorter = peak([](auto&s) { s.factored = true, s.context = 128; });
  ASSERT_LT(factored, eight);
  ASSERT_LT(shorter, factored);
  GovernOptions with{{factored, "so much"}};
  with.auto_fit = true;
  auto o = asked;
  EXPECT_NE(govern_training(config, o, 0, with).find("--set optimizer.name=adafactor ("),
            std::string::npos);
  EXPECT_EQ(o.optimizer.name, OptimizerName::adafactor);
  EXPECT_EQ(o.optimizer.lr, 5e-4);
  EXPECT_EQ(o.run.context, 256);
  EXPECT_NO_THROW(with_defaults(o.optimizer)) << "no option is left that it does not use";

  with.budget.bytes = factored - 1;
  o = asked;
  EXPECT_NE(govern_training(config, o, 0, with).find("--set run.context="), std::string::npos);
  EXPECT_LT(o.run.context, 256);
  EXPECT_LE(measure({.config = config, .training = o}, training_settings(o)).peak(), factored - 1);

  with.fixed = true;
  o = asked;
  const auto e = test::error_of([&] { govern_training(config, o, 0, with); });
  EXPECT_NE(std::string(e.what()).find("Nothing known here"), std::string::npos) << e.what();
}

TEST(Govern, SmallerModelsAreOfTheFamilyAndMayFit) {
  const plan::Settings chat{.bits = 4};
  const auto names = smaller_presets({.config = config::preset("qwen3-32b")}, chat,
                                     {int64_t{6'000'000'000}, "six"})();
  ASSERT_FALSE(names.empty());
  EXPECT_EQ(names.front(), "qwen3-8b") << "14 billion of four bits are more than six";
  EXPECT_EQ(names.back(), "qwen3-tiny");
  for (const auto& name : names) EXPECT_EQ(config::preset(name).family, "qwen3") << name;
  auto own = config::preset("gpt-10m");
  own.family = "custom";
  const auto others = smaller_presets({.config = own}, chat, {int64_t{6'000'000'000}, "six"})();
  EXPECT_EQ(others.front(), "gpt-10m-lmxlab");
}

TEST(Govern, GenerationOfASmallModelIsNotRehearsed) {
  GenerateOptions options;
  const auto config = config::preset("gpt-tiny");
  EXPECT_EQ(govern_generation({.config = config}, 366'592, 1, 10, options), "");
  const GovernOptions none{{1000, "next to nothing"}};
  EXPECT_THROW(govern_generation({.config = config}, 366'592, 1, 10, options, none), Error);
  EXPECT_GT(machine_budget().bytes, 0);
}

TEST(Govern, PackingTakesWhatIsPlanned) {
  const auto config = config::preset("gpt-10m");
  const std::vector<QuantizeOptions> all{
      {.bits = 4},
      {.bits = 3, .group_size = 32, .embedding_bits = 8},
      {.bits = 8, .layers = {{"*.down_proj", 0}, {"*.up_proj", 6}}},
      {.mode = QuantMode::mxfp4},
      {.mode = QuantMode::mxfp8},
      {.mode = QuantMode::nvfp4, .embedding_bits = 6}};
  for (const auto& how : all) {
    LanguageModel model(config, 1);
    const auto planned = packed_bytes(model, how);
    const size_t before = kernels::active_bytes();
    kernels::reset_peak();
    quantize_model(model, how);
    const auto what = std::string(enum_name(how.mode)) + ", " + std::to_string(how.bits);
    EXPECT_EQ(planned.packed + planned.left, model.parameter_bytes()) << what;
    EXPECT_LE(int64_t(kernels::peak_bytes() - before), planned.packed + planned.left + planned.work)
        << what;
  }
}

TEST(Govern, QuantizingWithFewerBits) {
  LanguageModel model(config::preset("gpt-10m"), 1);
  const auto peak = [&](QuantizeOptions how) {
    const auto b = packed_bytes(model, how);
    return b.packed + b.left + b.work;
  };
  const auto fit = [&](QuantizeOptions& how, int64_t budget, bool auto_fit = true) {
    GovernOptions with{{budget, "so much"}};
    with.auto_fit = auto_fit;
    return govern_quantization(model, 0, how, with);
  };
  QuantizeOptions how{.bits = 8};
  EXPECT_EQ(fit(how, peak(how)), "");
  EXPECT_EQ(how.bits, 8);
  try {
    fit(how, peak({.bits = 5}), false);
    FAIL() << "it does not fit";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("1) 5 bits, --bits 5: "), std::string::npos) << e.what();
    EXPECT_EQ(how.bits, 8);
  }
  EXPECT_EQ(fit(how, peak({.bits = 5})), "5 bits");
  EXPECT_EQ(how.bits, 5);
  how = {.mode = QuantMode::mxfp8};
  EXPECT_EQ(fit(how, peak({.mode = QuantMode::mxfp4})), "mxfp4");
  EXPECT_EQ(how.mode, QuantMode::mxfp4);
  how = {.mode = QuantMode::mxfp4};
  EXPECT_EQ(fit(how, peak({.bits = 3})), "3 bits");
  EXPECT_EQ(how.mode, QuantMode::affine);
  // The embedding's own bits go last.
  how = {.bits = 4, .embedding_bits = 8};
  EXPECT_EQ(fit(how, peak({.bits = 2, .embedding_bits = 8})), "2 bits");
  EXPECT_EQ(how.embedding_bits, 8);
  how = {.bits = 4, .embedding_bits = 8};
  EXPECT_EQ(fit(how, peak({.bits = 4})), "4 bits, the embedding too");
  EXPECT_EQ(how.embedding_bits, 4);
  how = {.bits = 4};
  EXPECT_THROW(fit(how, 1000), Error) << "nothing that can be applied helps";
  how = {.bits = 4, .layers = {{"none", 8}}};
  EXPECT_THROW(fit(how, peak({.bits = 8})), Error) << "a pattern that fits no layer";
}

TEST(Govern, WeightsThatAreNotHereYet) {
  const auto config = config::preset("llama-7b");
  const int64_t gb = int64_t{1} << 30, bytes = 13 * gb;
  int asked = 0;
  const auto pull = [&](int64_t budget, const std::vector<OtherWeights>& others) -> std::string {
    try {
      govern_pull("org/name", bytes,
                  [&] {
                    ++asked;
                    return std::optional(config);
                  },
                  others, {{budget, "so much"}});
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), Kind::resource);
      return e.what();
    }
    return "";
  };
  EXPECT_EQ(pull(60 * gb, {}), "");
  EXPECT_EQ(asked, 0) << "far below";
  EXPECT_EQ(pull(16 * gb, {}), "");
  EXPECT_EQ(asked, 1);
  const auto none = pull(12 * gb, {{"larger", 14 * gb}, {"too large", 12 * gb}});
  EXPECT_NE(none.find("org/name does not fit"), std::string::npos) << none;
  EXPECT_NE(none.find("Nothing known here"), std::string::npos) << none;
  EXPECT_NE(none.find("pull org/name --no-plan"), std::string::npos) << none;
  EXPECT_EQ(none.find("quantize"), std::string::npos) << "it would need both: " << none;
  const auto some = pull(12 * gb, {{"two", 2 * gb}, {"eight", 8 * gb}, {"four", 4 * gb}});
  EXPECT_NE(some.find("1) a smaller file of the same repository, eight"), std::string::npos)
      << some;
  // Beside keys and values of 8 bits it fits.
  const auto close = pull(bytes + bytes / 40, {});
  EXPECT_NE(close.find("--no-plan, and then"), std::string::npos) << close;
}

}  // namespace
}  // namespace lmxlab
