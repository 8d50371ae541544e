#include "lmxlab/training/trainer.h"

#include "lmxlab/base/random.h"
#include "lmxlab/config/count.h"
#include "lmxlab/config/presets.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/kernels/fused.h"
#include "lmxlab/kernels/memory.h"
#include "lmxlab/training/loss.h"
#include "lmxlab/training/step.h"
#include "tests/support/memory_map.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <algorithm>
#include <cmath>
#include <iostream>

namespace lmxlab {
namespace {

config::Model tiny() {
  return config::preset("llama-tiny",
                        {.dim = 16, .heads = 2, .kv_heads = 1, .hidden = 24, .vocab = 11});
}
// A sequence that can be learned: each token is a function of the one before, with some noise.
mx::array tokens(int n) {
  HostRandom random(3);
  std::vector<int32_t> ids{0};
  while (static_cast<int>(ids.size()) < n)
    ids.push_back(random.below(10) == 0 ? static_cast<int32_t>(random.below(11))
                                        : (ids.back() * 3 + 1) % 11);
  return mx::array(ids.data(), {n}, mx::int32);
}
TrainOptions options(int64_t steps) {
  TrainOptions o;
  o.optimizer.lr = 1e-2;
  o.run.steps = steps, o.run.batch = 4, o.run.context = 8, o.run.eval_every = 0, o.run.seed = 5;
  return o;
}
std::vector<std::vector<float>> weights(LanguageModel& model) {
  const Enter enter(model.runtime());
  std::vector<std::vector<float>> out;
  for (const auto& e : core::collect(model.transformer()))
    out.push_back(to_vector<float>(e.param->value));
  return out;
}
data::Batch batch_of(const mx::array& ids, int rows, int length, int from) {
  const auto view = [&](int shift) {
    return mx::contiguous(
        mx::as_strided(ids, {rows, length}, {length, 1}, static_cast<size_t>(from + shift)));
  };
  return {view(0), view(1)};
}

// Two ways of the same sums differ by rounding; that the losses stay together over many steps says
// that no gradient is wrong.
TEST(Trainer, KernelsAndOrdinaryOpsLoseAlike) {
  for (const char* family : {"gpt-tiny", "llama-tiny"}) {
    const auto config = config::preset(family, {.dim = 32, .heads = 4, .hidden = 48, .vocab = 11});
    const auto losses = [&](bool fused) {
      kernels::set_fused(fused);
      LanguageModel model(config, 1);
      const Enter enter(model.runtime());
      TrainStep step(model.transformer(), {}, {});
      auto state = step.initial(1);
      const auto ids = tokens(200 * 96 + 1);
      std::vector<float> out;
      for (int i = 0; i < 200; ++i)
        out.push_back(step(state, {batch_of(ids, 4, 24, i * 96)}, 1e-3f, i + 1).loss.item<float>());
      kernels::set_fused(true);
      return out;
    };
    const auto ours = losses(true), plain = losses(false);
    EXPECT_LT(ours.back(), 0.7f * ours.front()) << family;
    // A step's rounding, 1e-7 of the weights, grows while the loss falls.
    for (size_t i = 0; i < ours.size(); ++i)
      ASSERT_NEAR(ours[i], plain[i], 1e-6f + 2e-6f * static_cast<float>(i)) << family << " " << i;
  }
}

TEST(Trainer, Learns) {
  LanguageModel model(tiny(), 1);
  Trainer trainer(model, tokens(4000), tokens(400), options(150));
  const double before = *trainer.validate();
  const auto result = trainer.run();
  EXPECT_EQ(result.steps, 150);
  EXPECT_NEAR(before, std::log(11.0), 0.2);
  EXPECT_LT(*result.val_loss, 1.0);
  EXPECT_EQ(result.tokens, 150 * 4 * 8);
}

TEST(Trainer, SameSeedSameBits) {
  const auto run = [](uint32_t seed) {
    LanguageModel model(tiny(), 1);
    auto o = options(20);
    o.run.seed = seed;
    Trainer(model, tokens(1000), tokens(0), o).run();
    return weights(model);
  };
  EXPECT_EQ(run(5), run(5));
  EXPECT_NE(run(5), run(6));
}

TEST(Trainer, ValidationWeighsTokensAndLeavesNoneOut) {
  LanguageModel model(tiny(), 1);
  const auto held = tokens(90);  // 11 windows of 8: not a multiple of the batch
  Trainer trainer(model, tokens(1000), held, options(1));
  const double got = *trainer.validate(0);
  const Enter enter(model.runtime());
  const auto b = batch_of(held, 11, 8, 0);
  const double want =
      static_cast<double>(mx::mean(token_nll(model.forward(b.inputs), b.targets)).item<float>());
  EXPECT_NEAR(got, want, 8 * 1.2e-7 * want * 11);
}

TEST(Trainer, ValidationDoesNotDisturbTraining) {
  const auto run = [](int64_t eval_every) {
    auto config = tiny();
    config.dropout = 0.2f;
    LanguageModel model(config, 1);
    auto o = options(12);
    o.run.eval_every = eval_every;
    Trainer(model, tokens(1000), tokens(100), o).run();
    return weights(model);
  };
  EXPECT_EQ(run(0), run(3));
}

TEST(Trainer, DropoutIsOffInValidationAndFreshInEachStep) {
  auto config = tiny();
  config.dropout = 0.5f;
  LanguageModel model(config, 1);
  Trainer trainer(model, tokens(1000), tokens(100), options(1));
  EXPECT_EQ(*trainer.validate(), *trainer.validate());
  TrainStep step(model.transformer(), {}, {.dropout = 0.5f});
  const Enter enter(model.runtime());
  auto state = step.initial(1);
  const auto batch = batch_of(tokens(100), 4, 8, 0);
  const float a = step(state, {batch}, 0, 1).loss.item<float>(),
              b = step(state, {batch}, 0, 2).loss.item<float>();
  EXPECT_NE(a, b) << "two steps used the same mask";
}

// Tied and untied heads, with bias, scale and softcap: the loss and its gradients are those of the
// logits; a quantized head falls back to them.
TEST(Loss, FromHiddenStatesEqualsThatFromLogits) {
  for (const bool tied : {true, false}) {
    for (const std::optional<float> cap : {std::optional<float>{}, std::optional(2.0f)}) {
      auto config = tiny();
      config.tie_head = tied, config.head_bias = !tied, config.logit_softcap = cap;
      config.logit_scale = tied ? 3 : 1;
      LanguageModel model(config, 1);
      const Enter enter(model.runtime());
      const auto& transformer = model.transformer();
      const auto entries = core::collect(model.transformer());
      const auto batch = batch_of(tokens(200), 3, 8, 0);
      const auto grads = [&](bool logits) {
        const auto loss = [&](const core::Arrays& p) -> core::Arrays {
          const core::Lend lend(entries, p);
          core::Pass pass;
          const auto nll = logits ? token_nll(transformer(batch.inputs, pass), batch.targets)
                                  : token_nll(transformer, batch.inputs, batch.targets, pass);
          return {mx::sum(nll)};
        };
        std::vector<int> all(entries.size());
        for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int>(i);
        auto [value, out] = mx::value_and_grad(loss, all)(core::values(entries));
        out.push_back(value[0]);
        return out;
      };
      const auto a = grads(false), b = grads(true);
      for (size_t i = 0; i < a.size(); ++i) {
        const float worst = mx::max(mx::abs(mx::subtract(a[i], b[i]))).item<float>();
        const float size = mx::max(mx::abs(b[i])).item<float>();
        // Rounding errors on the way back grow with the sizes of the other gradients.
        EXPECT_LE(worst, 64 * 1.2e-7f * std::max(size, 1.0f)) << i;
      }
    }
  }
  auto config = tiny();
  config.dim = 64, config.tie_head = false;
  LanguageModel model(config, 1);
  const Enter enter(model.runtime());
  const auto batch = batch_of(tokens(200), 3, 8, 0);
  auto& transformer = model.transformer();
  transformer.lm_head->weight.quantize(32, 8);
  core::Pass pass, other;
  const auto nll = token_nll(transformer, batch.inputs, batch.targets, pass);
  const auto want = token_nll(transformer(batch.inputs, other), batch.targets);
  EXPECT_TRUE(mx::array_equal(nll, want).item<bool>());
}

TEST(Step, AccumulationEqualsOneLargeBatch) {
  const auto ids = tokens(200);
  const auto run = [&](bool split) {
    LanguageModel model(tiny(), 1);
    const Enter enter(model.runtime());
    TrainStep step(model.transformer(), {}, {});
    auto state = step.initial(1);
    for (int i = 0; i < 3; ++i) {
      if (split)
        step(state, {batch_of(ids, 2, 8, 0), batch_of(ids, 4, 8, 16)}, 1e-3f, i + 1);
      else
        step(state, {batch_of(ids, 6, 8, 0)}, 1e-3f, i + 1);
    }
    return state.params;
  };
  const auto a = run(false), b = run(true);
  for (size_t i = 0; i < a.size(); ++i) {
    const double worst =
        static_cast<double>(mx::max(mx::abs(mx::subtract(a[i], b[i]))).item<float>());
    // AdamW's first steps have the size of the rate whatever the gradient; rounding may turn a tiny
    // gradient.
    EXPECT_LE(worst, 3e-3 * 0.02) << i;
  }
}

TEST(Step, ThatIsNotFiniteChangesNothing) {
  const auto ids = tokens(200);
  const auto batch = batch_of(ids, 2, 8, 0), more = batch_of(ids, 4, 8, 16);
  for (const auto name : {OptimizerName::adamw, OptimizerName::sgd, OptimizerName::lion,
                          OptimizerName::adafactor, OptimizerName::muon}) {
    for (const bool split : {false, true}) {
      SCOPED_TRACE(std::string(enum_name(name)) + (split ? ", two batches" : ""));
      LanguageModel model(tiny(), 1);
      const Enter enter(model.runtime());
      OptimizerConfig optimizer;
      optimizer.name = name;
      if (name == OptimizerName::sgd) optimizer.momentum = 0.9;
      TrainStep step(model.transformer(), optimizer, {});
      auto state = step.initial(1);
      const auto batches = split ? std::vector{batch, more} : std::vector{batch};
      step(state, batches, 1e-3f, 1);
      const auto copies = [&] {
        std::vector<std::vector<float>> out;
        for (const auto* all : {&state.params, &state.optimizer})
          for (const auto& a : *all) out.push_back(to_vector<float>(a));
        return out;
      };
      const auto before = copies();
      const auto good = state.params.back();
      state.params.back() = mx::full(good.shape(), 3e38f);  // what the head multiplies overflows
      EXPECT_FALSE(std::isfinite(step(state, batches, 1e-3f, 2).grad_norm.item<float>()));
      state.params.back() = good;
      EXPECT_EQ(copies(), before);
      EXPECT_TRUE(std::isfinite(step(state, batches, 1e-3f, 2).grad_norm.item<float>()));
      EXPECT_NE(copies(), before);
    }
  }
}

TEST(Trainer, Bf16ComputesInHalfAndKeepsFloatMasters) {
  const auto run = [](ComputeType dtype) {
    LanguageModel model(tiny(), 1);
    auto o = options(60);
    o.run.dtype = dtype;
    const auto result = Trainer(model, tokens(4000), tokens(400), o).run();
    EXPECT_EQ(model.dtype(), DType::f32);
    return *result.val_loss;
  };
  const double f32 = run(ComputeType::f32), bf16 = run(ComputeType::bf16);
  EXPECT_NE(f32, bf16);
  EXPECT_NEAR(f32, bf16, 0.1 * f32);
}

TEST(Trainer, FrozenWeightsStayAndHaveNoOptimizerState) {
  LanguageModel model(tiny(), 1);
  for (auto& e : core::collect(model.transformer()))
    if (e.path.find("mlp") == std::string::npos) e.param->trainable = false;
  const auto before = weights(model);
  Trainer trainer(model, tokens(1000), tokens(0), options(5));
  trainer.run();
  const auto after = weights(model);
  size_t trainable = 0, i = 0;
  for (const auto& e : core::collect(model.transformer())) {
    EXPECT_EQ(before[i] == after[i], !e.param->trainable) << e.path;
    trainable += e.param->trainable, ++i;
  }
  EXPECT_EQ(trainer.state_arrays().size(), 2 * trainable + 1);  // two moments each, and the key
}

// Peak and live bytes of 2,000 steps are those of 20; the resident set is that of 200.
// (Activations above 64 KiB: below that a buffer is taken without waiting for the stream, and
// whether MLX could use an old one again is a matter of timing.)
TEST(Trainer, MemoryDoesNotGrow) {
  LanguageModel model(config::preset("llama-tiny", {.vocab = 65}), 1);
  auto o = options(2000);
  o.run.batch = 8, o.run.context = 40;
  Trainer trainer(model, tokens(4000), tokens(0), o);
  int64_t peak_20 = 0, active_20 = 0;
  std::vector<int64_t> resident;  // behind every 200th step
  trainer.add(every(1, [&](Trainer&, StepMetrics& m) {
    if (m.step == 20) peak_20 = m.peak_bytes, active_20 = m.active_bytes;
    if (m.step > 20) {
      ASSERT_EQ(m.active_bytes, active_20) << "at step " << m.step;
    }
#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    // Without the blocks that are kept for reuse, of which a process may hold 24 MB.
    if (m.step % 200 == 0) {
      kernels::clear_cache();
      resident.push_back(static_cast<int64_t>(test::resident_bytes()));
    }
#endif
  }));
  const auto result = trainer.run();
  EXPECT_EQ(result.peak_bytes, peak_20);
  std::cout << active_20 << " bytes, peak " << peak_20 << ", resident";
  for (const auto bytes : resident) std::cout << ' ' << bytes;
  std::cout << "\n";
#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  // Which blocks share a page is a matter of timing: now and then some pages more stay or go. What
  // every step leaks grows in every stretch.
  std::vector<int64_t> growth;
  for (size_t i = 1; i < resident.size(); ++i) growth.push_back(resident[i] - resident[i - 1]);
  ASSERT_EQ(growth.size(), 9u);
  std::nth_element(growth.begin(), growth.begin() + 4, growth.end());
  EXPECT_LE(growth[4], 64 << 10) << "the median of the stretches";
#endif
}

TEST(Trainer, StopsEarly) {
  LanguageModel model(tiny(), 1);
  auto o = options(1000);
  o.optimizer.lr = 0;  // nothing gets better
  o.run.eval_every = 2, o.run.patience = 3;
  const auto result = Trainer(model, tokens(1000), tokens(100), o).run();
  EXPECT_EQ(result.steps, 8);
  EXPECT_NE(result.stopped.find("3 validations"), std::string::npos) << result.stopped;
}

TEST(Trainer, ObeysItsBudgets) {
  LanguageModel model(tiny(), 1);
  auto o = options(1000);
  const double step = 3 * config::flops_per_token(tiny(), 8) * 4 * 8;
  o.run.flop_budget = 7.5 * step;
  const auto by_flops = Trainer(model, tokens(1000), tokens(0), o).run();
  EXPECT_EQ(by_flops.steps, 7);
  o.run.flop_budget = 0, o.run.steps = 1'000'000, o.run.time_budget = 0.3;
  const auto by_time = Trainer(model, tokens(1000), tokens(0), o).run();
  EXPECT_LT(by_time.steps, 1'000'000);
  EXPECT_NE(by_time.stopped.find("time"), std::string::npos);
}

TEST(Trainer, TheScheduleEndsWithTheBudget) {
  const auto rates = [](TrainOptions o) {
    LanguageModel model(tiny(), 1);
    Trainer trainer(model, tokens(1000), tokens(0), o);
    std::vector<double> out;
    trainer.add(every(1, [&](Trainer&, StepMetrics& m) { out.push_back(m.lr); }));
    trainer.run();
    return out;
  };
  auto o = options(7);
  const auto by_steps = rates(o);
  o.run.steps = 1000;
  o.run.flop_budget = 7.5 * 3 * config::flops_per_token(tiny(), 8) * 4 * 8;
  EXPECT_EQ(rates(o), by_steps);
  o.run.flop_budget = 0, o.run.time_budget = 0.5;
  const auto by_time = rates(o);
  ASSERT_GT(by_time.size(), 10u);
  EXPECT_LT(by_time.back(), 0.1 * o.optimizer.lr) << "nearly all of the cosine";
  EXPECT_GT(by_time[by_time.size() / 4], 0.5 * o.optimizer.lr);
}

TEST(Trainer, ABudgetCountsWhatAResumedRunHasSpent) {
  LanguageModel model(tiny(), 1);
  auto o = options(4);
  Trainer first(model, tokens(1000), tokens(0), o);
  first.run();
  const double step = first.state().flops / 4;
  o.run.steps = 100;
  for (const auto& [budget, steps] : {std::pair{7.5, 7}, std::pair{4.0, 4}}) {
    o.run.flop_budget = budget * step;
    Trainer second(model, tokens(1000), tokens(0), o);
    second.restore(first.state_arrays(), first.state());
    const auto result = second.run();
    EXPECT_EQ(result.steps, steps);
    EXPECT_FALSE(result.stopped.empty());
  }
}

TEST(Trainer, AStopTokenEndsItBetweenTwoSteps) {
  LanguageModel model(tiny(), 1);
  std::stop_source source;
  Trainer trainer(model, tokens(1000), tokens(0), options(1000));
  trainer.add(every(5, [&](Trainer&, StepMetrics&) { source.request_stop(); }));
  const auto result = trainer.run(source.get_token());
  EXPECT_EQ(result.steps, 5);
  EXPECT_EQ(result.stopped, "canceled");
}

TEST(Trainer, SaysWhereANumberStopsBeingFinite) {
  LanguageModel model(tiny(), 1);
  Trainer trainer(model, tokens(1000), tokens(0), options(100));
  std::vector<std::vector<float>> before;
  // A weight so large that the products of layer 1's FFN overflow.
  trainer.add(every(3, [&](Trainer& t, StepMetrics&) {
    auto arrays = t.state_arrays();
    const auto state = t.state();
    for (auto& e : core::collect(t.model().transformer()))
      if (e.path == "model.layers.1.mlp.up_proj.weight") {
        e.param->value = mx::full(e.param->value.shape(), 3e38f);
        mx::eval(e.param->value);
      }
    before = weights(t.model());
    t.restore(arrays, state);
  }));
  try {
    trainer.run();
    FAIL();
  } catch (const Error& e) {
    const std::string text = e.what();
    EXPECT_NE(text.find("step 4"), std::string::npos) << text;
    EXPECT_NE(text.find("layers.1.ffn"), std::string::npos) << text;
  }
  EXPECT_EQ(weights(model), before) << "the step changed the weights";
}

TEST(Trainer, RefusesWhatCannotWork) {
  const auto refused = [](Kind kind, const std::function<void()>& f) {
    try {
      f();
      ADD_FAILURE() << "accepted";
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), kind) << e.what();
    }
  };
  LanguageModel model(tiny(), 1);
  refused(Kind::usage, [&] { Trainer(model, tokens(20), tokens(0), options(1)); });
  const int32_t wild[] = {1, 2, 99, 4};
  refused(Kind::mismatch, [&] {
    Trainer(model, mx::concatenate({tokens(100), mx::array(wild, {4}, mx::int32)}), tokens(0),
            options(1));
  });
  LanguageModel learned(config::preset("gpt-tiny", {.vocab = 11, .context = 6}), 1);
  refused(Kind::usage, [&] { Trainer(learned, tokens(1000), tokens(0), options(1)); });
  for (auto& e : core::collect(model.transformer())) e.param->trainable = false;
  refused(Kind::usage, [&] { Trainer(model, tokens(1000), tokens(0), options(1)); });
}

}  // namespace
}  // namespace lmxlab
