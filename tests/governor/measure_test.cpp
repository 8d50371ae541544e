#include "lmxlab/governor/measure.h"
#include "lmxlab/governor/govern.h"

#include "lmxlab/config/presets.h"
#include "lmxlab/kernels/memory.h"
#include "lmxlab/plan/closed.h"

#include <gtest/gtest.h>
#include <mlx/array.h>

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

TEST(Measure, ClosedFormsAgreeWhereTheyAreExact) {
  for (const char* name : {"gpt-shakespeare", "llama-10m"}) {
    const auto config = config::preset(name);
    const auto o = training(2, 64);
    const auto s = settings_of(o);
    const auto rehearsed = measure({.config = config, .training = o}, s);
    const auto closed = plan::estimate(config, s, 4);
    EXPECT_EQ(rehearsed.weights, closed.weights) << name;
    EXPECT_EQ(rehearsed.optimizer, closed.optimizer) << name;
    EXPECT_NEAR(double(closed.peak()), double(rehearsed.peak()), 0.25 * double(rehearsed.peak()))
        << name << ": activations are estimated";
    plan::Settings g;
    g.context = 64;
    const auto drawn = measure({.config = config}, g), estimated = plan::estimate(config, g, 4);
    EXPECT_EQ(drawn.weights, estimated.weights) << name;
    EXPECT_EQ(drawn.kv_cache, estimated.kv_cache) << name;
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
  EXPECT_EQ(govern_training(config, o, 0, with, &plan), "a smaller batch with accumulation");
  EXPECT_TRUE(plan.fits());
  EXPECT_EQ(o.run.batch * o.run.accumulate, 16);
  EXPECT_LE(measure({.config = config, .training = o}, settings_of(o)).peak(), need / 2);
}

TEST(Govern, GenerationOfASmallModelIsNotRehearsed) {
  GenerateOptions options;
  const auto config = config::preset("gpt-tiny");
  EXPECT_EQ(govern_generation({.config = config}, 366'592, 1, 10, options), "");
  const GovernOptions none{{1000, "next to nothing"}};
  EXPECT_THROW(govern_generation({.config = config}, 366'592, 1, 10, options, none), Error);
  EXPECT_THROW(govern_quantization(config, 366'592, {.bits = 4}, none), Error);
  EXPECT_GT(machine_budget().bytes, 0);
}

}  // namespace
}  // namespace lmxlab
