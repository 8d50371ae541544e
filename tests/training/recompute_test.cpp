#include "lmxlab/core/recompute.h"

#include "lmxlab/base/random.h"
#include "lmxlab/config/presets.h"
#include "lmxlab/core/custom.h"
#include "lmxlab/core/init.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/kernels/fused.h"
#include "lmxlab/kernels/memory.h"
#include "lmxlab/models/language_model.h"
#include "lmxlab/training/loss.h"
#include "lmxlab/training/step.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <cmath>
#include <iostream>

namespace lmxlab {
namespace {

using config::Wiring;

// Four: of many positions, the input of the second is not kept, the others' are.
config::Model model_of(Wiring wiring, float dropout = 0) {
  auto c = config::preset(
      "gpt-tiny", {.depth = 4, .dim = 32, .heads = 4, .hidden = 48, .vocab = 11, .context = 4096});
  c.dropout = dropout;
  for (auto& b : c.layers) b.wiring = wiring;
  return c;
}
data::Batch batch_of(int rows, int length, uint32_t seed = 3) {
  HostRandom random(seed);
  std::vector<int32_t> ids;
  for (int i = 0; i <= rows * length; ++i) ids.push_back(static_cast<int32_t>(random.below(11)));
  const auto view = [&](int from) {
    return mx::array(ids.data() + from, {rows, length}, mx::int32);
  };
  return {view(0), view(1)};
}

struct Gradients {
  std::vector<core::Entry> entries;
  core::Arrays values;  // the loss, then one an entry
};
Gradients gradients(core::Transformer& model, const data::Batch& batch, bool recompute,
                    float dropout, mx::Dtype compute, bool compiled) {
  Gradients out{core::collect_trainable(model), {}};
  std::vector<int> all;
  for (size_t i = 0; i < out.entries.size(); ++i) all.push_back(static_cast<int>(i));
  const std::function<core::Arrays(const core::Arrays&)> both = [&](const core::Arrays& in) {
    const auto loss = [&](const core::Arrays& p) -> core::Arrays {
      const core::Lend lend(out.entries, p);
      core::Pass pass;
      pass.dtype = compute, pass.dropout = dropout, pass.key = mx::random::key(7);
      pass.recompute = recompute;
      return {mx::sum(token_nll(model, batch.inputs, batch.targets, pass))};
    };
    auto [value, grads] = mx::value_and_grad(loss, all)(in);
    grads.insert(grads.begin(), value[0]);
    return grads;
  };
  const auto weights = core::values(out.entries);
  out.values = compiled ? mx::compile(both)(weights) : both(weights);
  mx::eval(out.values);
  return out;
}

// Differences in units of the last place of the largest number of each array.
struct Worst {
  double units = 0;
  std::string where;
};
// @param without_noise  leaves out what is zero but for rounding: softmax does not see what all
// keys share.
Worst compare(const Gradients& a, const Gradients& b, bool without_noise = false) {
  Worst worst{0, "nothing"};
  for (size_t i = 0; i < a.values.size(); ++i) {
    if (i > 0 && without_noise && a.entries[i - 1].path.ends_with("k_proj.bias")) continue;
    const auto x = to_vector<float>(mx::astype(a.values[i], mx::float32)),
               y = to_vector<float>(mx::astype(b.values[i], mx::float32));
    float most = 0;
    for (const float v : x) most = std::max(most, std::abs(v));
    const double unit = static_cast<double>(std::nextafter(most, INFINITY)) - most;
    for (size_t j = 0; j < x.size(); ++j) {
      const double off = std::abs(static_cast<double>(x[j]) - y[j]) / unit;
      if (off > worst.units)
        worst = {off, (i ? a.entries[i - 1].path : "the loss") + "[" + std::to_string(j) +
                          "]: " + std::to_string(x[j]) + " and " + std::to_string(y[j])};
    }
    if (i > 0 && most == 0) worst = {INFINITY, a.entries[i - 1].path + " has no gradient"};
  }
  return worst;
}

constexpr Wiring kWirings[] = {Wiring::pre,      Wiring::post, Wiring::branch, Wiring::sandwich,
                               Wiring::parallel, Wiring::twin, Wiring::chain};

// Each parameter's gradient is there (one that was captured would be 0), and the same to the bit.
TEST(Recompute, GradientsAreTheSame) {
  for (const Wiring wiring : kWirings)
    for (const float dropout : {0.0f, 0.2f})
      for (const auto type : {mx::float32, mx::bfloat16})
        for (const bool compiled : {false, true}) {
          core::Transformer model(model_of(wiring, dropout), 1);
          const auto batch = batch_of(3, 40);
          const auto kept = gradients(model, batch, false, dropout, type, compiled);
          const auto again = gradients(model, batch, true, dropout, type, compiled);
          const auto worst = compare(kept, again);
          EXPECT_EQ(worst.units, 0)
              << worst.where << " (wiring " << static_cast<int>(wiring) << ", dropout " << dropout
              << (type == mx::bfloat16 ? ", bf16" : "") << (compiled ? ", compiled)" : ")");
        }
}

// The trap: a weight that is captured and not given gets zeros, without an error.
TEST(Recompute, AParameterLeftOutWouldHaveNoGradient) {
  core::Param weight{mx::array({2.0f, 3.0f})};
  const auto x = mx::array({5.0f, 7.0f}, {1, 1, 2});
  const auto gradient = [&](const std::vector<core::Entry>& given) {
    const auto f = [&](const core::Arrays& in) -> core::Arrays {
      const std::vector<core::Entry> all{{"weight", &weight}};
      const core::Lend lend(all, in);
      core::Pass pass;
      const core::Stage stage = [&](const core::Arrays& a, core::Pass&) -> core::Arrays {
        return {a[0] * weight.value};
      };
      return {mx::sum(core::recomputed(stage, given, {x}, pass)[0])};
    };
    return to_vector<float>(mx::value_and_grad(f, std::vector<int>{0})({weight.value}).second[0]);
  };
  EXPECT_EQ(gradient({{"weight", &weight}}), (std::vector<float>{5, 7}));
  EXPECT_EQ(gradient({}), (std::vector<float>{0, 0}));
}

// Longer than a lot: sums over positions are rounded once a lot, so weights' gradients differ by
// half a unit times the root of their number; dropout's masks are those of the whole.
TEST(Recompute, LotsOfPositions) {
  for (const Wiring wiring : kWirings)
    for (const float dropout : {0.0f, 0.2f}) {
      core::Transformer model(model_of(wiring, dropout), 1);
      const auto batch = batch_of(2, 1300);
      const auto kept = gradients(model, batch, false, dropout, mx::float32, true);
      const auto again = gradients(model, batch, true, dropout, mx::float32, true);
      const auto worst = compare(kept, again, true);
      std::cout << "wiring " << static_cast<int>(wiring) << ", dropout " << dropout << ": "
                << worst.units << " units at " << worst.where << '\n';
      EXPECT_LE(worst.units, std::sqrt(2 * 1300) / 2);
    }
}

// So many that every other block's input is not kept.
TEST(Recompute, ManyPositions) {
  auto config = model_of(Wiring::pre, 0.2f);
  for (auto& b : config.layers) std::get<config::Attention>(b.mixer).window = 16;
  core::Transformer model(config, 1);
  const auto batch = batch_of(5, 3500);
  const auto worst = compare(gradients(model, batch, false, 0.2f, mx::float32, true),
                             gradients(model, batch, true, 0.2f, mx::float32, true), true);
  std::cout << worst.units << " units at " << worst.where << '\n';
  EXPECT_LE(worst.units, std::sqrt(5 * 3500) / 2);
}

TEST(Recompute, OrdinaryOps) {
  kernels::set_fused(false);
  for (const float dropout : {0.0f, 0.2f}) {
    core::Transformer model(model_of(Wiring::pre, dropout), 1);
    const auto batch = batch_of(2, 700);
    const auto worst = compare(gradients(model, batch, false, dropout, mx::float32, false),
                               gradients(model, batch, true, dropout, mx::float32, false), true);
    EXPECT_LE(worst.units, std::sqrt(2 * 700) / 2) << worst.where;
  }
  kernels::set_fused(true);
}

struct Shift : core::Ffn {  // in another type, with a parameter that is frozen and one that is not
  explicit Shift(int dim)
      : by{mx::full({dim}, 0.5f, mx::float32)}, factor{mx::full({dim}, 2.0f, mx::float32), false} {}
  mx::array operator()(const mx::array& x, core::Pass& pass) const override {
    return pass.drop(mx::tanh(mx::astype(x, mx::float32) * factor.value + by.value));
  }
  void visit(core::Visitor& v) override { v("by", by), v("factor", factor); }
  core::Param by, factor;
};

TEST(Recompute, PartsOfTheUsersOwnAndFrozenOnes) {
  core::register_ffn(
      "shift", [](const Json&, const core::Build& b) { return std::make_unique<Shift>(b.dim); });
  for (const Wiring wiring : kWirings) {
    auto config = model_of(wiring, 0.1f);
    config.layers[1].ffn = config::Custom{"shift"};
    config.layers[2].mixer = config::Nothing{};
    core::Transformer model(config, 1);
    int at = 0;
    for (auto& e : core::collect(model))
      if (++at % 4 == 0) e.param->trainable = false;
    for (const auto type : {mx::float32, mx::bfloat16}) {
      const auto batch = batch_of(3, 40);
      const auto worst = compare(gradients(model, batch, false, 0.1f, type, true),
                                 gradients(model, batch, true, 0.1f, type, true));
      EXPECT_EQ(worst.units, 0) << worst.where << " (wiring " << static_cast<int>(wiring) << ")";
    }
  }
}

// The whole step: moments hold the gradients, so they tell them apart.
TEST(Recompute, StepsAreTheSame) {
  for (const bool compiled : {true, false})
    for (const int batches : {1, 3}) {
      const auto run = [&](bool recompute) {
        core::Transformer model(model_of(Wiring::pre, 0.1f), 1);
        TrainStep step(
            model, {},
            {.dropout = 0.1f, .compiled = compiled, .gradient_checkpointing = recompute});
        auto state = step.initial(5);
        std::vector<std::vector<float>> out;
        for (int i = 1; i <= 3; ++i) {
          std::vector<data::Batch> group;
          for (int b = 0; b < batches; ++b)
            group.push_back(batch_of(2, 24, static_cast<uint32_t>(i * 10 + b)));
          out.push_back({step(state, group, 1e-2f, i).loss.item<float>()});
        }
        for (const auto* arrays : {&state.params, &state.optimizer})
          for (const auto& a : *arrays) out.push_back(to_vector<float>(a));
        return out;
      };
      EXPECT_EQ(run(true), run(false)) << batches << (compiled ? " compiled" : "");
    }
}

TEST(Recompute, TakesLessMemory) {
  const auto peak = [](bool recompute) {
    auto config = config::preset("gpt-tiny",
                                 {.depth = 6, .dim = 64, .heads = 4, .vocab = 11, .context = 4096});
    core::Transformer model(config, 1);
    TrainStep step(model, {}, {.gradient_checkpointing = recompute});
    auto state = step.initial(5);
    step(state, {batch_of(1, 4096)}, 1e-3f, 1);
    kernels::reset_peak();
    step(state, {batch_of(1, 4096)}, 1e-3f, 2);
    return kernels::peak_bytes();
  };
  const auto kept = peak(false), again = peak(true);
  std::cout << kept << " bytes, " << again << " with blocks computed again\n";
  if (kernels::own_allocator()) {
    EXPECT_LT(again * 2, kept);
  }
}

}  // namespace
}  // namespace lmxlab
